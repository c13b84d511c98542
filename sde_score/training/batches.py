"""Batches: the examples and random numbers of each step of each process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from sde_score._core.conditions import Condition, mapped, tensors_of
from sde_score.data import DataSet
from sde_score.random import BatchSlice, PairedSlice, generator_from, mix, normal
from sde_score.training import rng_streams as streams
from sde_score.training.augmentation import Augmentation, NoAugmentation
from sde_score.training.condition_dropout import dropped
from sde_score.training.config import TrainConfig
from sde_score.training.couplings import Coupling, Independent
from sde_score.training.gaps import has_gaps, hide
from sde_score.training.reading import Request
from sde_score.training.streaming import reader_for


class MicroBatch(NamedTuple):
    """One forward pass: data `(batch, *event)`, NaN where they have gaps, their condition or None,
    and random draws;
    with augmentation labels `(batch, labels)` for a network that is told them, and the step."""

    x0: Tensor
    condition: Condition
    draws: BatchSlice
    augment: Tensor | None = None
    step: int = 0


class Batches:
    """The batches of a run as a function of the step.

    Step k takes the examples at positions `k total ... (k + 1) total - 1` of an endless order, and
    draws its random numbers for all of them at once. Processes and micro-batches take their share
    of both, so that the division of a batch changes nothing but rounding.

    Args:
        dataset: the examples to train on.
        config: gives batch size and random seed; whether labels are conditions, how many are
            dropped, and whether discrete data are dequantized.
        rank: index of this process.
        processes: number of processes.
        device: of the network.
        augmentation: changes the examples; None leaves them.
        coupling: pairs examples and noise, already begun; None leaves them independent.

    Attributes:
        reader: of the examples.
    """

    def __init__(
        self,
        dataset: DataSet,
        config: TrainConfig,
        rank: int = 0,
        processes: int = 1,
        device: torch.device | str = "cpu",
        augmentation: Augmentation | None = None,
        coupling: Coupling | None = None,
    ) -> None:
        self.dataset, self.config, self.rank = dataset, config, rank
        self.device = torch.device(device)
        self.augmentation: Augmentation = augmentation or NoAugmentation()
        self.coupling = coupling or Independent()
        self.total = config.batch_size * processes
        self._order = dataset.order(mix(config.seed, streams.ORDER))
        self.reader = reader_for(dataset, config)

    def reading(self, step: int, last: int) -> AbstractContextManager[None]:
        """Read the examples of the steps `step ... last - 1` ahead, while the block runs."""
        rows, start = self._rows, self.rank * self.config.batch_size
        firsts = range(start, start + self.config.batch_size, rows)
        places = (k * self.total + first for k in range(step, last) for first in firsts)
        return self.reader.ahead(self._request(place) for place in places)

    @property
    def _rows(self) -> int:
        """Examples of a micro-batch."""
        return self.config.batch_size // self.config.accumulate

    def _request(self, place: int) -> Request:
        if self.dataset.stream is not None:
            return Request(place, torch.arange(place, place + self._rows))
        indices = self._order.indices(place, self._rows)
        return Request(place, indices, self._item_draws(place) if self.dataset.is_random else None)

    def step(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of this process in a step, counted from 0."""
        rows = self._rows
        start = self.rank * self.config.batch_size
        for first in range(start, start + self.config.batch_size, rows):
            request = self._request(step * self.total + first)
            noise = None
            if not isinstance(self.coupling, Independent):
                like = torch.empty(rows, *self.dataset.event_shape, device=self.device)
                noise = normal(like, self._draws(streams.COUPLE, step, first, self.device))
                chosen = self.coupling.choose(request.indices, noise.cpu())
                request = request._replace(indices=chosen)
            x0, condition = self._examples(request, step, first)
            changes = self._draws(streams.AUGMENT, step, first, self.device)
            x0, condition, augment = self._augmented(x0.to(self.device), condition, changes)
            draws = self._draws(streams.OBJECTIVE, step, first, self.device)
            if noise is not None:
                labels = condition if isinstance(condition, Tensor) else None
                noise = self.coupling.arrange(x0, noise, labels)
                draws = PairedSlice(draws.generator, draws.start, draws.total, noise)
            yield MicroBatch(x0, condition, draws, augment, step)

    def _examples(self, request: Request, step: int, first: int) -> tuple[Tensor, Condition]:
        found, scaling = self.reader(request), self.dataset.scaling
        if self.config.dequantize:
            draws = self._draws(streams.DEQUANTIZE, step, first, torch.device("cpu"))
            coding = self.dataset.coding
            raw = found.raw if coding is None else coding.spread(found.raw, draws)
            x0 = scaling.dequantize(raw, draws)
        else:
            x0 = scaling.to_model(found.raw)
        if has_gaps(self.dataset):
            draws = self._draws(streams.MASK, step, first, torch.device("cpu"))
            x0 = hide(x0, self.dataset, draws)
        condition = self.reader.conditions(found)
        if condition is None or not self.config.conditional:
            return x0, None
        if share := self.config.condition_dropout:
            draws = self._draws(streams.CONDITION, step, first, torch.device("cpu"))
            condition = dropped(condition, share, draws)
        return x0, mapped(condition, lambda value: value.to(self.device))

    def _item_draws(self, place: int) -> Tensor:
        """What the random numbers of data sets that draw some are a function of: seed and epoch."""
        epochs = [each // len(self.dataset) for each in range(place, place + self._rows)]
        seeds = {e: mix(self.config.seed, streams.ITEMS, e) for e in set(epochs)}
        return torch.tensor([seeds[e] for e in epochs])

    def _augmented(
        self, x0: Tensor, condition: Condition, changes: BatchSlice
    ) -> tuple[Tensor, Condition, Tensor | None]:
        """Examples changed, the images of their conditions in the same way, and the labels of it.

        Raises:
            ValueError: for images of other sides.
        """
        seen = [value for value in tensors_of(condition) if value.ndim == x0.ndim > 2]
        if not seen or isinstance(self.augmentation, NoAugmentation):
            x0, augment = self.augmentation(x0, changes)
            return x0, condition, augment
        if any(value.shape[2:] != x0.shape[2:] for value in seen):
            raise ValueError(
                "augmentation changes the images of the condition as it changes the examples, and "
                "they have other sides: choose augmentation=none"
            )
        together, augment = self.augmentation(torch.cat([x0, *seen], dim=1), changes)
        parts = torch.split(together, [x0.shape[1], *(value.shape[1] for value in seen)], dim=1)
        changed = dict(zip(map(id, seen), parts[1:], strict=True))
        return parts[0], mapped(condition, lambda value: changed.get(id(value), value)), augment

    def _draws(self, stream: int, step: int, first: int, device: torch.device) -> BatchSlice:
        generator = generator_from(self.config.seed, stream, step, device=device)
        return BatchSlice(generator, first, self.total)
