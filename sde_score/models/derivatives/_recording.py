"""Looking on while a model runs: which module made which node of the graph, and no trace left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from sde_score.models.protocol import Model

KINKS = {
    "ReluBackward0": "ReLU",
    "LeakyReluBackward0": "LeakyReLU",
    "PreluKernelBackward0": "PReLU",
    "RreluWithNoiseBackward0": "RReLU",
    "HardtanhBackward0": "Hardtanh",
    "HardsigmoidBackward0": "Hardsigmoid",
    "HardshrinkBackward0": "Hardshrink",
    "SoftshrinkBackward0": "Softshrink",
    "ThresholdBackward0": "Threshold",
    "MaxPool2DWithIndicesBackward0": "max pooling",
    "MaxPool3DWithIndicesBackward0": "max pooling",
    "AdaptiveMaxPool2DBackward0": "max pooling",
    "AdaptiveMaxPool3DBackward0": "max pooling",
    "HardswishBackward0": "Hardswish",
}
"""Nodes of autograd's graph whose first derivative jumps."""

CREASES = {"EluBackward0": "ELU", "CeluBackward0": "CELU"}
"""Nodes whose second derivative jumps."""

_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


class Recorder(TorchFunctionMode):
    """Notes for each node of the graph in which module it was made.

    Args:
        model: watched while the recorder is entered; its modules are named by their paths.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.makers: dict[Node, str] = {}
        self.attention: list[str] = []
        self.checkpoints: list[str] = []
        self._inside: list[str] = []
        self._handles = ExitStack()

    def __enter__(self) -> Recorder:
        for path, module in named_modules(self.model):
            for handle in (
                module.register_forward_pre_hook(self._entering(path)),
                module.register_forward_hook(self._leaving, always_call=True),
            ):
                self._handles.callback(handle.remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._handles.close()
        self._inside.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch and note who called it."""
        path = self._inside[-1] if self._inside else ""
        if getattr(func, "__name__", "") in _ATTENTION:
            self.attention.append(path)
        if any(_made_by_checkpoint(a) for a in args):
            self.checkpoints.append(path)
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                self.makers.setdefault(tensor.grad_fn, path)
        return output

    def _entering(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object) -> None:
            self._inside.append(path)

        return hook

    def _leaving(self, module: nn.Module, inputs: object, output: object) -> None:
        if self._inside:
            self._inside.pop()

    def find(self, names: Mapping[str, str], value: Tensor, point: Tensor) -> list[str]:
        """Nodes of given names between a point and the value computed from it, as
        `"ReLU in backbone.1"`, in the order of the model's modules."""
        users = _users(value, point)
        modules = dict(named_modules(self.model))
        order = {path: index for index, path in enumerate(modules)}
        found = set()
        for node in users:
            if node.name() in names:
                path = self._maker(node, users)
                module = modules.get(path)
                # Of torch's own modules one says more than its node: ReLU6 is a Hardtanh.
                own = module is not None and type(module).__module__.startswith("torch.nn.")
                label = type(module).__name__ if own else names[node.name()]
                found.add((order.get(path, -1), f"{label} in {path}" if path else label))
        return [text for _, text in sorted(found)]

    def makers_of(self, function: str) -> list[str]:
        """Paths of the modules that called a function of torch's core, such as `hardsigmoid`."""
        node = function.replace("_", "") + "backward"
        return [path for made, path in self.makers.items() if made.name().lower().startswith(node)]

    def _maker(self, node: Node, users: dict[Node, list[Node]]) -> str:
        """Path of the module that made a node; one inside a function of torch has the maker of
        the function's last node."""
        ahead, seen = [node], {node}
        for candidate in ahead:
            if candidate in self.makers:
                return self.makers[candidate]
            new = [user for user in users.get(candidate, []) if user not in seen]
            seen.update(new)
            ahead.extend(new)
        return ""


def named_modules(model: Model) -> list[tuple[str, nn.Module]]:
    """The model's modules with their paths, itself as the empty path; none if it is no module."""
    return list(model.named_modules()) if isinstance(model, nn.Module) else []


@contextmanager
def untouched(model: Model, x: Tensor) -> Iterator[None]:
    """Put back afterwards what running a model may change: buffers, `nfe`, the state of global
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


def reseed(x: Tensor) -> None:
    """Start the global random generators of the CPU and of the device of x anew."""
    torch.default_generator.manual_seed(0)
    if x.is_cuda:
        torch.cuda.manual_seed_all(0)


def _users(value: Tensor, point: Tensor) -> dict[Node, list[Node]]:
    """The nodes between a point and a value, each with the nodes that use it."""
    everything: dict[Node, list[Node]] = {}
    ahead = [] if value.grad_fn is None else [value.grad_fn]
    seen = set(ahead)
    for node in ahead:
        for child, _ in node.next_functions:
            if child is not None:
                everything.setdefault(child, []).append(node)
                if child not in seen:
                    seen.add(child)
                    ahead.append(child)
    back = [node for node in everything if getattr(node, "variable", None) is point]
    between: dict[Node, list[Node]] = {}
    for node in back:
        if node not in between:
            between[node] = everything.get(node, [])
            back.extend(between[node])
    return between


def _made_by_checkpoint(argument: object) -> bool:
    if not isinstance(argument, Tensor) or argument.grad_fn is None:
        return False
    return "CheckpointFunctionBackward" in argument.grad_fn.name()
