"""NCSN's ladder against the variance-exploding SDE: training at n noise levels or at all of them.

For each ladder one network is trained by NCSN's objective, denoising score matching on its rungs
weighted by sigma^2, and beside them one by the continuous objective: equal networks, initial
weights, data order, steps and batches, so equal compute. Then each is used both ways: its loss on
the rungs and half-way between them; its samples by annealed Langevin dynamics on the ladders and by
predictor-corrector, reverse diffusion and the probability-flow ODE (Heun), at the same numbers of
network evaluations, against held-out data; bits/dim by the probability flow.

    python benchmarks/ncsn_vs_sde.py [--data digits] [--layers 10 232] [--nfe 30 240] [--num 512]

The same command continues an interrupted run. Time is CPU time of one thread. The code shared with
`ddpm_vs_sde.py`, and the definition of the errors, are in `discrete_vs_continuous.py`.

References: Song & Ermon 2019, https://arxiv.org/abs/1907.05600; Song & Ermon 2020,
https://arxiv.org/abs/2006.09011; Song et al. 2021, https://arxiv.org/abs/2011.13456.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from discrete_vs_continuous import (
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

from sde_score import data, samplers, sdes
from sde_score.discrete import NoiseScales
from sde_score.likelihood import BitsPerDim, bits_per_dim
from sde_score.samplers import Sampler
from sde_score.sdes import SDE
from sde_score.training import Run


def samplers_at(
    nfe: Sequence[int], sde: SDE, layers: Sequence[int], widest: float
) -> dict[str, Sampler]:
    """The samplers of both views with about `nfe` evaluations; `widest` is the largest standard
    deviation of the data in any direction, for the step of Langevin dynamics."""
    how: dict[str, Sampler] = {}
    for budget in nfe:
        for n in layers:
            if each := round((budget - 1) / n):  # one evaluation is for the final denoising
                ladder = NoiseScales.from_sde(sde, n)
                how[f"annealed-langevin, {n} x {each}"] = ladder.sampler(
                    steps_each=each, data_std=(0.0, widest)
                )
        how[f"pc, {budget}"] = samplers.create("pc", steps=budget // 2)
        how[f"reverse-diffusion, {budget}"] = samplers.create("reverse-diffusion", steps=budget)
        how[f"heun, {budget}"] = samplers.create("heun", steps=(budget + 1) // 2)
    return how


def largest_std(x: Tensor) -> float:
    """The standard deviation of examples along their first principal axis."""
    return float(torch.linalg.eigvalsh(x.flatten(1).T.cov())[-1].sqrt())


def by_flow(run: Run, raw: Tensor) -> BitsPerDim:
    """Bits/dim by the probability flow."""
    return bits_per_dim(run.model, raw, run.scaling)


def main(argv: Sequence[str] | None = None) -> Report:
    """Train, measure, print and keep the tables."""
    options = arguments(__doc__, argv, [10, 232], [30, 240], Path("runs/ncsn_vs_sde"))
    sde = f"ve(sigma_min=0.02, sigma_max={data.load(options.data).info().sigma_max:.3g})"
    report, runs = Report(options), train_all(options, sde)
    judge = Judge(options, configuration(options, sde, None, 0))
    widest = largest_std(judge.train)
    report.add("loss, on the rungs and off them", loss_rows(runs, options, judge))
    report.add("bits, of held-out data", bits_rows(runs, {"flow": by_flow}, options, judge))
    how = samplers_at(options.nfe, sdes.create(sde), options.layers, widest)
    report.add("samples, distance to held-out data", sampling_rows(runs, how, options, judge))
    return report


if __name__ == "__main__":
    main()
