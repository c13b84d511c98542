"""Choices of a training where its configuration left them open, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sde_score._core.progress import say
from sde_score._core.registry import parse_spec
from sde_score.data import is_image
from sde_score.sdes import EDM, SDES, VE
from sde_score.training.config import TrainConfig, is_auto, is_whole
from sde_score.training.prepare import Job


def say_choices(given: TrainConfig, job: Job) -> None:
    """Print a line for each choice that a reader may want to know, unless progress is hidden.

    Args:
        given: what the user asked for.
        job: what came of it, before the first file of a new run is written.
    """
    say(_lines(given, job))


def _lines(given: TrainConfig, job: Job) -> Iterator[str]:
    if is_whole(given.model):
        return
    if is_auto(given.backbone):
        yield network_line(str(job.config.backbone), job.whole.event_shape)
    if is_auto(given.precision) and job.config.precision == "bf16":
        yield "precision: bf16, about twice as fast here; --precision float32 for all digits"
    if not isinstance(given.sde, str) or (job.out / "config.yaml").exists():
        return
    name, arguments = parse_spec(given.sde)
    if SDES[name] in (VE, EDM) and "sigma_max" not in arguments:
        largest = job.whole.info().sigma_max
        yield f'hint: for these data, --sde "{name}(sigma_max={largest:.3g})"'


def network_line(spec: str, event_shape: Sequence[int]) -> str:
    """The network that was taken, and for what: columns, series, images, volumes, or numbers of
    another shape.

    Args:
        spec: of the network.
        event_shape: shape of one example.
    """
    shape, name = tuple(event_shape), parse_spec(spec)[0]
    if len(shape) == 1:
        return f"network: {spec} for {shape[0]} column{'s' * (shape[0] > 1)}"
    kind = "images" if is_image(shape) else "volumes" if len(shape) == 4 else "examples"
    what = f"{kind} of shape {shape}"
    if len(shape) == 2:
        what = f"series of {shape[0]} channel{'s' * (shape[0] > 1)}, {shape[1]} steps"
    if name == "mlp":
        what += f", flattened to {math.prod(shape)} numbers: their neighborhood is not used"
    if len(shape) == 2 and shape[0] > shape[1]:
        what += "; transpose examples that are (steps, channels)"
    return f"network: {spec} for {what}"
