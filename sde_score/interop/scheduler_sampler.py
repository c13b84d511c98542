"""Schedulers of diffusers as samplers of ours, on any model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from sde_score.interop.diffusers_scheduler import CHAINS
from sde_score.interop.extras import require_extra
from sde_score.samplers import GRIDS, Sampler
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE, Tabulated

_LAYERS = 1000
_LEFT_OUT = {"DDIMInverse", "DPMSolverSDE"}  # backwards, or with a package of its own
_NOISY = ("DDPM", "DDPMParallel", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete", "SASolver")
_OF_THE_MODEL = ("trained_betas", "num_train_timesteps", "prediction_type", "clip_sample")


@dataclass(frozen=True)
class SchedulerSampler(Sampler):
    r"""A scheduler of diffusers as a sampler, in benchmarks and comparisons as any other.

    Its chain is that of the model's diffusion: the layers of `Tabulated`, else 1000 noise levels on
    the SDE's own grid, as betas. States are converted on the way, since x / alpha depends on the
    noise level alone:

    .. math:: \frac{x}{\alpha} = x_0 + \frac{\sigma}{\alpha} z

    Its random draws are those of our seeds. Text names it too, in every command:
    `"diffusers(scheduler='UniPCMultistep')"`.

    Args:
        steps: `num_inference_steps`; a scheduler of second order makes two evaluations a step.
        scheduler: name, such as `"DPMSolverMultistep"` or `"EulerDiscreteScheduler"`, or a
            scheduler, of which class and configuration are taken, but for the chain.
        options: further arguments of the scheduler, such as `{"use_karras_sigmas": True}`.

    Raises:
        DataError: if diffusers is not installed.
        ValueError: for a scheduler that is no chain of betas.
    """

    scheduler: Any = "DDIM"
    options: Any = ()

    ends_at_data = True
    descends = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name, options = self.scheduler, dict(self.options)
        if not isinstance(name, str):
            usual = signature(type(name).__init__).parameters
            kept = {
                key: value
                for key, value in dict(name.config).items()
                if _is_kept(key) and (key not in usual or value != usual[key].default)
            }
            name, options = type(name).__name__, {**kept, **options}
        name = name.removesuffix("Scheduler")
        if name not in CHAINS or name in _LEFT_OUT:
            accepted = ", ".join(kind for kind in CHAINS if kind not in _LEFT_OUT)
            raise ValueError(f"scheduler={name!r} is not supported; supported are {accepted}")
        for key, value in options.items():
            if isinstance(value, list):
                options[key] = tuple(value)
        object.__setattr__(self, "scheduler", name)
        object.__setattr__(self, "options", tuple(sorted(options.items())))
        object.__setattr__(self, "name", self.name or "diffusers")

    @property
    @override
    def total(self) -> int | None:
        return None

    @property
    @override
    def stochastic(self) -> bool:
        kind = str(dict(self.options).get("algorithm_type", ""))
        return self.scheduler in _NOISY or kind.startswith("sde")

    @property
    @override
    def undifferentiable(self) -> str:
        return "schedulers of diffusers are not made for it"

    def make(self, sde: SDE) -> Any:
        """The scheduler with the chain of a diffusion, its timesteps set."""
        module = require_extra("diffusers", "diffusers")
        kind = getattr(module, f"{self.scheduler}Scheduler")
        taken = signature(kind.__init__).parameters
        usual = {"clip_sample": False, "set_alpha_to_one": True, "prediction_type": "epsilon"}
        betas = chain_of(sde)
        made = kind(
            **{
                **{key: value for key, value in usual.items() if key in taken},
                **dict(self.options),
                "num_train_timesteps": len(betas),
                "trained_betas": betas,
            }
        )
        made.set_timesteps(self.steps)
        return made

    @override
    def times(self, sde: SDE) -> Tensor:
        """The times of all evaluations, and none for the end."""
        return torch.tensor(_times(self, sde), dtype=torch.float64)

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        sde, made = problem.sde, self.make(problem.sde)
        count = len(made.timesteps)
        t, factor = _ours(sde, *_place(made, 0))
        theirs = x / factor
        for index, step in enumerate(made.timesteps):
            noise = problem.expected_noise(theirs * factor, t.to(x.device))
            with _Draws(problem.noise, x.shape):
                theirs = made.step(noise, step, theirs).prev_sample
            problem.tick()
            if index == count - 1:
                yield 0.0, theirs.to(x.dtype)
                return
            t, factor = _ours(sde, *_place(made, index + 1))
            state = (theirs * factor).to(x.dtype)
            yield float(t), state
            theirs = state / factor


@lru_cache(maxsize=16)
def _times(sampler: SchedulerSampler, sde: SDE) -> list[float]:
    made = sampler.make(sde)
    ratios = [_place(made, index)[0] for index in range(len(made.timesteps))]
    times = sde.time_of_noise_ratio(torch.tensor(ratios, dtype=torch.float64))
    return [float(t) for t in times]


def _is_kept(key: str) -> bool:
    return not key.startswith(("_", "beta_")) and key not in _OF_THE_MODEL


def chain_of(sde: SDE) -> list[float]:
    """Betas of the chain through the noise levels of a diffusion.

    Args:
        sde: any; of one that does not preserve variance, x / alpha is followed.
    """
    if isinstance(sde, Tabulated):
        times = torch.arange(1, len(sde.log_snrs) + 1, dtype=torch.float64) / len(sde.log_snrs)
    else:
        times = GRIDS.create("native").times(sde, _LAYERS).flip(0)
    log_alpha2 = -torch.nn.functional.softplus(-sde.log_snr(times))
    steps = torch.cat([log_alpha2[:1], log_alpha2.diff()])
    betas: list[float] = (-torch.expm1(steps)).tolist()
    return betas


def _place(made: Any, index: int) -> tuple[float, bool]:
    """Noise ratio of an evaluation, and whether the state is data plus noise, unscaled."""
    step = made.timesteps[index]
    probe = float(made.scale_model_input(torch.ones(1, dtype=torch.float64), step))
    if probe != 1.0:
        return math.sqrt(max(1 / probe**2 - 1, 0.0)), True
    sigmas = getattr(made, "sigmas", None)
    if sigmas is not None and len(sigmas) == len(made.timesteps) + 1:
        return float(sigmas[index]), False
    product = made.alphas_cumprod[int(step)].double()
    return float(((1 - product) / product).sqrt()), False


def _ours(sde: SDE, ratio: float, unscaled: bool) -> tuple[Tensor, float]:
    """Our time, and the factor from their state to ours."""
    t = sde.time_of_noise_ratio(torch.tensor(ratio, dtype=torch.float64))
    scale = 1.0 if unscaled else math.sqrt(1 + ratio**2)
    return t, scale * float(sde.alpha(t))


class _Draws(TorchFunctionMode):
    """Draws of normal numbers in the shape of the state are those of a source of noise."""

    def __init__(self, noise: Callable[[], Tensor], shape: torch.Size) -> None:
        super().__init__()
        self.noise, self.shape = noise, tuple(shape)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            size = args[0] if args and not isinstance(args[0], int) else args
            if tuple(size) == self.shape:
                return self.noise().clone()
        return func(*args, **(kwargs or {}))
