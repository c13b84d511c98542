"""Sampling from a hierarchical VAE: data from given latents, and samplers over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition
from sde_score.discrete.ddpm.decoder import Autoencoder
from sde_score.models import Model
from sde_score.random import ExampleStreams, example_seeds
from sde_score.samplers import DDIM, Ancestral, Times


@torch.no_grad()
def decode(
    vae: Autoencoder,
    model: Model,
    x: Tensor,
    *,
    layer: int,
    seed: int | Sequence[int] | None = None,
    condition: Condition = None,
    denoise: bool = True,
) -> Tensor:
    """Data drawn from p(x_0 | x_i), layer by layer, like x.

    Args:
        vae: the layers.
        model: gives the denoised means.
        x: state at the layer, shape `(batch, *event)`.
        layer: i in 1 ... n.
        seed: example i depends on (seed, i) alone; a sequence gives each its own; None draws one
            at random.
        condition: passed to the model.
        denoise: end with the mean of p(x_0 | x_1), as samplers do; False draws from it.

    Raises:
        ValueError: if the layer is not one of the n.
    """
    vae.encoder.at(vae.encoder.times, layer)
    draw = ExampleStreams(example_seeds(seed, len(x)), x)
    for above in range(layer, 1, -1):
        decoded = vae.decoder.step(model, x, above, condition)
        x = decoded.mean + decoded.std * draw()
    decoded = vae.decoder.data(model, x, condition)
    return decoded.mean if denoise else decoded.mean + decoded.std * draw()


def ancestral(vae: Autoencoder, layers: int | Sequence[int] | None = None) -> Ancestral:
    """The sampler that draws x_n ~ p(x_n), then x_{i-1} ~ p(x_{i-1} | x_i), then the mean of x_0.

    Args:
        vae: the layers.
        layers: which of them, increasing and up to n, or how many, evenly spaced; None for all.
            Between layers that are not neighbors a step has the variance for its own length.

    Raises:
        ValueError: if they are not such layers, or n is not at `sde.t_max`.
    """
    times = _times(vae, layers)
    return Ancestral(steps=len(times), grid=Times(times), variance=vae.decoder.variance)


def ddim(vae: Autoencoder, eta: float = 0.0, layers: int | Sequence[int] | None = None) -> DDIM:
    """DDIM over all layers or some of them; eta = 1 is `ancestral` with the posterior variance.

    Args:
        vae: the layers.
        eta: stochasticity in [0, 1].
        layers: as for `ancestral`.

    Raises:
        ValueError: as for `ancestral`, and for eta outside [0, 1].
    """
    times = _times(vae, layers)
    return DDIM(steps=len(times), grid=Times(times), eta=eta)


def _times(vae: Autoencoder, layers: int | Sequence[int] | None) -> tuple[float, ...]:
    """Times of the layers, from noise to data."""
    vae.decoder.prior((1,))  # refuses a last layer that is not at t_max
    n = len(vae.encoder)
    if layers is None:
        layers = n
    if isinstance(layers, int):
        require_count(layers=layers)
        if layers > n:
            raise ValueError(f"layers={layers} must be at most {n}, the number of layers")
        low = 1 if layers > 1 else n
        layers = torch.linspace(low, n, layers, dtype=torch.float64).round().int().tolist()
    chosen = [int(layer) for layer in layers]
    rising = all(low < high for low, high in pairwise(chosen))
    if not chosen or not rising or chosen[0] < 1 or chosen[-1] != n:
        raise ValueError(
            f"layers={chosen!r:.80} must increase within 1..{n} and end at {n}, where sampling "
            "starts"
        )
    return tuple(float(vae.encoder.times[layer - 1]) for layer in reversed(chosen))
