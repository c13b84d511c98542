r"""A tighter bound: importance weights over whole trajectories.

.. math:: \log p(x_0) \ge E \log \frac1k \sum_{j=1}^k w_j, \qquad
          w = \frac{p(x_{0:n})}{q(x_{1:n} \mid x_0)}, \quad x_{1:n} \sim q(x_{1:n} \mid x_0)

With k = 1 it is the ELBO; it grows with k and tends to log p(x_0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, rows_of
from sde_score._core.gradients import gradients, require_graph
from sde_score.discrete.ddpm.decoder import Autoencoder
from sde_score.discrete.ddpm.elbo import log_likelihood, quantization_of
from sde_score.distributions import Quantization
from sde_score.models import Model, checked_inputs
from sde_score.random import ExampleStreams, example_seeds, mix


def importance_weighted_bound(
    vae: Autoencoder,
    model: Model,
    x0: Tensor,
    *,
    particles: int,
    levels: int | Quantization | None = None,
    seed: int | Sequence[int] | None = 0,
    condition: Condition = None,
    batch_size: int = 256,
    grad: bool = False,
) -> Tensor:
    """A stochastic lower bound on log p(x_0), shape `(batch,)`, float64;
    `HierarchicalVAE.importance_weighted`.

    It costs n evaluations of the model per particle. The weights of a trajectory vary with the
    number of dimensions, so the gain over the ELBO is of the order of log `particles` there.

    Args:
        vae: the layers.
        model: as for `elbo`, as are `x0`, `levels`, `condition` and `grad`.
        x0: data, shape `(batch, *event)`.
        particles: trajectories per example, k, at least 1.
        levels: None for a density.
        seed: a trajectory depends on (the example's seed, particle) alone.
        condition: passed to the model, one entry per example.
        batch_size: trajectories that the model sees at once.
        grad: keep the graph, through all the layers.

    Raises:
        ValueError: as for `elbo`.

    Reference: Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8.
    """
    x0, condition = checked_inputs("x0", model, x0, condition)
    require_count(particles=particles, batch_size=batch_size)
    quantization = quantization_of(levels, x0)
    seeds = example_seeds(seed, len(x0))
    streams = [mix(number, particle) for particle in range(particles) for number in seeds]
    example = torch.arange(len(x0), device=x0.device).repeat(particles)
    weights = []
    with gradients(grad, x0=x0, condition=condition):
        for first in range(0, len(example), batch_size):
            part = slice(first, first + batch_size)
            rows, own = x0[example[part]], rows_of(condition, example[part])
            weights.append(_log_weights(vae, model, rows, quantization, streams[part], own))
        log_weights = torch.cat(weights).reshape(particles, -1)
        require_graph(grad, log_weights)
        return log_weights.logsumexp(0) - math.log(particles)


def _log_weights(
    vae: Autoencoder,
    model: Model,
    x0: Tensor,
    quantization: Quantization | None,
    seeds: list[int],
    condition: Condition,
) -> Tensor:
    """log p(x_{0:n}) - log q(x_{1:n} | x_0) of one trajectory per row, drawn from n downward."""
    encoder, decoder, n = vae.encoder, vae.decoder, len(vae.encoder)

    def estimate(x: Tensor, layer: int) -> Tensor:
        return decoder.denoise(model, x.to(x0.dtype), layer, condition).double()

    data = x0.double()  # neighboring distributions differ little: all but the model is in float64
    draw, encoded = ExampleStreams(seeds, data), encoder.marginal(data, n)
    x = encoded.mean + encoded.std * draw()
    log_weight = decoder.prior(x.shape, x.dtype, x.device).log_prob(x) - encoded.log_prob(x)
    for layer in range(n, 1, -1):
        decoded = decoder.given_estimate(x, estimate(x, layer), layer)
        encoded = encoder.posterior(x, data, layer)
        x = encoded.mean + encoded.std * draw()
        log_weight = log_weight + decoded.log_prob(x) - encoded.log_prob(x)
    decoded = decoder.given_estimate(x, estimate(x, 1), 1)
    return log_weight + log_likelihood(decoded, data, quantization)
