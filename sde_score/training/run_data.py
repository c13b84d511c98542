"""The data of a run: its own, compared with its record, or others that it is measured on."""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path

from sde_score import data as data_sets
from sde_score._core.checks import require_choice
from sde_score.data import DataError, DataSet
from sde_score.training.build import split_data
from sde_score.training.config import TrainConfig, is_note
from sde_score.training.data_record import DataRecord
from sde_score.training.other_data import Fit, MeasuredParts
from sde_score.training.state import DataFacts


class RunData:
    """What a run knows of data; a part of `Run`."""

    path: Path
    config: TrainConfig
    data: DataFacts
    record: DataRecord | None
    _given: DataSet | None

    @property
    def trained_elsewhere(self) -> bool:
        """Whether the weights come from other code, so that the training data are not known."""
        return self.record is None and is_note(self.config.data)

    def dataset(self, part: str = "all") -> DataSet:
        """The data of the run, compared with `data.json`; or the other data that were given.

        Data that are given and are not the run's own are taken whole, in its scaling: all of them
        count as held out, which a warning says. So are those of a network that was trained
        elsewhere, which has no data of its own.

        Args:
            part: `"all"`, `"held_out"`, which training never saw, or `"train"`, which are the run's
                own beside other data too.

        Raises:
            DataError: if the data cannot be loaded, are no longer those of the run, or do not fit.
            ValueError: for another part, or if nothing was held out.
        """
        require_choice("part", part, ("all", "train", "held_out"))
        if self.other is not None and (part != "train" or self.trained_elsewhere):
            return self.other
        return self.own(part)

    def own(self, part: str = "all") -> DataSet:
        """The run's own data, as `dataset` gives them, whatever else was given.

        Raises:
            DataError: if they are not at hand.
            ValueError: as of `dataset`.
        """
        require_choice("part", part, ("all", "train", "held_out"))
        if part == "all":
            return self._own
        train, held_out = split_data(self.config, self._own)
        if part == "train":
            return train
        if held_out is None and train.stream is not None:
            raise ValueError(
                f"this run was trained on the stream {train.name}, of which nothing is held out: "
                "measure on other data (--data on the command line)"
            )
        if held_out is None:
            raise ValueError("this run was trained with held_out=0: all examples were trained on")
        return held_out

    @cached_property
    def other(self) -> DataSet | None:
        """The data that were given, in the run's scaling, where they are not its own; else None.

        Raises:
            DataError: if they are not the run's own, and do not fit its network.
        """
        if self._given is None:
            return None
        if not self.trained_elsewhere:
            try:
                _ = self.recognized
            except DataError:
                pass
            else:
                return None
        conditional = self.config.conditional
        found = Fit(self.path, self.data, self.record, conditional)(self._given)
        if not self.trained_elsewhere:
            warnings.warn(
                f"the {len(found)} examples of {found.name} are not the run's own: all of them "
                "count as held out, in the run's scaling",
                stacklevel=3,
            )
        return found

    @cached_property
    def _own(self) -> DataSet:
        if self._given is not None and self.other is None:
            return self.recognized
        if self.record is not None:
            return self.record.load(self.config.on_bad_example)
        if self.trained_elsewhere:
            raise DataError(
                f"the network in {self.path} was trained elsewhere, {self.config.data}, and brings "
                "no data: give some to measure it on, --data on the command line, "
                "load_run(path, data=...) in Python"
            )
        return self._unrecorded(data_sets.load(self.config.data))

    @cached_property
    def recognized(self) -> DataSet:
        """The data that were given, which must be the run's own.

        Raises:
            DataError: if they are others, saying what differs.
        """
        if self._given is None:
            raise DataError("no data were given")
        if self.record is None:
            return self._unrecorded(self._given)
        return self.record.recognize(self._given)

    def _unrecorded(self, whole: DataSet) -> DataSet:
        found = DataFacts.of(split_data(self.config, whole)[0])
        if not self.data.agrees(found):
            raise DataError(
                f"the run in {self.path} was trained on {self.data}; at hand are {found}: give its "
                "own data, --data on the command line, load_run(path, data=...) in Python"
            )
        warnings.warn(
            f"{self.path} was written by version 0.1.0, which kept no fingerprint of the data: "
            f"{whole.name!r} has the right shape and scaling, its content is not checked",
            stacklevel=4,
        )
        return whole

    def measured_parts(self) -> MeasuredParts:
        """Real data that give a noise floor, and those that samples are measured against.

        The training and the held-out part. Of other data all are measured against, and the run's
        own training data give the floor: what a perfect model of them would score. Where these are
        not at hand, and for a network that was trained elsewhere, halves of the other data. Of
        tables the complete rows alone.

        Raises:
            DataError: as for `dataset`.
            ValueError: if nothing was held out, or a single example was given.
        """
        if self.other is None:
            held_out = self.own("held_out").complete()
            return MeasuredParts(self.own("train").complete(), held_out)
        text = f"{len(self.other)} examples of {self.other.name}"
        if not self.trained_elsewhere:
            try:
                return MeasuredParts(self.own("train").complete(), self.other.complete(), text)
            except DataError:
                pass
        return MeasuredParts(*self.other.complete().split(0.5), f"half of {text}", "the other half")

    def told_by(self) -> DataSet:
        """The data whose conditions samples are drawn with: other data that have some, or else the
        run's own training data."""
        other = self.other
        if other is None:
            return self.own("train")
        has = other.labels if self.data.num_classes else other.conditions
        return other if has is not None or self.trained_elsewhere else self.own("train")
