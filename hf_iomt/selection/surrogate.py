"""The surrogate g_o: a Gaussian process from (λ, v) to the score s, one per family."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

Array = NDArray[np.float64]

# Refitting the kernel's hyperparameters waits until there are this many times as many observations as last time, so
# that the time spent on it stays proportional to the number of cycles.
_REFIT_GROWTH = 1.5
_FIRST_REFIT = 4


@functools.cache
def _threadpools() -> ThreadpoolController:
    # Looking for the loaded BLAS libraries takes milliseconds: once per process.
    return ThreadpoolController()


class Surrogate:
    """
    Gaussian process with a Matérn 5/2 kernel, one length scale per input, and observation noise.

    The hyperparameters are fitted at growing intervals, starting from those of the last fit; in between only the
    posterior is updated. It never raises or warns: where a fit fails, the last good hyperparameters serve, and where
    these fail too, the prior.

    Args:
        seed (`int`, *optional*, defaults to 0): Passed to scikit-learn.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._kernel: Kernel | None = None
        self._next_refit = _FIRST_REFIT
        self._regressor: GaussianProcessRegressor | None = None

    def fit(self, inputs: Array, targets: Array, observed: int | None = None) -> None:
        """
        Condition on observations.

        Args:
            inputs (`Array` of shape (n, d)): Inputs, each dimension of order 1.
            targets (`Array` of shape (n,)): Scores, standardised by the caller.
            observed (`int`, *optional*): How many observations there have been in all, where older ones have left
                the window; paces the refits. Defaults to n.
        """
        # Imported when first used, here and below: it takes memory, which the first steps may be short of.
        from sklearn.gaussian_process import GaussianProcessRegressor

        self._regressor = None
        if len(targets) == 0:
            return
        observed = len(targets) if observed is None else observed
        if self._kernel is None or np.size(self._kernel.k1.k2.length_scale) != inputs.shape[1]:
            self._kernel = _prior_kernel(np.ones(inputs.shape[1]))
        refit = observed >= self._next_refit
        if refit:
            self._next_refit = math.ceil(observed * _REFIT_GROWTH)
        for optimizer in ("fmin_l_bfgs_b", None) if refit else (None,):
            regressor = GaussianProcessRegressor(
                self._kernel, optimizer=optimizer, alpha=1e-8, random_state=self._seed, copy_X_train=False
            )
            try:
                # Hyperparameters at a bound and early stops of the optimizer are no news to the user.
                with warnings.catch_warnings(), _threadpools().limit(limits=1, user_api="blas"):
                    warnings.simplefilter("ignore")
                    regressor.fit(inputs, targets)
            except (ValueError, np.linalg.LinAlgError):
                continue
            self._regressor = regressor
            self._kernel = regressor.kernel_
            return

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """
        Posterior of the score without its observation noise.

        Args:
            inputs (`Array` of shape (m, d)): Where to predict.

        Returns:
            Mean and standard deviation, each of shape (m,); 0 and 1 where nothing was observed or an
            input is not finite.
        """
        if self._regressor is None:
            return np.zeros(len(inputs)), np.ones(len(inputs))
        try:
            with warnings.catch_warnings(), _threadpools().limit(limits=1, user_api="blas"):
                warnings.simplefilter("ignore")
                mean, std = self._regressor.predict(inputs, return_std=True)
        except ValueError:
            return np.zeros(len(inputs)), np.ones(len(inputs))
        noise = self._regressor.kernel_.k2.noise_level
        return mean, np.sqrt(np.maximum(std**2 - noise, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """What the next fit starts from, in plain values and tensors."""
        kernel = self._kernel
        if kernel is None:
            return {"next_refit": self._next_refit, "kernel": None}
        # A single length scale turns from an array to a number when it is fitted.
        length_scale = kernel.k1.k2.length_scale
        return {
            "next_refit": self._next_refit,
            "kernel": {
                "signal": float(kernel.k1.k1.constant_value),
                "length_scale": torch.tensor(length_scale, dtype=torch.float64),
                "noise": float(kernel.k2.noise_level),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._next_refit, self._regressor, self._kernel = state["next_refit"], None, None
        if state["kernel"] is not None:
            length_scale = state["kernel"]["length_scale"].numpy()
            self._kernel = _prior_kernel(
                length_scale if length_scale.ndim else float(length_scale),
                state["kernel"]["signal"],
                state["kernel"]["noise"],
            )


def _prior_kernel(length_scale: Array | float, signal: float = 1.0, noise: float = 0.3) -> Kernel:
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    covariance = ConstantKernel(signal, (0.05, 20.0)) * Matern(length_scale, (0.1, 20.0), nu=2.5)
    return covariance + WhiteKernel(noise, (1e-3, 5.0))
