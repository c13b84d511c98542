"""Atomic writes of files: a kill at any moment leaves the old content or the new, never half."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sde_score._core.errors import ArgumentError

# Errors of disks that cannot synchronize, such as some in networks, and of folders on Windows.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_OF_FOLDERS = (*_UNSUPPORTED, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
_WINDOWS = os.name == "nt"  # where a file that is open cannot be replaced
_TRIES = 20


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where that is supported."""
    is_folder = path.is_dir()
    try:
        # Windows synchronizes only what is open for writing.
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (_OF_FOLDERS if is_folder else _UNSUPPORTED):
            raise


def _replace(temporary: Path, path: Path) -> None:
    """Give a file another's place; on Windows wait for those that read it, up to a second."""
    for left in reversed(range(_TRIES)):
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if not _WINDOWS or not left:
                raise
            time.sleep(1 / _TRIES)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file new content in one step, written by the caller to the path that is yielded.

    The temporary file lies in the same folder under a name of its own, so that several processes
    can write one file, and is gone after a failure.

    Raises:
        OSError: if the content cannot be written; it names `path`.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        sync(temporary)
        _replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def require_new_folder(path: Path, name: str = "out") -> None:
    """Refuse a folder that holds something, or that no file can be written to.

    Args:
        path: of the folder, which must not exist or be empty.
        name: of the argument it came in.

    Raises:
        ValueError: naming argument, path and what is wrong.
    """
    require_writable(path / "0", name)
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(
            f"{name}={str(path)!r} is a folder that holds files: name a new or empty one"
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder that appears in one step, when the caller has filled the one that is yielded.

    Args:
        path: of the folder, which must not exist or be empty.

    Raises:
        OSError: if it cannot be written; nothing of it is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if path.is_dir():
            path.rmdir()
        temporary.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Give a file new content in one step: readers see the old content or the new.

    Raises:
        OSError: if it cannot be written; it names `path`, whose old content stays.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read_text(path: Path, largest: int = 1 << 20) -> str:
    """Content of a small text file.

    Raises:
        ValueError: if it has more than `largest` bytes.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"larger than {largest} bytes")
    return content.decode()


def require_writable(path: Path | str, name: str = "path") -> Path:
    """Refuse a path that no file can be written to, before minutes are spent on its content.

    Nothing is created: missing folders are looked for from the first one that exists.

    Args:
        path: of the file.
        name: of the argument it came in, such as `--out`.

    Returns:
        The path.

    Raises:
        ArgumentError: naming argument, path and reason.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        raise ArgumentError(f"{name}={path!r} must be a path")
    path = Path(path)
    try:
        reason = _hindrance(path)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ArgumentError(f"{name}={str(path)!r} cannot be written: {reason}")
    return path


def _hindrance(path: Path) -> str:
    if "\0" in str(path):
        return "it holds a null byte"
    folder = next((each for each in path.parents if os.path.lexists(each)), None)
    if folder is None:
        return "the working directory is gone"
    if not folder.is_dir():
        return f"{folder} is no folder"
    longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for part in path.parts[len(folder.parts) :]:
        if len(os.fsencode(part)) > longest:
            return f"a name of {len(os.fsencode(part))} bytes, at most {longest} are possible"
    if path.is_dir():
        return "it is a folder: add the name of a file"
    if path.exists() and not path.is_file():
        return "it is no regular file"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"no permission to write in {folder}"
    return ""
