"""Check before training that a model has the derivatives that an objective takes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sde_score._core.checks import expand_like, require_choice, sum_event
from sde_score._core.conditions import Condition, mapped
from sde_score._core.quadrature import legendre
from sde_score.models.derivatives.jacobian import pull
from sde_score.models.inputs import as_batch, as_condition, require_model
from sde_score.models.protocol import EnergyBased, Model
from sde_score.random import generator_from, normal

NEEDS = ("score", "energy")

_EXAMPLES = 4
_NODES = 8
_BISECTIONS = 5
_TOLERANCE = 1e-2
_SHARE = 0.25
_SMOOTH = "SiLU, Softplus, GELU or tanh, and average pooling"
_KINKS = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardswish, nn.Hardshrink),
    *(nn.Softshrink, nn.Threshold, nn.ELU, nn.CELU, nn.SELU),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d),
)


def check_differentiable(
    model: Model,
    x: Tensor,
    t: Tensor | float | None = None,
    condition: Condition = None,
    needs: str = "score",
    second_derivatives: bool = True,
) -> None:
    r"""Refuse a model that would train on wrong gradients, or fail at them, and say why.

    Where a loss takes derivatives with respect to x and then with respect to parameters, torch
    is silent on most of what goes wrong. On straight lines x(u) between four examples, for random
    vectors v, each derivative that autograd gives is compared with differences of the one before:

    .. math:: g^{(k-1)}(1) - g^{(k-1)}(0) = \int_0^1 g^{(k)}(u)\, du, \qquad
              g(u) = v \cdot s(x(u), t),

    k = 1 and, for second derivatives of the score, k = 2. A function with kinks (ReLU, LeakyReLU,
    Hardtanh, max pooling, ...; ELU where the Hessian of an energy is trained) fails, because
    autograd differentiates its smooth pieces and not the jumps between them, as does a graph that
    is cut; a score that is linear in x passes. Refused are, further, models that let one example
    see another (batch statistics), parts without a double backward pass (fused attention, compiled
    modules, reentrant checkpoints), parameters that get no gradient, and derivatives that are not
    finite.

    With `second_derivatives=False` a score model passes unseen, an energy model does if `needs` is
    `"energy"`: nothing of them is differentiated in x.

    Args:
        model: anything with the model protocol, in the mode in which it will be trained. Nothing
            of it is changed, nor are the states of random generators.
        x: where, shape `(batch, *event)`: data or samples, of which four are used.
        t: a scalar or `(batch,)`; None for `t_min`.
        condition: passed to the model, one entry per example.
        needs: what the objective evaluates of the model, `score` or `energy`.
        second_derivatives: whether the objective differentiates the score with respect to x.

    Raises:
        TypeError: for a model without the protocol, or x that is not floating point.
        ValueError: for a model that would not train rightly, with the reason and the usual fix.
    """
    require_model(model)
    x = as_batch("x", x)
    condition = as_condition(condition, len(x), x.device)
    require_choice("needs", needs, NEEDS)
    is_gradient = needs == "score" and isinstance(model, EnergyBased)
    if not (second_derivatives or is_gradient):
        return
    with untouched(model, x), torch.inference_mode(False), torch.enable_grad():
        probe = _Probe(model, x, t, condition, 2 if second_derivatives else 1)
        with torch.no_grad():  # a model that cannot be called has an error of its own
            value = model.energy if isinstance(model, EnergyBased) else model.score
            value(probe.x, probe.t, probe.condition)
        try:
            problems = probe.gradients()
            if not problems:
                with awake(model):
                    problems = probe.coupling() or probe.jumps()
        except RuntimeError as error:
            problems = [_without_derivative(error)]
    if problems:
        lines = "".join(f"\n- {problem}" for problem in problems)
        raise ValueError(
            f"{type(model).__name__} cannot be trained through derivatives of its score:{lines}"
        )


class _Probe:
    """A few examples, the lines between them, and the derivatives of the score along these."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        t: Tensor | float | None,
        condition: Condition,
        order: int,
    ) -> None:
        self.model, self.order = model, order
        # Two examples at least: a single one cannot see another.
        rows = torch.arange(max(2, min(len(x), _EXAMPLES)), device=x.device) % len(x)
        self.x = x.detach()[rows].clone()
        t = model.sde.t_min if t is None else t
        self.t = t[rows.to(t.device)] if isinstance(t, Tensor) and t.ndim > 0 else t
        self.condition = mapped(condition, lambda value: value[rows.to(value.device)])
        self.vector, shift = (normal(self.x, generator_from(i, device=x.device)) for i in (0, 1))
        spread = self.x.std().nan_to_num()
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        self.direction = 0.5 * (self.x.roll(1, 0) + spread * shift - self.x)

    def score(self, x: Tensor) -> Tensor:
        """The score, with the same dropout in every call."""
        torch.default_generator.manual_seed(0)
        if x.is_cuda:
            torch.cuda.manual_seed_all(0)
        return self.model.score(x, self.t, self.condition)

    def along(self, u: Tensor) -> list[Tensor]:
        """g(u) and its derivatives up to the order of the objective, `(batch,)` each, with graphs
        to the parameters."""
        point = (self.x + expand_like(u, self.x) * self.direction).requires_grad_()
        found = [sum_event(self.score(point) * self.vector)]
        for _ in range(self.order):
            last = found[-1]
            slope = torch.zeros_like(point)
            if last.requires_grad:
                slope = pull(last, point, torch.ones_like(last), create_graph=True)
            found.append(sum_event(slope * self.direction))
        return found

    def gradients(self) -> list[str]:
        """Problems of a loss with the derivatives of the objective, and of its gradient."""
        values = self.along(torch.zeros(len(self.x)))
        if not values[0].requires_grad:
            return [
                "the score has no graph: it is computed under torch.no_grad() or from a detached "
                "tensor; compute it where gradients are enabled"
            ]
        # The derivative in x of the last order is taken by the objective, that of the loss in the
        # parameters by its caller.
        loss = torch.stack(values[: self.order]).sum()
        named = self.model.named_parameters() if isinstance(self.model, nn.Module) else ()
        parameters = {name: p for name, p in named if p.requires_grad}
        gradients: Sequence[Tensor] = ()
        if parameters:
            gradients = torch.autograd.grad(
                loss, list(parameters.values()), allow_unused=True, materialize_grads=True
            )
        if parameters and not any(bool(gradient.any()) for gradient in gradients):
            return [
                "no parameter gets a gradient: the score does not depend on them, or all that it "
                "depends on is zero, as with head='square' on a backbone whose last layer starts "
                "at zero; start that layer elsewhere or choose another head"
            ]
        tensors = {"the score": values[0], "its derivative": torch.stack(values[1:])}
        tensors |= {f"the gradient of {n}": g for n, g in zip(parameters, gradients, strict=True)}
        bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        return bad and [
            f"not finite: {', '.join(bad[:3])}{more}; look for square roots, norms and logarithms "
            "at zero, and give them a small constant"
        ]

    def coupling(self) -> list[str]:
        """The problem of a score of the first example that depends on the others."""
        point = self.x.clone().requires_grad_()
        value = self.score(point)
        if not value.requires_grad:
            return []
        only_first = torch.zeros_like(self.vector)
        only_first[0] = self.vector[0]
        foreign = pull(value, point, only_first, create_graph=False)[1:]
        if not bool((foreign.nan_to_num() != 0).any()):
            return []
        norms = [
            f"{type(module).__name__} in {path}"
            for path, module in named_modules(self.model)
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and (module.training or module.running_mean is None)
        ]
        return [
            f"{', '.join(norms) or 'something in the model'}: the score of one example depends on "
            "the others in its batch, as with batch statistics; use GroupNorm or LayerNorm, or put "
            "batch norms in eval()"
        ]

    def jumps(self) -> list[str]:
        """The problem of a derivative that does not integrate to differences of the one before.

        The mismatch over the whole line is followed into the worse of two halves, again and again.
        In a short interval a smooth function has next to none; a jump, or a derivative that is
        missing, is all that is there.
        """
        low, high = torch.zeros(len(self.x)).double(), torch.ones(len(self.x)).double()
        at_low, at_high = self._values(low), self._values(high)
        integrals = self._integrals(low, high)
        sizes = at_low.abs()[:-1] + at_high.abs()[:-1] + integrals[1]
        sizes = torch.where(sizes > 0, sizes, 1)

        def left_over(difference: Tensor, integrals: Tensor) -> Tensor:
            """Mismatch of each order, in shares of the whole line, and in shares of the parts."""
            off, own = (difference[:-1] - integrals[0]).abs(), difference[:-1].abs() + integrals[1]
            return torch.stack([off / sizes, off / torch.where(own > 0, own, 1)])

        left = left_over(at_high - at_low, integrals)
        rounding = 1e4 * torch.finfo(self.x.dtype).eps
        if bool((left[0] <= max(_TOLERANCE, rounding)).all()):
            return []
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            at_middle = self._values(middle)
            below = left_over(at_middle - at_low, self._integrals(low, middle, _NODES // 2))
            above = left_over(at_high - at_middle, self._integrals(middle, high, _NODES // 2))
            lower = below[0].amax(0) > above[0].amax(0)
            left = torch.where(lower, below, above)
            low, high = torch.where(lower, low, middle), torch.where(lower, middle, high)
            at_low = torch.where(lower, at_low, at_middle)
            at_high = torch.where(lower, at_middle, at_high)
        if not bool(((left[0] > rounding) & (left[1] > _SHARE)).any()):
            return []
        if not bool(integrals[1, -1].any()):
            return [
                "the score is not linear in x and yet its derivatives are exactly zero: it is "
                "made of flat or linear pieces, or its graph is cut (detach, once_differentiable); "
                f"use {_SMOOTH}{self._suspects()}"
            ]
        return [
            "the score has kinks, where a derivative that is needed jumps, or its graph is cut "
            "(detach): autograd differentiates the pieces and leaves the jumps out; use "
            f"{_SMOOTH}{self._suspects()}"
        ]

    def _values(self, u: Tensor) -> Tensor:
        """g(u) and its derivatives, float64 `(order + 1, batch)`."""
        return torch.stack(self.along(u)).detach().double().cpu()

    def _integrals(self, low: Tensor, high: Tensor, count: int = _NODES) -> Tensor:
        """Integrals over an interval of u, of each example, of the derivatives of g and of their
        absolute values, `(2, order, batch)`."""
        nodes, weights = legendre(count)
        inside = torch.stack([self._values(low + (high - low) * node) for node in nodes])[:, 1:]
        both = torch.stack([inside, inside.abs()], 1)
        return (high - low) * torch.einsum("n,nskb->skb", weights, both)

    def _suspects(self) -> str:
        names = [
            f"{type(module).__name__} in {path}"
            for path, module in named_modules(self.model)
            if isinstance(module, _KINKS)
        ]
        return f"; to be replaced: {', '.join(names)}" if names else ""


def _without_derivative(error: RuntimeError) -> str:
    first = next(iter(str(error).splitlines()), type(error).__name__).rstrip(". ")
    return (
        f"torch cannot differentiate it twice ({first}): fused attention needs "
        "torch.nn.attention.sdpa_kernel(SDPBackend.MATH), checkpoints need use_reentrant=False, "
        "torch.compile must be off, and functions of your own need a backward pass that can be "
        "differentiated"
    )


def named_modules(model: Model) -> Sequence[tuple[str, nn.Module]]:
    """The model's modules with their paths, itself as the empty path; none if it is no module."""
    return list(model.named_modules()) if isinstance(model, nn.Module) else []


@contextmanager
def untouched(model: Model, x: Tensor) -> Iterator[None]:
    """Put back afterwards what running a model may change: buffers, `nfe`, the states of global
    random generators."""
    kept = [
        (module, name, buffer, buffer.clone())
        for _, module in named_modules(model)
        for name, buffer in module.named_buffers(recurse=False)
    ]
    evaluations = model.nfe
    devices = range(torch.cuda.device_count()) if x.is_cuda else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        model.nfe = evaluations
        with torch.no_grad():
            for module, name, buffer, before in kept:
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


@contextmanager
def awake(model: Model) -> Iterator[None]:
    """Parameters that are all zero filled with noise for a while: a network whose last layer
    starts at zero hides all that is behind it."""
    modules = [module for _, module in named_modules(model)]
    parameters = {p for module in modules for p in module.parameters(recurse=False)}
    asleep = [(p, p.data) for p in parameters if not bool(p.detach().any())]
    try:
        for parameter, data in asleep:
            parameter.data = torch.empty_like(data).normal_(std=0.1)
        yield
    finally:
        for parameter, data in asleep:
            parameter.data = data
