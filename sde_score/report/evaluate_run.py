"""One trained model, several samplers: how far each one's samples are from the data, at what
cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from sde_score import samplers
from sde_score.evaluation import Score, compare
from sde_score.report.page import Table
from sde_score.training import Run


@dataclass(frozen=True, eq=False)
class Row:
    """A sampler's result.

    Args:
        sampler: its spec.
        nfe: network evaluations per sample, counted.
        seconds: for the whole set.
        scores: distances to the data, each with its noise floor.
        samples: in model range, on the CPU.
    """

    sampler: str
    nfe: int
    seconds: float
    scores: Sequence[Score]
    samples: Tensor

    def record(self) -> dict[str, Any]:
        """All but the samples, as plain values."""
        return {
            "sampler": self.sampler,
            "nfe": self.nfe,
            "seconds": self.seconds,
            "samples": len(self.samples),
            "scores": [asdict(score) for score in self.scores],
        }


def evaluate(
    run: Run,
    specs: Sequence[str],
    *,
    count: int = 500,
    seed: int = 0,
    batch_size: int = 256,
    distances: Sequence[str] | None = None,
    progress: bool = True,
) -> list[Row]:
    """Sample a run by each sampler, from the same seeds, and measure the distance to its data.

    Samples are compared with the training part, in model range; the noise floor beside each
    distance is what the data score against themselves.

    Args:
        run: an open run.
        specs: samplers, such as `"ddim(steps=20)"`.
        count: samples per sampler.
        seed: names the samples.
        batch_size: samples that the model sees at once.
        distances: names from `sde_score.evaluation.available()`; None takes its `DEFAULT`.
        progress: show bars.

    Raises:
        ValueError: for an unknown sampler or distance, before anything is computed.
    """
    chosen = [(spec, samplers.create(spec)) for spec in specs]
    data = run.dataset("train").tensor()
    condition = run.draw_labels(count, seed)
    rows = []
    for spec, sampler in chosen:
        evaluations, start = run.model.nfe, time.perf_counter()
        drawn = samplers.sample(
            sampler,
            run.model,
            run.event_shape,
            count,
            seed=seed,
            condition=condition,
            batch_size=batch_size,
            progress=progress,
        )
        seconds = time.perf_counter() - start
        nfe = round((run.model.nfe - evaluations) / -(-count // batch_size))
        scores = compare(drawn.float(), data, distances, seed=seed)
        rows.append(Row(spec, nfe, seconds, scores, drawn.float()))
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Rows as text: a distance near its floor (mean and deviation) is as good as the data."""
    names = [score.name for score in rows[0].scores]
    floors = [f"{score.floor_mean:.4f} ± {score.floor_std:.4f}" for score in rows[0].scores]
    lines = [
        [row.sampler, str(row.nfe), f"{row.seconds:.1f}", *(f"{s.value:.4f}" for s in row.scores)]
        for row in rows
    ]
    lines.append(["noise floor: data against data", "", "", *floors])
    size = rows[0].scores[0].size
    return Table(
        ["sampler", "NFE", "seconds", *names],
        lines,
        f"{len(rows[0].samples)} samples each; distances between {size} samples and {size} data.",
    )
