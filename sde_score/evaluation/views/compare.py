"""One model in all its views: distance of its samples to held-out data, cost, and likelihood."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition
from sde_score._core.progress import progress_bar
from sde_score.data import Source
from sde_score.evaluation.features.extractors import Extractor, create_extractor
from sde_score.evaluation.guided import followed, guided_run, require_flow
from sde_score.evaluation.journal import Journal
from sde_score.evaluation.likelihoods import RunLikelihood
from sde_score.evaluation.metrics.confidence import DistanceEstimator
from sde_score.evaluation.metrics.distances import Distance, create
from sde_score.evaluation.provenance import provenance
from sde_score.evaluation.samples import (
    as_data,
    labelled_data,
    require_finite_samples,
    run_classifier,
    run_estimator,
    run_identity,
)
from sde_score.evaluation.views.comparison import Bits, Comparison, ViewRow, in_order
from sde_score.evaluation.views.views import VIEWS, name_of, view_of
from sde_score.likelihood import BitsPerDim
from sde_score.models import Model
from sde_score.samplers import Sampler
from sde_score.samplers import run as draw
from sde_score.sdes import SDE
from sde_score.training import Run

VIEW_BUDGETS = (5, 10, 20, 50, 100)
"""Budgets that are compared by default."""


@dataclass(frozen=True, eq=False)
class ViewedModel:
    """A model, and how its samples and likelihoods are measured.

    Args:
        model: trained at all noise levels.
        estimator: distances to the held-out data; its `count` is the number of samples.
        weigh: bits per dimension of held-out data by a likelihood, given as a spec; None measures
            none.
        deliver: how samples become what is compared with data, such as rounding to gray levels.
        dequantized: whether the model was trained on gray levels spread over their bins; see
            `View.likelihood_at`.
        condition: passed to the model, one entry per sample.
        seed: random seed of the samples.
        batch_size: samples that the model sees at once.
    """

    model: Model
    estimator: DistanceEstimator
    weigh: Callable[[str], BitsPerDim] | None = None
    deliver: Callable[[Tensor], Tensor] = lambda samples: samples
    dequantized: bool = False
    condition: Condition = None
    seed: int = 0
    batch_size: int = 256


def compare(
    run: Run,
    *,
    views: Sequence[str | Sampler] | None = None,
    nfes: Sequence[int] = VIEW_BUDGETS,
    count: int = 500,
    bits_examples: int = 64,
    extractor: str = "auto",
    seed: int = 0,
    batch_size: int = 256,
    guidance: str | None = None,
    data: Source | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare a run's views against its held-out data, or against other data.

    Results are kept in `comparison.jsonl` of the folder as they are found, and not measured again
    with the same weights, data, settings and code. Processes share the samples.

    Args:
        run: an open run, trained at all noise levels.
        views: names in `VIEWS`, and samplers to set beside them, by text or as objects, such as
            `"dpmpp-2m"`; None for all views and, of a flow map, its own 1, 2 and 4 steps.
        nfes: budgets, network evaluations per sample.
        count: samples per row, at least 4.
        bits_examples: held-out examples for bits per dimension, at least 2, or 0 for none.
        extractor: features of the Fréchet distance, a spec; `"auto"` takes a classifier of the
            data's own labels, without labels random convolutions of images, else the numbers.
        seed: random seed.
        batch_size: examples that the model sees at once.
        guidance: of the model, such as `"cfg(3)"`; see `guided_run`.
        data: anything that `sde_score.data.load` takes: other data, measured whole in the run's
            scaling; or the run's own, at another place.
        folder: of the results, made if it is not there; the run directory if not given.
        progress: show bars.

    Returns:
        All rows of these settings, those of earlier calls included.

    Raises:
        ValueError: for a run without all noise levels or held-out data, guidance that the model or
            a view does not suit, data without the labels that likelihoods need, or arguments as for
            `compare_views`.
        DataError: for data that do not fit, or are not at hand.
    """
    require_count(4, count=count)
    require_count(batch_size=batch_size)
    run = guided_run(run if data is None else run.with_data(data), guidance)
    views = (*VIEWS, *run.few_steps) if views is None else views
    plan_views(views, nfes, run.model)
    _require_noise_levels(run)
    weighed = _weighed(run, bits_examples, seed, batch_size, progress)
    estimator = _estimator(run, extractor, count, seed, progress)
    folder = run.path if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "comparison.jsonl")
    viewed = _viewed(run, estimator, weighed, seed, batch_size)
    settings = [*run_identity(run), estimator.identity, extractor, count, bits_examples, seed]
    found = compare_views(
        viewed, views=views, nfes=nfes, journal=journal, identity=json.dumps(settings),
        progress=progress,
    )  # fmt: skip
    parts = run.measured_parts()
    return replace(found, guidance=guidance or "", data=parts.data, floor_by=parts.floor_by)


def _viewed(
    run: Run,
    estimator: DistanceEstimator,
    weighed: RunLikelihood | None,
    seed: int,
    batch_size: int,
) -> ViewedModel:
    return ViewedModel(
        run.model,
        estimator,
        None if weighed is None else weighed.bits,
        deliver=lambda samples: as_data(run, samples),
        dequantized=run.config.dequantize and run.scaling.levels is not None,
        condition=run.draw_labels(estimator.count, seed),
        seed=seed,
        batch_size=batch_size,
    )


def _weighed(
    run: Run, examples: int, seed: int, batch_size: int, progress: bool
) -> RunLikelihood | None:
    """The examples whose likelihoods are measured; None for none."""
    if examples == 0:
        return None
    require_count(2, bits_examples=examples)
    require_flow(run.model, "it has no likelihood, so that bits_examples must be 0")
    weighed = RunLikelihood(run, "held_out", examples, seed, batch_size, progress)
    weighed.require_data()
    return weighed


def _require_noise_levels(run: Run) -> None:
    if not run.all_noise_levels:
        raise ValueError(
            f"{run.path} was trained by {run.config.objective} on data without noise: it has no "
            f'other view than the sampler "{run.sampler}"; train denoising to compare views'
        )


def compare_views(
    viewed: ViewedModel,
    *,
    views: Sequence[str | Sampler] = tuple(VIEWS),
    nfes: Sequence[int] = VIEW_BUDGETS,
    journal: Journal | None = None,
    identity: str = "",
    progress: bool = True,
) -> Comparison:
    """Sample a model in each view at each budget, from the same seeds, and measure it.

    A budget that is too small for a view, or that buys the same sampler as a smaller one, adds no
    row. A view whose tolerance decides its cost has one row.

    Args:
        viewed: the model, and how it is measured.
        views: names in `VIEWS`, and samplers.
        nfes: budgets, network evaluations per sample.
        journal: results in it under the same identity are not measured again.
        identity: name of model, data and settings in the journal.
        progress: show bars.

    Raises:
        ValueError: for an unknown view, no views, a budget below 1, or samples that diverge.
    """
    journal = Journal() if journal is None else journal
    row_key, bits_key = f"{identity} | view | ", f"{identity} | bits | "
    plan = plan_views(views, nfes, viewed.model)
    kept = journal.under(row_key, ViewRow.from_record)
    current = tuple(map(_code_of, dict.fromkeys([*VIEWS, *(cell.view for cell in plan)])))
    known = {key: row for key, row in kept.items() if key.startswith(current)}
    missing = [cell for cell in plan if cell.key not in known]
    _ = viewed.estimator.floors  # what a distance refuses is refused before any sample
    total = sum(cell.budget for cell in missing)
    with progress_bar(total=total, unit="NFE", shown=progress and bool(missing), delay=0) as bar:
        for cell in missing:
            bar.set_description(cell.view)
            known[cell.key] = _measure(viewed, cell, bar.update)
            journal.put(row_key + cell.key, known[cell.key].record())
    bits = journal.under(bits_key, Bits.from_record)
    for likelihood in dict.fromkeys(known[cell.key].likelihood for cell in plan):
        if viewed.weigh is not None and likelihood is not None and likelihood not in bits:
            began, found = time.perf_counter(), viewed.weigh(likelihood)
            bits[likelihood] = Bits.of(found, time.perf_counter() - began)
            journal.put(bits_key + likelihood, bits[likelihood].record())
    estimator = viewed.estimator
    return Comparison(
        estimator.names, estimator.count, estimator.size, len(estimator.held_out),
        estimator.floors, in_order(list(known.values())), bits, viewed.seed,
    )  # fmt: skip


class Cell(NamedTuple):
    """A row to be measured: a sampler of a view, and its budget, 0 for none."""

    view: str
    sampler: Sampler
    budget: int

    @property
    def key(self) -> str:
        """Name of the row in a journal."""
        return f"{_code_of(self.view)}{self.sampler}"


def _code_of(view: str) -> str:
    """How the names of a view's rows begin, as long as its code is the same."""
    return f"{view} | {provenance(type(view_of(view).sampler))} | "


def plan_views(
    views: Sequence[str | Sampler], nfes: Sequence[int], model: Model | SDE | None = None
) -> list[Cell]:
    """The rows that `compare_views` measures on a model, or on any of a diffusion.

    Raises:
        ValueError: for an unknown view, no views or budgets, a budget below 1, or guidance that a
            sampler does not suit.
    """
    if not views:
        raise ValueError(f"views=() must be among {', '.join(VIEWS)}, or samplers")
    if not nfes:
        raise ValueError("nfes is empty: give budgets of network evaluations, such as 10 20 50")
    for nfe in nfes:
        require_count(nfe=nfe)
    plan: dict[tuple[str, Sampler], Cell] = {}
    names = dict.fromkeys(name_of(view, model) for view in views)
    if model is not None and not isinstance(model, SDE):
        for name in names:  # refuses before anything is counted
            followed(model, view_of(name).sampler)
    for name in names:
        view = view_of(name)
        for budget in [0] if view.adaptive else sorted(set(nfes)):
            sampler = view.sampler_within(max(budget, 1), model)
            if sampler is not None:
                plan.setdefault((name, sampler), Cell(name, sampler, budget))
    return list(plan.values())


def _measure(viewed: ViewedModel, cell: Cell, advance: Callable[[int], object]) -> ViewRow:
    """Sample and measure one row; `advance` moves a bar, by the budget in all."""
    model, view = followed(viewed.model, cell.sampler), view_of(cell.view)
    estimator = viewed.estimator
    before, shown, batches = model.nfe, 0, -(-estimator.count // viewed.batch_size)

    def move(*_: object) -> None:
        nonlocal shown
        now = min(cell.budget, (model.nfe - before) // batches)
        advance(now - shown)
        shown = now

    began = time.perf_counter()
    drawn = draw(
        model,
        cell.sampler,
        estimator.held_out.shape[1:],
        estimator.count,
        seed=viewed.seed,
        condition=viewed.condition,
        batch_size=viewed.batch_size,
        progress=False,
        callback=move,
        shared=True,
    )
    seconds, samples, nfe = time.perf_counter() - began, drawn.samples.float(), round(drawn.nfe)
    advance(cell.budget - shown)
    hint = f"leave out the view {cell.view!r} or its smallest budgets"
    require_finite_samples(samples, str(cell.sampler), hint)
    return ViewRow(
        view=cell.view,
        sampler=str(cell.sampler),
        nfe=nfe,
        seconds=seconds,
        distances=estimator(viewed.deliver(samples)),
        likelihood=view.likelihood_at(cell.sampler.steps, model.sde, viewed.dequantized),
    )


def _estimator(
    run: Run, extractor: str, count: int, seed: int, progress: bool
) -> DistanceEstimator:
    _ = run.dataset("held_out")
    frechet = create("frechet", extractor=_extractor(run, extractor, progress))
    distances: list[str | Distance] = ["sliced-wasserstein2(projections=128)", frechet]
    return run_estimator(run, count, distances, seed)


def _extractor(run: Run, spec: str, progress: bool) -> Extractor:
    if spec != "auto":
        return create_extractor(spec)
    dataset = labelled_data(run)
    if dataset.labels is None or dataset.num_classes < 2:
        return create_extractor("random-convolution" if dataset.is_image else "pixels")
    return run_classifier(run, progress)
