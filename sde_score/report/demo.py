"""The demonstration: real digits in, samples, likelihood and a page out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sde_score.likelihood import BitsPerDim, bits_per_dim
from sde_score.report.evaluate_run import Row, evaluate
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
) -> tuple[Path, Sequence[Row], BitsPerDim]:
    """Train, sample, measure and write the page; a demo that was stopped continues.

    Args:
        out: run directory.
        config: what to train.
        specs: samplers to compare.
        count: samples per sampler.
        device: where to sample and measure.
        progress: show bars.

    Returns:
        path of the page, results per sampler, held-out bits/dim.
    """
    run = train(config, out, progress=progress)
    run.model.to(device)
    rows = evaluate(run, specs, count=count, seed=config.seed, progress=progress)
    held_out = run.dataset("held_out")
    raw = held_out.raw(torch.arange(min(_LIKELIHOOD_EXAMPLES, len(held_out)))).to(device)
    bits = bits_per_dim(run.model, raw, run.scaling, progress=progress)
    return write_report(run, rows, bits), rows, bits
