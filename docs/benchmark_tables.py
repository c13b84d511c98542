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
    tuned: Row | None

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
    everything = rows("sampler_errors") + rows("sampler_tuned")
    for target, nfe in dict.fromkeys((row["target"], row["nfe"]) for row in everything):
        here = [row for row in everything if (row["target"], row["nfe"]) == (target, nfe)]
        for measure in MEASURES:
            best = [best_of(here, kind, measure) for kind in KINDS]
            found.append(Duel(target, nfe, measure, *best))
    return found


KINDS = ("ours auto", "ours", "peers azula", "peers diffusers", "tuned")


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

    def cell(row: Row | None, measure: str, named: bool = True) -> str:
        if row is None:
            return "—"
        return text(row[measure]) + (f" {short(row['sampler'])}" if named else "")

    yield table(
        ["target", "NFE", "error", "`auto`", "best azula", "best diffusers", "`auto` or peer",
         "best of ours", "best of ours or peer", "`tune`"],
        [
            [d.target, d.nfe, MEASURES[d.measure], cell(d.auto, d.measure, False),
             cell(d.azula, d.measure), cell(d.diffusers, d.measure),
             ahead(d.auto[d.measure], d.peer[d.measure]), cell(d.ours, d.measure),
             ahead(d.ours[d.measure], d.peer[d.measure]), cell(d.tuned, d.measure, False)]
            for d in duels()
        ],
    )  # fmt: skip
    everything = rows("sampler_errors")
    for target in dict.fromkeys(row["target"] for row in everything):
        here = [row for row in everything if row["target"] == target]
        nfes = sorted({row["nfe"] for row in here})
        found = {(row["sampler"], row["nfe"]): row for row in here}
        header = [f"{n}, {short}" for n in nfes for short in MEASURES.values()]
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
    several = duels()
    for kind, name in (
        ("auto", "`auto`"),
        ("ours", "the best of our names"),
    ):
        lost = [duel for duel in several if duel.factor(kind) > 1]
        worst = max(several, key=lambda duel: duel.factor(kind))
        most = f", by up to ×{worst.factor(kind):.2g} ({worst.target}, {worst.nfe} evaluations, "
        yield (
            f"The best peer, chosen in hindsight for each target, budget and measure, is ahead of "
            f"{name} in {len(lost)} of {len(several)} rows"
            + (f"{most}{MEASURES[worst.measure]})." if lost else ".")
        )
    slow = [row for row in rows("sampler_overhead") if row["by"] not in ("ours", "bare")]
    faster = [f"{r['by']} (`{r['sampler']}`, batch {r['batch']})" for r in slow
              if r["times ours"] < 1]  # fmt: skip
    yield f"Of steps of samplers, {', '.join(faster) or 'none of a peer'} cost less than ours."
    steps = [row for row in rows("objectives") if row["table"] == "ratio" and row["times ours"] < 1]
    cheaper = (f"`{r['objective']}` in {r['dimension']} dimensions (×{r['times ours']:.2f})"
               for r in steps)  # fmt: skip
    yield f"A training step of torchebm costs less than ours for {', '.join(cheaper) or 'none'}."
    pairs = list(posterior_pairs())
    nearer = [
        f"{peer} with a noise of {std} in {steps} steps (×{own / other:.2g})"
        for _, peer, std, steps, own, other in pairs
        if own and other and other < own
    ]
    yield (
        f"Of {len(pairs)} pairs of a posterior method here and the same of azula, azula's is "
        f"nearer to the posterior in {len(nearer)}: {'; '.join(nearer) or 'none'}."
    )
