"""Finite-difference score matching: implicit score matching without second derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_positive, sum_event
from sde_score._core.modules import rounding
from sde_score.models import EnergyBased, Marginal, Model
from sde_score.objectives.base import MarginalObjective
from sde_score.random import Draws, probes, require_probes

# Rounding over step^2 for energies, over step for scores, that leaves gradients right to a few %.
_ENERGY_ERROR, _SCORE_ERROR = 0.02, 0.2


@dataclass(frozen=True)
class FiniteDifferenceScoreMatching(MarginalObjective):
    r"""Sliced score matching whose derivatives are differences: first-order passes alone.

    With x± = x ± h v, E[v v^T] = I, an energy model (f = -energy) has the loss

    .. math:: \frac{1}{h^2} \left[ \tfrac18 (f_+ - f_-)^2 + f_+ + f_- - 2 f \right]

    and a score model

    .. math:: \tfrac18 \lVert s_+ + s_- \rVert^2 + \frac{1}{2h} v \cdot (s_+ - s_-) ,

    averaged over n directions v. Both are `ImplicitScoreMatching` on average but for O(h^2), and
    exactly so where f is quadratic. Rounding adds errors of eps / h^2, or eps / h, so the steps
    taken by default are eps^(1/4) and eps^(1/3), with eps the rounding error of the coarsest dtype
    on the way: of the data, the weights or `torch.autocast`. On a small smooth network that makes
    relative errors of 1e-3 for an energy and 1e-5 for a score in float32, 1e-7 and 2e-9 in float64,
    1e-2 for a score in bfloat16. An energy in bfloat16 is refused: no step is right.

    Args:
        probes: number n of directions per example, at least 1.
        probe_distribution: a name from `sde_score.random.PROBE_DISTRIBUTIONS`; with
            `rademacher` and `sphere` every displacement has length h sqrt(D).
        step: h in units of `sigma_data`, or of sigma(t) with a time sampler, > 0; None takes the
            above.
        sigma_data: length over which the density of the data changes, such as their standard
            deviation, > 0; it counts only without a time sampler.
        time_sampler: None for the data as they are; a name from `TIME_SAMPLERS`, or an object.
        weighting: with a time sampler, the weight of each time.

    Raises:
        ValueError: for an unknown name or argument, a count below 1, or lengths that are not
            positive; when called, if differences over the step are lost in rounding.

    Cost: 2n F + 2n B for a score model, (2n + 1) F + (2n + 1) B for an energy.

    Reference: Pang et al. 2020, https://arxiv.org/abs/2007.03317.
    """

    cost = "2n F + 2n B"
    converges_to = "the score of the data, but for O(step^2)"
    reference = "Pang et al. 2020, https://arxiv.org/abs/2007.03317"

    probes: int = 1
    probe_distribution: str = "sphere"
    step: float | None = None
    sigma_data: float = 1.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require_probes(self.probes, self.probe_distribution)
        require_positive(sigma_data=self.sigma_data)
        if self.step is not None:
            require_positive(step=self.step)

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws) -> Tensor:
        """Loss of each example with fresh probes, shape `(batch,)`."""
        return self.at(marginal, x, probes(self.probes, x, self.probe_distribution, generator))

    def at(self, marginal: Marginal, x: Tensor, vectors: Tensor) -> Tensor:
        """Loss of each example along given directions `(n, batch, *event)`, shape `(batch,)`."""
        step = self.step_length(marginal, x)
        compare = _energy_differences if marginal.has_energy else _score_differences
        return compare(marginal, x, vectors, step).to(x.dtype)

    def step_length(self, marginal: Marginal, x: Tensor) -> Tensor:
        """h in units of x, float64, a scalar or `(batch,)`."""
        eps = rounding(marginal.model, x)
        self.require_precision(marginal.model, eps)
        t = torch.as_tensor(marginal.t, dtype=torch.float64, device=x.device)
        unit = marginal.model.sde.sigma(t) if self.all_noise_levels else self.sigma_data
        return self._step(marginal.model, eps) * unit * torch.ones_like(t)

    def _step(self, model: Model, rounding: float) -> float:
        if self.step is not None:
            return self.step
        return float(rounding ** (1 / 4 if isinstance(model, EnergyBased) else 1 / 3))

    @override
    def require_precision(self, model: Model, rounding: float) -> None:
        """Refuse a step over which differences are lost in rounding.

        Raises:
            ValueError: with the smallest step that is accepted.
        """
        energy, step = isinstance(model, EnergyBased), self._step(model, rounding)
        order, most = (2, _ENERGY_ERROR) if energy else (1, _SCORE_ERROR)
        if rounding / step**order <= most:
            return
        least = (rounding / most) ** (1 / order)
        kind = "an energy" if energy else "a score"
        raise ValueError(
            f"finite differences of {kind} over step={step:.2g} are lost in rounding, which is "
            f"{rounding:.1e} of what the model computes: take float32 throughout (precision="
            "'float32', no torch.autocast, no TensorFloat-32), an objective that takes derivatives "
            f"such as 'sliced', or a step of {least:.2g} or more, with its error of O(step^2)"
        )


def _energy_differences(marginal: Marginal, x: Tensor, vectors: Tensor, step: Tensor) -> Tensor:
    # The sums cancel to a part in 1 / step^2: in float64 they add no rounding of their own.
    center = marginal.energy(x).double()
    losses = []
    for v in vectors:
        shift = expand_like(step, x) * v
        up, down = marginal.energy(x + shift).double(), marginal.energy(x - shift).double()
        losses.append(((up - down) ** 2 / 8 - (up + down - 2 * center)) / step**2)
    return torch.stack(losses).mean(0)


def _score_differences(marginal: Marginal, x: Tensor, vectors: Tensor, step: Tensor) -> Tensor:
    losses = []
    for v in vectors:
        shift = expand_like(step, x) * v
        up, down = marginal.score(x + shift), marginal.score(x - shift)
        slope = sum_event(v * (up - down)) / (2 * step).to(x.dtype)
        losses.append(sum_event((up + down) ** 2) / 8 + slope)
    return torch.stack(losses).mean(0)
