"""Divergence: losses, gradients and weights that are no longer finite, or energies run apart."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from sde_score.objectives import Objective
from sde_score.training.config import TrainConfig
from sde_score.training.distributed import Vote
from sde_score.training.errors import TrainingError
from sde_score.training.meter import Meter


class DivergenceCheck:
    """Stops a run whose numbers are of no use, with what to try.

    Args:
        config: of the run, for the advice.
        objective: gives the largest loss per entry.
        size: number of entries of an example.
    """

    def __init__(self, config: TrainConfig, objective: Objective, size: int) -> None:
        self.config, self.size = config, size
        self.limit = objective.divergence_limit

    def losses(self, meter: Meter, step: int, kept: int | None) -> None:
        """Refuse losses or gradients that are not finite, or losses beyond the limit.

        Args:
            meter: of the steps since the last line of metrics.
            step: number of steps taken.
            kept: step of the last good checkpoint, None if there is none.

        Raises:
            TrainingError: saying what was seen and what to try.
        """
        where = f"in steps {step - meter.window + 1} to {step}"
        if not meter.is_finite():
            self._stop(f"the loss or its gradient {where} is not a finite number", kept)
        if not meter.window or math.isinf(self.limit):
            return
        mean, gradient, _ = (total / meter.window for total in meter.totals())
        limit = self.limit * self.size
        if abs(mean) > limit:
            self._stop(
                f"the mean loss {where}, {mean:.4g}, is beyond {limit:g}: the energies of the data "
                "and of the chains have run apart",
                kept,
            )
        if gradient == 0:
            self._stop(f"no chain moved {where}: every step was rejected", kept)

    def weights(self, tensors: Iterable[Tensor], step: int, kept: int | None, vote: Vote) -> None:
        """Refuse weights that are not finite on some process.

        Args:
            tensors: of this process.
            step: number of steps taken.
            kept: step of the last good checkpoint, None if there is none.
            vote: of all processes.

        Raises:
            TrainingError: saying what was seen and what to try.
        """
        norms = torch._foreach_norm([t for t in tensors if t.numel()], math.inf)
        if vote.any(bool(norms) and not bool(torch.stack(norms).isfinite().all())):
            self._stop(f"a weight after step {step} is not a finite number", kept)

    def _stop(self, what: str, kept: int | None) -> None:
        rate = f"{self.config.learning_rate / 10:g}"
        last = "no checkpoint yet" if kept is None else f"last good checkpoint: step {kept}"
        other = (
            "more or smaller steps of the chains, an energy penalty"
            if math.isfinite(self.limit)
            else "a time sampler that avoids the smallest noise"
        )
        raise TrainingError(
            f"{what} ({last}). Go on from there with a lower learning_rate: --continue-with "
            f"learning_rate={rate}, or continue_with={{'learning_rate': {rate}}} in Python; "
            "clip=1, a longer warmup and precision=float32 are given in the same way. Or start "
            f"anew with {other}"
        )
