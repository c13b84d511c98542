"""Annealed Langevin dynamics, the sampler of NCSN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_positive
from sde_score.samplers.base import Sampler
from sde_score.samplers.fixed_step.one_step import Stay
from sde_score.samplers.grids import Grid
from sde_score.samplers.langevin.corrector import Langevin
from sde_score.samplers.langevin.predictor_corrector import PredictorCorrector
from sde_score.samplers.langevin.step_sizes import choose_step_ratio, require_spreads
from sde_score.samplers.problem import Iteration, Problem
from sde_score.samplers.start import sigma_data_of
from sde_score.sdes import SDE


@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    r"""Langevin dynamics at each noise level in turn, from the largest down.

    .. math:: x \leftarrow x + r \sigma_i^2\, score(x, \sigma_i) + \sqrt{2 r}\, \sigma_i\, z

    NCSN's sampler on VE; on other SDEs the same in the coordinates x / alpha. NCSN writes r as
    step_lr / sigma_min^2. The default grid is its geometric ladder.

    Args:
        steps: noise levels.
        steps_each: Langevin steps at each level.
        step_ratio: r, the step size in units of the variance of the noise; > 0. None takes the one
            whose chain ends nearest the truth on Gaussian data, by `choose_step_ratio`.
        data_std: for that choice, the standard deviation of the data, or several: the narrowest
            direction and the widest; 0 for data that do not fill their space.

    Reference: Song & Ermon 2020, https://arxiv.org/abs/2006.09011, algorithm 1.
    """

    grid: str | Grid = "log_snr"
    steps_each: int = 5
    step_ratio: float | None = 0.062
    data_std: float | tuple[float, ...] = (0.0, 1.0)

    ends_at_data: ClassVar[bool] = True

    undifferentiable = "Langevin steps change the state in place"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(steps_each=self.steps_each)
        if self.step_ratio is not None:
            require_positive(step_ratio=self.step_ratio)
        require_spreads(self.data_std)

    def chosen_ratio(self, sde: SDE, sigma_data: float = 1.0) -> float:
        """The step ratio r that is used on an SDE: `step_ratio`, or the one that is chosen.

        Args:
            sde: the diffusion.
            sigma_data: as for `start_spread`.
        """
        if self.step_ratio is not None:
            return self.step_ratio
        times = self.times(sde)
        alpha = sde.alpha(times)
        start_std = self.start_spread(sde, sigma_data) / alpha[0].item()
        return choose_step_ratio(
            sde.sigma(times) / alpha, self.data_std, self.steps_each, start_std
        )

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        ratio = self.chosen_ratio(problem.sde, sigma_data_of(problem.model))
        langevin = Langevin(snr=(0.5 * ratio) ** 0.5, steps=self.steps_each, rule="marginal")
        chain = PredictorCorrector(predictor=Stay(), corrector=langevin, denoise=self.denoise)
        yield from chain.iterate(problem, x)
