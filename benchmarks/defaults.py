"""Every forward SDE with every prediction, trained and sampled by their defaults alone.

A ring (two columns, noise of 7 % of its radius), a table (columns of deviation 1e6, 1 and 1e-3, one
of them a noisy square of another) and the 8 x 8 digits. Each row is one training with `train` and
nothing said but the data, the SDE, the prediction, the network and the steps, sampled as `sample`
does. Two figures, and what as many examples of the data have in their place:

- *distance*: sliced 2-Wasserstein distance to the held-out examples, in model range;
- *width*: of the ring the deviation of the radius, of the table the deviation from the square, of
  the digits the distance to the nearest example of the training part.

The floor is measured on examples of the training part. About 40 minutes on one idle core:

    python benchmarks/defaults.py [--data ring table digits] [--sde vp ...] [--prediction noise ...]
                                  [--backbone transformer ...]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from sde_score.data import DataSet, from_tensor, load
from sde_score.evaluation import sliced_wasserstein2
from sde_score.models import PARAMETRIZATIONS
from sde_score.models.rows import OURS
from sde_score.random import generator_from
from sde_score.samplers import sample
from sde_score.sdes import SDES, Tabulated
from sde_score.training import Run, TrainConfig, train

COUNT = 1000
SDE_OBJECTS = {
    **{name: SDES.create(name) for name in SDES},
    "tabulated": Tabulated.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
}


def table(n: int = 10_000) -> DataSet:
    """Three columns of very different size: u, v and u^2 + noise."""
    draw = torch.randn(n, 3, generator=generator_from(0), dtype=torch.float64)
    u, v, noise = draw.unbind(1)
    square = (u**2 - 1) / 2**0.5
    return from_tensor(torch.stack([3e7 + 1e6 * u, v, 1e-3 * (square + 0.1 * noise)], dim=1))


def radius_width(x: Tensor, _: Tensor) -> float:
    return x.norm(dim=1).std().item()


def square_width(x: Tensor, _: Tensor) -> float:
    return (x[:, 2] - (x[:, 0] ** 2 - 1) / 2**0.5).std().item()


def nearest(x: Tensor, train: Tensor) -> float:
    """Distance to the nearest other example of the training part, the mean over x."""
    apart = torch.cdist(x.flatten(1).double(), train.flatten(1).double())
    return apart.masked_fill(apart < 1e-3, torch.inf).amin(1).mean().item()


Case = tuple[Callable[[], DataSet], TrainConfig, Callable[[Tensor, Tensor], float]]
PLAIN = TrainConfig(backbone="mlp(width=128, depth=3)", steps=1500)
IMAGES = TrainConfig(
    backbone="unet(base=16, multipliers=(1, 2), blocks=1, attention=())", batch_size=64, steps=1000
)
CASES: dict[str, Case] = {
    "ring": (lambda: load("ring"), PLAIN, radius_width),
    "table": (table, PLAIN, square_width),
    "digits": (lambda: load("digits"), IMAGES, nearest),
}


def figures(run: Run, width: Callable[[Tensor, Tensor], float]) -> list[tuple[float, float]]:
    """(distance, width) of samples, and of examples of the training part."""
    known, held_out = run.dataset("train").tensor(), run.dataset("held_out").tensor()
    found = sample(run.model, run.sampler, run.event_shape, COUNT, progress=False)
    sets = (found, known[:COUNT])
    return [(sliced_wasserstein2(x, held_out), width(x, known)) for x in sets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sde", nargs="+", choices=SDE_OBJECTS, default=list(SDE_OBJECTS))
    parser.add_argument("--prediction", nargs="+", choices=[*PARAMETRIZATIONS], default=None)
    parser.add_argument("--backbone", nargs="+", default=[None], help="instead of that of the data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'data':8}{'SDE':11}{'prediction':14}{'distance':>9}{'floor':>8}", end="")
    print(f"{'width':>8}{'data':>8}{'seconds':>9}", flush=True)
    for name in given.data:
        make, config, width = CASES[name]
        for sde in given.sde:
            for prediction, network in product(given.prediction or OURS, given.backbone):
                began = time.process_time()
                with tempfile.TemporaryDirectory() as folder:
                    run = train(
                        TrainConfig(
                            data=make(),
                            sde=SDE_OBJECTS[sde],
                            prediction=prediction,
                            backbone=network or config.backbone,
                            batch_size=config.batch_size,
                            steps=config.steps,
                            device="cpu",
                        ),
                        Path(folder) / "run",
                        progress=False,
                    )
                    (distance, found), (floor, true) = figures(run, width)
                seconds = time.process_time() - began
                row = f"{distance:9.3f}{floor:8.3f}{found:8.3f}{true:8.3f}{seconds:9.0f}"
                print(f"{name:8}{sde:11}{prediction:14}{row}  {network or ''}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
