r"""The evidence lower bound of a chain of layers, DDPM's, as a likelihood of raw data.

The formula is in `sde_score.discrete.ddpm.elbo`. As the layers grow in number it tends to
`ContinuousBound`: with the default grid and variance a layer costs a share of about d / 2 too much,
for log-SNRs a step d apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_positive
from sde_score.discrete import ELBO, HierarchicalVAE
from sde_score.discrete.ddpm.hierarchical_vae import ending_at
from sde_score.likelihood.base import Likelihood, Problem
from sde_score.likelihood.decoders import bounded_points, decoding_time
from sde_score.likelihood.dequantization import DEQUANTIZATIONS, Dequantization
from sde_score.samplers import GRIDS, VARIANCES, Grid, ReverseVariance


@dataclass(frozen=True)
class LayeredBound(Likelihood):
    """The evidence lower bound of a chain of layers, see `HierarchicalVAE.elbo`.

    Args:
        layers: number of layers, at least 2; also the evaluations of the model per draw.
        grid: a name from `samplers.GRIDS` or an object, which places them; unless it has an end of
            its own, the first layer is at the default start of `ContinuousBound`.
        variance: of the steps back, as for `HierarchicalVAE`.
        draws: draws of the noise for each example and layer, at least 1; 2 for a standard error.
        decoder_std: standard deviation of the decoder, > 0; None for sigma / alpha at the first
            layer.
        dequantization: as for `ContinuousBound`; `uniform` for a model that was trained on
            dequantized data. All draws share its noise.

    Raises:
        ValueError: for an argument outside its range, or noise that does not live at t_min.
    """

    layers: int = 100
    grid: str | Grid = "log_snr"
    variance: str | ReverseVariance = "posterior"
    draws: int = 1
    decoder_std: float | None = None
    dequantization: str | Dequantization = "none"

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(2, layers=self.layers)
        require_count(draws=self.draws)
        if self.decoder_std is not None:
            require_positive(decoder_std=self.decoder_std)
        GRIDS.resolve(self.grid, name="grid")
        VARIANCES.resolve(self.variance, name="variance")
        DEQUANTIZATIONS.resolve(self.dequantization, name="dequantization")

    def estimate(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Lower bounds on the log-likelihoods and their standard errors, shape `(batch,)` each."""
        found, log_q = self.terms(problem)
        return -found.nats - log_q, found.standard_error

    def terms(self, problem: Problem) -> tuple[ELBO, Tensor]:
        """The bound term by term, and log q of the points that stand for the data, `(batch,)`."""
        sde = problem.model.sde
        points = bounded_points(self.dequantization, problem, problem.seeds)
        quantization = points.quantization
        grid = ending_at(GRIDS.resolve(self.grid), decoding_time(sde, quantization))
        vae = HierarchicalVAE.from_sde(
            sde, self.layers, grid=grid, variance=self.variance, decoder_std=self.decoder_std
        )
        found = vae.elbo(
            problem.model,
            points.x.double(),
            levels=quantization,
            draws=self.draws,
            seed=problem.seeds,
            condition=problem.condition,
            batch_size=len(problem.raw),
            grad=problem.grad,
            progress=problem.progress,
        )
        return found, points.log_q
