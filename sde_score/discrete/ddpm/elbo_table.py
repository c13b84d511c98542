"""The terms of an evidence lower bound, and their table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score.scaling import Scaling, nats_to_bits


@dataclass(frozen=True)
class Term:
    """A row of the table: one term of the bound, or neighboring ones together.

    Args:
        name: `prior`, the layer or layers, or `decoder`.
        t: time of the layer; of the noisiest if there are several.
        log_snr: log signal-to-noise ratio at that time.
        nats: mean over the examples.
        share: of the sum of all terms' absolute values.
    """

    name: str
    t: float
    log_snr: float
    nats: float
    share: float


@dataclass(frozen=True, eq=False)
class ELBO:
    """A bound on -log p(x_0), term by term, in nats, float64.

    Args:
        prior: KL(q(x_n | x_0) || p(x_n)), shape `(batch,)`.
        layers: KL of the steps from layer i = 2 ... n, shape `(n - 1, batch)`.
        reconstruction: -log p(x_0 | x_1), shape `(batch,)`.
        standard_error: of `nats` over the draws of the noise, shape `(batch,)`; NaN for one draw.
        nfe: evaluations of the model.
        times: of the n layers, shape `(n,)`.
        log_snrs: of the n layers, shape `(n,)`.
        event_shape: of an example.
        discrete: whether it bounds the probability of levels, and not a density.
    """

    prior: Tensor
    layers: Tensor
    reconstruction: Tensor
    standard_error: Tensor
    nfe: int
    times: Tensor
    log_snrs: Tensor
    event_shape: tuple[int, ...]
    discrete: bool

    @property
    def nats(self) -> Tensor:
        """The bound on -log p(x_0) of each example, shape `(batch,)`."""
        return self.prior + self.layers.sum(0) + self.reconstruction

    def bits_per_dim(self, scaling: Scaling | None = None) -> Tensor:
        """The bound in bits per dimension, shape `(batch,)`.

        Args:
            scaling: of continuous data. A bound on the probability of levels needs none.

        Raises:
            ValueError: if continuous data have none.
        """
        if self.discrete:
            return nats_to_bits(-self.nats, self.event_shape)
        if scaling is None:
            raise ValueError(
                "bits per dimension of a density depend on the units of the raw data: give the "
                "scaling of the data set, or bound the probability of levels (levels=...)"
            )
        return scaling.bits_per_dim(-self.nats, self.event_shape)

    def table(self, rows: int | None = None) -> list[Term]:
        """The terms from the prior down to the decoder, averaged over the examples.

        Args:
            rows: join neighboring layers so that there are at most so many rows of layers; None
                for one row a layer.
        """
        n = len(self.times)
        terms = [("prior", n, self.prior.mean())]
        nats, layers = self.layers.mean(1).flip(0), torch.arange(n, 1, -1)
        count = len(nats) if rows is None else min(rows, len(nats))
        for where in layers.tensor_split(count) if count else ():
            part = nats[n - where]
            high, low = int(where[0]), int(where[-1])
            terms.append((str(high) if high == low else f"{high}-{low}", high, part.sum()))
        terms.append(("decoder", 1, self.reconstruction.mean()))
        whole = sum(abs(float(value)) for *_, value in terms)
        return [
            Term(
                name,
                float(self.times[layer - 1]),
                float(self.log_snrs[layer - 1]),
                float(value),
                abs(float(value)) / whole,
            )
            for name, layer, value in terms
        ]

    def __str__(self) -> str:
        """The table in at most twenty rows of layers, and the total."""
        lines = [f"{'layer':>11} {'t':>9} {'log-SNR':>9} {'nats':>12} {'share':>7}"]
        lines += [
            f"{term.name:>11} {term.t:>9.4g} {term.log_snr:>9.3f} {term.nats:>12.5g} "
            f"{term.share:>7.1%}"
            for term in self.table(20)
        ]
        lines.append(f"{'total':>11} {'':>9} {'':>9} {float(self.nats.mean()):>12.5g}")
        return "\n".join(lines)
