"""Ledger of the operations of a training step: FLOPs, bytes moved, and the memory alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_LIKE = {  # attention on processors, which torch's table of FLOPs leaves out
    "_scaled_dot_product_flash_attention_for_cpu": _ATEN._scaled_dot_product_flash_attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": (
        _ATEN._scaled_dot_product_flash_attention_backward
    ),
}


class Operation(NamedTuple):
    """Cost of one operation.

    Attributes:
        flops: of matrix products, convolutions and attention, a multiplication and an addition
            being two.
        moved: bytes of the tensors that it reads and writes.
    """

    flops: float
    moved: float


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation inside a `with` block, on any device.

    Attributes:
        operations: in their order; views, which move nothing, are left out.
        peak: most bytes alive at once, of tensors that were made inside.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.alive = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and note it."""
        given = dict(kwargs or {})
        out = func(*args, **given)
        if not func.is_view:
            read, written, made = (
                _tensors((args, given)),
                _written(func, args, given),
                _tensors(out),
            )
            there = {tensor.untyped_storage()._cdata for tensor in read}
            new = [t for t in made if t.untyped_storage()._cdata not in there]
            for tensor in new:
                self._hold(tensor)
            formula = _formula(func)
            flops = 0 if formula is None else formula(*args, **given, out_val=out)
            moved = sum(tensor.nbytes for tensor in (*read, *written, *new))
            self.operations.append(Operation(flops, moved))
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Sequence[Any], given: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among its arguments that an operation changes."""
    names = [argument.name for argument in func._schema.arguments]
    values = {**dict(zip(names, args, strict=False)), **given}
    changed = {a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write}
    return _tensors([value for name, value in values.items() if name in changed])


def _formula(func: Any) -> Callable[..., int] | None:
    packet = func.overloadpacket
    found: Callable[..., int] | None = flop_registry.get(_LIKE.get(packet.__name__, packet))
    return found


def total(operations: Sequence[Operation]) -> Operation:
    """Sum of operations."""
    return Operation(sum(o.flops for o in operations), sum(o.moved for o in operations))


def at_batch(one: Sequence[Operation], two: Sequence[Operation], batch: float) -> list[Operation]:
    """Operations of a batch, on the line through those of one and of two examples.

    Where these are not the same operations, two examples count in proportion.
    """
    if len(one) != len(two):
        return [Operation(o.flops * batch / 2, o.moved * batch / 2) for o in two]
    return [
        Operation(*(x + (y - x) * (batch - 1) for x, y in zip(first, second, strict=True)))
        for first, second in zip(one, two, strict=True)
    ]
