"""The likelihoods that are variational bounds: in continuous time, and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score.discrete import ELBO, HierarchicalVAE
from sde_score.likelihood.base import Estimate, independent_draws, standard_error
from sde_score.likelihood.continuous_bound import TIME_SAMPLINGS, variational_bound
from sde_score.likelihood.decoders import DataTerm, GaussianDecoder, KernelEntropy, LevelDecoder
from sde_score.likelihood.dequantization import (
    Dequantization,
    Dequantized,
    as_dequantization,
)
from sde_score.models import Model
from sde_score.samplers import GRIDS, VARIANCES
from sde_score.scaling import Scaling
from sde_score.sdes import SDE


@dataclass(frozen=True)
class ContinuousBound:
    """The variational bound in continuous time, see `variational_bound`.

    Args:
        draws: independent draws per example, at least 1; 2 for a standard error.
        times: noise levels per draw, at least 1.
        time_sampling: a name in `TIME_SAMPLINGS`.
        antithetic: ask the model at each noise and at its negative.
        residual: `decoder` decodes x at the start to the data: to levels if they are discrete, to a
            density if not; `kernel-entropy` is ScoreFlow's bound, on the density at the start.
        decoder_std: standard deviation of the decoder, > 0; None for sigma / alpha at the start.
        start: time from which data are decoded, in [t_min, t_max). If not given, `t_min`, or for
            levels the time at which half a bin holds three standard deviations of the noise, if it
            is later: before it, noise tells nothing of the level and costs what it cannot say.
        dequantization: `none`: discrete data are decoded to their levels, and need none. `uniform`
            or an object: they are dequantized and bounded as continuous data, for comparison with
            numbers so made, or for a model that was trained on dequantized data; the points must
            live at t_min.

    Raises:
        ValueError: for an argument outside its range; when called, for `kernel-entropy` of levels,
            or noise that does not live at t_min.
    """

    draws: int = 4
    times: int = 16
    time_sampling: str = "log-snr"
    antithetic: bool = False
    residual: str = "decoder"
    decoder_std: float | None = None
    start: float | None = None
    dequantization: str | Dequantization = "none"

    def __post_init__(self) -> None:
        require_count(draws=self.draws, times=self.times)
        require_choice("time_sampling", self.time_sampling, tuple(TIME_SAMPLINGS))
        require_choice("residual", self.residual, ("decoder", "kernel-entropy"))
        if self.decoder_std is not None:
            require_positive(decoder_std=self.decoder_std)
        as_dequantization(self.dequantization)

    def __call__(
        self,
        model: Model,
        raw: Tensor,
        scaling: Scaling,
        *,
        seeds: Sequence[int],
        condition: Tensor | None = None,
        progress: bool = False,
    ) -> Estimate:
        """A lower bound on the log-likelihood of raw data, as `Likelihood` says."""
        evaluations = model.nfe
        to_levels = scaling.levels is not None and self.dequantization == "none"
        residual = self._residual(scaling, to_levels)
        start = _decoding_time(model.sde, scaling) if to_levels else None
        start = start if self.start is None else self.start

        def one(draw_seeds: list[int]) -> tuple[Tensor, Tensor]:
            points = _points(self.dequantization, raw, scaling, model.sde, draw_seeds)
            found = variational_bound(
                model,
                points.x,
                residual=residual,
                draws=1,
                times=self.times,
                time_sampling=self.time_sampling,
                antithetic=self.antithetic,
                start=start,
                seed=draw_seeds,
                condition=condition,
                progress=progress,
            )
            return -found.nats - points.log_q, found.standard_error

        rows, _ = independent_draws(one, self.draws, seeds)
        return Estimate(rows.mean(0), standard_error(rows), model.nfe - evaluations)

    def _residual(self, scaling: Scaling, to_levels: bool) -> DataTerm:
        if self.residual == "kernel-entropy":
            if to_levels:
                raise ValueError(
                    "residual='kernel-entropy' bounds a density: discrete data need "
                    "dequantization='uniform' with it, or residual='decoder'"
                )
            return KernelEntropy()
        if not to_levels:
            return GaussianDecoder(self.decoder_std)
        return LevelDecoder(scaling.quantization, self.decoder_std)


@dataclass(frozen=True)
class LayeredBound:
    """The evidence lower bound of a chain of layers, DDPM's, see `HierarchicalVAE.elbo`.

    As the layers grow in number it falls to `ContinuousBound`: with the default grid and variance
    a layer costs a share of about d / 2 too much, for log-SNRs a step d apart.

    Args:
        layers: number of layers, at least 2; also the evaluations of the model per draw.
        grid: spec from `samplers.GRIDS` that places them; unless the spec names an `end`, the first
            layer is at the default start of `ContinuousBound`.
        variance: of the steps back, as for `HierarchicalVAE`.
        draws: draws of the noise for each example and layer, at least 1; 2 for a standard error.
        decoder_std: standard deviation of the decoder, > 0; sigma / alpha at the first layer if not
            given.
        dequantization: as for `ContinuousBound`; of a model that was trained on dequantized data,
            `uniform`. All draws share its noise.

    Raises:
        ValueError: for an argument outside its range, or noise that does not live at t_min.
    """

    layers: int = 100
    grid: str = "log_snr"
    variance: str = "posterior"
    draws: int = 1
    decoder_std: float | None = None
    dequantization: str | Dequantization = "none"

    def __post_init__(self) -> None:
        require_count(2, layers=self.layers)
        require_count(draws=self.draws)
        if self.decoder_std is not None:
            require_positive(decoder_std=self.decoder_std)
        GRIDS.create(self.grid)
        VARIANCES.resolve(self.variance)
        as_dequantization(self.dequantization)

    def __call__(
        self,
        model: Model,
        raw: Tensor,
        scaling: Scaling,
        *,
        seeds: Sequence[int],
        condition: Tensor | None = None,
        progress: bool = False,
    ) -> Estimate:
        """A lower bound on the log-likelihood of raw data, as `Likelihood` says."""
        found, log_q = self.terms(
            model, raw, scaling, seeds=seeds, condition=condition, progress=progress
        )
        return Estimate(-found.nats - log_q, found.standard_error, found.nfe)

    def terms(
        self,
        model: Model,
        raw: Tensor,
        scaling: Scaling,
        *,
        seeds: Sequence[int],
        condition: Tensor | None = None,
        progress: bool = False,
    ) -> tuple[ELBO, Tensor]:
        """The bound term by term, and log q of the points that stand for the data, `(batch,)`."""
        points = _points(self.dequantization, raw, scaling, model.sde, list(seeds))
        to_levels = scaling.levels is not None and self.dequantization == "none"
        found = self._chain(model.sde, scaling if to_levels else None).elbo(
            model,
            points.x.double(),
            levels=scaling.quantization if to_levels else None,
            draws=self.draws,
            seed=seeds,
            condition=condition,
            batch_size=len(raw),
            progress=progress,
        )
        return found, points.log_q

    def _chain(self, sde: SDE, to: Scaling | None) -> HierarchicalVAE:
        grid = GRIDS.create(self.grid)
        if grid.end is None:
            grid = replace(grid, end=sde.t_min if to is None else _decoding_time(sde, to))
        return HierarchicalVAE.from_sde(
            sde, self.layers, grid=grid, variance=self.variance, decoder_std=self.decoder_std
        )


def _points(
    dequantization: str | Dequantization, raw: Tensor, scaling: Scaling, sde: SDE, seeds: list[int]
) -> Dequantized:
    """Centers of levels, whose bound is a probability already, or points with a density."""
    if scaling.levels is not None and dequantization == "none":
        return Dequantized(scaling.to_model(raw), raw.new_zeros(len(raw), dtype=torch.float64))
    points = as_dequantization(dequantization)(raw, scaling, sde, seeds)
    if points.start is not None:
        raise ValueError(
            f"dequantization={dequantization!r} puts data at t={points.start:.3g}, the bound is "
            "for data at t_min: use 'none' or 'uniform'"
        )
    return points


def _decoding_time(sde: SDE, scaling: Scaling) -> float:
    """`t_min`, or for levels the time at which sigma / alpha is a third of half a bin, if later."""
    if scaling.levels is None:
        return sde.t_min
    levels = scaling.quantization
    low, high = levels.bounds
    half_bin = 0.5 * (high - low) / (levels.count - 1)
    return float(sde.time_of_noise_ratio(half_bin / 3))
