"""Progress is a bar where somebody looks at it, and a few plain lines in pipes and files."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from sde_score._core import progress
from sde_score._core.progress import Lines, progress_bar, progress_shown

PACKAGE = Path(progress.__file__).parents[1]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves, in seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_one_place_alone_makes_bars():
    found = [path for path in PACKAGE.rglob("*.py") if "tqdm" in path.read_text(encoding="utf-8")]
    texts = [path for path in found if re.search(r"import tqdm|from tqdm", path.read_text())]
    assert texts == [PACKAGE / "_core" / "progress.py"]


def test_a_pipe_gets_a_line_now_and_then_and_the_last(clock, capsys):
    with progress_bar(total=400, name="heun", delay=0) as bar:
        for _ in range(400):
            clock[0] += 0.125
            bar.set_postfix(loss="0.5", refresh=False)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == [f"{n}/400" for n in (80, 160, 240, 320, 400)]
    assert lines[0] == "heun:  20% 80/400 [00:10<00:40,  8.00step/s, loss=0.5]"


def test_lines_become_rare_when_work_takes_hours(clock, capsys):
    for _ in progress_bar(range(10 * 3600), name="train"):
        clock[0] += 1
    said = capsys.readouterr().err
    assert "\r" not in said
    assert 40 < len(said.splitlines()) < 120


@pytest.mark.parametrize("seconds", [1.9, 2.1])
def test_short_work_is_not_worth_a_line(seconds, clock, capsys):
    with progress_bar(total=2) as bar:
        bar.update(2)
        clock[0] += seconds
    assert bool(capsys.readouterr().err) == (seconds > 2)


def test_fractions_are_shown_without_units(clock, capsys):
    with progress_bar(total=0.3, name="flow", rate=False) as bar:
        clock[0] += 5
        bar.update(0.3)
    assert capsys.readouterr().err == "flow: 100% [00:05<00:00]\n"


@pytest.mark.parametrize("hide", ["flag", "block", "rank"])
def test_progress_can_be_hidden(hide, clock, capsys, monkeypatch):
    if hide == "rank":
        monkeypatch.setenv("RANK", "1")
    with progress_shown(hide != "block"), progress_shown(True):
        for _ in progress_bar(range(3), shown=hide != "flag"):
            clock[0] += 60
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert progress._kind() is Lines
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = progress_bar(total=3, delay=0)
    bar.close()
    assert type(bar).__module__.startswith("tqdm")
