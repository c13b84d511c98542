"""The table of an evaluation of samplers."""

from __future__ import annotations

from sde_score.evaluation import Comparison, Evaluation
from sde_score.report.tables import Table, figure_text


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row for each sampler, every distance with its 95% interval, the noise floor last."""
    rows = [
        [row.sampler, str(row.nfe), f"{row.seconds:.1f}", *map(figure_text, row.distances)]
        for row in evaluation.rows
    ]
    rows.append(["noise floor: real data", "", "", *map(figure_text, evaluation.floors)])
    return Table(
        ["sampler", "NFE", "seconds", *evaluation.names], rows, samples_caption(evaluation)
    )


def samples_caption(found: Evaluation | Comparison) -> str:
    """The numbers of samples and examples, and the meaning of the floor."""
    under = f" under {found.guidance}" if isinstance(found, Comparison) and found.guidance else ""
    return (
        f"{found.count} samples each{under}, measured {found.size} at a time against "
        f"{found.held_out} held-out examples; ± is the 95% interval. The floor is the distance of "
        "as many real examples, with the interval in which they would fall."
    )
