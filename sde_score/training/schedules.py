"""Learning-rate schedules: the factor on the learning rate of each step, besides warm-up."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_positive
from sde_score._core.registry import Registry


@runtime_checkable
class Schedule(Protocol):
    """Factor on the learning rate at each step."""

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        ...


@dataclass(frozen=True)
class Constant:
    """The learning rate as it is."""

    def __call__(self, step: int) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Half a cosine wave, from 1 down to a last value, which stays.

    Args:
        steps: length of the wave; None for all of training as it is begun, and a run that is
            continued beyond keeps the length that it was begun with.
        end: the last factor, in [0, 1].

    Reference: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5.
    """

    steps: int | None = None
    end: float = 0.0

    def __post_init__(self) -> None:
        _check(self, end=self.end)

    def __call__(self, step: int) -> float:
        """end + (1 - end) (1 + cos(pi step / steps)) / 2."""
        share = min(step / _length(self), 1.0)
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class InverseSqrt:
    """1 up to a reference step, then falling as its inverse square root: EDM2's.

    Args:
        reference: step from which it falls, at least 1; EDM2 takes 70000, or 35000 for its
            smallest networks.

    Reference: Karras et al. 2024, https://arxiv.org/abs/2312.02696, section 3.1.
    """

    reference: int = 70000

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(reference=self.reference)

    def __call__(self, step: int) -> float:
        """1 / sqrt(max(step / reference, 1))."""
        return 1 / math.sqrt(max(step / self.reference, 1.0))


@dataclass(frozen=True)
class WarmupStableDecay:
    """1 for most of training, then straight down to a last value, which stays.

    Args:
        steps: where it ends; None for all of training as it is begun, see `Cosine`.
        decay: share of the steps in which it falls, in (0, 1].
        end: the last factor, in [0, 1].

    Reference: Hu et al. 2024, https://arxiv.org/abs/2404.06395, section 4.
    """

    steps: int | None = None
    decay: float = 0.2
    end: float = 0.0

    def __post_init__(self) -> None:
        _check(self, end=self.end, decay=self.decay)
        require_positive(decay=self.decay)

    def __call__(self, step: int) -> float:
        """1, then linear in the step."""
        left = 1 - min(step / _length(self), 1.0)
        return self.end + (1 - self.end) * min(left / self.decay, 1.0)


SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        "constant": Constant,
        "cosine": Cosine,
        "inverse-sqrt": InverseSqrt,
        "wsd": WarmupStableDecay,
    },
    base=Schedule,
    aliases={"edm2": "inverse-sqrt"},
)


def _check(schedule: Any, **shares: float) -> None:
    check_fields(schedule)
    if schedule.steps is not None:
        require_count(steps=schedule.steps)
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value!r} must lie in [0, 1]")


def _length(schedule: Any) -> int:
    if schedule.steps is None:
        raise ValueError(f"{schedule!r} has no length: give steps=, as {schedule!r:.6}(steps=1000)")
    return int(schedule.steps)


def with_length(schedule: str | Schedule, steps: int) -> str | Schedule:
    """A schedule whose length is settled; any that names its own, or needs none, as it is.

    Args:
        schedule: text or an object.
        steps: of all of training.

    Raises:
        ValueError: for an unknown schedule or argument.
    """
    found = SCHEDULES.resolve(schedule, name="schedule")
    if getattr(found, "steps", steps) is not None:
        return schedule
    made: Schedule = dataclasses.replace(found, steps=steps)  # type: ignore[type-var]
    return made if SCHEDULES.text_of(made) is None else str(SCHEDULES.text_of(made))


def with_length_of(schedule: str | Schedule, stored: str) -> str | Schedule:
    """A schedule whose length, where it is left open, is that of the run that is continued.

    Args:
        schedule: text or an object.
        stored: schedule of the run.
    """
    try:
        before = SCHEDULES.resolve(stored)
    except ValueError:  # of the user's own, or damaged: compared and refused elsewhere
        return schedule
    same = type(before) is type(SCHEDULES.resolve(schedule, name="schedule"))
    length = getattr(before, "steps", None)
    return with_length(schedule, length) if same and length is not None else schedule
