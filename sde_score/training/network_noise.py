"""Random numbers inside the network, such as those of dropout: a function of seed and step.

Networks of this package draw from a generator of the run. Others may draw from torch's global one,
which threads share: it is seeded at each step, and a second such run in a process is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Generator
from torch.overrides import TorchFunctionMode

from sde_score.random import DRAWS, drawing_from
from sde_score.training.distributed import seed_network
from sde_score.training.errors import TrainingError

_ALWAYS = {*DRAWS, "rand_like", "randn_like", "randint_like", "rrelu"}
_WITH_DROPOUT = ("dropout", "scaled_dot_product_attention", "multi_head_attention_forward")
_GLOBAL = threading.Lock()
"""Held by the run whose network draws from torch's global generator."""


class _Watch(TorchFunctionMode):
    """Notes whether this thread draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.drew = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in _ALWAYS or any(part in name for part in _WITH_DROPOUT):
            before = torch.random.get_rng_state() if given.get("generator") is None else None
            found = func(*args, **given)
            cuda = any(getattr(thing, "is_cuda", False) for thing in args[:1])
            self.drew |= before is not None and (
                cuda or not torch.equal(before, torch.random.get_rng_state())
            )
            return found
        return func(*args, **given)


class NetworkNoise:
    """The random numbers that a network draws in training.

    Args:
        device: of the network.
        compiled: whether it is compiled, so that its draws cannot be watched.
    """

    def __init__(self, device: torch.device, compiled: bool = False) -> None:
        self.device, self.compiled = device, compiled
        self._own = Generator()
        self._shared: bool | None = None
        self._holds = False

    @contextmanager
    def step(self, seed: int) -> Iterator[None]:
        """A step whose draws are a function of the seed.

        Raises:
            TrainingError: if the network draws from the global generator and that of another run
                in this process does, too.
        """
        self._own.manual_seed(seed)
        first = self._shared is None
        if first:
            self._holds = _GLOBAL.acquire(blocking=False)
        if self._holds:
            seed_network(seed, self.device)
        watch = _Watch() if first and not self.compiled else None
        with drawing_from(self._own), watch or nullcontext():
            yield
        if first:
            self._settle(watch is None or watch.drew)

    def _settle(self, drew: bool) -> None:
        self._shared = drew
        if drew and not self._holds:
            raise TrainingError(
                "the network draws from torch's global generator, as dropout of torch does, and so "
                "does another training in this process: run one after the other, or each in a "
                "process of its own"
            )
        if not drew:
            self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let others draw from the global generator."""
        if self._holds:
            self._holds = False
            _GLOBAL.release()
