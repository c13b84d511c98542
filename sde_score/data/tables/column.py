r"""One column of a table: its kind, and the encoding that turns its cells into numbers.

============ ========================================= ======================= ====================
kind         cells                                     encoding                decoded
============ ========================================= ======================= ====================
numeric      numbers                                   as they are             as they are
integer      integers                                  as they are             rounded
positive     numbers above 0                           log x                   exp
bounded      numbers between low and high              logit of their share    sigmoid
categorical  texts, flags or numbers that are classes  0 and 1, see `codes`    the nearest code
constant     one value                                 none                    the value
============ ========================================= ======================= ====================

Integers and codes lie on a lattice of unit spacing; uniform noise between -1/2 and 1/2 fills its
cells, which decode to the same value, so that a density bounds the probability of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sde_score._core.checks import require_choice
from sde_score._core.errors import DataError
from sde_score._core.records import Record

KINDS = ("numeric", "integer", "positive", "bounded", "categorical", "constant")
CODES = ("one-hot", "bits")
_EXACT = 2.0**53  # integers up to here are float64

Array = np.ndarray[Any, Any]


class Cells(NamedTuple):
    """The cells of a column: `values` of one dtype, texts as objects, and where `missing` is true
    nothing, both of shape `(rows,)`."""

    values: Array
    missing: Array

    @property
    def dtype(self) -> str:
        """Name of the dtype of the values; `str` for texts."""
        return "str" if self.values.dtype == object else self.values.dtype.name

    def texts(self) -> list[str]:
        """Each value as text that its dtype reads back exactly, those that are missing too."""
        return [str(value) for value in self.values.tolist()]


@dataclass(frozen=True)
class Column(Record):
    """A column of a table and its encoding.

    Args:
        name: of the column.
        kind: one of `KINDS`.
        dtype: of the cells as they came, such as `float64`, `int64`, `bool`, or `str`.
        low: lower bound of a bounded column.
        high: upper bound.
        categories: values of a categorical column, or the one of a constant, as text.
        code: of a categorical column: `one-hot`, or `bits` for the binary digits of its number
            (analog bits, Chen et al. 2022, https://arxiv.org/abs/2208.04202). Two categories are
            one digit in either.
        missing: share of the cells that were missing.

    Raises:
        ValueError: for an unknown kind or code, bounds that are none, or categories that repeat.
    """

    name: str
    kind: str = "numeric"
    dtype: str = "float64"
    low: float = 0.0
    high: float = 1.0
    categories: tuple[str, ...] = ()
    code: str = "one-hot"
    missing: float = 0.0

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, KINDS)
        require_choice("code", self.code, CODES)
        bounds = (self.low, self.high)
        if not (all(map(math.isfinite, bounds)) and self.low < self.high):
            raise ValueError(f"column {self.name}: bounds {bounds} must be finite and increase")
        fewest = {"categorical": 2, "constant": 1}.get(self.kind, 0)
        count = len(self.categories)
        if len(set(self.categories)) != count or (count < fewest if fewest > 1 else count > 1):
            raise ValueError(f"column {self.name}: categories={self.categories} of {self.kind}")
        if self.dtype != "str":
            np.dtype(self.dtype)

    @property
    def discrete(self) -> bool:
        """Whether the encoding lies on the lattice of integers."""
        return self.kind in ("integer", "categorical")

    @cached_property
    def codes(self) -> Array:
        """The encoding of each category, float64, shape `(categories, width)`."""
        count = len(self.categories)
        if self.code == "one-hot" and count > 2:
            return np.eye(count)
        digits = max(count - 1, 0).bit_length()
        return np.array([[i >> d & 1 for d in range(digits)] for i in range(count)], dtype=float)

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return self.codes.shape[1] if self.kind in ("categorical", "constant") else 1

    @property
    def title(self) -> str:
        """Its name, with the number of its categories."""
        return self.name + f" ({len(self.categories)})" * (self.kind == "categorical")

    @property
    def names(self) -> list[str]:
        """Names of the encoded columns."""
        if self.width < 2:
            return [self.name] * self.width
        several = self.categories if self.code == "one-hot" else range(self.width)
        return [f"{self.name}={value}" for value in several]

    def encode(self, cells: Cells) -> Array:
        """Cells as numbers, float64, shape `(rows, width)`; what is missing is NaN.

        Raises:
            DataError: naming row, column and cell of what has no encoding.
        """
        if self.kind == "constant":
            self._refuse(cells, ~self._are(cells, self.categories[0]), "is not the one value of it")
            return np.empty((len(cells.values), 0))
        if self.kind == "categorical":
            found = self.codes[self.classes(cells)]
        else:
            found = self._numbers(cells)[:, None]
        return np.where(cells.missing[:, None], np.nan, found)

    def classes(self, cells: Cells) -> Array:
        """Number of the category of each cell, 0 where it is missing.

        Raises:
            DataError: naming row, column and cell of a category that is none.
        """
        numbers = {text: number for number, text in enumerate(self.categories)}
        found = np.array([numbers.get(text, -1) for text in self._as_here(cells)], dtype=np.int64)
        few = ", ".join(self.categories[:8]) + (", ..." if len(self.categories) > 8 else "")
        self._refuse(cells, found < 0, f"is none of its categories {few}")
        return np.maximum(found, 0)

    def decode(self, x: Array) -> Array:
        """Encoded numbers as values in the column's dtype, shape `(rows,)`; NaN is refused by the
        caller.

        Args:
            x: shape `(rows, width)`.
        """
        if self.kind in ("categorical", "constant"):
            return self.values(self.nearest(x))
        value = x[:, 0].astype(np.float64)
        if self.kind == "positive":
            value = _rounded(np.exp(value), 13)
        elif self.kind == "bounded":
            share = np.exp(-np.logaddexp(0, -value))  # the sigmoid
            value = _rounded(self.low + (self.high - self.low) * share, 15)
        elif self.kind == "integer":
            value = np.round(value)
        if np.dtype(self.dtype).kind in "iu":
            ends = np.iinfo(self.dtype)
            value = np.clip(np.round(value), max(ends.min, -_EXACT), min(ends.max, _EXACT))
        return value.astype(self.dtype)

    def nearest(self, x: Array) -> Array:
        """Number of the category whose code is nearest to each row, int64, shape `(rows,)`."""
        # |x - c|^2 up to |x|^2.
        return np.asarray((2 * x @ self.codes.T - np.square(self.codes).sum(1)).argmax(1))

    def values(self, numbers: Array) -> Array:
        """Categories by their numbers, in the column's dtype."""
        if self.dtype == "str":
            return np.array(self.categories, dtype=object)[numbers]
        if self.dtype == "bool":
            return np.array([text == "True" for text in self.categories])[numbers]
        kind = np.dtype(self.dtype)
        read = int if kind.kind in "iu" else float
        return np.array([read(text) for text in self.categories], dtype=kind)[numbers]

    def log_abs_det(self, x: Array) -> Array:
        """log |d encoded / d cell| of a continuous column, 0 for others; shape `(rows,)`.

        Args:
            x: encoded, shape `(rows, width)`.
        """
        if self.kind == "positive":
            return np.asarray(-x[:, 0])
        if self.kind == "bounded":  # 1 / (width u (1 - u)) with u = sigmoid(x)
            softplus = np.logaddexp(0, x[:, 0]) + np.logaddexp(0, -x[:, 0])
            return np.asarray(softplus - math.log(self.high - self.low))
        return np.zeros(len(x))

    def with_missing(self, share: float) -> Column:
        """The same column with another share of missing cells."""
        return replace(self, missing=share)

    def _numbers(self, cells: Cells) -> Array:
        if cells.values.dtype == object:
            self._refuse(cells, np.ones(len(cells.values), bool), "is no number")
        value = np.where(cells.missing, 0.5, cells.values.astype(np.float64))
        self._refuse(cells, ~np.isfinite(value), "is not a finite number")
        if self.kind == "integer":
            self._refuse(cells, value != np.round(value), "is no integer")
        elif self.kind == "positive":
            self._refuse(cells, value <= 0, "is not above 0, as cells of a positive column are")
            return np.log(np.where(value > 0, value, 1.0))
        elif self.kind == "bounded":
            share = (value - self.low) / (self.high - self.low)
            inside = (value > self.low) & (value < self.high)
            says = f"is not between the bounds {self.low:g} and {self.high:g}, which are left out"
            self._refuse(cells, ~inside, says)
            share = np.where(inside, share, 0.5)
            return np.asarray(np.log(share) - np.log1p(-share))
        return value

    def _as_here(self, cells: Cells) -> list[str]:
        """Cells as text of the column's dtype: 1 and 1.0 are one number, True is no text."""
        if self.dtype in ("str", "bool") or cells.dtype in ("str", "bool"):
            return cells.texts()
        kind = np.dtype(self.dtype)
        read = float if kind.kind == "f" else lambda v: int(v) if v == int(v) else v
        known = np.where(cells.missing, 0, cells.values)
        return [str(read(value)) for value in known.tolist()]

    def _are(self, cells: Cells, text: str) -> Array:
        return np.array([each == text for each in self._as_here(cells)], dtype=bool)

    def _refuse(self, cells: Cells, wrong: Array, says: str) -> None:
        wrong = wrong & ~cells.missing
        if wrong.any():
            row = int(wrong.argmax())
            cell = cells.values.tolist()[row]
            raise DataError(f"column {self.name}, row {row + 1}: {cell!r} {says}")


def _rounded(values: Array, digits: int) -> Array:
    """Values without the last digits, in which exp and log differ: 12.5 stays 12.5."""
    return np.array([float(f"{value:.{digits}g}") for value in values.tolist()])
