"""Flags that several commands share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro

from sde_score import samplers
from sde_score._core.checks import require_count
from sde_score._core.files import require_writable
from sde_score._core.modules import weights_digest
from sde_score._core.progress import is_main_process
from sde_score._core.registry import format_spec, parse_spec
from sde_score.cli.output import say
from sde_score.objectives import OBJECTIVES
from sde_score.samplers.grids import read_grid_file
from sde_score.training import Run, load_run
from sde_score.training.config import is_note
from sde_score.training.distributed import accelerator_for
from sde_score.training.watch import follow_launcher

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """Flags of every command."""

    imports: Annotated[
        tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction
    ] = ()
    """Module that registers things of your own, in the working directory or installed; may be
    given several times."""

    json: bool = False
    """Print the result as JSON."""

    shares: ClassVar[bool] = False  # whether processes share the work, or leave it to the first


@dataclass(frozen=True, kw_only=True)
class RunCommand(Command):
    """Flags of the commands that use a trained run."""

    path: tyro.conf.Positional[Path]
    """Run directory."""

    data: str | None = None
    """Other data than the run's own, measured whole in its scaling; or its own, by their record,
    where they have moved since. A network that was trained elsewhere has no other ones."""

    batch_size: int = 256
    """Examples that the network sees at once."""

    seed: int = 0
    """Random seed."""

    weights: str = "ema"
    """Averaged weights, raw for those of the last step, or ema(0.1) for an average of that length,
    of a run with snapshots."""

    device: Device = "auto"
    """Where to compute."""

    progress: bool = True
    """Show progress bars."""

    takes_other: ClassVar[bool] = True  # whether other data than the run's own have a meaning

    def open(self) -> Run:
        """Open the run with its model on the device.

        Raises:
            ValueError: if the device is not there.
            CheckpointError: if the run cannot be read.
            DataError: for data that are not the run's own and do not fit, or have no meaning here.
        """
        require_count(batch_size=self.batch_size)
        run = load_run(self.path, self.weights, data=self.data)
        if self.data is not None:
            _ = run.other if self.takes_other or run.trained_elsewhere else run.recognized
        run.model.to(pick_device(self.device, self.shares))
        return run


def pick_device(device: Device, shared: bool = False) -> torch.device:
    """The device of a name; auto takes a GPU where there is one.

    Args:
        device: the name.
        shared: form a group of the processes that a launcher has started, each with its own device.

    Raises:
        ValueError: if the device is not there.
    """
    if shared and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        own: torch.device = accelerator_for(device).device
        follow_launcher()
        return own
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if device == "cuda" and not has_gpu:
        raise ValueError("device='cuda' is not available on this machine: try --device cpu")
    return torch.device(device)


def require_output(out: Path, endings: Sequence[str], name: str = "out") -> None:
    """Refuse a file of another ending, or that cannot be written, before its content is computed.

    Args:
        out: the file.
        endings: accepted ones.
        name: of the flag.

    Raises:
        ValueError: naming the file and what is wrong.
    """
    if out.suffix not in endings:
        raise ValueError(f"{name}={out} must end with {', '.join(endings)}")
    require_writable(out, name)


def saved(place: Path, write: Callable[[Path], object]) -> None:
    """Write a result, or write it beside where its place cannot be written any more; of several
    processes the first does.

    Args:
        place: where it was to be.
        write: writes it to a path.

    Raises:
        OSError: if it could not be written to its place, saying where it is.
    """
    if not is_main_process():
        return
    try:
        write(place)
    except OSError as error:
        beside = Path(tempfile.mkdtemp(prefix="sde-score-")) / place.name
        try:
            write(beside)
        except OSError:
            beside.parent.rmdir()
            raise error from None
        raise OSError(f"{place} cannot be written ({error}); the result is in {beside}") from error


def hint_at_noise(run: Run, specs: Sequence[str]) -> None:
    """Warn of samplers that evaluate the model at noise levels it was not trained at, or that need
    a score where it has none."""
    learned = run.config.objective
    known = None if is_note(learned) else OBJECTIVES.resolve(learned)
    for spec in specs:
        if not getattr(known, "has_score", True) and samplers.create(spec).stochastic:
            say(
                f"hint: {learned} makes a straighter flow, whose velocity is no score; {spec} adds "
                f'noise, which needs one. --sampler "{run.sampler}" does not'
            )
        if not run.all_noise_levels and not isinstance(samplers.create(spec), samplers.MCMC):
            say(
                f"hint: {run.config.objective} trained this model on data without noise; {spec} "
                f'evaluates it at all noise levels. --sampler "{run.sampler}" does not'
            )


def hint_at_flow_map(run: Run) -> None:
    """Say which samplers of a flow map are those of its diagonal, and which are its own steps."""
    if run.few_steps:
        say(
            f"{run.path} is a flow map: {', '.join(run.few_steps)} are its own steps, all other "
            "samplers see its diagonal, which is a score"
        )


def is_json(spec: str | None) -> bool:
    """Whether a grid or a sampler is the path of a file, not a name."""
    return spec is not None and spec.endswith(".json")


def tuned_path(run: Path, nfe: int) -> Path:
    """Where a run keeps the sampler that was tuned for a number of evaluations."""
    return run / "tuned" / f"nfe-{nfe}.json"


def state_of(run: Run) -> str:
    """The weights of a run in words, as `tune` notes them and `sample` compares them."""
    return f"step {run.step}, weights {weights_digest(run.model)[:16]}"


def chosen_sampler(
    run: Run,
    spec: str,
    steps: int | None = None,
    grid: str | None = None,
    nfe: int | None = None,
    *,
    tuned: bool = True,
) -> str:
    """Spec of a sampler in which `auto` and `tuned` are replaced by what they mean for a run.

    `auto` is the sampler that a grid file was made for; with neither steps nor grid, the one tuned
    for the run and `nfe`, or the only one if `nfe` is None; else the one that suits the run.

    Args:
        run: that is sampled.
        spec: as given.
        steps: flag.
        grid: flag.
        nfe: flag.
        tuned: whether `auto` may be a tuned one.

    Raises:
        ValueError: if the run has no tuned sampler, or several and none is chosen.
    """
    if spec == "auto":
        made_for = read_grid_file(str(grid)).sampler if is_json(grid) else ""
        found = _tuned_for(run, nfe) if tuned and steps is None and grid is None else None
        return found or made_for or _suited(run, nfe)
    name, arguments = (spec, {}) if is_json(spec) else parse_spec(spec)
    if name != "tuned":
        return spec
    files = sorted((run.path / "tuned").glob("nfe-*.json"))
    if "nfe" in arguments:
        files = [file for file in files if file == tuned_path(run.path, arguments["nfe"])]
    if len(files) != 1 or arguments.keys() - {"nfe"}:
        there = ", ".join(file.stem for file in files) or "none that suits"
        raise ValueError(
            f"sampler={spec}: write tuned, or tuned(nfe=10) if there are several; {run.path} has "
            f"{there}; sde-score tune {run.path} makes one"
        )
    return str(files[0])


def _suited(run: Run, nfe: int | None) -> str:
    """The run's sampler, without its steps where a budget gives them."""
    name, arguments = parse_spec(run.sampler)
    if nfe is not None:
        arguments.pop("steps", None)
    return format_spec(name, arguments)


def _tuned_for(run: Run, nfe: int | None) -> str | None:
    """The file of the sampler tuned for a run and a budget, or of its only one, with a word."""
    files = sorted((run.path / "tuned").glob("nfe-*.json"))
    found = [file for file in files if nfe is None or file == tuned_path(run.path, nfe)]
    if len(found) > 1:
        there = ", ".join(file.stem.removeprefix("nfe-") for file in found)
        say(f"hint: {run.path} has samplers tuned for {there} evaluations; --nfe takes one")
    if len(found) != 1:
        return None
    content, state = read_grid_file(found[0]), state_of(run)
    say(f"{found[0]}: tuned for this run, {content.sampler}; --sampler NAME takes another")
    if not content.target.endswith(state):
        say(
            f"hint: {found[0]} was made for {content.target or 'nobody knows what'}, not for "
            f"{state}; sde-score tune {run.path} --nfe {content.nfe} finds one for these weights"
        )
    return str(found[0])


def sampler_spec(
    spec: str, steps: int | None, grid: str | None, nfe: int | None = None, model: Any = None
) -> str:
    """A sampler's spec with the flags put in, checked.

    A grid may be a JSON file, whose number of steps holds unless the spec or the flag gives one.

    Args:
        spec: name and arguments, or a .json file.
        steps: flag.
        grid: flag.
        nfe: flag, which becomes steps.
        model: that will be sampled, whose evaluations count.

    Raises:
        ValueError: for an unknown sampler or argument, flags that say the same twice, or a damaged
            file.
    """
    if is_json(spec):
        if steps is not None or grid is not None:
            raise ValueError(f"sampler={spec} has its steps and its grid: leave out steps and grid")
        if nfe not in (None, made_for := read_grid_file(spec).nfe):
            raise ValueError(f"sampler={spec} makes {made_for} evaluations: leave out nfe={nfe}")
        samplers.create(spec)
        return spec
    name, arguments = parse_spec(spec)
    if grid is not None and is_json(grid):
        arguments.setdefault("steps", len(read_grid_file(grid).ratios))
        grid = format_spec("file", {"path": grid})
    given = {"steps": steps, "grid": grid, "nfe": nfe}
    arguments.update({k: v for k, v in given.items() if v is not None})
    full = format_spec(name, arguments)
    made = samplers.create(full, model=model)
    return full if nfe is None else str(made)
