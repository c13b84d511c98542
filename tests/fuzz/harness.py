"""Parts that the fuzzers share: time limits, values on one line, and what counts as an answer."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import signal
from collections.abc import Iterator
from typing import Any

import sde_score
from sde_score._core.registry import Registry


class Hung(BaseException):
    """No answer in time; not an `Exception`, so that no handler of the package swallows it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `Hung` in the block when its time is over.

    The time is that of the processor, so that a busy machine is no fault; what waits for something
    that never comes ends after six times as long.
    """

    def ring(*_: object) -> None:
        raise Hung

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, 1), signal.SIGALRM: (signal.ITIMER_REAL, 6)}
    before = {number: signal.signal(number, ring) for number in timers}
    for timer, factor in timers.values():
        signal.setitimer(timer, factor * seconds)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def registries() -> list[Registry[Any]]:
    """All registries of the package, found in its modules."""
    found: dict[int, Registry[Any]] = {}
    for module in pkgutil.walk_packages(sde_score.__path__, "sde_score."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Registry) and value.kind != "command":  # see `command_line`
                found.setdefault(id(value), value)
    return sorted(found.values(), key=lambda registry: (registry.kind, len(registry)))


def short(value: Any, width: int = 60) -> str:
    """A value on one short line of ASCII."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = type(value).__name__
    return text[:width].encode("ascii", "backslashreplace").decode()


def is_ours(error: BaseException) -> bool:
    """Whether an error is one the package means: its own classes, or a plain `ValueError`."""
    return type(error) is ValueError or type(error).__module__.startswith("sde_score.")
