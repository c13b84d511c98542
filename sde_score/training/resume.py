"""Whether a run may be continued: the same configuration, the same data, the same batch."""

from __future__ import annotations

from pathlib import Path

from sde_score.data import DataSet
from sde_score.training.config import TrainConfig, adopt, load_config, require_same, resolve
from sde_score.training.errors import CheckpointError
from sde_score.training.state import DataFacts, TrainState


def agreed_config(
    config: TrainConfig, examples: DataSet, out: Path, resume: bool = True
) -> TrainConfig:
    """The resolved configuration, in agreement with the one in the run directory if there is one.

    Args:
        config: what the user asked for.
        examples: the training data.
        out: run directory; need not exist.
        resume: whether a run in `out` may be continued.

    Raises:
        ValueError: if `out` holds a run and it is another one, or must not be continued.
        CheckpointError: if its configuration is damaged or missing.
    """
    path = out / "config.yaml"
    if not path.exists():
        if (out / "checkpoints").exists():
            raise CheckpointError(f"{path} is missing, but there are checkpoints beside it")
        return resolve(config, examples)
    if not resume:
        raise ValueError(f"{out} holds a run already: resume it or choose another folder")
    stored = load_config(path)
    config = resolve(adopt(config, stored), examples)
    require_same(config, stored, out)
    return config


def require_continuation(
    state: TrainState, config: TrainConfig, batch: int, data: DataFacts, out: Path
) -> None:
    """Refuse to continue with another batch, other data, or fewer steps than were taken.

    Args:
        state: of the checkpoint.
        config: what is asked for.
        batch: examples per step over all processes now.
        data: facts of the data now.
        out: run directory, for the message.

    Raises:
        ValueError: saying what differs.
    """
    if state.batch != batch:
        raise ValueError(
            f"batch_size={config.batch_size} makes {batch} examples a step over all processes, but "
            f"the run in {out} was begun with {state.batch}: choose batch_size x processes to match"
        )
    if not state.data.agrees(data):
        raise ValueError(
            f"data={config.data!r} has changed since the run in {out} was begun: "
            f"it is {data}, it was {state.data}"
        )
    if config.steps < state.step:
        raise ValueError(
            f"steps={config.steps} is less than the {state.step} taken by the run in {out}: "
            "give at least as many, or another folder"
        )
