"""The picture and the line of a restoration: truth, what was measured, mean, spread, samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sde_score.evaluation.restoration import Restoration
from sde_score.report.look import Look, kind_of, slices
from sde_score.report.page import Section
from sde_score.report.pictures import (
    ACCENT,
    FAINT,
    HEAD,
    INK,
    SMALL,
    draw_examples,
    new_figure,
    png,
)
from sde_score.training import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SAMPLES = 16


def restoration_lines(found: Restoration) -> list[str]:
    """What was found, a line each: the fit, log p(y), and measures against the truth."""
    lines = [
        f"{found.method}: {found.limit}",
        f"{found.nfe:.0f} NFE, {found.seconds:.1f} s; misfit {found.misfit:.2f} of the noise of y",
    ]
    if found.log_evidence is not None:
        lines.append(f"log p(y) = {found.log_evidence:.2f} ± {found.standard_error:.2f} nats")
    if found.psnr is not None:
        covered = ", ".join(f"{c.share:.0%} in {c.interval:.0%}" for c in found.coverage)
        lines.append(
            f"PSNR of the mean {found.psnr:.1f} dB, of samples {found.psnr_each:.1f} dB; coverage "
            f"{covered}; error {found.spread:.2f} of what the spread lets expect"
        )
    return lines


def restoration_section(found: Restoration, run: Run) -> Section:
    """The section of a run's page.

    Args:
        found: the restoration.
        run: whose model is the prior.
    """
    picture = png(restoration_figure(found, Look.of(run), found.method))
    alt = "What was measured, mean and spread of the posterior, and samples of it."
    text = "; ".join(restoration_lines(found)) + "."
    return Section(f"Posterior by {found.method}", text, None, picture, alt)


def restoration_figure(found: Restoration, look: Look, title: str = "") -> Figure:
    """The truth if it is known, what was measured, mean, spread and samples of the posterior.

    Args:
        found: the restoration.
        look: of the data set.
        title: above all.
    """
    shape = found.samples.shape[1:]
    if kind_of(shape) != "images":
        return _curves(found, look, title)
    panels: list[tuple[str, Tensor]] = [] if found.truth is None else [("truth", found.truth)]
    panels += [("measured", found.measured), ("mean", found.mean)]
    figure = new_figure(1.6 * (len(panels) + 1) + 3.3, 3.7)
    parts = figure.subplots(1, len(panels) + 2, width_ratios=[*[1.0] * (len(panels) + 1), 2.0])
    for axes, (name, x) in zip(parts, panels, strict=False):
        draw_examples(axes, x[None].double(), look, 1)
        axes.set_title(name, fontsize=SMALL)
    _draw_spread(parts[-2], found.std.double(), look)
    draw_examples(parts[-1], found.samples[:_SAMPLES].double(), look, 4)
    parts[-1].set_title("samples of the posterior", fontsize=SMALL)
    for axes in parts:
        axes.set_anchor("N")
    figure.suptitle(title, fontsize=HEAD)
    return figure


def _draw_spread(axes: Axes, std: Tensor, look: Look) -> None:
    """The standard deviation of each pixel in the data's own terms, with its scale below."""
    spread = slices(std[None])[0].transpose(1, 2).flatten(2) if std.ndim == 4 else std
    width = look.scaling.width if isinstance(look.scaling.width, float) else 1.0
    shown = axes.imshow(width * spread.square().mean(0).sqrt().numpy(), cmap="magma", vmin=0)
    axes.set_axis_off()
    axes.set_title("standard deviation", fontsize=SMALL)
    scale = axes.inset_axes((0.0, -0.12, 1.0, 0.05))
    axes.figure.colorbar(shown, cax=scale, orientation="horizontal")
    scale.tick_params(labelsize=SMALL - 1)


def _curves(found: Restoration, look: Look, title: str) -> Figure:
    """Series and tables: the band of nine tenths of the samples, their median and the truth."""
    raw = look.raw(found.samples).flatten(2) if found.samples.ndim > 2 else look.raw(found.samples)
    values = raw if raw.ndim == 3 else raw[:, None]
    truth = None if found.truth is None else look.raw(found.truth[None]).reshape(values.shape[1:])
    figure = new_figure(7, 1.2 + 1.8 * values.shape[1])
    parts = figure.subplots(values.shape[1], 1, squeeze=False)[:, 0]
    for channel, axes in enumerate(parts):
        band(axes, values[:, channel], None if truth is None else truth[channel])
    if found.samples.ndim == 2:
        names = look.names(values.shape[2])
        parts[-1].set_xticks(range(len(names)), names, rotation=45 if len(names) > 8 else 0)
    parts[0].legend(fontsize=SMALL, frameon=False)
    figure.suptitle(title, fontsize=HEAD)
    return figure


def band(axes: Axes, values: Tensor, truth: Tensor | None) -> None:
    """Half and nine tenths of samples `(n, length)` as bands, their median, and a truth."""
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=values.dtype)
    low, below, middle, above, high = torch.quantile(values, shares, dim=0)
    place = torch.arange(values.shape[1])
    axes.fill_between(place, low, high, color=FAINT, alpha=0.35, linewidth=0, label="nine tenths")
    axes.fill_between(place, below, above, color=FAINT, alpha=0.6, linewidth=0, label="half")
    axes.plot(place, middle, color=INK, linewidth=1, label="median")
    if truth is not None:
        axes.plot(place, truth, color=ACCENT, linewidth=1, label="truth")
    axes.tick_params(labelsize=SMALL)
