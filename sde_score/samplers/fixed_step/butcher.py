"""Butcher tableaux of the Runge-Kutta methods, with interpolation nodes in place of weights.

The weights of a stage are those of the polynomial through earlier evaluations of the step, which
depend on the clock; in the prediction's natural clock they are the classical ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

Nodes = tuple[int | tuple[int, ...], ...]
"""Indices of the evaluations of the step that a polynomial interpolates, the first being 0; a tuple
within stands for the average of evaluations at the same point."""


class Stage(NamedTuple):
    """An evaluation of the model within a step, or the end of the step.

    Args:
        at: share of the step in the clock, 0 to 1.
        nodes: the evaluations by which the state is carried there from the start of the step.
    """

    at: float
    nodes: Nodes


@dataclass(frozen=True)
class Tableau:
    """A Runge-Kutta method: one evaluation at the start of the step and one at each stage.

    Args:
        order: of convergence; the fourth is reached in a prediction's natural clock alone, and is
            the third in other clocks.
        final: the nodes of the step itself.
        stages: after the first evaluation, ordered along the step.
        rule: moments of the polynomial of the step itself, from `exponential.MOMENT_RULES`.
    """

    order: int
    final: Nodes
    stages: tuple[Stage, ...] = ()
    rule: str = "exact"

    @property
    def goals(self) -> tuple[Stage, ...]:
        """The stages and the end of the step."""
        return (*self.stages, Stage(1.0, self.final))


def second_order(at: float) -> Tableau:
    """The line through the start of the step and a share of it: in the natural clock the general
    method of second order, EDM's alpha; 1 is Heun's and 2/3 Ralston's.

    Args:
        at: in (0, 1].

    Raises:
        ValueError: for a share outside its range.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithm 3.
    """
    if not 0 < at <= 1:
        raise ValueError(f"at={at} must lie in (0, 1]")
    return Tableau(2, (0, 1), (Stage(at, (0,)),))


TABLEAUX: Mapping[str, Tableau] = {
    "euler": Tableau(1, (0,)),
    "heun": second_order(1.0),
    "midpoint": Tableau(2, (1,), (Stage(0.5, (0,)),)),
    "ralston": second_order(2 / 3),
    "half-line": second_order(0.5),
    "heun-3": Tableau(3, (0, 2), (Stage(1 / 3, (0,)), Stage(2 / 3, (0, 1)))),
    "thirds-parabola": Tableau(3, (0, 1, 2), (Stage(1 / 3, (0,)), Stage(2 / 3, (0, 1)))),
    "rk4": Tableau(4, (0, (1, 2), 3), (Stage(0.5, (0,)), Stage(0.5, (1,)), Stage(1.0, (2,)))),
}
"""The methods by name.

- `euler`: one evaluation;
- `heun`: a line through both ends of the step; in the natural clock the trapezoidal rule;
- `midpoint`: the value in the middle; in log-SNR DPM-Solver-2;
- `ralston`: a line through the start and two thirds of the step; in the natural clock Ralston's
  method, EDM's family of second-order methods at alpha = 2/3;
- `half-line`: a line through the start and the middle;
- `heun-3`: lines through the start and one and two thirds; in the natural clock Heun's method of
  third order, in log-SNR DPM-Solver-3;
- `thirds-parabola`: the same stages, and a parabola through all three;
- `rk4`: in the natural clock Kutta's classical method of fourth order.
"""
