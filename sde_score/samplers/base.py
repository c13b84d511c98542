"""What every sampler does around its own step: start, seeds, progress, trajectory, the last step.

A sampler is an immutable description. Its method is one generator, `iterate`, that yields the state
after each step; the rest is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, overload, runtime_checkable

import torch
from torch import Tensor, nn

from sde_score._core.checks import require_batch, require_count
from sde_score.models import Model
from sde_score.random import ExampleStreams, Noise, example_seeds
from sde_score.samplers.grids import GRIDS, Grid
from sde_score.sdes import SDE


@runtime_checkable
class Path(Protocol):
    """A source of noise that is a path over the clock log(sigma / alpha)."""

    def between(self, a: float, b: float) -> Tensor:
        """The increment of the path from a to b, scaled to a standard normal draw."""
        ...


Callback = Callable[[int, float, Tensor], None]
"""Called after each step with its number (from 1), the time reached and the state; must not change
the state."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A sampling run with all that happened on the way.

    Args:
        samples: the result, shape `(batch, *event)`.
        times: time of each state, from `t_max`; 0 for the denoised result, float64 of shape
            `(states,)`.
        states: shape `(states, batch, *event)`, the start included.
        nfe: network evaluations, counted on the model.
    """

    samples: Tensor
    times: Tensor
    states: Tensor
    nfe: int


@dataclass(frozen=True, eq=False)
class Problem:
    """All that an iteration needs besides its state.

    Args:
        model: read through the model protocol alone.
        times: decreasing, float64, on the CPU.
        noise: source of standard normal draws.
        condition: passed to the model.
        tick: moves the progress bar; for iterations whose steps are not those they yield.
    """

    model: Model
    times: Tensor
    noise: Noise
    condition: Tensor | None
    tick: Callable[[], object]

    @property
    def sde(self) -> SDE:
        """The model's diffusion."""
        return self.model.sde

    def moments(self, device: torch.device) -> tuple[Tensor, ...]:
        """The times as scalars on a device, so that the loop does not copy any."""
        return self.times.to(device).unbind()

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's score under the condition."""
        return self.model.score(x, t, self.condition)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's denoised mean under the condition."""
        return self.model.denoise(x, t, self.condition)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's velocity under the condition."""
        return self.model.velocity(x, t, self.condition)

    def expected_noise(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's noise under the condition."""
        return self.model.noise(x, t, self.condition)

    def between(self, t: float, s: float) -> Tensor:
        """A standard normal draw for the step from t to an earlier s > 0.

        A path answers with its own increment, so that steps of any size see the same noise.
        """
        if not isinstance(self.noise, Path):
            return self.noise()
        clock = -0.5 * self.sde.log_snr(torch.tensor([t, s], dtype=torch.float64))
        return self.noise.between(*clock.tolist())


Iteration = Iterator[tuple[float, Tensor]]
"""Yields the time reached and the state, step by step."""


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

    Raises:
        ValueError: for arguments outside their range, on construction.
    """

    steps: int = 100
    grid: str | Grid = "native"
    denoise: bool = True

    @property
    def ends_at_data(self) -> bool:
        """Whether `iterate` takes the last step, to zero noise, itself."""
        return False

    @property
    def convergence_order(self) -> int:
        """Order of convergence in the step size: strong for an ODE method, weak for an SDE's."""
        return 1

    @property
    def evaluations(self) -> str:
        """Network evaluations per step, for tables; the truth is counted on the model."""
        return "1"

    @property
    def reference(self) -> str:
        """The paper."""
        return ""

    def __post_init__(self) -> None:
        require_count(steps=self.steps)
        _ = self.time_grid

    @property
    def time_grid(self) -> Grid:
        """The grid as an object."""
        return GRIDS.create(self.grid) if isinstance(self.grid, str) else self.grid

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn on the way, beyond the start."""
        return True

    @abstractmethod
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        """Carry x from the first time to the last, yielding (time, state) after each step.

        The consumer may change a yielded state in place before it asks for the next.
        With `ends_at_data` and `denoise`, the last step is to zero noise, at time 0.

        Args:
            problem: the model, the times and the source of noise.
            x: state at `problem.times[0]`; owned by the iteration, which may change it in place.
        """

    @overload
    def __call__(
        self,
        model: Model,
        start: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | None = ...,
        condition: Tensor | None = ...,
        trajectory: Literal[False] = ...,
        callback: Callback | None = ...,
        progress: bool = ...,
        noise: Noise | None = ...,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        model: Model,
        start: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | None = ...,
        condition: Tensor | None = ...,
        trajectory: Literal[True],
        callback: Callback | None = ...,
        progress: bool = ...,
        noise: Noise | None = ...,
    ) -> Trajectory: ...
    @torch.no_grad()
    def __call__(
        self,
        model: Model,
        start: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        condition: Tensor | None = None,
        trajectory: bool = False,
        callback: Callback | None = None,
        progress: bool = True,
        noise: Noise | None = None,
    ) -> Tensor | Trajectory:
        """Draw samples.

        Args:
            model: anything with the model protocol.
            start: shape `(batch, *event)` to start from the prior, or the state at `sde.t_max`,
                which is left as it is.
            seed: sample i depends on (seed, i) alone, not on the batch; a sequence gives each
                sample's own seed; None draws one at random.
            condition: passed to the model, one entry per example.
            trajectory: return all states, as a `Trajectory`.
            callback: called after each step.
            progress: show a bar once sampling takes over two seconds.
            noise: replaces the seeded draws; called once per draw, the start included if it is
                drawn.

        Returns:
            samples of shape `(batch, *event)`, in at least float32, or the `Trajectory`.

        Raises:
            ValueError: if shapes do not agree.
            TypeError: if `start` is not floating point.
        """
        x = _blank(model, start)
        draw = noise or ExampleStreams(example_seeds(seed, x.shape[0]), x)
        if isinstance(start, Tensor):
            x.copy_(start)
        else:
            torch.mul(_fitting(draw(), x), self.start_std_on(model.sde), out=x)
        first_nfe = model.nfe
        states = [(self.start_time(model.sde), x.clone())] if trajectory else []
        for index, (time, state) in enumerate(self._walk(model, x, draw, condition, progress), 1):
            x = state
            if callback is not None:
                callback(index, time, state)
            if trajectory:
                states.append((time, state.clone()))
        if not trajectory:
            return x
        times = torch.tensor([time for time, _ in states], dtype=torch.float64)
        return Trajectory(x, times, torch.stack([s for _, s in states]), model.nfe - first_nfe)

    def _walk(
        self, model: Model, x: Tensor, noise: Noise, condition: Tensor | None, progress: bool
    ) -> Iteration:
        from tqdm.auto import tqdm

        times, total = self.times(model.sde), self.total
        name = type(self).__name__
        with tqdm(total=total, desc=name, unit="step", delay=2, disable=not progress) as bar:
            problem = Problem(model, times, noise, condition, bar.update)
            for time, state in self.iterate(problem, x):
                x = state
                bar.update(total is not None)
                yield time, x
            if self.denoise and not self.ends_at_data:
                yield 0.0, problem.denoise(x, times[-1].to(x.device))

    def start_time(self, sde: SDE) -> float:
        """The time of the start: the first of the grid, which most start at `t_max`."""
        return self.times(sde)[0].item()

    def start_std_on(self, sde: SDE) -> float:
        """Standard deviation of a start that is drawn: that of the prior, and of a grid that starts
        below `t_max` the same share of it as of the noise."""
        share = sde.sigma(self.start_time(sde)) / sde.sigma(sde.t_max)
        return sde.prior_std * share.item()

    @property
    def total(self) -> int | None:
        """Number of states that `iterate` yields; None if it moves the bar itself."""
        return self.steps if self.ends_at_data else self.steps - self.denoise

    def times(self, sde: SDE) -> Tensor:
        """The times at which the model is evaluated, decreasing, float64."""
        return self.time_grid.times(sde, self.steps if self.denoise else self.steps + 1)


def _fitting(draw: Tensor, x: Tensor) -> Tensor:
    """A draw from a source of noise that is not ours, if it has the shape of the state."""
    if draw.shape != x.shape:
        raise ValueError(
            f"noise gave a draw of shape {tuple(draw.shape)} for samples of shape {tuple(x.shape)}"
        )
    return draw


def _blank(model: Model, start: Sequence[int] | Tensor) -> Tensor:
    """An empty state: where and how precise the model and the start are, at least float32."""
    if isinstance(start, Tensor):
        require_batch("start", start)
        dtype = torch.promote_types(start.dtype, torch.float32)
        return torch.empty_like(start, dtype=dtype, memory_format=torch.contiguous_format)
    shape = tuple(start)
    require_count(**{f"start[{i}]": size for i, size in enumerate(shape)})
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    like = next((p for p in tensors if p.is_floating_point()), torch.empty(()))
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.empty(shape, dtype=dtype, device=like.device)
