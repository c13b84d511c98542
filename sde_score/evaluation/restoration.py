"""Restoration of one example from an observation of it, and how good that is where it is known."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score import posterior
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition
from sde_score._core.records import Record
from sde_score.posterior import Measurement, Operator, PosteriorSamples
from sde_score.random import generator_from
from sde_score.scaling import Scaling
from sde_score.training import Run

_SHARES = (0.5, 0.9)


@dataclass(frozen=True)
class Coverage(Record):
    """The share of entries whose truth lies within an interval of the samples.

    Args:
        interval: share of truths that a calibrated posterior would have there.
        share: the share that was found.
    """

    interval: float
    share: float


@dataclass(frozen=True, eq=False)
class Restoration(Record):
    """Samples of a posterior, and their measures; in model range.

    Args:
        method: as text.
        limit: what it tends to, and how it is biased.
        nfe: network evaluations per sample.
        seconds: for all samples.
        misfit: root mean square of y - A x over the noise of y, of all samples; 1 for the truth.
        log_evidence: log p(y) in nats, of a method of particles, or None.
        standard_error: of that, or None.
        psnr: of the mean of the samples, in dB, or None without a truth.
        psnr_each: mean of those of the samples, about 3 dB less for a calibrated posterior.
        spread: root mean square error of the mean over what the samples' variance lets expect; 1
            for a calibrated posterior, above for one too sure.
        coverage: of central intervals.
        samples: shape `(num, *event)`, on the CPU.
        measured: pseudo-inverse of y, what is seen of the example, shape `event`.
        truth: shape `event`, or None.
    """

    method: str
    limit: str
    nfe: float
    seconds: float
    misfit: float
    log_evidence: float | None
    standard_error: float | None
    psnr: float | None
    psnr_each: float | None
    spread: float | None
    coverage: tuple[Coverage, ...]
    samples: Tensor
    measured: Tensor
    truth: Tensor | None

    @property
    def mean(self) -> Tensor:
        """Mean of the samples, shape `event`."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation of the samples, shape `event`."""
        return self.samples.std(0)


def measurement_of_raw(operator: Operator, y: Tensor, std: float, scaling: Scaling) -> Measurement:
    r"""A measurement y = A raw + noise, of examples in their own terms, for models that see them
    scaled.

    With raw = width x + center, y - A center = A width x + noise.

    Args:
        operator: A, of examples of the same shape in either range.
        y: what was measured, shape `measured_shape`.
        std: of the noise of y, in the data's own terms.
        scaling: of the data.

    Raises:
        ValueError: as for `Measurement`.
    """
    half = 0.0 if scaling.levels is None else 0.5  # a level is the middle of its bin
    center = torch.as_tensor(scaling.center, dtype=torch.float64) - half
    known = operator(center.expand(1, *operator.event_shape).contiguous())[0]
    off = torch.as_tensor(y).double() - known
    if isinstance(scaling.width, tuple):
        width = torch.diag(torch.tensor(scaling.width, dtype=torch.float64))
        return Measurement(operator @ posterior.Matrix(width), off, std)
    return Measurement(operator, off / scaling.width, std / scaling.width)


def usual_noise(run: Run) -> float:
    """Noise of a careful measurement in the data's own terms: rounding of levels, 1 % else."""
    scaling = run.scaling
    if scaling.levels is not None:
        return 1 / math.sqrt(12)
    width = scaling.width if isinstance(scaling.width, tuple) else (scaling.width,)
    return 0.01 * min(width)


def observe(operator: Operator, raw: Tensor, std: float, seed: int = 0) -> Tensor:
    """What would be measured of an example in its own terms: A raw + noise, float64.

    Args:
        operator: A.
        raw: shape `event`.
        std: of the noise.
        seed: random seed.
    """
    y = operator(raw[None].double())[0]
    noise = torch.randn(y.shape, generator=generator_from(seed), dtype=torch.float64)
    return y + std * noise


def restore(
    run: Run,
    seen: Measurement,
    method: str = "mmps",
    num: int = 16,
    *,
    sampler: str | None = None,
    truth: Tensor | None = None,
    condition: Condition = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> Restoration:
    """Draw samples of a run's model given a measurement, and measure them.

    Args:
        run: an open run.
        seen: in model range, see `measurement_of_raw`.
        method: see `posterior.sample`.
        num: how many samples, at least 2.
        sampler: see `posterior.sample`.
        truth: the example in model range, shape `event`, if it is known.
        condition: what the example is told, shape `(1, ...)`.
        seed: random seed.
        batch_size: samples that the network sees at once.
        progress: show a bar.

    Raises:
        ValueError: as for `posterior.sample`, or a truth of another shape.
    """
    require_count(2, num=num)
    if truth is not None and tuple(truth.shape) != run.event_shape:
        raise ValueError(f"truth has shape {tuple(truth.shape)}; accepted: {run.event_shape}")
    began = time.perf_counter()
    drawn = posterior.sample(
        run.model, seen, method, num, sampler=sampler, seed=seed, condition=condition,
        batch_size=batch_size, progress=progress,
    )  # fmt: skip
    return measured(drawn, seen, truth, time.perf_counter() - began, peak_of(run))


def measured(
    drawn: PosteriorSamples, seen: Measurement, truth: Tensor | None, seconds: float, peak: float
) -> Restoration:
    """The measures of samples of a posterior.

    Args:
        drawn: the samples, in model range.
        seen: what was measured.
        truth: in model range, shape `event`, if it is known.
        seconds: that the samples took.
        peak: largest difference of two values of the data, for PSNR.
    """
    x = drawn.samples.double().cpu()
    residual = seen.residual(x)
    misfit = (residual * seen.whiten(residual)).mean().sqrt()
    evidence = drawn.particles
    found: dict[str, float | None] = dict.fromkeys(("psnr", "psnr_each", "spread"))
    coverage: tuple[Coverage, ...] = ()
    if truth is not None:
        target = truth.double().cpu()
        errors = (x - target).square().flatten(1).mean(1)
        error = (x.mean(0) - target).square().mean()
        expected = x.var(0).mean() * (1 + 1 / len(x))
        found = {
            "psnr": _psnr(error, peak),
            "psnr_each": float(torch.stack([torch.tensor(_psnr(e, peak)) for e in errors]).mean()),
            "spread": float((error / expected).sqrt()),
        }
        coverage = tuple(_covered(x, target, share) for share in _SHARES)
    return Restoration(
        method=drawn.method, limit=drawn.limit, nfe=drawn.nfe, seconds=seconds,
        misfit=float(misfit),
        log_evidence=None if evidence is None else evidence.log_evidence,
        standard_error=None if evidence is None else evidence.standard_error,
        coverage=coverage, samples=x.float(),
        measured=seen.operator.pinv(seen.y.double()[None])[0].float(), truth=truth, **found,
    )  # fmt: skip


def peak_of(run: Run) -> float:
    """Largest difference of two values of the data in model range, for PSNR."""
    if run.scaling.levels is not None or run.record is None:
        return 2.0
    width = run.scaling.width if isinstance(run.scaling.width, tuple) else (run.scaling.width,)
    ranges = zip(run.record.low, run.record.high, strict=True)
    return max(high - low for low, high in ranges) / max(width)


def _psnr(mean_square: Tensor, peak: float) -> float:
    return 10 * math.log10(peak**2 / max(float(mean_square), 1e-20))


def _covered(x: Tensor, truth: Tensor, share: float) -> Coverage:
    """The central interval between two order statistics of n samples that holds, for a truth that
    is one draw more, the share (n + 1 - 2 k) / (n + 1) closest to the one that is asked for."""
    count = len(x) + 1
    k = min(max(1, round(0.5 * count * (1 - share))), (count - 1) // 2)
    ranks = (x < truth).sum(0) + 0.5 * (x == truth).sum(0)
    inside = ((ranks >= k) & (ranks <= count - 1 - k)).double().mean()
    return Coverage((count - 2 * k) / count, float(inside))
