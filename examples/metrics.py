"""Classification metrics of the examples: through `evaluate`, or scikit-learn where the Hub cannot be reached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from sklearn import metrics as sklearn_metrics
from transformers import EvalPrediction

logger = logging.getLogger(__name__)

# The functions that the Hub's modules of the same name call.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": sklearn_metrics.f1_score,
    "precision": sklearn_metrics.precision_score,
    "recall": sklearn_metrics.recall_score,
    "matthews_correlation": sklearn_metrics.matthews_corrcoef,
}
_AVERAGED = ("f1", "precision", "recall")


def classification_metrics(names: Sequence[str], num_labels: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """
    Build the function that a trainer takes as `compute_metrics`.

    Args:
        names (`Sequence[str]`): Metrics, each a name on the Hub or a local folder or script of the same form.
        num_labels (`int`): Number of classes. With two, F1, precision and recall are those of the class 1; with more,
            their mean over the classes.

    Raises:
        ValueError: A metric can neither be loaded nor replaced.
    """
    metrics = {Path(name).stem: _load(name) for name in names}
    average = {"average": "binary" if num_labels == 2 else "macro"}

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        # Some models return more than their logits.
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        predicted = np.argmax(logits, axis=-1)
        values: dict[str, float] = {}
        for name, metric in metrics.items():
            result = metric(
                predictions=predicted, references=prediction.label_ids, **(average if name in _AVERAGED else {})
            )
            values.update({key: float(value) for key, value in result.items()})
        return values

    return compute


def print_metrics(results: Mapping[str, float], rows: int) -> None:
    """Print what `trainer.evaluate()` returned, without its prefix and without the times."""
    values = {
        name.removeprefix("eval_"): value
        for name, value in results.items()
        if name != "epoch" and not name.endswith(("runtime", "per_second"))
    }
    print(", ".join(f"{name} {value:.4f}" for name, value in values.items()), f"on {rows} rows")


def _load(name: str) -> Callable[..., dict[str, float]]:
    try:
        # Fetches the metric's code and runs it, unless `name` is a local path.
        module = evaluate.load(name)
    except (ConnectionError, FileNotFoundError):
        function = _FUNCTIONS.get(name)
        if function is None:
            raise ValueError(
                f"The metric {name!r} is neither a local path nor to be had from the Hub now. Give the path of its "
                f"folder, or use one that scikit-learn computes as well: {', '.join(_FUNCTIONS)}."
            ) from None
        logger.warning("evaluate.load(%r) did not reach the Hub: scikit-learn computes the metric.", name)
        return lambda predictions, references, **options: {name: function(references, predictions, **options)}
    return lambda predictions, references, **options: module.compute(
        predictions=predictions, references=references, **options
    )
