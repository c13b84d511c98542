"""DPM-Solver with adaptive steps, each example its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_choice
from sde_score.samplers.adaptive.controller import (
    AdaptiveSampler,
    Attempt,
    Control,
    Front,
    Pair,
    scales,
)
from sde_score.samplers.base import Problem

PREDICTIONS = ("data", "noise")
CONTROLS = ("pi", "paper")
NORMS = ("example", "batch")


@dataclass(frozen=True)
class DPMAdaptive(AdaptiveSampler):
    r"""DPM-Solver of two neighboring orders on the probability-flow ODE, steps to a tolerance.

    A step of length h in lambda = log(alpha / sigma), for a prediction m of the noise (k = 1,
    c = alpha) or of the data (k = -1, c = sigma), with stages at the shares r of the step, is

    .. math:: \frac{x_r}{c_r} = \frac{x}{c} - e^{-k \lambda_r} \left[(e^{k r h} - 1)\, m_0
              + w\, (m_j - m_0)\right] .

    The pair of order 2 has one stage, at 1/2, and compares orders 1 and 2; that of order 3 has two,
    at 1/3 and 2/3, and compares orders 2 and 3. The better solution is kept. A step costs `order`
    evaluations, a rejected one less one. The arithmetic is float64 around the model.

    Args:
        order: of the solution that is kept, 2 or 3.
        prediction: `"noise"` is DPM-Solver, `"data"` DPM-Solver++.
        control_rule: of the next step; `"pi"` follows the last two errors and changes a step at
            most fivefold, `"paper"` follows the last alone, without bounds.
        norm: `"example"` gives each example its own steps; `"batch"` gives all those of the
            example with the largest error, as in the authors' code, so that samples depend on
            their neighbors.

    Raises:
        ValueError: for an unknown word, or tolerances that are not positive.

    Reference: Lu et al. 2022, https://arxiv.org/abs/2206.00927, algorithms of DPM-Solver-12 and
    -23; Lu et al. 2022, https://arxiv.org/abs/2211.01095.
    """

    order: int = 3
    prediction: str = "data"
    control_rule: str = "pi"
    norm: str = "example"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order!r} is not known; accepted: 2, 3")
        require_choice("prediction", self.prediction, PREDICTIONS)
        require_choice("control_rule", self.control_rule, CONTROLS)
        require_choice("norm", self.norm, NORMS)

    @property
    @override
    def convergence_order(self) -> int:
        return self.order

    @property
    @override
    def reference(self) -> str:
        return "Lu et al. 2022, https://arxiv.org/abs/2206.00927, adaptive step size"

    @property
    @override
    def stochastic(self) -> bool:
        return False

    @property
    @override
    def control(self) -> Control:
        if self.control_rule == "paper":
            return Control(integral=1 / self.order, shrink=0.0, grow=torch.inf)
        return Control(integral=0.85 / self.order, proportional=0.2 / self.order)

    @override
    def share(self, size: Tensor) -> Tensor:
        return size if self.norm == "example" else size.amax().expand_as(size)

    @override
    def pair(self, problem: Problem, x: Tensor) -> Pair:
        return _Exponential(problem, x.shape, x.dtype, self.order, self.prediction)


@dataclass(frozen=True, eq=False)
class _Exponential(Pair):
    """The pair of an order for a prediction."""

    order: int
    prediction: str

    @property
    @override
    def kind(self) -> str:
        return "noise" if self.prediction == "noise" else "denoise"

    @override
    def attempt(self, front: Front, step: Tensor) -> Attempt:
        if self.order == 2:
            change = self._change(front, 1 / 2 * step, self._solution(front, 1 / 2 * step))
            low = self._solution(front, step)
            high = self._solution(front, step, self._growth(step), change)
            return Attempt(high, low, front.memory)
        first, second = step / 3, 2 * step / 3
        change = self._change(front, first, self._solution(front, first))
        low = self._solution(front, step, 1.5 * self._growth(step), change)
        ahead = self._solution(front, second, 2 * self._bend(second), change)
        high = self._solution(
            front, step, 1.5 * self._bend(step), self._change(front, second, ahead)
        )
        return Attempt(high, low, front.memory)

    @property
    def _sign(self) -> float:
        return 1.0 if self.prediction == "noise" else -1.0

    def _growth(self, step: Tensor) -> Tensor:
        """e^{kh} - 1."""
        return torch.expm1(self._sign * step)

    def _bend(self, step: Tensor) -> Tensor:
        """(e^{kh} - 1) / kh - 1, about kh / 2."""
        return self._growth(step) / (self._sign * step) - 1

    def _change(self, front: Front, step: Tensor, state: Tensor) -> Tensor:
        """How the prediction at a stage differs from that at the start."""
        return self.predict(state, front.level + step, front.rows) - front.known

    def _solution(
        self, front: Front, step: Tensor, weight: Tensor | None = None, change: Tensor | None = None
    ) -> Tensor:
        """The state after a step, in the shape of the states."""
        ahead = front.level + step
        side = 0 if self.prediction == "noise" else 1
        here, there = scales(front.level)[side], scales(ahead)[side]
        factor = there * torch.exp(-self._sign * ahead)
        state = (there / here)[:, None] * front.state
        state.addcmul_((factor * self._growth(step))[:, None], front.known, value=-1)
        if weight is not None and change is not None:
            state.addcmul_((factor * weight)[:, None], change, value=-1)
        return state
