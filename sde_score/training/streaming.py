"""Streams in training: read in one order by every process, which makes examples of its share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from sde_score._core.conditions import Condition
from sde_score.data import DataSet, Examples
from sde_score.data.stream import Reading, Stream
from sde_score.random import mix
from sde_score.scaling import condition_to_model
from sde_score.training import rng_streams as streams
from sde_score.training.config import TrainConfig
from sde_score.training.reading import Reader, Request, launched_here, workers_for


class StreamReader(Reader):
    """Reads a stream by positions, which only grow; the first one may be asked for once more.

    Args:
        dataset: the first examples of the stream, and the stream.
        seed: random seed of the run.
    """

    def __init__(self, dataset: DataSet, stream: Stream, seed: int) -> None:
        super().__init__(dataset)
        self.walk = Reading(stream, mix(seed, streams.ITEMS))
        self._condition: Condition = None

    def __call__(self, request: Request) -> Examples:
        """The examples of a request.

        Raises:
            DataError: if the stream fails, or gives what is no such example.
        """
        began = time.perf_counter()
        with self._watch.over(request):
            items = self.walk.take(request.first, len(request.indices))
        self.waited += time.perf_counter() - began
        raw, self._condition = self.walk.stream.batch(items, request.first)
        return Examples(raw, torch.arange(request.first, request.first + len(items)))

    def conditions(self, found: Examples) -> Condition:
        """What is told of the examples that were read last, in model range."""
        if self.dataset.conditions is None:
            return self._condition
        return condition_to_model(self._condition, self.dataset.condition_scaling)

    def state(self) -> dict[str, Any]:
        """Where the reading is, as values of JSON."""
        return self.walk.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self.walk.restore(state)

    def figures(self) -> dict[str, float]:
        """Seconds of waiting for examples since this was last asked."""
        found, self.waited = self.waited, 0.0
        return {"data_seconds": found}

    def _place(self, request: Request) -> str:
        return f"{self.dataset.name}, example {self.walk.position}"


def reader_for(dataset: DataSet, config: TrainConfig) -> Reader:
    """What reads the examples of a run.

    Raises:
        ValueError: for settings that a stream has no use for.
    """
    if dataset.stream is None:
        return Reader(dataset, workers_for(config.workers, dataset, launched_here()))
    if config.workers:
        raise ValueError(
            f"workers={config.workers}: {dataset.name} is a stream, which is read in one order, in "
            "this process: leave it out, or give a DataLoader with num_workers"
        )
    require_no_stream(dataset, "on_bad_example='skip'", config.on_bad_example == "skip")
    return StreamReader(dataset, dataset.stream, config.seed)


def require_no_stream(dataset: DataSet, setting: str, wanted: bool = True) -> None:
    """Refuse a setting that looks at all examples, or at one by its number, for a stream.

    Raises:
        ValueError: naming it.
    """
    if wanted and dataset.stream is not None:
        raise ValueError(
            f"{setting} needs all examples by their numbers, and {dataset.name} is a stream: leave "
            "it out, or load the data as a whole"
        )
