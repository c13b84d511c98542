"""The state that sampling starts from: its shape, dtype, device and spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import require_batch, require_shape
from sde_score._core.modules import blank_like
from sde_score.models import Model


def sigma_data_of(model: Model) -> float:
    """Root mean square of the data that a model was made for, or 1."""
    return float(getattr(model, "sigma_data", 1.0))


def fitting(draw: Tensor, x: Tensor) -> Tensor:
    """A draw from a source of noise that is not ours, if it has the shape of the state."""
    if draw.shape != x.shape:
        raise ValueError(
            f"noise gave a draw of shape {tuple(draw.shape)} for samples of shape {tuple(x.shape)}"
        )
    return draw


def as_start(start: Any) -> Sequence[int] | Tensor:
    """States as a tensor and a shape as integers, of whatever they came as."""
    if isinstance(start, np.ndarray) and start.dtype.kind == "f":
        return torch.from_numpy(start)
    if isinstance(start, Tensor) and start.ndim == 1 and not start.is_floating_point():
        return tuple(start.tolist())
    given: Sequence[int] | Tensor = start
    return given


def blank(model: Model, start: Sequence[int] | Tensor) -> Tensor:
    """An empty state: where and how precise the model and the start are, at least float32."""
    if isinstance(start, Tensor):
        require_batch("start", start)
        dtype = torch.promote_types(start.dtype, torch.float32)
        return torch.empty_like(start, dtype=dtype, memory_format=torch.contiguous_format)
    shape = require_shape("start", start, "(batch, *event), or a tensor to start from")
    return blank_like(model, shape)
