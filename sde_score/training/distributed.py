"""The processes and devices of a run, on `accelerate`."""

from __future__ import annotations

import inspect
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sde_score.training.errors import TrainingError
from sde_score.training.rendezvous import join

if TYPE_CHECKING:
    from sde_score.training.checkpoint import Checkpoints


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
    join("gloo" if cpu else "nccl")
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
            "accelerate launch without it; shard=True (--shard) shares the weights among processes"
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
    """What all processes agree on, without making a GPU wait; all must ask together.

    Args:
        rank: of this process.
        processes: number of processes.
    """

    def __init__(self, rank: int = 0, processes: int = 1) -> None:
        self.rank = rank
        self._group = distributed.new_group(backend="gloo") if processes > 1 else None

    def any(self, value: bool) -> bool:
        """Whether `value` is true on some process."""
        if self._group is None:
            return value
        flag = torch.tensor(int(value))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def attempt(self, work: Callable[[], None]) -> None:
        """Do the work of this process; it has failed everywhere if it has on some process.

        Raises:
            OSError: where that of this process went well; its own error otherwise.
        """
        error: Exception | None = None
        try:
            work()
        except Exception as own:
            error = own
        if self.any(error is not None):
            raise error or OSError("another process could not write its part")

    def token(self) -> int:
        """A random number, the same on all processes, and never the same again."""
        drawn = torch.tensor(secrets.randbits(62))
        if self._group is not None:
            distributed.broadcast(drawn, src=0, group=self._group)
        return int(drawn)


@contextmanager
def as_one_line(rank: int, processes: int, checkpoints: Checkpoints) -> Iterator[None]:
    """Turn what a backend says when another process is gone into one line.

    Args:
        rank: of this process.
        processes: number of processes.
        checkpoints: of the run.

    Raises:
        TrainingError: in place of the error of the backend; said by all processes but the first,
            whose caller says it.
    """
    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, getattr(distributed, "DistError", ())) or "gloo" in str(error)
        if processes == 1 or not known:
            raise
        lost = TrainingError(ending("another process of this run has ended", checkpoints))
        say_elsewhere(rank, lost)
        raise lost from None


@contextmanager
def heard_of(rank: int) -> Iterator[None]:
    """Say what a process alone has met, such as a full disk or a damaged file."""
    try:
        yield
    except (OSError, ValueError) as error:
        say_elsewhere(rank, error)
        raise


def say_elsewhere(rank: int, error: Exception) -> None:
    """Print an error in one line on all processes but the first, whose caller prints it."""
    if rank:
        text = " ".join(str(error).split())
        print(f"error in process {rank}: {text}", file=sys.stderr, flush=True)


def ending(what: str, checkpoints: Checkpoints) -> str:
    """What happened to a run of several processes, and how to go on."""
    newest = checkpoints.newest()
    kept = "there is no checkpoint yet" if newest is None else f"checkpoint step-{newest} stays"
    return f"{what}; {kept}: run the same command again to go on"
