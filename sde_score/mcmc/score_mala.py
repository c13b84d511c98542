"""Metropolis-adjusted Langevin dynamics without an energy: line integrals of the score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_choice, sum_event
from sde_score.mcmc.kernel import Kernel, State, Transition, Tuning, evaluate
from sde_score.mcmc.langevin import metropolis, propose
from sde_score.models import Density
from sde_score.random import Noise


@dataclass(frozen=True)
class ScoreMALA(Kernel):
    r"""`MALA` for a score without an energy, such as a trained `ScoreModel`.

    .. math:: E(y) - E(x) = -\int_0^1 s(x + u (y - x)) \cdot (y - x)\, du

    by a quadrature rule, the energy's change along the straight line from x to the proposal y:

    - `"simpson"`: weights 1/6, 4/6, 1/6 on the ends and the middle, which costs one evaluation
      more. Exact where the score is a polynomial of degree 3 along the line, so on Gaussians and on
      quartic energies, double wells among them, the kernel is MALA. Elsewhere the
      stationary distribution has an error of O(h^2).
    - `"trapezoid"`: the ends alone. Exact for a linear score; elsewhere it misses a part as large
      as the correction itself, and the error is O(h), as without any correction (`ULA`). By its
      rule log r = (h / 4 T)(|s(x)|^2 - |s(y)|^2), whatever the target.

    Where the score is not a gradient there is no energy, and no distribution is kept exactly.

    Args:
        step_size: h of the proposal of `ULA`, > 0.
        temperature: T, > 0.
        rule: one of the above.

    Raises:
        ValueError: for arguments outside their range.

    Reference: Sjöberg et al. 2023, https://arxiv.org/abs/2307.14012, section 3.
    """

    rule: str = "simpson"

    adjusted = True
    target_acceptance = 0.574
    evaluations = "2, trapezoid: 1"
    reference = "Sjöberg et al. 2023, https://arxiv.org/abs/2307.14012"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("rule", self.rule, ("simpson", "trapezoid"))

    @override
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """One proposal and its acceptance: two evaluations, by the trapezoid rule one."""
        proposed = evaluate(
            density, propose(state, noise(), tuning, self.temperature), energy=False
        )
        rise = self._rise(density, state, proposed)
        return metropolis(state, proposed, rise, tuning, self.temperature, noise)

    def _rise(self, density: Density, old: State, new: State) -> Tensor:
        """Energy of `new` less that of `old`, `(chains,)`."""
        mean = 0.5 * (old.score + new.score)
        if self.rule == "simpson":
            middle = density.score(torch.lerp(old.x, new.x, 0.5))
            mean = (mean + 2 * middle) / 3
        return -sum_event(mean * (new.x - old.x))
