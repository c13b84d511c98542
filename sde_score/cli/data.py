"""`sde-score data info` and `sde-score data ladder`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import tyro

from sde_score._core.conditions import described
from sde_score.cli.options import Command
from sde_score.cli.output import show_record, show_table
from sde_score.data import DataSet, load


@dataclass(frozen=True, kw_only=True)
class Data(Command):
    """Look at a data set: shape, range, count, and the noise levels that suit it.

    For example:
        sde-score data info digits
        sde-score data info images.parquet --json
        sde-score data ladder digits
    """

    action: tyro.conf.Positional[Literal["info", "ladder"]]
    """Action: info measures the data set, ladder designs the noise levels of NCSN for it and
    gives the reasons."""

    data: tyro.conf.Positional[str]
    """Data set: a name (digits, ring, moons, ...) or the path of a file or folder."""

    radius: Literal["normal", "chi"] | None = None
    """For ladder, the overlap of levels: normal as published, the default, or chi for data of few
    dimensions."""

    sigma_min: float | None = None
    """For ladder, the smallest noise; a hundredth of the range of the data if not given."""

    progress: bool = True
    """Show a progress bar where reading takes long."""

    def run(self) -> None:
        """Measure and print."""
        for name, value in (("radius", self.radius), ("sigma_min", self.sigma_min)):
            if self.action == "info" and value is not None:
                raise ValueError(f"{name}={value} is of sde-score data ladder: leave it out")
        data = load(self.data)
        if self.action == "ladder":
            self._ladder(data)
        else:
            self._info(data)

    def _ladder(self, data: DataSet) -> None:
        from sde_score.discrete import design

        found = design(
            data.complete().tensor(), radius=self.radius or "normal", sigma_min=self.sigma_min
        )
        if self.json:
            show_record({"name": data.name, **found.numbers()})
            return
        sde = f"ve(sigma_min={found.scales.sigma_min:.4g}, sigma_max={found.scales.sigma_max:.4g})"
        sampler = (
            f"annealed-langevin(steps={len(found.scales)}, steps_each={found.steps_each}, "
            f"step_ratio={found.step_ratio:.4g})"
        )
        objective = f"denoising(time_sampler='discrete(levels={len(found.scales)})')"
        print(found)
        print(f'train with  --sde "{sde}" --objective "{objective}"')
        print(f'sample with --sampler "{sampler}"')

    def _info(self, data: DataSet) -> None:
        info = data.info()
        if self.json:
            show_record(asdict(info))
            return
        pairs = "exact" if info.sigma_max_is_exact else f"on {info.sigma_max_examples} examples"
        levels = "continuous" if info.levels is None else f"{info.levels} levels"
        columns = () if data.coding is None else data.coding.columns
        show_table(
            ["", info.name],
            [
                ["examples", str(info.count)],
                *(["column", f"{column.name}, {column.kind}"] for column in columns),
                ["shape", " x ".join(map(str, info.event_shape))],
                ["raw range", f"{_range(info.raw_min, info.raw_max)} ({levels})"],
                ["classes", str(info.num_classes or "none")],
                ["conditions", described(info.condition_shape)],
                ["sigma_data (root mean square, model range)", f"{info.sigma_data:.4g}"],
                ["deviation about the mean example", f"{info.deviation:.4g}"],
                [f"sigma_max (largest distance, {pairs})", f"{info.sigma_max:.4g}"],
                ["for a variance-exploding SDE", f'--sde "ve(sigma_max={info.sigma_max:.3g})"'],
            ],
        )


def _range(low: float, high: float) -> str:
    """Both ends with as many digits as tell them apart."""
    far, wide = max(abs(low), abs(high)), high - low
    digits = 6 + (max(0, round(math.log10(far / wide)) - 2) if wide > 0 else 0)
    return f"{low:.{digits}g} to {high:.{digits}g}"
