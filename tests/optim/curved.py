"""A small regression with three parameter tensors, for optimizers and for their transcriptions on one flat vector."""

from __future__ import annotations

import numpy as np
import torch

STEPS = 200


class Curved:
    """The loss of a batch in float64; its gradients depend on the parameters, so that differences grow."""

    SHAPES = ((4, 3), (3,), (1,))

    def __init__(self, dtype=torch.float64):
        generator = torch.Generator().manual_seed(0)
        self.parameters = [
            torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
            for shape in self.SHAPES
        ]
        self._inputs = torch.randn(64, 8, 4, generator=generator, dtype=torch.float64).to(dtype)
        self._targets = torch.randn(64, 8, 3, generator=generator, dtype=torch.float64).to(dtype)

    def loss(self, step):
        weight, bias, scale = self.parameters
        output = scale * torch.tanh(self._inputs[step % 64] @ weight + bias)
        return (output - self._targets[step % 64]).square().mean()

    def flat(self):
        return np.concatenate([parameter.detach().double().numpy().ravel() for parameter in self.parameters])

    def gradient_at(self, vector, step):
        """Gradient at a flat vector."""
        ends = np.cumsum([parameter.numel() for parameter in self.parameters])[:-1]
        with torch.no_grad():
            for parameter, part in zip(self.parameters, np.split(vector, ends), strict=True):
                parameter.copy_(torch.from_numpy(part).view_as(parameter))
        gradients = torch.autograd.grad(self.loss(step), self.parameters)
        return np.concatenate([gradient.numpy().ravel() for gradient in gradients])

    def train(self, optimizer, steps=range(STEPS), scheduler=None):
        """The flat vector after each step."""
        trace = []
        for step in steps:
            optimizer.zero_grad()
            self.loss(step).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            trace.append(self.flat())
        return np.array(trace)


def to_zero(step):
    """Multiplier of a schedule with a warm-up from 0 that ends at 0 before training does."""
    return step / 5 if step < 5 else max(0.0, 1 - (step - 5) / (STEPS - 20))
