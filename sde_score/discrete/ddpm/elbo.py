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
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sde_score.discrete.ddpm.elbo_table import ELBO
from sde_score.discrete.ddpm.layer_batches import LayerEvaluator, LayerNoise, Rows
from sde_score.discrete.ddpm.quantization import Levels, as_levels
from sde_score.models import Model

if TYPE_CHECKING:
    from sde_score.discrete.ddpm.hierarchical_vae import HierarchicalVAE


@torch.no_grad()
def evidence_lower_bound(
    vae: HierarchicalVAE,
    model: Model,
    x0: Tensor,
    *,
    levels: int | Levels | None = None,
    draws: int = 1,
    seed: int | Sequence[int] | None = 0,
    condition: Tensor | None = None,
    batch_size: int = 256,
    noise: LayerNoise | None = None,
    progress: bool = False,
) -> ELBO:
    """A bound on -log p(x_0) for each example, term by term; a method of `HierarchicalVAE`.

    Each term is averaged over draws of its layer given the data; prior and layers are KL
    divergences in closed form given that draw.

    Args:
        vae: the layers.
        model: gives the denoised means; on the SDE of the layers.
        x0: data, shape `(batch, *event)`.
        levels: None for the density of continuous data. For data that are whole numbers their
            number (centers fill [-1, 1]) or a `Levels`; x0 are centers and the bound is on the
            probability of the levels.
        draws: draws of the noise for each example and layer, at least 1.
        seed: the noise depends on (the example's seed, layer, draw) alone; a whole number names a
            family, a sequence gives each example's own.
        condition: passed to the model, one entry per example.
        batch_size: rows that the model sees at once, each an example at a layer.
        noise: `(layer, draw) -> noise like x0`, replaces the seeded noise.
        progress: show a bar once it takes over two seconds.

    Returns:
        An `ELBO`.

    Raises:
        ValueError: if the model is on another SDE, the last layer not at `sde.t_max`, x0 holds
            what is not a level, or a count is below 1.

    Reference: Sohl-Dickstein et al. 2015, https://arxiv.org/abs/1503.03585; Ho et al. 2020,
    https://arxiv.org/abs/2006.11239, eq. 5.
    """
    sweep = LayerEvaluator(vae, model, x0, draws, seed, condition, batch_size, noise, progress)
    cut = levels_of(levels, x0)
    first_nfe, n, last = model.nfe, len(vae), vae.prior(x0.shape, torch.float64, x0.device)
    prior = vae.encoder(x0.double(), n).kl(last)
    ends = sweep.map([1], lambda rows: -reconstruction(vae, rows.x0, rows.estimate, cut))[:, 0]
    layers = sweep.map(range(2, n + 1), lambda rows: _divergence(vae, rows))
    totals = ends + layers.sum(1)
    spread = totals.std(0) if draws > 1 else torch.full_like(totals[0], math.nan)
    return ELBO(
        prior=prior,
        layers=layers.mean(0),
        reconstruction=ends.mean(0),
        standard_error=spread / math.sqrt(draws),
        nfe=model.nfe - first_nfe,
        times=vae.times,
        log_snrs=vae.log_snrs,
        event_shape=tuple(x0.shape[1:]),
        discrete=cut is not None,
    )


def _divergence(vae: HierarchicalVAE, rows: Rows) -> Tensor:
    """KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i)), shape `(rows,)`."""
    decoder = vae.step_back(rows.x, rows.estimate, rows.layer)
    return vae.posterior(rows.x, rows.x0, rows.layer).kl(decoder)


def levels_of(levels: int | Levels | None, x0: Tensor) -> Levels | None:
    """The levels, once it is sure that x0 holds their centers."""
    if levels is None:
        return None
    cut = as_levels(levels)
    cut.of(x0)
    return cut


def reconstruction(
    vae: HierarchicalVAE, x0: Tensor, estimate: Tensor, levels: Levels | None
) -> Tensor:
    """log p(x_0 | x_1) for the denoised mean of x_1, shape `(batch,)`: a density, or the mass of
    levels."""
    law = vae.step_back(x0, estimate, 1)
    return law.log_prob(x0) if levels is None else levels.cut(law).log_prob(levels.of(x0))
