"""Tar shards, as WebDataset writes them."""

from __future__ import annotations

from pathlib import Path

from sde_score._core.arguments import checked
from sde_score._core.checks import require_choice
from sde_score.data.dataset import DataSet
from sde_score.data.limits import MAX_PIXELS, Limits, require_side
from sde_score.data.sources.encoded import lazy_images
from sde_score.data.sources.files import shards_of
from sde_score.data.sources.tar import TarImages


@checked
def webdataset(
    path: Path,
    image: str | None = None,
    label: str = "cls",
    levels: int | None = None,
    size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_bad_example: str = "stop",
) -> DataSet:
    """Images in tar archives, `(channels, height, width)`, 256 levels, read lazily.

    Members whose names agree up to the first dot are one sample: an image, such as `0001.jpg`, and
    perhaps its label, an integer, as text in `0001.cls` or under `label` or `cls` in `0001.json`.
    Nothing is unpacked; an index is made of the headers, in the order of the shards' names.

    Args:
        path: an archive, a folder of `*.tar`, or a pattern such as `train-{0000..0127}.tar` or
            `shards/*.tar`.
        image: ending of the images, such as `input.png`, where samples have several.
        label: ending of the labels, or key in `.json`.
        levels: number of levels of masks or label maps; None for 256.
        size: side in pixels to which images are scaled after their middle square is cut out; None
            takes them as they are.
        max_pixels: limit of the pixels of one image.
        on_bad_example: `"skip"` passes over what is damaged in a shard, with a warning.

    Raises:
        DataError: if an archive is compressed, damaged or truncated, or a sample has no image or
            several.
    """
    require_side(size, max_pixels)
    require_choice("on_bad_example", on_bad_example, ("stop", "skip"))
    path = Path(path)
    files = shards_of(path, ".tar")
    limits = Limits(sum(file.stat().st_size for file in files), None, max_pixels)
    source = TarImages(files, limits, size, image, label, on_bad_example == "skip")
    return lazy_images(source, path.name, source.labels, levels=levels)
