"""Choices of a training where its configuration left them open, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sde_score._core.progress import say
from sde_score._core.registry import parse_spec
from sde_score.data import DataSet, Scaling, is_image
from sde_score.sdes import EDM, SDES, VE
from sde_score.training.config import TrainConfig, is_auto, is_whole
from sde_score.training.gaps import gaps_words
from sde_score.training.prepare import Job
from sde_score.training.reading import launched_here, workers_for


def say_choices(given: TrainConfig, job: Job) -> None:
    """Print a line for each choice that a reader may want to know, unless progress is hidden.

    Args:
        given: what the user asked for.
        job: what came of it, before the first file of a new run is written.
    """
    say(_lines(given, job))


def _lines(given: TrainConfig, job: Job) -> Iterator[str]:
    held_out = len(job.whole) - len(job.examples)
    left = f", {held_out} held out" if held_out else ""
    if job.whole.stream is not None:
        left = ", nothing held out of a stream: measure on other data"
    chosen = not is_whole(given.model) and is_auto(given.backbone)
    network = network_words(str(job.config.backbone), job.whole.event_shape) if chosen else ""
    yield f"data: {data_words(job.whole)}{left}" + f" -> {network}" * chosen
    coding = job.whole.coding
    if coding is not None and (line := coding.summary()):
        yield f"table: {line}" + gaps_words(job.whole)
    if job.whole.is_lazy and given.workers is None:
        workers = workers_for(None, job.whole, launched_here())
        yield f"read lazily, by {workers} processes beside each that trains: --workers"
    if is_whole(given.model):
        return
    if is_auto(given.precision) and job.config.precision == "bf16":
        yield "precision: bf16, about twice as fast here; --precision float32 for all digits"
    if not isinstance(given.sde, str) or (job.out / "config.yaml").exists():
        return
    name, arguments = parse_spec(given.sde)
    if SDES[name] in (VE, EDM) and "sigma_max" not in arguments:
        largest = job.whole.info().sigma_max
        yield f'hint: for these data, --sde "{name}(sigma_max={largest:.3g})"'


def data_words(dataset: DataSet) -> str:
    """What examples were taken for and how they are scaled: `500 series of 3 channels x 64 steps
    (float, scaled by (x - 0.5) / 2)`."""
    anew = ", drawn anew in every epoch" if dataset.is_random else ""
    scale = f"{_scale(dataset.scaling)}{anew}"
    if dataset.stream is not None:
        scale += f", measured on its first {len(dataset)} examples, which data.json records"
        return f"a stream of {_kind(dataset.event_shape)} ({scale})"
    return f"{len(dataset)} {_kind(dataset.event_shape)} ({scale})"


def _kind(event_shape: Sequence[int]) -> str:
    shape = tuple(event_shape)
    if len(shape) == 1:
        return f"rows of {_several(shape[0], 'column')}"
    channels = f"{_several(shape[0], 'channel')} x "
    if len(shape) == 2:
        return f"series of {channels}{_several(shape[1], 'step')}"
    if not (is_image(shape) or len(shape) == 4):
        return f"examples of shape {shape}"
    kind, unit = ("images", "pixels") if len(shape) == 3 else ("volumes", "voxels")
    return f"{kind} of {channels}{' x '.join(map(str, shape[1:]))} {unit}"


def _several(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' * (count > 1)}"


def _scale(scaling: Scaling) -> str:
    if scaling.levels is not None:
        return f"{scaling.levels} levels"
    if isinstance(scaling.center, tuple) or isinstance(scaling.width, tuple):
        return "float, each column scaled by its own mean and deviation"
    if (scaling.center, scaling.width) == (0, 1):
        return "float, as they are"
    return f"float, scaled by (x - {scaling.center:.4g}) / {scaling.width:.4g}"


def network_words(spec: str, event_shape: Sequence[int]) -> str:
    """The network that was taken, the dimensions it works in, and what it does not use.

    Args:
        spec: of the network.
        event_shape: shape of one example.
    """
    shape, words = tuple(event_shape), spec
    if parse_spec(spec)[0] == "unet":
        words += f" in {_several(len(shape) - 1, 'dimension')}"
    elif len(shape) > 1:
        words += f" on {math.prod(shape)} numbers: no U-Net fits, so neighbors are not used"
    if len(shape) == 2 and shape[0] > shape[1]:
        words += "; give channels='last' for examples that are (steps, channels)"
    return words
