"""Gradients on request: a result carries a graph where it was asked for, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def gradients(wanted: bool, model: object = None, **inputs: object) -> Iterator[None]:
    """Run a computation with a graph if `wanted`, without one otherwise.

    Args:
        wanted: the caller's `grad`.
        model: whose parameters may take a gradient.
        inputs: tensors that may, by the names of the caller's arguments.

    Raises:
        ValueError: if an input requires a gradient that is not wanted, or a gradient is wanted
            where gradients are disabled or nothing requires one.
    """
    require_gradients(wanted, model, **inputs)
    with torch.set_grad_enabled(wanted):
        yield


def require_gradients(wanted: bool, model: object = None, **inputs: object) -> None:
    """The refusals of `gradients`, for a computation that makes its graph itself."""
    needed = [name for name, value in inputs.items() if _requires_grad(value)]
    if not wanted:
        if needed and torch.is_grad_enabled():
            raise ValueError(
                f"{needed[0]} requires a gradient, and the result has none unless grad=True: give "
                f"grad=True, or {needed[0]}.detach()"
            )
    elif not torch.is_grad_enabled():
        raise ValueError(
            "grad=True needs gradients to be enabled: call it outside torch.no_grad() and "
            "torch.inference_mode()"
        )
    elif not needed and isinstance(model, nn.Module) and not any(_trainable(model)):
        raise ValueError(
            f"grad=True, but neither {', '.join(inputs)} nor a parameter of the model requires a "
            "gradient: call requires_grad_() on one of them"
        )


def _requires_grad(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _trainable(model: nn.Module) -> Iterator[bool]:
    return (parameter.requires_grad for parameter in model.parameters())
