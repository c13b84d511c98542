"""Data files of benchmarks and their page: complete, finite, and the page is what the files say."""

import csv
import importlib.util
import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks" / "results").glob("*.csv"))


@pytest.fixture(scope="module")
def script():
    """The script that writes the page, with those beside it."""
    spec = importlib.util.spec_from_file_location("page", ROOT / "docs" / "benchmarks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_says_what_made_it_and_figures_are_finite(path, script):
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    made = script.tables.results.PROVENANCE
    assert list(rows[0])[-len(made) :] == list(made)
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{7,40}", row["commit"]), "measure at a commit, and clean"
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row["date"])
        assert re.fullmatch(r"3\.\d+\.\d+", row["python"])
        assert row["machine"]
        assert int(row["cores"]) >= 1
        assert row["torch"][0] in "23"
        assert all(map(str.isdigit, row["seed"].split()))
        own = [script.tables.results._value(cell) for name, cell in row.items() if name not in made]
        numbers = [value for value in own if isinstance(value, (int, float))]
        assert numbers
        assert all(map(math.isfinite, numbers))


def test_make_remakes_every_file(script):
    """One that takes hours has its command in `LONG`."""
    found = {path.stem for path in FILES}
    assert found - set(script.remake.LONG) == set(script.remake.FILES)
    for name in script.remake.FILES:
        command = script.remake.command(name).split()
        assert (ROOT / command[1]).exists()
        assert command[-2:] == ["--out", f"benchmarks/results/{name}.csv"]


def test_page_is_what_the_files_say(script):
    """On a difference: `python docs/benchmarks.py`."""
    assert script.PAGE.read_text(encoding="utf-8") == script.page()
    shown = {name for part in script.SECTIONS for name in part.files}
    assert shown == set(script.remake.FILES)
    pictures = {path.stem: path.stat().st_size for path in script.FOLDER.iterdir()}
    assert set(pictures) == {part.files[0] for part in script.SECTIONS}
    assert max(pictures.values()) < 150_000


def test_a_peer_that_is_ahead_is_shown_as_plainly_as_we_are(script):
    ahead = script.tables.ahead
    assert ahead(1.0, 2.0) == "ours ×2"
    assert ahead(2.0, 1.0) == "**peer ×2**"
    assert (ahead(1.0, None), ahead(None, 1.0)) == ("ours", "**peer**")


def test_the_best_of_a_kind_is_found_by_each_measure(script, monkeypatch):
    """What diverged has no figure and is never the best; a target is not mixed with another."""
    names = ("target", "nfe", "kind", "sampler", "rms", "median")
    some = [
        ("a", 5, "ours", "auto", 3.0, 1.0),
        ("a", 5, "ours", "other", 2.0, 4.0),
        ("a", 5, "peers", "azula x", None, 2.0),
        ("a", 5, "peers", "azula y", 5.0, 3.0),
        ("a", 5, "peers", "diffusers z", 1.0, 8.0),
        ("b", 5, "ours", "auto", 0.1, 0.1),
        ("b", 5, "peers", "azula x", 0.2, 0.2),
        ("b", 5, "peers", "diffusers x", 0.3, 0.3),
    ]
    files = {"sampler_errors": [dict(zip(names, row, strict=True)) for row in some]}
    monkeypatch.setattr(script.tables, "rows", lambda name: files.get(name, []))
    script.tables.duels.cache_clear()
    rms, median, *_ = script.tables.duels()
    assert (rms.ours["sampler"], rms.azula["sampler"], rms.peer["sampler"]) == (
        "other", "azula y", "diffusers z",
    )  # fmt: skip
    assert (median.ours["sampler"], median.peer["sampler"]) == ("auto", "azula x")
    assert (rms.factor("auto"), rms.factor("ours"), median.factor("auto")) == (3.0, 2.0, 0.5)
    said = " ".join(script.tables.sampler_losses())
    assert "ahead of `auto` in 1 of 4 rows, by up to ×3 (a, 5 evaluations, RMS)" in said
    script.tables.duels.cache_clear()
