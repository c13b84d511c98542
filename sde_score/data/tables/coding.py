"""The encoding of a table: from its columns to the numbers that a model learns, and back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score._core.errors import DataError
from sde_score._core.records import Record
from sde_score._core.statistics import moments
from sde_score.data.tables.column import Array, Cells, Column
from sde_score.random import Draws, uniform_like
from sde_score.scaling import Scaling

BESIDE = "numbers"
"""Name of the vector of told columns beside classes, in a dictionary of conditions."""

_SHOWN = 6  # columns of a kind that are named in a line


@dataclass(frozen=True)
class TableCoding(Record):
    """The columns of a table and how each is encoded: immutable, and plain values as a record.

    Args:
        columns: all columns of the table, in its order.
        label: name of the column that is the label of each row; empty for none.
        conditions: names of columns that are told to the network.
        transformer: class of an object that changes the encoded columns, see `from_table`; empty
            without.

    Raises:
        ValueError: for columns of one name, or a label or condition that is no column.
    """

    columns: tuple[Column, ...]
    label: str = ""
    conditions: tuple[str, ...] = ()
    transformer: str = ""

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        told = [*self.conditions, *([self.label] if self.label else [])]
        for name in (*names, *told):
            if names.count(name) != 1 or told.count(name) > 1:
                raise ValueError(f"column {name!r} is not one of {', '.join(names)}, once")

    @cached_property
    def examples(self) -> tuple[Column, ...]:
        """The columns that are learned, constants included."""
        told = {self.label, *self.conditions}
        return tuple(column for column in self.columns if column.name not in told)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoded columns of an example."""
        return tuple(name for column in self.examples for name in column.names)

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the columns that are learned, constants left out."""
        return tuple(column.name for column in self.examples if column.width)

    @property
    def groups(self) -> tuple[int, ...]:
        """For each encoded column the number of the learned column that it belongs to."""
        sizes = [column.width for column in self.examples if column.width]
        return tuple(index for index, size in enumerate(sizes) for _ in range(size))

    @property
    def discrete(self) -> tuple[bool, ...]:
        """Whether each encoded column lies on the lattice of integers."""
        return tuple(c.discrete for c in self.examples for _ in range(c.width))

    @property
    def is_plain(self) -> bool:
        """Whether the encoded columns are the columns themselves."""
        alike = {"numeric", "integer"}
        return not self.transformer and all(
            column.kind in alike or column.categories == ("0", "1") for column in self.columns
        )

    @property
    def has_missing(self) -> bool:
        """Whether cells of learned columns were missing."""
        return any(column.missing > 0 for column in self.examples if column.width)

    def column(self, name: str) -> Column:
        """A column by its name."""
        return next(column for column in self.columns if column.name == name)

    def plain(self) -> TableCoding:
        """What a file can hold of it."""
        return self

    def difference(self, other: TableCoding) -> str:
        """What differs in another coding of columns that should be the same; empty for nothing.

        How many cells are missing may differ.
        """
        mine, theirs = ([c.with_missing(0.0) for c in each.columns] for each in (self, other))
        names = [[column.name for column in each] for each in (mine, theirs)]
        if names[0] != names[1]:
            return f"the columns are {', '.join(names[1])}, were {', '.join(names[0])}"
        for one, two in zip(mine, theirs, strict=True):
            if one != two:
                more = sorted(set(two.categories) - set(one.categories))
                if one.kind == two.kind and more:
                    return f"column {one.name} has {', '.join(more[:3])}, which it had not"
                return f"column {one.name} is {two}, was {one}"
        roles = [(each.label, each.conditions, each.transformer) for each in (self, other)]
        if roles[0] != roles[1]:
            return f"label, told columns and transformer are {roles[1]}, were {roles[0]}"
        return ""

    def encode(self, cells: Mapping[str, Cells]) -> Tensor:
        """Rows as numbers, float64, shape `(rows, encoded columns)`; what is missing is NaN.

        Args:
            cells: of each learned column by its name.

        Raises:
            DataError: naming row, column and cell of what has no encoding.
        """
        parts = [column.encode(cells[column.name]) for column in self.examples]
        return torch.from_numpy(np.concatenate(parts, 1))

    def decode(self, x: Tensor, condition: Condition = None) -> dict[str, Array]:
        """Encoded rows as columns by name, in their order and of the dtypes they came with.

        Args:
            x: encoded, shape `(rows, encoded columns)`.
            condition: raw, of each row; its columns are put where they were. Without it they are
                left out.

        Raises:
            DataError: for numbers that are not finite, which are no cells, or where the transformer
                is not at hand.
        """
        self._require_whole()
        if not bool(torch.isfinite(x).all()):
            raise DataError("samples hold NaN or infinity, which are no cells of a table")
        numbers = x.detach().cpu().double().numpy()
        found = {
            column.name: column.decode(part)
            for column, part in zip(self.examples, self._parts(numbers), strict=True)
        }
        found |= self._told(condition)
        return {column.name: found[column.name] for column in self.columns if column.name in found}

    def cells(self, x: Tensor) -> dict[str, Cells]:
        """Cells of the learned columns of encoded rows, which may have gaps; see `decode`."""
        parts = self._parts(x.detach().cpu().double().numpy())
        return {
            column.name: Cells(
                column.decode(np.nan_to_num(part)), np.asarray(np.isnan(part).any(1))
            )
            for column, part in zip(self.examples, parts, strict=True)
        }

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log |det d encoded / d cells| of the continuous columns, float64, shape `(rows,)`.

        Args:
            x: encoded, shape `(rows, encoded columns)`; what is NaN counts 0.
        """
        self._require_whole()
        parts = zip(self.examples, self._parts(x.detach().cpu().double().numpy()), strict=True)
        found = np.zeros(len(x))
        for column, part in parts:
            found = found + np.nan_to_num(column.log_abs_det(part))
        return torch.from_numpy(found).to(x.device)

    def spread(self, x: Tensor, generator: Draws = None) -> Tensor:
        """Encoded rows with uniform noise in [-1/2, 1/2) on integers and codes, which decode to the
        same cells.

        Args:
            x: encoded, shape `(rows, encoded columns)`.
            generator: source of the noise.
        """
        cells = torch.tensor(self.discrete, device=x.device)
        return torch.where(cells, x + uniform_like(x, generator) - 0.5, x)

    def scaling(self, x: Tensor) -> Scaling:
        """Each encoded column standardized over what is known; the codes of one column by their
        common deviation.

        Args:
            x: encoded, shape `(rows, encoded columns)`.
        """
        groups = self.groups
        if len(set(groups)) == len(groups) and not bool(x.isnan().any()):
            return Scaling.standardize(x, per_feature=True)
        pairs = [moments(values[~values.isnan()][:, None]) for values in x.T]
        center = [float(mean) for mean, _ in pairs]
        variances = torch.tensor([float(variance) for _, variance in pairs], dtype=torch.float64)
        index = torch.tensor(groups)
        shared = torch.stack([variances[index == group].mean() for group in groups])
        return Scaling(tuple(center), tuple(shared.sqrt().tolist()))

    def condition(self, cells: Mapping[str, Cells]) -> Condition:
        """The label, or what is told, of each row, raw; -1 and NaN where it is missing.

        Args:
            cells: of each told column by its name.
        """
        told = {name: self.column(name) for name in (self.label or None, *self.conditions) if name}
        classes = {
            name: torch.from_numpy(np.where(cells[name].missing, -1, column.classes(cells[name])))
            for name, column in told.items()
            if column.kind == "categorical"
        }
        if self.label or not told:
            return classes.get(self.label)
        numbers = [c.encode(cells[name]) for name, c in told.items() if name not in classes]
        vector = torch.from_numpy(np.concatenate(numbers, 1)) if numbers else None
        if not classes:
            return vector
        found = {entry_name(name): labels for name, labels in classes.items()}
        return found if vector is None else {**found, BESIDE: vector}

    def summary(self) -> str:
        """The columns by kind on one line; empty where all are numeric."""
        kinds: dict[str, list[str]] = {}
        for column in self.examples:
            kinds.setdefault(column.kind, []).append(column.title)
        share = [column.missing for column in self.examples if column.width]
        if set(kinds) == {"numeric"} and not any(share) and not (self.label or self.conditions):
            return ""
        parts = [f"{len(kinds.pop('numeric', []))} numeric"]
        parts += [f"{len(found)} {kind}: {_few(found)}" for kind, found in kinds.items()]
        told = [self.column(name).title for name in self.conditions]
        parts += [f"told: {_few(told)}"] if told else []
        parts += [f"label: {self.label}"] if self.label else []
        if any(share):
            whole = sum(share) / len(share)
            parts.append(f"{100 * whole:.3g} % of the cells missing")
        return "; ".join(parts)

    def _require_whole(self) -> None:
        if self.transformer and type(self) is TableCoding:
            raise DataError(
                f"the columns were changed by a {self.transformer}, an object that no file holds: "
                "give the data again, as in load_run(path, data=...)"
            )

    def _parts(self, x: Array) -> list[Array]:
        ends = list(itertools.accumulate(column.width for column in self.examples))
        return np.split(x, ends[:-1], axis=1)

    def _told(self, condition: Condition) -> dict[str, Array]:
        """Label or told columns of a raw condition by their names."""
        if condition is None:
            return {}
        if isinstance(condition, Tensor):
            alone = condition.detach().cpu().numpy()
            if alone.ndim == 2:
                return self._vector(alone)
            known = self.label and (alone >= 0).all()
            return {self.label: self.column(self.label).values(alone)} if known else {}
        found: dict[str, Array] = {}
        for name in self.conditions:
            if (entry := entry_name(name)) in condition:
                found[name] = self.column(name).values(condition[entry].cpu().numpy())
        if BESIDE in condition:
            found |= self._vector(condition[BESIDE].cpu().numpy())
        return found

    def _vector(self, numbers: Array) -> dict[str, Array]:
        told = [self.column(name) for name in self.conditions]
        told = [column for column in told if column.width and column.kind != "categorical"]
        return {c.name: c.decode(numbers[:, i : i + 1]) for i, c in enumerate(told)}


def entry_name(column: str) -> str:
    """A column's name as an entry of a dictionary of conditions, a word of letters and digits."""
    word = "".join(letter if letter.isalnum() else "_" for letter in column)
    return word if word.isidentifier() else f"_{word}"


def with_roles(coding: TableCoding, label: str = "", conditions: Sequence[str] = ()) -> TableCoding:
    """The same columns with others that are label or conditions."""
    return replace(coding, label=label, conditions=tuple(conditions))


def _few(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
