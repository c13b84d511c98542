"""Tar shards as WebDataset writes them, as rows: members are read where they are."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sde_score._core.errors import DataError, damaged, naming
from sde_score._core.progress import progress_bar
from sde_score.data.decoding import SUFFIXES
from sde_score.data.limits import Limits
from sde_score.data.sources.base import Part
from sde_score.data.sources.encoded import EncodedImages, shown_name
from sde_score.data.sources.files import shard_names
from sde_score.data.sources.tar_index import BLOCK, Member, members

_OPEN = 64  # files that are kept open
_LABEL_BYTES = 1 << 20


class _Sample(NamedTuple):
    """Members of one name: the image, and what tells its label."""

    image: Member
    label: int | None


class TarImages(EncodedImages):
    """The images in tar shards, by number.

    Args:
        files: shards in their order.
        limits: of one image.
        size: as for `EncodedImages`.
        image: ending of the names of images, such as `input.png`; None for the only one that a
            sample has.
        label: ending of the members that hold labels, or key in a `.json` member.
        skip: pass over what is damaged in a shard, with a warning, instead of refusing it.

    Attributes:
        labels: int64, one for each row; None where there are none.
    """

    def __init__(
        self,
        files: list[Path],
        limits: Limits,
        size: int | None,
        image: str | None = None,
        label: str = "cls",
        skip: bool = False,
    ) -> None:
        self._files, self._image, self._label = files, image, label
        places, labels, parts, names = [], [], [], shard_names(files)
        for shard, file in enumerate(progress_bar(files, name="indexing", unit="shard")):
            with naming(file.name):
                found, digest, length = self._indexed(file, skip)
            places += [(shard, one.image.offset, one.image.size) for one in found]
            labels += [one.label for one in found]
            parts.append(Part(names[shard], len(found), length, digest))
        self._places = torch.tensor(places, dtype=torch.int64).reshape(-1, 3).numpy()
        super().__init__(len(places), limits, size)
        self.parts = tuple(parts)
        self.labels = _as_tensor(labels)
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._process = os.getpid()
        self.begin()

    def content(self, row: int) -> bytes:
        """Bytes of a member."""
        shard, offset, size = self._places[row].tolist()
        self.require_size(size)
        with damaged("a tar archive"):
            content = os.pread(self._handle(shard), size, offset)
        if len(content) < size:
            raise DataError(f"is truncated: {len(content)} of {size} bytes are there")
        return content

    def where(self, row: int) -> str:
        """Shard and name of a member."""
        shard, offset, _ = self._places[row].tolist()
        name = self.parts[shard].name if self.parts else self._files[shard].name
        try:
            header = os.pread(self._handle(shard), 100, offset - BLOCK)
        except OSError:
            header = b""
        told = shown_name(os.fsdecode(header.partition(bytes(1))[0]))
        return f"{name}: {told or f'row {row}'}"

    def _handle(self, shard: int) -> int:
        """An open file of this process."""
        if self._process != os.getpid():  # those of the process that this one was copied from
            self._handles, self._process = OrderedDict(), os.getpid()
        if shard in self._handles:
            self._handles.move_to_end(shard)
            return self._handles[shard]
        if len(self._handles) >= _OPEN:
            os.close(self._handles.popitem(last=False)[1])
        self._handles[shard] = os.open(self._files[shard], os.O_RDONLY)
        return self._handles[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict(), "_process": -1}

    def _indexed(self, file: Path, skip: bool) -> tuple[list[_Sample], str, int]:
        """The samples of a shard, a digest of where they are, and its bytes."""
        with damaged("a tar archive"):
            handle = os.open(file, os.O_RDONLY)
        found: list[_Sample] = []
        digest, length = hashlib.sha256(), os.fstat(handle).st_size
        try:
            for name, group in _groups(_noted(members(handle, length), digest)):
                found.append(self._sample(handle, name, group))
        except DataError as error:
            if not skip:
                raise
            warnings.warn(
                f"{file.name}: {error}; of this shard the first {len(found)} examples are taken",
                stacklevel=2,
            )
        finally:
            os.close(handle)
        return found, digest.hexdigest(), length

    def _sample(self, handle: int, name: str, group: dict[str, Member]) -> _Sample:
        """The sample of one name, of its members by their ending."""
        wanted = [self._image] if self._image else [e for e in group if f".{e}" in SUFFIXES]
        images = [ending for ending in wanted if ending in group]
        if len(images) != 1:
            raise DataError(
                f"{shown_name(name)} has the members {shown_name(', '.join(group) or 'none')}; "
                f"accepted: one image{f' .{self._image}' if self._image else ''}; where there "
                "are several, image='input.png' names one"
            )
        with naming(shown_name(name)):
            return _Sample(group[images[0]], self._label_of(handle, group))

    def _label_of(self, handle: int, group: dict[str, Member]) -> int | None:
        if self._label in group:
            text = self._read(handle, group[self._label])
            with damaged("a label, an integer as text"):
                return int(text)
        if "json" not in group:
            return None
        with damaged("JSON"):
            values = json.loads(self._read(handle, group["json"]))
        keys = [self._label] if self._label != "cls" else ["cls", "label"]
        found = [values[key] for key in keys if isinstance(values, dict) and key in values]
        if found and (isinstance(found[0], bool) or not isinstance(found[0], int)):
            raise DataError(f"holds {shown_name(found[0])} as its label; accepted: an integer")
        return found[0] if found else None

    def _read(self, handle: int, member: Member) -> bytes:
        if member.size > _LABEL_BYTES:
            raise DataError(f"{shown_name(member.name)} takes {member.size} bytes, too many here")
        return os.pread(handle, member.size, member.offset)


def _noted(found: Iterator[Member], digest: Any) -> Iterator[Member]:
    """The same members, taken up in a digest."""
    for member in found:
        digest.update(os.fsencode(f"{member.name}\0{member.offset}\0{member.size}\0"))
        yield member


def _groups(found: Iterator[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Consecutive members whose names agree up to the first dot behind the last slash, by ending.

    Raises:
        DataError: for two members of one name.
    """
    key, group = "", dict[str, Member]()
    for member in found:
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        if not stem:
            continue  # hidden files
        if group and key != f"{folder}/{stem}":
            yield key, group
            group = {}
        key = f"{folder}/{stem}"
        if ending.lower() in group:
            raise DataError(f"holds {shown_name(member.name)} twice")
        group[ending.lower()] = member
    if group:
        yield key, group


def _as_tensor(labels: list[int | None]) -> torch.Tensor | None:
    found = [label for label in labels if label is not None]
    if not found:
        return None
    if len(found) < len(labels):
        raise DataError(f"has labels for {len(found)} of {len(labels)} images; accepted: all")
    with damaged("labels"):
        return torch.tensor(found, dtype=torch.int64)
