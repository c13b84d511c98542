"""`sde-score sample`."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sde_score import samplers
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, mapped, rows_of
from sde_score._core.progress import progress_bar
from sde_score.cli.options import (
    RunCommand,
    chosen_sampler,
    hint_at_noise,
    sampler_spec,
    saved,
)
from sde_score.cli.output import say, show_record
from sde_score.data import load_condition
from sde_score.evaluation import followed, guided_run
from sde_score.evaluation.samples import FiniteWatch, require_finite_samples
from sde_score.models import Model
from sde_score.report.files import require_samples_file, save_samples
from sde_score.report.look import Look
from sde_score.report.sample_shards import SampleShards
from sde_score.report.table_picture import real_table
from sde_score.scaling import Scaling, condition_from_model
from sde_score.training import Run, coding_of


@dataclass(frozen=True, kw_only=True)
class Sample(RunCommand):
    """Draw samples from a trained run.

    Sample i depends on the seed and on i alone: more samples, other batches or another machine of
    the same kind give the same first ones.

    For example:
        sde-score sample runs/digits --sampler pc --steps 500 --num 64 --seed 0 --out samples.npz
        sde-score sample runs/digits --sampler "heun(churn=10)" --steps 18 --out samples.png
        sde-score sample runs/digits --grid grid.json --out samples.png
        sde-score sample runs/digits --num 100000 --shard-size 5000 --out samples/
        sde-score sample runs/classes --label 7 --guidance "cfg(2)" --out sevens.png
        sde-score sample runs/energy --sampler "mcmc(kernel='hmc')" --steps 500 --out samples.png
    """

    out: Path = Path("samples.npz")
    """File to write: .npz, .npy or, for tables, .csv or .parquet with the columns and types that
    they came with, in the data's own terms, or .png, a picture. A path without an ending is a
    folder with a file for each sample: .png for images, else .npy."""

    shard_size: int | None = None
    """Samples in each file of a folder, for any number of them in bounded memory: --out samples/
    makes samples/00000.npz and so on, --out samples/part.csv makes samples/part-00000.csv; .png a
    folder of pictures of each shard. The same command goes on after a kill, and with a larger
    --num."""

    sampler: str = "auto"
    """Sampler, such as pc, "ddim(eta=0.5)" or "mcmc(kernel='hmc')"; see sde-score samplers. Auto
    takes that of the grid's file, or the one that sde-score tune found for the run and --nfe, or
    its only one; or else auto(steps=20), flow-map(steps=2) for a flow map, or mcmc for a model
    trained without noise. tuned, or "tuned(nfe=10)", is what sde-score tune found; its .json file
    can be given as well."""

    nfe: int | None = None
    """Network evaluations per sample, in place of steps."""

    steps: int | None = None
    """Steps, the final denoising included; the sampler's default if not given."""

    grid: str | None = None
    """Time grid: native, uniform, polynomial, log_snr, polyexponential, karras, rectified, angle or
    logit_normal, with arguments such as "karras(rho=5)", or a .json file of optimise-grid."""

    num: int = 64
    """Number of samples."""

    label: str | None = None
    """Class of all samples, for conditional models: its name, or its number from 0 where classes
    have no numbers as names; none for samples of all data, of a run trained with condition_dropout;
    classes in turn, or what training examples are told, if not given."""

    condition: str | None = None
    """File with what each sample is told, in the data's own terms, for runs with vectors, images or
    a dictionary: .npy, or .npz with condition, or condition_NAME for each name, as samples.npz has
    them; one entry counts for all samples. Of columns of a table also values, as "age=30,job=cook".
    """

    guidance: str | None = None
    """Guidance of a conditional model away from its answer without a condition, such as "cfg(3)",
    "apg(4, radius=5)" or "cfg(3, interval=(0.2, 5))" for noise levels sigma / alpha; or away from a
    weaker model, "cfg(2, against='ema(0.02)')" or "cfg(2, against='runs/small')"."""

    shares = True
    takes_other = False

    def run(self) -> None:
        """Draw, write, print a line."""
        require_count(num=self.num)
        if self.shard_size is None:
            require_samples_file(self.out)
        run = self.open()
        guided = guided_run(run, self.guidance)
        spec = self._spec(run, guided.model)
        condition = self._condition(run)
        shards = self._shards(guided, spec, _as_in_data(run, condition))
        if shards is None:
            require_samples_file(self.out, run.event_shape)
        else:
            shards.require()
        hint_at_noise(run, [spec])
        model = followed(guided.model, samplers.create(spec, model=guided.model))
        start = time.perf_counter()

        def draw(rows: range, shared: bool) -> tuple[Tensor, float]:
            watch, told = FiniteWatch(), rows_of(condition, slice(rows.start, rows.stop))
            drawn = samplers.run(
                model,
                spec,
                run.event_shape,
                len(rows),
                seed=self.seed,
                condition=told,
                batch_size=self.batch_size,
                progress=self.progress,
                callback=watch,
                shared=shared,
                first=rows.start,
            )
            require_finite_samples(drawn.samples, spec, watch.hint)
            return drawn.samples, drawn.nfe

        if shards is None:
            x, nfe = draw(range(self.num), True)
            look, labels = Look.of(run), _as_in_data(run, condition)
            real = real_table(run) if self.out.suffix == ".png" else None
            saved(self.out, lambda path: save_samples(x, path, look, labels, real))
        else:
            with progress_bar(total=self.num, unit="sample", shown=self.progress) as bar:
                nfe = shards.write(lambda rows: draw(rows, False), Look.of(run), bar.update)
        self._report(spec, nfe, time.perf_counter() - start)

    def _report(self, spec: str, nfe: float, seconds: float) -> None:
        if self.json:
            cost = None if math.isnan(nfe) else round(nfe)
            record: dict[str, Any] = {
                "out": str(self.out),
                "sampler": spec,
                "num": self.num,
                "nfe": cost,
            }
            if self.guidance is not None:
                record["guidance"] = self.guidance
            if self.shard_size is not None:
                record["shard_size"] = self.shard_size
            show_record({**record, "seconds": seconds, "seed": self.seed})
        else:
            how = spec if self.guidance is None else f"{spec} under {self.guidance}"
            spent = "all there already" if math.isnan(nfe) else f"{nfe:.0f} NFE, {seconds:.1f} s"
            say(f"{self.out}: {self.num} samples, {how}, {spent}")

    def _shards(self, run: Run, spec: str, condition: Condition) -> SampleShards | None:
        """Where shards are written; None for one file."""
        if self.shard_size is None:
            return None
        settings: dict[str, Any] = {"weights": run.digest[:16], "sampler": spec}
        settings |= {"seed": self.seed, "guidance": self.guidance or ""}
        return SampleShards(self.out, self.num, self.shard_size, settings, condition)

    def _spec(self, run: Run, guided: Model) -> str:
        """The sampler in words; one that was tuned without guidance is not for a guided model."""
        flags = (self.steps, self.grid, self.nfe)
        chosen = chosen_sampler(run, self.sampler, *flags, tuned=self.guidance is None)
        return sampler_spec(chosen, *flags, guided)

    def _condition(self, run: Run) -> Condition:
        if self.condition is not None:
            if self.label is not None:
                raise ValueError(f"label={self.label} and condition={self.condition}: give one")
            return self._told(run, self.condition)
        if self.label is None:
            return run.labels_in_turn(self.num)
        taken = run.num_classes or run.condition_shape
        if self.label == "none" and taken and self.label not in run.class_names:
            return None
        return run.labels_of(self.label, self.num)

    def _told(self, run: Run, text: str) -> Condition:
        """The condition of a file, or of values such as `a=1.2,b=3`."""
        if "=" not in text or Path(text).exists():
            return run.condition_of(load_condition(Path(text), self.num))
        coding = coding_of(run)
        names = run.condition_names if coding is None else coding.conditions
        if not names:
            raise ValueError(
                f"condition={text}: this run is told no columns of a table; give a file"
            )
        pairs = dict(part.partition("=")[::2] for part in text.split(","))
        told = run.condition_of({name.strip(): value.strip() for name, value in pairs.items()})
        return mapped(told, lambda value: value.expand(self.num, *value.shape[1:]))


def _as_in_data(run: Run, condition: Condition) -> Condition:
    """Conditions as the data have them: in their own terms, and labels that are not 0, 1, ..."""
    names = run.class_names
    if run.condition_shape:
        scaling = run.data.condition_scaling
        raw = condition_from_model(mapped(condition, lambda value: value.cpu()), scaling)
        if run.condition_names and isinstance(scaling, Scaling):  # 1.2 again, not 1.2000000477
            return mapped(raw, lambda value: value.to(scaling.raw_dtype))
        return raw
    if not names or not all(name.isdecimal() for name in names) or coding_of(run) is not None:
        return condition
    return mapped(
        condition, lambda labels: torch.tensor([int(name) for name in names])[labels.cpu()]
    )
