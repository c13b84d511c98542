"""Time grids: the noise levels at which a sampler stops on its way from noise to data."""

from sde_score.samplers.grids.base import GRIDS, Grid
from sde_score.samplers.grids.files import GridFile, read_grid_file, write_grid_file
from sde_score.samplers.grids.given import NoiseRatios, Times, from_file, sampler_of_file
from sde_score.samplers.grids.rules import (
    Angle,
    Karras,
    LogitNormal,
    Native,
    NoiseGrid,
    PolyExponential,
    Polynomial,
    RectifiedTime,
    UniformLogSNR,
    UniformTime,
)

GRIDS.fill(
    {
        "native": Native,
        "uniform": UniformTime,
        "polynomial": Polynomial,
        "log_snr": UniformLogSNR,
        "polyexponential": PolyExponential,
        "karras": Karras,
        "rectified": RectifiedTime,
        "angle": Angle,
        "logit_normal": LogitNormal,
        "file": from_file,
    }
)

available = GRIDS.names
create = GRIDS.create
register = GRIDS.register

__all__ = [
    "GRIDS",
    "Angle",
    "Grid",
    "GridFile",
    "Karras",
    "LogitNormal",
    "Native",
    "NoiseGrid",
    "NoiseRatios",
    "PolyExponential",
    "Polynomial",
    "RectifiedTime",
    "Times",
    "UniformLogSNR",
    "UniformTime",
    "available",
    "create",
    "from_file",
    "read_grid_file",
    "register",
    "sampler_of_file",
    "write_grid_file",
]
