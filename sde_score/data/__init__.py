"""Data sets: tensors, digits, toys, image folders, MNIST, parquet and NumPy files, tables.

`load` finds a data set by name or path; `from_tensor` and `from_torch` take what is in memory. Each
is a `DataSet`: raw examples in their own terms, and a `Scaling` that maps them into the range that
models see and knows what a density there means in bits of the raw data. `EpochOrder` says which
examples a training step sees.
"""

from sde_score._core.errors import DataError
from sde_score.data.dataset import Batch, DataInfo, DataSet, from_tensor, is_image
from sde_score.data.formats.torch_dataset import from_torch
from sde_score.data.loading import FORMATS, NAMED, available, load
from sde_score.data.order import EpochOrder
from sde_score.scaling import Scaling

__all__ = [
    "FORMATS",
    "NAMED",
    "Batch",
    "DataError",
    "DataInfo",
    "DataSet",
    "EpochOrder",
    "Scaling",
    "available",
    "from_tensor",
    "from_torch",
    "is_image",
    "load",
]
