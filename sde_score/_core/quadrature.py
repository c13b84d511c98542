"""Gauss-Legendre quadrature."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor


@cache
def legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], float64, shape `(count,)` each."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
