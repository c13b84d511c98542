"""Calls of networks and functions of any origin: what they are given and what they must return."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.checks import class_of, shown
from sde_score._core.conditions import BESIDE, Condition, require_condition, tensors_of
from sde_score._core.errors import ArgumentError
from sde_score.models.held import networks_in
from sde_score.models.inputs import as_condition
from sde_score.models.protocol import Model


class Caller(nn.Module):
    """A module around a network or function of `(x, t)` or `(x, t, condition)`.

    The function computes in the dtype of its network, and the answer has that of x. A network that
    a function holds, as `lambda x, t: network(x, t)` does, becomes a part of this module, so that
    its parameters, its dtype and its device are this module's.

    Args:
        name: attribute that holds the function, also its name in messages.
        function: a module or any other callable.
        times: name of its second argument in messages.

    Raises:
        TypeError: for what cannot be called with two or three arguments.

    `needs_condition` refuses evaluations without a condition, and -1 for no class: True for what
    was trained with a label for every example. `takes_condition` is False for what takes none, or
    was trained without. `beside` holds more entries of a dictionary of conditions, such as
    the augmentation labels of a training step.
    """

    unconditional_examples = 0
    """Examples that training showed without their condition; 0 where that is not known."""

    def __init__(self, name: str, function: Callable[..., Tensor], times: str = "t") -> None:
        super().__init__()
        calls = f"{name}(x, {times}), or {name}(x, {times}, condition)"
        if not callable(function) or inspect.isclass(function):
            fix = f": write {function.__name__}(...)" if inspect.isclass(function) else ""
            raise ArgumentError(
                f"{name}={shown(function)} must be a network or function, called as {calls}{fix}"
            )
        self.takes_condition, self._takes_two = (accepts(function, count) for count in (3, 2))
        if not self.takes_condition and not self._takes_two:
            fix = f": write lambda x, {times}: network(x)" if accepts(function, 1) else ""
            raise ArgumentError(
                f"{_titled(name, function)} is called as {calls} if it takes three arguments; its "
                f"signature fits neither{fix}"
            )
        self._name, self._times = name, times
        self.needs_condition = False
        self.beside: Mapping[str, Tensor] = {}
        self._wants_each = False
        setattr(self, name, function)
        held = [] if isinstance(function, nn.Module) else networks_in(function)
        if held:
            loose = nn.ParameterList(part for part in held if isinstance(part, nn.Parameter))
            modules = [part for part in held if isinstance(part, nn.Module)]
            self.held = nn.ModuleList([*modules, loose] if len(loose) else modules)

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if hasattr(self, "held") and any(True for _ in self.parameters()):
            mine = {id(part) for part in (*self.held, *self.parameters())}
            if not mine.issuperset(map(id, networks_in(self._function))):
                raise ArgumentError(
                    f"the {self._what} computes with a network that is not copied with it: give "
                    f"{type(self).__name__} the network itself, or functools.partial(function, "
                    "network)"
                )

    @property
    def _function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self, self._name)
        return function

    @property
    def _what(self) -> str:
        return _titled(self._name, self._function)

    def _call(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        shape: tuple[int, ...],
        beside: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """What the function returns at x and t, of the given shape and in the dtype of x.

        A condition may be a dictionary, for networks that take one: a class alone is its entry
        `label`, a vector or image alone its entry `condition`. `beside` holds more entries, of
        this call alone.

        Raises:
            TypeError: for a condition that is not taken, or a result that is no tensor of numbers.
            ValueError: for a result of another shape, or a function that cannot compute in the
                dtype or on the device of x.
        """
        if condition is not None and not isinstance(condition, Tensor):
            condition = as_condition(condition, len(x), x.device)
        self._check_condition(condition)
        if beside := {**self.beside, **(beside or {})}:
            known = (
                condition or {}
                if not isinstance(condition, Tensor)
                else {"condition" if condition.is_floating_point() else "label": condition}
            )
            condition = {**known, **beside}
        dtype = self._dtype() or x.dtype
        t = t.to(dtype) if t.is_floating_point() else t
        more = () if condition is None and self._takes_two else (condition,)
        try:
            output = self._answer(x.to(dtype), t, more)
        except RuntimeError as error:
            if reason := self._explained(error, x):
                raise ValueError(reason) from error
            raise
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise ArgumentError(f"the {self._what} returned {_described(output)}")
        if tuple(output.shape) != shape:
            like = "a tensor like x" if shape == tuple(x.shape) else "one number per example"
            raise ValueError(
                f"the {self._what} returned shape {tuple(output.shape)} for x of shape "
                f"{tuple(x.shape)}: {type(self).__name__} needs {shape}, it must return {like}"
            )
        return output.to(x.dtype)

    def require_condition(self, condition: Condition) -> None:
        """Refuse a condition that the network does not take, or has not met.

        Raises:
            TypeError: for a tensor of another kind than the network declares.
            ValueError: with what came and what is accepted.
        """
        shape = getattr(self._function, "condition_shape", ())
        size = len(next(iter(tensors_of(condition)), ()))
        if shape:
            require_condition(condition, shape, size)
        classes = shape if isinstance(shape, Mapping) else {}
        if not isinstance(condition, Mapping):
            count = getattr(self._function, "num_classes", None)
            for value in tensors_of(condition):
                self._require_met("condition", value, count)
            return
        for name, value in condition.items():
            kind = classes.get(name)
            if name not in BESIDE:
                known = kind if isinstance(kind, int) else None
                self._require_met(f"condition[{name!r}]", value, known)
        missing = [name for name in classes if name not in condition]
        if self.needs_condition and missing:
            raise ValueError(
                f"condition lacks {', '.join(missing)}: every example had them in "
                "training, and the answer without is of no use: train with condition_dropout=0.1"
            )

    def _require_met(self, name: str, value: Tensor, classes: int | None) -> None:
        """Refuse labels that the network does not have, and none where it has not met that."""
        if value.is_floating_point() and self.needs_condition and bool(value.isnan().any()):
            raise ValueError(
                f"{name} has NaN, for none; every example had numbers in training, so that the "
                "answer without is of no use: train with condition_dropout=0.1"
            )
        if value.is_floating_point() or value.dtype == torch.bool or not value.numel():
            return  # a condition of another kind
        low, high = (int(end) for end in torch.aminmax(value))
        if self.needs_condition and low < 0:
            last = "" if classes is None else f" up to {classes - 1}"
            raise ValueError(
                f"{name} has labels from {low} to {high}; accepted: labels from 0{last}, as "
                "every example had one in training: the answer for no class, -1, is of no use. "
                "Train with condition_dropout=0.1, which drops some; a network that drops labels "
                "in training itself is told by model.needs_condition = False"
            )
        if classes and high >= classes:
            raise ValueError(
                f"{name} has labels from {low} to {high}; accepted: 0 ... {classes - 1}"
            )

    def _check_condition(self, condition: Condition) -> None:
        nothing = isinstance(condition, Mapping) and not set(condition).difference(BESIDE)
        if condition is None or (nothing and self.takes_condition):
            if self.needs_condition:
                raise ValueError(
                    "condition is missing: every example had a label in training, so that the "
                    "answer without one is of no use. Give integer labels of shape (batch,), such "
                    "as run.labels_in_turn(n), or train with condition_dropout=0.1; a network that "
                    "drops labels in training itself is told by model.needs_condition = False"
                )
        elif not self.takes_condition:
            trained = accepts(self._function, 3)
            raise ArgumentError(
                f"condition was given, but the {self._what} "
                + (
                    "was trained without one: leave it out (model.takes_condition = True, for a "
                    "network that knows conditions from elsewhere)"
                    if trained
                    else f"takes x and {self._times} alone: give it a third argument"
                )
            )
        elif self.needs_condition and all(
            value.device.type == "cpu" for value in tensors_of(condition)
        ):  # no wait for a GPU
            self.require_condition(condition)

    def _answer(self, x: Tensor, t: Tensor, more: tuple[Any, ...]) -> Any:
        """The function at x and t; a function that takes no scalar t gets one per example."""
        if t.ndim or not self._wants_each:
            try:
                return self._function(x, t, *more)
            except torch.OutOfMemoryError:
                raise
            except Exception:
                if t.ndim or not x.ndim:
                    raise
                try:
                    output = self._function(x, t.expand(len(x)), *more)
                except Exception:
                    pass  # the first error is about what was asked for
                else:
                    self._wants_each = True
                    return output
                raise
        return self._function(x, t.expand(len(x)), *more)

    def _dtype(self) -> torch.dtype | None:
        """The dtype in which the function computes; None for that of x.

        The widest where a function holds several networks. Models compute in their own.
        """
        function = self._function
        if isinstance(function, nn.Module):
            return None if isinstance(function, (Caller, Model)) else _dtype_of(function)
        found: torch.dtype | None = None
        for part in getattr(self, "held", ()):
            own = None if isinstance(part, (Caller, Model)) else _dtype_of(part)
            found = own if found is None or own is None else torch.promote_types(found, own)
        return found

    def _explained(self, error: RuntimeError, x: Tensor) -> str | None:
        """The message for an error about dtypes or devices."""
        said = (str(error).strip().splitlines() or [""])[0]
        what = f"the {self._what} of this {type(self).__name__}"
        if "same device" in said or "weight type (torch.cuda" in said:
            return (
                f"{what} computes on another device than that of x, {x.device} ({said}): move the "
                f"model, as with model.to({str(x.device)!r}), or x"
            )
        if re.search(r"same dtype|scalar type|type \(.*should be the same", said):
            return (
                f"{what} cannot compute with x of {x.dtype} ({said}): give the network itself, a "
                f"torch.nn.Module, whose dtype is then used, or cast within, as in lambda x, "
                f"{self._times}: network(x.float(), {self._times}.float())"
            )
        return None


def accepts(function: Callable[..., object], count: int) -> bool:
    """Whether a function or module can be called with that many positional arguments; True where
    its signature is not known."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        inspect.signature(called).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _dtype_of(network: nn.Module) -> torch.dtype | None:
    """The dtype of a network's first floating-point parameter."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


def _titled(name: str, function: Callable[..., object]) -> str:
    """A function's role and its name, or the class of a network or other object."""
    own = getattr(function, "__name__", type(function).__name__)
    return name if own == "<lambda>" else f"{name} {own}"


def _described(output: object) -> str:
    """What a function returned instead of a tensor, and how to return one."""
    wanted = "it must return one floating-point tensor"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)}; {wanted}, such as network(...)[0]"
    if isinstance(output, Mapping):
        key = next(iter(output), "key")
        return f"a {type(output).__name__}; {wanted}, such as network(...)[{key!r}]"
    fields = [name for name in ("sample", "logits") if isinstance(getattr(output, name, 0), Tensor)]
    if fields and not isinstance(output, Tensor):
        return f"a {type(output).__name__}; {wanted}, such as network(...).{fields[0]}"
    if isinstance(output, Tensor):
        fix = "network(...).real" if output.is_complex() else "network(...).float()"
        return f"a tensor of {output.dtype}; {wanted}, such as {fix}"
    return f"{class_of(output)}; {wanted}"
