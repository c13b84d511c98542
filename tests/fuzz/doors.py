"""Doors: wrong values for every argument of every registered class and function.

    python tests/fuzz/doors.py --tries 20000

Values are drawn from what an argument's annotation excludes (text for a flag, NaN for a number, a
class for an object) and from what it merely may not like (zero, negative, enormous). Each wrong
value must be refused by a `ValueError` or `TypeError` that names the argument; the rest may be
accepted, or refused in the same way; scalars of NumPy must be taken like Python's.

Verdicts: `silent` (a wrong value was taken), `nameless` (refused without the argument's name),
`cryptic` (another exception), `hang` (no answer in time), `refused` (what means the same as a right
value was not taken).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import io
import itertools
import math
import random
import re
import sys
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import Hung, registries, short, time_limit

from sde_score.models import GaussianMixture
from sde_score.posterior import Mask, Measurement

HUGE = 10**400
CALLABLE = {"Weighting", "DomainWeight"}
"""Kinds that any function may be."""
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000200000002080000000057dd52f80000000e494441"
    "54789c636060606060000000060001728299ea0000000049454e44ae426082"
)
"""A picture of four black pixels."""
BUSY = {"classifier"}
"""Things whose constructors start work of minutes with anything that is right."""
FAILURES = ("silent", "nameless", "cryptic", "hang", "refused")


class Door(NamedTuple):
    """One argument of one registered constructor."""

    kind: str
    thing: str
    argument: str
    constructor: Any
    annotation: str
    default: Any

    def __str__(self) -> str:
        return f"{self.kind} {self.thing}({self.argument}: {self.annotation})"


class Thing:
    """An object of no kind."""

    def __repr__(self) -> str:
        return "<thing>"


def function_of_none() -> None:
    """A function that no place wants."""


def doors() -> list[Door]:
    """Every argument of every registered constructor, each once per constructor and kind."""
    found, seen = [], set()
    for registry in registries():
        for thing in registry:
            constructor = registry[thing]
            for name, parameter in inspect.signature(constructor).parameters.items():
                if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    continue
                door = Door(
                    registry.kind, thing, name, constructor, str(parameter.annotation),
                    parameter.default,
                )  # fmt: skip
                if (thing, name, id(constructor)) not in seen:
                    seen.add((thing, name, id(constructor)))
                    found.append(door)
    return found


def alternatives(annotation: str) -> list[str]:
    """`a | b[c | d]` split outside of brackets."""
    parts, depth = [""], 0
    for letter in annotation:
        depth += (letter in "[(") - (letter in "])")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def wrong_values(door: Door) -> list[Any]:
    """Values that the annotation excludes."""
    kinds = set(alternatives(door.annotation))
    if kinds & {"Any", "object", "<class 'inspect._empty'>"}:
        return []
    if "Numbers" in kinds:
        return ["x", ["x"], math.nan, [math.nan], HUGE, [HUGE], {}, Thing(), int, function_of_none]
    lists = any(kind.startswith(("tuple", "Sequence", "list", "ConditionShape")) for kind in kinds)
    calls = any(kind.startswith("Callable") or kind in CALLABLE for kind in kinds)
    found: list[Any] = [Thing(), b"bytes", 1j, {1, 2}, int]
    found += [] if "Condition" in kinds else [{}]  # which is no condition
    found += [] if calls else [function_of_none]
    found += [] if "None" in kinds or door.default is None else [None]
    found += [] if lists else [[], [1.0], (1,), np.zeros(2), torch.zeros(2)]
    found += [[object()], ["x", None], [math.nan], [[HUGE]]] if lists else []
    numbers = kinds & {"int", "float"}
    found += [] if "bool" in kinds else [True, False, np.True_]
    found += [math.nan, 2.5] if "float" not in kinds else [math.nan]
    infinite = isinstance(door.default, float) and math.isinf(door.default)
    found += [] if infinite else [math.inf]
    found += [-math.inf]
    found += [] if "int" in kinds and "float" not in kinds else [HUGE, -HUGE]
    found += [] if numbers else [0, 1, -3, np.int64(3)]
    found += [] if kinds & {"str", "Path"} else ["False", "3", "no such thing", ""]
    components = [kind for kind in kinds if re.fullmatch(r"[A-Z]\w+", kind) and kind != "Path"]
    found += ["no such thing", "name(", "x(y=)", "("] if components and "None" not in kinds else []
    return found


def doubtful_values(door: Door) -> list[Any]:
    """Values that may be accepted, but not with a traceback, and not refused without a name."""
    if door.thing in BUSY:
        return []
    kinds = set(alternatives(door.annotation))
    found: list[Any] = []
    if "int" in kinds:
        found += [0, -1, -(2**63), 2**62, 2**63, HUGE, -HUGE, np.uint8(7)]
    if "float" in kinds or "Numbers" in kinds:
        found += [0.0, -1.0, 1e308, -1e308, 5e-324, 1e200, -0.0, 0, 2, np.float32(0.5)]
    if kinds & {"str", "Path"}:
        found += [
            "",
            "no such thing",
            "x" * 5000,
            "null\0byte",
            "a/b",
            "\udcff",
            "(((",
            "vp(",
            "🙂",
        ]
    if any(kind.startswith(("tuple", "Sequence")) for kind in kinds) or "Numbers" in kinds:
        found += [[], (), [0], [-1.0], [[1.0]], [1, 2, 3], [[1.0], [2.0, 3.0]], np.ones(3), [1e308]]
        found += [torch.ones(2), np.int64(2), [2**62], [2**62, 2**62]]
    return found


def right_values(door: Door) -> list[Any]:
    """NumPy's spelling of the default, where it is a number or a flag."""
    default = None if door.thing in BUSY else door.default
    if isinstance(default, bool):
        return [np.bool_(default)]
    if isinstance(default, int):
        return [np.int64(default), np.array(default)]
    if isinstance(default, float):
        return [np.float64(default), np.array(default)]
    return []


def random_value(door: Door, rng: random.Random) -> tuple[Any, bool]:
    """A value, and whether it is certainly wrong."""
    wrong, doubtful = wrong_values(door), doubtful_values(door)
    choice = rng.random()
    if wrong and (choice < 0.6 or not doubtful):
        return rng.choice(wrong), True
    kinds = set(alternatives(door.annotation))
    if choice < 0.8 and kinds & {"int", "float"}:
        digits = rng.choice([1, 3, 12, 18, 30, 100, 310])
        number: Any = rng.choice([-1, 1]) * rng.randrange(10**digits)
        small = rng.choice([1, 1e-3, 1e-300, 1e3, 1e300])
        if "float" in kinds and rng.random() < 0.5:
            number = rng.gauss(0, 1) * small
        return number, False
    if choice < 0.9 and kinds & {"str", "Path"}:
        letters = "abz(=,)[]{}'\"\\/.-_*% \n\t01é"
        return "".join(rng.choices(letters, k=rng.randrange(1, 30))), False
    return (rng.choice(doubtful), False) if doubtful else (door.default, False)


@functools.cache
def examples() -> dict[str, Any]:
    """Right values of arguments without a default, by their names."""
    folder = Path(tempfile.mkdtemp(prefix="doors-"))
    np.save(folder / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    with contextlib.suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"bytes": PNG, "path": "0.png"}] * 3
        images = pa.table({"image": pa.array(rows)})
        pq.write_table(images, folder / "x.parquet")
        (folder / "saved").mkdir()
        with pa.ipc.new_stream(str(folder / "saved" / "x.arrow"), images.schema) as writer:
            writer.write_table(images)
        (folder / "saved" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
        (folder / "saved" / "dataset_info.json").write_text("{}")
    with tarfile.open(folder / "x.tar", "w") as file:
        info = tarfile.TarInfo("0.png")
        info.size = len(PNG)
        file.addfile(info, io.BytesIO(PNG))
    idx = bytes([0, 0, 8, 3, *(0, 0, 0, 5), *(0, 0, 0, 2), *(0, 0, 0, 2)])
    (folder / "x-images-idx3-ubyte").write_bytes(idx + bytes(range(20)))
    (folder / "x.csv").write_text("a,b\n1,2\n3,4\n5,7\n")
    return {
        "path": str(folder / "x.npy"),
        "parquet path": str(folder / "x.parquet"),
        "arrow path": str(folder / "saved"),
        "webdataset path": str(folder / "x.tar"),
        "csv path": str(folder / "x.csv"),
        "mnist path": str(folder / "x-images-idx3-ubyte"),
        "event_shape": (1, 8, 8),
        "low": 1.0,
        "high": 2.0,
        "target": "gaussian",
        "spread": 0.5,
        **dict.fromkeys(("half", "full", "memory", "bandwidth", "link"), 1e12),
        "observation": Measurement(Mask(torch.tensor([True, False])), torch.zeros(1), 0.1),
        "model": GaussianMixture([[0.0, 0.0]], 1.0, "vp"),
    }


def needed(door: Door) -> dict[str, Any]:
    """The other arguments that the constructor cannot do without."""
    parameters = inspect.signature(door.constructor).parameters
    found = {
        name: examples().get(f"{door.thing} {name}", examples()[name])
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name != door.argument
    }
    one_of = {"weight", "strength"}
    if one_of <= set(parameters) and door.argument not in one_of:
        found["weight"] = 2.0
    if door.kind == "backbone":  # a network of few layers is made sooner
        found |= dict.fromkeys({"blocks", "depth"} & {*parameters} - {door.argument}, 1)
    return found


def verdict(door: Door, value: Any, wrong: bool, seconds: float = 5.0) -> tuple[str, str]:
    """Knock: one of `FAILURES`, or `fine`, with what was said."""
    arguments = {**needed(door), door.argument: value}
    silence = contextlib.redirect_stderr(io.StringIO())
    try:
        with time_limit(seconds), silence, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The defaults of papers are large: names and checks need no memory.
            with torch.device("meta" if door.kind == "backbone" else "cpu"):
                door.constructor(**arguments)
    except Hung:
        return "hang", f"no answer in {seconds} s"
    except (ValueError, TypeError, OSError) as error:
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and not error.filename:
            return "cryptic", said
        named = re.search(rf"\b{re.escape(door.argument)}\b", str(error))
        quoted = door.argument in ("path", "data") and isinstance(value, str) and len(value) > 0
        quoted = quoted and any(
            part in str(error) for part in (value[:40], value[:5], repr(value)[1:7])
        )
        other = not wrong and any(str(path) in str(error) for path in needed(door).values())
        return ("fine" if named or quoted or other else "nameless"), said
    except ImportError as error:
        return ("silent" if wrong else "fine"), str(error)
    except Exception as error:
        return "cryptic", f"{type(error).__name__}: {error}"
    return ("silent" if wrong else "fine"), ""


def right_verdict(door: Door, value: Any, seconds: float = 5.0) -> tuple[str, str]:
    """Knock with what means the same as the default."""
    found, said = verdict(door, value, False, seconds)
    return ("refused", said) if said and found in ("fine", "nameless") else (found, said)


def knocks(door: Door) -> Iterator[tuple[Any, str, str]]:
    """Every listed value at one door: the value, the verdict, and what was said."""
    for value in wrong_values(door):
        yield value, *verdict(door, value, True)
    for value in doubtful_values(door):
        yield value, *verdict(door, value, False)
    if door.thing not in BUSY and not verdict(door, door.default, False)[1]:
        for value in right_values(door):
            yield value, *right_verdict(door, value)


def random_knocks(tries: int, seed: int) -> Iterator[tuple[Door, Any, str, str]]:
    """Random values at all doors in turn."""
    rng = random.Random(seed)
    for door in itertools.islice(itertools.cycle(doors()), tries):
        value, wrong = random_value(door, rng)
        yield door, value, *verdict(door, value, wrong)


def main(words: list[str] | None = None) -> int:
    """Knock at all doors with every listed value, then with random ones; print what failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=20_000, help="random values, over all doors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kind", default="", help="only registries whose kind has this in its name"
    )
    parser.add_argument("--verbose", action="store_true", help="print every failure")
    given = parser.parse_args(words)
    counts: Counter[str] = Counter()
    failed: dict[tuple[str, str, str, str], list[str]] = {}

    def note(door: Door, value: Any, found: str, said: str) -> None:
        counts[found] += 1
        if found in FAILURES:
            key = (door.kind, found, door.argument, door.annotation)
            failed.setdefault(key, []).append(f"{door.thing}: {short(value)} -> {said[:150]}")

    for door in doors():
        if given.kind in door.kind:
            for value, found, said in knocks(door):
                note(door, value, found, said)
    listed = sum(counts.values())
    for door, value, found, said in random_knocks(given.tries, given.seed):
        if given.kind in door.kind:
            note(door, value, found, said)
    for (kind, found, argument, annotation), lines in failed.items():
        print(f"{found:9} {kind}: {argument}: {annotation}  ({len(lines)})")
        for line in lines if given.verbose else lines[:1]:
            print(f"            {line}".encode("ascii", "backslashreplace").decode())
    figures = ", ".join(f"{counts[name]} {name}" for name in FAILURES)
    print(f"{sum(counts.values())} tries ({listed} listed): {figures}")
    return int(any(counts[name] for name in FAILURES))


if __name__ == "__main__":
    sys.exit(main())
