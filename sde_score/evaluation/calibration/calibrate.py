"""Calibration of a trained run, on pairs that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, mapped, tensors_of
from sde_score.data import column_names
from sde_score.evaluation.calibration.ranks import Ranks, sbc, tarp
from sde_score.models import Model
from sde_score.samplers import Sampler, sample
from sde_score.training import Run


@dataclass(frozen=True, eq=False)
class Calibration:
    """Truths with draws of their posteriors, and their ranks.

    Args:
        truth: shape `(examples, *event)`.
        draws: shape `(examples, L, *event)`.
        sbc: ranks of each parameter.
        tarp: ranks of distances to random points.
    """

    truth: Tensor
    draws: Tensor
    sbc: Ranks
    tarp: Ranks

    @classmethod
    def of(cls, truth: Tensor, draws: Tensor, names: Sequence[str] = ()) -> Calibration:
        """The ranks of truths `(examples, *event)` among draws `(examples, L, *event)`.

        Args:
            truth: parameters that were drawn from the prior.
            draws: of the posterior of what was simulated of them.
            names: of the parameters; empty for theta1, theta2, ...
        """
        return cls(truth, draws, sbc(truth, draws, names), tarp(truth, draws))


def posterior_draws(
    model: Model,
    condition: Condition,
    event_shape: Sequence[int],
    draws: int,
    *,
    sampler: str | Sampler = "heun(steps=18)",
    seed: int = 0,
    batch_size: int = 1024,
) -> Tensor:
    """Draws of p(theta | y) for each of several y, in one set of batches.

    Args:
        model: that is told y.
        condition: y in model range, one entry for each of `examples`.
        event_shape: shape of theta.
        draws: L, of each.
        sampler: that draws them.
        seed: random seed.
        batch_size: samples that the model sees at once.

    Returns:
        Shape `(examples, L, *event)`, in model range.
    """
    require_count(draws=draws)
    told = mapped(condition, lambda value: value.repeat_interleave(draws, 0))
    count = len(tensors_of(told)[0])
    found = sample(
        model, sampler, event_shape, count, seed=seed, condition=told, batch_size=batch_size,
        progress=False,
    )  # fmt: skip
    return found.reshape(count // draws, draws, *event_shape)


def calibrate(
    run: Run, count: int = 200, draws: int = 99, *, sampler: str | Sampler = "", seed: int = 0
) -> Calibration:
    """Ranks of held-out examples among draws under their conditions, in the data's own terms.

    Args:
        run: trained with vectors, images or a dictionary as condition.
        count: held-out examples, at most all.
        draws: L, of each.
        sampler: that draws them; empty for the run's.
        seed: random seed.

    Raises:
        ValueError: for a run without conditions, or that held nothing out.
        DataError: if its data are not at hand.
    """
    if not run.num_classes and not run.condition_shape:
        raise ValueError("run takes no condition, so that it has one distribution, no posteriors")
    held_out = run.dataset("held_out")
    rows = torch.arange(min(count, len(held_out)))
    told = mapped(held_out.conditions_at(rows), lambda y: y.to(run.device))
    found = posterior_draws(
        run.model, told, run.event_shape, draws, sampler=sampler or run.sampler, seed=seed
    )
    raw = run.scaling.from_model(found.flatten(0, 1).double()).reshape(found.shape)
    truth = held_out.raw(rows).double()
    names: Sequence[str] = ()
    if run.record is not None and len(run.event_shape) == 1:
        names = column_names(run.record.column_names, run.event_shape[0])
    return Calibration.of(truth, raw.double(), names)
