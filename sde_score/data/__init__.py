"""Data sets: tensors, digits, toys, image folders, MNIST, parquet and NumPy files, tables.

`load` finds a data set by name or path and takes what is in memory, as `from_tensor`, `from_table`
and `from_torch` do with more options. Each is a `DataSet`: raw examples in their own terms, and a
`Scaling` that maps them into the range that models see. `Fingerprint` recognizes the content of a
data set; `EpochOrder` is the order of the examples in training.
"""

from sde_score._core.errors import DataError
from sde_score.data.columns import column_names, vectors_of, with_condition_columns
from sde_score.data.dataset import Batch, DataSet, Examples, is_image
from sde_score.data.decoding import image_with_hole
from sde_score.data.fingerprint import Fingerprint
from sde_score.data.formats.numpy_arrays import load_array, load_condition
from sde_score.data.formats.streams import from_stream
from sde_score.data.formats.torch_dataset import from_torch
from sde_score.data.info import DataInfo
from sde_score.data.loading import (
    FORMATS,
    NAMED,
    Source,
    absolute,
    available,
    is_there,
    load,
    register,
    register_format,
    text_of,
)
from sde_score.data.order import EpochOrder
from sde_score.data.tables.coding import TableCoding
from sde_score.data.tables.column import Column
from sde_score.data.tables.frames import from_table
from sde_score.data.tensors import from_tensor
from sde_score.scaling import Scaling

__all__ = [
    "FORMATS",
    "NAMED",
    "Batch",
    "Column",
    "DataError",
    "DataInfo",
    "DataSet",
    "EpochOrder",
    "Examples",
    "Fingerprint",
    "Scaling",
    "Source",
    "TableCoding",
    "absolute",
    "available",
    "column_names",
    "from_stream",
    "from_table",
    "from_tensor",
    "from_torch",
    "image_with_hole",
    "is_image",
    "is_there",
    "load",
    "load_array",
    "load_condition",
    "register",
    "register_format",
    "text_of",
    "vectors_of",
    "with_condition_columns",
]
