"""`sde-score likelihood`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sde_score.cli.options import RunCommand
from sde_score.cli.output import say, show_record, show_table
from sde_score.data import DataSet
from sde_score.likelihood import (
    BitsPerDim,
    GaussianReference,
    bits_per_dim,
    energy_bits_per_dim,
    log_partition,
)
from sde_score.models import EnergyModel
from sde_score.training import Run


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunCommand):
    """Log-likelihood of data under a trained run.

    In bits per dimension of the raw data; discrete data are dequantized, so it bounds their code
    length. A model that knows all noise levels is read by the probability-flow ODE; an energy that
    was trained without noise by its energy and its partition function, which particles annealed
    from a Gaussian estimate. The standard error covers examples, probes, dequantization and
    log Z.

    For example:
        sde-score likelihood runs/digits --num 128
        sde-score likelihood runs/digits --divergence exact --num 16 --json
        sde-score likelihood runs/energy --chains 4096
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

    chains: int = 1024
    """Particles that estimate the partition function."""

    def run(self) -> None:
        """Measure and print."""
        run = self.open()
        dataset = run.dataset(self.part)
        rows = torch.arange(min(self.num, len(dataset)))
        measure = self._by_flow if run.all_noise_levels else self._by_partition
        found = measure(run, dataset, rows)
        if self.json:
            record = {"bits_per_dim": found.mean, "standard_error": found.standard_error}
            show_record({**record, "examples": len(rows), "part": self.part, "nfe": found.nfe})
            return
        bits = f"{found.mean:.4f} ± {found.standard_error:.4f}"
        header = ["part", "examples", "bits/dim", "NFE"]
        show_table(header, [[self.part, str(len(rows)), bits, str(found.nfe)]])

    def _by_flow(self, run: Run, dataset: DataSet, rows: Tensor) -> BitsPerDim:
        device = next(run.model.parameters()).device
        labels = dataset.batch(rows).condition if run.num_classes else None
        return bits_per_dim(
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

    def _by_partition(self, run: Run, dataset: DataSet, rows: Tensor) -> BitsPerDim:
        if not isinstance(run.model, EnergyModel) or run.num_classes:
            raise ValueError(
                f"{run.path} holds a score, or a law for each class, of data without noise: there "
                "is no likelihood of it; train all noise levels, or --model energy without classes"
            )
        device = next(run.model.parameters()).device
        partition = log_partition(
            run.model,
            GaussianReference.fit(dataset.batch(torch.arange(len(dataset))).x0.to(device), 1.5),
            method="smc",
            chains=self.chains,
            seed=self.seed,
            progress=self.progress,
        )
        say(str(partition))
        return energy_bits_per_dim(
            run.model,
            dataset.raw(rows).to(device),
            run.scaling,
            partition,
            dequantizations=self.dequantizations,
            seed=self.seed,
        )
