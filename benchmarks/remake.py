"""Remake of the data files in `results/`, each by the command that its page shows.

Files that are named, or all of `FILES`. What was cut short goes on: rows that the same code has
measured are in `results/NAME.jsonl` until all is done. Last, the page and its pictures are made.

    python benchmarks/remake.py [NAME ...]          # make benchmarks
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from results import FOLDER, HERE

ROOT = HERE.parent

FILES: Mapping[str, str] = {
    "sampler_errors": "tuning.py --targets digits-mixture five-scales spirals unequal-6d"
    " --kinds ours peers --starts 1024",
    "sampler_overhead": "samplers_overhead.py",
    "likelihood": "likelihood.py --sde vp --repeats 1",
    "objectives": "objectives.py --rounds 5 --dims 2 16 64",
    "posterior_linear": "posterior.py --table linear --steps 20 100 --count 5"
    " --only mmps tmpd pigdm sda c-dps dps ddrm ddnm diffpir azula",
}
"""Data files and what makes them, in `benchmarks/`, `--out` apart."""

LONG: Mapping[str, str] = {
    "discrete_vs_continuous": "ncsn_vs_sde.py, ddpm_vs_sde.py, then discrete_pictures.py",
}
"""Data files that take hours and are not remade here, and the commands that make them."""


def command(name: str) -> str:
    """What remakes a file, from the root of the checkout."""
    return f"python benchmarks/{FILES[name]} --out benchmarks/results/{name}.csv"


def remake(name: str) -> None:
    """Run the command of a file, and say how long it took."""
    print(f"\n$ {command(name)}", flush=True)
    began = time.monotonic()
    _, *words = shlex.split(command(name))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words], cwd=ROOT, env=environment, check=False
    )
    if done.returncode:
        sys.exit(f"{name} failed; the same command goes on where it stopped")
    print(f"{name}.csv: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


def main() -> None:
    """Remake the files, then the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FILES)} [all]")
    names = parser.parse_args().names or list(FILES)
    if unknown := [name for name in names if name not in FILES]:
        parser.error(f"there is no {unknown[0]}: take any of {', '.join(FILES)}")
    for name in names:
        remake(name)
    subprocess.run([sys.executable, ROOT / "docs" / "benchmarks.py"], check=True)
    for name in names:
        Path(FOLDER / f"{name}.jsonl").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
