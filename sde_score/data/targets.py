"""Data sets drawn from distributions that are known exactly."""

from __future__ import annotations

from sde_score._core.arguments import checked
from sde_score._core.checks import require_count
from sde_score._core.memory import require_memory
from sde_score.data.dataset import DataSet
from sde_score.data.tensors import from_tensor
from sde_score.models import TARGETS
from sde_score.random import generator_from
from sde_score.scaling import Scaling


@checked
def target(name: str = "mixture", n: int = 10_000, seed: int = 0) -> DataSet:
    """Exact draws from one of `sde_score.models.TARGETS`, in its own terms: the scaling is the
    identity, so that the target's score is that of the data."""
    require_count(n=n)
    require_memory(100 * n, f"n={n}")
    x = TARGETS.resolve(name, name="name").sample(n, generator_from(seed))
    return from_tensor(x.float(), None, Scaling(), name=name)
