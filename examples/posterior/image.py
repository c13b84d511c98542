"""Images of which the lower half is missing: what each method draws, and whether to believe it.

    python examples/posterior/image.py

A small network learns handwritten digits (runs/digits, made if it is not there). Of digits that
it has not seen the upper half is measured, y = A x + noise. The left part of the picture is of one:
what was measured, mean and standard deviation of the samples, and some of them. The right part is
of many: how often the truth of a hidden pixel lies in an interval of the samples, against how often
it should. Of calibrated samples this is the diagonal; below it they are too sure.
"""

import argparse
import time
from pathlib import Path

import matplotlib
import torch

from sde_score import TrainConfig, posterior, train
from sde_score.report.pictures import ACCENT, FAINT, INK, TEXT, new_figure, png
from sde_score.training import load_run

SAMPLES, LEVELS = 31, 0.5  # of each digit; the deviation of the noise, in gray levels
SHOWN = 3  # the digit of the left part
METHODS = {  # what each is sampled with, and its line
    "mmps(most=3)": ("dpmpp-2m(steps=20)", (ACCENT, "-")),
    "pigdm": ("dpmpp-2m(steps=20)", (ACCENT, "--")),
    "ddrm": (None, (INK, "-")),
    "ddnm(steps=30)": (None, (INK, "--")),
    "dps": ("ancestral(steps=60)", (FAINT, "--")),
    "mcg-diff": ("smc(steps=40, particles=128, islands=4)", (FAINT, "-")),
}


def measured(raw, operator, scaling, seed):
    """The observation of a digit in gray levels, and the digit, both in model range."""
    noise = torch.Generator().manual_seed(seed)
    x0 = scaling.to_model(raw[None])[0].double()
    std = LEVELS / scaling.width
    y = operator(x0[None])[0]
    return posterior.Measurement(operator, y + std * torch.randn(y.shape, generator=noise), std), x0


def ranks(samples, raw, scaling, seed):
    """How many samples have less ink than the digit, entry by entry; where it is equal, by lot."""
    levels, raw = scaling.from_model(samples).long(), raw.long()
    ties = (levels == raw).sum(0)
    lots = torch.rand(ties.shape, generator=torch.Generator().manual_seed(seed))
    return (levels < raw).sum(0) + (lots * (ties + 1)).long()


def coverage(counts):
    """Of central intervals between two of n samples: share that should lie within, and does."""
    k = torch.arange(1, SAMPLES // 2 + 1)
    inside = (counts >= k[:, None]) & (counts <= SAMPLES - k[:, None])
    return (SAMPLES + 1 - 2 * k) / (SAMPLES + 1), inside.double().mean(1)


def picture(truth, seen, drawn, covered):
    """One digit and what the methods draw of it, beside the coverage over all digits."""
    figure = new_figure(12, 0.85 * len(METHODS) + 0.5)
    grid = figure.add_gridspec(len(METHODS), 15)
    half = len(METHODS) // 2

    gray = matplotlib.colormaps["gray"].with_extremes(bad=FAINT)

    def show(place, image, title="", **style):
        axes = figure.add_subplot(place)
        axes.imshow(image[0], **{"cmap": gray, "vmin": -1, "vmax": 1, **style})
        axes.set_axis_off()
        axes.set_title(title, fontsize=TEXT)
        return axes

    show(grid[:half, :2], truth, "truth")
    show(grid[half:, :2], seen, "measured")
    for row, (method, samples) in enumerate(drawn.items()):
        top = row == 0
        axes = show(grid[row, 3], samples.mean(0), "mean" if top else "")
        name = method.partition("(")[0]
        axes.text(-0.15, 0.5, name, transform=axes.transAxes, ha="right", va="center")
        spread = {"cmap": "magma", "vmin": 0, "vmax": 1}
        show(grid[row, 4], samples.std(0), "deviation" if top else "", **spread)
        for column in range(5):
            title = "samples" if top and column == 2 else ""
            show(grid[row, 5 + column], samples[column], title)
    axes = figure.add_subplot(grid[:, 10:])
    axes.axline((0, 0), slope=1, color=FAINT, linewidth=7, alpha=0.3)
    for method, (wanted, share) in covered.items():
        color, line = METHODS[method][1]
        axes.plot(wanted, share, line, color=color, linewidth=1.8, label=method.partition("(")[0])
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xlabel("share of truths that an interval should hold", fontsize=TEXT)
    axes.set_title("share that it holds", fontsize=TEXT, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=TEXT, frameon=False, loc="upper left")
    return png(figure, 100)


def main():
    """Train, draw, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/digits"))
    parser.add_argument("--out", type=Path, default=Path("image.png"))
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--examples", type=int, default=24, help="digits to measure coverage on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.run.exists():
        backbone = "unet(base=16, multipliers=(1, 2), blocks=1, attention=())"
        config = TrainConfig(backbone=backbone, steps=options.steps, learning_rate=2e-3)
        train(config, options.run)
    run = load_run(options.run)
    operator = posterior.operator_of("mask(box=(4, 0, 4, 8))", run.event_shape)
    hidden = operator.adjoint(torch.ones(1, *operator.measured_shape)).flatten() == 0
    digits = run.dataset("held_out").raw()[: options.examples]
    drawn, covered = {}, {}
    for method, (sampler, _) in METHODS.items():
        began, counts = time.perf_counter(), []
        for number, raw in enumerate(digits):
            seen, x0 = measured(raw, operator, run.scaling, number)
            samples = posterior.sample(
                run.model, seen, method, SAMPLES, sampler=sampler, seed=number, batch_size=1024,
                progress=False,
            ).samples  # fmt: skip
            counts.append(ranks(samples, raw, run.scaling, number).flatten()[hidden])
            if number == min(SHOWN, len(digits) - 1):
                shown = x0, operator.pinv(seen.y[None])[0].where(~hidden.view_as(x0), torch.nan)
                drawn[method] = samples
        covered[method] = coverage(torch.cat(counts))
        wanted, found = (values[1].item() for values in covered[method])
        print(f"{method}: {found:.2f} in intervals for {wanted:.2f}; "
              f"{time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
    options.out.write_bytes(picture(*shown, drawn, covered))


if __name__ == "__main__":
    main()
