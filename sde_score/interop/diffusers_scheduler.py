"""Schedulers of diffusers: the diffusion on which their networks were trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import is_finite
from sde_score._core.registry import format_spec
from sde_score.interop.schedules import betas, through
from sde_score.sdes import SDE, VE
from sde_score.training.errors import CheckpointError

CHAINS = (
    "DDIM",
    "DDIMInverse",
    "DDIMParallel",
    "DDPM",
    "DDPMParallel",
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverSDE",
    "DPMSolverSinglestep",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "HeunDiscrete",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LMSDiscrete",
    "PNDM",
    "SASolver",
    "UniPCMultistep",
)
"""Schedulers of chains of betas, without `Scheduler` behind their names."""

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
OUTPUTS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}


@dataclass(frozen=True)
class Schedule:
    """What a scheduler says.

    Args:
        sde: the diffusion.
        prediction: spec of the parametrization.
        low: value of black, -1 or 0.
        notes: what it does beside, and what was taken as published.
    """

    sde: SDE = field(repr=False)
    prediction: str
    low: float = -1.0
    notes: tuple[str, ...] = ()


def schedule_of(config: Any, asked: Mapping[str, Any], fourier: bool, centers: bool) -> Schedule:
    """The schedule of a network.

    Args:
        config: of `scheduler_config.json`; None if there is none.
        asked: values that are given by name.
        fourier: whether the network has random frequencies, as those of VE.
        centers: whether the network itself maps [0, 1] to [-1, 1].

    Raises:
        ValueError: if there is neither a file nor what it would say.
        CheckpointError: for a scheduler that is not supported, or not of such a network.
    """
    if config is None:
        needed = ("sigma_min", "sigma_max") if fourier else ("beta_schedule",)
        lacking = [name for name in needed if name not in asked]
        if lacking:
            example = "sigma_min=0.01, sigma_max=1348" if fourier else "beta_schedule='linear'"
            raise ValueError(
                f"the folder has no scheduler_config.json: give {' and '.join(lacking)}, as in "
                f"load(path, {example})"
            )
        config = {}
    elif not isinstance(config, Mapping):
        raise CheckpointError("scheduler_config.json is no dictionary")
    given = {**config, **asked}
    name = str(given.get("_class_name", "ScoreSdeVeScheduler" if fourier else "DDPMScheduler"))
    kind = name.removesuffix("Scheduler")
    if kind not in (*CHAINS, "ScoreSdeVe"):
        raise CheckpointError(
            f"scheduler {name!r} is not supported; supported are {', '.join(CHAINS)}, ScoreSdeVe"
        )
    if fourier != (kind == "ScoreSdeVe") or (centers and not fourier):
        raise CheckpointError(
            f"scheduler {name!r} does not fit a network with "
            + ("random" if fourier else "fixed")
            + " frequencies"
            + (" and center_input_sample=True" if centers else "")
        )
    return _exploding(given, centers) if fourier else _chain(given, bool(config))


def _exploding(given: Mapping[str, Any], centers: bool) -> Schedule:
    """The diffusion of ScoreSdeVeScheduler."""
    low, high = (_number(given, key, 0.01) for key in ("sigma_min", "sigma_max"))
    unit = 2.0 if centers else 1.0
    notes = (
        "the noise levels of the file are of images in [0, 1]; here images are in [-1, 1] and "
        "noise levels twice as large",
    )
    try:
        sde = VE(unit * low, unit * high)
    except ValueError as error:
        raise CheckpointError(f"scheduler_config.json: {error}") from error
    prediction = format_spec("score-sde-ve", {"unit_level": unit})
    return Schedule(sde, prediction, -1.0 if centers else 0.0, notes if centers else ())


def _chain(given: Mapping[str, Any], from_file: bool) -> Schedule:
    """The diffusion through a chain of betas."""
    output = given.get("prediction_type", "epsilon")
    if output not in OUTPUTS:
        raise CheckpointError(
            f"prediction_type={output!r} is not supported; supported are {', '.join(OUTPUTS)}"
        )
    values = _betas(given)
    notes = [] if from_file else ["there is no scheduler_config.json: the chain is as asked for"]
    if given.get("rescale_betas_zero_snr"):
        values = _without_signal(values)
        notes.append("the last step of the chain has no signal; here it keeps a ten-millionth")
    if given.get("clip_sample", False):
        notes.append(
            f"its scheduler clips predicted data to {given.get('clip_sample_range', 1.0):g} "
            "(clip_sample); here a model within guidance.Clipped does"
        )
    if given.get("thresholding"):
        notes.append("its scheduler thresholds predicted data (thresholding); none here does")
    try:
        sde = through(values)
    except ValueError as error:
        raise CheckpointError(f"scheduler_config.json: {error}") from error
    options = {"n": len(values), "output": OUTPUTS[output]}
    return Schedule(sde, format_spec("ddpm", options), notes=tuple(notes))


def _betas(given: Mapping[str, Any]) -> Tensor:
    """Variances of the steps, float64.

    Raises:
        CheckpointError: for a schedule that is not supported, or numbers out of range.
    """
    if given.get("trained_betas") is not None:
        trained = given["trained_betas"]
        if not isinstance(trained, list) or not all(is_finite(value) for value in trained):
            raise CheckpointError("trained_betas in scheduler_config.json are no numbers")
        return torch.tensor(trained, dtype=torch.float64)
    steps = int(_number(given, "num_train_timesteps", 1000))
    start, end = _number(given, "beta_start", 1e-4), _number(given, "beta_end", 0.02)
    schedule = given.get("beta_schedule", "linear")
    if not 2 <= steps <= 10**6 or not 0 < start < 1 or not 0 < end < 1:
        raise CheckpointError(f"a chain of {steps} steps from {start} to {end} cannot be")
    if schedule == "sigmoid":
        ramp = torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64))
        return ramp * (end - start) + start
    if schedule not in SCHEDULES:
        raise CheckpointError(
            f"beta_schedule={schedule!r} is not supported; supported are "
            f"{', '.join((*SCHEDULES, 'sigmoid'))}"
        )
    ends = (None, None) if schedule == "squaredcos_cap_v2" else (start, end)
    return betas(SCHEDULES[schedule], steps, *ends)


def _without_signal(values: Tensor) -> Tensor:
    """Betas whose signal falls to zero at the last step.

    Reference: Lin et al. 2023, https://arxiv.org/abs/2305.08891, algorithm 1.
    """
    signal = (1 - values).cumprod(0).sqrt()
    first, last = signal[0], signal[-1]
    product = ((signal - last) * first / (first - last)) ** 2
    return 1 - torch.cat([product[:1], product[1:] / product[:-1]])


def _number(given: Mapping[str, Any], key: str, default: float) -> float:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
        raise CheckpointError(f"{key}={value!r} in scheduler_config.json is no number")
    return float(value)
