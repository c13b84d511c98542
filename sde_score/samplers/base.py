"""The sampler contract: start, seeds, progress, trajectory, the last step, steps for a budget.

A sampler is an immutable description. Its method is one generator, `iterate`, that yields the state
after each step; the rest is here.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from inspect import signature
from typing import Any, ClassVar, Literal, TypeVar, overload

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition
from sde_score._core.progress import progress_bar
from sde_score._core.registry import Registry, format_spec, parse_spec
from sde_score.models import GaussianMixture, Model, as_condition, require_model, stand_in
from sde_score.random import ExampleStreams, Noise, example_seeds
from sde_score.samplers.budget import most_steps
from sde_score.samplers.grids import GRIDS, Grid, sampler_of_file
from sde_score.samplers.problem import Iteration, Problem, Samples, Trajectory
from sde_score.samplers.start import as_start, blank, fitting, sigma_data_of
from sde_score.sdes import SDE, VP

S = TypeVar("S", bound="Sampler")

Callback = Callable[[int, float, Tensor], None]
"""Called after each step with its number (from 1), the time reached and the state; must not change
the state."""


@dataclass(frozen=True)
class Sampler(ABC):
    """A way to draw samples from a model; calling it draws them.

    Args:
        steps: steps from noise to data, the final denoising included, so that a method with one
            evaluation per step makes `steps` evaluations.
        grid: at which times; a name from `GRIDS`, such as `"karras"` or `"uniform(end=0.01)"`, or
            an object.
        denoise: end with the denoised mean E[x0 | x_t] (one evaluation). Without it the samples
            keep the noise of the last time.
        name: what it is called in tables and progress bars; `create` gives the registered name.

    Raises:
        ValueError: for arguments outside their range, on construction.
    """

    steps: int = 100
    grid: str | Grid = "native"
    denoise: bool = True
    name: str = field(default="", kw_only=True, repr=False, compare=False)

    ends_at_data: ClassVar[bool] = False
    """Whether `iterate` takes the last step, to zero noise, itself."""
    descends: ClassVar[bool] = True
    """Whether the time falls at every step; not where chains stay at one time or go back up."""
    from_noise: ClassVar[bool] = True
    """Whether the samples have come all the way from noise, through all times of the SDE."""

    @property
    def adaptive(self) -> bool:
        """Whether a tolerance decides the evaluations, instead of the steps."""
        return False

    @property
    def convergence_order(self) -> int:
        """Order of convergence in the step size: strong for an ODE method, weak for an SDE's."""
        return 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn on the way, beyond the start."""
        return True

    @property
    def undifferentiable(self) -> str:
        """Why no gradient goes through the steps; empty if one does."""
        return ""

    def __init_subclass__(cls) -> None:
        """Keep the text of the contract: `dataclass` would write another for each class."""
        super().__init_subclass__()
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Sampler.__repr__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(steps=self.steps)
        GRIDS.resolve(self.grid, name="grid")

    def __repr__(self) -> str:
        return self.text()

    def text(self, *left_out: str) -> str:
        """The spec: the name, the steps, and all fields that differ from the name's own.

        Args:
            left_out: fields to leave out.
        """
        name = self.name or SAMPLERS.name_of(type(self)) or type(self).__name__
        constructor = SAMPLERS[name] if name in SAMPLERS else type(self)
        defaults = signature(constructor).parameters
        shown = {}
        for key in (f.name for f in fields(self) if f.init and f.repr and f.name not in left_out):
            value, always = getattr(self, key), key == "steps" and not self.adaptive
            if always or key not in defaults or value != defaults[key].default:
                shown[key] = str(value) if isinstance(value, Sampler) else value
        return format_spec(name, shown)

    @property
    def time_grid(self) -> Grid:
        """The grid as an object."""
        return GRIDS.resolve(self.grid)

    def times(self, sde: SDE) -> Tensor:
        """The times at which the model is evaluated, decreasing, float64."""
        return self.time_grid.times(sde, self.steps if self.denoise else self.steps + 1)

    def start_time(self, sde: SDE) -> float:
        """The time of the start: the first of the grid, which most start at `t_max`."""
        return self.times(sde)[0].item()

    def start_spread(self, sde: SDE, sigma_data: float = 1.0) -> float:
        """Scale of the normal distribution that a start is drawn from: at `t_max` the standard
        deviation of the prior, below it the root mean square of x_t,
        sqrt(alpha^2 sigma_data^2 + sigma^2).

        Args:
            sde: the diffusion.
            sigma_data: root mean square of the data.
        """
        time = self.start_time(sde)
        if time == sde.t_max:
            return sde.prior_std
        return math.hypot(float(sde.alpha(time)) * sigma_data, float(sde.sigma(time)))

    @property
    def total(self) -> int | None:
        """Number of states that `iterate` yields; None if it moves the bar itself."""
        return self.steps if self.ends_at_data else self.steps - self.denoise

    @abstractmethod
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        """Carry x from the first time to the last, yielding (time, state) after each step.

        The consumer may change a yielded state in place before it asks for the next.
        With `ends_at_data` and `denoise`, the last step is to zero noise, at time 0.

        Args:
            problem: the model, the times and the source of noise.
            x: state at `problem.times[0]`; owned by the iteration, which may change it in place
                unless gradients are enabled.
        """

    def count_nfe(self, model: Model | SDE | None = None) -> int:
        """Network evaluations per sample, counted on a model of one dimension.

        Args:
            model: that will be sampled, or its diffusion for one a call; None for `VP()`.
        """
        counted = _counted(model)
        if isinstance(counted, SDE):
            counted = GaussianMixture([[0.3]], 0.5, counted)
        return round(self.run(counted, (1, 1), seed=0, progress=False).nfe)

    def steps_for(self, nfe: int, model: Model | SDE | None = None) -> int:
        """The most steps that make at most `nfe` evaluations, found by counting.

        Args:
            nfe: the budget, network evaluations per sample.
            model: as for `count_nfe`.

        Raises:
            ValueError: if no number of steps fits the budget, or a tolerance decides the cost.
        """
        require_count(nfe=nfe)
        if self.adaptive:
            raise ValueError(
                f"nfe={nfe} cannot be met by {self}, whose tolerance decides the evaluations: "
                "set rtol and atol"
            )
        counted: Any = _counted(model)
        try:
            return _steps_for(self, nfe, counted)
        except TypeError:  # a field that cannot be hashed
            return _steps_for.__wrapped__(self, nfe, counted)

    def within(self: S, nfe: int, model: Model | SDE | None = None) -> S:
        """The same sampler with the most steps for a budget; see `steps_for`."""
        return replace(self, steps=self.steps_for(nfe, model))

    @overload
    def __call__(
        self,
        model: Model,
        start: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | None = ...,
        condition: Condition = ...,
        trajectory: Literal[False] = ...,
        callback: Callback | None = ...,
        progress: bool = ...,
        noise: Noise | None = ...,
        grad: bool = ...,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        model: Model,
        start: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | None = ...,
        condition: Condition = ...,
        trajectory: Literal[True],
        callback: Callback | None = ...,
        progress: bool = ...,
        noise: Noise | None = ...,
        grad: bool = ...,
    ) -> Trajectory: ...
    def __call__(
        self,
        model: Model,
        start: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        condition: Condition = None,
        trajectory: bool = False,
        callback: Callback | None = None,
        progress: bool = True,
        noise: Noise | None = None,
        grad: bool = False,
    ) -> Tensor | Trajectory:
        """Draw samples.

        Args:
            model: anything with the model protocol.
            start: shape `(batch, *event)` to start from the prior, or the state at
                `start_time(model.sde)`, which is left as it is.
            seed: sample i depends on (seed, i) alone, not on the batch; a sequence gives each
                sample's own seed; None draws one at random.
            condition: passed to the model, one entry per example.
            trajectory: return all states, as a `Trajectory`.
            callback: called after each step.
            progress: show a bar once sampling takes over two seconds.
            noise: replaces the seeded draws; called once per draw, the start included if it is
                drawn.
            grad: keep the graph through all steps, so that gradients reach the start and the
                model's parameters; memory grows with the steps.

        Returns:
            samples of shape `(batch, *event)`, in at least float32, or the `Trajectory`.

        Raises:
            ValueError: if shapes do not agree, `grad` is asked of a sampler without a gradient, or
                not asked for a start that requires one.
            TypeError: if `start` is not floating point.
        """
        require_model(model, whole=False)
        start = as_start(start)
        x = blank(model, start)
        condition = as_condition(condition, len(x), x.device, model)
        draw = noise or ExampleStreams(example_seeds(seed, x.shape[0]), x)
        self._check_gradient(start, grad)
        with torch.set_grad_enabled(grad):
            x = self._start(model, start, draw, x)
            first_nfe = model.nfe
            states = [(self.start_time(model.sde), x.clone())] if trajectory else []
            steps = self._walk(model, x, draw, condition, progress)
            for index, (time, state) in enumerate(steps, 1):
                x = state
                if callback is not None:
                    callback(index, time, state)
                if trajectory:
                    states.append((time, state.clone()))
            if not trajectory:
                return x
            times = torch.tensor([time for time, _ in states], dtype=torch.float64)
            return Trajectory(x, model.nfe - first_nfe, times, torch.stack([s for _, s in states]))

    def run(
        self,
        model: Model,
        start: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        condition: Condition = None,
        callback: Callback | None = None,
        progress: bool = True,
        noise: Noise | None = None,
        grad: bool = False,
    ) -> Samples:
        """Draw samples, and count their cost. Arguments and errors are those of a call."""
        require_model(model, whole=False)
        before = model.nfe
        x = self(
            model, start, seed=seed, condition=condition, callback=callback, progress=progress,
            noise=noise, grad=grad,
        )  # fmt: skip
        return Samples(x, model.nfe - before)

    def _check_gradient(self, start: Sequence[int] | Tensor, grad: bool) -> None:
        if grad and self.undifferentiable:
            raise ValueError(f"grad=True: no gradient goes through {self}: {self.undifferentiable}")
        wanted = isinstance(start, Tensor) and start.requires_grad and torch.is_grad_enabled()
        if wanted and not grad:
            raise ValueError(
                "start requires a gradient and grad=False keeps none: set grad=True, or give "
                "start.detach()"
            )

    def _start(
        self, model: Model, start: Sequence[int] | Tensor, draw: Noise, empty: Tensor
    ) -> Tensor:
        """The first state, in a tensor of its own."""
        if isinstance(start, Tensor):
            return start.to(empty).clone() if start.requires_grad else empty.copy_(start)
        std = self.start_spread(model.sde, sigma_data_of(model))
        return torch.mul(fitting(draw(), empty), std, out=empty)

    def _walk(
        self, model: Model, x: Tensor, noise: Noise, condition: Condition, progress: bool
    ) -> Iteration:
        times, total, name = self.times(model.sde), self.total, self.text("steps")
        with progress_bar(total=total, name=name, shown=progress) as bar:
            problem = Problem(model, times, noise, condition, bar.update)
            for time, state in self.iterate(problem, x):
                x = state
                bar.update(total is not None)
                yield time, x
            if self.denoise and not self.ends_at_data:
                yield 0.0, problem.denoise(x, times[-1].to(x.device))


def _counted(model: Model | SDE | None) -> Model | SDE:
    """What evaluations are counted on: a model's own stand-in if it has one, or its diffusion."""
    if model is None or isinstance(model, SDE):
        return model or VP()
    return stand_in(model) if hasattr(model, "stand_in") else model.sde


@lru_cache(maxsize=4096)
def _steps_for(sampler: Sampler, nfe: int, counted: Model | SDE) -> int:
    return most_steps(lambda steps: replace(sampler, steps=steps).count_nfe(counted), nfe)


class SamplerRegistry(Registry[Sampler]):
    """Samplers by name; each that is made knows its name."""

    @override
    def create(self, spec: str, *, model: Model | SDE | None = None, **arguments: Any) -> Sampler:
        """Build the sampler that `spec` names; keyword arguments override those in the spec.

        Args:
            spec: such as `"heun(steps=18)"`, `"heun(nfe=35)"`, or a .json file of `tune`.
            model: for `nfe`, the model that will be sampled; see `Sampler.count_nfe`.
            arguments: fields of the sampler, or `nfe` in place of `steps`: a budget of network
                evaluations, within which as many steps are taken as it allows.

        Raises:
            ValueError: for an unknown name, arguments that it does not accept, both `nfe` and
                `steps`, a budget that cannot be met, or a damaged file.
        """
        if not isinstance(spec, str):
            return super().create(spec)
        given, from_spec = sampler_of_file(spec) if spec.endswith(".json") else parse_spec(spec)
        merged = {**from_spec, **arguments}
        nfe = merged.pop("nfe", None)
        if nfe is not None and "steps" in merged:
            raise ValueError(f"nfe={nfe} and steps={merged['steps']} both say how long: give one")
        made = copy.copy(super().create(given, **merged))
        object.__setattr__(made, "name", made.name or self.listed(given))
        return made if nfe is None else made.within(nfe, model)

    @override
    def resolve(
        self, value: str | Sampler, name: str = "", *, model: Model | SDE | None = None
    ) -> Sampler:
        """A sampler as it is, or built from text by `create`; `name` is that of the argument."""
        if isinstance(value, str) and model is not None:
            return self.create(value, model=model)
        return super().resolve(value, name)

    def name_of(self, kind: type[Sampler]) -> str | None:
        """The first name under which a class is registered, if any."""
        return next((name for name, made in self.items() if made is kind), None)


SAMPLERS = SamplerRegistry("sampler", base=Sampler)
"""All samplers by name, filled from `published.METHODS` and by `register`."""
