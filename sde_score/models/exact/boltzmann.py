"""Restricted Boltzmann machine: two layers of binary units, with an exact constant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_numbers
from sde_score.models.exact.discrete import DiscreteTarget, drawn
from sde_score.models.exact.gaussian import Numbers
from sde_score.models.sites import Sites

_CHUNK = 1 << 12  # states of a layer at once


@dataclass(frozen=True, eq=False)
class RestrictedBoltzmann(DiscreteTarget):
    r"""The restricted Boltzmann machine on visible units v and hidden units h in {0, 1}.

    .. math:: E(v, h) = -a^T v - b^T h - v^T W h, \qquad
              F(v) = -a^T v - \sum_j \log(1 + e^{b_j + (W^T v)_j}), \qquad
              Z = \sum_{v, h} e^{-E} = \sum_v e^{-F}

    An event is (v, h), one after the other, with the energy E: given one layer, the units of the
    other are independent. With `marginal` it is v alone, with the free energy F. Z is the same, and
    exact where the smaller layer has at most 20 units: it is enumerated, the other summed in closed
    form. Draws are exact likewise.

    Args:
        weight: W, `(visible, hidden)`.
        visible_bias: a, `(visible,)`.
        hidden_bias: b, `(hidden,)`.
        marginal: whether events are the visible units alone.

    Raises:
        ValueError: if shapes do not agree or numbers are not finite.

    Reference: Hinton 2002, https://doi.org/10.1162/089976602760128018, section 3.
    """

    weight: Numbers
    visible_bias: Numbers
    hidden_bias: Numbers
    marginal: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("weight", "visible_bias", "hidden_bias"):
            given = require_numbers(name, getattr(self, name)).detach().double()
            object.__setattr__(self, name, given)
        visible, hidden = self.visible_bias.shape, self.hidden_bias.shape
        if len(visible) != 1 or len(hidden) != 1 or self.weight.shape != (*visible, *hidden):
            raise ValueError(
                f"weight of shape {tuple(self.weight.shape)} does not fit visible_bias of shape "
                f"{tuple(visible)} and hidden_bias of shape {tuple(hidden)}; accepted: (visible, "
                "hidden), (visible,) and (hidden,)"
            )

    @property
    @override
    def sites(self) -> Sites:
        visible, hidden = self.weight.shape
        if self.marginal:
            return Sites((visible,))
        first = torch.arange(visible + hidden) < visible
        return Sites((visible + hidden,), blocks=(first, ~first))

    @cached_property
    @override
    def log_z(self) -> float:
        return float(self._layer[1].logsumexp(0))

    def free_energy(self, v: Tensor) -> Tensor:
        """F of visible units `(batch, visible)`, in nats, `(batch,)`."""
        weight, a, b = (each.to(v) for each in self._parameters)
        return -v @ a - softplus(b + v @ weight).sum(1)

    @override
    def _energy(self, x: Tensor) -> Tensor:
        if self.marginal:
            return self.free_energy(x)
        weight, a, b = (each.to(x) for each in self._parameters)
        v, h = x[:, : len(a)], x[:, len(a) :]
        energy: Tensor = -v @ a - h @ b - ((v @ weight) * h).sum(1)
        return energy

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        require_count(count=count)
        states, log_weights = self._layer
        small = states[drawn(log_weights.softmax(0), count, generator)]
        weight, _, bias = self._smaller_first
        chance = (bias + small @ weight).sigmoid()
        uniform = torch.rand(chance.shape, generator=generator, dtype=torch.float64)
        large = (uniform < chance).double()
        v, h = (large, small) if self._hidden_is_smaller else (small, large)
        return v if self.marginal else torch.cat([v, h], 1)

    @property
    def _parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weight, self.visible_bias, self.hidden_bias

    @property
    def _hidden_is_smaller(self) -> bool:
        return bool(self.weight.shape[1] <= self.weight.shape[0])

    @property
    def _smaller_first(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights from the smaller layer to the larger, and the bias of each."""
        weight, a, b = self._parameters
        return (weight.mT, b, a) if self._hidden_is_smaller else (weight, a, b)

    @cached_property
    def _layer(self) -> tuple[Tensor, Tensor]:
        """All states of the smaller layer, and the log of the sum of exp(-E) over the other."""
        weight, own, other = self._smaller_first
        states = Sites((len(weight),)).states()
        parts = torch.split(states, _CHUNK)
        sums = [softplus(other + part @ weight).sum(1) for part in parts]
        return states, states @ own + torch.cat(sums)
