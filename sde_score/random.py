"""Random draws that depend on the example, never on how the batch was cut.

- **Training** draws for a whole global batch and each process keeps its rows (`BatchSlice`), so
  that two processes with half the batch each see the very numbers that one process sees.
- **Sampling** gives each example its own stream (`ExampleStreams`), so that sample i is the same
  in a batch of 1 or of 64, and on one device or on eight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from operator import index
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

from sde_score._core.checks import is_integer, refusal, require_choice, require_count

Noise = Callable[[], Tensor]
"""A source of standard normal draws: each call gives the next, shape `(batch, *event)`."""

# SplitMix64: the increment, and the factors of the finalizer.
_INCREMENT, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1

GOLDEN = _INCREMENT - (1 << 64)
"""The increment of SplitMix64 as an int64: the golden ratio in 64 bits."""


def mix(*numbers: int) -> int:
    """Hash integers into one 63-bit seed; any change of any number changes every bit.

    Reference: the SplitMix64 finalizer, Steele, Lea & Flood 2014,
    https://doi.org/10.1145/2714064.2660195.
    """
    state = 0
    for number in numbers:
        state = (state + (index(number) & _MASK) + _INCREMENT) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state >> 1


def mix_tensor(state: Tensor, number: Tensor | int) -> Tensor:
    """`mix` for tensors of int64: absorb a number into a 64-bit state, all 64 bits kept."""
    return finalize_(state + number + GOLDEN)


def finalize_(bits: Tensor) -> Tensor:
    """The SplitMix64 finalizer for a tensor of int64, in place."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        bits ^= logical_shift(bits, shift)
        bits *= factor - (1 << 64)
    bits ^= logical_shift(bits, 31)
    return bits


def logical_shift(bits: Tensor, count: int) -> Tensor:
    """Shift int64 to the right and fill with zeros; torch fills with the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def generator_from(*numbers: int, device: torch.device | str = "cpu") -> Generator:
    """A generator on `device` whose stream is a function of the given integers."""
    return Generator(device=device).manual_seed(mix(*numbers))


DRAWS = (
    *("bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "kaiming_uniform_"),
    *("log_normal_", "multinomial", "normal", "normal_", "rand", "randint", "randn", "random_"),
    *("randperm", "uniform_"),
)
"""Functions of torch that draw from the global generator unless they are given one."""


class _DrawingFrom(TorchFunctionMode):
    """Draws of this thread on the CPU come from one generator."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__name__", "") in DRAWS and given.get("generator") is None:
            places = (given.get("device"), *(getattr(thing, "device", None) for thing in args[:1]))
            if all(place is None or torch.device(place).type == "cpu" for place in places):
                given["generator"] = self.generator
        return func(*args, **given)


@contextmanager
def initializing(*numbers: int) -> Iterator[None]:
    """While networks are made: their weights are a function of the integers alone.

    They are drawn from a generator of their own, so that threads do not disturb each other, with
    the bits that the global generator would give. It is kept as it was; what takes no generator,
    such as `torch.rand_like`, draws from it.
    """
    seed = mix(*numbers)
    with torch.random.fork_rng(devices=[]), _DrawingFrom(Generator().manual_seed(seed)):
        torch.default_generator.manual_seed(seed)
        yield


_STEP: ContextVar[Generator | None] = ContextVar("step", default=None)


@contextmanager
def drawing_from(generator: Generator) -> Iterator[None]:
    """While a network is evaluated: what it draws comes from a generator, in this thread alone."""
    token = _STEP.set(generator)
    try:
        yield
    finally:
        _STEP.reset(token)


def step_generator() -> Generator | None:
    """The generator of `drawing_from`, None outside."""
    return None if torch.compiler.is_compiling() else _STEP.get()


@dataclass(frozen=True)
class BatchSlice:
    """A generator for rows `start : start + batch` of a global batch of `total` rows.

    Args:
        generator: in the same state on every process.
        start: global index of this process's first row.
        total: rows of the global batch.
    """

    generator: Generator
    start: int
    total: int

    def rows(self, batch: int) -> slice:
        """The rows of a process that holds `batch` examples.

        Raises:
            ValueError: if they do not lie within the global batch.
        """
        if not 0 <= self.start <= self.start + batch <= self.total:
            raise ValueError(
                f"rows {self.start} to {self.start + batch} do not lie in a batch of {self.total}"
            )
        return slice(self.start, self.start + batch)


@dataclass(frozen=True, eq=False)
class PairedSlice(BatchSlice):
    """A batch slice with the noise that its examples are paired with.

    Args:
        noise: of the rows of this process, standard normal, like the examples.
    """

    noise: Tensor


Draws = Generator | BatchSlice | None


def noise_beside(x0: Tensor, generator: Draws = None) -> Tensor:
    """Standard normal noise like x0: what the examples are paired with, or else a new draw."""
    return generator.noise if isinstance(generator, PairedSlice) else normal(x0, generator)


def _rows(
    shape: Sequence[int], generator: Draws
) -> tuple[tuple[int, ...], Generator | None, slice]:
    if isinstance(generator, BatchSlice):
        return (generator.total, *shape[1:]), generator.generator, generator.rows(shape[0])
    return tuple(shape), generator, slice(None)


def _draw_device(generator: Generator | None, device: torch.device) -> torch.device:
    return device if generator is None else generator.device


def normal(like: Tensor, generator: Draws = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `like`, shape `(batch, *event)`."""
    shape, source, rows = _rows(like.shape, generator)
    device = _draw_device(source, like.device)
    draw = torch.randn(shape, generator=source, dtype=like.dtype, device=device)
    return draw[rows].to(like.device)


def uniform(batch: int, generator: Draws = None, device: torch.device | str = "cpu") -> Tensor:
    """Independent uniform numbers in [0, 1), float64, shape `(batch,)`."""
    shape, source, rows = _rows((batch,), generator)
    where = _draw_device(source, torch.device(device))
    draw = torch.rand(shape, generator=source, dtype=torch.float64, device=where)
    return draw[rows].to(device)


def uniform_like(x: Tensor, generator: Draws = None) -> Tensor:
    """Independent uniform numbers in [0, 1), float64, in the shape of a batch `(batch, *event)`;
    a `BatchSlice` draws for the whole global batch."""
    size = prod(x.shape[1:])
    if isinstance(generator, BatchSlice):
        first, total = generator.start * size, generator.total * size
        generator = BatchSlice(generator.generator, first, total)
    return uniform(x.numel(), generator, x.device).reshape(x.shape)


def stratified(batch: int, generator: Draws = None, device: torch.device | str = "cpu") -> Tensor:
    """Low-discrepancy uniform numbers: one shared offset, `u_i = frac(u + i / batch)`, shape
    `(batch,)`.

    Each `u_i` is uniform on its own; together they cover [0, 1) evenly.

    Reference: Kingma et al. 2021 (VDM), appendix I.1, https://arxiv.org/abs/2107.00630.
    """
    (total,), source, rows = _rows((batch,), generator)
    where = _draw_device(source, torch.device(device))
    offset = torch.rand((), generator=source, dtype=torch.float64, device=where)
    points = torch.arange(total, dtype=torch.float64, device=where) / total
    return ((points + offset) % 1.0)[rows].to(device)


def _rademacher(draw: Tensor) -> Tensor:
    return torch.ones((), dtype=draw.dtype, device=draw.device).copysign(draw)


def _sphere(draw: Tensor) -> Tensor:
    flat = draw.reshape(draw.shape[0], -1)
    radius = flat.shape[1] ** 0.5
    scaled: Tensor = radius * flat / flat.norm(dim=1, keepdim=True)
    return scaled.reshape(draw.shape)


PROBE_DISTRIBUTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rademacher": _rademacher,
    "gaussian": torch.clone,
    "sphere": _sphere,
}
"""Distributions of zero mean and unit covariance over the events of a batch, each a function of a
standard normal draw; `sphere` has norm sqrt(D)."""


def require_probes(probes: int, probe_distribution: str) -> None:
    """Refuse a count below 1 and a distribution that is not in `PROBE_DISTRIBUTIONS`.

    Raises:
        ValueError: naming the argument.
    """
    require_count(probes=probes)
    require_choice("probe_distribution", probe_distribution, tuple(PROBE_DISTRIBUTIONS))


def probes(
    count: int, like: Tensor, distribution: str = "rademacher", generator: Draws = None
) -> Tensor:
    """Random probes v with E[v v^T] = I, for Hutchinson's estimator and slicing.

    Args:
        count: number of probes per example, at least 1.
        like: a batch `(batch, *event)` that gives shape, dtype and device.
        distribution: a name in `PROBE_DISTRIBUTIONS`.
        generator: source of the draws.

    Returns:
        Shape `(count, batch, *event)`.

    Raises:
        ValueError: for an unknown distribution or a count below 1.
    """
    require_probes(count, distribution)
    drawn = [PROBE_DISTRIBUTIONS[distribution](normal(like, generator)) for _ in range(count)]
    return torch.stack(drawn) if count > 1 else drawn[0][None]


# Rows are filled in blocks of at least this many numbers, so that small events do not pay one
# generator call per step. It depends on nothing but the event, or samples would change with the
# batch.
_BLOCK = 1024


class ExampleStreams:
    """One stream of standard normal draws per example.

    Args:
        seeds: one integer per example.
        like: a batch `(batch, *event)` that gives shape, dtype and device.
    """

    def __init__(self, seeds: Sequence[int], like: Tensor) -> None:
        if len(seeds) != like.shape[0]:
            raise ValueError(f"{len(seeds)} seeds were given for a batch of {like.shape[0]}")
        self._generators = [generator_from(seed, device=like.device) for seed in seeds]
        event = like.shape[1:]
        self._depth = max(1, -(-_BLOCK // max(1, prod(event))))
        self._block = torch.empty(
            (like.shape[0], self._depth, *event), dtype=like.dtype, device=like.device
        )
        self._next = self._depth

    def __call__(self) -> Tensor:
        """The next draw of every example, shape `(batch, *event)`; valid until the next call."""
        if self._next == self._depth:
            for row, generator in zip(self._block, self._generators, strict=True):
                row.normal_(generator=generator)
            self._next = 0
        draw = self._block[:, self._next]
        self._next += 1
        return draw


def example_seeds(seed: int | Sequence[int] | None, batch: int, first: int = 0) -> list[int]:
    """Seeds of examples `first ... first + batch - 1`.

    Args:
        seed: an integer names a family of examples and example i gets a seed made from (seed, i);
            a sequence gives the seed of each example; None draws a family at random.
        batch: number of examples.
        first: index of the first example, for sampling a large set in parts.

    Raises:
        ValueError: if a sequence does not have one seed per example.
    """
    if seed is None:
        seed = int(torch.randint(1 << 62, ()).item())
    given: Any = seed
    if is_integer(given):
        return [mix(given, first + i) for i in range(batch)]
    try:
        seeds = [index(one) for one in given]
    except TypeError as error:
        raise refusal("seed", seed, "an integer, one integer per example, or None") from error
    if len(seeds) != batch:
        raise ValueError(
            f"seed has {len(seeds)} entries for {batch} examples: give one per example"
        )
    return seeds
