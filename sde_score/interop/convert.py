"""Imported networks as run directories, which every verb opens."""

from __future__ import annotations

from pathlib import Path

from sde_score._core.checks import require_count
from sde_score._core.files import new_folder, require_new_folder
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
    require_new_folder(out)
    config = imported.config(step)
    weights = {name: tensor.detach() for name, tensor in imported.model().state_dict().items()}
    facts = DataFacts(
        imported.family,
        1,
        imported.event_shape,
        imported.num_classes,
        imported.scaling,
        imported.condition_shape,
        imported.condition_scaling,
    )
    state = TrainState(step, config.batch_size, facts, all_noise_levels=imported.all_noise_levels)
    tensors = {"model": weights, "ema": weights, "optimizer": {}, "objective": {}}
    with new_folder(out) as folder:
        save_config(config, folder / "config.yaml")
        Checkpoints(folder / "checkpoints").save(state, tensors)
    return out
