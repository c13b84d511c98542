"""One trained run in all its views: measured, kept in the run directory, put on its page."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sde_score._core.checks import require_count
from sde_score._core.files import replace_file
from sde_score.data import DataSet
from sde_score.evaluation import (
    NFES,
    VIEWS,
    Bits,
    Comparison,
    Distance,
    DistanceEstimator,
    Extractor,
    Interval,
    classifier_for,
    compare_views,
    create,
    create_extractor,
)
from sde_score.evaluation.views.compare import plan_rows
from sde_score.likelihood import bits_per_dim
from sde_score.report.page import Section, Table
from sde_score.report.pictures import is_image, png
from sde_score.report.views.picture import comparison_figure
from sde_score.training import Run

NAME = "comparison"
"""Stem of the files in the run directory: .json, .csv and .png."""
_TITLE = "One network, all views"
_MOST = 10_000  # examples of either part that are looked at


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared and how; rows of other settings do not stand beside each other.

    Args:
        count: samples per row, at least 4.
        bits_examples: held-out examples for bits/dim, at least 2, or 0 to leave them out.
        extractor: features of the Frechet distance, a spec; `"auto"` takes a classifier of the
            data's own labels, without labels random convolutions of images, else the numbers.
        seed: names all draws.
    """

    count: int = 500
    bits_examples: int = 64
    extractor: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        require_count(4, count=self.count)
        if self.bits_examples != 0:
            require_count(2, bits_examples=self.bits_examples)


def compare_run(
    run: Run,
    settings: Settings | None = None,
    *,
    views: Sequence[str] = tuple(VIEWS),
    nfes: Sequence[int] = NFES,
    batch_size: int = 256,
    progress: bool = True,
) -> Comparison:
    """Compare a run's views against its held-out data, and write what was found beside it.

    `comparison.json` grows row by row: what it holds of the same weights and settings is not
    measured again. `comparison.csv` and `comparison.png` follow at the end.

    Args:
        run: an open run, trained at all noise levels.
        settings: what is compared; None for the defaults.
        views: names in `VIEWS`.
        nfes: budgets, network evaluations per sample.
        batch_size: examples that the model sees at once.
        progress: show bars.

    Raises:
        ValueError: for a run without all noise levels or held-out data, or arguments as for
            `compare_views`.
    """
    settings = settings or Settings()
    if not run.all_noise_levels:
        raise ValueError(
            f"{run.path} was trained by {run.config.objective} on data without noise: it knows no "
            f'other view than the sampler "{run.sampler}"; train denoising to compare views'
        )
    plan_rows(views, nfes)  # refuses mistakes before anything is computed
    held_out = run.dataset("held_out")
    ruler = _ruler(run, held_out, settings, progress)
    identity = _identity(run, settings, ruler)
    path = run.path / f"{NAME}.json"
    found = compare_views(
        run.model,
        ruler,
        views=views,
        nfes=nfes,
        weigh=_weigher(run, held_out, settings, batch_size, progress),
        deliver=lambda x: run.scaling.to_model(run.scaling.from_model(x)),
        dequantized=run.config.dequantize and run.scaling.levels is not None,
        condition=run.draw_labels(settings.count, settings.seed),
        seed=settings.seed,
        batch_size=batch_size,
        known=_known(path, identity),
        keep=lambda so_far: _write_json(path, identity, so_far),
        progress=progress,
    )
    replace_file(path.with_suffix(".csv"), comparison_csv(found).encode())
    replace_file(path.with_suffix(".png"), png(comparison_figure(run, found, settings.seed), 150))
    return found


def _ruler(run: Run, held_out: DataSet, settings: Settings, progress: bool) -> DistanceEstimator:
    distances: list[str | Distance] = [
        "sliced-wasserstein2(projections=128)",
        create("frechet", extractor=_extractor(run, settings.extractor, progress)),
    ]
    train, held = (
        part.subset(_MOST, settings.seed).tensor() for part in (run.dataset("train"), held_out)
    )
    return DistanceEstimator(train, held, settings.count, distances, seed=settings.seed)


def _extractor(run: Run, spec: str, progress: bool) -> Extractor:
    if spec != "auto":
        return create_extractor(spec)
    dataset = run.dataset("all")
    if dataset.labels is None or dataset.num_classes < 2:
        return create_extractor("random-convolution" if is_image(run.event_shape) else "pixels")
    x, labels = dataset.batch(torch.arange(len(dataset)))
    return classifier_for(
        x,
        labels,
        dataset.num_classes,
        run.path / "classifier.safetensors",
        name=f"{dataset.name}-classifier",
        progress=progress,
    )


def _weigher(
    run: Run, held_out: DataSet, settings: Settings, batch_size: int, progress: bool
) -> Callable[[str], Bits] | None:
    """Bits per dimension of the first held-out examples by any likelihood."""
    if not settings.bits_examples:
        return None
    device = run.device
    rows = torch.arange(min(settings.bits_examples, len(held_out)))
    raw, labels = held_out.raw(rows).to(device), held_out.batch(rows).condition
    condition = labels.to(device) if run.num_classes and labels is not None else None

    def weigh(likelihood: str) -> Bits:
        start = time.perf_counter()
        found = bits_per_dim(
            run.model,
            raw,
            run.scaling,
            likelihood,
            batch_size=batch_size,
            seed=settings.seed,
            condition=condition,
            progress=progress,
        )
        value = Interval(found.mean, found.standard_error)
        return Bits(value, len(raw), time.perf_counter() - start)

    return weigh


def _identity(run: Run, settings: Settings, ruler: DistanceEstimator) -> dict[str, Any]:
    """What must be equal for a stored row to be worth keeping."""
    return {
        "step": run.step,
        "weights": run.digest,
        "data": run.config.data,
        "distances": list(ruler.names),
        "count": settings.count,
        "bits_examples": settings.bits_examples,
        "extractor": settings.extractor,
        "seed": settings.seed,
    }


def _known(path: Path, identity: dict[str, Any]) -> Comparison | None:
    """What was measured before, if its settings are the same; a file that is none is replaced."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["settings"] != identity:
            return None
        return Comparison.from_record(stored["comparison"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_json(path: Path, identity: dict[str, Any], comparison: Comparison) -> None:
    record = {"settings": identity, "comparison": comparison.record()}
    replace_file(path, json.dumps(record, indent=1).encode())


def comparison_csv(comparison: Comparison) -> str:
    """A line for each row; every figure with its standard error, distances with their floors."""
    lines = []
    for row in comparison.rows:
        line: dict[str, Any] = {
            "view": row.view,
            "family": VIEWS[row.view].family,
            "sampler": row.sampler,
            "nfe": row.nfe,
            "seconds": f"{row.seconds:.3f}",
        }
        for name, found, floor in zip(
            comparison.names, row.distances, comparison.floors, strict=True
        ):
            line |= {name: found.value, f"{name} standard error": found.standard_error}
            line |= {f"{name} floor low": floor.low, f"{name} floor high": floor.high}
        bits = comparison.bits_of(row)
        line["likelihood"] = row.likelihood or ""
        line["bits/dim"] = "" if bits is None else bits.value.value
        line["bits/dim standard error"] = "" if bits is None else bits.value.standard_error
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else ["view"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def figure_text(figure: Interval) -> str:
    """A figure with its 95% interval, as many digits as the interval leaves: `0.121 ± 0.010`."""
    digits = 1 - math.floor(math.log10(figure.margin)) if figure.margin > 0 else 3
    digits = max(0, digits)
    return f"{figure.value:.{digits}f} ± {figure.margin:.{digits}f}"


def comparison_table(comparison: Comparison) -> Table:
    """The comparison as text: every figure with its 95% interval, the noise floor last."""
    header = ["view", "sampler", "NFE", "seconds", *comparison.names, "bits/dim"]
    rows = []
    for row in comparison.rows:
        view, bits = VIEWS[row.view], comparison.bits_of(row)
        figures = [figure_text(distance) for distance in row.distances]
        weighed = "" if bits is None else figure_text(bits.value)
        cells = [view.family, view.label, str(row.nfe), f"{row.seconds:.1f}", *figures, weighed]
        rows.append(cells)
    floors = [figure_text(floor) for floor in comparison.floors]
    rows.append(["noise floor", "real data", "", "", *floors, ""])
    return Table(
        header,
        rows,
        f"{comparison.count} samples each, measured {comparison.size} at a time against "
        f"{comparison.held_out} held-out examples; ± is the 95% interval. The floor is what real "
        "data of that number score, and where they would fall.",
    )


def comparison_section(path: Path) -> Section | None:
    """The section of a run's page, from the files in its directory; None without them."""
    data, picture = path / f"{NAME}.json", path / f"{NAME}.png"
    if not (data.exists() and picture.exists()):
        return None
    stored = json.loads(data.read_text(encoding="utf-8"))
    comparison = Comparison.from_record(stored["comparison"])
    return Section(
        _TITLE,
        "The same weights read as a ladder of noise scales, as a reverse-time SDE, as a "
        "hierarchical VAE and as a probability-flow ODE: distance to held-out data against the "
        "evaluations of the network that a sample costs, and bits per dimension where the view "
        "has a likelihood.",
        comparison_table(comparison),
        picture.read_bytes(),
        "Distance of each view's samples to held-out data against network evaluations, with the "
        "noise floor of real data, samples of each view, and bits per dimension.",
    )
