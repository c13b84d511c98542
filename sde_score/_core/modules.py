"""Models as a whole: evaluation mode for a while, precision and device, a digest of the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Evaluation mode inside a `with` block, for the parts of a model that are in training mode.

    Args:
        model: a module; anything else has no mode and is left alone.
    """
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [part for part in parts if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def blank_like(
    model: object, shape: Sequence[int] = (), otherwise: torch.dtype | None = None
) -> Tensor:
    """An empty tensor as precise as a model's numbers, at least float32, on their device.

    Args:
        model: a module; anything else has no numbers.
        shape: of the tensor.
        otherwise: dtype for a model without numbers; None is torch's default.
    """
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    like = next((t for t in tensors if t.is_floating_point()), torch.empty((), dtype=otherwise))
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.empty(tuple(shape), dtype=dtype, device=like.device)


def rounding(model: object, x: Tensor) -> float:
    """Relative rounding error of what a model computes at x.

    It is that of the coarsest numbers on the way: of x, of the weights, of `torch.autocast`, and of
    TensorFloat-32 where an accelerator multiplies float32 so.
    """
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    own = next((p.dtype for p in parameters if p.is_floating_point()), x.dtype)
    found = [torch.finfo(x.dtype).eps, torch.finfo(own).eps]
    if own != torch.float64:  # which autocast leaves alone
        if torch.is_autocast_enabled(x.device.type):
            found.append(torch.finfo(torch.get_autocast_dtype(x.device.type)).eps)
        if x.device.type == "cuda" and _multiplies_tf32(model, x.device):
            found.append(2.0**-10)
    return float(max(found))


def _multiplies_tf32(model: object, device: torch.device) -> bool:
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    convolves = isinstance(model, nn.Module) and any(
        isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for part in model.modules()
    )
    return torch.backends.cuda.matmul.allow_tf32 or (convolves and torch.backends.cudnn.allow_tf32)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the names and numbers in a model's state: equal for equal weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
