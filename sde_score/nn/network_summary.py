"""Cost of a network: parameters, floating-point operations, memory, part by part."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sde_score._core.checks import class_of, require_count
from sde_score._core.conditions import END
from sde_score._core.errors import ArgumentError
from sde_score._core.memory import readable
from sde_score.nn.backbones.base import require_event_shape
from sde_score.nn.blocks.embeddings import Embedding


class Part(NamedTuple):
    """One part of a network, or all of it.

    Attributes:
        name: of the module, empty for the network itself.
        kind: its class.
        parameters: number of its parameters; those that two parts share belong to the first.
        flops: floating-point operations of its matrix products and convolutions in a forward pass,
            a multiplication and an addition being two.
        memory: bytes that a forward pass keeps for the derivatives.
    """

    name: str
    kind: str
    parameters: int
    flops: int
    memory: int


@dataclass(frozen=True)
class Summary:
    """Parts of a network and their sum; printed, a table.

    Args:
        parts: in their order in the network; what belongs to none of its modules is called
            `(itself)`.
        total: their sums.
        batch: number of examples of the forward pass that was counted.
    """

    parts: tuple[Part, ...]
    total: Part
    batch: int

    def __str__(self) -> str:
        header = ("part", "class", "parameters", "FLOPs", "memory")
        cells = [header, *map(_cells, self.parts), _cells(self.total)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        rule = "-" * max(map(len, lines))
        examples = f"{self.batch} example{'s' * (self.batch > 1)}"
        note = f"FLOPs of a forward pass of {examples}, and memory kept for its derivatives"
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], note])


def summary(
    network: nn.Module,
    event_shape: Sequence[int],
    batch: int = 1,
    condition: Any = None,
    depth: int = 1,
    call: Callable[[nn.Module, Tensor], Any] | None = None,
) -> Summary:
    """Count parameters, FLOPs and memory of a network, by a forward pass of zeros.

    The pass runs where the weights are, in their dtype and in evaluation mode, and leaves the
    network as it was. A network made under `torch.device("meta")` is counted without computing.
    FLOPs are those that torch's counter knows; a training step has about three times as many.
    Memory is that of all tensors that autograd keeps, each storage once, without the weights.

    Args:
        network: any module, called as `network(x, noise_level, condition)`, or as `network(x)` if
            it takes no more.
        event_shape: shape of one example.
        batch: number of examples.
        condition: for the network, one per example; None for none.
        depth: levels of modules to tell apart, 1 for the modules of the network itself.
        call: for a network of another form, a function of network and x, such as
            `lambda net, x: net(x, timestep=1).sample`.

    Raises:
        TypeError: if the answer is no tensor.
        ValueError: for counts out of range.

    For example:
        >>> print(summary(nn.Linear(3, 4), (3,)).total.parameters)
        16
    """
    require_count(batch=batch, depth=depth)
    weight = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(0))
    shape = (batch, *require_event_shape(event_shape))
    counts = _Counts(network, depth)
    with _evaluating(network), torch.inference_mode(False), torch.enable_grad(), counts.counting():
        x = weight.new_zeros(shape)
        answer = _call(network, x, condition) if call is None else call(network, x)
    if not isinstance(answer, Tensor):
        raise ArgumentError(
            f"network answers with {class_of(answer)}, not a tensor: give call=..., such as "
            "call=lambda net, x: net(x, t).sample"
        )
    parts = counts.parts()
    _, _, *numbers = zip(*parts, strict=True) if parts else [()] * 5
    return Summary(parts, Part("total", type(network).__name__, *map(sum, numbers)), batch)


def _call(network: nn.Module, x: Tensor, condition: Any) -> Any:
    parameters = inspect.signature(network.forward).parameters.values()
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    takes = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    noise_level = x.new_zeros(len(x))
    if takes == 1 and not several:
        return network(x)
    ends = [part.end for part in network.modules() if isinstance(part, Embedding)]
    if condition is None and any(end is not None for end in ends):
        condition = {END: noise_level}
    return network(x, noise_level) if condition is None else network(x, noise_level, condition)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, and afterwards each module in its own."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Counts:
    """What is counted while a network runs, for the part whose module runs at the moment."""

    def __init__(self, network: nn.Module, depth: int) -> None:
        self.network, self.depth = network, depth
        self.modules = {module: self._part(name) for name, module in network.named_modules()}
        self.flops = dict.fromkeys(self.modules.values(), 0)
        self.memory = dict(self.flops)
        self.running, self.counted = [""], 0
        self.counter = FlopCounterMode(display=False)
        # Storages are held, so that none is freed and its place taken by another.
        own = (*network.parameters(), *network.buffers())
        self.seen = {tensor.untyped_storage()._cdata: tensor for tensor in own}

    def _part(self, name: str) -> str:
        return ".".join(name.split(".")[: self.depth])

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what happens inside."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.callback(module.register_forward_pre_hook(self._enter).remove)
                stack.callback(module.register_forward_hook(self._leave).remove)
            hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
            stack.enter_context(hooks)
            stack.enter_context(self.counter)
            yield
            self._note()

    def parts(self) -> tuple[Part, ...]:
        """Every part that has something, in the order of the modules."""
        parameters, kinds = dict.fromkeys(self.flops, 0), dict[str, str]()
        for name, parameter in self.network.named_parameters():
            parameters[self._part(name.rpartition(".")[0])] += parameter.numel()
        for module, name in self.modules.items():
            kinds.setdefault(name, type(module).__name__)
        found = (
            Part(name or "(itself)", kinds[name], number, self.flops[name], self.memory[name])
            for name, number in parameters.items()
        )
        return tuple(part for part in found if any(part[2:]))

    def _note(self) -> None:
        total = self.counter.get_total_flops()
        self.flops[self.running[-1]] += total - self.counted
        self.counted = total

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._note()
        self.running.append(self.modules[module])

    def _leave(self, *_: Any) -> None:
        self._note()
        self.running.pop()

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen[storage._cdata] = tensor
            self.memory[self.running[-1]] += storage.nbytes()
        return tensor


def _cells(part: Part) -> tuple[str, ...]:
    flops, unit = float(part.flops), ""
    for larger in ("k", "M", "G", "T", "P"):
        if flops < 1000:
            break
        flops, unit = flops / 1000, larger
    numbers = (f"{part.parameters:,}", f"{flops:.3g} {unit}".rstrip(), readable(part.memory))
    return (part.name, part.kind, *numbers)
