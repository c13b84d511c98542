"""Posterior methods of azula on our problems, where it is installed: `pip install azula`.

Its guided denoisers are models that our ancestral sampler runs on, step by step as its own does;
its samplers with steps of their own draw samples, on the same times. Both ask the same exact
denoiser. deepinv has no affine recursion to drive, and is left to the other tables.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from typing_extensions import override

from sde_score import samplers
from sde_score.models import GaussianMixture, Model, Scales, WrappedDenoiser
from sde_score.posterior import Measurement

GUIDED = {
    "azula mmps": ("mmps", "MMPSDenoiser", {}),
    "azula mmps, 2 steps of gmres": ("mmps", "MMPSDenoiser", {"iterations": 2}),
    "azula tmpd": ("tmpd", "TMPDenoiser", {}),
    "azula diffpir": ("diffpir", "DiffPIRDenoiser", {}),
}
"""Rows of guided denoisers: the module, the class and its arguments."""

STEPPING = {
    "azula dps": ("dps", "DPSSampler", {"zeta": 0.3}),
    "azula pgdm": ("pgdm", "PGDMSampler", {"eta": 1.0}),
    "azula tds": ("tds", "TDSSampler", {}),
}
"""Rows of samplers with steps of their own. Its DPS divides by the norm of the whole batch, so that
its figure is of that batch; its PGDM knows no noise of y; its TDS moves as many particles as are
drawn, with the twist of PiGDM, as it takes a function of D alone."""

NAMES = [*GUIDED, *STEPPING] if find_spec("azula") else []


class Known(Protocol):
    """A problem: the model of the prior, and what was seen."""

    @property
    def prior(self) -> GaussianMixture: ...

    @property
    def seen(self) -> Measurement: ...


class Denoiser(nn.Module):
    """A prior as azula's denoiser on x_t = x0 + t noise."""

    def __init__(self, prior: Model) -> None:
        super().__init__()
        self.prior = prior

    @staticmethod
    def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def forward(self, x: Tensor, t: Tensor) -> Any:
        dirac: Any = importlib.import_module("azula.denoise").DiracPosterior
        return dirac(self.prior.denoise(x, t))


class Theirs(WrappedDenoiser):
    """A guided denoiser of azula as our model."""

    def __init__(self, prior: Model, guided: Any) -> None:
        super().__init__(prior)
        self.guided = guided

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Any) -> Tensor:
        mean: Tensor = self.guided(x, at.t).mean
        return mean


def class_of(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class of a row and its own arguments."""
    module, kind, given = {**GUIDED, **STEPPING}[name]
    return getattr(importlib.import_module(f"azula.guidance.{module}"), kind), dict(given)


def model_of(name: str, prior: Model, seen: Measurement) -> Theirs:
    """A guided denoiser, given what was seen."""
    make, given = class_of(name)
    variance = float(seen.variance)
    noise = "cov_y" if name.startswith("azula mmps") else "var_y"
    given[noise] = (lambda v: variance * v) if noise == "cov_y" else variance
    guided = make(Denoiser(prior), y=seen.y[None], A=seen.operator.forward, **given)
    return Theirs(prior, guided)


def twist_of(seen: Measurement) -> Callable[[Tensor, Tensor], Tensor]:
    """log N(y; A D, R + r^2 A A^T), r^2 = s^2 / (1 + s^2) at the noise ratio s."""
    a, noise = seen.operator.matrix, seen.noise_root @ seen.noise_root.T

    def twist(x0: Tensor, ratio: Tensor) -> Tensor:
        residual = seen.residual(x0).flatten(1)
        spread = noise + ratio**2 / (1 + ratio**2) * a @ a.T
        return MultivariateNormal(torch.zeros_like(residual[0]), spread).log_prob(residual)

    return twist


def samples_of(name: str, problem: Known, steps: int, shape: Sequence[int]) -> Tensor:
    """Samples of a sampler on the times of Karras et al., and zero after them."""
    make, given = class_of(name)
    operator = problem.seen.operator
    if name == "azula tds":
        given["twist"] = twist_of(problem.seen)
    else:
        given.update(y=problem.seen.y[None], A=operator.forward)
    if name == "azula pgdm":
        given["A_inv"] = operator.pinv
    ours = samplers.create("ddim", steps=steps, grid="karras")
    times = torch.cat([ours.times(problem.prior.sde), torch.zeros(1, dtype=torch.float64)])
    kind = type("OnTimes", (make,), {"timesteps": times})  # type: ignore[arg-type]
    theirs = kind(Denoiser(problem.prior), silent=True, **given)
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64) * times[0]
    made: Tensor = theirs(x)
    return made
