"""Streams of torch, `datasets` or users: iterable data sets, loaders, functions, the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sde_score._core.arguments import checked
from sde_score._core.checks import class_of, require_count
from sde_score._core.conditions import tensors_of
from sde_score._core.errors import DataError, damaged, naming, require_extra
from sde_score.data.dataset import DataSet
from sde_score.data.sources.items import Names, item_of
from sde_score.data.stream import Reading, Stream, gives_batches
from sde_score.data.tensors import Channels, from_tensor, placed
from sde_score.scaling import Scaling

HUB = "hub:"
"""What text begins with that names a data set of the hub."""

FIRST = 4096
"""Examples on which a stream is measured."""

_NUMBERS = 1 << 26  # numbers in them, at most
_NESTED = 64  # parts of a stream of `datasets` that are looked at
_TRIED = 5  # examples that tell whether a stream can be read again


def from_stream(
    source: Any,
    scaling: Scaling | None = None,
    *,
    name: str | None = None,
    channels: Channels | None = None,
    example: str | None = None,
    label: str | None = None,
    classes: int | Sequence[str] | None = None,
    first: int = FIRST,
) -> DataSet:
    """A stream: examples that training reads in one order, epoch after epoch.

    What other data sets measure on all examples, such as the scaling, is measured on the first of
    them, which are kept in memory and stand for the stream in pictures and as its record. Nothing
    is held out of a stream: measure on other data.

    A source is read anew in every epoch, with `set_epoch` where it has that; a `DataLoader` may be
    over either kind of data set, and its batches are cut into examples. Random numbers of torch,
    NumPy and Python, and shuffling of a `DataLoader`, are functions of the seed of the run and the
    position. Where `state_dict` and `load_state_dict` lead back to the same example, which is
    tried, a checkpoint holds the state, as JSON, and a resumed run goes on from there; otherwise it
    reads the epoch anew up to the position. All processes read the whole stream; each makes
    examples of its share.

    Args:
        source: an `IterableDataset` of torch or of `datasets`, a `DataLoader`, another iterable
            that can be read again, or a function without arguments that returns one. Items are as
            for `from_torch`.
        scaling: as for `from_tensor`.
        name: of the stream, in reports; by default that of its class or function.
        channels: as for `from_tensor`.
        example: name of the example in items that are dictionaries; None for the one of its kind.
        label: name of the label in them; None for `"label"`, if there is one.
        classes: number of classes, or their names; None for those of the first examples.
        first: examples that are measured.

    Raises:
        TypeError: if `source` is no such thing, or an item is something else.
        DataError: if it is empty, fails, or gives other examples when it is read again.
    """
    require_count(minimum=2, first=first)
    _require_repeatable(source)
    name = name or getattr(source, "__name__", None) or type(source).__name__
    source, example, names = _of_datasets(source, example, label)
    stream = Stream(name, source, Names(example, label), start=_state(source))
    items = Reading(stream).begin_with(partial(_most, stream, first))
    stream = replace(stream, first=item_of(items[0], stream.names))
    stream = replace(stream, has_state=_has_state(stream, items[: 2 * _TRIED]))
    raw, told = stream.batch(items, 0)
    named = names if classes is None else classes
    return _measured(stream, raw, told, scaling, channels, named)


def _measured(
    stream: Stream,
    raw: Tensor,
    told: Any,
    scaling: Scaling | None,
    channels: Channels | None,
    classes: int | Sequence[str],
) -> DataSet:
    """The first examples as a data set, which knows its stream."""
    class_names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
    labels = isinstance(told, Tensor) and told.ndim == 1 and not told.is_floating_point()
    given: dict[str, Any] = {"class_names": class_names} if labels else {"condition": told}
    found = from_tensor(
        raw, told if labels else None, scaling, name=stream.name, channels=channels, **given
    )
    counts = {"": found.num_classes} if labels else {}
    numbered: tuple[int, ...] = ()
    if labels and not class_names and found.class_names:
        numbered = tuple(map(int, found.class_names))
    if isinstance(classes, int) and labels:
        found = replace(found, class_names=())
    if isinstance(found.condition_shape, Mapping):
        counts = {n: kind for n, kind in found.condition_shape.items() if isinstance(kind, int)}
    place = partial(placed, channels=channels, levels=found.scaling.levels)
    known = replace(stream, place=place, classes=numbered, counts=tuple(counts.items()))
    return replace(found, stream=known)


def _most(stream: Stream, first: int, item: Any) -> int:
    """Examples that are measured, of the size of one."""
    with naming(f"{stream.name}, example 0"):
        one = item_of(item, stream.names)
    size = one.example.numel() + sum(each.numel() for each in tensors_of(one.told))
    return min(first, max(2, _NUMBERS // max(1, size)))


def _require_repeatable(source: Any) -> None:
    if hasattr(source, "__next__"):
        raise TypeError(
            f"source is {class_of(source)}, which can be read once: give the function that returns "
            "it, as in from_stream(lambda: ...)"
        )
    if isinstance(source, type) or not (hasattr(source, "__iter__") or callable(source)):
        raise TypeError(
            f"source is {class_of(source)}; accepted: an IterableDataset, a DataLoader, another "
            "iterable, or a function that returns one"
        )


def _state(source: Any) -> Any:
    """The state of a source before its first example; None where it has none."""
    if gives_batches(source) or not hasattr(source, "load_state_dict"):
        return None
    part = getattr(source, "_ex_iterable", None)  # of `datasets`: its parts, outermost first
    for _ in range(_NESTED):
        if hasattr(part, "buffer_size"):  # whose content is in no state
            return None
        part = getattr(part, "ex_iterable", None)
    try:
        return source.state_dict()
    except Exception:  # of code of others, which may have no state before it begins
        return None


def _has_state(stream: Stream, once: Sequence[Any]) -> bool:
    """Whether a state leads back to the example behind it.

    Args:
        stream: what is tried.
        once: its first items.

    Raises:
        DataError: if a stream gives other examples when it is read again.
    """
    again = Reading(stream).begin_with(lambda _: len(once))
    if not _alike(stream, once, again):
        raise DataError(
            f"{stream.name} gives other examples when it is read again, so that a run on it could "
            "not be resumed: draw by the functions of torch, numpy.random or random, or seed it"
        )
    if stream.start is None or len(once) < 2 * _TRIED:
        return False
    walk = Reading(replace(stream, has_state=True))
    walk.take(0, _TRIED)
    state = walk.state()
    return Reading(stream).jump(state)


def _alike(stream: Stream, one: Sequence[Any], other: Sequence[Any]) -> bool:
    if len(one) != len(other):
        return False
    (x, told), (y, said) = stream.batch(one, 0), stream.batch(other, 0)
    pairs = zip([x, *tensors_of(told)], [y, *tensors_of(said)], strict=True)
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _of_datasets(
    source: Any, example: str | None, label: str | None
) -> tuple[Any, str | None, Sequence[str]]:
    """A stream of `datasets` that leaves pictures encoded until they are needed, the name of the
    example, and those of the classes."""
    features = getattr(source, "features", None)
    if not isinstance(features, Mapping) or not hasattr(source, "cast_column"):
        return source, example, ()
    pictures = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    image = require_extra("datasets").Image
    for name in pictures:
        source = source.cast_column(name, image(decode=False))
    if example is None and len(pictures) == 1:
        example = pictures[0]
    names = getattr(features.get(label or "label"), "names", None)
    return source, example, tuple(names or ())


@checked
def hub(
    name: str,
    split: str = "train",
    config: str | None = None,
    files: str | None = None,
    image: str | None = None,
    label: str | None = None,
    shuffle: int = 0,
    first: int = FIRST,
) -> DataSet:
    """A data set of the Hugging Face hub, or local files by a loader of `datasets`, as a stream.

    Args:
        name: of the data set, such as `"user/name"`; or of a loader, such as `"parquet"`, for
            `files`.
        split: part of it.
        config: its configuration, where it has several.
        files: paths or patterns of files.
        image: column of the examples; None for the one of its kind.
        label: column of the labels; None for `"label"`, if there is one.
        shuffle: examples in a buffer from which they are drawn at random; 0 for the order of the
            stream. No state leads back into a buffer: a resumed run reads the epoch anew.
        first: examples that are measured.

    Raises:
        DataError: if there is no such data set, or it cannot be read.
    """
    require_count(0, shuffle=shuffle)
    load_dataset = require_extra("datasets").load_dataset
    given = {"split": split, "streaming": True, "name": config, "data_files": files}
    with damaged(f"the data set {name!r} of the hub"):
        found = load_dataset(name, **{key: value for key, value in given.items() if value})
        found = found.shuffle(seed=0, buffer_size=shuffle) if shuffle else found
    return from_stream(found, name=name, example=image, label=label, first=first)


def is_stream(source: Any) -> bool:
    """Whether a source is read in one order: an iterable that is no sequence, or a function."""
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(source, (IterableDataset, DataLoader)):
        return True
    if isinstance(source, (type, str, bytes, Mapping)) or hasattr(source, "__getitem__"):
        return False
    return hasattr(source, "__iter__") or isinstance(source, Callable)  # type: ignore[arg-type]
