r"""Bits per dimension: the negative log-likelihood of raw data, per dimension and to base 2.

.. math:: -\frac{\log_2 p(\mathrm{raw})}{D}

For discrete data p is a probability, and the number of bits is a code length; for continuous data
it is a density in the units of the data, and may be above 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, rows_of
from sde_score.likelihood.base import LIKELIHOODS, Likelihood, checked_raw, standard_error
from sde_score.likelihood.dequantization import UniformDequantization
from sde_score.likelihood.partition import LogPartition, energy_log_prob
from sde_score.models import Model, as_condition, require_model
from sde_score.random import example_seeds, mix
from sde_score.scaling import Scaling, nats_to_bits


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """Bits per dimension of a set of examples, with their errors.

    Args:
        values: of each example, the mean over its draws, shape `(examples,)`, float64.
        nfe: evaluations of the model over all batches.
        shared_error: standard error that all values have in common, that of log Z.
        value_errors: standard error of each value over its own draws, shape `(examples,)`: NaN
            where there is only one, 0 where nothing is drawn.
    """

    values: Tensor
    nfe: int
    shared_error: float = 0.0
    value_errors: Tensor | None = None

    @property
    def mean(self) -> float:
        """Mean over the examples."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `mean` over examples, their draws and log Z; NaN for one example.

        The examples are independent, so their spread includes that of their draws.
        """
        if len(self.values) == 1:
            return math.nan
        return math.hypot(float(self.values.std()) / math.sqrt(len(self.values)), self.shared_error)


def bits_per_dim(
    model: Model,
    raw: Tensor,
    scaling: Scaling,
    by: str | Likelihood = "flow",
    *,
    batch_size: int = 128,
    seed: int | Sequence[int] | None = 0,
    condition: Condition = None,
    grad: bool = False,
    progress: bool = False,
) -> BitsPerDim:
    """Bits per dimension of raw data under a model.

    Args:
        model: anything with the model protocol. Its mode is left alone: call `eval()` first if it
            holds dropout.
        raw: data in their own units, shape `(examples, *event)`.
        scaling: of the data set the model was trained on, such as `Scaling.discrete(256)` for 8-bit
            images over [-1, 1].
        by: a likelihood or its spec, such as `"flow(rtol=1e-5, probes=4)"` or `"bound"`; names in
            `LIKELIHOODS`.
        batch_size: examples that the model sees at once.
        seed: of all that is drawn, which depends on the example and not on its batch; give one
            number per example (its index in the data set) when evaluating a part of a set.
        condition: passed to the model, one entry per example.
        grad: keep the graph to continuous raw data, the condition and the model's parameters.
        progress: show a bar per batch.

    Returns:
        A `BitsPerDim`.

    Raises:
        TypeError: for a model without the protocol, or another scaling than a `Scaling`.
        ValueError: as for the likelihood, and for a batch size below 1 or no examples.
        RuntimeError: if a solver gives up, as it does when the model returns NaN.
    """
    likelihood = LIKELIHOODS.resolve(by)
    require_count(batch_size=batch_size)
    require_model(model)
    raw = checked_raw(raw, scaling)
    condition = as_condition(condition, len(raw), raw.device, model)
    seeds, found = example_seeds(seed, len(raw)), []
    for first in range(0, len(raw), batch_size):
        rows = slice(first, first + batch_size)
        found.append(
            likelihood(
                model,
                raw[rows],
                scaling,
                seeds=seeds[rows],
                condition=rows_of(condition, rows),
                grad=grad,
                progress=progress,
            )
        )
    event = tuple(raw.shape[1:])
    values = nats_to_bits(torch.cat([part.values for part in found]), event)
    errors = -nats_to_bits(torch.cat([part.standard_error for part in found]), event)
    return BitsPerDim(values, sum(part.nfe for part in found), value_errors=errors)


def energy_bits_per_dim(
    model: Model,
    raw: Tensor,
    scaling: Scaling,
    partition: LogPartition,
    *,
    dequantizations: int = 1,
    seed: int | Sequence[int] | None = 0,
) -> BitsPerDim:
    """Bits per dimension of raw data under an energy at `t_min`, given its partition function.

    Args:
        model: energy-based, without a condition.
        raw: data in their own units, shape `(examples, *event)`.
        scaling: of the data set the model was trained on.
        partition: from `log_partition`, of this model.
        dequantizations: independent draws of uniform noise per example, at least 1.
        seed: of dequantization, as for `bits_per_dim`.

    Returns:
        A `BitsPerDim`, whose shared error is that of log Z.

    Raises:
        TypeError: if the model has no energy.
        ValueError: for a count below 1, no examples, or raw data that require a gradient.
    """
    require_count(dequantizations=dequantizations)
    raw = checked_raw(raw, scaling)
    seeds, evaluations, rows = example_seeds(seed, len(raw)), model.nfe, []
    for draw in range(dequantizations):
        numbers = [mix(number, draw) for number in seeds]
        x = UniformDequantization()(raw, scaling, model.sde, numbers).x
        found = energy_log_prob(model, x, partition)
        rows.append(scaling.bits_per_dim(found.log_prob, tuple(raw.shape[1:])))
    bits = torch.stack(rows)
    errors = torch.zeros_like(bits[0]) if scaling.levels is None else standard_error(bits)
    shared = partition.standard_error / (math.log(2) * max(1, math.prod(raw.shape[1:])))
    return BitsPerDim(bits.mean(0), model.nfe - evaluations, shared, errors)
