"""Predictor-corrector sampling, and annealed Langevin dynamics as its corrector alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_positive
from sde_score._core.registry import Registry
from sde_score.samplers.base import Iteration, Problem, Sampler
from sde_score.samplers.fixed_step.multistep import ROWS
from sde_score.samplers.fixed_step.one_step import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    ReverseDiffusion,
    Stay,
)
from sde_score.samplers.fixed_step.runge_kutta import RUNGE_KUTTA_ROWS
from sde_score.samplers.grids import Grid
from sde_score.samplers.langevin.corrector import Langevin
from sde_score.samplers.langevin.step_sizes import choose_step_ratio, require_spreads
from sde_score.sdes import SDE


def _no_correction() -> Langevin:
    """A corrector of no steps."""
    return Langevin(steps=0)


CORRECTORS: Registry[Langevin] = Registry(
    "corrector", {"langevin": Langevin, "none": _no_correction}
)


PREDICTORS: Registry[Sampler] = Registry(
    "predictor",
    {
        "euler-maruyama": EulerMaruyama,
        "reverse-diffusion": ReverseDiffusion,
        "ancestral": Ancestral,
        "ddim": DDIM,
        **RUNGE_KUTTA_ROWS,
        **ROWS,
        "none": Stay,
    },
)


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """At each time first the corrector, then the predictor's step to the next time.

    Any predictor goes with any corrector on any SDE. One step costs what the predictor's does and
    one evaluation per corrector step.

    Args:
        predictor: a name from `PREDICTORS`, such as `"ancestral"` or `"ddim(eta=0.5)"`, or a
            sampler whose steps are these; its own steps, grid and denoising are not used.
        corrector: a name from `CORRECTORS`, such as `"langevin(snr=0.1, steps=2)"`, or an object.
    """

    predictor: str | Sampler = "reverse-diffusion"
    corrector: str | Langevin = "langevin"

    evaluations = "predictor + corrector steps"
    reference = "Song et al. 2021, https://arxiv.org/abs/2011.13456, algorithm 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._parts

    @property
    def _parts(self) -> tuple[Sampler, Langevin]:
        predict, correct = self.predictor, self.corrector
        return (
            PREDICTORS.create(predict) if isinstance(predict, str) else predict,
            CORRECTORS.create(correct) if isinstance(correct, str) else correct,
        )

    @property
    @override
    def ends_at_data(self) -> bool:
        return self._parts[0].ends_at_data

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        predictor, corrector = self._parts
        predictor = replace(predictor, steps=self.steps, grid=self.grid, denoise=self.denoise)
        moments = problem.moments(x.device)
        factors = corrector.factors(problem.sde, problem.times)
        start = corrector.correct(problem, x, moments[0], factors[0])
        for k, (time, state) in enumerate(predictor.iterate(problem, start), 1):
            if k < len(moments):  # else the data are reached
                corrector.correct(problem, state, moments[k], factors[k])
            yield time, state


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
    """

    grid: str | Grid = "log_snr"
    steps_each: int = 5
    step_ratio: float | None = 0.062
    data_std: float | tuple[float, ...] = (0.0, 1.0)

    evaluations = "steps_each"
    reference = "Song & Ermon 2020, https://arxiv.org/abs/2006.09011, algorithm 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(steps_each=self.steps_each)
        if self.step_ratio is not None:
            require_positive(step_ratio=self.step_ratio)
        require_spreads(self.data_std)

    def chosen_ratio(self, sde: SDE) -> float:
        """The step ratio r that is used on an SDE: `step_ratio`, or the one that is chosen."""
        if self.step_ratio is not None:
            return self.step_ratio
        times = self.times(sde)
        alpha = sde.alpha(times)
        start_std = self.start_std_on(sde) / alpha[0].item()
        return choose_step_ratio(
            sde.sigma(times) / alpha, self.data_std, self.steps_each, start_std
        )

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        snr = (0.5 * self.chosen_ratio(problem.sde)) ** 0.5
        langevin = Langevin(snr=snr, steps=self.steps_each, rule="marginal")
        chain = PredictorCorrector(predictor=Stay(), corrector=langevin)
        yield from chain.iterate(problem, x)
