"""Samples on disk: arrays in the data's own terms, or a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sde_score._core.files import replace_file
from sde_score.data import Scaling
from sde_score.report.pictures import in_shown_range, save_examples

FORMATS = (".npz", ".npy", ".png")


def save_samples(x: Tensor, path: Path, scaling: Scaling, labels: Tensor | None = None) -> None:
    """Write samples, in one step.

    `.npz` holds `samples`, for conditional samples `labels` and for discrete data `levels`; `.npy`
    the samples alone; both in the data's own terms, so that `sde_score.data.load` reads them back.
    `.png` is a picture of the first 256.

    Args:
        x: in model range, shape `(n, *event)`.
        path: ending with one of `FORMATS`.
        scaling: of the data set.
        labels: of each sample.

    Raises:
        ValueError: for another ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        shown = in_shown_range(x[:256], scaling)
        save_examples(shown, path, columns=max(1, round(min(len(x), 256) ** 0.5)))
        return
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} must end with one of {', '.join(FORMATS)}")
    raw = scaling.from_model(x.float()).numpy()
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, raw, allow_pickle=False)
    else:
        arrays = {"samples": raw}
        if labels is not None:
            arrays["labels"] = labels.to(torch.int64).cpu().numpy()
        if scaling.levels is not None:
            arrays["levels"] = np.array(scaling.levels)
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    replace_file(path, buffer.getvalue())
