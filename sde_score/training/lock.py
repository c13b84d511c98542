"""The lock of a run directory: one training at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_NAME = ".lock"
_ATTEMPTS = 1000  # to hold a file that others remove meanwhile


@contextmanager
def only_trainer(out: Path) -> Iterator[None]:
    """Hold a run directory for this process, making it if need be; the first rank holds it for all.

    The lock is the operating system's, on an open file of the directory, so that it ends with the
    process, however that ends. Where systems have none (Windows, some network disks) nothing is
    held.

    Args:
        out: run directory.

    Raises:
        ValueError: if another process holds it, naming that.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    begun = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    file = _locked(out)
    try:
        yield
    finally:
        with suppress(OSError):
            # Before it is let go: who takes hold of a removed file notices and tries again.
            (out / _NAME).unlink(missing_ok=True)
            if begun:
                out.rmdir()  # where nothing was written; refused otherwise
        file.close()


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
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this disk
        return True
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
