"""Whether a model has the derivatives that an objective takes of it, before hours are spent."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sde_score._core.checks import require_batch, require_choice
from sde_score.models.derivatives._recording import (
    CREASES,
    KINKS,
    Recorder,
    awake,
    named_modules,
    reseed,
    untouched,
)
from sde_score.models.derivatives.jacobian import pull
from sde_score.models.protocol import EnergyBased, Model
from sde_score.random import generator_from, normal

NEEDS = ("score", "energy")

_EXAMPLES = 4


def check_differentiable(
    model: Model,
    x: Tensor,
    t: Tensor | float | None = None,
    condition: Tensor | None = None,
    needs: str = "score",
    second_derivatives: bool = True,
) -> None:
    """Refuse a model that would train on wrong gradients, or fail at them, and say why.

    Where a loss takes derivatives with respect to x and then with respect to parameters, torch
    is silent on most of what goes wrong. Looked for are

    - functions with kinks (ReLU, LeakyReLU, Hardtanh, max pooling, ...) on the way from x to the
      score: of a term like tr J autograd differentiates the flat pieces alone and not the jumps
      between them, and J itself is zero if the energy is piecewise linear. ELU, whose second
      derivative jumps, is refused where the Hessian of an energy is trained;
    - batch statistics and anything else that lets one example see another, which puts the sum over
      the batch in the place of each example's trace;
    - fused attention, compiled modules, reentrant checkpoints and other functions without a double
      backward pass;
    - parameters that get no gradient, and derivatives that are not finite.

    A score that is linear in x, whose second derivatives are zero rightly, passes. What an
    objective does not differentiate is not looked at: with `second_derivatives=False` a score
    model passes unseen, an energy model does if `needs` is `"energy"`.

    Args:
        model: anything with the model protocol, in the mode in which it will be trained. Nothing
            of it is changed, nor are the states of random generators.
        x: where, shape `(batch, *event)`: data or samples, of which four are used.
        t: a scalar or `(batch,)`; None for `t_min`.
        condition: passed to the model, one entry per example.
        needs: what the objective asks of the model, `score` or `energy`.
        second_derivatives: whether the objective differentiates the score with respect to x.

    Raises:
        TypeError: for a model without the protocol, or x that is not floating point.
        ValueError: for a model that would not train rightly: all that is wrong, each with the
            modules where it is and the usual fix.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__name__}; accepted: a ScoreModel, an EnergyModel, or "
            "anything else with sde, nfe, score, denoise, noise and velocity"
        )
    require_batch("x", x)
    require_choice("needs", needs, NEEDS)
    is_gradient = needs == "score" and isinstance(model, EnergyBased)
    if not (second_derivatives or is_gradient):
        return
    _refuse(model, _compiled(model))
    with untouched(model, x), torch.inference_mode(False), torch.enable_grad():
        check = _Check(model, x, t, condition, second_derivatives)
        try:
            problems = check.gradients()
            with awake(model):
                problems += check.structure()
        except RuntimeError as error:
            reason = _explain(error, check.recorder)
            if reason is None:
                raise
            _refuse(model, [reason], error)
    _refuse(model, problems)


class _Check:
    """A few examples, and what is asked of the score at them."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        t: Tensor | float | None,
        condition: Tensor | None,
        second_derivatives: bool,
    ) -> None:
        self.model = model
        self.second = second_derivatives
        # Two examples at least: a single one cannot see another.
        rows = torch.arange(max(2, min(len(x), _EXAMPLES)), device=x.device) % len(x)
        self.x = x.detach()[rows].clone()
        t = model.sde.t_min if t is None else t
        self.t = t[rows.to(t.device)] if isinstance(t, Tensor) and t.ndim > 0 else t
        self.condition = None if condition is None else condition[rows.to(condition.device)]
        self.recorder = Recorder(model)
        self.vectors = [normal(self.x, generator_from(i, device=x.device)) for i in range(3)]

    def gradients(self) -> list[str]:
        """Run what training runs: a loss with the derivatives of the objective, and its gradient
        with respect to the parameters."""
        value, point = self._score(self.x)
        if not value.requires_grad:
            return [
                "the score has no graph: it is computed under torch.no_grad() or from a detached "
                "tensor; compute it where gradients are enabled"
            ]
        loss, slope = (value * self.vectors[0]).sum(), torch.zeros_like(value)
        if self.second:
            slope = pull(value, point, self.vectors[1], create_graph=True)
            loss = loss + (slope * self.vectors[1]).sum()
        return self._about(loss, {"the score": value, "its derivative": slope})

    def structure(self) -> list[str]:
        """Look for what leaves every number finite and wrong."""
        value, point = self._score(self.x)
        if not value.requires_grad:
            return []
        problems = _coupling(self.model, value, point, self.vectors[0])
        twice = self.second and isinstance(self.model, EnergyBased)
        kinks = self.recorder.find({**KINKS, **CREASES} if twice else KINKS, value, point)
        if kinks:
            problems.append(
                f"{', '.join(kinks)}: has kinks, where a derivative that is needed jumps; autograd "
                f"differentiates the pieces and leaves the jumps out; use {_SMOOTH}"
            )
        elif self._flat(value, point):
            problems.append(
                "the score is not linear in x and yet its derivatives are exactly zero: it is "
                "made of flat or linear pieces, or its graph is cut (detach, once_differentiable); "
                f"use {_SMOOTH}"
            )
        return problems

    def _score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score, and where, with the same dropout in every call."""
        reseed(x)
        point = x.clone().requires_grad_()
        with Recorder(self.model) as self.recorder:
            return self.model.score(point, self.t, self.condition), point

    def _about(self, loss: Tensor, derivatives: dict[str, Tensor]) -> list[str]:
        bad = [name for name, tensor in derivatives.items() if not bool(tensor.isfinite().all())]
        named = self.model.named_parameters() if isinstance(self.model, nn.Module) else ()
        parameters = {name: p for name, p in named if p.requires_grad}
        if not parameters:
            return _not_finite(bad)
        gradients = torch.autograd.grad(
            loss, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        finite = {
            name: bool(g.isfinite().all()) for name, g in zip(parameters, gradients, strict=True)
        }
        bad += [f"the gradient of {name}" for name, good in finite.items() if not good]
        if not any(bool(g.any()) for g in gradients):
            return [
                "no parameter gets a gradient: the score does not depend on them, or all that it "
                "depends on is zero, as with head='square' on a backbone whose last layer starts "
                "at zero; start that layer elsewhere or choose another head"
            ]
        return _not_finite(bad)

    def _flat(self, value: Tensor, point: Tensor) -> bool:
        """Whether the first derivative of a score that is not constant, or the second of one that
        is not linear, is zero at every example, exactly."""
        first = pull(value, point, self.vectors[0], create_graph=True)
        other = self.x.roll(1, 0) + self.x.std().nan_to_num() * self.vectors[1]
        there = self._score(other)[0].detach()
        value = value.detach()
        if not bool(first.any()):
            return _differ(value, there)
        if not self.second or not first.requires_grad:
            return self.second and self._bends(value, there, other)
        second = pull(first, point, self.vectors[2], create_graph=False)
        return not bool(second.any()) and self._bends(value, there, other)

    def _bends(self, value: Tensor, there: Tensor, other: Tensor) -> bool:
        between = self._score(0.3 * self.x + 0.7 * other)[0].detach()
        return _differ(between, 0.3 * value + 0.7 * there)


_SMOOTH = "SiLU, Softplus, GELU or tanh, and average pooling"


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether two scores differ by more than rounding."""
    scale = torch.maximum(a.abs().max(), b.abs().max())
    return bool((a - b).abs().max() > 10 * torch.finfo(a.dtype).eps ** 0.5 * scale)


def _not_finite(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [
        f"not finite: {', '.join(names[:3])}{more}; look for square roots, norms and logarithms "
        "at zero, and give them a small constant"
    ]


def _coupling(model: Model, value: Tensor, point: Tensor, vector: Tensor) -> list[str]:
    """Whether the score of the first example has a derivative with respect to the others."""
    only_first = torch.zeros_like(vector)
    only_first[0] = vector[0]
    foreign = pull(value, point, only_first, create_graph=False, retain=True)[1:]
    if not bool((foreign.nan_to_num() != 0).any()):
        return []
    norms = [
        f"{type(module).__name__} in {path}"
        for path, module in named_modules(model)
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or module.running_mean is None)
    ]
    return [
        f"{', '.join(norms) or 'something in the model'}: the score of one example depends on the "
        "others in its batch, as with batch statistics; use GroupNorm or LayerNorm, or put batch "
        "norms in eval()"
    ]


def _compiled(model: Model) -> list[str]:
    """Modules and functions that torch.compile has made, by path."""
    found = []
    for path, module in named_modules(model):
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            found.append(path or type(model).__name__)
            continue
        functions = {name: f for name, f in vars(module).items() if callable(f)}
        found += [
            f"{path}.{name}".lstrip(".")
            for name, function in functions.items()
            if hasattr(function, "_torchdynamo_orig_callable")
        ]
    if not found:
        return []
    return [
        f"{', '.join(found)}: torch.compile does not support double backward; train this objective "
        "without compiling"
    ]


def _explain(error: RuntimeError, recorder: Recorder) -> str | None:
    """What a message of torch means here; None if it is about something else."""
    text = str(error)
    if "attention" in text and "not implemented" in text:
        return (
            f"{_places(recorder.attention)}fused attention has no second derivatives; run the "
            "model under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        )
    if "use_reentrant" in text:
        return (
            f"{_places(recorder.checkpoints)}a reentrant checkpoint cannot be differentiated "
            "twice; call torch.utils.checkpoint.checkpoint with use_reentrant=False"
        )
    if "double backward" in text and "compile" in text:
        return "torch.compile does not support double backward; train without compiling"
    missing = re.search(r"derivative for aten::(\w+)_backward is not implemented", text)
    if missing:
        name = missing[1]
        return f"{_places(recorder.makers_of(name))}{name} has no second derivative; use {_SMOOTH}"
    return None


def _places(paths: Sequence[str]) -> str:
    named = [path for path in dict.fromkeys(paths) if path]
    return f"{', '.join(named)}: " if named else ""


def _refuse(model: Model, problems: Sequence[str], cause: Exception | None = None) -> None:
    if problems:
        lines = "".join(f"\n- {problem}" for problem in problems)
        raise ValueError(
            f"{type(model).__name__} cannot be trained through derivatives of its score:{lines}"
        ) from cause
