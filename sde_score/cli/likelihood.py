"""`sde-score likelihood`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sde_score._core.files import require_writable
from sde_score._core.progress import is_main_process
from sde_score.cli.options import RunCommand, require_output, saved
from sde_score.cli.output import say, show, show_record
from sde_score.evaluation import likelihood
from sde_score.likelihood import LIKELIHOODS, LayeredBound
from sde_score.report import (
    likelihood_table,
    put_likelihood_on_page,
    require_scores_file,
    write_layers,
    write_scores,
)


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunCommand):
    """Log-likelihood of data under a trained run.

    In bits per dimension of the raw data. A model of all noise levels is measured by `flow`, the
    density of the probability-flow ODE, by `bound`, the variational bound in continuous time, or by
    `elbo`, that of a chain of layers; for discrete data each bounds the code length. An energy
    trained without noise is measured by its partition function, which particles annealed from a
    Gaussian estimate. The standard error covers examples, draws and log Z. Several processes share
    the examples: torchrun --nproc_per_node 2 -m -- sde_score likelihood ...

    For example:
        sde-score likelihood runs/digits --num 128
        sde-score likelihood runs/digits --by flow bound "elbo(layers=100)"
        sde-score likelihood runs/digits --by "elbo(layers=300)" --picture bits.png
        sde-score likelihood runs/digits --by "flow(dequantization='truncated-normal')" --json
        sde-score likelihood runs/energy --chains 4096
        sde-score likelihood runs/benign --data tumours.csv --num 569 --out scores.csv
    """

    by: tuple[str, ...] | None = None
    """Likelihoods of a model of all noise levels, each a row: flow, bound, elbo, with arguments;
    flow if not given."""

    picture: Path | None = None
    """PNG file to draw: the bits of each layer of the first elbo among --by, in its first batch."""

    num: int = 128
    """Number of examples, the first of the part."""

    out: Path | None = None
    """File with a row for each example, .csv, .json, .npy or .parquet: its number in the data, its
    label, its bits per dimension and log p in nats by each likelihood."""

    part: Literal["held_out", "train", "all"] = "held_out"
    """Part of the run's own data: held out of training, trained on, or all."""

    label: Literal["own", "none"] = "own"
    """Condition of a conditional model: the own label of each example, or none, for the likelihood
    under all classes together, of a run trained with condition_dropout."""

    chains: int | None = None
    """Particles that estimate the partition function of an energy; 1024 if not given."""

    dequantizations: int | None = None
    """Draws of the noise that fills the gray levels of discrete data, for an energy; 1 if not
    given."""

    report: bool = False
    """Put the likelihood on the report.html of the run."""

    shares = True

    def run(self) -> None:
        """Measure and print, perhaps put it on the page."""
        # Refuses mistakes before the run is opened.
        chosen = [LIKELIHOODS.create(spec) for spec in self.by or ()]
        if self.picture is not None:
            require_output(self.picture, [".png"], "picture")
        if self.out is not None:
            require_scores_file(self.out)
        if self.report:
            require_writable(self.path / "report.html", "report")
        layered = any(isinstance(each, LayeredBound) for each in chosen)
        run = self.open()
        found = likelihood(
            run,
            self.by,
            part=self.part,
            num=self.num,
            seed=self.seed,
            batch_size=self.batch_size,
            chains=self.chains,
            dequantizations=self.dequantizations,
            layers=self.picture is not None or (self.report and layered),
            labelled=self.label == "own",
            progress=self.progress and is_main_process(),
        )
        if found.partition is not None:
            say(str(found.partition))
        if self.json:
            show_record(found.record())
        else:
            show(likelihood_table(found))
        if self.out is not None:
            saved(self.out, lambda path: write_scores(found.scores, path))
            say(f"scores of {found.examples} examples: {self.out}")
        if (layers := found.layers) is not None and self.picture and is_main_process():
            saved(self.picture, lambda path: write_layers(layers, run.scaling, path))
            say(f"picture: {self.picture}")
        if self.report and is_main_process():
            say(f"page: {put_likelihood_on_page(run, found)}")
