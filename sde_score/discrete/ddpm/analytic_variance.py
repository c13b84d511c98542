r"""Optimal variances of a decoder's steps (Analytic-DPM), in closed form from the model's error.

The best normal step back has the posterior variance plus a multiple of the mean covariance of the
data given the state,

.. math:: spread_i = E\, \mathrm{tr\,Cov}(x_0 \mid x_i) / D
          = \frac{\sigma_i^2}{\alpha_i^2} \left(1 - E \lVert \hat\epsilon \rVert^2 / D\right),

for the exact model; for any other the squared error of its denoised mean takes the place of the
covariance, and the step is the one with the largest ELBO.

Reference: Bao et al. 2022 (Analytic-DPM), https://arxiv.org/abs/2201.06503, theorems 1 and 2; Bao
et al. 2022, https://arxiv.org/abs/2206.07309, for imperfect means.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, mean_event, require_choice
from sde_score._core.conditions import Condition
from sde_score.discrete.ddpm.decoder import Autoencoder
from sde_score.discrete.ddpm.layer_batches import LayerEvaluator, LayerNoise, Rows
from sde_score.models import Model, checked_inputs
from sde_score.samplers import OptimalVariance


@torch.no_grad()
def optimal_variances(
    vae: Autoencoder,
    model: Model,
    data: Tensor,
    *,
    by: str = "error",
    draws: int = 1,
    seed: int | Sequence[int] | None = 0,
    condition: Condition = None,
    batch_size: int = 256,
    noise: LayerNoise | None = None,
    progress: bool = False,
) -> OptimalVariance:
    """The variance of each step back that is optimal on average over data.

    One number a layer, for samplers over any of the layers and for
    `dataclasses.replace(vae, variance=...)`. The best `decoder_std` is the square root of the first
    `spread`.

    Args:
        vae: the layers.
        model: gives the denoised means.
        data: shape `(examples, *event)`; a thousand images are enough.
        by: `"error"` for the mean squared error of the denoised mean, which maximizes the ELBO;
            `"score"` for the norm of the predicted noise, which needs the data for the states only
            and is exact for the exact model; clipped to [0, sigma^2 / alpha^2].
        draws: as for `elbo`, as are `seed`, `condition`, `batch_size`, `noise` and `progress`.
        seed: of the noise.
        condition: passed to the model, one entry per example.
        batch_size: rows that the model sees at once.
        noise: replaces the seeded noise.
        progress: show a bar once it takes over two seconds.

    Raises:
        ValueError: for an unknown `by`, and as for `elbo`.
    """
    require_choice("by", by, ("error", "score"))
    data, condition = checked_inputs("data", model, data, condition)
    encoder = vae.encoder
    sweep = LayerEvaluator(vae, model, data, draws, seed, condition, batch_size, noise, progress)

    def predicted_noise(rows: Rows) -> Tensor:
        alpha, sigma = (encoder.at(t, rows.layer) for t in (encoder.alphas, encoder.sigmas))
        off = rows.x - expand_like(alpha, rows.x) * rows.estimate
        return mean_event((off / expand_like(sigma, off)) ** 2)

    def squared_error(rows: Rows) -> Tensor:
        return mean_event((rows.x0 - rows.estimate) ** 2)

    value = squared_error if by == "error" else predicted_noise
    spread = sweep.map(range(1, len(encoder) + 1), value).mean((0, 2)).cpu()
    if by == "score":
        spread = (encoder.sigmas / encoder.alphas) ** 2 * (1 - spread).clamp(0, 1)
    return OptimalVariance(tuple(spread.tolist()), tuple(encoder.times.tolist()))
