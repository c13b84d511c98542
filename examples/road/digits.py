"""Handwritten digits for the pictures: a small U-Net trained on them, and rows of images."""

import picture
import torch
from matplotlib.colors import LinearSegmentedColormap
from torch.nn.functional import interpolate, pad

from sde_score import data, nn, objectives
from sde_score.models import ScoreModel
from sde_score.sdes import VP

SIDE = 56  # of a digit in a row of them, with its frame
INK_SHADES = LinearSegmentedColormap.from_list("ink", ["#ffffff", picture.INK])


def load():
    """The digits in two parts: 1500 to train on, and 297 held out."""
    return data.load("digits").split(297)


def train(dataset, steps, spread=True):
    """A model of the digits trained by denoising; 1200 steps take less than a minute.

    `spread` puts the gray levels anywhere in their bins, as a density needs it, else in the middle.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    spec = "unet(base=16, multipliers=(1, 2), blocks=1, attention=())"
    backbone = nn.create(spec, event_shape=dataset.event_shape)
    model = ScoreModel(backbone, VP(), "edm", sigma_data=0.5)
    denoising = objectives.create("denoising(time_sampler='low_discrepancy')")
    optimizer = torch.optim.Adam(model.parameters())
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(dataset), (128,), generator=generator)
        x0 = dataset.batch(chosen).x0
        if spread:
            x0 = dataset.scaling.dequantize(dataset.raw(chosen), generator)
        optimizer.zero_grad()
        denoising(model, x0, generator=generator).mean().backward()
        optimizer.step()
        pace.step()
    return model.eval()


def rows(axes, images, names, colors):
    """Draw images in model range, `(rows, columns, 1, 8, 8)`, with the name and color of rows."""
    count, columns = images.shape[:2]
    large = interpolate(images.flatten(0, 1).float(), scale_factor=6.0, mode="bicubic")
    levels = ((large + 1) * 8.5).floor().clamp(0, 16)
    framed = pad(levels, (4, 4, 4, 4)).squeeze(1)
    sheet = framed.reshape(count, columns, SIDE, SIDE).transpose(1, 2).reshape(count * SIDE, -1)
    axes.imshow(sheet.numpy(), cmap=INK_SHADES, vmin=0, vmax=16, interpolation="nearest")
    axes.set(xticks=[], yticks=[SIDE * (row + 0.5) for row in range(count)], yticklabels=names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for label, color in zip(axes.get_yticklabels(), colors, strict=True):
        label.set_color(color)
