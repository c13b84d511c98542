"""What the tables of methods share: rows, choices that recur, and papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from sde_score.samplers.base import Sampler

S = TypeVar("S", bound=Sampler)

ON_NOISE: Mapping[str, Any] = {"prediction": "noise", "coordinate": "log_snr", "grid": "log_snr"}
"""The noise in log-SNR, as DPM-Solver takes it."""

ON_DATA: Mapping[str, Any] = {"prediction": "data", "coordinate": "log_snr", "grid": "log_snr"}
"""The data in log-SNR, as DPM-Solver++ takes it."""

DPM = "Lu et al. 2022, https://arxiv.org/abs/2206.00927"
DPMPP = "Lu et al. 2022, https://arxiv.org/abs/2211.01095"
EDM = "Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithms 1 and 2"
FLOW = "Lipman et al. 2022, https://arxiv.org/abs/2210.02747"


def row(sampler: Callable[..., S], reference: str, /, **fields: Any) -> Callable[..., S]:
    """A method of a table: a sampler with other defaults, which can still be changed."""
    return partial(sampler, reference=reference, **fields)
