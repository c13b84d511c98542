"""`sde-score posterior`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition
from sde_score._core.files import replace_file, require_writable
from sde_score.cli.options import RunCommand, saved
from sde_score.cli.output import say, show_record
from sde_score.data import image_with_hole, load_array
from sde_score.evaluation.restoration import (
    measurement_of_raw,
    observe,
    restore,
    usual_noise,
)
from sde_score.posterior import Mask, Measurement, Operator, operator_of
from sde_score.report import put_on_page
from sde_score.report.files import require_samples_file, save_samples
from sde_score.report.look import Look
from sde_score.report.pictures import png
from sde_score.report.restoration import (
    restoration_figure,
    restoration_lines,
    restoration_section,
)
from sde_score.training import Run


@dataclass(frozen=True, kw_only=True)
class Posterior(RunCommand):
    """Draw samples of a trained run given an observation: inpainting, deblurring, tomography.

    Every method says whether it is exact and how it is biased; see docs/inverse_problems.md. A
    picture with a transparent hole needs nothing else. Where the truth is known, the samples are
    measured against it.

    For example:
        sde-score posterior runs/digits --observation photo.png --out filled.png
        sde-score posterior runs/digits --operator "mask(box=(2, 2, 4, 4))" --example 0
        sde-score posterior runs/digits --operator "mean-pool(factor=2)" --observation y.npy
        sde-score posterior runs/digits --operator "blur(width=3)" --example 3 --method twisted
    """

    operator: str | None = None
    """What is measured: mask, mean-pool, resize, blur, fourier, radon, gray or matrix, with
    arguments such as "mask(box=(top, left, height, width))", "mask(share=0.3)" or
    "matrix(file='a.npy')"; what is opaque, for a picture with a hole."""

    observation: Path | None = None
    """What was measured, in the data's own terms: .npy in the shape that the operator measures, or
    a picture that is transparent where it is not known."""

    example: int | None = None
    """In place of an observation: a held-out example by its number, which is measured, and is the
    truth."""

    truth: Path | None = None
    """.npy with the example in the data's own terms, if it is known."""

    std: float | None = None
    """Standard deviation of the observation's noise in the data's own terms; if not given, that of
    rounding to gray levels, or a hundredth of the data's."""

    method: str = "mmps"
    """Method: mmps, tmpd, pigdm, sda, dps, c-dps, lgd-mc; replacement, repaint, ddrm, ddnm,
    diffpir, daps, pnp-dm, ...; or, exact with many particles, twisted, mcg-diff, fps."""

    sampler: str | None = None
    """Sampler of a method that is a guided model, such as "dpmpp-2m(steps=100)", or how many
    particles, such as "smc(steps=100, particles=256, islands=4)"; what suits the method if not
    given."""

    num: int = 16
    """Number of samples."""

    label: str | None = None
    """Class of the example, for conditional models; none if not given."""

    out: Path = Path("posterior.png")
    """File to write: .png, a picture of truth, observation, mean, spread and samples; or the
    samples as .npz, .npy or, for tables, .csv or .parquet."""

    report: bool = False
    """Put the picture on the report.html of the run."""

    def run(self) -> None:
        """Draw, measure, write, print."""
        require_count(2, num=self.num)
        require_samples_file(self.out)
        if self.report:
            require_writable(self.path / "report.html", "report")
        if (self.observation is None) == (self.example is None):
            raise ValueError("give one of --observation, a file, and --example, a number")
        run = self.open()
        require_samples_file(self.out, run.event_shape)
        seen, truth = self._seen(run)
        found = restore(
            run,
            seen,
            self.method,
            self.num,
            sampler=self.sampler,
            truth=truth,
            condition=self._condition(run),
            seed=self.seed,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        look = Look.of(run)
        if self.out.suffix == ".png":
            figure = restoration_figure(found, look, self.method)
            saved(self.out, lambda path: replace_file(path, png(figure)))
        else:
            saved(self.out, lambda path: save_samples(found.samples, path, look))
        if self.report:
            say(f"page: {put_on_page(run, restoration_section(found, run))}")
        if self.json:
            show_record({"out": str(self.out), "seed": self.seed, **found.record()})
        else:
            for line in (f"{self.out}: {self.num} samples", *restoration_lines(found)):
                say(line)

    def _seen(self, run: Run) -> tuple[Measurement, Tensor | None]:
        """The measurement in model range, and the truth, if it is known."""
        std = usual_noise(run) if self.std is None else self.std
        truth = None if self.truth is None else load_array(self.truth, run.event_shape)
        operator: Operator
        if self.observation is not None and self.operator is None:
            pixels, known = image_with_hole(self.observation)
            if tuple(pixels.shape) != run.event_shape:
                raise ValueError(
                    f"observation={self.observation} has shape {tuple(pixels.shape)}, and examples "
                    f"of this run {run.event_shape}"
                )
            operator = Mask(known.expand(run.event_shape))
            y = operator(pixels[None].double())[0]
        elif self.operator is None:
            raise ValueError('operator is missing: say what is measured, as "mask(share=0.3)"')
        else:
            operator = operator_of(self.operator, run.event_shape)
            if self.observation is not None:
                y = load_array(self.observation, operator.measured_shape)
            else:
                truth = _held_out(run, self.example)
                y = observe(operator, truth, std, self.seed)
        seen = measurement_of_raw(operator, y, std, run.scaling)
        return seen, None if truth is None else run.scaling.to_model(truth[None])[0]

    def _condition(self, run: Run) -> Condition:
        return None if self.label is None else run.labels_of(self.label, 1)


def _held_out(run: Run, example: int | None) -> Tensor:
    """A held-out example in its own terms."""
    part = run.dataset("held_out")
    if example is None or not 0 <= example < len(part):
        raise ValueError(f"example={example} must lie in [0, {len(part)}), the held-out examples")
    return part[example].double()
