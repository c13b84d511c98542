r"""Gradients of an adaptive solve, with respect to its start and to the parameters.

Two ways, either of which keeps one state a step and the graph of a single step at a time:

- `dopri5`, through the steps: each accepted step is evaluated again with a graph, from the last to
  the first, and the gradient is pulled back through it. It is the gradient of the solution that was
  returned, with the step sizes held fixed; they change the solution within the tolerance only.
- `torchdiffeq`, the adjoint: the equation a' = -a df/dx is solved backward in time to the same
  tolerance, together with the state and the gradient of the parameters.

Reference: Chen et al. 2018, https://arxiv.org/abs/1806.07366, for the adjoint; Gholami et al. 2019
(ANODE), https://arxiv.org/abs/1902.10298, for the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function

from sde_score.samplers.adaptive.dormand_prince import (
    NODES,
    WEIGHTS,
    Derivative,
    Norm,
    Solution,
    dormand_prince,
    root_mean_square,
)
from sde_score.samplers.adaptive.engine import AcceptedSteps
from sde_score.samplers.adaptive.ode_solvers import torchdiffeq_dopri5


class GradientSolver(Protocol):
    """A solver whose path carries a graph to the state and to the leaves of the derivative."""

    def __call__(
        self,
        derivative: Derivative,
        state: Tensor,
        stops: Tensor,
        leaves: tuple[Tensor, ...],
        *,
        rtol: float,
        atol: float,
        norm: Norm = ...,
    ) -> Solution:
        """Solve as a `Solver` does, for a derivative that keeps its graph where gradients are
        enabled."""
        ...


def through_steps(
    derivative: Derivative,
    state: Tensor,
    stops: Tensor,
    leaves: tuple[Tensor, ...],
    *,
    rtol: float,
    atol: float,
    norm: Norm = root_mean_square,
) -> Solution:
    """`dormand_prince`, and on the way back its accepted steps, evaluated again with a graph.

    Args:
        derivative: right-hand side of the equation.
        state: at the first stop, float64 of shape `(batch, numbers)`.
        stops: increasing times, float64 of shape `(stops,)`.
        leaves: what the derivative depends on besides its arguments.
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        norm: size of the scaled error of each example.
    """
    given = {"derivative": derivative, "stops": stops, "rtol": rtol, "atol": atol, "norm": norm}
    path, evaluations, steps = _ThroughSteps.apply(given, state, *leaves)  # type: ignore[no-untyped-call]
    return Solution(path, evaluations, steps)


class _ThroughSteps(Function):
    @staticmethod
    def forward(ctx: Any, given: dict[str, Any], state: Tensor, *leaves: Tensor) -> Any:
        ctx.rounds, ctx.leaves, ctx.derivative = [], leaves, given["derivative"]
        solution = dormand_prince(state=state.detach(), record=ctx.rounds.append, **given)
        ctx.mark_non_differentiable(solution.evaluations, solution.steps)
        return solution.path, solution.evaluations, solution.steps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        path = gradients[0]
        adjoint = torch.zeros_like(path[0])
        totals: list[Tensor | None] = [None] * len(ctx.leaves)
        for step in reversed(ctx.rounds):
            at_goal = path[step.goal, step.rows]
            adjoint[step.rows] += torch.where(step.landed[:, None], at_goal, 0.0)
            pulled, parts = _pull_back(ctx.derivative, step, adjoint[step.rows], ctx.leaves)
            adjoint[step.rows] = pulled
            totals = [_add(total, part) for total, part in zip(totals, parts, strict=True)]
        return None, adjoint + path[0], *totals


def _pull_back(
    derivative: Derivative, step: AcceptedSteps, adjoint: Tensor, leaves: tuple[Tensor, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradient at the start of a step and of the leaves, from that at its end."""
    with torch.enable_grad():
        start = step.state.detach().requires_grad_()
        state, slopes = start, []
        for node, weights in zip((0.0, *NODES[:-1]), WEIGHTS[: len(NODES)], strict=True):
            slopes.append(derivative(step.time + node * step.length, state, step.rows))
            change = sum(w * slope for w, slope in zip(weights, slopes, strict=False) if w)
            state = start + step.length[:, None] * change
    inputs = [start, *(leaf for leaf in leaves if leaf.requires_grad)]
    # The graph is kept where it leads on beyond the derivative, to be walked again by other steps.
    pulled, *parts = torch.autograd.grad(
        state, inputs, adjoint, retain_graph=True, allow_unused=True
    )
    found = iter(parts)
    return pulled, [next(found) if leaf.requires_grad else None for leaf in leaves]


def _add(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    return total if part is None else part if total is None else total + part


def adjoint(
    derivative: Derivative,
    state: Tensor,
    stops: Tensor,
    leaves: tuple[Tensor, ...],
    *,
    rtol: float,
    atol: float,
    norm: Norm = root_mean_square,
) -> Solution:
    """`torchdiffeq.odeint_adjoint` with the steps that the batch shares.

    Args:
        derivative: right-hand side of the equation.
        state: at the first stop, float64 of shape `(batch, numbers)`.
        stops: increasing times, float64 of shape `(stops,)`.
        leaves: what the derivative depends on besides its arguments.
        rtol: relative tolerance of a step, forward and backward, > 0.
        atol: absolute tolerance of a step, > 0.
        norm: not used.

    Raises:
        RuntimeError: if torchdiffeq gives up.
    """
    return torchdiffeq_dopri5(
        derivative, state, stops, rtol=rtol, atol=atol, norm=norm, leaves=leaves
    )


GRADIENT_SOLVERS: Mapping[str, GradientSolver] = {"dopri5": through_steps, "torchdiffeq": adjoint}
"""The solvers through which gradients pass, by their names in `SOLVERS`."""


def leaves_of(value: Tensor, model: object = None) -> tuple[Tensor, ...]:
    """The tensors on which autograd would accumulate the gradient of a value, and a model's
    parameters, each once."""
    found = {id(leaf): leaf for leaf in _accumulated(value)}
    parameters: Iterable[Tensor] = model.parameters() if isinstance(model, nn.Module) else ()
    found |= {id(leaf): leaf for leaf in parameters if leaf.requires_grad}
    return tuple(found.values())


def _accumulated(value: Tensor) -> Iterator[Tensor]:
    seen, open_nodes = set(), [value.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            yield leaf
        open_nodes.extend(before for before, _ in node.next_functions)
