"""`sde-score data info`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import tyro

from sde_score.cli.output import show_record, show_table
from sde_score.data import load


@dataclass(frozen=True)
class Data:
    """Look at a data set: shape, range, count, and the noise levels that suit it.

    For example:
        sde-score data info digits
        sde-score data info images.parquet --json
    """

    action: tyro.conf.Positional[Literal["info"]]
    """What to do; info measures the data set."""

    data: tyro.conf.Positional[str]
    """Data set: a name (digits, ring, moons, ...) or the path of a file or folder."""

    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Measure and print."""
        info = load(self.data).info()
        if self.json:
            show_record(asdict(info))
            return
        pairs = "exact" if info.sigma_max_is_exact else f"on {info.sigma_max_examples} examples"
        levels = "continuous" if info.levels is None else f"{info.levels} levels"
        show_table(
            ["", info.name],
            [
                ["examples", str(info.count)],
                ["shape", " x ".join(map(str, info.event_shape))],
                ["raw range", f"{info.raw_min:g} to {info.raw_max:g} ({levels})"],
                ["classes", str(info.num_classes or "none")],
                ["sigma_data (standard deviation, model range)", f"{info.sigma_data:.4g}"],
                [f"sigma_max (largest distance, {pairs})", f"{info.sigma_max:.4g}"],
                ["for a variance-exploding SDE", f'--sde "ve(sigma_max={info.sigma_max:.3g})"'],
            ],
        )
