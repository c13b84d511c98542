"""The commands that make a run and its measurements again, and what they ran with."""

from __future__ import annotations

import dataclasses
import platform
import shlex
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from sde_score._core import __version__
from sde_score.evaluation import Evaluation
from sde_score.training import Run, TrainConfig
from sde_score.training.config import is_note

_PACKAGES = ("torch", "numpy", "scipy", "accelerate")


def joined(words: Iterable[str]) -> str:
    """Words as a line of a shell, what needs it in double quotes where these do."""

    def quoted(word: str) -> str:
        plain = "'" in word and not set(word) & set('"$`\\!')
        return f'"{word}"' if plain else shlex.quote(word)

    return " ".join(map(quoted, words))


def train_command(config: TrainConfig, out: Path) -> str:
    """`sde-score train` with the flags of all fields that differ from their defaults.

    Args:
        config: of the run; an object that no text can name is left out, and said in a comment.
        out: the run directory.
    """
    words, lost = ["sde-score", "train"], []
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), field.name.replace("_", "-")
        if is_note(value):
            lost.append(field.name)
        elif isinstance(value, bool):
            if value != field.default:
                words.append(f"--{'' if value else 'no-'}{flag}")
        elif value is not None and (value != field.default or field.name in ("data", "sde")):
            words += [f"--{flag}", str(value)]
    notes = [f"# {name} is an object of its own: give it to train() in Python" for name in lost]
    return "\n".join([*notes, joined([*words, "--out", str(out)])])


def evaluate_command(run: Run, evaluation: Evaluation) -> str:
    """`sde-score evaluate` with the samplers and the number and seed of samples; data that are not
    the run's own are said in a comment."""
    samplers = dict.fromkeys(row.sampler for row in evaluation.rows)
    guidance = dict.fromkeys(row.guidance for row in evaluation.rows if row.guidance)
    words = ["sde-score", "evaluate", str(run.path), "--samplers", *samplers]
    words += ["--guidance", *guidance] if guidance else []
    words += ["--num", str(evaluation.count), "--seed", str(evaluation.seed), "--report"]
    told = f"# with --data: {evaluation.data}\n" if evaluation.data else ""
    return told + joined(words)


def sample_commands(run: Run, specs: Iterable[str], count: int, seed: int) -> str:
    """`sde-score sample` of the first samples of a seed, by each sampler; of a conditional model
    the same in Python, with the conditions of training examples."""
    if run.num_classes or run.condition_shape:
        lines = ["from sde_score import load_run, samplers", f"run = load_run({str(run.path)!r})"]
        told = f"seed={seed}, condition=run.draw_labels({count}, {seed})"
        lines += [
            f"samplers.sample(run.model, {spec!r}, run.event_shape, {count}, {told})"
            for spec in specs
        ]
        return "\n".join(lines)
    num = ["--num", str(count), "--seed", str(seed)]
    return "\n".join(
        joined(["sde-score", "sample", str(run.path), "--sampler", spec, *num]) for spec in specs
    )


def trained_with(run: Run) -> str:
    """Versions that the newest steps of a run were trained with."""
    names = {"sde_score": "sde-score", "python": "Python"}
    return ", ".join(f"{names.get(name, name)} {found}" for name, found in run.versions.items())


def versions() -> str:
    """Versions of this package, of Python and of what it computes with, and the machine."""
    found = [f"sde-score {__version__}", f"Python {platform.python_version()}"]
    found += [f"{name} {version(name)}" for name in _PACKAGES]
    return f"{', '.join(found)}; {platform.machine()} {platform.system()}"
