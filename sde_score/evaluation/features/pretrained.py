"""Feature extractors from files of pretrained networks; nothing is ever downloaded.

Networks trained on photographs want 8-bit colors, while a model has numbers around zero. For data
of L gray levels, which fill [-1, 1], the level is `floor((x + 1) L / 2)`; level 0 is black, L - 1
white.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_device
from sde_score._core.errors import damaged, naming

# Mean and standard deviation of ImageNet's colors in [0, 1], which DINOv2 was trained with.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class TorchScript:
    """A network from a TorchScript file, called as `network(x)` with x float32 in model range.

    A TorchScript file is a program: open only files of trusted origin.

    Args:
        path: the file.
        device: where the network runs.

    Raises:
        ValueError: if the file cannot be read.
    """

    path: str | Path
    device: str = "cpu"
    network: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require_device("device", self.device)
        object.__setattr__(self, "network", _load_script(self.path, self.device))

    @property
    def name(self) -> str:
        """The name of the file, without its suffix."""
        return Path(self.path).stem

    def __call__(self, x: Tensor) -> Tensor:
        """Features of a batch `(n, *event)`, flattened to `(n, features)`."""
        features: Tensor = self.network(x.to(self.device, torch.float32))
        return features.flatten(1)


@dataclass(frozen=True, eq=False)
class Inception:
    """The Inception-v3 of 2015 as the StyleGAN and EDM papers distribute it, a TorchScript file.

    It takes 8-bit images `(n, 3, height, width)` of any size, resizes them itself, and returns 2048
    features when called with `return_features=True`. Gray images become color images.

    Args:
        path: the file, often called `inception-2015-12-05.pt`; open only one of trusted origin.
        levels: number of gray levels of the data.
        device: where the network runs.

    Raises:
        ValueError: if the file cannot be read.

    Reference: Heusel et al. 2017, https://arxiv.org/abs/1706.08500; Karras et al. 2022,
        https://arxiv.org/abs/2206.00364.
    """

    path: str | Path
    levels: int = 256
    device: str = "cpu"
    name: str = field(default="inception", init=False)
    network: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require_device("device", self.device)
        require_count(2, levels=self.levels)
        object.__setattr__(self, "network", _load_script(self.path, self.device))

    def __call__(self, x: Tensor) -> Tensor:
        """Features of images `(n, 1 or 3, height, width)` in model range."""
        images = eight_bit_colors(x.to(self.device), self.levels)
        features: Tensor = self.network(images, return_features=True)
        return features.flatten(1)


@dataclass(frozen=True, eq=False)
class DINOv2:
    """The class token of a DINOv2 vision transformer, from a local folder of `transformers`.

    Images are resized to `size` x `size` by antialiased bicubic interpolation and normalized by the
    mean and standard deviation of ImageNet.

    Args:
        path: folder with `config.json` and `model.safetensors`.
        levels: number of gray levels of the data.
        size: side of the image that the network sees, a multiple of its patch size.
        device: where the network runs.

    Raises:
        ImportError: if `transformers` is not installed.
        ValueError: if the folder cannot be read.

    Reference: Oquab et al. 2023, https://arxiv.org/abs/2304.07193; as a measure of generative
        models: Stein et al. 2023, https://arxiv.org/abs/2306.04675.
    """

    path: str | Path
    levels: int = 256
    size: int = 224
    device: str = "cpu"
    name: str = field(default="dinov2", init=False)
    network: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require_device("device", self.device)
        require_count(2, levels=self.levels)
        require_count(size=self.size)
        try:
            load = importlib.import_module("transformers").AutoModel.from_pretrained
        except ImportError as error:
            raise ImportError(
                "the extractor 'dinov2' needs transformers, which is not installed: "
                "pip install transformers"
            ) from error
        with naming(self.path), damaged("a folder of a transformers model"):
            # A name that is no folder would be looked up on the hub, or in its cache.
            if not Path(self.path).is_dir():
                raise FileNotFoundError("there is no such folder")
            network = load(self.path, local_files_only=True, use_safetensors=True)
        object.__setattr__(self, "network", network.to(self.device).eval())

    def __call__(self, x: Tensor) -> Tensor:
        """Features of images `(n, 1 or 3, height, width)` in model range."""
        colors = eight_bit_colors(x.to(self.device), self.levels).float() / 255
        side = (self.size, self.size)
        colors = F.interpolate(colors, side, mode="bicubic", antialias=True)
        mean, std = (
            colors.new_tensor(values).reshape(3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD)
        )
        tokens: Tensor = self.network(pixel_values=(colors - mean) / std).last_hidden_state
        return tokens[:, 0]


def eight_bit_colors(x: Tensor, levels: int = 256) -> Tensor:
    """Images in model range as 8-bit colors, uint8, shape `(n, 3, height, width)`.

    Args:
        x: shape `(n, 1 or 3, height, width)`; numbers beyond [-1, 1] become black or white.
        levels: number of gray levels of the data.

    Raises:
        ValueError: if `x` has another shape.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"x of shape {tuple(x.shape)} does not hold images: this extractor takes gray or "
            "color images of shape (n, 1 or 3, height, width)"
        )
    level = ((x.to(torch.float32) + 1) * (levels / 2)).floor().clamp(0, levels - 1)
    colors = (level * (255 / (levels - 1))).round().to(torch.uint8)
    return colors.expand(-1, 3, -1, -1).contiguous()


def _load_script(path: str | Path, device: str) -> nn.Module:
    with naming(path), damaged("a TorchScript file"):
        network: nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    return network.eval()
