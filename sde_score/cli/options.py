"""Flags that several commands share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from sde_score import samplers
from sde_score._registry import format_spec, parse_spec
from sde_score.training import Run, load_run

Device = Literal["auto", "cpu", "cuda", "mps"]
Weights = Literal["ema", "raw"]


def open_run(path: Path, weights: Weights, device: Device) -> Run:
    """Open a run with its model on a device.

    Raises:
        ValueError: if the device is not there.
        CheckpointError: if the run cannot be read.
    """
    run = load_run(path, weights)
    run.model.to(pick_device(device))
    return run


def pick_device(device: Device) -> torch.device:
    """The device of a name; auto takes a GPU where there is one.

    Raises:
        ValueError: if the device is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there[device]:
        raise ValueError(f"device={device!r} is not available on this machine: try --device cpu")
    return torch.device(device)


def sampler_spec(spec: str, steps: int | None, grid: str | None) -> str:
    """A sampler's spec with the flags put in, checked.

    Raises:
        ValueError: for an unknown sampler or argument.
    """
    name, arguments = parse_spec(spec)
    given = {"steps": steps, "grid": grid}
    arguments.update({k: v for k, v in given.items() if v is not None})
    full = format_spec(name, arguments)
    samplers.create(full)
    return full
