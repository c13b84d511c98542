r"""Pairs of parameters and simulations: the data of simulation-based inference.

    def simulator(theta, generator):
        return theta + 0.1 * torch.randn(theta.shape, generator=generator)

    found = pairs(Box([-1, -1], [1, 1]), simulator, 10_000)
    run = train(TrainConfig(conditional=True), "runs/theta", data=found)

The parameters theta are what is learned, and the simulations y what the network is told, so that
the trained model is p(theta | y).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sde_score._core.checks import class_of, require_count, shown
from sde_score._core.errors import ArgumentError
from sde_score.data import DataSet, from_tensor
from sde_score.models import accepts
from sde_score.random import generator_from, mix

Simulator = Callable[..., Tensor]
"""Maps theta `(n, d)`, or theta and a generator, to y `(n, k)`, row by row."""


@dataclass(frozen=True)
class Box:
    """A uniform prior, or bounds: low <= theta <= high.

    Args:
        low: smallest value of each parameter.
        high: largest value of each.

    Raises:
        ValueError: for other lengths, values that are not finite, or low that is not below high.
    """

    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        try:
            low, high = (torch.as_tensor(end, dtype=torch.float64) for end in (self.low, self.high))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"low={shown(self.low)}, high={shown(self.high)}") from error
        fits = low.ndim == 1 and low.shape == high.shape and len(low)
        if not fits or not bool((low < high).all()) or not bool((high - low).isfinite().all()):
            raise ArgumentError(
                f"low={shown(self.low)}, high={shown(self.high)} must be as many finite numbers "
                "each, low below high"
            )
        object.__setattr__(self, "low", tuple(low.tolist()))
        object.__setattr__(self, "high", tuple(high.tolist()))

    def contains(self, theta: Tensor) -> Tensor:
        """Which of theta `(n, d)` lie inside, shape `(n,)`."""
        low, high = self._ends(theta)
        return ((low <= theta) & (theta <= high)).all(1)

    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """Uniform draws, float64, shape `(count, d)`."""
        shares = torch.rand(count, len(self.low), generator=generator, dtype=torch.float64)
        low, high = self._ends(shares)
        return low + shares * (high - low)

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if like.ndim != 2 or like.shape[1] != len(self.low):
            raise ValueError(
                f"theta of shape {tuple(like.shape)} does not fit a box of {len(self.low)} "
                "parameters"
            )
        ends = torch.tensor([self.low, self.high], dtype=torch.float64, device=like.device)
        return ends[0], ends[1]


def pairs(
    prior: Any,
    simulator: Simulator,
    count: int,
    seed: int = 0,
    *,
    block: int = 1024,
    names: Sequence[str] = (),
    observed: Sequence[str] = (),
    name: str = "simulation",
) -> DataSet:
    """Draw parameters from a prior, simulate each, and make a data set of the pairs.

    A block of pairs is drawn together, from a generator of its own, so that pair i depends on
    (seed, block, i) alone: more pairs have the same first ones.

    Args:
        prior: `prior(n, generator)` that gives theta `(n, d)`; an object with such a `sample`, as
            `Box` or an exact target; or a distribution of `torch.distributions`.
        simulator: `simulator(theta)` or `simulator(theta, generator)` that gives y `(n, k)`, each
            row of the same row of theta. What it draws from torch's own generator on the CPU is
            seeded as well.
        count: number of pairs.
        seed: random seed.
        block: pairs that are simulated at once.
        names: of the parameters; empty for none.
        observed: names of the entries of y; empty for none.
        name: of the data set.

    Returns:
        A data set with theta as examples and y as their condition, each column scaled by itself.

    Raises:
        TypeError: for a prior or simulator that cannot be called so.
        ValueError: for names of another number, or draws that are not finite or of another shape.
    """
    require_count(count=count, block=block)
    thetas, ys = [], []
    for first in range(0, count, block):
        theta, y = _block(prior, simulator, block, seed, first // block)
        thetas.append(theta[: count - first])
        ys.append(y[: count - first])
    found = from_tensor(torch.cat(thetas), condition=torch.cat(ys), name=name)
    widths = {"names": found.event_shape[0], "observed": ys[0].shape[1]}
    for title, given in (("names", names), ("observed", observed)):
        if len(given) not in (0, widths[title]):
            raise ValueError(f"{title}={tuple(given)} must be {widths[title]} names, or none")
    return replace(found, column_names=tuple(names), condition_names=tuple(observed))


def _block(
    prior: Any, simulator: Simulator, size: int, seed: int, index: int
) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), _seeded(seed, index, 0) as generator:
        theta = _drawn(prior, size, generator)
        _require_rows("prior", "theta", theta, size)
    if not callable(simulator):
        raise ArgumentError(f"simulator={shown(simulator)} must be a function of theta")
    with torch.no_grad(), _seeded(seed, index, 1) as generator:
        y = simulator(theta, generator) if accepts(simulator, 2) else simulator(theta)
        _require_rows("simulator", "y", y, size)
    return theta, y


@contextmanager
def _seeded(*numbers: int) -> Iterator[Generator]:
    """A generator, and torch's own, each with a stream that no other numbers give."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(*numbers, 0))
        yield generator_from(*numbers, 1)


def _drawn(prior: Any, size: int, generator: Generator) -> Any:
    if isinstance(prior, Distribution):
        return prior.sample((size,))
    draw = getattr(prior, "sample", prior)
    if not callable(draw):
        raise ArgumentError(
            f"prior={shown(prior)} must be a function prior(count, generator), a Box, or a "
            "distribution of torch"
        )
    return draw(size, generator)


def _require_rows(title: str, what: str, value: Any, size: int) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else class_of(value)
        raise ArgumentError(f"{title} returned {kind}; accepted: {what} in floating point")
    if value.ndim != 2 or len(value) != size:
        fix = f": try {what}[:, None]" if tuple(value.shape) == (size,) else ""
        raise ValueError(
            f"{title} returned {what} of shape {tuple(value.shape)}; accepted: a row for each of "
            f"{size} pairs{fix}"
        )
    bad = int((~torch.isfinite(value)).any(1).sum())
    if bad:
        raise ValueError(
            f"{title} returned NaN or infinity in {bad} of {size} rows of {what}: leave those "
            "parameters out of the prior, or return something finite for them"
        )
