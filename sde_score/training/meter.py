"""Loss, gradient norm and speed since the last line of metrics."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from sde_score.training.state import TrainState


class Meter:
    """Sums on the device, read only when a line is written, so that steps never wait for the host.

    Args:
        accelerator: averages over processes.
        state: of the checkpoint that is continued; None at the start of a run.
    """

    def __init__(self, accelerator: Any, state: TrainState | None = None) -> None:
        self._accelerator = accelerator
        start = (0.0, 0.0, 0.0)
        if state is not None:
            start = (state.loss_sum, state.grad_norm_sum, state.skipped_examples)
        # Sums of float32 have no rounding in float64, so that it does not matter when processes
        # were averaged, as at a checkpoint of a run that was stopped.
        self._sums = torch.tensor(start, device=accelerator.device, dtype=torch.float64)
        self.window = 0 if state is None else state.window
        self.skipped = 0 if state is None else state.skipped
        self._before = 0.0 if state is None else state.seconds
        self.start()

    def start(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()
        self._fresh, self._last = 0, self._before

    @property
    def seconds(self) -> float:
        """Training time, earlier sessions included."""
        return self._before + time.perf_counter() - self._began

    def add(self, loss: Tensor, grad_norm: Tensor | None, skipped: int = 0) -> None:
        """Count one step.

        Args:
            loss: a scalar on the device.
            grad_norm: a scalar on the device; None for a step that was left out.
            skipped: examples of this process that could not be read.
        """
        self.skipped += grad_norm is None
        norm = torch.zeros_like(loss) if grad_norm is None else grad_norm
        self._sums += torch.stack([loss, norm, torch.full_like(loss, skipped)])
        self.window += 1
        self._fresh += 1

    def totals(self) -> tuple[float, float, float]:
        """Sums of loss, gradient norm and skipped examples since the last line, averaged over
        processes.

        All processes must ask together.
        """
        if self._accelerator.num_processes > 1:
            self._sums = self._accelerator.reduce(self._sums, "mean")
        loss, grad_norm, skipped = self._sums.tolist()
        return loss, grad_norm, skipped

    def is_finite(self) -> bool:
        """Whether every loss and gradient since the last line was a finite number."""
        return all(math.isfinite(total) for total in self.totals())

    def line(self, batch: int, loss_scale: float | None = None) -> dict[str, float]:
        """Means since the last line, and the start of a new one.

        Args:
            batch: examples per step over all processes.
            loss_scale: of the next step; None for a loss that is not scaled.
        """
        loss, grad_norm, skipped = self.totals()
        now = self.seconds
        measures = {
            "loss": loss / self.window,
            "grad_norm": grad_norm / max(self.window - self.skipped, 1),
            "examples_per_second": self._fresh * batch / max(now - self._last, 1e-9),
            "seconds": now,
        }
        if loss_scale is not None:
            measures |= {"loss_scale": loss_scale, "skipped_steps": self.skipped}
        if skipped:
            measures["skipped_examples"] = round(skipped * self._accelerator.num_processes)
        self._sums.zero_()
        self.window = self.skipped = self._fresh = 0
        self._last = now
        return measures
