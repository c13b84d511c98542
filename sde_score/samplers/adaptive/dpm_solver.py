"""DPM-Solver with adaptive step sizes, chosen per example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_choice, require_positive
from sde_score.samplers.adaptive.engine import (
    Attempt,
    BatchState,
    PIDController,
    StepSizeController,
)
from sde_score.samplers.adaptive.sampler import AdaptiveSampler, UnitVariancePair, scales
from sde_score.samplers.problem import Problem


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
            most fivefold, `"paper"` follows the last alone, without bounds, and `"pid"` is the
            controller of k-diffusion, which also decides which steps are accepted.
        norm: `"example"` gives each example its own steps; `"batch"` gives all those of the
            example with the largest error, as in the authors' code, so that samples depend on
            their neighbors.
        pcoeff: proportional coefficient of `"pid"`, see `engine.PIDController`; 0 if not given.
        icoeff: its integral coefficient; 1 if not given.
        dcoeff: its derivative coefficient; 0 if not given.
        accept_safety: least change of the step size by `"pid"` with which a step is accepted, in
            (0, 1); 0.81, k-diffusion's, if not given.

    Raises:
        ValueError: for an unknown word, tolerances that are not positive, coefficients without
            `"pid"` or whose sum is not positive.

    Reference: Lu et al. 2022, https://arxiv.org/abs/2206.00927, algorithms of DPM-Solver-12 and
    -23; Lu et al. 2022, https://arxiv.org/abs/2211.01095.
    """

    order: int = 3
    prediction: str = "data"
    control_rule: str = "pi"
    norm: str = "example"
    pcoeff: float | None = None
    icoeff: float | None = None
    dcoeff: float | None = None
    accept_safety: float | None = None

    stochastic = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order!r} is not known; accepted: 2, 3")
        require_choice("prediction", self.prediction, ("data", "noise"))
        require_choice("control_rule", self.control_rule, ("pi", "paper", "pid"))
        require_choice("norm", self.norm, ("example", "batch"))
        given = self._coefficients
        if given and self.control_rule != "pid":
            raise ValueError(
                f"{', '.join(f'{name}={value}' for name, value in given.items())}: coefficients of "
                f"control_rule='pid', and control_rule={self.control_rule!r} has none"
            )
        made = PIDController(**given)
        require_positive(**{"pcoeff + icoeff + dcoeff": made.pcoeff + made.icoeff + made.dcoeff})
        if not 0 < made.accept_safety < 1:
            raise ValueError(f"accept_safety={made.accept_safety} must lie in (0, 1)")

    @property
    def _coefficients(self) -> dict[str, Any]:
        """Those of `"pid"` that were given."""
        names = ("pcoeff", "icoeff", "dcoeff", "accept_safety")
        found = {name: getattr(self, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    @property
    @override
    def convergence_order(self) -> int:
        return self.order

    @property
    @override
    def controller(self) -> StepSizeController:
        if self.control_rule == "pid":
            return PIDController(order=self.order, **self._coefficients)
        if self.control_rule == "paper":
            return StepSizeController(integral=1 / self.order, shrink=0.0, grow=torch.inf)
        return StepSizeController(integral=0.85 / self.order, proportional=0.2 / self.order)

    @override
    def pair(self, problem: Problem, x: Tensor) -> UnitVariancePair:
        kind = "noise" if self.prediction == "noise" else "denoise"
        together = self.norm == "batch"
        return _Exponential(
            problem, x.shape, x.dtype, self.rtol, self.atol, kind, together, self.order
        )


@dataclass(frozen=True, eq=False)
class _Exponential(UnitVariancePair):
    """The pair of an order for a prediction."""

    order: int = 3

    @override
    def attempt(self, batch: BatchState, step: Tensor) -> Attempt:
        if self.order == 2:
            change = self._change(batch, 1 / 2 * step, self._solution(batch, 1 / 2 * step))
            low = self._solution(batch, step)
            high = self._solution(batch, step, self._growth(step), change)
            return Attempt(high, high - low, (low,))
        first, second = step / 3, 2 * step / 3
        change = self._change(batch, first, self._solution(batch, first))
        low = self._solution(batch, step, 1.5 * self._growth(step), change)
        ahead = self._solution(batch, second, 2 * self._bend(second), change)
        high = self._solution(
            batch, step, 1.5 * self._bend(step), self._change(batch, second, ahead)
        )
        return Attempt(high, high - low, (low,))

    @property
    def _sign(self) -> float:
        return 1.0 if self.kind == "noise" else -1.0

    def _growth(self, step: Tensor) -> Tensor:
        """e^{kh} - 1."""
        return torch.expm1(self._sign * step)

    def _bend(self, step: Tensor) -> Tensor:
        """(e^{kh} - 1) / kh - 1, about kh / 2."""
        return self._growth(step) / (self._sign * step) - 1

    def _change(self, batch: BatchState, step: Tensor, state: Tensor) -> Tensor:
        """The prediction at a stage less that at the start."""
        return self.evaluate(state, batch.time + step, batch.rows) - batch.known

    def _solution(
        self,
        batch: BatchState,
        step: Tensor,
        weight: Tensor | None = None,
        change: Tensor | None = None,
    ) -> Tensor:
        """The state after a step, in the shape of the states."""
        ahead = batch.time + step
        side = 0 if self.kind == "noise" else 1
        here, there = scales(batch.time)[side], scales(ahead)[side]
        factor = there * torch.exp(-self._sign * ahead)
        state = (there / here)[:, None] * batch.state
        state.addcmul_((factor * self._growth(step))[:, None], batch.known, value=-1)
        if weight is not None and change is not None:
            state.addcmul_((factor * weight)[:, None], change, value=-1)
        return state
