"""Memory: the amount available, and the refusal of amounts beyond it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sde_score._core.checks import shown
from sde_score._core.errors import ArgumentError


def total_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that this process may have at most, None where the system does not say.

    Args:
        device: whose memory; on the CPU the smallest of the machine's, the container's and the
            limit of the process.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [_machine(), _container(), _process()]
    return min((limit for limit in limits if limit), default=None)


def require_memory(
    size: float, what: str, fix: str = "", device: torch.device | str = "cpu"
) -> None:
    """Refuse an amount of memory beyond the available, before it is allocated.

    Args:
        size: in bytes.
        what: the argument that needs them, such as `"width=1000000"`.
        fix: a remedy, for the message.
        device: whose memory.

    Raises:
        ArgumentError: with both amounts.
    """
    there = total_memory(device)
    if there is not None and size > there:
        hint = f": {fix}" if fix else ""
        raise ArgumentError(
            f"{what} needs {readable(size)} of memory, more than the {readable(there)} here{hint}"
        )


def readable(size: float) -> str:
    """A number of bytes for people: `3.5 GB`."""
    if size >= 1e21:
        return f"{shown(size)} bytes" if size > 1e300 else f"{float(size):.0e} bytes"
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _machine() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _container() -> int | None:
    """The limit of a container, by the control groups of Linux."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((Path("/sys/fs/cgroup") / name).read_text())
        except (OSError, ValueError):
            continue
    return None


def _process() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
