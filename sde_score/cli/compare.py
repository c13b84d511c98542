"""`sde-score compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sde_score._core.checks import require_count
from sde_score._core.files import require_writable
from sde_score.cli.options import RunCommand, hint_at_flow_map, saved
from sde_score.cli.output import say, show, show_record
from sde_score.evaluation import VIEW_BUDGETS, Comparison, compare
from sde_score.report import comparison_table, put_views_on_page, write_comparison
from sde_score.training import Run


@dataclass(frozen=True, kw_only=True)
class Compare(RunCommand):
    """Compare all views of one trained run: quality of the samples, likelihood and cost.

    The same weights are read as a ladder of noise scales (NCSN), as a reverse-time SDE, as a
    hierarchical VAE (DDPM) and as a probability-flow ODE. Each view samples at several budgets of
    network evaluations, from the same seeds; its samples are measured against held-out data, with
    95% intervals and the noise floor of real data; where the view has a likelihood, it is measured
    in bits per dimension of held-out data.

    Writes comparison.json, .csv and .png into the run directory, or into --out, and puts them on
    the report.html there; comparison-scores.csv has the bits of each example. Results with the same
    settings are kept in comparison.jsonl and not measured again. Two to five minutes on two cores
    for the demo.

    For example:
        sde-score compare runs/demo
        sde-score compare runs/demo --nfe 10 20 50 100 200 --views ancestral heun
        sde-score compare runs/demo --num 1000 --extractor pixels --bits-examples 0
        sde-score compare runs/classes --guidance "cfg(2)" --out runs/classes-guided
    """

    views: tuple[str, ...] | None = None
    """Views to compare, and samplers to set beside them, such as dpmpp-2m or
    "diffusers(scheduler='UniPCMultistep')"; if not given all views and, of a flow map, its own 1, 2
    and 4 steps."""

    nfe: tuple[int, ...] = VIEW_BUDGETS
    """Budgets: network evaluations per sample. Each view takes the most steps that it pays for."""

    num: int = 500
    """Samples per view and budget."""

    extractor: str = "auto"
    """Features for the Frechet distance, such as pixels, random-convolution or
    "classifier(data='digits')"; auto takes a classifier of the data's own labels if it has any."""

    bits_examples: int = 64
    """Held-out examples for bits per dimension; 0 leaves them out."""

    guidance: str | None = None
    """Guidance of the model, such as "cfg(3)"; see sde-score sample. A guided call is two
    evaluations."""

    out: Path | None = None
    """Folder for the results; the run directory if not given."""

    shares = True

    def run(self) -> None:
        """Measure, print, write."""
        require_count(4, num=self.num)
        folder = self.path if self.out is None else self.out
        require_writable(folder / "comparison.jsonl", "out")
        run = self.open()
        if self.views is None and self.guidance is None:
            hint_at_flow_map(run)
        found = compare(
            run,
            views=self.views,
            nfes=self.nfe,
            count=self.num,
            bits_examples=self.bits_examples,
            extractor=self.extractor,
            seed=self.seed,
            batch_size=self.batch_size,
            guidance=self.guidance,
            folder=folder,
            progress=self.progress,
        )
        if self.json:
            page = folder / "report.html"
            show_record({"run": str(run.path), "page": str(page), **found.record()})
        else:
            show(comparison_table(found))
        saved(folder, lambda path: _write(run, found, path))


def _write(run: Run, found: Comparison, folder: Path) -> None:
    write_comparison(run, found, folder)
    page = put_views_on_page(run, folder)
    say(f"picture: {folder / 'comparison.png'}   page: {page}")
