r"""Likelihood of tables in the units of their columns.

A model gives the density of encoded rows z. That of the rows themselves is, with u uniform in the
cells of integers and categories,

.. math:: \log p(x) \ge E_u \log p(z + u) + \log \left| \det \frac{\partial z}{\partial x} \right|

a density in the continuous columns and a probability of the others. A bit per dimension is one per
learned column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sde_score.data import TableCoding
from sde_score.likelihood import BitsPerDim
from sde_score.random import generator_from
from sde_score.scaling import nats_to_bits

_STREAM = 1  # of the example's seed, as dequantization draws from it


def spread_rows(raw: Tensor, coding: TableCoding | None, seeds: Sequence[int]) -> Tensor:
    """Encoded rows with integers and codes spread over their cells, from the seed of each row.

    Args:
        raw: encoded, shape `(rows, columns)`.
        coding: of the table, None for other data, which are returned as they are.
        seeds: of each row.
    """
    if coding is None or not any(coding.discrete):
        return raw
    pairs = zip(torch.split(raw, 1), seeds, strict=True)
    rows = [coding.spread(row, generator_from(seed, _STREAM)) for row, seed in pairs]
    return torch.cat(rows)


def in_columns(bits: BitsPerDim, raw: Tensor, coding: TableCoding | None) -> BitsPerDim:
    """Bits per learned column of rows, of those per encoded column.

    Args:
        bits: of the encoded rows.
        raw: these rows, shape `(rows, columns)`.
        coding: of the table, None for other data.
    """
    if coding is None:
        return bits
    columns, ratio = (len(coding.learned),), raw.shape[1] / len(coding.learned)
    values = bits.values * ratio + nats_to_bits(coding.log_abs_det(raw).to(bits.values), columns)
    errors = bits.value_errors
    if errors is not None:
        errors = torch.full_like(errors, torch.nan) if any(coding.discrete) else errors * ratio
    return replace(bits, values=values, value_errors=errors, shared_error=bits.shared_error * ratio)
