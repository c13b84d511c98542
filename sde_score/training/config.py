"""All choices of a training run in one immutable object: it is `config.yaml` and it is the flags.

A resolved configuration has nothing left to guess: `backbone="auto"` and `sigma_data=None` have
become what they stand for, and every spec names all its arguments, so that a run means the same
after a default has changed.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sde_score import nn, objectives, sdes
from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score._core.files import replace_file
from sde_score._core.registry import Registry, format_spec, parse_spec, refuse_unknown
from sde_score.data import DataSet
from sde_score.training.errors import CheckpointError

_LARGEST_FILE = 1 << 20  # bytes; far above any honest configuration

FREE = (
    "steps",
    "batch_size",
    "accumulate",
    "compile",
    "device",
    "checkpoint_every",
    "keep",
    "sample_every",
    "log_every",
)
"""Fields that a continued run may change: what is learned does not depend on them, provided that
the examples of a step stay the same in all (`batch_size` times processes; the trainer checks)."""


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how."""

    data: str = "digits"
    """Data set: a name, or the path of a file or folder."""

    sde: str = "vp"
    """Forward diffusion, such as vp, ve(sigma_max=30) or edm."""

    backbone: str = "auto"
    """Network, such as mlp(width=256) or unet(base=64); auto chooses by the shape of an example."""

    model: Literal["auto", "score", "energy"] = "auto"
    """What the network gives: a score, or an energy whose gradient is the score; auto takes an
    energy where the objective needs one."""

    head: Literal["scalar", "square", "residual", "inner"] = "residual"
    """How the network's output becomes an energy."""

    prediction: Literal["auto", "noise", "data", "velocity", "score", "edm", "scaled_score"] = (
        "auto"
    )
    """What the network's output means; auto takes noise where all noise levels are trained,
    scaled_score where data without noise are."""

    objective: str = "denoising"
    """What is minimized, such as denoising(weighting='likelihood') or hutchinson; see sde-score
    objectives."""

    steps: int = 3000
    """Optimizer steps in all, at least 1."""

    batch_size: int = 128
    """Examples per process and step, at least 1."""

    accumulate: int = 1
    """Parts into which a batch is cut to save memory; divides batch_size."""

    learning_rate: float = 1e-3
    """Adam's learning rate after warm-up, > 0."""

    warmup: int = 100
    """Steps over which the learning rate rises from 0; 0 for none."""

    clip: float = 1.0
    """Largest norm of the gradient of all weights together; 0 for no limit."""

    ema: float = 0.999
    """Decay per step of the running average of the weights, in [0, 1); smaller in early steps."""

    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW), >= 0."""

    precision: Literal["float32", "bf16"] = "float32"
    """bf16 runs the network under autocast; weights and optimizer stay float32."""

    compile: bool = False
    """Compile the network: minutes of warm-up, then faster steps."""

    conditional: bool = False
    """Give the labels of the data to the network."""

    sigma_data: float | None = None
    """Standard deviation of the data in model range, > 0; None measures it."""

    dequantize: bool = False
    """Spread each level of discrete data evenly over its bin, as likelihoods need."""

    held_out: float = 0.1
    """Fraction of the data kept out of training for evaluation, in [0, 1)."""

    seed: int = 0
    """Names all randomness of the run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""

    checkpoint_every: int = 1000
    """Steps between checkpoints, at least 1; the last step always gets one."""

    keep: int = 2
    """Newest checkpoints to keep, at least 1."""

    sample_every: int = 0
    """Steps between grids of samples; 0 for none."""

    log_every: int = 50
    """Steps between lines of metrics.jsonl, at least 1."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(TrainConfig).items():
            _require_type(name, getattr(self, name), hint)
        require_count(
            steps=self.steps,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            checkpoint_every=self.checkpoint_every,
            keep=self.keep,
            log_every=self.log_every,
        )
        require_count(0, warmup=self.warmup, sample_every=self.sample_every)
        require_positive(learning_rate=self.learning_rate)
        if self.sigma_data is not None:
            require_positive(sigma_data=self.sigma_data)
        for name in ("clip", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be finite and at least 0")
        for name in ("ema", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie in [0, 1)")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} must divide batch_size={self.batch_size}: "
                "a batch is cut into equal parts"
            )


def _require_type(name: str, value: object, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if not isinstance(value, str):
            raise TypeError(f"{name}={reprlib.repr(value)} must be text")
        require_choice(name, value, get_args(hint))
        return
    accepted = tuple(get_args(hint)) or (hint,)
    if float in accepted:
        accepted = (*accepted, int)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        words = " or ".join("None" if t is type(None) else t.__name__ for t in accepted)
        raise TypeError(
            f"{name}={reprlib.repr(value)} must be of type {words}"
            + (" (YAML wants 1.0e-3 for 1e-3)" if isinstance(value, str) else "")
        )


def complete_spec(registry: Registry[Any], spec: str, given: tuple[str, ...] = ()) -> str:
    """Write out the default arguments of a spec: `vp` becomes `vp(beta_min=0.1, beta_max=20.0)`.

    Args:
        registry: knows the name.
        spec: a name with optional arguments.
        given: arguments that come from elsewhere, left out.
    """
    name, arguments = parse_spec(spec)
    parameters = inspect.signature(registry[name]).parameters
    refuse_unknown(f"{registry.kind} {name!r}", arguments, set(parameters) - set(given))
    full = {}
    for key, parameter in parameters.items():
        if key in arguments or (key not in given and parameter.default is not parameter.empty):
            value = arguments.get(key, parameter.default)
            # 12 and 12.0 are one choice, so they are written alike.
            full[key] = float(value) if isinstance(parameter.default, float) else value
    return format_spec(name, full)


def resolve(config: TrainConfig, dataset: DataSet) -> TrainConfig:
    """The same configuration with nothing left to guess.

    Args:
        config: what the user asked for.
        dataset: the examples to train on; `sigma_data` is measured on them.

    Raises:
        ValueError: for an unknown SDE, network or objective, or labels that are not there.
    """
    if config.conditional and not dataset.num_classes:
        raise ValueError(f"conditional=True needs labels; data={config.data!r} has none")
    backbone = config.backbone
    if backbone == "auto":
        backbone = nn.default_for(dataset.event_shape)
    sigma_data = config.sigma_data
    objective = objectives.create(config.objective)
    if config.model == "score" and objective.needs == "energy":
        raise ValueError(
            f"objective={config.objective!r} needs an energy: choose model=energy, or auto"
        )
    predictions = {True: "noise", False: "scaled_score"}
    return dataclasses.replace(
        config,
        model=_settled(config.model, "energy" if objective.needs == "energy" else "score"),
        prediction=_settled(config.prediction, predictions[objective.all_noise_levels]),
        sde=complete_spec(sdes.SDES, config.sde),
        backbone=complete_spec(nn.BACKBONES, backbone, ("event_shape", "num_classes")),
        objective=complete_spec(objectives.OBJECTIVES, config.objective),
        sigma_data=dataset.info().sigma_data if sigma_data is None else float(sigma_data),
    )


def _settled(choice: str, automatic: str) -> Any:
    return automatic if choice == "auto" else choice


def adopt(config: TrainConfig, stored: TrainConfig) -> TrainConfig:
    """Fill what `config` leaves open (`auto`, `None`) from the stored configuration of a run."""
    open_names = [n for n in ("backbone", "model", "prediction") if getattr(config, n) == "auto"]
    changes = {name: getattr(stored, name) for name in open_names}
    if config.sigma_data is None:
        changes["sigma_data"] = stored.sigma_data
    return dataclasses.replace(config, **changes)


def require_same(config: TrainConfig, stored: TrainConfig, out: Path) -> None:
    """Refuse to continue a run with another configuration; both are resolved.

    Raises:
        ValueError: naming every field that differs, except those in `FREE`.
    """
    names = [f.name for f in dataclasses.fields(TrainConfig) if f.name not in FREE]
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(stored)
    differ = [f"{n} is {ours[n]!r}, was {theirs[n]!r}" for n in names if ours[n] != theirs[n]]
    if differ:
        raise ValueError(
            f"{out} holds a run with another configuration: {'; '.join(differ)}. "
            "Give its own configuration to continue it, or another folder to start anew"
        )


def save_config(config: TrainConfig, path: Path) -> None:
    """Write `config.yaml`, in one step."""
    import yaml

    values = dataclasses.asdict(config)
    plain = {
        k: float(v) if isinstance(v, float) else v for k, v in values.items()
    }  # numpy's floats
    replace_file(path, yaml.safe_dump(plain, sort_keys=False).encode())


def load_config(path: str | Path) -> TrainConfig:
    """Read a `config.yaml`; fields that are not in it take their default.

    Raises:
        CheckpointError: naming the file and what is wrong: unreadable, unknown fields, wrong
            values.
    """
    import yaml

    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise ValueError(f"larger than {_LARGEST_FILE} bytes, no configuration is")
        values = yaml.safe_load(content.decode())
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ValueError("not a mapping of field names to values")
        fields = [field.name for field in dataclasses.fields(TrainConfig)]
        refuse_unknown("the configuration", values, fields)
        if values.get("sigma_data") is not None:  # resolved: the configuration of a run
            values.setdefault("model", "score")  # which in version 0.1.0 knew nothing else
        return TrainConfig(**values)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read as a configuration: {error}") from error
