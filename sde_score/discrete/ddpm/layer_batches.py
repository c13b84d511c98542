"""Evaluate the model at every (example, layer, draw), in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, mapped
from sde_score._core.progress import progress_bar
from sde_score.discrete.ddpm.decoder import Autoencoder
from sde_score.models import Model
from sde_score.random import example_seeds, generator_from

LayerNoise = Callable[[int, int], Tensor]
"""Standard normal noise `(layer, draw) -> (batch, *event)` that takes the data to a layer."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Model evaluations, one a row: a state of an example at a layer, and the denoised mean.

    Args:
        x0: data, float64 of shape `(rows, *event)`.
        x: state at the row's layer, a draw of q(x_i | x_0), like x0.
        estimate: the model's denoised mean of x, like x0.
        layer: integers of shape `(rows,)`.
    """

    x0: Tensor
    x: Tensor
    estimate: Tensor
    layer: Tensor


@dataclass(frozen=True, eq=False)
class LayerEvaluator:
    """Evaluates the model at the states of all examples at given layers, `draws` times.

    Args:
        vae: the layers.
        model: gives the denoised means, in the dtype of x0.
        x0: data, shape `(batch, *event)`.
        draws: draws of the noise for each example and layer.
        seed: the noise depends on the example's seed, the layer and the draw alone.
        condition: one entry per example, passed to the model.
        batch_size: rows of one call.
        noise: replaces the seeded noise.
        progress: show a bar once it takes over two seconds.

    Raises:
        ValueError: for counts below 1.
    """

    vae: Autoencoder
    model: Model
    x0: Tensor
    draws: int = 1
    seed: int | Sequence[int] | None = 0
    condition: Condition = None
    batch_size: int = 256
    noise: LayerNoise | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        require_count(draws=self.draws, batch_size=self.batch_size)
        _ = self._seeds

    @cached_property
    def _seeds(self) -> list[int]:
        return example_seeds(self.seed, len(self.x0))

    def map(self, layers: Sequence[int], value: Callable[[Rows], Tensor]) -> Tensor:
        """A value for every row, `Rows -> (rows,)`: shape `(draws, layers, batch)`, float64."""
        places = [(draw, layer) for draw in range(self.draws) for layer in layers]
        shape = (len(places), len(self.x0))
        values = torch.zeros(shape, dtype=torch.float64, device=self.x0.device)
        with progress_bar(total=values.numel(), unit="row", shown=self.progress) as bar:
            for examples, here in self._calls(len(places)):
                size = examples.stop - examples.start
                found = value(self._rows(places[here], examples))
                values[here, examples] = found.reshape(-1, size)
                bar.update(len(found))
        return values.reshape(self.draws, len(layers), len(self.x0))

    def _calls(self, places: int) -> Iterator[tuple[slice, slice]]:
        """Examples and places of each call of the model."""
        batch = len(self.x0)
        for first in range(0, batch, self.batch_size):
            examples = slice(first, min(first + self.batch_size, batch))
            at_once = self.batch_size // (examples.stop - first)
            for place in range(0, places, at_once):
                yield examples, slice(place, place + at_once)

    def _rows(self, places: list[tuple[int, int]], examples: slice) -> Rows:
        def repeated(batch: Tensor) -> Tensor:
            return batch[examples].repeat(len(places), *(1,) * (batch.ndim - 1))

        x0, size = repeated(self.x0), examples.stop - examples.start
        noise = torch.cat([self._noise(layer, draw, examples) for draw, layer in places])
        layer = torch.tensor([layer for _, layer in places]).repeat_interleave(size)
        condition = mapped(self.condition, repeated)
        encoded = self.vae.encoder.marginal(x0, layer)
        x = encoded.mean + encoded.std * noise
        estimate = self.vae.decoder.denoise(self.model, x, layer, condition)
        # Differences of neighboring distributions are small: all after the model is in float64.
        return Rows(x0.double(), x.double(), estimate.double(), layer)

    def _noise(self, layer: int, draw: int, examples: slice) -> Tensor:
        if self.noise is not None:
            return self.noise(layer, draw)[examples]
        rows = torch.empty_like(self.x0[examples])
        for row, seed in zip(rows, self._seeds[examples], strict=True):
            row.normal_(generator=generator_from(seed, layer, draw, device=row.device))
        return rows
