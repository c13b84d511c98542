"""Configuration of a training run: one immutable object, the same as `config.yaml` and the flags.

What a field names by text it also takes as an object. The file of a run holds text and numbers
alone, and is *resolved*: `backbone="auto"` and `sigma_data=None` have become what they stand for,
and every spec names all its arguments, so that a run means the same after a default has changed. An
object that no text can name is noted by its class in angle brackets, such as `<MyNetwork>`.
"""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from sde_score import data as data_sets
from sde_score._core.arguments import checked_value
from sde_score._core.checks import (
    refusal,
    require_count,
    require_nonnegative,
    require_positive,
)
from sde_score._core.files import read_text, replace_file
from sde_score._core.registry import Registry, refuse_unknown
from sde_score.models import PARAMETRIZATIONS
from sde_score.nn import BACKBONES
from sde_score.objectives import OBJECTIVES
from sde_score.sdes import SDES
from sde_score.training.augmentation import AUGMENTATIONS
from sde_score.training.couplings import COUPLINGS
from sde_score.training.errors import CheckpointError
from sde_score.training.migration import migrated
from sde_score.training.optimizers import OPTIMIZERS
from sde_score.training.schedules import SCHEDULES

if TYPE_CHECKING:
    from torch import nn

    from sde_score.models import Model, Parametrization
    from sde_score.objectives import Objective
    from sde_score.sdes import SDE
    from sde_score.training.augmentation import Augmentation
    from sde_score.training.couplings import Coupling
    from sde_score.training.optimizers import Optimizer
    from sde_score.training.schedules import Schedule

    AnySDE = str | SDE
    AnyBackbone = str | nn.Module
    AnyModel = str | Model
    AnyPrediction = str | Parametrization
    AnyObjective = str | Objective
    AnyCoupling = str | Coupling
    AnyAugmentation = str | Augmentation
    AnyOptimizer = str | Optimizer
    AnySchedule = str | Schedule
    AnyStart = Any  # text, a path, a module or a `Run`, which is defined above this floor
else:  # what a flag of the command line can be
    AnySDE = AnyBackbone = AnyPrediction = AnyObjective = AnyStart = str
    AnyCoupling = AnyAugmentation = AnyOptimizer = AnySchedule = str
    AnyModel = Literal["auto", "score", "energy", "flow-map"]

REGISTRIES: dict[str, Registry[Any]] = {
    "sde": SDES,
    "backbone": BACKBONES,
    "prediction": PARAMETRIZATIONS,
    "objective": OBJECTIVES,
    "coupling": COUPLINGS,
    "augmentation": AUGMENTATIONS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
"""Fields that hold a spec or an object, and the registry of their kind."""

OBJECT_FIELDS = ("data", *REGISTRIES, "model", "init_from", "teacher")
"""Fields that may hold an object."""

FREE = (
    "steps",
    "batch_size",
    "accumulate",
    "compile",
    "shard",
    "device",
    "checkpoint_every",
    "keep",
    "sample_every",
    "log_every",
    "excess",
    "workers",
    "on_bad_example",
)
"""Fields that a continued run may change: what is learned does not depend on them, provided that
the examples of a step stay the same in all (`batch_size` times processes; the trainer checks)."""

NETWORK = ("backbone", "model", "prediction", "sigma_data")
"""Fields that say what the network is, and may be left open."""

ADJUSTABLE = ("learning_rate", "schedule", "warmup", "clip", "ema", "weight_decay", "precision")
"""Fields that `continue_with` may change in a continued run."""


@dataclass(frozen=True)
class TrainConfig:
    """All choices of a training run."""

    data: data_sets.Source = "digits"
    """Data set: a name, or the path of a file or folder."""

    sde: AnySDE = "vp"
    """Forward diffusion, such as vp, ve(sigma_max=30) or edm."""

    backbone: AnyBackbone = "auto"
    """Network, such as mlp(width=256) or unet(base=64); auto chooses by the shape of an example."""

    model: AnyModel = "auto"
    """Output of the network: a score, an energy whose gradient is the score, or a flow map, that is
    told two noise levels; auto takes what the objective needs."""

    head: Literal["scalar", "square", "residual", "inner"] = "residual"
    """Map from the network's output to an energy."""

    prediction: AnyPrediction = "auto"
    """Parametrization of the network's output: noise, data, velocity, score, edm or scaled_score;
    auto takes edm where all noise levels are trained, scaled_score where data without noise
    are."""

    objective: AnyObjective = "denoising"
    """Loss to minimize, such as denoising(weighting='likelihood') or hutchinson; see sde-score
    objectives."""

    coupling: AnyCoupling = "independent"
    """Which noise meets which example: independent, ot in each batch, or semi-discrete on all data;
    within classes where they are conditions."""

    augmentation: AnyAugmentation = "none"
    """Random changes of images: none, flip, or edm(probability=0.12) for networks with
    num_augment=9."""

    steps: int = 3000
    """Optimizer steps in all, at least 1."""

    batch_size: int = 128
    """Examples per process and step, at least 1; a run that is continued by another number of
    processes keeps those of all processes together."""

    accumulate: int = 1
    """Parts into which a batch is cut to save memory; divides batch_size."""

    optimizer: AnyOptimizer = "adam"
    """adam, or muon for the matrices inside the network; adam(decay='coupled') is that of
    score_sde."""

    learning_rate: float = 1e-3
    """Learning rate after warm-up, > 0."""

    schedule: AnySchedule = "constant"
    """Factor on the learning rate over the steps: constant, cosine, inverse-sqrt(reference=70000)
    or wsd."""

    warmup: int = 100
    """Steps over which the learning rate rises from 0; 0 for none."""

    clip: float = 1.0
    """Largest norm of the gradient of all weights together; 0 for no limit."""

    ema: float = 0.999
    """Decay per step of the running average of the weights, in [0, 1); smaller in early steps."""

    weight_decay: float = 0.0
    """Weight decay, >= 0; decoupled (AdamW) unless the optimizer says otherwise."""

    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """bf16 runs the network under autocast, fp16 too, for GPUs without bf16, with a scaled loss;
    weights and optimizer stay float32. auto takes bf16 for convolutional networks of a million
    weights where the device multiplies it itself, else float32."""

    compile: bool = False
    """Compile the network: minutes of warm-up, then faster steps."""

    shard: bool = False
    """Share the weights, their averages and the optimizer among processes (FSDP2), for networks too
    large for one GPU."""

    conditional: bool = False
    """Give the labels of the data, or their other conditions, to the network."""

    condition_columns: str | None = None
    """Columns of a table, such as a,b, that are told to the network in place of learned; the run is
    conditional then."""

    condition_dropout: float | None = None
    """Share of examples, in [0, 1), that are shown without their condition, so that the network
    learns all data without one too; None takes 0.1, or 0 for networks of your own."""

    sigma_data: float | None = None
    """Root mean square of the data in model range, > 0; None measures it."""

    dequantize: bool = False
    """Spread each level of discrete data evenly over its bin, for likelihoods."""

    held_out: float = 0.1
    """Fraction of the data kept out of training for evaluation, in [0, 1)."""

    workers: int | None = None
    """Processes that read the examples ahead of training; 0 reads them in between. None takes 0 for
    data in memory, and up to 4, by the cores, for data that are read lazily. Changes no bit."""

    on_bad_example: Literal["stop", "skip"] = "stop"
    """What to do where an image file or a row of a shard cannot be read: stop and name it, or skip
    it, which takes the next one in its place and counts."""

    seed: int = 0
    """Random seed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto takes a GPU where there is one."""

    checkpoint_every: int = 1000
    """Steps between checkpoints, at least 1; the last step always gets one."""

    snapshot_every: int = 0
    """Steps between snapshots of two power-function averages, of which one of any length is made
    after training, as weights ema(0.1); 0 for none."""

    keep: int = 2
    """Newest checkpoints to keep, at least 1."""

    sample_every: int = 0
    """Steps between grids of samples; 0 for none."""

    log_every: int = 50
    """Steps between lines of metrics.jsonl, at least 1."""

    excess: bool = False
    """Measure with each line of metrics.jsonl what the loss has above that of the best model for
    the training data."""

    init_from: AnyStart | None = None
    """Run directory, checkpoint folder, .safetensors file or checkpoint of other code with the
    first weights."""

    teacher: AnyStart | None = None
    """Run directory or checkpoint folder with the model whose flow a flow map learns, its averaged
    weights; None learns it from the data."""

    def __post_init__(self) -> None:
        named = is_whole(self.model) or is_note(self.model)
        for name, hint in get_type_hints(TrainConfig).items():
            if name not in OBJECT_FIELDS or (name == "model" and not named):
                value = checked_value(name, getattr(self, name), hint, dataclasses.MISSING)
                object.__setattr__(self, name, value)
        for name, registry in REGISTRIES.items():
            if not isinstance(getattr(self, name), (str, registry.base)):
                raise refusal(name, getattr(self, name), f"text or a {registry.kind}")
        if not is_auto(self.prediction) and not is_note(self.prediction):
            PARAMETRIZATIONS.resolve(self.prediction)
        if self.data is None:
            raise refusal("data", None, "text, a path or a data set")
        if self.condition_columns is not None:
            columns = ",".join(name.strip() for name in self.condition_columns.split(","))
            object.__setattr__(self, "condition_columns", columns)
            object.__setattr__(self, "conditional", True)
        require_count(
            steps=self.steps,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            checkpoint_every=self.checkpoint_every,
            keep=self.keep,
            log_every=self.log_every,
        )
        require_count(0, warmup=self.warmup, sample_every=self.sample_every)
        require_count(0, snapshot_every=self.snapshot_every)
        if self.workers is not None:
            require_count(0, workers=self.workers)
        require_positive(learning_rate=self.learning_rate)
        if self.sigma_data is not None:
            require_positive(sigma_data=self.sigma_data)
        require_nonnegative(clip=self.clip, weight_decay=self.weight_decay)
        for name in ("ema", "held_out", "condition_dropout"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise ValueError(f"{name}={share!r} must lie in [0, 1)")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} must divide batch_size={self.batch_size}: "
                "a batch is cut into equal parts"
            )


def note(thing: object) -> str:
    """What a configuration holds in place of an object that no text can name."""
    name = getattr(thing, "name", None)
    return f"<{name if isinstance(name, str) and name else type(thing).__name__}>"


def is_note(value: object) -> bool:
    """Whether a value of a configuration stands for an object that no text can name."""
    return isinstance(value, str) and value.startswith("<")


def is_auto(value: object) -> bool:
    """Whether a value of a configuration is left open."""
    return isinstance(value, str) and value == "auto"


def is_whole(model: object) -> bool:
    """Whether a value is a model, with its SDE and network, rather than the name of a kind."""
    return hasattr(model, "score") and hasattr(model, "sde")


def adopt(
    config: TrainConfig,
    stored: TrainConfig,
    names: tuple[str, ...] = (*NETWORK, "condition_dropout", "init_from", "precision"),
) -> TrainConfig:
    """Fill what `config` leaves open (`auto`, `None`) from the stored configuration of a run."""
    left_open = [n for n in names if getattr(config, n) is None or is_auto(getattr(config, n))]
    return dataclasses.replace(config, **{name: getattr(stored, name) for name in left_open})


def require_same(
    config: TrainConfig, stored: TrainConfig, out: Path, changing: tuple[str, ...] = ()
) -> None:
    """Refuse to continue a run with another configuration; both are resolved.

    The data are compared by what is in them, elsewhere.

    Args:
        config: what is asked for.
        stored: configuration of the run.
        out: run directory, for the message.
        changing: names of `ADJUSTABLE` fields that are to change.

    Raises:
        ValueError: naming every field that differs, except those in `FREE` and `changing`.
    """
    left_out = (*FREE, *changing, "data")
    names = [f.name for f in dataclasses.fields(TrainConfig) if f.name not in left_out]
    pairs = {name: (getattr(config, name), getattr(stored, name)) for name in names}
    differ = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not differ:
        return
    adjustable = [f"{name}={pair[0]}" for name, pair in differ.items() if name in ADJUSTABLE]
    hint = f" (or change on the way: --continue-with {' '.join(adjustable)})" if adjustable else ""
    raise ValueError(
        f"{out} holds a run with another configuration: "
        f"{'; '.join(f'{n} is {ours!r}, was {was!r}' for n, (ours, was) in differ.items())}. "
        f"Give its own configuration to continue it{hint}, or another folder to start anew"
    )


def save_config(config: TrainConfig, path: Path) -> None:
    """Write `config.yaml`, in one step; the configuration is resolved."""
    import yaml

    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    replace_file(path, yaml.safe_dump(values, sort_keys=False).encode())


def load_config(path: str | Path) -> TrainConfig:
    """Read a `config.yaml`; fields that are not in it take their default.

    Raises:
        CheckpointError: naming the file and what is wrong: unreadable, unknown fields, wrong
            values.
    """
    import yaml

    try:
        values = yaml.safe_load(read_text(Path(path)))
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ValueError("not a mapping of field names to values")
        fields = [field.name for field in dataclasses.fields(TrainConfig)]
        refuse_unknown("the configuration", values, fields)
        for name in OBJECT_FIELDS:
            if not isinstance(values.get(name, ""), str | None):
                raise TypeError(f"{name}={reprlib.repr(values[name])} must be text")
        return TrainConfig(**migrated(values))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        hint = " (YAML wants 1.0e-3 for 1e-3)" if "without quotes" in str(error) else ""
        reason = " ".join(str(error).split()) + hint
        raise CheckpointError(f"{path} cannot be read as a configuration: {reason}") from error
