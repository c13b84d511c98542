"""Sharded training (FSDP2): each process holds some rows of every weight and of what goes with it.

Weights are whole on a process only while a part of the network uses them; their gradients are
summed into rows at once. The optimizer and the averages work on the rows of the process, which are
plain tensors in the memory of FSDP2's, and never learn of the others.

Reference: Zhao et al. 2023, https://arxiv.org/abs/2304.11277.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from sde_score._core.conditions import Condition
from sde_score._core.modules import evaluating
from sde_score.models.derivatives.derivative_check import untouched
from sde_score.training.build import TrainedModel
from sde_score.training.optimizers import Optimizer
from sde_score.training.tensor_files import Part

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class Shards:
    """A network and its loss over the processes of a run, by `fully_shard`.

    Args:
        loss: what runs the forward pass; holds model and objective; changed in place.
        model: of the run.
        device: of this process.
        blocks: parts of the model whose weights are gathered one after the other; none gathers all
            at once.

    Raises:
        ValueError: for a torch without FSDP2 as it is needed.
    """

    def __init__(
        self,
        loss: nn.Module,
        model: TrainedModel,
        device: torch.device,
        blocks: Sequence[nn.Module],
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        fully_shard = _fully_shard()
        self.loss, self.model, self._device = loss, model, device
        self._rank, self._world = distributed.get_rank(), distributed.get_world_size()
        # A copy that no weight is in, to be filled when a whole model is asked for.
        empty = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
        self._empty = copy.deepcopy(model, dict(empty))
        own = {id(p) for p in model.parameters()}
        # Numbers and what an objective learns stay whole: FSDP2 has no rows of the former.
        self._whole = {p for p in loss.parameters() if p.ndim == 0 or id(p) not in own}
        for parameter in loss.parameters():
            parameter.data = parameter.data.contiguous()
        for tensor in (*self._whole, *loss.buffers()):
            tensor.data = tensor.data.to(device)
        mesh = init_device_mesh(device.type, (self._world,))
        for block in blocks:
            fully_shard(block, mesh=mesh, ignored_params=self._whole & set(block.parameters()))
        fully_shard(loss, mesh=mesh, ignored_params=self._whole)
        self._sharded: dict[str, Any] = {}
        self._local: dict[str, nn.Parameter] = {}

    def local(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """The rows of this process, for all that follows; they share the memory of the weights.

        Args:
            parameters: what is trained, by name.
        """
        self._sharded = {n: p for n, p in parameters.items() if _is_sharded(p)}
        self._local = {n: nn.Parameter(p._local_tensor) for n, p in self._sharded.items()}
        return {name: self._local.get(name, p) for name, p in parameters.items()}

    def before_step(self) -> None:
        """Set weights whose network sets their size in each forward pass, which it can no more."""
        for module in self.model.modules():
            normalize: Any = getattr(module, "normalize_weights", None)
            if normalize is not None:
                normalize()

    def collect(self) -> None:
        """Bring gradients to the rows of this process, those of whole parameters to their mean."""
        for name, parameter in self._sharded.items():
            gradient, parameter.grad = parameter.grad, None
            self._local[name].grad = None if gradient is None else gradient._local_tensor
        whole = [p.grad for p in self._whole if p.grad is not None]
        if whole:
            together = torch.cat([gradient.reshape(-1) for gradient in whole])
            distributed.all_reduce(together)
            together /= self._world
            parts = torch.split(together, [gradient.numel() for gradient in whole])
            for gradient, part in zip(whole, parts, strict=True):
                gradient.copy_(part.reshape(gradient.shape))

    def clip(self, weights: Sequence[nn.Parameter], largest: float) -> Tensor:
        """The norm of all gradients together, which are scaled down to at most `largest`.

        Args:
            weights: rows of this process and whole parameters, all with gradients.
            largest: norm that is allowed.
        """
        # Whole parameters are counted once, by the first process.
        gradients = {w: w.grad for w in weights if w.grad is not None}
        seen = [g for w, g in gradients.items() if self._rank == 0 or w not in self._whole]
        square = torch.zeros((), device=self._device, dtype=torch.float64)
        if seen:
            norms = torch.stack(torch._foreach_norm(seen))
            square = norms.double().square().sum()
        distributed.all_reduce(square)
        norm = square.sqrt().to(weights[0].dtype)
        share = (largest / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(list(gradients.values()), share)
        return norm

    def parts(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | Part]:
        """Tensors as files hold them: what has the rows of a weight as its part of the whole.

        Args:
            tensors: named as weights are, or `<weight>/<entry>`.
        """
        return {name: self._part(name, value) for name, value in tensors.items()}

    def _part(self, name: str, value: Tensor) -> Tensor | Part:
        weight: Any = value if _is_sharded(value) else None
        if weight is not None:
            value = weight._local_tensor
        else:
            weight = self._sharded.get(name, self._sharded.get(name.rpartition("/")[0]))
            if weight is None or value.shape != weight._local_tensor.shape:
                return value
        count = weight.shape[0]
        start = min(self._rank * -(-count // self._world), count)
        return Part(value, tuple(weight.shape), start)

    @torch.no_grad()
    def load(self, found: Mapping[str, Tensor | Part]) -> None:
        """Set the weights and buffers of the model to those of a file."""
        rest = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        own = self.model.state_dict()
        for name, value in found.items():
            if isinstance(value, Part):
                own[name]._local_tensor.copy_(value.rows)
        for name, value in rest.items():
            own[name].copy_(value)

    @torch.no_grad()
    def whole_model(self) -> TrainedModel | None:
        """A model of its own with the weights of now, on the first process; None elsewhere.

        All processes ask together. One weight at a time is whole on the others.
        """
        first = self._rank == 0
        found = {}
        for name, value in self.model.state_dict().items():
            value = value.full_tensor() if _is_sharded(value) else value
            if first:
                found[name] = value.detach().clone()
        if not first:
            return None
        model = copy.deepcopy(self._empty)
        model.load_state_dict(found, assign=True)
        return model.to(self._device)

    def blank(self) -> TrainedModel:
        """A model of its own without numbers, to be filled from a file."""
        model = copy.deepcopy(self._empty)
        room = {n: torch.empty_like(p, device="cpu") for n, p in model.named_parameters()}
        model.load_state_dict(room, strict=False, assign=True)
        return model


def _is_sharded(value: Any) -> bool:
    return hasattr(value, "_local_tensor")


def _fully_shard() -> Any:
    from torch.distributed import fsdp

    found: Any = getattr(fsdp, "fully_shard", None)
    if found is None or "ignored_params" not in inspect.signature(found).parameters:
        raise ValueError(f"shard=True needs torch 2.7 or newer, this is {torch.__version__}")
    return found


def require_rows(optimizer: Optimizer) -> None:
    """Refuse an optimizer that would take the rows of a process for a weight.

    Raises:
        ValueError: naming it.
    """
    if not optimizer.by_entry:
        raise ValueError(
            f"optimizer={type(optimizer).__name__.lower()} needs whole matrices, of which a "
            "process holds some rows with shard=True: choose optimizer=adam, or leave out shard "
            "(one of your own that changes each number by itself says so by by_entry = True)"
        )


def blocks_of(model: TrainedModel, x: Tensor, condition: Condition = None) -> list[nn.Module]:
    """Repeated parts of a network that can be gathered one after the other.

    They are the entries of its lists of modules whose weights nothing but themselves uses.

    Args:
        model: with whole weights, left as it is.
        x: a few examples.
        condition: of them.

    Raises:
        ValueError: for a network that changes weights in its forward pass.
    """
    kept = [(p, p.detach().clone()) for p in model.parameters()]
    found = list(_entries(model, listed=False))
    with torch.no_grad(), untouched(model, x):
        model.denoise(x, model.sde.t_max, condition)
        with evaluating(model), _Uses(found) as uses:
            model.denoise(x, model.sde.t_max, condition)
        changed = any(not torch.equal(p, before) for p, before in kept)
        for parameter, before in kept if changed else ():
            parameter.copy_(before)
    known = any(hasattr(module, "normalize_weights") for module in model.modules())
    if changed and not known:
        raise ValueError(
            f"{type(model).__name__} changes its weights in the forward pass, which are copies "
            "with shard=True: leave out shard, or change them in a method normalize_weights of the "
            "module, which is called before each step"
        )
    return [block for block in found if block in uses.called and block not in uses.spoilt]


def _entries(module: nn.Module, listed: bool) -> Iterator[nn.Module]:
    for child in module.children():
        if listed and not isinstance(child, _CONTAINERS) and any(True for _ in child.parameters()):
            yield child
        else:
            yield from _entries(child, isinstance(child, _CONTAINERS))


class _Uses(TorchFunctionMode):
    """Notes which modules are called, and whose weights are used while they are not."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.modules = modules
        self.owners = {id(p): module for module in modules for p in module.parameters()}
        shared = len(self.owners) != sum(len(list(m.parameters())) for m in modules)
        self.called: set[nn.Module] = set()
        self.spoilt: set[nn.Module] = set(modules) if shared else set()
        self._open: list[nn.Module] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> _Uses:
        for module in self.modules:
            self._hooks.append(module.register_forward_pre_hook(self._opened))
            self._hooks.append(module.register_forward_hook(self._closed, always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def _opened(self, module: nn.Module, *_: Any) -> None:
        self.called.add(module)
        self._open.append(module)

    def _closed(self, *_: Any) -> None:
        self._open.pop()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):  # rather than a dtype or a shape
            for value in (*args, *(kwargs or {}).values()):
                owner = self.owners.get(id(value))
                if owner is not None and owner not in self._open:
                    self.spoilt.add(owner)
        return found
