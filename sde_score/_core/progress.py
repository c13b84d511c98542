"""Progress of long work: a bar in terminals and notebooks, plain lines in pipes and files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)
_EVERY = 10.0  # seconds between lines, a tenth of the time passed where that is more
_LONGEST = 600.0


def is_main_process() -> bool:
    """Whether this process speaks for all (`torchrun` starts several)."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """Hide the progress of everything done in the block, or leave it as it is."""
    token = _HIDDEN.set(_HIDDEN.get() or not shown)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def say(lines: Iterable[str]) -> None:
    """Print lines for people on standard error, unless progress is hidden.

    They are asked for only where they are shown.
    """
    if not _HIDDEN.get() and is_main_process():
        for line in lines:
            print(line, file=sys.stderr, flush=True)


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | float | None = None,
    name: str = "",
    unit: str = "step",
    shown: bool = True,
    delay: float = 2.0,
    initial: int = 0,
    rate: bool = True,
) -> Any:
    """A bar with the interface of tqdm: `update`, `set_description`, `set_postfix`, a context.

    Args:
        items: to walk over with the bar.
        total: units of work; None if that is not known and `items` have no length.
        name: of the work.
        unit: of the work.
        shown: False hides the bar; so does `progress_shown(False)`, and another process of several.
        delay: seconds before anything is shown.
        initial: units done before.
        rate: False shows a fraction alone, for work whose units mean nothing to a reader.
    """
    given: dict[str, Any] = {"total": total, "unit": unit, "delay": delay, "initial": initial}
    if not rate:
        given["bar_format"] = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    if items is not None:
        given["iterable"] = items
    hidden = not shown or _HIDDEN.get() or not is_main_process()
    return _kind()(desc=name, disable=hidden, **given)


def _kind() -> Any:
    """The class of bars for where standard error goes."""
    from tqdm.asyncio import tqdm_asyncio
    from tqdm.auto import tqdm

    in_notebook = tqdm is not tqdm_asyncio
    return tqdm if in_notebook or sys.stderr.isatty() else Lines


class Lines:
    """Progress as lines of text, without a carriage return: rarely, and once at the end.

    Args:
        as `tqdm` has them.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        total: float | None = None,
        desc: str = "",
        unit: str = "it",
        delay: float = 0.0,
        initial: float = 0,
        disable: bool = False,
        bar_format: str | None = None,
    ) -> None:
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        self.iterable, self.desc = iterable, desc
        self.total: Any = total
        self.delay, self.initial, self.n, self.disable = delay, initial, initial, disable
        # tqdm writes no bar where it has no columns, and leaves a format its bar whatever it has.
        self.form: dict[str, Any] = {"ncols": 0, "unit": unit}
        if bar_format is not None:
            self.form = {"bar_format": bar_format.replace("|{bar}|", "")}
        self.postfix, self.told = "", initial
        self.begun = self.last = time.monotonic()

    def update(self, n: float = 1) -> None:
        """Count work that is done, and tell of it if the last line is some time ago."""
        self.n += n
        now = time.monotonic()
        if now - self.last >= min(max(_EVERY, (now - self.begun) / 10), _LONGEST):
            self._tell(now)

    def set_description(self, desc: str, refresh: bool = True) -> None:
        """Name the work anew."""
        self.desc = desc

    def set_postfix(self, refresh: bool = True, **values: Any) -> None:
        """Add figures to the next lines."""
        self.postfix = ", ".join(f"{name}={value}" for name, value in values.items())

    def close(self) -> None:
        """Tell of the work once more, where it took long enough to be told of."""
        now = time.monotonic()
        if now - self.begun >= self.delay and self.n > self.told:
            self._tell(now)
        self.disable = True

    def _tell(self, now: float) -> None:
        from tqdm.std import tqdm

        self.last, self.told = now, self.n
        if not self.disable:
            text = tqdm.format_meter(
                self.n, self.total, now - self.begun, prefix=self.desc, initial=self.initial,
                postfix=self.postfix, **self.form,
            )  # fmt: skip
            print(text.strip(), file=sys.stderr, flush=True)

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self.iterable or ():
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
