"""Errors of the package: wrong arguments, and data that cannot be used."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_OBJECT = re.compile(r" <[^<>]* at 0x[0-9a-f]+>")  # tells nothing, and is another each time


class ArgumentError(TypeError, ValueError):
    """A wrong argument: of another kind or outside its range; caught as either."""


class DataError(ValueError):
    """Data that cannot be used: missing, damaged, truncated, empty or other than described."""


class NumericalError(RuntimeError):
    """A computation that cannot go on: a solver gave up, an energy is finite nowhere."""


@contextmanager
def naming(where: Path | str) -> Iterator[None]:
    """Prefix every `DataError` raised inside with the name of the file or other place."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


@contextmanager
def damaged(what: str) -> Iterator[None]:
    """Turn any error of a file reader inside into one `DataError`.

    Readers of foreign formats raise nearly anything on damaged bytes (`struct.error`, `KeyError`,
    `SyntaxError`, `MemoryError` for an absurd size ...), so this is the one place that catches
    every `Exception`. Only calls of such readers belong inside, never code of the package.

    Args:
        what: kind of file, such as "a PNG image".
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = _OBJECT.sub("", lines[0]) if lines else type(error).__name__
        raise DataError(f"cannot be read as {what}, damaged or truncated? ({reason})") from error


def require_extra(module: str) -> ModuleType:
    """Import a module of the optional `data` extra.

    Raises:
        DataError: if it is not installed, telling how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(
            f"reading this needs {package}, which is not installed: pip install 'sde-score[data]'"
        ) from error
