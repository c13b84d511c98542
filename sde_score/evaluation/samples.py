"""Samples of one trained run by several samplers: distance to held-out data, and cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sde_score._core.records import Record
from sde_score.data import Fingerprint
from sde_score.evaluation.guided import followed, guided_run, parts_of
from sde_score.evaluation.metrics.confidence import DistanceEstimator, Interval
from sde_score.evaluation.metrics.distances import DEFAULT, Distance
from sde_score.evaluation.provenance import kinds_of, provenance
from sde_score.samplers import SAMPLERS, Sampler
from sde_score.samplers import run as draw
from sde_score.training import Run

_MOST = 4096  # examples of either part of the data that samples are compared with


@dataclass(frozen=True, eq=False)
class SamplesRow(Record):
    """The samples of one sampler.

    Args:
        sampler: as text.
        nfe: network evaluations per sample, counted.
        seconds: for all samples.
        distances: to the held-out data, in the order of `Evaluation.names`.
        samples: in model range, on the CPU.
    """

    sampler: str
    nfe: int
    seconds: float
    distances: tuple[Interval, ...]
    samples: Tensor


@dataclass(frozen=True, eq=False)
class Evaluation(Record):
    """Several samplers on one run.

    Args:
        names: of the distances.
        floors: what perfect samples would score, with the interval they would fall in.
        count: samples per sampler.
        size: samples in each measured subset.
        held_out: examples they are measured against.
        rows: one for each sampler.
    """

    names: tuple[str, ...]
    floors: tuple[Interval, ...]
    count: int
    size: int
    held_out: int
    rows: tuple[SamplesRow, ...]


def evaluate(
    run: Run,
    samplers: Sequence[str | Sampler],
    *,
    count: int = 500,
    seed: int = 0,
    batch_size: int = 256,
    distances: Sequence[str | Distance] = DEFAULT,
    guidance: str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Sample a run by each sampler, from the same seeds, and measure the samples.

    Samples are scaled to the data's own terms, as a user would save them, and compared with the
    data that training never saw; the training data give the noise floor.

    Args:
        run: an open run with held-out data.
        samplers: specs such as `"ddim(steps=20)"`, or objects.
        count: samples per sampler, at least 4.
        seed: random seed.
        batch_size: samples that the model sees at once.
        distances: specs such as `"energy"` (`DISTANCES`), or functions of two sets.
        guidance: of the model, see `guided_run`.
        progress: show bars.

    Raises:
        ValueError: for an unknown sampler or distance or a run without held-out data, before
            anything is computed; for samples that are not finite.
    """
    run = guided_run(run, guidance)
    chosen = [SAMPLERS.resolve(sampler, model=run.model) for sampler in samplers]
    if not chosen:
        raise ValueError("samplers is empty: name at least one, such as 'heun(steps=18)'")
    estimator = run_estimator(run, count, distances, seed=seed)
    condition, rows = run.draw_labels(count, seed), []
    models = [followed(run.model, sampler) for sampler in chosen]
    for given, sampler, model in zip(samplers, chosen, models, strict=True):
        began = time.perf_counter()
        drawn = draw(
            model,
            sampler,
            run.event_shape,
            count,
            seed=seed,
            condition=condition,
            batch_size=batch_size,
            progress=progress,
        )
        seconds, samples = time.perf_counter() - began, drawn.samples.float()
        require_finite_samples(samples, str(given))
        found = estimator(as_data(run, samples))
        rows.append(SamplesRow(str(given), round(drawn.nfe), seconds, found, samples))
    return Evaluation(
        estimator.names, estimator.floors, count, estimator.size, len(estimator.held_out),
        tuple(rows),
    )  # fmt: skip


def run_estimator(
    run: Run, count: int, distances: Sequence[str | Distance], seed: int
) -> DistanceEstimator:
    """Distances to the held-out data of a run, at most 4096 of them, and their noise floors.

    Raises:
        ValueError: for a run without held-out data, or arguments as for `DistanceEstimator`.
    """
    train, held_out = (part.subset(_MOST, seed).tensor() for part in run.measured_parts())
    return DistanceEstimator(train, held_out, count, distances, seed=seed)


def run_identity(run: Run) -> tuple[str, str, str]:
    """Digests of weights, data and code, guidance included, which name a run in a journal."""
    if run.record is not None:
        data = run.record.fingerprint.rows
    elif run.trained_elsewhere:
        data = Fingerprint.of(run.dataset()).rows
    else:
        data = str(run.config.data)
    model = run.model
    return run.digest, data, provenance(kinds_of(model), model.sde, *parts_of(model))


def as_data(run: Run, samples: Tensor) -> Tensor:
    """Samples in model range after a round trip to the data's own terms, such as gray levels."""
    return run.scaling.to_model(run.scaling.from_model(samples))


def require_finite_samples(samples: Tensor, sampler: str, hint: str = "leave it out") -> None:
    """Refuse samples that are not finite.

    Raises:
        ValueError: with their numbers, the sampler and what to do.
    """
    bad = (~samples.flatten(1).isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise ValueError(
            f"{sampler} diverged: {len(bad)} of {len(samples)} samples are not finite, with the "
            f"numbers {shown}; {hint}"
        )


class FiniteWatch:
    """A callback of samplers that remembers the first step after which a state is not finite."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None

    def __call__(self, step: int, time: float, state: Tensor) -> None:
        """See `Callback`."""
        if self.first is None and not bool(state.isfinite().all()):
            self.first = (step, time)

    @property
    def hint(self) -> str:
        """Where it went wrong and what to do, for `require_finite_samples`."""
        where = "" if self.first is None else "first at step {} (t = {:.4g}); ".format(*self.first)
        return f"{where}take more steps, another sampler or an earlier checkpoint"
