"""The page of a run: training, samples, likelihood, guidance and views, and how to repeat them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sde_score._core.files import replace_file
from sde_score.evaluation import Evaluation, RunBits
from sde_score.random import generator_from
from sde_score.report.curves import training_curve
from sde_score.report.evaluation_table import evaluation_table
from sde_score.report.guidance import guidance_figure
from sde_score.report.layers import likelihood_section
from sde_score.report.look import Look, kind_of
from sde_score.report.page import Section, insert, save
from sde_score.report.pictures import labeled_panels, png
from sde_score.report.repeat import evaluate_command, train_command, trained_with, versions
from sde_score.report.samples_section import drawn_anew, drawn_in, samples_sections, shown_data
from sde_score.report.views.table import comparison_section
from sde_score.training import Run

EVALUATION = "evaluation.json"
"""Record of the last evaluation on the page, without its samples."""

LIKELIHOOD = "likelihood.json"
"""Record of the last likelihoods on the page, without the values of examples."""

_MOMENTS = 8  # stops of the forward process


def write_report(
    run: Run,
    evaluation: Evaluation | None = None,
    bits: RunBits | None = None,
    folder: Path | None = None,
) -> Path:
    """Write `report.html`.

    Sections of an earlier page that are not written anew, such as that of a posterior, stay.

    Args:
        run: an open run.
        evaluation: its samples by several samplers, from `sde_score.evaluation.evaluate`; without
            one, a few samples are drawn for the page.
        bits: likelihoods of its data, from `sde_score.evaluation.likelihood`.
        folder: of the page and of a comparison of views; the run directory if not given.

    Returns:
        path of the page.
    """
    folder = run.path if folder is None else folder
    path = folder / "report.html"
    sections = [_training(run), _forward(run)]
    if evaluation is not None:
        sections += _evaluated(run, evaluation)
        _keep(folder / EVALUATION, evaluation.record())
    elif run.all_noise_levels and not path.exists():
        sections += samples_sections(run, [drawn_anew(run, run.sampler)], 0)
    if bits is not None:
        sections.append(likelihood_section(bits, run))
        _keep(folder / LIKELIHOOD, bits.record())
    views = comparison_section(folder)
    if views is not None:
        sections.append(views)
    sections.append(_repeat(run))
    config = run.config
    lead = (
        f"{config.data}, {config.sde}, {config.backbone}, {config.prediction} prediction, "
        f"{run.step} steps."
    )
    save(path, f"sde_score: {run.path.name}", lead, sections)
    return path


def put_on_page(run: Run, section: Section, folder: Path | None = None) -> Path:
    """Put a section on the run's page, in the place of an earlier one of its title.

    Without a page yet, the page is written first.

    Args:
        run: an open run.
        section: to put there.
        folder: of the page; the run directory if not given.

    Returns:
        path of the page.
    """
    page = (run.path if folder is None else folder) / "report.html"
    if not page.exists() or "<nav>" not in page.read_text(encoding="utf-8", errors="replace"):
        write_report(run, folder=folder)
    replace_file(page, insert(page.read_text(encoding="utf-8"), section).encode())
    return page


def put_likelihood_on_page(run: Run, found: RunBits, folder: Path | None = None) -> Path:
    """Put likelihoods on the run's page, in the place of earlier ones.

    Without a page yet, the page is written first.

    Args:
        run: an open run.
        found: from `sde_score.evaluation.likelihood`.
        folder: of the page; the run directory if not given.

    Returns:
        path of the page.
    """
    path = put_on_page(run, likelihood_section(found, run), folder)
    _keep(path.parent / LIKELIHOOD, found.record())
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
    section = comparison_section(run.path if folder is None else folder)
    return (
        write_report(run, folder=folder) if section is None else put_on_page(run, section, folder)
    )


def _keep(path: Path, record: Mapping[str, Any]) -> None:
    """Keep what was measured beside the page, for a page of several runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(record, indent=1).encode())


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
    sde, dataset = run.model.sde, shown_data(run)
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


def _evaluated(run: Run, evaluation: Evaluation) -> list[Section]:
    """Table, samples and the way of one of them; guidance, where it was swept."""
    table = Section(
        "One model, many samplers",
        "The same network and the same seeds; only the sampler differs. A distance within the "
        "noise floor cannot be told from that of real data at this sample size.",
        evaluation_table(evaluation),
        code=evaluate_command(run, evaluation),
        note=_after(run),
    )
    sections = [table, *samples_sections(run, drawn_in(evaluation), evaluation.seed)]
    if any(row.guidance for row in evaluation.rows):
        text = "Guidance trades nearness to all data against nearness to the class asked for."
        picture = png(guidance_figure(run, evaluation))
        alt = "Distance to held-out data and share in the class asked for, against the guidance."
        sections.append(Section("Guidance", text, None, picture, alt, note=_after(run)))
    return sections


def _after(run: Run) -> str:
    return f"Measured after {run.step} steps of training."


def _repeat(run: Run) -> Section:
    return Section(
        "Repeat",
        f"The run, from the random seed {run.config.seed}, trained with {trained_with(run)}; the "
        f"page was written with {versions()}.",
        code=train_command(run.config, run.path),
    )
