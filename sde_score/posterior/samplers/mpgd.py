"""Manifold-preserving guidance: the denoised mean is moved, without the network's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_nonnegative, sum_event
from sde_score.posterior.samplers.base import PosteriorSampler
from sde_score.samplers import DDIM
from sde_score.samplers.problem import Iteration, Problem


@dataclass(frozen=True)
class MPGD(PosteriorSampler):
    r"""Steps of DDIM whose denoised mean is moved towards y, by a gradient with respect to itself.

    .. math:: D \leftarrow D - c\, \nabla_D \| y - A D \|, \qquad
              x_s = \alpha_s D + \sqrt{\sigma_s^2 - f^2}\, \hat\epsilon + f z

    with the noise of before in \hat\epsilon; one evaluation and no backward pass a step. Without an
    autoencoder, which the paper may put behind the gradient.

    Args:
        step_size: c, >= 0; no more than the residual is taken away.
        eta: as that of `samplers.DDIM`, in [0, 1].

    Reference: He et al. 2024, https://arxiv.org/abs/2311.16424, algorithm 1.
    """

    step_size: float = 0.5
    eta: float = 0.5

    ends_at_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_nonnegative(step_size=self.step_size)
        DDIM(eta=self.eta)

    @property
    @override
    def limit(self) -> str:
        return "biased: x0 is pulled onto y however noisy that is, by a strength set by hand"

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        sde, times = problem.sde, problem.times
        rows = DDIM(eta=self.eta).rows(sde, times)
        ends = sde.alpha(times).tolist()
        for k, (t, (a, b, c)) in enumerate(zip(problem.moments(x.device), rows, strict=False)):
            x0 = problem.denoise(x, t)
            score = (ends[k] * x0 - x) / sde.sigma(t).to(x) ** 2
            x = a * x + b * score + ends[k + 1] * (self._moved(x0) - x0)
            if c:
                x = x + c * problem.between(*times[k : k + 2].tolist())
            yield times[k + 1].item(), x
        if self.denoise:
            x0 = problem.denoise(x, times[-1].to(x.device))
            yield 0.0, self._moved(x0)

    def _moved(self, x0: Tensor) -> Tensor:
        """D - c grad |y - A D|, the step no longer than one that takes the residual away."""
        seen = self.measurement
        residual = seen.residual(x0)
        norm = sum_event(residual * residual).sqrt().clamp(min=torch.finfo(x0.dtype).tiny)
        back = seen.operator.adjoint(residual / expand_like(norm, residual))
        moved = seen.operator(back)
        most = norm / sum_event(moved * moved).sqrt().clamp(min=torch.finfo(x0.dtype).tiny)
        return x0 + expand_like(most.clamp(max=self.step_size), x0) * back
