"""Arguments of computations: a model, a batch of examples and a condition, checked at the door."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sde_score._core.checks import is_integer, require_examples, shown
from sde_score._core.conditions import Condition, mapped
from sde_score._core.errors import ArgumentError
from sde_score.models.protocol import Model

_VIEWS = ("score", "denoise", "noise", "velocity")
_FEW = 10_000  # examples
_FAR = 100.0  # standard deviations of the data; all of one sign, they are in other units


def require_model(model: object, name: str = "model", whole: bool = True) -> None:
    """Refuse what does not have the model protocol.

    Args:
        model: the argument.
        name: of the argument.
        whole: whether all of the protocol is needed, and not an SDE and one of the predictions.

    Raises:
        TypeError: naming the argument and how to make a model of what came.
    """
    part = hasattr(model, "sde") and any(hasattr(model, view) for view in _VIEWS)
    if (isinstance(model, Model) if whole else part) and not isinstance(model, type):
        return
    fix = ""
    if isinstance(model, type):
        fix = f": {model.__name__} is a class, write {model.__name__}(...)"
    elif isinstance(getattr(model, "model", None), Model):
        fix = f": give {name}.model, the model inside"
    elif isinstance(model, (str, os.PathLike)):
        fix = ": load_run(path).model opens a run"
    elif isinstance(model, nn.Module) or callable(model):
        fix = ": ScoreModel(network, sde) makes a model of a network, ScoreFunction of any score"
    raise ArgumentError(
        f"{name} is {_kind(model)}; accepted: a ScoreModel, an EnergyModel, an exact model, or "
        f"anything else with sde, nfe, score, denoise, noise and velocity{fix}"
    )


def _kind(value: object) -> str:
    plain = isinstance(value, (str, int, float, type, type(None)))
    return shown(value) if plain else f"a {type(value).__name__}"


def as_batch(name: str, x: Any) -> Tensor:
    """A batch of examples, `(batch, *event)`; arrays of NumPy become tensors.

    Raises:
        TypeError: for what holds no floating-point numbers.
        ValueError: for an empty batch, or numbers that are not finite (looked at on the CPU only).
    """
    batch: Tensor = torch.from_numpy(np.ascontiguousarray(x)) if _is_array(x, "f") else x
    require_examples(name, batch)
    return batch


def as_condition(
    condition: Any, batch: int, device: torch.device | None = None, model: object = None
) -> Condition:
    """A condition with one entry per example; arrays become tensors.

    Args:
        condition: a tensor or array, shape `(batch, ...)`, a dictionary of such, or None.
        batch: number of examples.
        device: where it is needed; None leaves it where it is.
        model: that takes it; one that knows its labels refuses others here.

    Raises:
        TypeError: for what is neither.
        ValueError: for another length, or labels that the model does not have.
    """
    if condition is None or (isinstance(condition, Mapping) and not condition):
        seen = getattr(model, "unconditional_examples", 0)
        if 0 < seen < _FEW:
            warnings.warn(
                f"training showed {seen} examples without a condition, too few to answer well "
                "without one: give conditions, or train longer or with a larger condition_dropout",
                stacklevel=3,
            )
        return None
    found: Condition
    if isinstance(condition, Mapping):
        found = {
            name: _entry(f"condition[{name!r}]", value, batch)
            for name, value in condition.items()
            if value is not None
        }
    else:
        found = _entry("condition", condition, batch)
    if check := getattr(model, "require_condition", None):
        check(found)
    return found if device is None else mapped(found, lambda value: value.to(device))


def _entry(name: str, value: Any, batch: int) -> Tensor:
    """A tensor with one entry per example."""
    if _is_array(value, "fiu"):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        fix = f"torch.tensor({name})" if isinstance(value, (list, tuple)) else ""
        fix = f"torch.full(({batch},), {value})" if is_integer(value) else fix
        raise ArgumentError(
            f"{name}={shown(value)} must be a tensor with one entry per example"
            + (f": try {fix}" if fix else "")
        )
    if value.ndim == 0 or len(value) != batch:
        fix = f": try {name}.expand({batch})" if value.ndim == 0 else ""
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} for {batch} examples: give one entry "
            f"per example{fix}"
        )
    return value


def checked_inputs(
    name: str, model: Model, x: Tensor, condition: Condition
) -> tuple[Tensor, Condition]:
    """Data and condition as tensors, where they can be a model's input.

    Raises:
        TypeError: for something that is no model, or x that holds no floating-point numbers.
        ValueError: for x that is empty or not finite, or a condition that does not fit it.
    """
    require_model(model)
    x = as_batch(name, x)
    return x, as_condition(condition, len(x), x.device, model)


def require_units(name: str, x: Tensor, model: object) -> None:
    """Refuse data in units of their own, such as gray levels, where the model's are meant.

    They are known by all being positive and beyond 100 times the model's `sigma_data`. Numbers on
    an accelerator are not looked at.

    Raises:
        ValueError: saying how data are scaled.
    """
    if x.device.type != "cpu" or x.numel() < 2:
        return
    sigma_data = float(getattr(model, "sigma_data", 1.0))
    low, high = (float(end) for end in torch.aminmax(x.detach()))
    if low >= 0 and high > _FAR * sigma_data:
        raise ValueError(
            f"{name} runs from {low:g} to {high:g}, and the model is for data of standard "
            f"deviation sigma_data={sigma_data:g} around 0: scale them, 8-bit images with "
            f"Scaling.discrete(256).to_model({name}), others with "
            f"Scaling.standardize({name}).to_model({name})"
        )


def _is_array(value: object, kinds: str) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in kinds
