"""Algorithm 1: observe what a cycle gave, choose the candidate of the next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .acquisition import gain, variance_weight
from .history import Phase
from .initial_sampling import InitialSampling
from .parameter_state import Compression, compress
from .surrogate import Surrogate

Array = NDArray[np.float64]

# Hyperparameters whose magnitude matters rather than their difference.
_LOGARITHMIC = ("lr", "weight_decay", "eps")
# Scores of a run may all be alike; below this spread their differences are not blown up.
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class SelectorSettings:
    """
    Settings of Algorithm 1; [`IOMTTrainingArguments`] documents each under the same name with the prefix `iomt_`.
    """

    initial_cycles: int = 20
    initial_sampling: Literal["weighted", "uniform"] = "weighted"
    min_weight: float = 0.1
    selection: Literal["surrogate", "random", "cyclical", "commit"] = "surrogate"
    transferability: float = 0.5
    halving_cycles: int = 20
    variance_weight: Literal["text", "printed"] = "text"
    state_compression: Compression = "pca"
    state_components: int = 2
    surrogate_window: int = 64
    advantage: float = 0.0


@dataclass(frozen=True)
class Choice:
    """The candidate of the next cycle, by its index, and why it was chosen."""

    candidate: int
    phase: Phase
    predicted_mean: float | None = None
    predicted_std: float | None = None
    gain: float | None = None


@dataclass(frozen=True)
class _Observation:
    candidate: int
    state: Array
    score: float


class Selector:
    """
    Chooses candidates.

    Args:
        families (`Sequence[str]` of length n): The family of each candidate.
        hyperparameters (`Sequence[Mapping[str, Any]]` of length n): The setting λ of each candidate.
        settings ([`SelectorSettings`]): How to choose.
        seed (`int`): Seed of the selector's own generator.

    Attributes:
        contenders (`list[int]`): Indices of the candidates to choose among, the first trusted most; initially all.
        trusted (`int`): Index of the candidate that has the head start, at first the first.
    """

    def __init__(
        self,
        families: Sequence[str],
        hyperparameters: Sequence[Mapping[str, Any]],
        settings: SelectorSettings,
        seed: int,
    ) -> None:
        self.settings = settings
        self.contenders: list[int] = list(range(len(families)))
        self.trusted = 0
        self._families = list(families)
        self._encoded = encode_hyperparameters(families, hyperparameters)
        self._generator = np.random.default_rng(seed)
        self._seed = seed
        self._sampling = InitialSampling(families, settings.min_weight, settings.initial_sampling)
        self._surrogates = {family: Surrogate(seed) for family in families}
        self._window: deque[_Observation] = deque(maxlen=settings.surrogate_window)
        self._observed = dict.fromkeys(families, 0)
        self._cycles = 0

    def restrict(self, contenders: Sequence[int]) -> None:
        """Choose among these candidates only, from now on."""
        self.contenders = list(contenders)

    def observe(self, candidate: int, state: Array, score: float) -> None:
        """
        Add what a cycle gave.

        Args:
            candidate (`int`): Index of the candidate that was active.
            state (`Array` of shape (d,)): The projected parameter state at the start of the cycle.
            score (`float`): Eq. 2, in [-1, 1].
        """
        family = self._families[candidate]
        self._window.append(_Observation(candidate, np.asarray(state, dtype=np.float64), score))
        self._observed[family] += 1
        if self._cycles <= self.settings.initial_cycles:
            self._sampling.update(family, score)

    def choose(self, state: Array) -> Choice:
        """
        Choose the candidate of the next cycle.

        Args:
            state (`Array` of shape (d,)): The projected parameter state now.
        """
        cycle = self._cycles
        self._cycles += 1
        if self.settings.selection == "cyclical":
            return Choice(self.contenders[cycle % len(self.contenders)], "cyclical")
        if self.settings.selection == "commit":
            return Choice(self.contenders[0], "commit")
        if self.settings.selection == "random":
            return Choice(int(self._generator.choice(self.contenders)), "random")
        if cycle < self.settings.initial_cycles:
            families = [self._families[candidate] for candidate in self.contenders]
            return Choice(self.contenders[self._sampling.draw(families, self._generator)], "initial")
        mean, std = self.predict(state)
        # i counts the cycles that the surrogate decides.
        weight = variance_weight(
            cycle - self.settings.initial_cycles,
            self.settings.halving_cycles,
            self.settings.transferability,
            self.settings.variance_weight,
        )
        gains = gain(mean, std, weight)
        # The sigmoid saturates to equal values for large arguments; its argument decides, which is the same order.
        best = int(np.argmax(mean + weight * std + self._advantages()))
        return Choice(self.contenders[best], "surrogate", float(mean[best]), float(std[best]), float(gains[best]))

    def predict(self, state: Array) -> tuple[Array, Array]:
        """
        Predicted score of each contender from this state.

        Scores are standardised over all families, so that a family without observations is expected to do as the
        others do on average, and is as uncertain as they differ.

        Returns:
            Mean and standard deviation, each of shape (number of contenders,), in units of the score.
        """
        scores = np.array([observation.score for observation in self._window])
        centre = float(scores.mean()) if len(scores) else 0.0
        spread = max(float(scores.std()), _LEAST_SPREAD) if len(scores) > 1 else 1.0
        states = np.stack([observation.state for observation in self._window] + [np.asarray(state, dtype=np.float64)])
        features = compress(states, self.settings.state_compression, self.settings.state_components, self._seed)
        mean, std = np.zeros(len(self.contenders)), np.zeros(len(self.contenders))
        for family in dict.fromkeys(self._families[candidate] for candidate in self.contenders):
            rows = [i for i, item in enumerate(self._window) if self._families[item.candidate] == family]
            inputs = np.array([self._inputs(self._window[i].candidate, features[i]) for i in rows])
            surrogate = self._surrogates[family]
            surrogate.fit(inputs, (scores[rows] - centre) / spread, self._observed[family])
            columns = [i for i, item in enumerate(self.contenders) if self._families[item] == family]
            queries = np.array([self._inputs(self.contenders[i], features[-1]) for i in columns])
            mean[columns], std[columns] = surrogate.predict(queries)
        return centre + spread * mean, spread * std

    def state_dict(self) -> dict[str, Any]:
        """All that later choices depend on, in plain values and tensors."""
        return {
            "contenders": list(self.contenders),
            "generator": self._generator.bit_generator.state,
            "weights": dict(self._sampling.weights),
            "surrogates": {family: surrogate.state_dict() for family, surrogate in self._surrogates.items()},
            "observations": [
                {"candidate": item.candidate, "state": torch.from_numpy(item.state.copy()), "score": float(item.score)}
                for item in self._window
            ],
            "observed": dict(self._observed),
            "cycles": self._cycles,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.contenders = list(state["contenders"])
        self._generator.bit_generator.state = state["generator"]
        self._sampling.weights = dict(state["weights"])
        for family, surrogate in self._surrogates.items():
            surrogate.load_state_dict(state["surrogates"][family])
        self._window.clear()
        for item in state["observations"]:
            self._window.append(_Observation(item["candidate"], item["state"].numpy(), item["score"]))
        self._observed = dict(state["observed"])
        self._cycles = state["cycles"]

    def _advantages(self) -> Array:
        """Head start of the trusted candidate, where it is among the contenders, in units of the score."""
        scores = [observation.score for observation in self._window]
        spread = float(np.std(scores)) if scores else 0.0
        return np.array(
            [self.settings.advantage * spread if index == self.trusted else 0.0 for index in self.contenders]
        )

    def _inputs(self, candidate: int, features: Array) -> Array:
        # A family of one candidate without parameter state still needs one input dimension.
        return np.concatenate([self._encoded[candidate], features, [0.0]])


def encode_hyperparameters(families: Sequence[str], hyperparameters: Sequence[Mapping[str, Any]]) -> list[Array]:
    """
    Map each candidate's λ to numbers in [0, 1] within its family.

    Learning rates, weight decays and ε are taken by their logarithm. What does not differ within the family is left
    out. Returns one array per candidate, of the same length for all candidates of a family.
    """
    encoded: list[Array] = [np.zeros(0) for _ in families]
    for family in dict.fromkeys(families):
        members = [index for index, name in enumerate(families) if name == family]
        flat = [_flatten(hyperparameters[index]) for index in members]
        keys = sorted(set().union(*flat))
        columns = []
        for key in keys:
            missing = _encode(key.partition(".")[0], 0.0)
            values = np.array([item.get(key, missing) for item in flat])
            if np.ptp(values) > 0:
                columns.append((values - values.min()) / np.ptp(values))
        for row, index in enumerate(members):
            encoded[index] = np.array([column[row] for column in columns])
    return encoded


def _flatten(hyperparameters: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in hyperparameters.items():
        for position, item in enumerate(value if isinstance(value, (tuple, list)) else (value,)):
            flat[f"{key}.{position}"] = _encode(key, float(item))
    return flat


def _encode(key: str, value: float) -> float:
    return math.log10(max(value, 1e-12)) if key in _LOGARITHMIC else value
