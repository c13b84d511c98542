"""Command line: verbs with nasty values for their flags and specs.

    python tests/fuzz/command_line.py --tries 1000

Each line runs in a process forked from one that has imported everything, in a folder of its own
with two small runs, with limits on time, memory and file size. Verdicts: `traceback` (an exception
or a crash reaches the terminal), `hang` (no answer in the time of the processor), `silent` (a value
that is certainly wrong was taken), `lines` (refused, but not by one line), `other` (an exit status
that is neither 0, 1 nor 2).
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from harness import registries, short

from sde_score.cli import main as command

FAILURES = ("traceback", "hang", "silent", "lines", "other")

RING = ["--data", "ring(n=60)", "--steps", "2", "--batch-size", "4"]
SMALL = ["--backbone", "mlp(width=4,depth=1)"]
VERBS: dict[str, list[str]] = {
    "train": ["--out", "new", *RING, *SMALL, "--no-progress"],
    "sample": ["score", "--num", "2", "--steps", "2", "--out", "x.npz", "--no-progress"],
    "likelihood": ["score", "--num", "2", "--by", "bound", "--no-progress"],
    "evaluate": ["score", "--num", "8", "--samplers", "ddim(steps=2)", "--no-progress"],
    "compare": ["score", "--num", "8", "--nfe", "4", "--bits-examples", "2", "--no-progress"],
    "benchmark": [
        "--target", "ring", "--nfe", "4", "--num", "4", "--samplers", "ddim", "--seeds", "0",
        "--out", "b", "--no-progress",
    ],
    "optimise-grid": ["score", "--num", "2", "--nfe", "4", "--iterations", "1", "--no-progress"],
    "tune": [
        "score", "--num", "4", "--nfe", "3", "--iterations", "1", "--candidates", "ddim",
        "--no-progress",
    ],
    "data": ["info", "ring(n=60)"],
    "samplers": [],
    "objectives": [],
}  # fmt: skip
"""Lines that run in a moment; flags that are drawn come after and replace theirs."""

NO_INTEGERS = ["two", "1.5", "", "nan", "inf", "1e3", "0x10", "[]", "None ", "--", "1,2"]
NO_NUMBERS = ["x", "", "nan", "1,5", "[]", "1e", "--"]
INTEGERS = ["-1", "0", "1", "3", "-999", "9" * 18, "9" * 30, "9" * 400, "9" * 5000, "1_0", "000"]
NUMBERS = ["-1", "0", "0.5", "1", "inf", "-inf", "1e400", "1e-400", "9" * 400, "1e308", "-0.0"]
TEXTS = [
    *"()-/.*~é5", "", " ", "no-such-thing", "name(", "a(b=)", "a(b)", "x" * 300, "\udcff", "..",
    "/dev/null", "/proc/self/mem", "a\nb", "None", "True", "file.npy", "score", "energy", "x.xyz",
    "missing/x.npz", "🙂.npz", "score/config.yaml", "a b", "[]",
]  # fmt: skip
LITERALS = [
    "-1", "0", "nan", "None", "True", "'x'", "[]", "1e400", "9" * 400, "10**9", "1e18", "(1,)",
    "-0.5", "1000000000", "99999999999999999999", "''", "'('", "(nan,)", "[[1],[1,2]]", "inf",
    "b'x'", "lambda: 0", "__import__('os')", "{}", "1j",
]  # fmt: skip


LASTING = {"train --steps", "optimise-grid --iterations", "tune --iterations"}
"""Flags whose enormous values are no mistake: work that goes on until it is stopped."""


class Line(NamedTuple):
    """Words of a command line, and whether a value among them is certainly wrong."""

    words: list[str]
    wrong: bool


def flags_of(verb: str) -> dict[str, str]:
    """Flags of a verb and the kinds of their values, as its help tells them."""
    said, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "500"
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        command([verb, "--help"])
    os.environ.pop("COLUMNS")
    os.environ.update({} if before is None else {"COLUMNS": before})
    pattern = r"^[\s│|]*(--[a-z-]+)(?:, --[a-z-]+)?(?: (\S.*?))?(?:  |\n)"
    found = re.findall(pattern, said.getvalue(), re.M)
    return {flag: kind for flag, kind in found if flag != "--help"}


def specs(rng: random.Random) -> str:
    """A name of a registry with wrong, odd or enormous arguments."""
    registry = rng.choice(registries())
    name = rng.choice(list(registry))
    accepted = [*inspect.signature(registry[name]).parameters, "nothing"]
    chosen = rng.sample(accepted, min(len(accepted), rng.choice([0, 1, 1, 2])))
    inside = ", ".join(f"{argument}={rng.choice(LITERALS)}" for argument in chosen)
    text = f"{name}({inside})"
    return text if rng.random() < 0.9 else text[: rng.randrange(len(text))]


def value(kind: str, rng: random.Random) -> tuple[list[str], bool]:
    """Words for a flag of a kind, and whether they are certainly wrong."""
    many = rng.choice([0, 1, 2, 3]) if "..." in kind else 1
    optional = "None" in kind
    if "INT" in kind:
        pool, bad = INTEGERS, NO_INTEGERS
    elif "FLOAT" in kind:
        pool, bad = NUMBERS, NO_NUMBERS
    elif "STR" in kind or "PATH" in kind:
        words = [rng.choice(TEXTS) if rng.random() < 0.4 else specs(rng) for _ in range(many)]
        return words, False
    elif "{" in kind:
        return [rng.choice(["nothing", "", "NaN", "x" * 500])], True
    else:
        return [], False
    if rng.random() < 0.35:
        return [rng.choice(bad)] * max(1, many), not optional or True
    return [rng.choice(pool) for _ in range(many)], False


def draw(rng: random.Random, flags: dict[str, dict[str, str]]) -> Line:
    """A line of a random verb."""
    verb = rng.choice([*VERBS, "train", "sample", "likelihood", "evaluate"])
    base, wrong = list(VERBS[verb]), False
    if rng.random() < 0.05:
        other = rng.choice(["", "tarin", "-", "--", "help", "--version", verb.upper()])
        return Line([other, *base], False)
    if base and not base[0].startswith("-") and rng.random() < 0.15:
        base[0] = rng.choice([*TEXTS, "energy", specs(rng)])
    added: list[str] = []
    for flag in rng.sample(sorted(flags[verb]), min(len(flags[verb]), rng.choice([0, 1, 1, 1, 2]))):
        words, bad = value(flags[verb][flag], rng)
        if f"{verb} {flag}" in LASTING and words == ["9" * 18]:
            continue
        added += [flag, *words]
        wrong = wrong or bad
    if rng.random() < 0.05:
        added.append(rng.choice(["--nothing", "--num", "extra", "--out", "-h5"]))
        wrong = False
    return Line([verb, *base, *added], wrong)


def prepare(folder: Path) -> None:
    """Two small runs and a file of data."""
    os.chdir(folder)
    np.save("file.npy", np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        assert command(["train", "--out", "score", *RING, *SMALL, "--no-progress"]) == 0
        energy = ["--model", "energy", "--out", "energy", *RING, *SMALL, "--no-progress"]
        assert command(["train", *energy]) == 0


def _limits(processor: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor + 5))
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (memory + (6 << 30),) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(line: Line, sound: Path, processor: int = 20) -> tuple[str, str]:
    """Run a line in a process of its own: the verdict, and what was said."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        shutil.copytree(sound, folder)
        said = Path(place) / "said"
        child = os.fork()
        if child == 0:
            _child(line, folder, said, processor)
        status = _wait(child, 15 * processor)
        text = said.read_text(errors="replace") if said.exists() else ""
    return _judge(line, status, text)


def _child(line: Line, folder: Path, said: Path, processor: int) -> None:
    status = 97
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(said, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        _limits(processor)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        status = command(line.words)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        print(f"Traceback: {type(error).__name__}: {error}"[:2000], file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 98)


def _wait(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _judge(line: Line, status: int | None, text: str) -> tuple[str, str]:
    tail = " ".join(text.split())[-300:]
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (24, 9)):
        return "hang", tail
    if os.WIFSIGNALED(status):
        return "traceback", f"signal {os.WTERMSIG(status)}: {tail}"
    code = os.WEXITSTATUS(status)
    if "Traceback" in text or code in (97, 98):
        place = text.rfind("Traceback")
        return "traceback", " ".join(text[place:].split())[:300]
    if code == 0:
        return ("silent" if line.wrong else "done"), tail
    if code not in (1, 2):
        return "other", f"exit {code}: {tail}"
    said = [each for each in text.splitlines() if each.startswith("error: ")]
    parser = "sde-score" in text and "help" in text  # the flag that cannot be read, in a frame
    return ("refused" if len(said) == 1 or parser else "lines"), tail


def attempts(tries: int, seed: int) -> list[tuple[Line, str, str]]:
    """Run random lines: each with its verdict and what was said."""
    home, threads, found = Path.cwd(), torch.get_num_threads(), []
    torch.set_num_threads(1)  # no pool of threads survives a fork
    rng, flags = random.Random(seed), {verb: flags_of(verb) for verb in VERBS}
    with tempfile.TemporaryDirectory() as place:
        sound = Path(place) / "sound"
        sound.mkdir()
        try:
            prepare(sound)
            for _ in range(tries):
                line = draw(rng, flags)
                found.append((line, *run(line, sound)))
        finally:
            os.chdir(home)
            torch.set_num_threads(threads)
    return found


def main(words: list[str] | None = None) -> int:
    """Run random lines; print those that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    found = attempts(given.tries, given.seed)
    counts = Counter(what for _, what, _ in found)
    for line, what, said in found:
        if what in FAILURES:
            shown = " ".join(word if len(word) < 60 else word[:50] + "..." for word in line.words)
            print(f"{what:9} {short(shown, 250)}\n          {short(said, 250)}", flush=True)
    figures = ", ".join(f"{counts[what]} {what}" for what in ("done", "refused", *FAILURES))
    print(f"{len(found)} lines: {figures}")
    return int(any(counts[what] for what in FAILURES))


if __name__ == "__main__":
    sys.exit(main())
