"""Tables of docs/benchmarks.md, from the data files in benchmarks/results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import results

Row = dict[str, Any]
MEASURES = {"rms": "RMS", "median": "median"}


@cache
def rows(name: str) -> list[Row]:
    """Rows of a data file."""
    return results.read(results.FOLDER / f"{name}.csv")


def text(value: object) -> str:
    """A cell: figures to three digits, nothing where there is none."""
    if value is None:
        return "—"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A table of Markdown that the site sorts."""
    cells = [[text(cell).replace("|", "\\|") for cell in line] for line in lines]
    body = [header, ["---"] * len(header), *cells]
    inner = "\n".join("| " + " | ".join(line) + " |" for line in body)
    return f'<div class="sortable" markdown>\n\n{inner}\n\n</div>'


def folded(title: str, inner: str) -> str:
    """A part that opens where it is clicked."""
    return f"<details markdown>\n<summary>{title}</summary>\n\n{inner}\n\n</details>"


def ahead(own: float | None, other: float | None) -> str:
    """Who is ahead of whom, and how many times; a figure is ahead of none."""
    if own is None or other is None:
        return "—" if own == other else "ours" if other is None else "**peer**"
    return f"ours ×{other / own:.3g}" if own <= other else f"**peer ×{own / other:.3g}**"


# Errors of samplers


class Duel(NamedTuple):
    """The best of each kind by a measure, on a target within a budget."""

    target: str
    nfe: int
    measure: str
    auto: Row
    ours: Row
    azula: Row
    diffusers: Row

    @property
    def peer(self) -> Row:
        """The better of the peers."""
        return min(self.azula, self.diffusers, key=lambda row: row[self.measure])

    def factor(self, kind: str) -> float:
        """How many times the best peer is ahead; below 1, behind."""
        return float(getattr(self, kind)[self.measure] / self.peer[self.measure])


@cache
def duels() -> list[Duel]:
    """All, in the order of the file."""
    found = []
    everything = rows("sampler_errors")
    for target, nfe in dict.fromkeys((row["target"], row["nfe"]) for row in everything):
        here = [row for row in everything if (row["target"], row["nfe"]) == (target, nfe)]
        for measure in MEASURES:
            best = [best_of(here, kind, measure) for kind in KINDS]
            found.append(Duel(target, nfe, measure, *best))
    return found


KINDS = ("ours auto", "ours", "peers azula", "peers diffusers")


def best_of(found: Sequence[Row], kind: str, measure: str) -> Row | None:
    """The row of a kind with the smallest error, if there is one."""
    some = [row for row in found if f"{row['kind']} {row['sampler']}".startswith(kind)]
    figures = [row for row in some if row[measure] is not None]
    return min(figures, key=lambda row: row[measure], default=None)


def short(sampler: str) -> str:
    """A peer's sampler in few words: its library is named by the column."""
    name = sampler.removeprefix("azula ").removeprefix("diffusers ")
    return name.replace(" exact-sigma", "").replace("[vp-", "[").replace("[ve-", "[")


def sampler() -> Iterator[str]:
    """The best of each kind; then every configuration of each target."""

    def cell(row: Row, measure: str, named: bool = True) -> str:
        return text(row[measure]) + (f" {short(row['sampler'])}" if named else "")

    names = {f"{row['kind']} {row['sampler']}" for row in rows("sampler_errors")}
    count = {kind: sum(name.startswith(kind) for name in names) for kind in KINDS}
    yield (
        f"The best of {count['peers azula']} configurations of azula and "
        f"{count['peers diffusers']} of diffusers, and of {count['ours']} names of ours:"
    )
    yield table(
        ["target", "NFE", "error", "`auto`", "best azula", "best diffusers", "`auto` or peer",
         "best of ours", "best of ours or peer"],
        [
            [d.target, d.nfe, MEASURES[d.measure], cell(d.auto, d.measure, False),
             cell(d.azula, d.measure), cell(d.diffusers, d.measure),
             ahead(d.auto[d.measure], d.peer[d.measure]), cell(d.ours, d.measure),
             ahead(d.ours[d.measure], d.peer[d.measure])]
            for d in duels()
        ],
    )  # fmt: skip
    everything = rows("sampler_errors")
    for target in dict.fromkeys(row["target"] for row in everything):
        here = [row for row in everything if row["target"] == target]
        nfes = sorted({row["nfe"] for row in here})
        found = {(row["sampler"], row["nfe"]): row for row in here}
        header = [f"{n}, {name}" for n in nfes for name in MEASURES.values()]
        lines = [
            [name, *((found.get((name, n)) or {}).get(m) for n in nfes for m in MEASURES)]
            for name in dict.fromkeys(row["sampler"] for row in here)
        ]
        title = f"All {len(lines)} configurations on {target}, by evaluations"
        yield folded(title, table(["sampler", *header], lines))


# The others


def overhead() -> Iterator[str]:
    """Milliseconds of each, and who is ahead of ours."""
    lines = [
        [row["sampler"], row["by"], row["batch"], row["ms per step"],
         "" if row["by"] in ("ours", "bare") else ahead(1.0, row["times ours"]),
         row["times ours"]]
        for row in rows("sampler_overhead")
    ]  # fmt: skip
    yield table(["sampler", "by", "batch", "ms per step", "ours or peer", "times ours"], lines)


def likelihood() -> Iterator[str]:
    """Errors and costs of every tolerance."""
    names = ["name", "tolerance", "evaluations", "seconds", "error", "worst"]
    yield table(
        ["by", *names[1:4], "error of the mean, bits/dim", "of the worst image"],
        [[row[name] for name in names] for row in rows("likelihood")],
    )


def objective() -> Iterator[str]:
    """Beside torchebm; cost and error; the spread of the loss."""
    of = {name: [r for r in rows("objectives") if r["table"] == name]
          for name in ("ratio", "cost", "error", "variance")}  # fmt: skip
    yield "Milliseconds of processor time of a training step, ours and torchebm's:"
    yield table(
        ["objective", "dimension", "ours, ms", "of torchebm", "ms", "ours or peer"],
        [
            [f"`{r['objective']}`", r["dimension"], r["ms per step"],
             r["peer"].removeprefix("torchebm "), r["peer ms"], ahead(1.0, r["times ours"])]
            for r in of["ratio"]
        ],
    )  # fmt: skip
    steps = of["error"][0]["training steps"]
    yield (
        f"Error of the learned score, E |s - s*|² / E |s*|², after {steps} steps, by dimension "
        "(of objectives that learn from noisy data: that of the smoothed target):"
    )
    cost = {(r["objective"], r["dimension"]): r for r in of["cost"]}
    error = {(r["objective"], r["dimension"]): r["error"] for r in of["error"]}
    dims = sorted({dim for _, dim in cost})
    yield table(
        ["objective", *(f"error, {d}" for d in dims), f"ms per step, {dims[-1]}", "MB"],
        [
            [f"`{name}`", *(error.get((name, d)) for d in dims),
             cost[name, dims[-1]]["ms per step"], cost[name, dims[-1]]["MB"]]
            for name in dict.fromkeys(name for name, _ in cost)
        ],
    )  # fmt: skip
    yield "Standard deviation of the loss of one example at sigma = 0.1 in 8 dimensions:"
    yield table(
        ["objective", "standard deviation"],
        [[f"`{r['objective']}`", r["loss sd"]] for r in of["variance"]],
    )


SAME = {
    "azula mmps": "mmps",
    "azula tmpd": "tmpd",
    "azula diffpir": "diffpir",
    "azula dps": "dps .3",
    "azula pgdm": "pigdm",
}
"""Methods of azula, and what they are here; by default each."""


def posterior_pairs() -> Iterator[tuple[str, str, float, int, float | None, float | None]]:
    """Ours, the same of azula, noise, steps, and the divergence of both."""
    found = {(r["method"], r["std"], r["steps"]): r["KL"] for r in rows("posterior_linear")}
    for (peer, std, steps), other in found.items():
        if peer in SAME:
            yield SAME[peer], peer, std, steps, found[SAME[peer], std, steps], other


def posterior() -> Iterator[str]:
    """The same methods of two libraries; then KL of all at each noise and number of steps."""
    yield table(
        ["ours", "of azula", "noise", "steps", "KL, ours", "KL, azula", "ours or peer"],
        [
            [ours, peer.removeprefix("azula "), std, steps, own, other, ahead(own, other)]
            for ours, peer, std, steps, own, other in posterior_pairs()
        ],
    )
    found = rows("posterior_linear")
    cases = sorted({(row["std"], row["steps"]) for row in found})
    by = {(row["method"], row["std"], row["steps"]): row for row in found}
    header = [f"noise {std}, {steps} steps" for std, steps in cases]
    yield "KL of all methods:"
    yield table(
        ["method", *header],
        [
            [f"**{name}**" if name.startswith("azula") else name,
             *(by[(name, *case)]["KL"] for case in cases)]
            for name in dict.fromkeys(row["method"] for row in found)
        ],
    )  # fmt: skip


def losses() -> Iterator[str]:
    """Sentences on where peers are ahead, computed from the files."""
    yield from sampler_losses()
    steps = [row for row in rows("sampler_overhead") if row["by"] not in ("ours", "bare")]
    quick = [f"{r['by']} (`{r['sampler']}`, batch {r['batch']})" for r in steps
             if r["times ours"] < 1]  # fmt: skip
    yield f"Steps of a peer's sampler that cost less than ours: {', '.join(quick) or 'none'}."
    shares: dict[str, list[float]] = {}
    for row in rows("objectives"):
        if row["table"] == "ratio" and row["times ours"] < 1:
            name = f"`{row['objective']}` by {row['peer']}"
            shares.setdefault(name, []).append(row["times ours"])
    cheap = [f"{name} (×{min(each):.2f} to ×{max(each):.2f})" for name, each in shares.items()]
    yield f"Training steps of torchebm that cost less than ours: {', '.join(cheap) or 'none'}."
    both = list(posterior_pairs())
    nearer = [
        f"{peer}, noise {std}, {steps} steps (×{own / other:.3g})"
        for _, peer, std, steps, own, other in both
        if own and other and other < own
    ]
    yield (
        f"Of {len(both)} comparisons of a posterior method with the same of azula, azula's is "
        f"nearer to the posterior in {len(nearer)}: {'; '.join(nearer) or 'none'}."
    )


def sampler_losses() -> Iterator[str]:
    """The same of the errors of samplers."""
    for kind, name in (("auto", "`auto`"), ("ours", "the best of our names")):
        lost = [duel for duel in duels() if duel.factor(kind) > 1]
        worst = max(duels(), key=lambda duel: duel.factor(kind))
        where = f"{worst.target}, {worst.nfe} evaluations, {MEASURES[worst.measure]}"
        most = f", by up to ×{worst.factor(kind):.3g} ({where})" if lost else ""
        yield f"The best peer is ahead of {name} in {len(lost)} of {len(duels())} rows{most}."
