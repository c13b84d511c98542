r"""Transformers in the manner of scikit-learn between a table and the numbers a model learns.

The density of a row x that is transformed to z is

.. math:: \log p(x) = \log p(z) + \log \left| \det \frac{\partial z}{\partial x} \right| .
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import class_of
from sde_score._core.conditions import Condition
from sde_score._core.errors import ArgumentError, DataError
from sde_score.data.dataset import DataSet
from sde_score.data.tables.coding import TableCoding
from sde_score.data.tables.column import Array, Cells
from sde_score.data.tensors import from_tensor
from sde_score.scaling import Scaling

_STEP = 1e-4  # of the differences, in deviations of a column
_TOGETHER = 1 << 22  # numbers that are transformed at once
_LOST = 1e-6  # deviations: what the way there and back may lose


class Transformer(Protocol):
    """What changes a table: arrays `(rows, columns)` to arrays `(rows, as many or others)`."""

    def transform(self, x: Any) -> Any:
        """Changed rows."""

    def inverse_transform(self, z: Any) -> Any:
        """The rows of changed rows."""


@dataclass(frozen=True)
class TransformedCoding(TableCoding):
    """A coding whose encoded columns, `inner.names`, are changed by an object.

    Args:
        live: the object, fitted.
        inner: the coding without it.
        outputs: number of columns it makes.
        deviations: of each column before it.
    """

    live: Any = field(default=None, compare=False, repr=False)
    inner: TableCoding | None = None
    outputs: int = 0
    deviations: tuple[float, ...] = ()

    @property
    def _within(self) -> TableCoding:
        if self.inner is None:
            raise DataError("a coding with a transformer needs the one inside")
        return self.inner

    @property
    @override
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.transformer}{i + 1}" for i in range(self.outputs))

    @property
    @override
    def groups(self) -> tuple[int, ...]:
        return tuple(range(self.outputs))

    @property
    @override
    def discrete(self) -> tuple[bool, ...]:
        return (False,) * self.outputs

    @override
    def encode(self, cells: Mapping[str, Cells]) -> Tensor:
        return torch.from_numpy(self.forward(self._within.encode(cells).numpy()))

    @override
    def decode(self, x: Tensor, condition: Condition = None) -> dict[str, Array]:
        return self._within.decode(self.before(x), condition)

    @override
    def log_abs_det(self, x: Tensor) -> Tensor:
        inside = self.before(x)
        changed = torch.from_numpy(self._log_det(inside.numpy()))
        return (changed + self._within.log_abs_det(inside)).to(x.device)

    @override
    def scaling(self, x: Tensor) -> Scaling:
        return Scaling.standardize(x, per_feature=True)

    @override
    def plain(self) -> TableCoding:
        parts = (self.columns, self.label, self.conditions, self.transformer)
        return TableCoding(*parts)

    def before(self, x: Tensor) -> Tensor:
        """The columns before the transformer, float64."""
        found = np.asarray(self.live.inverse_transform(x.detach().cpu().double().numpy()))
        return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float64))

    def forward(self, x: Array) -> Array:
        """The columns behind the transformer, float64.

        Raises:
            DataError: for an answer of another shape, or that is not finite.
        """
        found = np.asarray(self.live.transform(x), dtype=np.float64)
        if found.ndim != 2 or len(found) != len(x) or not np.isfinite(found).all():
            raise DataError(
                f"transformer {self.transformer} makes shape {found.shape} of {x.shape}, or what "
                "is not finite; accepted: finite rows, as many"
            )
        return np.ascontiguousarray(found)

    def _log_det(self, x: Array) -> Array:
        own = getattr(self.live, "log_abs_det", None)
        if own is not None:
            found = np.asarray(own(x), dtype=np.float64)
            if found.shape != (len(x),):
                raise DataError(f"{self.transformer}.log_abs_det returned shape {found.shape}")
            return found
        size = x.shape[1]
        if self.outputs != size:
            raise DataError(
                f"transformer {self.transformer} makes {self.outputs} of {size} columns: rows have "
                "no density"
            )
        step = max(1, _TOGETHER // (4 * size * size))
        parts = [self._by_differences(x[i : i + step]) for i in range(0, len(x), step)]
        return np.concatenate(parts)

    def _by_differences(self, x: Array) -> Array:
        """log |det| of the Jacobian by differences of fourth order, shape `(rows,)`."""
        count, size = x.shape
        steps = _STEP * np.diag(self.deviations)  # one row for each column that is moved
        moved = [x[:, None] + k * steps for k in (-2, -1, 1, 2)]
        seen = self.forward(np.concatenate(moved).reshape(-1, size))
        a, b, c, d = seen.reshape(4, count, size, size)
        jacobian = (a - 8 * b + 8 * c - d) / (12 * _STEP * np.array(self.deviations)[:, None])
        signs, found = np.linalg.slogdet(jacobian)
        if not (signs != 0).all():
            row = int((signs == 0).argmax()) + 1
            raise DataError(f"transformer {self.transformer} is flat at row {row}, without density")
        return np.asarray(found)


def with_transformer(dataset: DataSet, transformer: Any) -> DataSet:
    """A table whose encoded columns are changed by a transformer, which is copied, and fitted to
    them where it is not yet.

    Raises:
        TypeError: for an object without `transform` and `inverse_transform`.
        DataError: for categorical columns, missing cells, or a transformer that does not
            lead back.
    """
    coding: Any = dataset.coding
    for name in ("transform", "inverse_transform"):
        if isinstance(transformer, type) or not callable(getattr(transformer, name, None)):
            raise ArgumentError(
                f"transformer is {class_of(transformer)}; accepted: an object with transform and "
                "inverse_transform, such as sklearn.preprocessing.PowerTransformer()"
            )
    if any(c.kind == "categorical" for c in coding.examples) or coding.has_missing:
        raise DataError(
            "transformer takes columns of numbers without gaps: take the others as label, give "
            "kinds='name:numeric' or 'name:drop', or fill them in"
        )
    x = dataset.raw().numpy()
    live = _fitted(copy.deepcopy(transformer), x)
    named = type(transformer).__name__
    deviations = tuple(x.std(0).tolist())
    parts = (coding.columns, coding.label, coding.conditions, named)
    found = TransformedCoding(*parts, live=live, inner=coding, deviations=deviations)
    z = found.forward(x)
    found = replace(found, outputs=z.shape[1])
    if z.shape[1] == x.shape[1]:
        lost = np.abs(found.before(torch.from_numpy(z)).numpy() - x) / x.std(0)
        if lost.max() > _LOST:
            raise DataError(
                f"transformer {named} does not lead back: inverse_transform of transform is off by "
                f"{lost.max():.2g} deviations in column {coding.names[int(lost.max(0).argmax())]}"
            )
    encoded = torch.from_numpy(z)
    made = from_tensor(encoded, scaling=found.scaling(encoded), name=dataset.name)
    return replace(
        dataset, _source=made._source, scaling=made.scaling, column_names=found.names, coding=found
    )


def _fitted(transformer: Any, x: Array) -> Any:
    """The transformer, fitted where scikit-learn says that it is not."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not hasattr(transformer, "fit"):
        return transformer
    try:
        check_is_fitted(transformer)
    except NotFittedError:
        transformer.fit(x)
    except TypeError:  # no estimator of scikit-learn: fit as it is asked for
        transformer.fit(x)
    return transformer
