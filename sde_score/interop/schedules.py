"""Chains of published codes, and the diffusion through them."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from sde_score._core.registry import format_spec
from sde_score.sdes import SDE, SDES, Tabulated, betas_of, chain
from sde_score.sdes.chains import SCHEDULES


def betas(
    schedule: str, steps: int = 1000, start: float | None = None, end: float | None = None
) -> Tensor:
    """Variances of the steps of a chain; see `sde_score.sdes.betas_of`."""
    return betas_of(schedule, steps, start, end)


def through(values: Tensor) -> Tabulated:
    """The diffusion through a chain of these betas."""
    return Tabulated.from_betas(values.double().clamp(max=0.9999999))


def text_of(sde: SDE) -> str:
    """The spec of a diffusion, by the name of its schedule where it has one."""
    if isinstance(sde, Tabulated):
        layers = len(sde.log_snrs)
        for schedule in SCHEDULES:
            with suppress(ValueError):  # too few layers for this schedule
                if chain(schedule, layers) != sde:
                    continue
                return format_spec("chain", {"schedule": schedule, "layers": layers})
        return format_spec("chain", {"log_snrs": sde.log_snrs})
    return SDES.text_of(sde) or repr(sde)
