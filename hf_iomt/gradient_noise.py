"""How much of the gradient of a batch is signal, and how much the chance of which samples are in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .optim import count_broken, local_part


class GradientNoise:
    """
    Measures the share of signal in the gradients of batches at the same parameters.

    A batch's gradient is g = G + ε, the gradient G of all data and noise ε. After McCandlish et al., *An Empirical
    Model of Large-Batch Training* (2018), the largest useful learning rate is that of gradients without noise times
    the share G² / E[g²] = 1 / (1 + B_noise / B). Here the share is taken for each coordinate and averaged over those
    that have gradients, because AdamW normalizes each coordinate. An estimate without bias from n batches is

        ((Σ g)² / Σ g² - 1) / (n - 1).

    Args:
        parameters (`Sequence[torch.Tensor]`): What trains; sharded ones may be among them.
        reduce (`Callable[[torch.Tensor], torch.Tensor]`): Mean over the processes.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        reduce: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
    ) -> None:
        self._parameters = parameters
        self._reduce = reduce
        self._sums = [torch.zeros_like(local_part(parameter)) for parameter in parameters]
        self._squares = [torch.zeros_like(item) for item in self._sums]
        self._count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Take the parameters' present gradients; those that are not finite are left out, all of the batch."""
        gradients = [item.grad for item in self._parameters if item.grad is not None]
        if not gradients or float(self._reduce(count_broken(gradients))) > 0:
            return
        for parameter, total, square in zip(self._parameters, self._sums, self._squares, strict=True):
            if parameter.grad is not None:
                gradient = local_part(parameter.grad)
                total.add_(gradient)
                square.addcmul_(gradient, gradient)
        self._count += 1

    @torch.no_grad()
    def signal(self) -> float | None:
        """
        The share of signal, about 0 to 1; below 0 by chance where there is next to none.

        The sums are used up. `None` where fewer than two batches were added, or no parameter had a gradient.
        """
        if self._count < 2:
            return None
        ratios = coordinates = torch.zeros((), device=self._sums[0].device)
        for total, square in zip(self._sums, self._squares, strict=True):
            used = square > 0
            # In place: memory for what is trained twice over is all that this takes.
            ratio = total.square_().div_(square).masked_fill_(~used, 0.0)
            ratios = ratios + ratio.sum(dtype=torch.float32).to(ratios.device)
            coordinates = coordinates + used.sum(dtype=torch.float32).to(coordinates.device)
        ratios, coordinates = self._reduce(torch.stack([ratios, coordinates])).tolist()
        return None if coordinates == 0 else (ratios / coordinates - 1) / (self._count - 1)
