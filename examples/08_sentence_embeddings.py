r"""
Fine-tunes a sentence encoder on pairs of texts. Needs the extra `sentence-transformers`.

Pairs with a score train with `CoSENTLoss`, pairs without (a question and its answer, say) with
`MultipleNegativesRankingLoss`. The encoder, the results and the history of the choices are written to `--output_dir`.

    python examples/08_sentence_embeddings.py --model sentence-transformers/all-MiniLM-L6-v2 \
        --dataset sentence-transformers/stsb --output_dir runs/stsb --max_steps 300 --per_device_train_batch_size 16
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss
from shares import print_shares
from splits import DataArguments, load_splits
from transformers import HfArgumentParser

from hf_iomt.sentence_transformers import IOMTSentenceTransformerTrainer, IOMTSentenceTransformerTrainingArguments


@dataclass
class ModelArguments:
    """What to train, and how to read the data."""

    model: str = field(metadata={"help": "Hub id or local folder of a sentence encoder."})
    text_columns: list[str] = field(
        default_factory=lambda: ["sentence1", "sentence2"], metadata={"help": "The two columns of texts."}
    )
    score_column: str | None = field(
        default="score",
        metadata={"help": "Column of the similarity, from 0 to 1; 'none' for pairs that belong together."},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, evaluate and print."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It would log every request to the Hub.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    # 1. Arguments: the model's, the data's, and all those of `SentenceTransformerTrainingArguments` and IOMT.
    parser = HfArgumentParser((ModelArguments, DataArguments, IOMTSentenceTransformerTrainingArguments))  # type: ignore[arg-type]
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    scored = model_args.score_column not in (None, "none")

    # 2. Data: the loss reads the columns in their order.
    train, evaluation = load_splits(data_args)
    columns = [*model_args.text_columns, *([model_args.score_column] if scored else [])]
    train, evaluation = train.select_columns(columns), evaluation.select_columns(columns)
    if scored and columns[-1] != "score":
        train, evaluation = (split.rename_column(columns[-1], "score") for split in (train, evaluation))

    # 3. Model and loss.
    model = SentenceTransformer(model_args.model, device="cpu" if training_args.use_cpu else None)
    loss = CoSENTLoss(model) if scored else MultipleNegativesRankingLoss(model)
    evaluator = None
    if scored:
        first, second = (evaluation[column] for column in model_args.text_columns)
        evaluator = EmbeddingSimilarityEvaluator(list(first), list(second), list(evaluation["score"]))

    # 4. Training: `IOMTSentenceTransformerTrainer` in place of `SentenceTransformerTrainer`.
    trainer = IOMTSentenceTransformerTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=evaluation,
        loss=loss,
        evaluator=evaluator,
    )
    before = trainer.evaluate()
    trainer.train()
    trainer.save_model()

    # 5. Results.
    results = trainer.evaluate()
    trainer.save_metrics("eval", results)
    for name in ("eval_loss", "eval_spearman_cosine"):
        if name in results:
            print(f"{name} {before[name]:.4f} before, {results[name]:.4f} after, on {len(evaluation)} pairs")
    print_shares(trainer.iomt_history)


if __name__ == "__main__":
    main()
