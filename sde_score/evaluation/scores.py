"""One value per example: likelihoods of data, and how near samples come to training examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sde_score.data import DataSet
from sde_score.evaluation.metrics._sets import BLOCK_NUMBERS
from sde_score.evaluation.metrics.energy_mmd import squared_distances
from sde_score.evaluation.samples import Evaluation, as_data, run_classifier
from sde_score.training import Run

Columns = Mapping[str, Sequence[Any]]
"""Columns of a table by their names, all of one length."""

HELD_OUT = "real data"
"""Stands for a sampler in the rows of real examples."""


def class_texts(labels: Tensor | None, names: Sequence[str]) -> list[str] | None:
    """Labels as text: names of classes where they have some, -1 as nothing; None without labels."""
    if labels is None:
        return None
    numbers = labels.tolist()
    return ["" if n < 0 else names[n] if n < len(names) else str(n) for n in numbers]


def sample_scores(run: Run, found: Evaluation, count: int | None = None) -> Columns:
    r"""How near each sample lies to a training example, of all samplers and of real data.

    .. math:: d(x) = \min_i |x - x_i| / \sqrt D

    over the training examples, in model range: 0 for a copy. A model that remembers its data has
    samples nearer to them than the real examples are that training never saw, which stand in the
    last rows. Beside it stand the number of that example in the data, the class that a sample was
    drawn for, and the one that a classifier finds where the evaluation has one.

    Args:
        run: that was evaluated, with its own data at hand.
        found: from `evaluate`.
        count: real examples, at most; None for as many as samples.

    Raises:
        DataError: if the training data are not at hand.

    Reference: Meehan, Chaudhuri & Dasgupta 2020, https://arxiv.org/abs/2004.05675.
    """
    train, real = run.own("train"), run.measured_parts().reference
    judge = None if found.accuracy is None else run_classifier(run, progress=False)
    rows = torch.arange(min(len(real), found.count if count is None else count))
    parts = [
        (row.sampler, row.guidance, as_data(run, row.samples), row.labels) for row in found.rows
    ]
    parts.append((HELD_OUT, "", real.batch(rows).x0, real.labels_at(rows)))
    columns: dict[str, list[Any]] = {name: [] for name in ("sampler", "guidance", "index")}
    labelled = run.num_classes > 0
    for sampler, guidance, x, labels in parts:
        distance, nearest = nearest_examples(x, train)
        index = numbers_in(real, rows) if sampler == HELD_OUT else torch.arange(len(x))
        columns["sampler"] += [sampler] * len(x)
        columns["guidance"] += [guidance] * len(x)
        columns["index"] += index.tolist()
        texts = class_texts(labels, run.class_names) if labelled else None
        if labelled:
            columns.setdefault("label", []).extend(texts or [""] * len(x))
        if judge is not None:
            guess = torch.cat([judge.logits(part).argmax(1) for part in torch.split(x, 1024)])
            columns.setdefault("found", []).extend(class_texts(guess, run.class_names) or [])
        columns.setdefault("nearest_train", []).extend(distance.tolist())
        columns.setdefault("nearest_train_index", []).extend(numbers_in(train, nearest).tolist())
    if not any(columns["guidance"]):
        del columns["guidance"]
    return columns


def numbers_in(dataset: DataSet, rows: Tensor) -> Tensor:
    """Numbers of examples in the whole data set that a part was cut from."""
    return rows if dataset.rows is None else dataset.rows[rows]


def nearest_examples(x: Tensor, dataset: DataSet) -> tuple[Tensor, Tensor]:
    """Root mean square difference to the nearest example, and its number in the data set.

    Args:
        x: in model range, shape `(n, *event)`.
        dataset: read in pieces.

    Returns:
        float64 and int64, shape `(n,)`.
    """
    flat = x.detach().cpu().double().flatten(1)
    best = torch.full((len(flat),), math.inf, dtype=torch.float64)
    where = torch.zeros(len(flat), dtype=torch.int64)
    size = max(1, BLOCK_NUMBERS // max(flat.shape[1], 2048))
    for first in range(0, len(dataset), size):
        rows = torch.arange(first, min(first + size, len(dataset)))
        others = dataset.batch(rows).x0.double().flatten(1)
        for start in range(0, len(flat), 2048):
            part = slice(start, start + 2048)
            least, place = squared_distances(flat[part], others).min(1)
            nearer = least < best[part]
            where[part] = torch.where(nearer, first + place, where[part])
            best[part] = torch.minimum(best[part], least)
    # The matrix product rounds: a copy is at 0 only by the difference itself.
    for start in range(0, len(flat), size):
        part = slice(start, start + size)
        gap = flat[part] - dataset.batch(where[part]).x0.double().flatten(1)
        best[part] = gap.square().mean(1).sqrt()
    return best, where
