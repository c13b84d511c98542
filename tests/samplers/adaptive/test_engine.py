"""The engine of adaptive steps, with a pair whose errors are written down beforehand."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.samplers.adaptive.engine import (
    Attempt,
    BatchState,
    EmbeddedPair,
    PIDController,
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


def test_pid_control_by_the_formula():
    """Inverse errors of this attempt and of the two accepted before it, to b1, b2, b3, limited; at
    the start the first attempt stands for both, as rejected ones never do."""
    errors, p, i, d, k, least = [8.0, 0.5, 1.2, 3.0, 0.25, 1.9], 0.3, 0.7, 0.2, 2, 0.7
    controller = PIDController(order=k, pcoeff=p, icoeff=i, dcoeff=d, accept_safety=least)
    steps, stop, left, step, kept = [], 0.06, 0.06, controller.first, [1 / errors[0]] * 2
    while left and len(steps) < 20:
        error = errors[len(steps)] if len(steps) < len(errors) else 0.1
        steps.append(min(step, left))
        powers = (p + i + d) / k, -(p + 2 * d) / k, d / k
        raw = math.prod(v**b for v, b in zip([1 / error, *kept], powers, strict=True))
        factor = 1 + math.atan(raw - 1)
        if factor >= least:
            kept, left = [1 / error, kept[0]], left - steps[-1]
        step = steps[-1] * factor
    assert len(errors) < len(steps) < 20
    pair, zero = Scripted([*errors, *[0.1] * 20]), torch.zeros(1, dtype=torch.float64)
    start = BatchState.start(zero[:, None], zero, (zero,), controller.first)
    _, end = integrate(pair, controller, start, torch.tensor([stop], dtype=torch.float64))
    assert pair.steps == pytest.approx(steps, rel=1e-6)
    assert int(end.steps) == len(steps) - 4
