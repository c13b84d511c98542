"""`sde-score likelihood`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sde_score.cli.options import RunCommand
from sde_score.cli.output import show_record, show_table
from sde_score.likelihood import bits_per_dim


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunCommand):
    """Log-likelihood of data under a trained run, by the probability-flow ODE.

    In bits per dimension of the raw data; discrete data are dequantized, so it bounds their code
    length. The standard error covers examples, probes and dequantization.

    For example:
        sde-score likelihood runs/digits --num 128
        sde-score likelihood runs/digits --divergence exact --num 16 --json
    """

    num: int = 128
    """Number of examples, the first of the part."""

    part: Literal["held_out", "train", "all"] = "held_out"
    """Which data: those training never saw, those it saw, or all."""

    divergence: Literal["hutchinson", "exact"] = "hutchinson"
    """Random estimate, or one backward pass per dimension."""

    probes: int = 1
    """Random probes per example."""

    dequantizations: int = 1
    """Draws of the noise that fills the levels of discrete data."""

    rtol: float = 1e-5
    """Relative tolerance of the solver."""

    atol: float = 1e-5
    """Absolute tolerance of the solver."""

    def run(self) -> None:
        """Measure and print."""
        run = self.open()
        dataset = run.dataset(self.part)
        rows = torch.arange(min(self.num, len(dataset)))
        device = next(run.model.parameters()).device
        labels = dataset.batch(rows).condition if run.num_classes else None
        found = bits_per_dim(
            run.model,
            dataset.raw(rows).to(device),
            run.scaling,
            dequantizations=self.dequantizations,
            batch_size=self.batch_size,
            divergence=self.divergence,
            probes=self.probes,
            seed=self.seed,
            rtol=self.rtol,
            atol=self.atol,
            condition=None if labels is None else labels.to(device),
            progress=self.progress,
        )
        if self.json:
            record = {"bits_per_dim": found.mean, "standard_error": found.standard_error}
            show_record({**record, "examples": len(rows), "part": self.part, "nfe": found.nfe})
            return
        bits = f"{found.mean:.4f} ± {found.standard_error:.4f}"
        header = ["part", "examples", "bits/dim", "NFE"]
        show_table(header, [[self.part, str(len(rows)), bits, str(found.nfe)]])
