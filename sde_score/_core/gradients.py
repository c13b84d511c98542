"""Gradients on request: a result carries a graph where it was asked for, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sde_score._core.conditions import tensors_of


@contextmanager
def gradients(wanted: bool, **inputs: object) -> Iterator[None]:
    """Run a computation with a graph if `wanted`, without one otherwise.

    Args:
        wanted: the caller's `grad`.
        inputs: what may require a gradient, by the names of the caller's arguments.

    Raises:
        ValueError: as `require_gradients` does.
    """
    require_gradients(wanted, **inputs)
    with torch.set_grad_enabled(wanted):
        yield


def require_gradients(wanted: bool, **inputs: object) -> None:
    """Refuse a gradient that would silently be missing from the result.

    Raises:
        ValueError: if an input requires a gradient that is not wanted, or one is wanted where
            gradients are disabled.
    """
    if wanted and not torch.is_grad_enabled():
        raise ValueError(
            "grad=True needs gradients to be enabled: call it outside torch.no_grad() and "
            "torch.inference_mode()"
        )
    for name, value in inputs.items():
        needed = any(part.requires_grad for part in tensors_of(value)) and torch.is_grad_enabled()
        if needed and not wanted:
            raise ValueError(
                f"{name} requires a gradient, and the result has none unless asked for: give "
                f"grad=True, or {name}.detach()"
            )


def require_graph(wanted: bool, *results: Tensor) -> None:
    """Refuse a request for gradients where nothing takes one.

    Raises:
        ValueError: if no result has a graph.
    """
    if wanted and not any(result.requires_grad for result in results):
        raise ValueError(
            "grad=True, but neither the input nor anything that the model depends on requires a "
            "gradient: call requires_grad_() on one of them"
        )


def values_alone() -> bool:
    """Whether no derivative of any kind is being taken, so that a kernel without any will do."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    transformed: bool = torch._C._are_functorch_transforms_active()
    return not transformed and forward_ad._current_level < 0
