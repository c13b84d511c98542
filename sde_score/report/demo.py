"""The demonstration: real digits in, samples, likelihood and a page out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sde_score.evaluation import Evaluation, evaluate, likelihood
from sde_score.likelihood import BitsPerDim
from sde_score.report.run_report import write_report
from sde_score.training import TrainConfig, train

CONFIG = TrainConfig(
    data="digits",
    sde="vp",
    backbone="unet(base=32, multipliers=(1, 2), blocks=1, attention=())",
    objective="denoising(time_sampler='low_discrepancy')",
    steps=2000,
    learning_rate=2e-3,
    dequantize=True,
)

SAMPLERS = (
    "ancestral(steps=1000)",
    "ddim(steps=1000)",
    "adams-time(steps=20)",
    "adams-time(steps=10)",
    "dpmpp-2m(steps=10)",
    "ddim(steps=10)",
    "adams-sde(steps=20)",
    "heun(steps=10)",
    "ode",
    "pc(steps=250)",
    "annealed-langevin(steps=60)",
)

_LIKELIHOOD_EXAMPLES = 64


def demo(
    out: Path,
    *,
    config: TrainConfig = CONFIG,
    specs: Sequence[str] = SAMPLERS,
    count: int = 256,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[Path, Evaluation, BitsPerDim]:
    """Train, sample, measure and write the page; an interrupted demo continues.

    Args:
        out: run directory.
        config: of the training.
        specs: samplers to compare.
        count: samples per sampler.
        device: of sampling and measuring.
        progress: show bars.

    Returns:
        path of the page, the evaluation of the samplers, held-out bits/dim.
    """
    run = train(config, out, progress=progress)
    run.model.to(device)
    evaluation = evaluate(run, specs, count=count, seed=config.seed, progress=progress)
    found = likelihood(run, num=_LIKELIHOOD_EXAMPLES, batch_size=128, progress=progress)
    return write_report(run, evaluation, found), evaluation, found.by["flow"]
