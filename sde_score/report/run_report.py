"""The page of a run: training, samples, likelihood and views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sde_score._core.files import replace_file
from sde_score.data import DataSet
from sde_score.evaluation import Evaluation
from sde_score.likelihood import BitsPerDim
from sde_score.random import generator_from
from sde_score.report.evaluation_table import evaluation_table
from sde_score.report.look import Look, kind_of
from sde_score.report.page import Section, insert, save
from sde_score.report.pictures import labeled_panels, png, training_curve
from sde_score.report.tables import Table
from sde_score.report.views.table import comparison_section
from sde_score.training import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 16  # samples per sampler
_MOMENTS = 8  # stops of the forward process


def write_report(
    run: Run,
    evaluation: Evaluation | None = None,
    bits: BitsPerDim | None = None,
    folder: Path | None = None,
) -> Path:
    """Write `report.html`.

    Args:
        run: an open run.
        evaluation: its samples by several samplers, from `sde_score.evaluation.evaluate`.
        bits: its likelihood of held-out data.
        folder: of the page and of a comparison of views; the run directory if not given.

    Returns:
        path of the page.
    """
    folder = run.path if folder is None else folder
    path = folder / "report.html"
    sections = [_training(run), _forward(run)]
    if evaluation is not None:
        sections += [_samplers(evaluation), _samples(run, evaluation)]
    if bits is not None:
        sections.append(_likelihood(run, bits))
    views = comparison_section(folder)
    if views is not None:
        sections.append(views)
    config = run.config
    lead = (
        f"{config.data}, {config.sde}, {config.backbone}, {config.prediction} prediction, "
        f"{run.step} steps."
    )
    save(path, f"sde_score: {run.path.name}", lead, sections)
    return path


def put_views_on_page(run: Run, folder: Path | None = None) -> Path:
    """Put the comparison of the views on the run's page, in the place of an earlier one.

    Without a page yet, or without a comparison, the page is written anew.

    Args:
        run: an open run.
        folder: of the page and the comparison; the run directory if not given.

    Returns:
        path of the page.
    """
    folder = run.path if folder is None else folder
    page, section = folder / "report.html", comparison_section(folder)
    if not page.exists() or section is None:
        return write_report(run, folder=folder)
    replace_file(page, insert(page.read_text(encoding="utf-8"), section).encode())
    return page


def _training(run: Run) -> Section:
    records = run.metrics
    if not records:
        lost = f"{run.path.name}/metrics.jsonl is missing or holds no measurement."
        return Section("Training", f"{run.config.objective}: {run.step} steps. {lost}")
    last = records[-1]
    text = (
        f"{run.config.objective}: loss {last['loss']:.4f} after {last['step']} steps, "
        f"{last['seconds']:.0f} s at {last['examples_per_second']:.0f} examples a second."
    )
    alt = "The training loss against the step, on a logarithmic scale."
    return Section("Training", text, picture=png(training_curve(records)), alt=alt)


def _forward(run: Run) -> Section:
    sde, dataset = run.model.sde, _shown_data(run)
    images = kind_of(run.event_shape) == "images"
    x0 = dataset.batch(torch.arange(min(len(dataset), 4 if images else 500))).x0
    noise = torch.randn(x0.shape, generator=generator_from(run.config.seed))
    low, high = sde.log_snr_range
    panels = [("data", x0)]
    for log_snr in torch.linspace(min(high, 6.0), max(low, -6.0), _MOMENTS).tolist():
        t = float(sde.time_of_log_snr(log_snr))
        xt = sde.perturb(x0, t, noise)
        size = (sde.alpha(t) ** 2 + sde.sigma(t) ** 2).sqrt()
        panels.append((f"t = {t:.2f}\nlog SNR {log_snr:.0f}", xt / size.float()))
    text = (
        f"The forward process {sde} turns data into noise, left to right; the network learns to "
        "undo each step. States are shown at equal contrast."
    )
    alt = f"Examples at {_MOMENTS} growing noise levels, from clean to pure noise."
    return Section(
        "From data to noise",
        text,
        picture=png(labeled_panels(panels, Look.of(run), 2, 1.0, len(panels))),
        alt=alt,
    )


def _shown_data(run: Run) -> DataSet:
    """The data that pictures show: those the run was trained on, or the other ones given."""
    return run.own("train") if run.other is None else run.other


def _samplers(evaluation: Evaluation) -> Section:
    return Section(
        "One model, many samplers",
        "The same network and the same seeds; only the sampler differs. A distance within the "
        "noise floor cannot be told from that of real data at this sample size.",
        evaluation_table(evaluation),
    )


def _samples(run: Run, evaluation: Evaluation) -> Section:
    text = "The same seeds in every panel, data first."
    alt = "Samples of " + ", ".join(row.sampler for row in evaluation.rows) + ", next to data."
    return Section("Samples", text, picture=png(samples_figure(run, evaluation)), alt=alt)


def samples_figure(run: Run, evaluation: Evaluation) -> Figure:
    """Data and the samples of each sampler, side by side."""
    shown = _SHOWN if kind_of(run.event_shape) == "images" else 500
    dataset = _shown_data(run)
    panels = [("data", dataset.batch(torch.arange(min(shown, len(dataset)))).x0)]
    panels += [
        (
            "\n".join(filter(None, [row.sampler, row.guidance, f"{row.nfe} evaluations"])),
            row.samples[:shown],
        )
        for row in evaluation.rows
    ]
    return labeled_panels(panels, Look.of(run), 4, 2.0, 4)


def _likelihood(run: Run, bits: BitsPerDim) -> Section:
    text = (
        "Exact likelihood under the probability-flow ODE, on data that training never saw. "
        "For discrete data it bounds the code length of the raw levels."
    )
    count = str(len(bits.values))
    row = [f"{bits.mean:.3f} ± {bits.standard_error:.3f}", count, str(bits.nfe)]
    return Section(
        "Likelihood", text, Table(["bits/dim, held out", "examples", "evaluations"], [row])
    )
