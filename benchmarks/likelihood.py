"""Probability-flow likelihood of images: ours against the standard recipe, at equal accuracy.

The recipe (Song et al. 2021, appendix D.2) is the one most published bits/dim were computed with:
scipy's RK45 over t on float64 NumPy copies of a float32 state, both tolerances 1e-5, one error norm
for the whole batch, and two passes of the network per evaluation, one for the drift and one whose
backward pass gives Hutchinson's estimate. Ours is `log_prob`, by its default method and by
`quadrature`. Same network, images and probes, one
process, one thread; the sides take turns. Errors are in bits/dim, of the mean and of the worst
image, against a float64 solve with both tolerances 1e-8; seconds are processor time.

The networks are trained once, about a minute each, and kept in `runs`.

Run: python benchmarks/likelihood.py [--data FILE] [--sde vp ve] [--images 4] [--repeats 3]
     [--out runs/likelihood.csv]
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import results
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.nn import functional as F

from sde_score.data import load
from sde_score.likelihood import draw_probes, log_prob
from sde_score.models import Model
from sde_score.training import Run, TrainConfig, load_run, train

RECIPE_TOLERANCES = (1e-4, 1e-5)
OUR_TOLERANCES = {
    "dopri5": (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6),
    "quadrature": (1e-3, 5e-4, 3e-4, 1.6e-4, 1e-4, 3e-5, 1e-5),
}
STANDARD, OUR_DEFAULT = 1e-5, 1e-4
WANTED = 3.0


@dataclass(frozen=True)
class Row:
    """One way at one tolerance."""

    name: str
    tolerance: float
    evaluations: int
    seconds: float
    error: float
    worst: float


def recipe(model: Model, x: Tensor, probe: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """The standard recipe: log density of each image, and evaluations of the right-hand side."""
    sde, shape, size = model.sde, x.shape, x.numel()

    def drift(points: Tensor, t: Tensor) -> Tensor:
        return sde.probability_flow(model.score)(points, t)

    def divergence(points: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            points = points.requires_grad_()
            (pulled,) = torch.autograd.grad((drift(points, t) * probe).sum(), points)
        return (pulled * probe).flatten(1).sum(1)

    def slope(time: float, numbers: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(numbers[:size].reshape(shape)).float()
        t = torch.full((len(x),), time)
        velocity, change = drift(points, t), divergence(points, t)
        return np.concatenate([velocity.numpy().reshape(-1), change.numpy()])

    start = np.concatenate([x.numpy().reshape(-1), np.zeros(len(x), dtype=np.float32)])
    span = (sde.t_min, sde.t_max)
    with torch.no_grad():
        found = solve_ivp(slope, span, start, method="RK45", rtol=tolerance, atol=tolerance)
    end = torch.from_numpy(found.y[:, -1])
    return sde.prior(shape).log_prob(end[:size].reshape(shape)) + end[size:], found.nfev


def ours(
    model: Model, x: Tensor, probe: Tensor, tolerance: float, method: str = "dopri5"
) -> tuple[Tensor, int]:
    """`log_prob`, and the calls of the model."""
    found = log_prob(
        model,
        x,
        divergence="hutchinson",
        probes=probe[None],
        rtol=tolerance,
        atol=tolerance,
        method=method,
    )
    return found.log_prob, found.nfe


Way = Callable[[Model, Tensor, Tensor, float], tuple[Tensor, int]]
WAYS: dict[str, tuple[Way, tuple[float, ...]]] = {
    "recipe": (recipe, RECIPE_TOLERANCES),
    **{name: (partial(ours, method=name), all_) for name, all_ in OUR_TOLERANCES.items()},
}


def trained(data: str | None, sde: str, steps: int, runs: Path) -> Run:
    """A U-Net for 28 x 28 images, trained unless it has been."""
    if data is None:
        file = runs / "digits-28x28.npy"
        if not file.exists():
            runs.mkdir(parents=True, exist_ok=True)
            np.save(file, enlarged_digits())
        data = str(file)
    out = runs / f"{Path(data).name.split('.')[0]}-{sde}-{steps}"
    config = TrainConfig(
        data=data,
        sde=sde,
        backbone="unet(base=32, blocks=1)",
        steps=steps,
        batch_size=32,
        ema=0.99,
        dequantize=True,
        device="cpu",
    )
    train(config, out)
    return load_run(out)


def enlarged_digits() -> np.ndarray:
    """The bundled digits as 28 x 28 images of 8 bits, shape (count, 1, 28, 28)."""
    digits = load("digits")
    small = digits.raw(torch.arange(len(digits))).float() / (digits.scaling.levels - 1)
    large = F.interpolate(small, (28, 28), mode="bicubic", align_corners=False)
    return (255 * large.clamp(0, 1)).round().byte().numpy()


def measure(model: Model, x: Tensor, probe: Tensor, repeats: int) -> list[Row]:
    """Every way at each of its tolerances."""
    exact = copy.deepcopy(model).double()  # type: ignore[attr-defined]
    truth, _ = ours(exact, x.double(), probe.double(), 1e-8)
    bit = x[0].numel() * math.log(2)
    print(f"reference: {float(-truth.mean()) / bit:.5f} bits/dim in model space")
    cases = [(name, tolerance) for name, (_, all_) in WAYS.items() for tolerance in all_]
    found: dict[tuple[str, float], tuple[Tensor, int]] = {}
    spent: dict[tuple[str, float], list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for name, tolerance in cases:
            began = time.process_time()
            found[name, tolerance] = WAYS[name][0](model, x, probe, tolerance)
            spent[name, tolerance].append(time.process_time() - began)
    rows = []
    for case in cases:
        off = (found[case][0] - truth) / bit
        seconds = statistics.median(spent[case])
        rows.append(
            Row(*case, found[case][1], seconds, abs(float(off.mean())), float(off.abs().max()))
        )
    return rows


def report(rows: list[Row]) -> None:
    """Print the sweep, and for each tolerance of the recipe our cheapest that is as accurate."""
    print(f"{'':11}{'tolerance':>10}{'evaluations':>13}{'seconds':>9}{'error':>10}{'worst':>10}")
    for row in rows:
        print(
            f"{row.name:11}{row.tolerance:>10.1e}{row.evaluations:>13}{row.seconds:>9.2f}"
            f"{row.error:>10.1e}{row.worst:>10.1e}"
        )
    for theirs, name in product((row for row in rows if row.name == "recipe"), OUR_TOLERANCES):
        equal = [
            row
            for row in rows
            if row.name == name and row.error <= theirs.error and row.worst <= theirs.worst
        ]
        label = f"recipe at {theirs.tolerance:.0e}: {name}"
        if not equal:
            print(f"{label} is nowhere as accurate")
            continue
        best = min(equal, key=lambda row: row.seconds)
        ratio = theirs.seconds / best.seconds
        below = f", below {WANTED}" if theirs.tolerance == STANDARD and ratio < WANTED else ""
        print(f"{label} at {best.tolerance:.1e} is {ratio:.2f} times faster{below}")
    defaults = {(row.name, row.tolerance): row for row in rows}
    theirs = defaults["recipe", STANDARD]
    for name in OUR_TOLERANCES:
        ratio = theirs.seconds / defaults[name, OUR_DEFAULT].seconds
        print(f"both by default: {name} is {ratio:.2f} times faster")


def main() -> None:
    """Train or open the network, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="images of 28 x 28, such as MNIST; the digits if not given")
    parser.add_argument("--sde", nargs="+", default=["vp", "ve"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-likelihood"))
    parser.add_argument("--out", type=Path, default=Path("runs/likelihood.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    journal, rows = results.Journal.beside(options.out), []
    for sde in options.sde:
        key = (options.data, sde, options.steps, options.images, options.repeats)
        found = journal.kept(key, partial(of_network, sde, options))
        print(f"torch {torch.__version__}, one thread, {options.images} images, {sde}")
        report([Row(**row) for row in found])
        rows += [{"sde": sde, "images": options.images, **row} for row in found]
    results.write(options.out, rows, ("scipy",))


def of_network(sde: str, options: argparse.Namespace) -> list[results.Row]:
    """All rows of a network, which is trained unless it has been."""
    run = trained(options.data, sde, options.steps, options.runs)
    raw = run.dataset("held_out").raw(torch.arange(options.images))
    x = run.scaling.dequantize(raw, torch.Generator().manual_seed(0)).float()
    return [asdict(row) for row in measure(run.model, x, draw_probes(1, x)[0], options.repeats)]


if __name__ == "__main__":
    main()
