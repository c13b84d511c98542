"""Searches for an example, or for the noise behind it, that fits what was observed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_positive, sum_event
from sde_score.posterior.samplers.base import PosteriorSampler
from sde_score.posterior.solvers import minimise
from sde_score.samplers import SAMPLERS, Sampler
from sde_score.samplers.problem import Iteration, Problem


@dataclass(frozen=True)
class REDDiff(PosteriorSampler):
    r"""Regularization by denoising: an example that fits y and that the model would not change.

    .. math:: \min_\mu \tfrac12 \| y - A \mu \|^2 + \lambda \frac{\sigma_t}{\alpha_t}
              \langle \hat\epsilon(\alpha_t \mu + \sigma_t \epsilon, t) - \epsilon, \mu \rangle

    by Adam, one step at each time of the grid with a fresh \epsilon, from A^+ y; nothing is
    differentiated through the network. The noise of y is in `weight` alone.

    Args:
        learning_rate: of Adam.
        weight: lambda.

    Reference: Mardani et al. 2023, https://arxiv.org/abs/2305.04391, algorithm 1.
    """

    steps: int = 1000
    learning_rate: float = 0.1
    weight: float = 0.25

    ends_at_data: ClassVar[bool] = True
    from_noise: ClassVar[bool] = False

    undifferentiable = "Adam changes the example in place"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(learning_rate=self.learning_rate, weight=self.weight)

    @property
    @override
    def limit(self) -> str:
        return "biased: mode-seeking, one example that fits and not a draw; it does not know noise"

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        seen, times = self.measurement, problem.times[: self.steps]
        seen.operator(x)  # refuses states of another shape
        mean = seen.operator.pinv(seen.y.to(x)[None]).expand_as(x).clone()
        adam = torch.optim.Adam([mean], lr=self.learning_rate, betas=(0.9, 0.99))
        scales = torch.stack([problem.sde.alpha(times), problem.sde.sigma(times)], 1).tolist()
        stops = [*times[1:].tolist(), 0.0]
        for t, stop, (alpha, sigma) in zip(times.to(x.device), stops, scales, strict=True):
            noise = problem.noise().to(mean)
            found = problem.expected_noise(alpha * mean + sigma * noise, t)
            fit = seen.operator.adjoint(seen.residual(mean))
            mean.grad = self.weight * sigma / alpha * (found - noise) - fit
            adam.step()
            yield stop, mean


@dataclass(frozen=True)
class DFlow(PosteriorSampler):
    r"""The noise whose sample fits y, found by descending through all steps of a sampler.

    .. math:: \min_{x_T} \tfrac12 (y - A \Phi(x_T))^T R^{-1} (y - A \Phi(x_T))

    by L-BFGS from a random x_T, with \Phi a deterministic sampler of `steps` steps. Memory grows
    with the steps.

    Args:
        solver: \Phi, a name from `samplers.SAMPLERS` or a sampler; deterministic; its own steps,
            grid and denoising are not used.
        iterations: of L-BFGS, each one run of the sampler and one back.

    Reference: Ben-Hamu et al. 2024, https://arxiv.org/abs/2402.14017.
    """

    steps: int = 6
    solver: str | Sampler = "midpoint"
    iterations: int = 20

    ends_at_data: ClassVar[bool] = True

    undifferentiable = "the search itself has no gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(iterations=self.iterations)
        solver = SAMPLERS.resolve(self.solver, name="solver")
        if solver.stochastic or solver.undifferentiable or solver.adaptive:
            raise ValueError(
                f"solver={self.solver!r} must be deterministic, of fixed steps and differentiable, "
                "such as 'midpoint' or 'ddim'"
            )

    @property
    @override
    def limit(self) -> str:
        return "biased: mode-seeking, the nearest noise whose sample fits y, however unlikely"

    @property
    @override
    def total(self) -> int:
        return 1

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        solver = replace(
            SAMPLERS.resolve(self.solver), steps=self.steps, grid=self.grid, denoise=self.denoise
        )
        seen = self.measurement

        def misfit(start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch.inference_mode(False), torch.enable_grad():
                start = start.clone().requires_grad_()
                made = solver(
                    problem.model, start, condition=problem.condition, progress=False, grad=True
                )
                residual = seen.residual(made)
                loss = 0.5 * sum_event(residual * seen.whiten(residual))
                (gradient,) = torch.autograd.grad(loss.sum(), start)
            return loss.detach(), gradient, made.detach()

        yield 0.0, minimise(misfit, x, self.iterations)
