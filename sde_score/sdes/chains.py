"""Published step variances of chains, and the diffusion through one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sde_score._core.arguments import checked
from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score._core.memory import require_memory
from sde_score.sdes.tabulated import Tabulated

_LEAST = 1e-12  # what float64 tells from no noise at all


def linear_betas(layers: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Evenly spaced from `first` to `last`: shape `(layers,)`, float64.

    Raises:
        ValueError: for fewer than 2 layers, or bounds outside (0, 1).

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 4.
    """
    require_count(2, layers=layers)
    require_memory(8.0 * layers, f"a chain of {layers=}")
    for name, value in {"first": first, "last": last}.items():
        if not _LEAST <= value < 1:
            raise ValueError(
                f"{name}={value!r} must lie in [{_LEAST:g}, 1): it is the variance of a step"
            )
    return torch.linspace(first, last, layers, dtype=torch.float64)


def cosine_betas(layers: int, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    r"""Betas whose signal falls as a cosine: shape `(layers,)`, float64.

    .. math:: \beta_i = \min\!\left(1 - \frac{f(i/n)}{f((i-1)/n)},\ \beta_{max}\right), \qquad
              f(u) = \cos^2\!\left(\frac{\pi}{2} \frac{u + s}{1 + s}\right)

    Args:
        layers: their number n, at least 2.
        offset: s > 0; keeps the first steps from being too small.
        largest: the cap, in (0, 1); without one the last beta is 1.

    Raises:
        ValueError: for arguments outside these ranges.

    Reference: Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17.
    """
    require_count(2, layers=layers)
    require_positive(offset=offset)
    if not 0 < largest < 1:
        raise ValueError(f"largest={largest!r} must lie in (0, 1): a beta of 1 leaves no signal")
    require_memory(8.0 * layers, f"a chain of {layers=}")
    u = torch.arange(layers + 1, dtype=torch.float64) / layers
    angle = 0.5 * math.pi * (u + offset) / (1 + offset)
    early, late = angle[:-1], angle[1:]
    # cos^2 a - cos^2 b = sin(b - a) sin(b + a): no cancellation in the first steps
    betas = torch.sin(late - early) * torch.sin(late + early) / torch.cos(early) ** 2
    return betas.clamp(max=largest)


def scaled_linear_betas(layers: int, first: float = 8.5e-4, last: float = 0.012) -> Tensor:
    """Squares of evenly spaced numbers, from `first` to `last`: shape `(layers,)`, float64.

    Raises:
        ValueError: for fewer than 2 layers, or bounds outside (0, 1).

    Reference: Rombach et al. 2022, https://arxiv.org/abs/2112.10752, and its published code.
    """
    return linear_betas(layers, first**0.5, last**0.5) ** 2


def sigmoid_betas(
    layers: int, low: float = -3.0, high: float = 3.0, largest: float = 0.999
) -> Tensor:
    r"""Betas whose signal falls as a sigmoid: shape `(layers,)`, float64.

    .. math:: \beta_i = \min\!\left(1 - \frac{f(i/n)}{f((i-1)/n)},\ \beta_{max}\right), \qquad
              f(u) \propto s(high) - s(low + u (high - low))

    with s the logistic function.

    Args:
        layers: their number n, at least 2.
        low: argument of the logistic function at the data.
        high: argument at the noise, above `low`.
        largest: the cap, in (0, 1).

    Raises:
        ValueError: for fewer than 2 layers.

    Reference: Jabri et al. 2022, https://arxiv.org/abs/2212.11972, section 3.1.
    """
    require_count(2, layers=layers)
    require_memory(8.0 * layers, f"a chain of {layers=}")
    u = torch.arange(layers + 1, dtype=torch.float64) / layers
    ends = torch.tensor(high, dtype=torch.float64).sigmoid()
    signal = ends - torch.sigmoid(low + u * (high - low))
    return (1 - signal[1:] / signal[:-1]).clamp(max=largest)


SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid")


def betas_of(
    schedule: str, layers: int = 1000, first: float | None = None, last: float | None = None
) -> Tensor:
    """Betas by the name of their schedule: shape `(layers,)`, float64.

    Args:
        schedule: one of `SCHEDULES`.
        layers: their number, at least 2.
        first: first beta of the linear ones; None for 1e-4 (8.5e-4 scaled) times 1000 / layers.
        last: last beta of the linear ones; None for 0.02 (0.012 scaled) times 1000 / layers.

    Raises:
        ValueError: for another schedule, or bounds that it does not take.
    """
    require_choice("schedule", schedule, SCHEDULES)
    require_count(2, layers=layers)
    if "linear" not in schedule:
        if first is not None or last is not None:
            raise ValueError(f"first and last belong to linear schedules, schedule={schedule!r}")
        return cosine_betas(layers) if schedule == "cosine" else sigmoid_betas(layers)
    usual = (1e-4, 0.02) if schedule == "linear" else (8.5e-4, 0.012)
    if last is None and layers <= 1000 * usual[1]:
        raise ValueError(f"{layers=} needs first and last: the published ones are for more layers")
    ends = [
        1000 / layers * default if given is None else given
        for given, default in zip((first, last), usual, strict=True)
    ]
    make = linear_betas if schedule == "linear" else scaled_linear_betas
    return make(layers, *ends)


@checked
def chain(
    schedule: str = "linear",
    layers: int = 1000,
    first: float | None = None,
    last: float | None = None,
    log_snrs: tuple[float, ...] | None = None,
) -> Tabulated:
    """The diffusion through a published chain; arguments as of `betas_of`.

    Args:
        schedule: one of `SCHEDULES`.
        layers: their number, at least 2.
        first: first beta of the linear ones.
        last: last beta of the linear ones.
        log_snrs: those of a chain without a published schedule, in its place.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239.
    """
    if log_snrs is not None:
        return Tabulated(tuple(log_snrs))
    return Tabulated.from_betas(betas_of(schedule, layers, first, last))
