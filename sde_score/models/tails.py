r"""Tails of products of powers of densities: whether exp(-sum of w_i E_i) can be normalized.

Far out, a mixture of Gaussians falls like its component of the smallest precision along the way
there, and the product of powers like exp(-r^2 c / 2), with

.. math:: c(u) = \sum_i w_i \min_k u^T P_{ik}(t)\, u, \qquad
          P_{ik}(t) = (\alpha^2 \Sigma_{ik} + \sigma^2 I)^{-1} .

It can be normalized where c(u) > 0 in every direction u. That can be checked for `GaussianMixture`
and `EmpiricalDistribution`, whose precisions are known, and for nothing else: how an energy that a
network computes grows is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from sde_score.models.exact.empirical import EmpiricalDistribution
from sde_score.models.exact.gaussian_mixture import GaussianMixture
from sde_score.models.protocol import EnergyBased

_LARGEST = 256  # entries of an event, up to which matrices are compared
_MOST = 4096  # choices of one component for each model


def integrable(models: Sequence[EnergyBased], weights: Sequence[float], t: float) -> bool | None:
    """Whether the product of powers of marginals at t can be normalized; None if not known.

    Args:
        models: with their marginals.
        weights: the powers.
        t: time.
    """
    tails = [_precisions(model, t) for model in models]
    known = [tail for tail in tails if tail is not None]
    if len(known) < len(models) or prod(map(len, known)) > _MOST:
        return None
    size = max(tail.shape[-1] for tail in known)
    one = torch.eye(size, dtype=torch.float64)
    full = [tail if tail.shape[-1] == size else tail * one for tail in known]
    up, down = ([i for i, w in enumerate(weights) if (w > 0) == sign] for sign in (True, False))
    raised = _choices(full, weights, up, one)
    lowered = _choices(full, weights, down, one)
    for each in raised:
        values, axes = torch.linalg.eigh(each + lowered)
        if bool((values[:, 0] > 0).any()):
            continue
        # No choice of components proves that the tails fall: is there a direction where they rise?
        direction = axes[:, :, 0]
        falls = sum(
            w * torch.einsum("uc,kcd,ud->uk", direction, tail, direction).amin(1)
            for w, tail in zip(weights, full, strict=True)
        )
        return False if bool((torch.as_tensor(falls) <= 0).any()) else None
    return True


def _choices(
    tails: Sequence[Tensor], weights: Sequence[float], chosen: Sequence[int], one: Tensor
) -> Tensor:
    """Weighted sums of precisions, one component of each chosen model, `(choices, n, n)`."""
    sums = []
    for components in itertools.product(*(range(len(tails[i])) for i in chosen)):
        terms = [weights[i] * tails[i][k] for i, k in zip(chosen, components, strict=True)]
        sums.append(torch.stack([*terms, 0 * one]).sum(0))
    return torch.stack(sums)


def _precisions(model: EnergyBased, t: float) -> Tensor | None:
    """Precision of each component at t, `(components, n, n)`, n = 1 where all axes are alike."""
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    if isinstance(model, EmpiricalDistribution):
        return torch.full((1, 1, 1), sigma**-2, dtype=torch.float64)
    if not isinstance(model, GaussianMixture):
        return None
    precision = 1 / (alpha**2 * model.variances.detach().cpu().double() + sigma**2)
    if bool((precision == precision[:, :1]).all()):
        return precision[:, :1, None]
    if precision.shape[1] > _LARGEST:
        return None
    diagonal = precision.diag_embed()
    axes = model.axes
    return diagonal if axes is None else axes.cpu() @ diagonal @ axes.cpu().mT
