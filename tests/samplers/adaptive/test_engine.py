"""The engine of adaptive steps, with a pair whose errors are written down beforehand."""

from __future__ import annotations

import pytest
import torch

from sde_score.samplers.adaptive.engine import (
    Attempt,
    BatchState,
    EmbeddedPair,
    StepSizeController,
    integrate,
)


class Scripted(EmbeddedPair):
    """y' = 1, with the errors of a list, one a round."""

    def __init__(self, errors):
        self.errors, self.steps, self.evaluations = list(errors), [], 0

    def evaluate(self, state, time, rows):
        self.evaluations += 1
        return torch.ones_like(state)

    def attempt(self, batch, step):
        self.steps.append(step.item())
        return Attempt(batch.state + step[:, None] * batch.known, batch.state, (batch.time,))

    def size(self, batch, tried):
        return torch.tensor([self.errors.pop(0)], dtype=torch.float64)


def test_only_accepted_errors_are_remembered():
    """Each step is 0.9 e^-0.5 e'^0.2 times the last, e' being of the last accepted step."""
    pair = Scripted([4.0, 0.5, 2.0, 0.25, 0.1])
    controller = StepSizeController(proportional=0.2, first=0.1)
    zero = torch.zeros(1, dtype=torch.float64)
    start = BatchState.start(zero[:, None], zero, (zero,), controller.first)
    path, end = integrate(pair, controller, start, torch.tensor([0.12], dtype=torch.float64))
    wanted, step = [0.1], 0.1
    for error, before in ((4.0, 1.0), (0.5, 1.0), (2.0, 0.5), (0.25, 0.5)):
        step *= 0.9 * error**-0.5 * before**0.2
        wanted.append(step)
    done = wanted[1] + wanted[3]
    wanted[-1] = min(wanted[-1], 0.12 - done)
    assert pair.steps == pytest.approx(wanted)
    assert path.item() == pytest.approx(0.12)
    assert (int(end.attempts), int(end.steps)) == (len(pair.steps), len(pair.steps) - 2)
    assert pair.evaluations == int(end.steps)  # one at the start of each step from a new state
