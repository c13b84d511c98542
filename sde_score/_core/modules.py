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


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the names and numbers in a model's state: equal for equal weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
