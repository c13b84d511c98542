"""Posteriors against closed forms: a table for each kind of problem.

    python benchmarks/posterior.py --table linear [--std .1 .5] [--steps 20 100 1000] [--only mmps]
    python benchmarks/posterior.py --table operators | solvers | mixture | evidence
    python benchmarks/posterior.py --table composition | calibration
    ... [--quick] [--out FILE.csv]

linear: KL(samples || posterior) and ratio of traces on linear-Gaussian problems, medians over
twenty of them. Mean and covariance of the samples are exact, by a recursion over the steps; those
of a method that is not linear are of 2000 samples. Beside each the figure of an implementation of
the formulas in NumPy, and after ours the methods of azula where it is installed.

operators: the same of MMPS, exact for these data, for five operators and three noises.

solvers: KL of higher-order samplers on MMPS with few evaluations, on stock and on found grids.

mixture: sliced 1-Wasserstein distance of samples to exact ones, where the posterior has many modes,
beside its floor, that of two exact sets; `modes` is the total variation of the weights of modes.

evidence: log p(y) by particles against its closed form, in units of its standard error.

composition: guidance, products, negation and tempering, by the sum of the scores and by particles.

calibration: p values of ranks of truths among draws, which are uniform for exact posteriors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import posterior_calibration
import posterior_composition
import posterior_linear
import posterior_mixture
from results import Journal, Row, write

TABLES: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "linear": posterior_linear.table,
    "operators": posterior_linear.operators,
    "solvers": posterior_linear.solvers,
    "mixture": posterior_mixture.table,
    "evidence": posterior_mixture.evidence,
    "composition": posterior_composition.table,
    "calibration": posterior_calibration.table,
}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--table", choices=TABLES, default="linear")
    add("--std", type=float, nargs="+", help="of the noise of y [what the table has]")
    add("--steps", type=int, nargs="+", help="[what the table has]")
    add("--only", nargs="+", help="rows whose name begins so")
    add("--count", type=int, help="problems [what the table has]")
    add("--quick", action="store_true", help="few problems and few steps")
    add("--out", type=Path, help="data file; a measurement that was interrupted goes on")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print each row as soon as it is known, and write them."""
    given = arguments(words)
    given.journal = Journal() if given.out is None else Journal.beside(given.out)
    rows = []
    for row in TABLES[given.table](given):
        if not rows:
            print("| " + " | ".join(row) + " |\n|" + len(row) * "---|")
        print("| " + " | ".join(map(text, row.values())) + " |", flush=True)
        rows.append(row)
    if given.out is not None:
        write(given.out, rows, ("azula",))


def text(value: object) -> str:
    """A value of a row in few digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
