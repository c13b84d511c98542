"""DDPM's layers against the variance-preserving SDE: training at n noise levels or at all of them.

For each number of layers one network is trained by DDPM's simple loss at the times i / n, and
beside them one by the continuous objective: equal networks, initial weights, data order, steps and
batches, so equal compute. Then each is used both ways: its loss at the layers, half-way between
them and below the first; its samples by ancestral sampling over the layers, DDIM, Euler-Maruyama
and the probability-flow ODE (Heun), against held-out data; its bits/dim by the bound of the n-layer
hierarchical VAE, by the continuous bound and by the probability flow.

    python benchmarks/ddpm_vs_sde.py [--data digits] [--layers 50 1000] [--nfe 50 250] [--num 512]

The same command continues an interrupted run. Time is CPU time of one thread. The code shared with
`ncsn_vs_sde.py`, and the definition of the errors, are in `discrete_vs_continuous.py`.

References: Ho et al. 2020, https://arxiv.org/abs/2006.11239; Song et al. 2021,
https://arxiv.org/abs/2011.13456; Kingma et al. 2021, https://arxiv.org/abs/2107.00630.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from discrete_vs_continuous import (
    Bits,
    Judge,
    arguments,
    bits_rows,
    configuration,
    loss_rows,
    sampling_rows,
    train_all,
)
from tables import Report
from torch import Tensor

from sde_score import samplers
from sde_score.discrete import HierarchicalVAE
from sde_score.likelihood import BitsPerDim, bits_per_dim
from sde_score.random import generator_from
from sde_score.samplers import Sampler
from sde_score.sdes import VP
from sde_score.training import Run


def layers_at(n: int) -> HierarchicalVAE:
    """DDPM's n layers, at the times i / n of the SDE."""
    return HierarchicalVAE.from_sde(VP(), n, grid=f"uniform(end={1 / n})")


def samplers_at(nfe: Sequence[int], layers: Sequence[int]) -> dict[str, Sampler]:
    """The others with about `nfe` evaluations, and DDPM's own sampler over the layers."""
    how: dict[str, Sampler] = {}
    for budget in nfe:
        for name in ("ddim", "euler-maruyama"):
            how[f"{name}, {budget}"] = samplers.create(name, steps=budget)
        how[f"heun, {budget}"] = samplers.create("heun", steps=(budget + 1) // 2)
    for n in layers:
        how[f"ancestral, {n}"] = layers_at(n).ancestral()
    return how


def likelihoods(layers: Sequence[int]) -> dict[str, Bits]:
    """The bound of the discrete view at each number of layers, and both continuous ones: all on the
    density of dequantized data, which is what the networks are trained on."""

    def elbo(n: int) -> Bits:
        def bits(run: Run, raw: Tensor) -> BitsPerDim:
            x0 = run.scaling.dequantize(raw, generator_from(4))
            bound = layers_at(n).elbo(run.model, x0)
            return BitsPerDim(bound.bits_per_dim(run.scaling), bound.nfe)

        return bits

    def by(spec: str) -> Bits:
        return lambda run, raw: bits_per_dim(run.model, raw, run.scaling, by=spec)

    ways = {f"ELBO, {n} layers": elbo(n) for n in layers}
    return {**ways, "continuous bound": by("bound(dequantization='uniform')"), "flow": by("flow")}


def main(argv: Sequence[str] | None = None) -> Report:
    """Train, measure, print and keep the tables."""
    options = arguments(__doc__, argv, [50, 1000], [50, 250], Path("runs/ddpm_vs_sde"))
    report, runs = Report(options), train_all(options, "vp")
    judge = Judge(options, configuration(options, "vp", None, 0))
    report.add("loss, at the layers and off them", loss_rows(runs, options, judge))
    ways = likelihoods(options.layers)
    report.add("bits, of held-out data", bits_rows(runs, ways, options, judge))
    how = samplers_at(options.nfe, options.layers)
    report.add("samples, distance to held-out data", sampling_rows(runs, how, options, judge))
    return report


if __name__ == "__main__":
    main()
