"""Write docs/benchmarks.md and its pictures from the data files in benchmarks/results.

    python docs/benchmarks.py

The last step of `make benchmarks`; a test holds the page against the files.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "benchmarks")]  # scripts beside, and what measures

import benchmark_pictures as pictures  # noqa: E402
import benchmark_tables as tables  # noqa: E402
import remake  # noqa: E402
from benchmark_tables import Row, rows  # noqa: E402

PAGE = HERE / "benchmarks.md"
FOLDER = HERE / "benchmarks"


class Section(NamedTuple):
    """A part of the page: its data files, a title, what is measured, tables, a picture."""

    files: tuple[str, ...]
    title: str
    text: str
    tables: Callable[[], Iterator[str]]
    picture: Callable[[], bytes]
    alt: str


def paragraph(words: str) -> str:
    """Text in lines of Markdown."""
    return textwrap.fill(words, 118, break_long_words=False, break_on_hyphens=False)


def made_with(found: Sequence[Row]) -> str:
    """One sentence of what the rows of a file were measured with."""

    def every(name: str) -> str:
        return ", ".join(dict.fromkeys(str(row[name]) for row in found if row[name]))

    peers = f", {every('peers')}" if every("peers") else ""
    return (
        f"*Measured {every('date')} at commit `{every('commit')}`, on {every('machine')} with "
        f"{every('cores')} cores; Python {every('python')}, torch {every('torch')}{peers}; "
        f"random seed {every('seed')}.*"
    )


SECTIONS = [
    Section(
        ("sampler_errors",),
        "Samplers against exact flows",
        "From the same 1024 starts, the difference between the end of a sampler and the end of the "
        "exact probability flow: root mean square, and the median over the starts. The score is "
        "exact, so that all of the error is the sampler's. Targets: `digits-mixture` (64 "
        "dimensions, ten full Gaussians fitted to digits, EDM), `five-scales` (16 dimensions, "
        "deviations .02 to 3, EDM), `spirals` (120 narrow modes in the plane, EDM), `unequal-6d` "
        "(VP). Peers run on every grid of theirs, ours by name with its own. `auto` is one method "
        "for all; the other columns are the best of their kind for each row, which nobody knows "
        "beforehand; [`sde-score tune`](samplers.md#the-sampler-that-is-found) looks for one.",
        tables.sampler,
        lambda: pictures.sampler_errors(tables.duels()),
        "Error against network evaluations on four targets, ours and peers",
    ),
    Section(
        ("sampler_overhead",),
        "What a step of a sampler costs",
        "Processor time of a step beside a model that costs one multiplication, on float32 images "
        "of 3 x 32 x 32, one thread; all in one process, in turn, medians of nine rounds. *Bare* "
        "is the same update in tensor arithmetic, without a library. Where a network takes 100 "
        "milliseconds none of this matters; on small ones it does.",
        tables.overhead,
        lambda: pictures.sampler_overhead(rows("sampler_overhead")),
        "Milliseconds of a step as multiples of ours, by sampler",
    ),
    Section(
        ("likelihood",),
        "Exact likelihood",
        "Errors of log p(x) of four images of 28 x 28 under a small U-Net (VP), in bits per "
        "dimension, against a float64 solve with tolerances of 1e-8, from the same probes. "
        "*recipe* is the code that most published bits/dim were computed with: RK45 of scipy, one "
        "error norm for the batch, two passes per evaluation, tolerances of 1e-5 (Song et al. "
        "2021). `dopri5` and `quadrature` are ours, by default at 1e-4.",
        tables.likelihood,
        lambda: pictures.likelihood(rows("likelihood")),
        "Error against evaluations, the recipe and ours",
    ),
    Section(
        ("objectives",),
        "Objectives",
        "An energy of width 128 learns a correlated Gaussian, batches of 128, one thread. Settings "
        "are the same for all and tuned for none: where the chains of contrastive divergence run "
        "away, the error has no scale.",
        tables.objective,
        lambda: pictures.objectives(rows("objectives")),
        "Error of the learned score by objective and dimension",
    ),
    Section(
        ("posterior_linear",),
        "Posteriors of normal distributed data",
        "KL(samples || posterior) in eight dimensions of which two combinations are measured, with "
        "a noise of 0.1 or 0.5: medians of five problems. Mean and covariance of the samples are "
        "exact where a step is affine, and of 2000 samples elsewhere. The denoiser is exact. Peers "
        "are in bold; a dash is a divergence without bound: the samples have no spread in some "
        "direction.",
        tables.posterior,
        lambda: pictures.posterior_linear(rows("posterior_linear")),
        "Divergence from the exact posterior by method",
    ),
]


def section(part: Section) -> Iterator[str]:
    """A part of the page."""
    yield f"## {part.title}"
    yield paragraph(part.text)
    yield "```sh\n" + "\n".join(map(remake.command, part.files)) + "\n```"
    yield f"![{part.alt}](benchmarks/{part.files[0]}.png)"
    for each in part.tables():
        yield each if each.startswith("<") else paragraph(each)
    links = ", ".join(f"[{name}.csv](../benchmarks/results/{name}.csv)" for name in part.files)
    yield paragraph(f"{links}. " + made_with([row for name in part.files for row in rows(name)]))


def page() -> str:
    """The text of the page."""
    parts = [
        "# Benchmarks",
        paragraph(
            "Every figure on this page is in a data file of the repository, where each row has the "
            "commit, day, processor, versions and random seed that made it; `pandas.read_csv` "
            "reads it. `make benchmarks` measures them anew, with azula, diffusers and torchebm "
            "beside us, and then writes this page; it goes on where it was interrupted, and `make "
            "benchmarks ONLY=objectives` measures one. [Discrete NCSN against the "
            "SDE](ncsn_against_sde.md), which takes hours, has a page of its own. "
            "A click on the head of a column sorts a table. Where a peer is ahead, the row says "
            "**peer**."
        ),
        "## Where we lose",
        paragraph(" ".join(tables.losses())),
    ]
    for each in SECTIONS:
        parts += section(each)
    parts.append(STYLE)
    return "\n\n".join(parts) + "\n"


STYLE = """<style>
.md-typeset .sortable table:not([class]) :is(th, td) { min-width: 0; padding: .4em .6em; }
.sortable th button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  text-align: left; cursor: pointer; }
.sortable th button::after { content: " \\2195"; opacity: .5; }
.sortable th[aria-sort="ascending"] button::after { content: " \\2191"; }
.sortable th[aria-sort="descending"] button::after { content: " \\2193"; }
</style>
<script src="sort.js"></script>"""


def main() -> None:
    """Write the pictures, then the page."""
    FOLDER.mkdir(exist_ok=True)
    for each in SECTIONS:
        (FOLDER / f"{each.files[0]}.png").write_bytes(each.picture())
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
