"""The lock of a run directory: one training at a time."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_NAME = ".lock"
_FAR = 1 << 30
_WINDOWS = os.name == "nt"

_HELD: set[tuple[str, int]] = set()
"""Directories that threads of this process hold, with the numbers of the threads."""
_FILES: set[IO[str]] = set()
"""The files by which they are held."""
_ATTEMPTS = 1000  # to hold a file that others remove meanwhile


@contextmanager
def only_trainer(out: Path) -> Iterator[None]:
    """Hold a run directory for this process, making it if need be; the first rank holds it for all.

    The lock is the operating system's, on an open file of the directory, so that it ends with the
    process, however that ends. A thread that holds a directory may ask for it again. Disks without
    locks, such as some in networks, hold nothing, which is said.

    Args:
        out: run directory.

    Raises:
        ValueError: if another process holds it, naming that.
    """
    place = os.path.realpath(out), threading.get_ident()
    if os.environ.get("RANK", "0") != "0" or place in _HELD:
        yield
        return
    begun = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    file = _locked(out)
    _HELD.add(place)
    _FILES.add(file)
    try:
        yield
    finally:
        _HELD.discard(place)
        _FILES.discard(file)
        with suppress(OSError):
            # Before it is let go: who takes hold of a removed file notices and tries again.
            (out / _NAME).unlink(missing_ok=True)
            if begun:
                out.rmdir()  # where nothing was written; refused otherwise
        file.close()


def _let_go() -> None:
    """Leave the locks to the process this one is a copy of, with which they must end."""
    for file in _FILES:
        file.close()
    _FILES.clear()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _locked(out: Path) -> IO[str]:
    path = out / _NAME
    for _ in range(_ATTEMPTS):
        file = path.open("a+")
        try:
            if not _take(file):
                file.seek(0)
                holder = file.read(20).strip()
                raise ValueError(
                    f"{out} is in use: another process{f' ({holder})' if holder else ''} trains "
                    "there; wait for its end, or choose another folder"
                )
            if _is_at(file, path):
                with suppress(OSError):  # a full disk; the number is for the message alone
                    file.truncate(0)
                    file.write(f"{os.getpid()}\n")
                    file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    raise ValueError(f"{path} is replaced again and again: choose another folder")


def _take(file: IO[str]) -> bool:
    """Lock an open file; False if another holds it."""
    try:
        if _WINDOWS:
            _lock_on_windows(file)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        warnings.warn(
            f"{file.name} cannot be locked here ({error}): see to it yourself that one process "
            "alone trains in this directory",
            stacklevel=5,
        )
    return True


def _lock_on_windows(file: IO[str]) -> None:
    """Lock a byte far behind the content, which stays readable.

    Raises:
        BlockingIOError: if another holds it.
    """
    import msvcrt

    file.seek(_FAR)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except PermissionError as error:
        raise BlockingIOError from error
    finally:
        file.seek(0)


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
