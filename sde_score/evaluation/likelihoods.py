"""Log-likelihood of a run's data under its model, in bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, described, mapped
from sde_score._core.processes import gather_rows, own_rows, place
from sde_score.data import DataSet, Source
from sde_score.discrete import ELBO
from sde_score.evaluation.columns import in_columns, spread_rows
from sde_score.evaluation.scores import Columns, class_texts, numbers_in
from sde_score.likelihood import (
    LIKELIHOODS,
    BitsPerDim,
    GaussianReference,
    LayeredBound,
    Likelihood,
    LogPartition,
    Problem,
    bits_per_dim,
    energy_bits_per_dim,
    log_partition,
)
from sde_score.models import EnergyModel
from sde_score.random import example_seeds
from sde_score.training import Run, coding_of

_MOST = 1 << 16  # examples that the reference of a partition function is fitted to


@dataclass(frozen=True, eq=False)
class RunLikelihood:
    """The first examples of a part of a run's data, ready to be measured.

    Args:
        run: an open run.
        part: `"held_out"`, `"train"` or `"all"`.
        num: examples, at most as many as there are.
        seed: random seed.
        batch_size: examples that the model sees at once.
        progress: show bars.
        labelled: give a conditional model the label of each example.
    """

    run: Run
    part: str = "held_out"
    num: int = 128
    seed: int = 0
    batch_size: int = 256
    progress: bool = True
    labelled: bool = True

    @cached_property
    def dataset(self) -> DataSet:
        """The part of the data, of a table the complete rows."""
        return self.run.dataset(self.part).complete()

    @property
    def examples(self) -> int:
        """Number of examples that are measured."""
        return min(self.num, len(self.dataset))

    def require_data(self) -> None:
        """Refuse data without the labels or conditions that the model is told, and the training
        part of other data.

        Raises:
            ValueError: naming the data and what is missing.
        """
        other = self.run.other
        if other is not None and self.part == "train":
            raise ValueError(
                f"part='train' is of the run's own data, and {other.name} is other: leave it out"
            )
        told, data = self._told, self.dataset
        if told and (data.labels if self.run.num_classes else data.conditions) is None:
            shape = self.run.condition_shape
            what = described(shape) if shape else f"one of {self.run.num_classes} labels"
            raise ValueError(
                f"{data.name} does not say what the model is told, {what}: give data that do, or, "
                "of a run trained with condition_dropout, labelled=False (--label none)"
            )

    @property
    def described(self) -> dict[str, Any]:
        """What was measured, as fields of `RunBits`."""
        name = "" if self.run.other is None else self.run.other.name
        coding = coding_of(self.run)
        size = math.prod(self.run.event_shape) if coding is None else len(coding.learned)
        return {"data": name, "dimensions": size, "columns": self.scores}

    @property
    def scores(self) -> dict[str, Any]:
        """Columns of a table: number of each example in the data, and label where there is one."""
        rows = torch.arange(self.examples)
        texts = class_texts(self.dataset.labels_at(rows), self.dataset.class_names)
        columns: dict[str, Any] = {"index": numbers_in(self.dataset, rows).tolist()}
        return columns if texts is None else {**columns, "label": texts}

    def bits(self, by: str | Likelihood) -> BitsPerDim:
        """By a likelihood of a model of all noise levels.

        Processes share the examples; the values do not depend on their number.

        Raises:
            ValueError: for fewer examples than processes, or as `bits_per_dim` does.
        """
        rows = own_rows(self.examples)
        if self.examples < place()[1]:
            raise ValueError(f"{self.examples} examples are fewer than the processes: start fewer")
        numbers = example_seeds(self.seed, self.examples)
        seeds, coding = [numbers[row] for row in rows.tolist()], coding_of(self.run)
        raw = spread_rows(self._raw(rows), coding, seeds)
        found = bits_per_dim(
            self.run.model,
            raw,
            self.run.scaling,
            by,
            batch_size=self.batch_size,
            seed=seeds,
            condition=self._condition(rows),
            progress=self.progress,
        )
        found = in_columns(found, raw, coding)
        errors = found.value_errors
        return BitsPerDim(
            gather_rows(found.values, self.examples),
            found.nfe,
            value_errors=None if errors is None else gather_rows(errors, self.examples),
        )

    def layers(self, bound: LayeredBound) -> ELBO:
        """The terms of an evidence lower bound on the first batch of the examples."""
        rows = torch.arange(min(self.examples, self.batch_size))
        problem = Problem(
            self.run.model,
            self._raw(rows),
            self.run.scaling,
            seeds=example_seeds(self.seed, len(rows)),
            condition=self._condition(rows),
            progress=self.progress,
        )
        return bound.terms(problem)[0]

    def log_partition(self, chains: int = 1024) -> LogPartition:
        """log Z of an energy trained without noise, by annealed particles.

        Args:
            chains: number of particles.

        Raises:
            ValueError: for a run that has no partition function.
        """
        other = self.run.other
        part = self.dataset if other is None else self.run.measured_parts().floor
        data = part.subset(_MOST, self.seed).tensor().to(self.run.device)
        return log_partition(
            self._energy,
            GaussianReference.fit(data, 1.5),
            method="smc",
            chains=chains,
            seed=self.seed,
            progress=self.progress,
        )

    def energy_bits(self, partition: LogPartition, dequantizations: int = 1) -> BitsPerDim:
        """By the energy and its partition function; see `energy_bits_per_dim`."""
        coding = coding_of(self.run)
        seeds = example_seeds(self.seed, self.examples)
        raw = spread_rows(self._raw(torch.arange(self.examples)), coding, seeds)
        found = energy_bits_per_dim(
            self._energy,
            raw,
            self.run.scaling,
            partition,
            dequantizations=dequantizations,
            seed=self.seed,
        )
        return in_columns(found, raw, coding)

    @property
    def _energy(self) -> EnergyModel:
        model = self.run.model
        if not isinstance(model, EnergyModel) or self.run.num_classes or self.run.condition_shape:
            raise ValueError(
                f"{self.run.path} holds a score, or one distribution for each class, of data "
                "without noise: it has no likelihood; train all noise levels, or --model energy "
                "without classes"
            )
        return model

    @property
    def _told(self) -> bool:
        """Whether the model is told something of each example."""
        return bool(self.run.num_classes or self.run.condition_shape) and self.labelled

    def _raw(self, rows: Tensor) -> Tensor:
        return self.dataset.raw(rows).to(self.run.device)

    def _condition(self, rows: Tensor) -> Condition:
        found = self.dataset.conditions_at(rows) if self._told else None
        return mapped(found, lambda value: value.to(self.run.device))


@dataclass(frozen=True, eq=False)
class RunBits:
    """Bits per dimension of a part of a run's data.

    Args:
        part: of the data.
        examples: their number.
        by: results by likelihood, as text.
        partition: log Z of an energy trained without noise, else None.
        layers: terms of the first evidence lower bound, if they were asked for.
        data: name of other data than the run's own; empty for its own.
        dimensions: of one example.
        columns: number of each example in the data, and its label where there is one.
    """

    part: str
    examples: int
    by: Mapping[str, BitsPerDim]
    partition: LogPartition | None = None
    layers: ELBO | None = None
    data: str = ""
    dimensions: int = 1
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def scores(self) -> Columns:
        """A row for each example: its number in the data, its label, and by each likelihood the
        bits per dimension, their standard error where there is one, and log p in nats."""
        columns = dict(self.columns)
        for name, bits in self.by.items():
            columns[f"bits_per_dim[{name}]"] = bits.values.tolist()
            errors = bits.value_errors
            if errors is not None and bool((errors > 0).any()):
                columns[f"standard_error[{name}]"] = errors.tolist()
            nats = -math.log(2) * self.dimensions * bits.values
            columns[f"log_prob[{name}]"] = nats.tolist()
        return columns

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        rows = [
            {"by": name, "bits_per_dim": bits.mean, "standard_error": bits.standard_error,
             "nfe": bits.nfe}
            for name, bits in self.by.items()
        ]  # fmt: skip
        data = {"data": self.data} if self.data else {}
        return {"part": self.part, **data, "examples": self.examples, "rows": rows}


def likelihood(
    run: Run,
    by: Sequence[str | Likelihood] | None = None,
    *,
    part: str = "held_out",
    num: int = 128,
    seed: int = 0,
    batch_size: int = 256,
    chains: int | None = None,
    dequantizations: int | None = None,
    layers: bool = False,
    labelled: bool = True,
    data: Source | None = None,
    progress: bool = True,
) -> RunBits:
    """Bits per dimension of the data of a run, or of other data under its model.

    Args:
        run: an open run. One of all noise levels is measured by each of `by`; an energy trained
            without noise by its partition function.
        by: likelihoods of a model of all noise levels, such as `"flow"`, `"bound"` or
            `"elbo(layers=100)"`, or objects; None takes the flow.
        part: `"held_out"`, `"train"` or `"all"`.
        num: examples, the first of the part.
        seed: random seed.
        batch_size: examples that the model sees at once.
        chains: particles that estimate the partition function of an energy trained without noise;
            1024 if not given.
        dequantizations: draws of the noise that fills the gray levels of discrete data, for such an
            energy; 1 if not given.
        layers: keep the terms of the first evidence lower bound among `by`, on its first batch.
        labelled: give a conditional model the label of each example; False gives none, which takes
            a run that was trained with `condition_dropout`.
        data: anything that `sde_score.data.load` takes: other data, measured whole in the run's
            scaling; or the run's own, at another place.
        progress: show bars.

    Raises:
        ValueError: for an unknown likelihood, a run that has none, an argument that has no effect
            on it, or data without what the model is told.
        DataError: for data that do not fit.
    """
    require_count(num=num, batch_size=batch_size)
    run = run if data is None else run.with_data(data)
    _require_effect(run, by, chains, dequantizations, layers)
    by = ("flow",) if by is None else by
    chosen = [LIKELIHOODS.resolve(each) for each in by]
    bounds = [each for each in chosen if isinstance(each, LayeredBound)] if layers else []
    if layers and not bounds:
        raise ValueError(f"by={list(by)} has no layers to show: give --by elbo")
    if not labelled and not run.num_classes and not run.condition_shape:
        raise ValueError(f"labelled=False has no effect: {run.path} takes no labels")
    measured = RunLikelihood(run, part, num, seed, batch_size, progress, labelled)
    measured.require_data()
    what, part = measured.described, part if run.other is None else "all"
    if run.all_noise_levels:
        found = {str(each): measured.bits(made) for each, made in zip(by, chosen, strict=True)}
        terms = measured.layers(bounds[0]) if bounds else None
        return RunBits(part, measured.examples, found, layers=terms, **what)
    partition = measured.log_partition(1024 if chains is None else chains)
    bits = measured.energy_bits(partition, 1 if dequantizations is None else dequantizations)
    return RunBits(part, measured.examples, {"partition": bits}, partition, **what)


def _require_effect(
    run: Run,
    by: Sequence[str | Likelihood] | None,
    chains: int | None,
    dequantizations: int | None,
    layers: bool,
) -> None:
    """Refuse arguments that say nothing about a run of this kind."""
    if by is not None and not by:
        raise ValueError("by names no likelihood: give one, such as flow, or leave it out")
    if run.all_noise_levels:
        given = {"chains": chains, "dequantizations": dequantizations}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value} is of energies trained without noise; {run.path} was trained "
                    "at all noise levels: leave it out"
                )
    elif by is not None or layers:
        named = "layers" if by is None else f"by={', '.join(map(str, by))}"
        raise ValueError(
            f"{named} needs a model of all noise levels; {run.path} was trained on data without "
            "noise: leave it out, and an energy is measured by its partition function"
        )
    elif dequantizations is not None and run.scaling.levels is None:
        raise ValueError(
            f"dequantizations={dequantizations} is of discrete data; those of {run.path} are "
            "continuous: leave it out"
        )
