"""Networks that are told which entries of an example are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sde_score._core.checks import require_batch
from sde_score._core.conditions import OBSERVED, Condition, ConditionShape
from sde_score.nn.backbones.base import require_event_shape


class Masked(nn.Module):
    """A network that sees the entries that are there, and behind them ones where they are.

    Entries that are missing are zeros, so that the answer does not depend on them. Which are there
    is the entry `observed` of a dictionary of conditions, of zeros and ones in the shape of x;
    without it all are. Of the network's answer the channels of x are kept.

    Args:
        network: made for twice as many channels, or columns, as x has.
        event_shape: shape of one example.

    Reference: Ouyang et al. 2023 (MissDiff), https://arxiv.org/abs/2307.00467; Ipsen et al. 2021
    (not-MIWAE), https://arxiv.org/abs/2006.12871, section 2, on masks as an input.
    """

    def __init__(self, network: nn.Module, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.event_shape = require_event_shape(event_shape)
        given: Any = network
        self.num_classes: int = getattr(given, "num_classes", 0)
        self.condition_shape: ConditionShape = getattr(given, "condition_shape", ())

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, *event_shape)`.
            time_label: shape `(batch,)`.
            condition: of the network, or a dictionary that holds `observed` as well.
        """
        require_batch("x", x)
        observed = torch.ones_like(x)
        if isinstance(condition, Mapping):
            observed = condition.get(OBSERVED, observed).to(x)
            condition = {n: value for n, value in condition.items() if n != OBSERVED} or None
        seen = torch.cat([torch.where(observed > 0, x, 0.0), observed], dim=1)
        out: Tensor = self.network(seen, time_label, condition)
        return out[:, : x.shape[1]]


def masked(
    event_shape: Sequence[int],
    network: str = "mlp",
    num_classes: int = 0,
    condition_shape: ConditionShape = (),
) -> Masked:
    """A network by its spec that is told which entries of an example are there.

    Args:
        event_shape: shape of one example.
        network: spec of the network, such as `mlp(width=256)`.
        num_classes: number of classes; 0 for a network without labels.
        condition_shape: what else the network is told.
    """
    from sde_score.nn import create

    shape = require_event_shape(event_shape)
    inside = create(network, (2 * shape[0], *shape[1:]), num_classes, condition_shape)
    return Masked(inside, shape)
