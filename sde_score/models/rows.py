r"""The table of parametrizations: what networks are fed with, and what they answer.

With s = sigma / alpha, S^2 = sigma^2 + alpha^2 sigma_data^2 and labels of n layers or levels:

| row | input | time label | output |
|---|---|---|---|
| `noise`, `data`, `velocity` | x / S | log(s) / 4 | noise, data, alpha' data + sigma' noise |
| `score` | x / S | log(s) / 4 | sigma score, the scaling of NCSN++ |
| `edm` | x / S | log(s) / 4 | (sigma data / sigma_data - alpha sigma_data noise) / S |
| `scaled_score` | x / S | log(s) / 4 | S score |
| `time` | x | t, or a multiple | any of these |
| `sigma` | x / alpha | s | data, noise or score of x / alpha |
| `score-sde-vp` | x | 999 t (VP, sub-VP) | noise |
| `score-sde-ve` | x | log sigma | sigma score |
| `score-sde-ve-discrete` | x | index, 0 the most noise, even in t | sigma score |
| `ddpm` | x | index, 0 the least noise; rounded, respaced, rescaled | noise, data or v |
| `ncsn`, `ncsnv2` | x / alpha | index, 0 the most noise, even in log s | score of x / alpha |
| `edm-vp`, `edm-ve`, `iddpm` | EDM's table 1 | EDM's table 1 | EDM's table 1 |
| `rectified` | x | t, or a multiple | velocity |
| `consistency` | x / S | 250 log s | EDM's mixture with a boundary, see there |
| `trigflow` | x / S | atan(s / sigma_data) | (cos sigma_data noise - sin data) / sigma_data |

v is alpha noise - sigma data. The output of `edm` has unit variance at every noise level, that of
`scaled_score` where the data have a smooth density, so it is the one to train without noise; the
others grow without bound as sigma falls.

Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1 and appendix B.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sde_score._core.arguments import checked
from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score._core.registry import Registry
from sde_score.models.parametrization import (
    Coefficients,
    Parametrization,
    Scales,
    bounded_mixture,
    data,
    edm_mixture,
    noise,
    score,
    score_of_ratio,
    sigma_score,
    signal,
    spread,
    spread_score,
    trig_velocity,
    unit,
    unit_spread,
    v,
    velocity,
)
from sde_score.models.time_labels import (
    Formula,
    angle,
    index_in_noise,
    index_in_time,
    layer,
    log_noise,
    multiple,
    nearest_level,
    noise_level,
    noise_ratio,
    share_multiple,
    vp_time,
)

OURS: dict[str, Callable[[Scales], Coefficients]] = {
    "noise": noise,
    "data": data,
    "velocity": velocity,
    "score": sigma_score,
    "edm": edm_mixture,
    "scaled_score": spread_score,
}
"""Rows with the input and time label of this package, by their output."""


def _ours(name: str) -> Callable[..., Parametrization]:
    """A row with the input and the time label of this package."""

    def make(sigma_data: float = 1.0) -> Parametrization:
        return Parametrization(name, spread, noise_level, OURS[name], sigma_data)

    return make


_OF_TIME = {"noise": noise, "data": data, "velocity": velocity, "v": v, "score": score}
_OF_NOISE = {"data": data, "noise": noise, "score": score_of_ratio}
_OF_LAYERS = {"noise": noise, "data": data, "v": v}


@checked
def time(output: str = "noise", factor: float = 1.0, sigma_data: float = 1.0) -> Parametrization:
    """Networks and functions of (x, t).

    Args:
        output: `"noise"`, `"data"`, `"velocity"`, `"v"` or `"score"`.
        factor: of t.
        sigma_data: standard deviation of the data.
    """
    require_choice("output", output, tuple(_OF_TIME))
    require_positive(factor=factor)
    return Parametrization(
        *("time", unit, Formula(multiple, (factor,)), _OF_TIME[output], sigma_data),
        {"output": output, "factor": factor},
    )


@checked
def sigma(output: str = "data", sigma_data: float = 1.0) -> Parametrization:
    """Networks and functions of (data + sigma noise, sigma), such as denoisers, on any SDE.

    Args:
        output: `"data"`, `"noise"` or `"score"`, that of data + sigma noise.
        sigma_data: standard deviation of the data.
    """
    require_choice("output", output, tuple(_OF_NOISE))
    row = (signal, noise_ratio, _OF_NOISE[output])
    return Parametrization("sigma", *row, sigma_data, {"output": output})


@checked
def score_sde_vp(factor: float = 999.0, sigma_data: float = 1.0) -> Parametrization:
    """Networks of score_sde for VP and sub-VP.

    Args:
        factor: of t: n - 1 for a chain of n, or 1000 for networks that count its steps from 1.
        sigma_data: standard deviation of the data.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C.
    """
    require_positive(factor=factor)
    label = Formula(share_multiple, (factor,))
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
    row = (unit, Formula(log_noise, (unit_level,)), sigma_score)
    return Parametrization("score-sde-ve", *row, sigma_data, {"unit_level": unit_level})


@checked
def score_sde_ve_discrete(n: int = 1000, sigma_data: float = 1.0) -> Parametrization:
    """Networks of score_sde for the n noise levels of VE.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C.
    """
    require_count(2, n=n)
    row = (unit, Formula(index_in_time, (n,)), sigma_score)
    return Parametrization("score-sde-ve-discrete", *row, sigma_data, {"n": n})


@checked
def ddpm(
    n: int = 1000,
    labels: float | None = None,
    output: str = "noise",
    rounded: bool = False,
    kept: tuple[int, ...] | None = None,
    sigma_data: float = 1.0,
) -> Parametrization:
    """Networks that count the layers of a chain, 0 the least noise, at t = 1/n.

    Args:
        n: number of layers that the network was trained on.
        labels: number that the labels count up to, where they are rescaled; None for n.
        output: `"noise"`, `"data"` or `"v"`.
        rounded: round to the nearest layer; False lets the label be any number between.
        kept: increasing indices of the layers that a respaced chain keeps, where the SDE is that
            chain; None for all.
        sigma_data: standard deviation of the data.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239; Salimans & Ho 2022,
    https://arxiv.org/abs/2202.00512, for v; Nichol & Dhariwal 2021,
    https://arxiv.org/abs/2102.09672, for respacing.
    """
    require_count(1, n=n)
    require_choice("output", output, tuple(_OF_LAYERS))
    labels = float(n) if labels is None else labels
    require_positive(labels=labels)
    if kept is not None and (
        len(kept) < 2 or kept[0] < 0 or kept[-1] >= n or sorted({*kept}) != [*kept]
    ):
        raise ValueError(f"kept={kept!r:.80} must be increasing indices of 0 ... {n - 1}")
    options = {"n": n, "labels": labels, "output": output, "rounded": rounded, "kept": kept}
    label = Formula(layer, (n, labels, rounded, kept))
    return Parametrization("ddpm", unit, label, _OF_LAYERS[output], sigma_data, options)


@checked
def ncsn(n: int = 10, sigma_data: float = 1.0) -> Parametrization:
    """Networks of NCSN, which look up one of n geometric noise levels.

    Args:
        n: number of noise levels, the ends of the SDE among them.
        sigma_data: standard deviation of the data.

    Reference: Song & Ermon 2019, https://arxiv.org/abs/1907.05600, section 4.
    """
    require_count(2, n=n)
    row = (signal, Formula(index_in_noise, (n,)), score_of_ratio)
    return Parametrization("ncsn", *row, sigma_data, {"n": n})


@checked
def ncsnv2(n: int = 232, sigma_data: float = 1.0) -> Parametrization:
    """Networks of NCSNv2 as published: their answer is divided by the noise level of the index.

    Args:
        n: number of noise levels, the ends of the SDE among them.
        sigma_data: standard deviation of the data.

    Reference: Song & Ermon 2020, https://arxiv.org/abs/2006.09011, section 3.3.
    """
    return replace(ncsn(n, sigma_data), name="ncsnv2")


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
    label = Formula(vp_time, (beta_min, beta_max, factor))
    return Parametrization("edm-vp", unit_spread, label, noise, sigma_data, options)


@checked
def edm_ve(sigma_data: float = 1.0) -> Parametrization:
    """EDM's row VE: log(sigma / 2) in, minus the noise out.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """
    return Parametrization("edm-ve", unit, Formula(log_noise, (2.0,)), sigma_score, sigma_data)


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
    label = Formula(nearest_level, (c1, c2, n))
    options = {"c1": c1, "c2": c2, "n": n}
    return Parametrization("iddpm", unit_spread, label, noise, sigma_data, options)


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
    label = Formula(share_multiple, (factor,))
    return Parametrization("rectified", unit, label, velocity, sigma_data, {"factor": factor})


@checked
def consistency(sigma_min: float = 0.0, sigma_data: float = 0.5) -> Parametrization:
    """Networks of OpenAI's consistency models.

    Args:
        sigma_min: noise level that the answer is for: 0 for networks trained as EDM's, 0.002 for
            consistency functions, whose answer is not the mean of the data but an end of the flow.
        sigma_data: standard deviation of the data.

    Reference: Song et al. 2023, https://arxiv.org/abs/2303.01469, section 3 and appendix C.
    """
    if sigma_min < 0:
        raise ValueError(f"sigma_min={sigma_min!r} must be at least 0")
    row = (spread, Formula(log_noise, (1.0, 250.0)), Formula(bounded_mixture, (sigma_min,)))
    return Parametrization("consistency", *row, sigma_data, {"sigma_min": sigma_min})


@checked
def trigflow(sigma_data: float = 0.5) -> Parametrization:
    r"""Networks of TrigFlow, whose x is cos(t) data + sin(t) sigma_data noise.

    Its velocity is sigma_data times the output; on another SDE x is scaled to that circle.

    Args:
        sigma_data: standard deviation of the data.

    Reference: Lu & Song 2024, https://arxiv.org/abs/2410.11081, section 3.
    """
    return Parametrization("trigflow", spread, Formula(angle), trig_velocity, sigma_data)


PARAMETRIZATIONS: Registry[Parametrization] = Registry(
    "prediction",
    {
        **{name: _ours(name) for name in OURS},
        "time": time,
        "sigma": sigma,
        "score-sde-vp": score_sde_vp,
        "score-sde-ve": score_sde_ve,
        "score-sde-ve-discrete": score_sde_ve_discrete,
        "ddpm": ddpm,
        "ncsn": ncsn,
        "ncsnv2": ncsnv2,
        "edm-vp": edm_vp,
        "edm-ve": edm_ve,
        "iddpm": iddpm,
        "rectified": rectified,
        "consistency": consistency,
        "trigflow": trigflow,
    },
    base=Parametrization,
)
"""All rows, by name."""
