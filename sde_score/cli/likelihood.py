"""`sde-score likelihood`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sde_score._core.files import replace_file
from sde_score.cli.options import RunCommand
from sde_score.cli.output import is_main_process, say, show_record, show_table
from sde_score.data import DataSet
from sde_score.likelihood import (
    BitsPerDim,
    GaussianReference,
    LayeredBound,
    bits_per_dim,
    create,
    energy_bits_per_dim,
    gather_rows,
    log_partition,
    own_rows,
)
from sde_score.models import EnergyModel
from sde_score.random import example_seeds
from sde_score.training import Run
from sde_score.training.distributed import accelerator_for


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunCommand):
    """Log-likelihood of data under a trained run.

    In bits per dimension of the raw data. A model that knows all noise levels is read by `flow`,
    the density of the probability-flow ODE, by `bound`, the variational bound in continuous time,
    or by `elbo`, that of a chain of layers; for discrete data each bounds the code length. An
    energy that was trained without noise is read by its partition function, which particles
    annealed from a Gaussian estimate. The standard error covers examples, draws and log Z. Several
    processes share the examples: torchrun --nproc_per_node 2 -m -- sde_score likelihood ...

    For example:
        sde-score likelihood runs/digits --num 128
        sde-score likelihood runs/digits --by flow bound "elbo(layers=100)"
        sde-score likelihood runs/digits --by "elbo(layers=300)" --picture bits.png
        sde-score likelihood runs/digits --by "flow(dequantization='truncated-normal')" --json
        sde-score likelihood runs/energy --chains 4096
    """

    by: tuple[str, ...] = ("flow",)
    """Likelihoods of a model of all noise levels, each a row: flow, bound, elbo, with arguments."""

    picture: Path | None = None
    """PNG file to draw: where the bits go, layer by layer, by the first elbo among --by."""

    num: int = 128
    """Number of examples, the first of the part."""

    part: Literal["held_out", "train", "all"] = "held_out"
    """Which data: those training never saw, those it saw, or all."""

    chains: int = 1024
    """Particles that estimate the partition function of an energy."""

    dequantizations: int = 1
    """Draws of the noise that fills the levels of discrete data, for an energy."""

    def run(self) -> None:
        """Measure and print."""
        layered = [each for each in map(create, self.by) if isinstance(each, LayeredBound)]
        if self.picture is not None and not layered:
            raise ValueError(f"picture={self.picture} shows the layers of an elbo: give --by elbo")
        run = self.open()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            run.model.to(accelerator_for(self.device).device)
        dataset = run.dataset(self.part)
        rows = torch.arange(min(self.num, len(dataset)))
        if run.all_noise_levels:
            found = {spec: self._by_noise_levels(spec, run, dataset, rows) for spec in self.by}
        else:
            found = {"partition": self._by_partition(run, dataset, rows)}
        if self.picture is not None and is_main_process():
            self._draw(layered[0], run, dataset, rows)
        if self.json:
            records = [_record(spec, bits) for spec, bits in found.items()]
            show_record({"part": self.part, "examples": len(rows), "rows": records})
            return
        header = ["by", "part", "examples", "bits/dim", "NFE"]
        lines = [
            [spec, self.part, str(len(rows)), f"{b.mean:.4f} ± {b.standard_error:.4f}", str(b.nfe)]
            for spec, b in found.items()
        ]
        show_table(header, lines)

    def _by_noise_levels(self, spec: str, run: Run, dataset: DataSet, rows: Tensor) -> BitsPerDim:
        """Each process takes its own examples; their values are those of a single one."""
        device, mine = run.device, rows[own_rows(len(rows))]
        if len(mine) == 0:
            raise ValueError(f"{len(rows)} examples are fewer than the processes: start fewer")
        labels = dataset.batch(mine).condition if run.num_classes else None
        seeds = example_seeds(self.seed, len(rows))
        found = bits_per_dim(
            run.model,
            dataset.raw(mine).to(device),
            run.scaling,
            spec,
            batch_size=self.batch_size,
            seed=[seeds[row] for row in mine.tolist()],
            condition=None if labels is None else labels.to(device),
            progress=self.progress and is_main_process(),
        )
        return BitsPerDim(gather_rows(found.values, len(rows)), found.nfe)

    def _draw(self, bound: LayeredBound, run: Run, dataset: DataSet, rows: Tensor) -> None:
        from sde_score.report.layers import layers_figure
        from sde_score.report.pictures import png

        device = run.device
        rows = rows[: self.batch_size]
        labels = dataset.batch(rows).condition if run.num_classes else None
        found, _ = bound.terms(
            run.model,
            dataset.raw(rows).to(device),
            run.scaling,
            seeds=example_seeds(self.seed, len(rows)),
            condition=None if labels is None else labels.to(device),
            progress=self.progress,
        )
        path = Path(self.picture or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, png(layers_figure(found, run.scaling), dpi=150))
        say(f"picture: {path}")

    def _by_partition(self, run: Run, dataset: DataSet, rows: Tensor) -> BitsPerDim:
        if not isinstance(run.model, EnergyModel) or run.num_classes:
            raise ValueError(
                f"{run.path} holds a score, or a law for each class, of data without noise: there "
                "is no likelihood of it; train all noise levels, or --model energy without classes"
            )
        device = run.device
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


def _record(spec: str, bits: BitsPerDim) -> dict[str, str | float | int]:
    return {
        "by": spec,
        "bits_per_dim": bits.mean,
        "standard_error": bits.standard_error,
        "nfe": bits.nfe,
    }
