"""The table of an evaluation of samplers."""

from __future__ import annotations

from sde_score.evaluation import Comparison, Evaluation, Interval
from sde_score.report.tables import Table, figure_text, kinds_of_rows


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row for each sampler, every distance with its 95% interval, the noise floor last; guidance
    and the share of samples in the class that was asked for, where there are such."""
    guided = any(row.guidance for row in evaluation.rows)
    judged = evaluation.accuracy is not None

    def cells(name: str, guidance: str, cost: list[str], *found: Interval | None) -> list[str]:
        texts = ["" if each is None else figure_text(each) for each in found]
        return [name, *[guidance] * guided, *cost, *texts[: len(texts) - (not judged)]]

    rows = [
        cells(row.sampler, row.guidance, [str(row.nfe), f"{row.seconds:.1f}"], *row.distances,
              row.accuracy)
        for row in evaluation.rows
    ]  # fmt: skip
    rows.append(
        cells("noise floor: real data", "", ["", ""], *evaluation.floors, evaluation.accuracy)
    )
    header = ["sampler", *["guidance"] * guided, "NFE", "seconds", *evaluation.names]
    kinds = kinds_of_rows([row.distances for row in evaluation.rows], evaluation.floors)
    return Table([*header, *["in class"] * judged], rows, samples_caption(evaluation), kinds)


def samples_caption(found: Evaluation | Comparison) -> str:
    """The numbers of samples and examples, and the meaning of the floor."""
    under = f" under {found.guidance}" if isinstance(found, Comparison) and found.guidance else ""
    real = "as many real examples"
    if found.data:
        real = f"as many of {found.floor_by or 'the training data of the run'}"
    against = f"{found.held_out} held-out examples"
    if found.data:
        against = f"{found.data}, which are not the run's own"
    return (
        f"{found.count} samples each{under}, measured {found.size} at a time against {against}; "
        f"± is the 95% interval. The floor is the distance of {real}, with the interval in which "
        "they would fall."
    )
