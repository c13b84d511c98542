"""The evidence lower bound of a hierarchical VAE, drawn layer by layer, and likelihood tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from sde_score._core.files import replace_file
from sde_score.discrete import ELBO
from sde_score.evaluation import RunBits
from sde_score.report.page import Section
from sde_score.report.pictures import ACCENT, FAINT, INK, new_figure, png
from sde_score.report.tables import Table
from sde_score.scaling import Scaling
from sde_score.training import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layer_bits(elbo: ELBO) -> tuple[Tensor, Tensor]:
    """Average cost of each layer: bits per dimension and unit of log-SNR.

    Args:
        elbo: of at least two layers.

    Returns:
        edges, the log-SNRs of the layers, rising, shape `(n,)`, and heights between them, shape
        `(n - 1,)`; height times width is the layer's bits per dimension.
    """
    edges = elbo.log_snrs.flip(0)
    nats = elbo.layers.mean(1).flip(0).cpu()
    return edges, nats / (math.prod(elbo.event_shape) * math.log(2)) / edges.diff()


def layers_figure(elbo: ELBO, scaling: Scaling | None = None) -> Figure:
    """Bits of each layer against its log-SNR; the area under the steps is the cost of all layers.

    Args:
        elbo: a bound on one or more examples.
        scaling: of the data set, needed for continuous data.

    Raises:
        ValueError: for a bound on a density without a scaling.
    """
    edges, heights = layer_bits(elbo)
    total = float(elbo.bits_per_dim(scaling).mean())
    layers = float(heights @ edges.diff())
    prior = float(elbo.prior.mean()) / (math.prod(elbo.event_shape) * math.log(2))
    parts = f"prior {prior:.3f} + layers {layers:.3f} + decoder {total - prior - layers:.3f}"
    figure = new_figure(7.2, 3.6)
    axes = figure.subplots()
    axes.stairs(heights.tolist(), edges.tolist(), fill=True, color=ACCENT, alpha=0.25)
    axes.stairs(heights.tolist(), edges.tolist(), color=ACCENT, linewidth=1.4)
    axes.set_title(f"Where the bits go: {total:.3f} bits per dimension", loc="left", color=INK)
    axes.set_xlabel("log signal-to-noise ratio, from noise to data")
    axes.set_ylabel("bits per dimension\nand unit of log-SNR")
    axes.text(0.02, 0.93, parts, transform=axes.transAxes, color=INK, fontsize=9)
    axes.set_ylim(0, 1.25 * float(heights.max()))
    axes.grid(color=FAINT, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_layers(elbo: ELBO, scaling: Scaling | None, path: Path) -> None:
    """Write `layers_figure` as a PNG file, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, png(layers_figure(elbo, scaling), dpi=150))


def likelihood_table(found: RunBits) -> Table:
    """A row for each likelihood."""
    rows = [
        [name, found.data or found.part, str(found.examples),
         f"{bits.mean:.4f} ± {bits.standard_error:.4f}", str(bits.nfe)]
        for name, bits in found.by.items()
    ]  # fmt: skip
    return Table(["by", "data" if found.data else "part", "examples", "bits/dim", "NFE"], rows)


def likelihood_section(found: RunBits, run: Run) -> Section:
    """The section of a run's page: a row for each likelihood, and where the bits of the layers go.

    Args:
        found: from `sde_score.evaluation.likelihood`.
        run: that was measured.
    """
    text = (
        "Bits per dimension of the data in their own terms; for gray levels each likelihood bounds "
        "the length of a code. ± is one standard error."
    )
    picture = None if found.layers is None else png(layers_figure(found.layers, run.scaling))
    alt = "" if picture is None else "Bits per dimension of each layer against its log-SNR."
    note = f"Measured after {run.step} steps of training."
    return Section("Likelihood", text, likelihood_table(found), picture, alt, note=note)
