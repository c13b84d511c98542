"""Data sets by name or path: `load("digits")`, `load("ring(n=20000)")`, `load("photos/")`.

A new named data set is one function and one line in `NAMED`, a new file format one function and
one line in `FORMATS`; those of users are added by `register` and `register_format`.
"""

from __future__ import annotations

import inspect
import os
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sde_score._core.checks import class_of, is_number, require_choice
from sde_score._core.errors import DataError, damaged, naming
from sde_score._core.registry import Registry, format_spec, parse_spec, refuse_unknown
from sde_score.data.columns import with_condition_columns
from sde_score.data.dataset import DataSet
from sde_score.data.digits import digits
from sde_score.data.formats.arrow import arrow
from sde_score.data.formats.csv_tables import table
from sde_score.data.formats.idx import mnist
from sde_score.data.formats.images import folder
from sde_score.data.formats.numpy_arrays import array
from sde_score.data.formats.parquet import parquet
from sde_score.data.formats.streams import HUB, from_stream, hub, is_stream
from sde_score.data.formats.torch_dataset import from_torch
from sde_score.data.formats.webdataset import webdataset
from sde_score.data.limits import require_file
from sde_score.data.sources.files import any_of, is_pattern
from sde_score.data.tables.frames import from_table, is_frame
from sde_score.data.targets import target
from sde_score.data.tensors import from_tensor
from sde_score.data.toys import checkerboard, gaussians, moons, ring, spirals

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    Source = str | os.PathLike[str] | DataSet | Tensor | np.ndarray[Any, Any] | Dataset[Any]
else:
    Source = str  # all that the flags of a command line can be

NAMED: Registry[DataSet] = Registry(
    "data set",
    {
        "digits": digits,
        "ring": ring,
        "gaussians": gaussians,
        "moons": moons,
        "checkerboard": checkerboard,
        "spirals": spirals,
        "target": target,
    },
    base=DataSet,
)

FORMATS: Registry[DataSet] = Registry(
    "data format",
    {
        "mnist": mnist,
        "folder": folder,
        "parquet": parquet,
        "array": array,
        "csv": table,
        "webdataset": webdataset,
        "arrow": arrow,
    },
    base=DataSet,
)

_SUFFIXES = {
    ".npy": "array",
    ".npz": "array",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".gz": "mnist",
}
_MAGIC = {
    b"\x93NUMPY": "array",
    b"PK\x03\x04": "array",
    b"PAR1": "parquet",
    b"\x1f\x8b": "mnist",
    b"\0\0\x08": "mnist",
}


def available() -> list[str]:
    """Names of the data sets that `load` makes or that come with the package."""
    return NAMED.names()


register = NAMED.register
"""`register("mine", function)` adds a data set; the function returns anything that `load` takes."""


def register_format(
    name: str, reader: Callable[..., DataSet], suffixes: Sequence[str] = ()
) -> Callable[..., DataSet]:
    """Add a file format, from then on read by `load` as `name:path`, or by its suffix.

    Args:
        name: letters, digits, dashes and underscores; not taken yet.
        reader: called as `reader(path=...)`, with the arguments of the spec.
        suffixes: endings of its files, such as `(".h5",)`.

    Returns:
        `reader`.

    Raises:
        ValueError: for a name or suffix that is taken.
    """
    taken = [suffix for suffix in suffixes if _SUFFIXES.get(suffix.lower(), name) != name]
    if taken:
        raise ValueError(f"suffix {taken[0]} belongs to the format {_SUFFIXES[taken[0].lower()]}")
    FORMATS.register(name, reader)
    _SUFFIXES.update({suffix.lower(): name for suffix in suffixes})
    return reader


def load(
    source: Source,
    condition_columns: str | Sequence[str] | None = None,
    on_bad_example: str = "stop",
) -> DataSet:
    """A data set by name or path, or what is in memory as a data set.

    Accepted are

    - a name with optional arguments, such as `digits` or `moons(n=5000, seed=1)` (see `available`);
    - the path of a file or folder, recognized by its ending or content, such as `photos/` or
      `cifar.parquet`, as text or as a `pathlib.Path`; a folder of shards, or a pattern of their
      names, such as `train-{0000..0127}.tar` or `"shards/*.parquet"`;
    - a format and a path, such as `mnist:data/` or `csv:table.txt` (see `FORMATS`);
    - either of these with arguments of the format, such as `table.csv(delimiter=';')`,
      `photos/(size=64)` or, beyond the limits of what is unpacked, `a.npz(max_bytes=2000000000)`;
    - a tensor or NumPy array (see `from_tensor`), a data frame (see `from_table`), a map-style data
      set of torch (see `from_torch`), or a `DataSet`, which is returned as it is;
    - a stream: an `IterableDataset`, a `DataLoader` or a function that returns an iterable (see
      `from_stream`), or a data set of the Hugging Face hub, such as `hub:user/name(split='train')`.

    A name comes before a path: write `./digits` for a folder of that name.

    Args:
        source: one of these.
        condition_columns: columns of a table that become its condition, such as `"a,b"`; see
            `with_condition_columns`.
        on_bad_example: `"skip"` reads pictures and shards lazily, and takes the next example that
            can be read in place of one that cannot; `"stop"` refuses it, naming it.

    Raises:
        DataError: if there is no such thing, or it is damaged, truncated, empty or not what was
            promised.
        ValueError: if an argument is not accepted.
        TypeError: for anything else.
    """
    require_choice("on_bad_example", on_bad_example, ("stop", "skip"))
    skipping = {"lazy": True, "on_bad_example": "skip"} if on_bad_example == "skip" else {}
    found = _load(source, skipping)
    found = replace(found, on_bad_example=on_bad_example) if found.is_lazy else found
    return found if condition_columns is None else with_condition_columns(found, condition_columns)


def _load(source: Source, wanted: dict[str, Any]) -> DataSet:
    if isinstance(source, DataSet):
        return source
    text = text_of(source)
    if text is None:
        return _from_memory(source, "table" if is_frame(source) else "tensor")
    if text.startswith(HUB):
        return _from_hub(text)
    form, place, arguments = _parts(text)
    if form is None and place in NAMED:
        return _from_memory(NAMED.create(place, **arguments), place)
    path = Path(place).expanduser()
    if os.path.islink(path) and not os.path.exists(path):
        raise DataError(f"{place!r} is a link that leads to {os.readlink(path)!r}, which is absent")
    if not place or not _is_there(place):
        raise DataError(
            f"there is no file and no data set {place!r}; "
            f"accepted: a path, or one of {', '.join(available())}"
        )
    with naming(path):
        if not is_pattern(place):
            require_file(path)
        form = form or _recognize(path)
        taken = inspect.signature(FORMATS[form]).parameters
        wanted = {name: value for name, value in wanted.items() if name in taken}
        return FORMATS.create(form, **{**wanted, **arguments, "path": path})


def text_of(source: Source) -> str | None:
    """The text by which `load` finds a data set: of text and paths; None for what is in memory."""
    if isinstance(source, os.PathLike):
        text = os.fspath(source)
        return os.path.join(".", text) if text in NAMED else text
    return source if isinstance(source, str) else None


def absolute(text: str) -> str | None:
    """The text with its path made absolute, for use from other folders; None for a name."""
    form, place, arguments = _parts(text)
    if text.startswith(HUB) or (form is None and place in NAMED):
        return None
    full = format_spec(os.path.abspath(os.path.expanduser(place)), arguments)
    return full if form is None else f"{form}:{full}"


def is_there(text: str) -> bool:
    """Whether there is a file or folder at the path in a text."""
    return _is_there(_parts(text)[1])


def _is_there(place: str) -> bool:
    return os.path.exists(os.path.expanduser(place)) or (is_pattern(place) and any_of(place))


def _parts(text: str) -> tuple[str | None, str, dict[str, Any]]:
    """Format, name or path, and arguments of a text."""
    prefix, _, rest = text.partition(":")
    form, place = (prefix, rest) if prefix in FORMATS and rest else (None, text)
    if _is_there(place):
        return form, place, {}
    path = place[: place.rfind("(")]  # may hold brackets itself
    if _is_there(path):
        return form, path, parse_spec("file" + place[len(path) :])[1]
    name = place.partition("(")[0].strip()
    try:
        return form, *parse_spec(place)
    except ValueError:
        if name in NAMED and (place.rstrip().endswith(")") or ")" not in place):
            raise
        return form, place, {}  # a path, brackets and all, that does not exist


def _from_hub(text: str) -> DataSet:
    name, bracket, rest = text[len(HUB) :].partition("(")
    arguments = parse_spec(f"hub({rest}")[1] if bracket else {}
    refuse_unknown("hub", arguments, set(inspect.signature(hub).parameters) - {"name"})
    return hub(name.strip(), **arguments)


def _from_memory(source: Any, name: str) -> DataSet:
    if isinstance(source, DataSet):
        return source
    if isinstance(source, (Tensor, np.ndarray)):
        return from_tensor(source, name=name)
    if isinstance(source, (list, tuple)) and source and _is_row(source[0]):
        raise TypeError("source is a list of rows of numbers: give torch.tensor(source)")
    if isinstance(source, (type, bytes, dict)):
        raise TypeError(_unknown(source))
    if is_frame(source):
        return from_table(source, name=name)
    if is_stream(source):
        return from_stream(source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return from_torch(source)
    raise TypeError(_unknown(source))


def _is_row(item: object) -> bool:
    return isinstance(item, (list, tuple)) and len(item) > 0 and all(map(is_number, item))


def _unknown(source: object) -> str:
    return (
        f"source={reprlib.repr(source)} is {class_of(source)}; accepted: text, a path, a tensor, "
        "an array, a data frame, a data set or loader of torch, a function that returns an "
        "iterable, a DataSet"
    )


def _kind_of_folder(path: Path) -> str:
    """The format of what is in a folder: shards, or else images."""
    with damaged("a folder"):
        names = [name for name in os.listdir(path) if not name.startswith(".")]
    if {"state.json", "dataset_info.json"} <= set(names) or "dataset_dict.json" in names:
        return "arrow"
    for ending in (".tar", ".parquet"):
        if any(name.lower().endswith(ending) for name in names):
            return _SUFFIXES[ending]
    return "folder"


def _recognize(path: Path) -> str:
    if path.is_dir():
        return _kind_of_folder(path)
    suffix = path.suffix.lower()
    inner = path.with_suffix("").suffix.lower() if suffix == ".gz" else ""
    if _SUFFIXES.get(inner) == "csv":
        return "csv"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"cannot be opened ({error.strerror})") from error
    for magic, form in _MAGIC.items():
        if head.startswith(magic):
            return form
    raise DataError(
        f"is of no known format; accepted: a folder of images, {', '.join(_SUFFIXES)}, idx files, "
        f"or FORMAT:PATH with FORMAT one of {', '.join(FORMATS)}"
    )
