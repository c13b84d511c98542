r"""The evidence lower bound of a hierarchical VAE, layer by layer.

.. math:: -\log p(x_0) \le KL(q(x_n | x_0) \,\|\, p(x_n))
          + \sum_{i=2}^n E_q KL(q(x_{i-1} | x_i, x_0) \,\|\, p(x_{i-1} | x_i))
          + E_q[-\log p(x_0 | x_1)]

With the posterior variance a layer costs half the fall of the signal-to-noise ratio times the
squared error of the denoised mean: the ELBO of n layers is a sum whose limit is the likelihood-
weighted loss of the diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score._core.gradients import gradients, require_graph
from sde_score.discrete.ddpm.decoder import Autoencoder
from sde_score.discrete.ddpm.elbo_table import ELBO
from sde_score.discrete.ddpm.layer_batches import LayerEvaluator, LayerNoise, Rows
from sde_score.distributions import Normal, Quantization
from sde_score.models import Model, checked_inputs


def evidence_lower_bound(
    vae: Autoencoder,
    model: Model,
    x0: Tensor,
    *,
    levels: int | Quantization | None = None,
    draws: int = 1,
    seed: int | Sequence[int] | None = 0,
    condition: Condition = None,
    batch_size: int = 256,
    noise: LayerNoise | None = None,
    grad: bool = False,
    progress: bool = False,
) -> ELBO:
    """A bound on -log p(x_0) for each example, term by term; `HierarchicalVAE.elbo`.

    Each term is averaged over draws of its layer given the data; prior and layers are KL
    divergences in closed form given that draw.

    Args:
        vae: the layers.
        model: gives the denoised means; on the SDE of the layers.
        x0: data, shape `(batch, *event)`.
        levels: None for the density of continuous data. For integers their number (centers fill
            [-1, 1]) or a `Quantization`; x0 are centers and the bound is on the probability of the
            levels.
        draws: draws of the noise for each example and layer, at least 1.
        seed: the noise depends on (the example's seed, layer, draw) alone; an integer names a
            family of examples, a sequence gives each example's own.
        condition: passed to the model, one entry per example.
        batch_size: rows that the model sees at once, each an example at a layer.
        noise: `(layer, draw) -> noise like x0`, replaces the seeded noise.
        grad: keep the graph to x0, the condition and the model's parameters.
        progress: show a bar once it takes over two seconds.

    Returns:
        An `ELBO`.

    Raises:
        ValueError: if the model is on another SDE, the last layer is not at `sde.t_max`, an entry
            of x0 is no level, a count is below 1, or x0 requires a gradient without `grad`.

    Reference: Sohl-Dickstein et al. 2015, https://arxiv.org/abs/1503.03585; Ho et al. 2020,
    https://arxiv.org/abs/2006.11239, eq. 5.
    """
    x0, condition = checked_inputs("x0", model, x0, condition)
    sweep = LayerEvaluator(vae, model, x0, draws, seed, condition, batch_size, noise, progress)
    quantization = quantization_of(levels, x0)
    first_nfe, n = model.nfe, len(vae.encoder)
    with gradients(grad, x0=x0, condition=condition):
        last = vae.decoder.prior(x0.shape, torch.float64, x0.device)
        prior = vae.encoder.marginal(x0.double(), n).kl(last)
        ends = sweep.map([1], lambda rows: -_data_term(vae, rows, quantization))[:, 0]
        layers = sweep.map(range(2, n + 1), lambda rows: _layer_term(vae, rows))
    totals = ends + layers.sum(1)
    require_graph(grad, totals)
    totals = totals.detach()
    spread = totals.std(0) if draws > 1 else torch.full_like(totals[0], math.nan)
    return ELBO(
        prior=prior,
        layers=layers.mean(0),
        reconstruction=ends.mean(0),
        standard_error=spread / math.sqrt(draws),
        nfe=model.nfe - first_nfe,
        times=vae.encoder.times,
        log_snrs=vae.encoder.log_snrs,
        event_shape=tuple(x0.shape[1:]),
        discrete=quantization is not None,
    )


def _layer_term(vae: Autoencoder, rows: Rows) -> Tensor:
    """KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i)), shape `(rows,)`."""
    decoded = vae.decoder.given_estimate(rows.x, rows.estimate, rows.layer)
    return vae.encoder.posterior(rows.x, rows.x0, rows.layer).kl(decoded)


def _data_term(vae: Autoencoder, rows: Rows, quantization: Quantization | None) -> Tensor:
    decoded = vae.decoder.given_estimate(rows.x, rows.estimate, 1)
    return log_likelihood(decoded, rows.x0, quantization)


def quantization_of(levels: int | Quantization | None, x0: Tensor) -> Quantization | None:
    """The quantization of data, refused unless x0 holds centers of levels; None for a density."""
    if levels is None:
        return None
    quantization = Quantization.resolve(levels)
    quantization.levels(x0)
    return quantization


def log_likelihood(decoded: Normal, x0: Tensor, quantization: Quantization | None) -> Tensor:
    """Log density of data x0, or log probability of their levels: shape `(batch,)`."""
    if quantization is None:
        return decoded.log_prob(x0)
    return quantization.discretize(decoded).log_prob(quantization.levels(x0))
