"""The way of samples from noise to data, a state at a time, behind a slider."""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor

from sde_score import samplers
from sde_score.report.look import Look, kind_of
from sde_score.report.pictures import draw_examples, new_figure, png_of_pixels
from sde_score.report.scene import Scene
from sde_score.training import Run

_IMAGES, _POINTS, _FRAMES = 16, 400, 16
_SIDE = 480  # pixels of a frame that is no sheet of images


def trajectory_scene(run: Run, sampler: str, seed: int = 0) -> Scene:
    """States of samples between noise and data, at equal contrast.

    Args:
        run: an open run.
        sampler: as text.
        seed: of the samples.
    """
    count = _IMAGES if kind_of(run.event_shape) == "images" else _POINTS
    made = samplers.SAMPLERS.resolve(sampler, model=run.model)
    found = made(
        run.model, (count, *run.event_shape), seed=seed, condition=run.draw_labels(count, seed),
        trajectory=True, progress=False,
    )  # fmt: skip
    places = torch.linspace(0, len(found.times) - 1, min(_FRAMES, len(found.times))).long()
    shown, words = [], []
    for place in sorted(set(places.tolist())):
        t = float(found.times[place])
        text, size = f"t = {t:.3g}", 1.0
        if t > 0:
            text += f", log SNR {float(run.model.sde.log_snr(t)):.1f}"
            scales = run.model.sde.alpha(t), run.model.sde.sigma(t)
            size = float(sum(scale**2 for scale in scales) ** 0.5)
        words.append(text)
        shown.append(found.states[place].cpu() / size)
    frames = _frames(shown, Look.of(run))
    height, width = frames.shape[0] // len(shown), frames.shape[1]
    source = "data:image/png;base64," + base64.b64encode(png_of_pixels(frames)).decode()
    layer = {"kind": "image", "source": source, "frames": len(shown), "along": "step"}
    return Scene(
        f"Samples of {sampler} on their way from noise to data",
        [{"name": "step", "label": "From noise to data", "play": True, "values": words}],
        [{
            "title": sampler,
            "alt": f"{count} samples at a stop of the sampler on its way from noise to data.",
            "window": [0, 1, 0, 1], "aspect": width / height, "layers": [layer],
        }],
    )  # fmt: skip


def _frames(states: list[Tensor], look: Look) -> Tensor:
    """Pictures of all states, one below the other, uint8 `(frames * height, width, 3)`."""
    if kind_of(states[0].shape[1:]) == "images":
        return torch.cat([look.sheet(x, 4) for x in states])
    limit = max(float(torch.quantile(x.abs().float(), 0.999)) for x in states)
    pictures = []
    for x in states:
        figure = new_figure(_SIDE / 150, _SIDE / 150)
        figure.set_dpi(150)
        draw_examples(figure.subplots(), x, look, 4, limit)
        figure.canvas.draw()
        pixels = torch.from_numpy(np.array(figure.canvas.buffer_rgba()))  # type: ignore[attr-defined]
        pictures.append(pixels[..., :3].clone())
    return torch.cat(pictures)
