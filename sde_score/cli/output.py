"""Output of commands: tables for people, JSON for programs, one line for a mistake."""

from __future__ import annotations

import codecs
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sde_score._core.progress import is_main_process

if TYPE_CHECKING:
    from sde_score.report import Table

_PLAIN = {"±": "+-", "×": "x", "–": "-", "—": "-"}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in unknown), error.end


def speak_plainly() -> None:
    """Let no result be lost on a terminal that does not know a character: write another."""
    codecs.register_error("sde_score", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="sde_score")


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print warnings of the block as `warning: ...`, without the line of code they come from."""

    def show(message: Warning | str, *_: Any) -> None:
        say(f"warning: {' '.join(str(message).split())}")

    before, warnings.showwarning = warnings.showwarning, show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before


def say(text: str) -> None:
    """Print a line for people, on standard error so that results stay alone on standard output."""
    if is_main_process():
        print(text, file=sys.stderr, flush=True)


def show_record(record: dict[str, Any]) -> None:
    """Print a result as one JSON object."""
    if is_main_process():
        print(json.dumps(record, indent=2))


def show_lines(lines: Sequence[str]) -> None:
    """Print lines as they are, so that what is longer than the terminal can still be copied."""
    if is_main_process():
        print("\n".join(lines))


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table; in a pipe it is plain text as wide as it needs to be."""
    if not is_main_process():
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Names such as frechet[pixels] are no markup.
    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(width=200, markup=False)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show(table: Table) -> None:
    """Print a table of a report."""
    show_table(table.header, table.rows, table.caption)
