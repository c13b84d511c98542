"""Dropout whose draws are those of a training step, whatever other threads draw."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sde_score.random import step_generator


class Dropout(nn.Dropout):
    """Dropout that draws from the generator of `drawing_from`, with the bits of `nn.Dropout`.

    Without one, on another device than the generator's and when compiled, it is `nn.Dropout`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Entries of x set to 0 with probability p, all others divided by 1 - p."""
        generator = step_generator()
        usual = generator is None or x.device != generator.device or not 0 < self.p < 1
        if not self.training or usual:
            return super().forward(x)
        kept = torch.empty_like(x).bernoulli_(1 - self.p, generator=generator)
        return x * kept.div_(1 - self.p)


def require_dropout(dropout: float) -> None:
    """Refuse a dropout probability outside [0, 1).

    Raises:
        ValueError: with the value.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must be a number in [0, 1): 0 turns it off")
