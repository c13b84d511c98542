"""Samples on the page of a run: side by side, one by one, and on their way from noise to data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sde_score import samplers
from sde_score.data import DataSet
from sde_score.evaluation import Evaluation
from sde_score.report.look import Look, kind_of
from sde_score.report.page import Gallery, Section
from sde_score.report.pictures import labeled_panels, png, png_of_pixels
from sde_score.report.repeat import sample_commands
from sde_score.report.table_picture import columns_section
from sde_score.report.trajectory import trajectory_scene
from sde_score.training import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_IMAGES, _POINTS = 16, 500  # samples of each sampler
_PIXELS = 1 << 22  # of all samples on a page
_WAY = (4, 100)  # evaluations of a sampler whose way is shown


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples of one sampler.

    Args:
        sampler: as text.
        x: in model range, on the CPU.
        guidance: of the model, as text; empty for none.
        nfe: network evaluations per sample; 0 where they were not counted.
    """

    sampler: str
    x: Tensor
    guidance: str = ""
    nfe: int = 0

    @property
    def label(self) -> str:
        """Sampler, guidance and evaluations, a line each."""
        cost = f"{self.nfe} evaluations" if self.nfe else ""
        return "\n".join(filter(None, [self.sampler, self.guidance, cost]))


def drawn_in(evaluation: Evaluation) -> list[Drawn]:
    """The samples of all rows of an evaluation."""
    return [Drawn(row.sampler, row.samples, row.guidance, row.nfe) for row in evaluation.rows]


def drawn_anew(run: Run, sampler: str, seed: int = 0) -> Drawn:
    """A few samples of a run."""
    count = _count(run, 2)
    x = samplers.sample(
        run.model, sampler, run.event_shape, count, seed=seed,
        condition=run.draw_labels(count, seed), progress=False,
    )  # fmt: skip
    return Drawn(sampler, x.float().cpu())


def samples_sections(run: Run, drawn: Sequence[Drawn], seed: int) -> list[Section]:
    """Samples of each sampler beside data, images also one by one, and the way of one sampler."""
    count = _count(run, 1 + len(drawn))
    names = [each.label.split("\n")[0] for each in drawn]
    specs = dict.fromkeys(each.sampler for each in drawn if not each.guidance)
    samples = Section(
        "Samples",
        f"The same seeds in every panel, data first. Sample i of seed {seed} depends on these two "
        "numbers alone.",
        picture=png(samples_figure(run, drawn)),
        alt="Samples of " + ", ".join(names) + ", next to data.",
        galleries=_galleries(run, drawn, count) if kind_of(run.event_shape) == "images" else (),
        code=sample_commands(run, specs, count, seed) if specs else "",
        note=f"Drawn after {run.step} steps of training.",
    )
    way = [each.sampler for each in drawn if not each.guidance and _WAY[0] <= each.nfe <= _WAY[1]]
    columns = columns_section(run, drawn[0].x, drawn[0].sampler)
    return [samples, *([] if columns is None else [columns]), *_way(run, way, seed)]


def samples_figure(run: Run, drawn: Sequence[Drawn]) -> Figure:
    """Data and the samples of each sampler, side by side."""
    shown = _IMAGES if kind_of(run.event_shape) == "images" else _POINTS
    panels = [("data", _data(run, shown))]
    panels += [(each.label, each.x[:shown]) for each in drawn]
    return labeled_panels(panels, Look.of(run), 4, 2.0, 4)


def shown_data(run: Run) -> DataSet:
    """The data that pictures show: those the run was trained on, or the other ones given."""
    return (run.own("train") if run.other is None else run.other).complete()


def _data(run: Run, count: int) -> Tensor:
    data = shown_data(run)
    return data.batch(torch.arange(min(count, len(data)))).x0


def _count(run: Run, rows: int) -> int:
    """Samples of each sampler, fewer where they are large images."""
    if kind_of(run.event_shape) != "images":
        return _POINTS
    return max(1, min(_IMAGES, _PIXELS // (rows * run.event_shape[-1] * run.event_shape[-2])))


def _galleries(run: Run, drawn: Sequence[Drawn], count: int) -> list[Gallery]:
    """Each image alone, with its number."""
    look, sets = Look.of(run), [("data", _data(run, count))]
    sets += [(each.label.replace("\n", ", "), each.x[:count]) for each in drawn]
    return [
        Gallery(
            title,
            [png_of_pixels(look.sheet(each[None], 1)) for each in x],
            [str(index) for index in range(len(x))],
        )
        for title, x in sets
    ]


def _way(run: Run, specs: Sequence[str], seed: int) -> list[Section]:
    """The way of samples of the first sampler that goes straight from noise to data."""
    for spec in specs:
        try:
            made = samplers.SAMPLERS.resolve(spec, model=run.model)
        except ValueError:
            continue  # an object of its own, whose text is no name
        if made.descends and made.from_noise and not made.adaptive:
            text = "States of the sampler at equal contrast; move the slider, or press Play."
            note = f"Drawn after {run.step} steps of training."
            scene = trajectory_scene(run, spec, seed)
            return [Section("On the way", text, scene=scene, note=note)]
    return []
