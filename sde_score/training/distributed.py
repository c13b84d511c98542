"""The processes and devices of a run, on `accelerate`."""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def accelerator_for(device: str) -> Any:
    """An `accelerate.Accelerator` for a device, with as many processes as the launcher started.

    Autocast is ours, not accelerate's, which fixes it once per Python process.

    Raises:
        ValueError: if the device is not there, or the processes share work in a way other than by
            data (DDP).
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    # accelerate forms a group of CPU processes only with cpu=True.
    cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"the launcher started {launched} processes but they see "
            f"{accelerator.num_processes}: give device=cpu or cuda instead of {device}"
        )
    if device not in ("auto", accelerator.device.type):
        raise ValueError(
            f"device={device!r} is not available here; this process can use "
            f"{accelerator.device.type}: choose that, or auto"
        )
    shared = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    if accelerator.distributed_type in shared:
        raise ValueError(
            f"{accelerator.distributed_type.value} is not supported: launch with torchrun, or "
            "accelerate launch without it; every process holds the whole network"
        )
    return accelerator


def wrap(accelerator: Any, module: nn.Module, unused: bool) -> nn.Module:
    """The module as the processes share it.

    Buffers are not broadcast: those of an objective are equal in all processes after a step, and
    differ during one.

    Args:
        accelerator: made by `accelerator_for`.
        module: runs the forward pass.
        unused: whether a parameter may be without gradient, such as the constant of an energy.
    """
    module = module.to(accelerator.device)
    if accelerator.num_processes == 1:
        return module
    # The argument has another name since torch 2.12, which warns of the former one.
    names = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    devices = [accelerator.device] if accelerator.device.type == "cuda" else None
    given: dict[str, Any] = {name: False, "find_unused_parameters": unused}
    return DistributedDataParallel(module, device_ids=devices, **given)


def seed_network(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, which dropout draws from.

    On the CPU and on `device` only: `torch.manual_seed` would visit every kind of device there is,
    for a quarter of a millisecond each step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class Vote:
    """A yes or no shared by all processes, without making a GPU wait.

    Args:
        processes: number of processes.
    """

    def __init__(self, processes: int) -> None:
        self._group = torch.distributed.new_group(backend="gloo") if processes > 1 else None

    def any(self, value: bool) -> bool:
        """Whether `value` is true on some process; all must ask together."""
        if self._group is None:
            return value
        flag = torch.tensor(int(value))
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)
