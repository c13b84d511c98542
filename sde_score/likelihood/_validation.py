"""Checks of arguments that the likelihoods share."""

from __future__ import annotations

from torch import Tensor

from sde_score._core.checks import require_batch
from sde_score.models import Model
from sde_score.sdes import SDE


def require_inputs(name: str, model: Model, x: Tensor, condition: Tensor | None) -> None:
    """Refuse a model without the protocol, or data and conditions that cannot be its input.

    Raises:
        TypeError: for something that is no model, or x that is not floating point.
        ValueError: for x that is empty or not finite, or a condition of another length.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__name__}; accepted: a ScoreModel, an exact model, or "
            "anything else with sde, nfe, score, denoise, noise and velocity"
        )
    require_batch(name, x)
    if x.numel() == 0 or not bool(x.isfinite().all()):
        raise ValueError(f"{name} of shape {tuple(x.shape)} must be finite and not empty")
    require_condition(condition, len(x))


def require_condition(condition: Tensor | None, batch: int) -> None:
    """Refuse a condition that does not have one entry per example.

    Raises:
        ValueError: saying how many came.
    """
    if condition is not None and (condition.ndim == 0 or len(condition) != batch):
        raise ValueError(
            f"condition has shape {tuple(condition.shape)} for {batch} examples: "
            "give one entry per example"
        )


def start_time(sde: SDE, start: float | None) -> float:
    """The time at which data enter: `t_min` if not given.

    Raises:
        ValueError: if it lies outside [t_min, t_max).
    """
    if start is None:
        return sde.t_min
    if not sde.t_min <= start < sde.t_max:
        raise ValueError(
            f"start={start!r} must be a time in [{sde.t_min:g}, {sde.t_max:g}), from t_min of "
            f"{sde} up to t_max"
        )
    return float(start)
