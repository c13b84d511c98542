"""The most memory that a process, or a GPU, has held."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

_OWN = Path("/proc/self")


def reset_peak(device: torch.device) -> None:
    """Begin anew from what is held now, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (_OWN / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes since `reset_peak`, or since the start of the process where nothing was reset.

    Args:
        device: a GPU, whose allocated memory is asked for; else it is that of the process.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", (_OWN / "status").read_text())
        if found:
            return int(found[1]) * 1024
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
