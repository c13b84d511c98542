r"""Parametrizations of published networks: what each was fed with, and what it answered.

| row | SDE | input | time label | output |
|---|---|---|---|---|
| `score-sde-vp` | VP, sub-VP | x | 999 t | noise |
| `score-sde-ve` | VE | x | log sigma | sigma score |
| `score-sde-ve-discrete` | VE | x | index, 0 the most noise | sigma score |
| `ddpm` | VP, through betas | x | index, 0 the least noise | noise, data or v |
| `edm-vp`, `edm-ve`, `iddpm` | EDM | EDM's table 1 | EDM's table 1 | EDM's table 1 |
| `rectified` | rectified flow | x | t | velocity |
| `trigflow` | any of unit variance | x / sigma_data | angle | velocity along the angle |

v is alpha noise - sigma data; on an SDE with alpha = cos and sigma = sin it is TrigFlow's velocity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sde_score._core.arguments import checked
from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score.models.parametrization import (
    Coefficients,
    Parametrization,
    Scales,
    data,
    noise,
    sigma_score,
    spread,
    velocity,
)


def unit(at: Scales) -> Tensor:
    """1: the network takes x as it is."""
    return at.one


def unit_spread(at: Scales) -> Tensor:
    """sqrt(sigma^2 + alpha^2): the input of a variance-preserving network."""
    return (at.sigma**2 + at.alpha**2).sqrt()


def v(at: Scales) -> Coefficients:
    """alpha noise - sigma data."""
    return -at.sigma, at.alpha


@dataclass(frozen=True)
class TimeMultiple:
    """A multiple of t.

    Args:
        factor: of it.
    """

    factor: float

    def __call__(self, at: Scales) -> Tensor:
        """factor t."""
        return at.t * self.factor


@dataclass(frozen=True)
class Index:
    """The index n t - 1 of a layer, 0 the least noise, as a number of another range.

    Args:
        n: number of layers.
        labels: the labels run up to `labels - labels / n`; n for the index itself.
        rounded: to the nearest layer, for networks that look their label up.
    """

    n: int
    labels: float
    rounded: bool = False

    def __call__(self, at: Scales) -> Tensor:
        """(n t - 1) labels / n."""
        index = at.t * self.n - 1
        index = index.round() if self.rounded else index.clamp(min=0)
        return index * (self.labels / self.n)


@dataclass(frozen=True)
class IndexFromNoise:
    """The index round((1 - t)(n - 1)), 0 the most noise.

    Args:
        n: number of noise levels.
    """

    n: int

    def __call__(self, at: Scales) -> Tensor:
        """round((1 - t)(n - 1))."""
        return ((1 - at.t) * (self.n - 1)).round()


@dataclass(frozen=True)
class LogNoise:
    """The logarithm of the noise level.

    Args:
        unit: the noise level whose logarithm is 0.
        factor: of the logarithm.
    """

    unit: float = 1.0
    factor: float = 1.0

    def __call__(self, at: Scales) -> Tensor:
        """factor log(sigma / alpha / unit)."""
        return self.factor * torch.log(at.sigma / at.alpha / self.unit)


@dataclass(frozen=True)
class VPTime:
    """A multiple of the time at which VP has the noise level.

    Args:
        beta_min: beta at time 0.
        beta_max: beta at time 1.
        factor: of the time.
    """

    beta_min: float
    beta_max: float
    factor: float

    def __call__(self, at: Scales) -> Tensor:
        """factor t, where beta_min t + (beta_max - beta_min) t^2 / 2 = log(1 + (sigma/alpha)^2)."""
        slope = self.beta_max - self.beta_min
        grown = torch.log1p((at.sigma / at.alpha) ** 2)
        return self.factor * ((self.beta_min**2 + 2 * slope * grown).sqrt() - self.beta_min) / slope


@lru_cache(maxsize=8)
def iddpm_levels(c1: float, c2: float, n: int) -> Tensor:
    r"""Noise levels u_0 > ... > u_n = 0 of improved DDPM, float64 of shape `(n + 1,)`.

    .. math:: u_{j-1} = \sqrt{\frac{u_j^2 + 1}{\max(\bar\alpha_{j-1} / \bar\alpha_j, c_1)} - 1},
              \qquad \bar\alpha_j = \sin^2\left(\frac{\pi j}{2 n (c_2 + 1)}\right)

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """
    alpha_bar = torch.sin(math.pi / 2 * torch.arange(n + 1).double() / n / (c2 + 1)) ** 2
    levels = torch.zeros(n + 1, dtype=torch.float64)
    for j in range(n, 0, -1):
        ratio = max(float(alpha_bar[j - 1] / alpha_bar[j]), c1)
        levels[j - 1] = ((levels[j] ** 2 + 1) / ratio - 1).sqrt()
    return levels


@dataclass(frozen=True)
class NearestLevel:
    """n - 1 - j for the level u_j of improved DDPM nearest to the noise.

    Args:
        c1: smallest ratio of two neighbors.
        c2: offset of the cosine.
        n: number of levels.
    """

    c1: float
    c2: float
    n: int

    def __call__(self, at: Scales) -> Tensor:
        """n - 1 - argmin |u_j - sigma / alpha|."""
        levels = iddpm_levels(self.c1, self.c2, self.n).to(at.t.device)
        ratio = (at.sigma / at.alpha)[..., None]
        return (self.n - 1 - (levels - ratio).abs().argmin(-1)).to(at.t.dtype)


@dataclass(frozen=True)
class Angle:
    """The angle atan(sigma / alpha) in units of sigma_data."""

    def __call__(self, at: Scales) -> Tensor:
        """atan(sigma / (alpha sigma_data))."""
        return torch.atan2(at.sigma, at.alpha * at.sigma_data)


_OUTPUTS: dict[str, Callable[[Scales], Coefficients]] = {"noise": noise, "data": data, "v": v}


@checked
def score_sde_vp(factor: float = 999.0, sigma_data: float = 1.0) -> Parametrization:
    """Networks of score_sde for VP and sub-VP.

    Args:
        factor: of t, 1000 for networks that count the steps of a chain from 1.
        sigma_data: standard deviation of the data.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C.
    """
    require_positive(factor=factor)
    label = TimeMultiple(factor)
    return Parametrization("score-sde-vp", unit, label, noise, sigma_data, {"factor": factor})


@checked
def score_sde_ve(unit_level: float = 1.0, sigma_data: float = 1.0) -> Parametrization:
    """Networks of score_sde for VE.

    Args:
        unit_level: noise level whose label is 0: 1, or 2 for a network trained on images in
            [0, 1] that sees them in [-1, 1].
        sigma_data: standard deviation of the data.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C.
    """
    require_positive(unit_level=unit_level)
    return Parametrization(
        "score-sde-ve",
        unit,
        LogNoise(unit_level),
        sigma_score,
        sigma_data,
        {"unit_level": unit_level},
    )


@checked
def score_sde_ve_discrete(n: int = 1000, sigma_data: float = 1.0) -> Parametrization:
    """Networks of score_sde for the n noise levels of VE.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C.
    """
    require_count(2, n=n)
    return Parametrization(
        "score-sde-ve-discrete", unit, IndexFromNoise(n), sigma_score, sigma_data, {"n": n}
    )


@checked
def ddpm(
    n: int = 1000,
    labels: float | None = None,
    output: str = "noise",
    rounded: bool = False,
    sigma_data: float = 1.0,
) -> Parametrization:
    """Networks that count the layers of a chain, 0 the least noise, at t = 1/n.

    Args:
        n: number of layers.
        labels: number that the labels count up to, where they are rescaled; None for n.
        output: `"noise"`, `"data"` or `"v"`.
        rounded: round to the nearest layer; False lets the label be any number between.
        sigma_data: standard deviation of the data.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239; Salimans & Ho 2022,
    https://arxiv.org/abs/2202.00512, for v.
    """
    require_count(1, n=n)
    require_choice("output", output, tuple(_OUTPUTS))
    labels = float(n) if labels is None else labels
    require_positive(labels=labels)
    return Parametrization(
        "ddpm",
        unit,
        Index(n, labels, rounded),
        _OUTPUTS[output],
        sigma_data,
        {"n": n, "labels": labels, "output": output, "rounded": rounded},
    )


@checked
def edm_vp(
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    factor: float = 999.0,
    sigma_data: float = 1.0,
) -> Parametrization:
    """EDM's row VP: a network of score_sde on EDM's SDE.

    Args:
        beta_min: of the VP SDE.
        beta_max: of the VP SDE.
        factor: of the time of the VP SDE.
        sigma_data: standard deviation of the data.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """
    require_positive(beta_min=beta_min, beta_max=beta_max, factor=factor)
    options = {"beta_min": beta_min, "beta_max": beta_max, "factor": factor}
    label = VPTime(beta_min, beta_max, factor)
    return Parametrization("edm-vp", unit_spread, label, noise, sigma_data, options)


@checked
def edm_ve(sigma_data: float = 1.0) -> Parametrization:
    """EDM's row VE: log(sigma / 2) in, minus the noise out.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """
    return Parametrization("edm-ve", unit, LogNoise(2.0), sigma_score, sigma_data)


@checked
def iddpm(
    c1: float = 0.001, c2: float = 0.008, n: int = 1000, sigma_data: float = 1.0
) -> Parametrization:
    """EDM's row iDDPM: an improved DDPM on EDM's SDE.

    Args:
        c1: smallest ratio of neighboring signals.
        c2: offset of the cosine.
        n: number of levels.
        sigma_data: standard deviation of the data.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """
    require_positive(c1=c1, c2=c2)
    require_count(1, n=n)
    options = {"c1": c1, "c2": c2, "n": n}
    return Parametrization(
        "iddpm", unit_spread, NearestLevel(c1, c2, n), noise, sigma_data, options
    )


@checked
def rectified(factor: float = 1.0, sigma_data: float = 1.0) -> Parametrization:
    """Networks of rectified flows.

    Args:
        factor: of t, 1000 in Stable Diffusion 3.
        sigma_data: standard deviation of the data.

    Reference: Liu et al. 2022, https://arxiv.org/abs/2209.03003; Esser et al. 2024,
    https://arxiv.org/abs/2403.03206.
    """
    require_positive(factor=factor)
    return Parametrization(
        "rectified", unit, TimeMultiple(factor), velocity, sigma_data, {"factor": factor}
    )


@checked
def trigflow(sigma_data: float = 0.5) -> Parametrization:
    r"""Networks of TrigFlow, whose x is cos(t) data + sin(t) sigma_data noise.

    Its velocity is sigma_data times the output; on another SDE x is scaled to that circle.

    Args:
        sigma_data: standard deviation of the data.

    Reference: Lu & Song 2024, https://arxiv.org/abs/2410.11081, section 3.
    """
    return Parametrization("trigflow", spread, Angle(), trig_velocity, sigma_data)


def trig_velocity(at: Scales) -> Coefficients:
    """(cos sigma_data noise - sin data) / sigma_data, with tan = sigma / (alpha sigma_data)."""
    cos, sin = at.alpha * at.sigma_data / at.spread, at.sigma / at.spread
    return -sin / at.sigma_data, cos


ROWS: dict[str, Callable[..., Parametrization]] = {
    "score-sde-vp": score_sde_vp,
    "score-sde-ve": score_sde_ve,
    "score-sde-ve-discrete": score_sde_ve_discrete,
    "ddpm": ddpm,
    "edm-vp": edm_vp,
    "edm-ve": edm_ve,
    "iddpm": iddpm,
    "rectified": rectified,
    "trigflow": trigflow,
}
