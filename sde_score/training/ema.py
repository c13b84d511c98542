"""Exponential moving average of the weights, which samples better than the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class EMA:
    r"""Exponential moving average of parameters, with a warm-up.

    .. math:: \theta^-_n = d_n \theta^-_{n-1} + (1 - d_n) \theta_n, \qquad
              d_n = \min\left(decay, \frac{1 + n}{10 + n}\right), \quad n = 1, 2, \ldots

    The average starts at the initial parameters; the warm-up lets it forget them.

    Args:
        parameters: what to average, in a fixed order.
        decay: in [0, 1); about 1 - 1 / (number of steps in the average).

    Raises:
        ValueError: for a decay out of range.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix H.1.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay!r} must lie in [0, 1)")
        self.decay = decay
        self.updates = 0
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor]) -> None:
        """Add the parameters after an optimizer step to the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, list(parameters), 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[Tensor]) -> None:
        """Overwrite parameters with their average."""
        for parameter, average in zip(parameters, self.shadow, strict=True):
            parameter.copy_(average)

    @contextmanager
    def swapped(self, parameters: Iterable[Tensor]) -> Iterator[None]:
        """Parameters equal to their average inside a `with` block."""
        parameters = list(parameters)
        kept = [parameter.detach().clone() for parameter in parameters]
        self.copy_to(parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)
