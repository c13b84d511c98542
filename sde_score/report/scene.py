"""Pictures with sliders: arrays, controls and panels, as a script for a page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

SCRIPT = Path(__file__).with_name("scene.js")
"""The script that draws scenes."""

_BREAK = -32768
_LARGEST = 32767

Parts = Mapping[str, Any]


@dataclass
class Scene:
    """A picture with sliders.

    Layers and numbers are chosen by the stops of controls: `over` names the controls that index
    the first axes of an array; an axis with fewer entries than the control has stops is passed in
    as many jumps. `{name}` in the name of an array is the stop of the control `name`.

    Args:
        title: in words, for those who cannot see it.
        controls: each with `name`, `label`, `values` (texts), and `kind="select"`, `start` or
            `play=True`.
        panels: each with `title`, `alt`, `window` (left, right, bottom, top), `layers` and perhaps
            `aspect`.
        readouts: numbers below the panels, each with `label`, `numbers` (their name), `over` and
            `digits`.
        numbers: nested lists by name.
    """

    title: str
    controls: Sequence[Parts]
    panels: Sequence[Parts]
    readouts: Sequence[Parts] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    _arrays: dict[str, Parts] = field(default_factory=dict)
    _bytes: bytearray = field(default_factory=bytearray)

    def keep_places(self, name: str, places: Tensor) -> None:
        """Keep points, shape `(..., 2)`, in 16 bits; NaN ends a line."""
        values = places.detach().double().numpy()
        scale = float(np.nanmax(np.abs(values))) / _LARGEST or 1.0
        whole = np.where(np.isnan(values), _BREAK, np.round(np.nan_to_num(values) / scale))
        self._keep(name, "i16", whole.astype("<i2"), scale)

    def keep_field(self, name: str, values: Tensor) -> None:
        """Keep grids of values at least 0, shape `(..., rows, columns)`, as shares of the largest
        of each grid, in 8 bits."""
        shares = values / values.amax((-2, -1), keepdim=True)
        self._keep(name, "u8", (255 * shares).round().numpy().astype("u1"), 1.0)

    def _keep(self, name: str, kind: str, values: Any, scale: float) -> None:
        self._bytes += b"\0" * (len(self._bytes) % 2)
        self._arrays[name] = {
            "kind": kind, "shape": values.shape, "offset": len(self._bytes), "scale": scale,
        }  # fmt: skip
        self._bytes += values.tobytes()

    def script(self, name: str) -> str:
        """The call that draws the scene into the element with that id, after `SCRIPT`."""
        parts = {
            "title": self.title, "controls": self.controls, "panels": self.panels,
            "readouts": self.readouts, "numbers": self.numbers, "arrays": self._arrays,
            "blob": base64.b64encode(bytes(self._bytes)).decode(),
        }  # fmt: skip
        text = json.dumps(parts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        safe = text.replace("</", "<\\/")  # no text ends the script
        return f"sceneOf({json.dumps(name)},{safe});\n"
