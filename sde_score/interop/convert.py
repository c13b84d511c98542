"""Imported networks as run directories, which every verb opens."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sde_score._core.checks import require_count
from sde_score._core.files import require_writable
from sde_score.interop.imported import Imported
from sde_score.training.checkpoint import Checkpoints
from sde_score.training.config import save_config
from sde_score.training.state import DataFacts, TrainState


def save_run(imported: Imported, out: str | Path, step: int = 1) -> Path:
    """Write a run directory that `load_run` opens; it appears in one step, when it is whole.

    Its configuration is that of a run which would train such a network; its data are named
    `<family>`, so that what measures asks for data, and reads them in the range of the network.

    Args:
        imported: the network.
        out: folder, which must not exist or be empty.
        step: number of training steps, for the name of the checkpoint.

    Raises:
        ValueError: if the folder holds something.
        OSError: if it cannot be written.
    """
    require_count(step=step)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={str(out)!r} exists and is not an empty folder: choose another")
    require_writable(out, "out")
    config = imported.config(step)
    weights = {name: tensor.detach() for name, tensor in imported.model().state_dict().items()}
    facts = DataFacts(
        imported.family, 1, imported.event_shape, imported.num_classes, imported.scaling
    )
    state = TrainState(step, config.batch_size, facts, all_noise_levels=imported.all_noise_levels)
    tensors = {"model": weights, "ema": weights, "optimizer": {}, "objective": {}}
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        save_config(config, folder / "config.yaml")
        Checkpoints(folder / "checkpoints").save(state, tensors)
        folder.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return out
