"""Folders in the layout of the hub: `config.json`, `model.safetensors` and a model card.

`save_pretrained` writes one for a run, an imported network or a model; `from_pretrained`, `load`,
`sde-score convert` and `train(init_from=...)` read it. Nothing in it is executed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sde_score._core import __version__
from sde_score._core.conditions import ConditionShape, require_condition_shape
from sde_score._core.errors import DataError
from sde_score._core.files import require_writable
from sde_score._core.records import decoded, plain_record
from sde_score.interop import card
from sde_score.interop.extras import require_extra
from sde_score.interop.files import Contents, read_contents
from sde_score.interop.imported import Family, Imported
from sde_score.interop.keys import fitted, sketch
from sde_score.interop.schedules import text_of
from sde_score.models import PARAMETRIZATIONS, EnergyModel, FlowMap, ScoreModel
from sde_score.nn import tell_end
from sde_score.objectives import OBJECTIVES
from sde_score.scaling import ConditionScaling, Scaling
from sde_score.sdes import SDES
from sde_score.training import Run, load_run
from sde_score.training.config import is_note
from sde_score.training.errors import CheckpointError

LIBRARY = "sde_score"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

_NAME = re.compile(r"[\w.-]+/[\w.-]+")

Source = Imported | Run | ScoreModel | EnergyModel | FlowMap | str | os.PathLike[str]
"""What can be saved: a network that was read, a run or its directory, or a model in memory."""


def imported_from(
    source: Source,
    *,
    backbone: str | None = None,
    event_shape: tuple[int, ...] | None = None,
    scaling: Scaling | None = None,
    num_classes: int | None = None,
    condition_shape: ConditionShape | None = None,
) -> Imported:
    """A trained network of ours in the form of one that was read from a file.

    Args:
        source: see `Source`.
        backbone: of a model in memory: spec of its network, such as `"mlp(width=64)"`.
        event_shape: of a model in memory: shape of one example.
        scaling: of a model in memory: between raw values and model range; None for none.
        num_classes: of a model in memory: number of classes; None for 0.
        condition_shape: of a model in memory: what it is told beside classes; None for nothing.

    Raises:
        TypeError: for anything else.
        ValueError: for a network that no text names, a model without its backbone and event_shape,
            or one of these given beside something that says them itself.
    """
    said: dict[str, object] = {
        "backbone": backbone,
        "event_shape": event_shape,
        "scaling": scaling,
        "num_classes": num_classes,
        "condition_shape": condition_shape,
    }
    if isinstance(source, (ScoreModel, EnergyModel, FlowMap)):
        if backbone is None or event_shape is None:
            raise ValueError(
                "a model in memory does not say what its network is built by: give backbone=..., "
                "such as 'mlp(width=64)', and event_shape=..."
            )
        found = _of_model(source, backbone, tuple(event_shape), num_classes or 0)
        found = found.replaced(scaling=scaling or Scaling(), condition_shape=condition_shape or ())
        fitted(_sketch(found), found.state)
        return found
    if given := [name for name, value in said.items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: only a model in memory needs this; leave it out")
    if isinstance(source, Imported):
        return source
    if isinstance(source, (str, os.PathLike)):
        source = load_run(Path(source))
    if not isinstance(source, Run):
        raise TypeError(
            f"{source!r:.80} must be a run, its directory, what interop.load returns, or a model"
        )
    return _of_run(source)


def _of_run(run: Run) -> Imported:
    spec = run.config.backbone
    if is_note(spec) or is_note(run.config.model) or not isinstance(spec, str):
        raise ValueError(
            f"the run in {run.path} has a network that no text names, {spec}: a folder is loaded "
            "by others from text alone. Register its class (docs/registering.md) and train by that "
            "name, or save run.model.state_dict() yourself"
        )
    found = _of_model(run.model, spec, run.event_shape, run.num_classes)
    return found.replaced(
        scaling=run.scaling,
        condition_shape=run.condition_shape,
        condition_scaling=run.data.condition_scaling,
        all_noise_levels=run.all_noise_levels,
        flow_map=_identity_of(run),
        facts={"step": run.step, **card.facts_of(run)},
    )


def _identity_of(run: Run) -> str | None:
    """The objective of a flow map, the default one where no text names it."""
    if not isinstance(run.model, FlowMap):
        return None
    return "mean-flow" if is_note(run.config.objective) else str(run.config.objective)


def _of_model(
    model: ScoreModel | EnergyModel | FlowMap,
    spec: str,
    event_shape: tuple[int, ...],
    num_classes: int,
) -> Imported:
    network: Any = model.backbone
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    return Imported(
        LIBRARY,
        spec,
        event_shape,
        model.sde,
        str(PARAMETRIZATIONS.text_of(model.parametrization) or model.parametrization),
        state,
        model.sigma_data,
        num_classes=num_classes,
        needs_condition=model.needs_condition,
        energy=model.head if isinstance(model, EnergyModel) else None,
        flow_map="mean-flow" if isinstance(model, FlowMap) else None,
    )


def save_pretrained(source: Source, folder: str | Path, **described: Any) -> Path:
    """Write a folder that `from_pretrained` and the hub understand.

    Args:
        source: see `Source`; of a run these are the weights it was opened with.
        folder: made if it is not there; files of these names in it are replaced.
        described: of a model in memory, see `imported_from`.

    Returns:
        The folder.

    Raises:
        ValueError: for a network that no text names.
        OSError: if a file cannot be written.
    """
    from safetensors.torch import save_file

    found, folder = imported_from(source, **described), Path(folder)
    require_writable(folder / CONFIG, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous().clone() for name, value in found.state.items()}
    config = json.dumps(config_of(found), indent=2) + "\n"
    text = card.text(found, _id_of(folder))
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as new:
        save_file(weights, Path(new) / WEIGHTS, metadata={"format": "pt"})
        (Path(new) / CONFIG).write_text(config, encoding="utf-8")
        (Path(new) / CARD).write_text(text, encoding="utf-8")
        for name in (WEIGHTS, CARD, CONFIG):
            os.replace(Path(new) / name, folder / name)
    return folder


def _id_of(folder: Path) -> str:
    return folder.resolve().name


def config_of(imported: Imported) -> dict[str, Any]:
    """Content of `config.json`: all that a network is loaded by."""
    facts = {key: value for key, value in imported.facts.items() if _is_plain(value)}
    return {
        "library": LIBRARY,
        "version": __version__,
        "backbone": imported.backbone,
        "event_shape": list(imported.event_shape),
        "num_classes": imported.num_classes,
        "needs_condition": imported.needs_condition,
        "sde": text_of(imported.sde),
        "prediction": imported.prediction,
        "sigma_data": imported.sigma_data,
        "energy": imported.energy,
        "flow_map": imported.flow_map,
        "all_noise_levels": imported.all_noise_levels,
        "scaling": imported.scaling.record(),
        "condition_shape": imported.condition_shape,
        "condition_scaling": plain_record(imported.condition_scaling),
        "family": imported.family,
        "notes": list(imported.notes),
        "facts": facts,
    }


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def from_pretrained(
    source: str | Path, *, revision: str | None = None, token: str | None = None
) -> Imported:
    """Load a folder of `save_pretrained`, from the disk or from the hub.

    Args:
        source: the folder, or where there is none of this name, `"owner/name"` on the hub.
        revision: branch, tag or commit on the hub; None for the main one.
        token: for private models on the hub; None takes what `hf auth login` left.

    Returns:
        The network; `.model()` is the model, and `sde_score.interop.convert.save_run` or
        `sde-score convert` make a run directory of it.

    Raises:
        CheckpointError: for a folder that is damaged or not one of these.
        DataError: for a model on the hub, if huggingface_hub is not installed.
    """
    folder = Path(source)
    if not folder.exists() and _NAME.fullmatch(str(source)):
        try:
            hub = require_extra("huggingface_hub", "hub")
        except DataError as error:
            raise DataError(f"there is no folder {str(source)!r}, and {error}") from error
        names = [CONFIG, WEIGHTS]
        found = hub.snapshot_download(
            str(source), revision=revision, token=token, allow_patterns=names
        )
        folder = Path(found)
    contents = read_contents(folder)
    if not recognizes(contents):
        raise CheckpointError(
            f"{folder} is no folder of save_pretrained: its {CONFIG} does not name {LIBRARY}; "
            "interop.load reads folders of others"
        )
    return read(contents)


def push_to_hub(
    source: Source,
    name: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str | None = None,
    **described: Any,
) -> str:
    """Put a model on the hub.

    Args:
        source: as for `save_pretrained`.
        name: of the repository, `"owner/name"`; made if it is not there.
        private: of a repository that is made: whether others cannot see it.
        token: with the right to write; None takes what `hf auth login` left.
        message: of the commit; None for a short one.
        described: of a model in memory, see `imported_from`.

    Returns:
        The address of the commit or repository.

    Raises:
        DataError: if huggingface_hub is not installed.
        ValueError: for another form of name, or as for `save_pretrained`.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"name={name!r} must be 'owner/name', such as 'me/digits-vp'")
    hub = require_extra("huggingface_hub", "hub")
    parent = Path(tempfile.mkdtemp(prefix="sde-score-"))
    try:
        folder = save_pretrained(source, parent / name.split("/")[1], **described)
        text = card.text(imported_from(source, **described), name)
        (folder / CARD).write_text(text, encoding="utf-8")
        api = hub.HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            commit_message=message or f"Upload a model of {LIBRARY}",
        )
    finally:
        shutil.rmtree(parent, ignore_errors=True)
    return str(commit)


def recognizes(contents: Contents) -> bool:
    """Whether a folder was written by `save_pretrained`."""
    config = contents.config.get(CONFIG)
    return isinstance(config, Mapping) and config.get("library") == LIBRARY


def read(contents: Contents) -> Imported:
    """A folder of `save_pretrained`.

    Raises:
        CheckpointError: for a configuration that is damaged, or weights that do not fit it.
    """
    config = contents.config.get(CONFIG)
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{contents.path} has no {CONFIG}: give the folder, not a file of it")
    try:
        shape = tuple(int(size) for size in config["event_shape"])
        energy, flow_map = config.get("energy"), config.get("flow_map")
        found = Imported(
            str(config.get("family", LIBRARY)),
            _text(config, "backbone"),
            shape,
            SDES.resolve(_text(config, "sde")),
            _text(config, "prediction"),
            contents.tensors,
            float(config["sigma_data"]),
            Scaling.from_record(config["scaling"]),
            int(config["num_classes"]),
            bool(config["needs_condition"]),
            tuple(map(str, config.get("notes", ()))),
            dict(config.get("facts", {})),
            None if energy is None else str(energy),
            bool(config.get("all_noise_levels", True)),
            require_condition_shape(
                decoded("condition_shape", ConditionShape, config.get("condition_shape", []))
            ),
            decoded("condition_scaling", ConditionScaling, config["condition_scaling"])
            if "condition_scaling" in config
            else Scaling(),
            None if flow_map is None else _text(config, "flow_map"),
        )
        if flow_map is not None:
            OBJECTIVES.resolve(_text(config, "flow_map"))
        PARAMETRIZATIONS.resolve(found.prediction)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{contents.path / CONFIG} cannot be used: {reason}") from error
    state: dict[str, Tensor] = fitted(_sketch(found), found.state)
    return found.replaced(state=state)


def _sketch(found: Imported) -> nn.Module:
    told = found.num_classes, found.condition_shape
    network = sketch(found.backbone, found.event_shape, *told)
    return network if found.flow_map is None else tell_end(network)


def _text(config: Mapping[str, Any], key: str) -> str:
    if not isinstance(config[key], str):
        raise TypeError(f"{key}={config[key]!r:.80} must be text")
    return str(config[key])


FAMILY = Family("sde_score", recognizes, read)
