"""`sde-score evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sde_score._core.checks import require_count
from sde_score._core.files import replace_file, require_writable
from sde_score._core.progress import is_main_process
from sde_score.cli.options import (
    RunCommand,
    chosen_sampler,
    hint_at_noise,
    require_output,
    saved,
)
from sde_score.cli.output import say, show, show_record
from sde_score.evaluation import DEFAULT, evaluate, sample_scores
from sde_score.report import (
    SCORE_ENDINGS,
    evaluation_table,
    guidance_figure,
    require_scores_file,
    write_report,
    write_scores,
)
from sde_score.report.pictures import png


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunCommand):
    """Sample a run by several samplers and measure how far the samples are from held-out data.

    Each distance has a 95% interval and stands beside its noise floor: the distance of as many real
    examples. With --report the page of the run, report.html, is written anew.

    For example:
        sde-score evaluate runs/digits --samplers "ddim(steps=20)" "heun(steps=18)" --num 500
        sde-score evaluate runs/classes --guidance "cfg(1)" "cfg(2)" "cfg(3)" --out guidance.png
        sde-score evaluate runs/digits --data test.npz --out nearest.csv
    """

    samplers: tuple[str, ...] = ()
    """Samplers to compare; the one that suits the run if not given, as in sde-score sample."""

    num: int = 500
    """Samples per sampler."""

    distances: tuple[str, ...] = DEFAULT
    """Distances to measure, such as "frechet(extractor='classifier')"."""

    guidance: tuple[str, ...] = ()
    """Guidance of the model, such as "cfg(3)", or several to compare, "cfg(1)" "cfg(2)" "cfg(3)";
    see sde-score sample. Of a run with classes it is measured how many samples are of theirs."""

    out: Path | None = None
    """Picture of a sweep over guidance, .png: distance, share in class, samples. Or, .csv, .json,
    .npy or .parquet, a row for each sample and for as many held-out examples: how far the nearest
    training example is, 0 for a copy, and which one it is."""

    report: bool = False
    """Write report.html into the run directory."""

    shares = True

    def run(self) -> None:
        """Measure, print, perhaps write the page."""
        require_count(4, num=self.num)
        if self.report:
            require_writable(self.path / "report.html", "report")
        if self.out is not None:
            self._require_out(self.out)
        run = self.open()
        if self._scored:
            run.own("train")  # which samples are held against
        specs = self.samplers or (chosen_sampler(run, "auto", tuned=not self.guidance),)
        hint_at_noise(run, specs)
        found = evaluate(
            run,
            specs,
            count=self.num,
            seed=self.seed,
            batch_size=self.batch_size,
            distances=self.distances,
            guidance=self.guidance,
            progress=self.progress,
        )
        if self.json:
            show_record({"run": str(run.path), **found.record()})
        else:
            show(evaluation_table(found))
        if not is_main_process():
            return
        if self.out is not None and self._scored:
            columns = sample_scores(run, found)
            saved(self.out, lambda path: write_scores(columns, path))
            say(f"scores of the samples: {self.out}")
        elif self.out is not None:
            picture = png(guidance_figure(run, found), 150)
            saved(self.out, lambda path: replace_file(path, picture))
            say(f"picture: {self.out}")
        if self.report:
            say(f"page: {write_report(run, found)}")

    @property
    def _scored(self) -> bool:
        """Whether the file holds a row for each sample."""
        return self.out is not None and self.out.suffix in SCORE_ENDINGS

    def _require_out(self, out: Path) -> None:
        if self._scored:
            require_scores_file(out)
            return
        require_output(out, [".png", *SCORE_ENDINGS])
        if not self.guidance:
            raise ValueError(
                f'out={out} is a picture over guidance: give --guidance "cfg(1)" "cfg(2)"; '
                "a row for each sample goes into a .csv"
            )
