"""Objects of a configuration: data, model and objective."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, cast

import torch
from torch import nn

from sde_score import data
from sde_score._core.conditions import ConditionShape
from sde_score._core.memory import require_memory
from sde_score._core.registry import Registry, format_spec, parse_spec, refuse_unknown
from sde_score.data import DataSet
from sde_score.models import Caller, EnergyBased, EnergyModel, FlowMap, FlowMapModel, ScoreModel
from sde_score.nn import create as create_backbone
from sde_score.nn import default_for, tell_end
from sde_score.nn.blocks.resampling import weights_channels_last
from sde_score.objectives import (
    OBJECTIVES,
    TIME_SAMPLERS,
    Objective,
    times_of,
)
from sde_score.random import initializing
from sde_score.sdes import SDE, SDES
from sde_score.training.condition_dropout import settle_dropout
from sde_score.training.config import REGISTRIES, TrainConfig, is_auto, is_note, is_whole, note
from sde_score.training.couplings import require_coupling
from sde_score.training.rng_streams import INIT
from sde_score.training.schedules import with_length, with_length_of

TrainedModel = ScoreModel | EnergyModel | FlowMap
"""Model of a run."""

_NEEDED = {"energy": ("an energy", EnergyBased), "flow map": ("a flow map", FlowMapModel)}
_SPLIT_SEED = 0  # not the run's seed, so that runs are compared on the same held-out examples
_BY_THE_DATA = ("event_shape", "num_classes", "condition_shape")


def settle(config: TrainConfig, examples: DataSet) -> TrainConfig:
    """The same configuration with nothing left to guess but the precision, which `prepare` chooses
    by the network; objects stay objects.

    Args:
        config: what the user asked for.
        examples: the training data; `sigma_data` is measured on them.

    Raises:
        ValueError: for an unknown SDE or objective, or fields that do not fit each other.
    """
    numbers = config.batch_size // config.accumulate * prod(examples.event_shape)
    require_memory(4 * numbers, f"batch_size={config.batch_size}", "increase accumulate")
    if config.dequantize and not examples.is_discrete:
        _without_effect("dequantize=True", "the data are continuous and have no levels to spread")
    config = settle_dropout(_at_times_of_sde(config), examples)
    schedule = with_length(config.schedule, config.steps)
    for name in ("optimizer", "augmentation"):
        REGISTRIES[name].resolve(getattr(config, name), name=name)
    config = dataclasses.replace(config, schedule=schedule)
    objective = OBJECTIVES.resolve(config.objective)
    told = examples.condition_shape if config.conditional else ()
    require_coupling(config.coupling, objective, told)
    model: Any = config.model
    if is_whole(model):
        return _settle_whole(config, objective)
    kind = objective.needs.replace(" ", "-")
    if kind != "score" and model not in ("auto", kind):
        what = f"objective={config.objective!r} needs {_NEEDED[objective.needs][0]}"
        raise ValueError(f"{what}: choose model={kind}, or auto")
    automatic = {
        "backbone": default_for(examples.event_shape),
        "model": kind,
        "prediction": "edm" if objective.all_noise_levels else "scaled_score",
    }
    taken: dict[str, Any] = {
        n: value for n, value in automatic.items() if is_auto(getattr(config, n))
    }
    head = TrainConfig.__dataclass_fields__["head"].default
    if taken.get("model", model) != "energy" and config.head != head:
        _without_effect(f"head={config.head}", "a score needs no map to an energy")
    sigma_data = config.sigma_data
    taken["sigma_data"] = examples.sigma_data if sigma_data is None else float(sigma_data)
    if sigma_data is None and not taken["sigma_data"]:
        raise ValueError(
            "all training examples are 0 in model range, so that sigma_data cannot be measured on "
            "them: set it, as with sigma_data=0.5 (--sigma-data 0.5)"
        )
    return dataclasses.replace(config, **taken)


def _without_effect(setting: str, reason: str) -> None:
    warnings.warn(f"{setting} has no effect: {reason}", stacklevel=4)


def _at_times_of_sde(config: TrainConfig) -> TrainConfig:
    """With the training times of the SDE by name, where the objective leaves them open."""
    if (opened := _with_open_times(config.objective)) is None:
        return config
    sde: SDE = getattr(config.model, "sde", None) or SDES.resolve(config.sde)
    name, arguments, options = opened
    arguments["time_sampler"] = format_spec(times_of(sde), options)
    return dataclasses.replace(config, objective=format_spec(name, arguments))


def as_before(config: TrainConfig, stored: TrainConfig) -> TrainConfig:
    """With times and length of the run that is continued, where they are left open."""
    if not is_note(config.schedule):
        schedule = with_length_of(config.schedule, str(stored.schedule))
        config = dataclasses.replace(config, schedule=schedule)
    if (opened := _with_open_times(config.objective)) is None:
        return config
    name, arguments, _ = opened
    try:
        before, given = parse_spec(str(stored.objective))
    except ValueError:  # a damaged configuration, which is compared with this one and refused
        return config
    if name != before or "time_sampler" not in given:
        return config
    arguments["time_sampler"] = given["time_sampler"]
    return dataclasses.replace(config, objective=format_spec(name, arguments))


def _with_open_times(
    objective: str | Objective,
) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    """Name and arguments of an objective whose times are those of its SDE, and options of `auto`.

    None for an objective with times of its own, or an object that no text names.
    """
    text = objective if isinstance(objective, str) else OBJECTIVES.text_of(objective)
    if text is None or is_note(text):
        return None
    name, arguments = parse_spec(complete_spec(OBJECTIVES, text))
    times, options = parse_spec(str(arguments.get("time_sampler")))
    if times not in TIME_SAMPLERS or TIME_SAMPLERS.listed(times) != "auto":
        return None
    return name, arguments, options


def _settle_whole(config: TrainConfig, objective: Objective) -> TrainConfig:
    """With a whole model its SDE, network and scales are given."""
    model: Any = config.model
    if not isinstance(model, nn.Module) or not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"model={note(model)} has no parameters to train: give a torch module")
    what, kind = _NEEDED.get(objective.needs, ("", object))
    if not isinstance(model, kind):
        raise ValueError(f"objective={config.objective!r} needs {what}, and model has none")
    default, sde = TrainConfig(), cast(SDE, model.sde)
    for name in ("backbone", "prediction", "head", "sigma_data"):
        if getattr(config, name) != getattr(default, name):
            raise ValueError(f"{name} is part of the model that is given: leave it out")
    if config.sde != default.sde and SDES.resolve(config.sde) != sde:
        raise ValueError(f"sde={config.sde!r} is not that of the model, {sde!r}: leave it out")
    return dataclasses.replace(config, sde=sde)


def as_text(config: TrainConfig) -> TrainConfig:
    """The configuration as a file holds it: specs in full, and notes for what no text can name."""
    texts: dict[str, Any] = {
        n: _text(registry, getattr(config, n)) for n, registry in REGISTRIES.items()
    }
    if is_whole(config.model):
        texts["model"] = note(config.model)
    texts |= {n: start_text(getattr(config, n)) for n in ("init_from", "teacher")}
    return dataclasses.replace(config, **texts)


def start_text(source: Any) -> str | None:
    """The text that stands for `init_from` or `teacher`: an absolute path, or a note."""
    place = getattr(source, "path", source)  # of a run
    if place is None or is_note(place):
        return None if place is None else str(place)
    return os.path.abspath(place) if isinstance(place, (str, os.PathLike)) else note(source)


OPENING = ("model", "backbone", "sde", "prediction")
"""Fields that hold what a trained model is made of."""

RECIPE = (*(name for name in REGISTRIES if name not in OPENING), "teacher")
"""Fields that hold what it is trained with."""


def as_fields(model: Any) -> dict[str, Any]:
    """Fields of a configuration for a model that is given: whole, or a network alone.

    Raises:
        TypeError: for anything else.
    """
    if model is None:
        return {}
    if is_whole(model):
        return {"model": model}
    if isinstance(model, nn.Module):
        return {"backbone": model}
    raise TypeError(
        f"model={model!r:.80} must be a network, called as network(x, noise_level, condition), or "
        "a whole model such as ScoreModel(network, sde)"
    )


def require_objects(config: TrainConfig, names: Sequence[str], owner: str, how: str) -> None:
    """Refuse a configuration in which an object is still a note.

    Args:
        config: of a run.
        names: fields to look at.
        owner: of the configuration, for the message.
        how: the call that takes the object, with {} for its argument.

    Raises:
        ValueError: naming the object and the argument to give it by.
    """
    for name in names:
        value = getattr(config, name)
        if is_note(value):
            raise ValueError(
                f"{owner} was trained with {name} {value}, an object that no text names: give it "
                f"again, as in {how.format(name)}"
            )


def resolve(config: TrainConfig, dataset: DataSet) -> TrainConfig:
    """The configuration as the file of a run holds it: text and numbers, nothing left to guess.

    Args:
        config: what the user asked for.
        dataset: the examples to train on; `sigma_data` is measured on them.

    Raises:
        ValueError: for an unknown SDE, network or objective, labels that are not there, or fields
            that do not fit each other.
    """
    return as_text(settle(config, dataset))


def _text(registry: Registry[Any], value: Any) -> str:
    text = value if isinstance(value, str) else registry.text_of(value)
    if text is None:
        return note(value)
    plain = is_note(text) or text == "auto" or registry.kind == "prediction"
    return text if plain else complete_spec(registry, text, _BY_THE_DATA)


def complete_spec(registry: Registry[Any], spec: str, given: tuple[str, ...] = ()) -> str:
    """A spec with its default arguments: `vp` becomes `vp(beta_min=0.1, beta_max=20.0)`.

    Args:
        registry: of the kind of thing.
        spec: a name with optional arguments.
        given: arguments that come from elsewhere, left out.
    """
    name, arguments = parse_spec(spec)
    parameters = inspect.signature(registry[name]).parameters
    refuse_unknown(f"{registry.kind} {name!r}", arguments, set(parameters) - set(given))
    full = {}
    for key, parameter in parameters.items():
        if key in arguments or (key not in given and _is_literal(parameter.default)):
            value = arguments.get(key, parameter.default)
            # 12 and 12.0 are one choice, so they are written alike.
            full[key] = float(value) if isinstance(parameter.default, float) else value
    return format_spec(registry.listed(name), full)


def _is_literal(value: Any) -> bool:
    """Whether a spec can hold a value; the defaults of things of users may be anything."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def build_model(
    config: TrainConfig,
    event_shape: Sequence[int],
    num_classes: int = 0,
    condition_shape: ConditionShape = (),
) -> TrainedModel:
    """The untrained model, on the CPU: a function of the configuration alone.

    Objects of the configuration are copied, so that the caller's stay as they are.

    Args:
        config: settled; see `sde_score.training.resolve`.
        event_shape: shape of one example.
        num_classes: classes of the data; used if the configuration is conditional.
        condition_shape: what else the conditions of the data are, as well.

    Raises:
        ValueError: for an unknown SDE or network, or a configuration that is not settled.
    """
    if is_whole(config.model):
        whole = cast(TrainedModel, copy.deepcopy(config.model)).cpu()
        return _conditional(whole, config)
    left = (config.backbone, config.model, config.prediction)
    if config.sigma_data is None or any(map(is_auto, left)):
        raise ValueError("config is not resolved: pass it through resolve(config, dataset) first")
    own = isinstance(config.backbone, nn.Module)
    with initializing(config.seed, INIT):
        if isinstance(config.backbone, nn.Module):
            backbone = copy.deepcopy(config.backbone).cpu()
        else:
            told = (num_classes, condition_shape) if config.conditional else ()
            with in_float32():
                backbone = create_backbone(config.backbone, tuple(event_shape), *told)
        if config.model == "energy" and config.head in ("square", "scalar"):
            _wake(backbone)
        if config.model == "flow-map":
            backbone = _told(backbone, own)
    sde, scales = SDES.resolve(config.sde), (config.prediction, config.sigma_data)
    model: TrainedModel
    if config.model == "energy":
        model = EnergyModel(backbone, sde, config.head, *scales)
    elif config.model == "flow-map":
        model = FlowMap(backbone, sde, *scales)
        model.to_data_alone = _to_data_alone(config.objective)
    else:
        model = ScoreModel(backbone, sde, *scales)
    _conditional(model, config)
    if not own:
        weights_channels_last(model)
    return model


def _to_data_alone(objective: str | Objective) -> bool:
    known = None if is_note(objective) else OBJECTIVES.resolve(objective)
    return bool(getattr(known, "to_data_alone", False))


def _told(backbone: nn.Module, own: bool) -> nn.Module:
    """A network that is told the end; one of the user's own may read it in a way of its own."""
    try:
        return tell_end(backbone)
    except ValueError:
        if own:
            return backbone
        raise


def _conditional(model: TrainedModel, config: TrainConfig) -> TrainedModel:
    """The model, which refuses conditions that training does not show it, or their absence."""
    if isinstance(model, Caller):
        dropped = config.condition_dropout or 0.0
        model.needs_condition = config.conditional and not dropped
        model.unconditional_examples = int(config.steps * config.batch_size * dropped)
        model.takes_condition = model.takes_condition and config.conditional
    return model


@contextmanager
def in_float32() -> Iterator[None]:
    """What names no dtype is float32, whatever the default of the process is."""
    usual = torch.get_default_dtype()
    if usual == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _wake(backbone: nn.Module) -> None:
    """Give random weights to layers that start at zero.

    There the gradient of f^2 is zero too, and f is linear in x, so that its sum has no curvature
    and no objective that looks at curvature alone would ever move it.
    """
    for weight in backbone.parameters():
        if weight.ndim > 1 and not bool(weight.any()):
            nn.init.kaiming_uniform_(weight, a=5**0.5)


def split_data(config: TrainConfig, whole: DataSet | None = None) -> tuple[DataSet, DataSet | None]:
    """The data set of a configuration as (training part, held-out part).

    Args:
        config: data set and held-out fraction; the parts depend on nothing else.
        whole: the data set if it is at hand, instead of loading it; nothing is held out of a
            stream.

    Raises:
        DataError: if the data cannot be loaded.
        ValueError: if `held_out` leaves one part empty.
    """
    if whole is None:
        whole = data.load(config.data, config.condition_columns, config.on_bad_example)
    if config.held_out == 0 or whole.stream is not None:
        return whole, None
    return whole.split(float(config.held_out), seed=_SPLIT_SEED)
