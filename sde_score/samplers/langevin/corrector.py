"""Correctors: Langevin steps towards the marginal at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import expand_like, require_choice, require_count, require_positive
from sde_score._core.registry import Registry
from sde_score.samplers.problem import Problem
from sde_score.sdes import SDE

RULES = ("marginal", "example", "batch")


@dataclass(frozen=True)
class Langevin:
    r"""Langevin steps at one noise level, sized by a signal-to-noise ratio.

    .. math:: x \leftarrow x + \epsilon\, score(x, t) + \sqrt{2 \epsilon}\, z

    The step size follows from `snr` by a rule:

    - `"marginal"`: epsilon = 2 (snr sigma(t))^2. It depends on t alone, so the chain keeps the
      marginal up to its discretization error, in any dimension.
    - `"example"`: epsilon = 2 (snr |z| / |score|)^2, norms of each example. A step that depends on
      the state and on its own noise tilts the stationary distribution to
      p^(D / (D + 2)) |score|^2: a variance ((D + 2) / D)^2 times too large on Gaussian data of D
      dimensions. Harmless for images, wrong for tables.
    - `"batch"`: the same with norms averaged over the batch, times (alpha_t / alpha_s)^2 for the
      next time s: Song et al.'s code. Samples then depend on their neighbors.

    Where the score is that of a broad distribution, such as noise alone, all three agree.

    Args:
        snr: signal-to-noise ratio r of a step, > 0.
        steps: Langevin steps at each noise level.
        rule: one of the above.

    Raises:
        ValueError: for arguments outside their range.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, algorithms 4 and 5.
    """

    snr: float = 0.16
    steps: int = 1
    rule: str = "marginal"

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(snr=self.snr)
        require_count(minimum=0, steps=self.steps)
        require_choice("rule", self.rule, RULES)

    def factors(self, sde: SDE, times: Tensor) -> list[float]:
        """Factors of the step size at each time, from float64 arithmetic before the loop."""
        shape = torch.ones_like(times)
        if self.rule == "marginal":
            shape = sde.sigma(times) ** 2
        elif self.rule == "batch" and len(times) > 1:
            shape[:-1] = (sde.alpha(times[:-1]) / sde.alpha(times[1:])) ** 2
            shape[-1] = shape[-2]
        factors: list[float] = (2 * self.snr**2 * shape).tolist()
        return factors

    def correct(self, problem: Problem, x: Tensor, t: Tensor, factor: float) -> Tensor:
        """Take the steps at time t, in place.

        Args:
            problem: gives the score and the noise.
            x: state at t, changed in place.
            t: scalar on the device of x.
            factor: the entry of `factors` at t.
        """
        for _ in range(self.steps):
            score, z = problem.score(x, t), problem.noise()
            if self.rule == "marginal":
                x.add_(score, alpha=factor).add_(z, alpha=(2 * factor) ** 0.5)
                continue
            size = factor * self._norm_ratio(z, score) ** 2
            x.add_(expand_like(size, x) * score).add_(expand_like((2 * size).sqrt(), x) * z)
        return x

    def _norm_ratio(self, z: Tensor, score: Tensor) -> Tensor:
        norms = (v.flatten(1).norm(dim=1) for v in (z, score))
        of_noise, of_score = (n.mean() if self.rule == "batch" else n for n in norms)
        ratio: Tensor = of_noise / of_score.clamp(min=torch.finfo(score.dtype).tiny)
        return ratio


def no_correction() -> Langevin:
    """A corrector of no steps."""
    return Langevin(steps=0)


CORRECTORS: Registry[Langevin] = Registry(
    "corrector", {"langevin": Langevin, "none": no_correction}, base=Langevin
)
"""Correctors by name."""
