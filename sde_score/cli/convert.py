"""`sde-score convert` and `sde-score inspect`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from sde_score._core.conditions import described
from sde_score.cli.options import Command
from sde_score.cli.output import say, show_lines, show_record, show_table
from sde_score.interop import Imported, load, save_diffusers, save_pretrained
from sde_score.interop.convert import save_run
from sde_score.interop.pretrained import imported_from
from sde_score.interop.schedules import text_of
from sde_score.nn import Summary, summary


@dataclass(frozen=True, kw_only=True)
class CheckpointCommand(Command):
    """Flags of the commands that read somebody else's checkpoint."""

    source: tyro.conf.Positional[Path]
    """Checkpoint: a file of torch, pickle or safetensors, a folder of diffusers, or a run."""

    family: str | None = None
    """Family of the checkpoint, such as score_sde or adm; recognized by its tensors if not
    given."""

    option: tuple[str, ...] = ()
    """What the file does not say, as name=value, such as preset=imagenet-256 or weights=raw."""

    def load(self) -> Imported:
        """Read the checkpoint.

        Raises:
            CheckpointError: if it cannot be read.
            ValueError: for options that it does not take, or needs.
        """
        options = parse_options(self.option)
        if (self.source / "config.yaml").is_file() and self.family is None and not options:
            return imported_from(self.source)
        return load(self.source, self.family, **options)


@dataclass(frozen=True, kw_only=True)
class Convert(CheckpointCommand):
    """Turn a checkpoint of other code into a run directory, which every command opens.

    Read are checkpoints of score_sde, EDM, ADM and improved-diffusion, diffusers, lucidrains, DiT
    and U-ViT, among others. Nothing in a file is executed.

    For example:
        sde-score convert checkpoint_8.pth runs/ncsnpp --option preset=ve/cifar10_ncsnpp_continuous
        sde-score convert 256x256_diffusion.pt runs/adm --option preset=imagenet-256
        sde-score convert ddpm-cifar10-32 runs/ddpm
        sde-score convert runs/mine pipeline --to diffusers
        sde-score convert runs/mine published --to hub
    """

    out: tyro.conf.Positional[Path]
    """Folder to write."""

    to: Literal["run", "hub", "diffusers"] = "run"
    """What to write: a run directory; a folder in the layout of the hub, with a model card; or a
    pipeline of diffusers."""

    def run(self) -> None:
        """Read, write and say what was found."""
        imported = self.load()
        if self.to == "run":
            save_run(imported, self.out)
        else:
            (save_pretrained if self.to == "hub" else save_diffusers)(imported, self.out)
        for note in imported.notes:
            say(f"note: {note}")
        if self.json:
            show_record({"out": str(self.out), **describe(imported)})
            return
        then = {
            "run": f": sde-score sample {self.out}",
            "hub": ": interop.push_to_hub, or interop.load",
            "diffusers": ": DDPMPipeline.from_pretrained",
        }[self.to]
        print(f"{self.out} holds a network of {imported.family}{then}")


@dataclass(frozen=True, kw_only=True)
class Inspect(CheckpointCommand):
    """Say what a checkpoint of other code holds, without writing anything.

    For example:
        sde-score inspect checkpoint_8.pth
        sde-score inspect 64x64_diffusion.pt --option preset=imagenet-64 --json
        sde-score inspect runs/mine --parts
    """

    parts: bool = False
    """Count parameters, FLOPs and memory of each part of the network, too."""

    def run(self) -> None:
        """Read and print."""
        imported = self.load()
        described = describe(imported)
        counted = _counted(imported) if self.parts else None
        if self.json:
            every = () if counted is None else (*counted.parts, counted.total)
            parts = {"parts": [part._asdict() for part in every]} if every else {}
            show_record({**described, **parts})
            return
        rows = [[name, _shown(value)] for name, value in described.items() if name != "notes"]
        show_table(["", str(self.source)], rows)
        if counted is not None:
            show_lines(str(counted).split("\n"))
        for note in imported.notes:
            say(f"note: {note}")


def _counted(imported: Imported) -> Summary:
    """What the network costs, counted without its weights."""
    with torch.device("meta"):
        network = imported.network()
    return summary(network, imported.event_shape)


def describe(imported: Imported) -> dict[str, Any]:
    """What was read, as plain values."""
    scaling = imported.scaling
    return {
        "family": imported.family,
        "backbone": imported.backbone,
        "parameters": sum(value.numel() for value in imported.state.values()),
        "event_shape": list(imported.event_shape),
        "classes": imported.num_classes,
        "conditions": described(imported.condition_shape),
        "sde": text_of(imported.sde),
        "prediction": imported.prediction,
        "sigma_data": imported.sigma_data,
        "levels": scaling.levels,
        **{name: _shown(value) for name, value in imported.facts.items()},
        "notes": list(imported.notes),
    }


def _shown(value: Any) -> str:
    text = " x ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 300 else text[:297] + "..."


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Options of the form name=value; a value that is no literal of Python is text.

    Raises:
        ValueError: for an option of another form.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"option={option!r} must be name=value, such as weights=raw")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            parsed[name] = value
    return parsed
