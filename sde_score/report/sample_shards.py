"""Samples in files of a bounded number each, so that any number of them fits into memory.

Sample i depends on the seed and on i alone, and a shard holds the same rows whoever draws it:
shards are drawn one by one, by any number of processes, and those that are there are not drawn
again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, rows_of, tensors_of
from sde_score._core.files import read_text, replace_file, require_writable
from sde_score._core.processes import shared
from sde_score.report.files import require_samples_file, save_samples
from sde_score.report.look import Look

NAME = "shards.json"
"""The file beside the shards: how many samples of what they hold."""

_LEFT_BY_KILLS = re.compile(r"\.[0-9a-f]{16}\.tmp")


@dataclass(frozen=True, eq=False)
class SampleShards:
    """A folder of shards.

    Args:
        out: a folder, for `00000.npz` and so on in it; or a name in a folder, for `name-00000` with
            its ending. `.png` makes a folder of pictures of each shard.
        num: samples in all.
        size: samples in each shard but the last.
        settings: what decides the samples, plain values of JSON.
        condition: in the data's own terms, one entry per sample, for the files.
    """

    out: Path
    num: int
    size: int
    settings: Mapping[str, Any]
    condition: Condition = None

    def __post_init__(self) -> None:
        require_count(num=self.num, shard_size=self.size)

    @property
    def folder(self) -> Path:
        """Where the shards are."""
        return self.out if self.out.suffix == "" else self.out.parent

    @property
    def record(self) -> Path:
        """The file that says what the shards hold."""
        stem = f"{self.out.stem}-" if self.out.suffix else ""
        return self.folder / f"{stem}{NAME}"

    def path(self, index: int) -> Path:
        """Of a shard."""
        if self.out.suffix == "":
            return self.out / f"{index:05d}.npz"
        name = self.folder / f"{self.out.stem}-{index:05d}"
        return name if self.out.suffix == ".png" else name.with_suffix(self.out.suffix)

    def rows(self, index: int) -> range:
        """Numbers of the samples in a shard."""
        return range(index * self.size, min((index + 1) * self.size, self.num))

    def require(self) -> None:
        """Refuse a place that cannot be written to, or that holds other files.

        One process of a group looks, before any of them begins to write there.

        Raises:
            ValueError: naming the folder and what is wrong.
        """
        shared([0], lambda _: self._require())

    def _require(self) -> None:
        require_writable(self.record, "out")
        if not self.path(0).exists():
            require_samples_file(self.path(0))
        if self.record.exists():
            self._stored()
            return
        there = sorted(self.folder.glob("*" if self.out.suffix == "" else f"{self.out.stem}-*"))
        if there:
            raise ValueError(
                f"out={self.out}: {there[0]} is no shard of samples that are continued: name a new "
                "or empty place"
            )

    def write(
        self,
        draw: Callable[[range], tuple[Tensor, float]],
        look: Look,
        done: Callable[[int], object] = lambda count: None,
    ) -> float:
        """Draw and write the shards that are missing, shared over the processes of a group.

        Args:
            draw: samples of some rows in model range, and evaluations per sample.
            look: of the data.
            done: told the number of samples after each shard of this process.

        Returns:
            evaluations per sample, their mean over the shards that were drawn; NaN for none.

        Raises:
            ValueError: if the folder holds samples of other settings.
            OSError: if a shard cannot be written; those before stay.
        """
        missing = shared([0], lambda _: self._begin())[0]

        def shard(index: int) -> float:
            rows = self.rows(index)
            x, nfe = draw(rows)
            told = rows_of(self.condition, slice(rows.start, rows.stop))
            save_samples(x, self.path(index), look, told)
            done(len(rows))
            return nfe

        spent = shared(missing, shard)
        return sum(spent) / len(spent) if spent else float("nan")

    def _begin(self) -> list[int]:
        """Write what the folder is about to hold, and list the shards that it lacks."""
        self._require()
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self._stored() if self.record.exists() else self.num
        for left in self.folder.iterdir():
            if _LEFT_BY_KILLS.fullmatch(left.name) and left.is_file():
                left.unlink()
        last = before // self.size  # the shard that was not full
        if before < self.num and before % self.size:
            shutil.rmtree(self.path(last), ignore_errors=True)
            self.path(last).unlink(missing_ok=True)
        content = {"num": self.num, "size": self.size, **self._settings(self.num)}
        replace_file(self.record, (json.dumps(content, indent=1) + "\n").encode())
        return [i for i in range(-(-self.num // self.size)) if not self.path(i).exists()]

    def _settings(self, count: int) -> dict[str, Any]:
        digest = hashlib.sha256()
        for value in tensors_of(rows_of(self.condition, slice(0, count))):
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return {**self.settings, "condition": digest.hexdigest()[:16]}

    def _stored(self) -> int:
        """How many samples the folder was begun for, after a comparison of what they are of."""
        try:
            found = json.loads(read_text(self.record))
            before, size = int(found.pop("num")), int(found.pop("size"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{self.record} is damaged: move the folder away") from error
        if before > self.num:
            raise ValueError(f"out={self.out} was begun for num={before} samples: give as many")
        wanted = {"size": self.size, **self._settings(min(before, self.num))}
        for name, value in {"size": size, **found}.items():
            if value != wanted.get(name):
                raise ValueError(
                    f"out={self.out} holds samples with {name}={value!r}, and now it is "
                    f"{wanted.get(name)!r}: name another place"
                )
        return before
