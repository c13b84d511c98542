"""The pictures of the course: each script runs, is short, and has its place on a page."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image

from sde_score import nn

ROOT = Path(__file__).parents[2]
ROAD = ROOT / "examples" / "road"
SCRIPTS = sorted(ROAD.glob("[0-9][0-9]_*.py"))
PAGES = sorted((ROOT / "docs" / "course").glob("*.md"))
NAMES = [script.stem for script in SCRIPTS]
# What takes the time of a reader, in less of it.
SMALLER = {
    "05_hutchinson": {"[2, 8, 32, 128, 512]": "[2, 8, 16]"},
    "07_langevin": {"draws=500": "draws=50", "warmup=1000": "warmup=20"},
    "09_many_noise_scales": {
        "steps_each=6": "steps_each=1",
        "warmup=300": "warmup=10",
        "(many, (1500, 2)": "(many, (100, 2)",
    },
    "11_four_views": {
        "(10, 20, 40, 80, 160)": "(10, 20)",
        "[DISTANCE], ": '["sliced-wasserstein2(projections=8)"], ',
        "train=train.tensor()": "train=train.tensor()[:60]",
        "held_out.tensor(), [": "held_out.tensor()[:60], [",
    },
    "12_where_the_bits_go": {"(10, 20, 30, 50, 100, 300)": "(10, 20, 30)"},
    "13_ladder_to_sde": {
        "(5, 20, 100, 1000)": "(5, 20, 50, 100)",
        "(5, 10, 20, 50, 100, 200, 500, 1000)": "(5, 20, 100)",
    },
    "17_posterior": {
        "ancestral(steps=100)": "ancestral(steps=4)",
        "smc(steps=50, particles=500, islands=3)": "smc(steps=4, particles=3, islands=2)",
    },
    "18_flow_map": {"steps=200": "steps=10", "401": "81", "16, 32)": "16)"},
    "14_ode_and_sde": {"steps=500": "steps=20", "steps=200": "steps=10", "(4000,": "(400,"},
}


@pytest.fixture
def run_script(monkeypatch, tmp_path, tmp_path_factory):
    """Runs a script in this process, whose settings are as before afterwards; its U-Net is made and
    then replaced by a perceptron."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(ROAD))
    monkeypatch.chdir(tmp_path)
    create = nn.create

    def small(spec, event_shape):
        network = create(spec, event_shape=event_shape)
        if len(event_shape) == 1:
            return network
        return create("mlp(width=16, depth=1)", event_shape=event_shape)

    monkeypatch.setattr(nn, "create", small)

    def run(script, *arguments):
        text = script.read_text(encoding="utf-8")
        for large, less in SMALLER.get(script.stem, {}).items():
            assert large in text
            text = text.replace(large, less)
        copy = tmp_path_factory.mktemp("script") / script.name
        copy.write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [str(copy), *arguments])
        return runpy.run_path(str(copy), run_name="__main__")

    with matplotlib.rc_context(), torch.random.fork_rng():
        yield run
    torch.set_num_threads(threads)
    for helper in ("picture", "digits"):
        sys.modules.pop(helper, None)


def width(path):
    with Image.open(path) as image:
        return image.width


def test_there_are_eighteen_in_order():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(1, 19)]


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_script_draws_its_picture(script, run_script, tmp_path):
    options = re.search(r"picture\.arguments\(.*\)", script.read_text()).group()
    small = {"steps": "4", "samples": "6"}
    run_script(script, *(w for o, n in small.items() if f"{o}=" in options for w in (f"--{o}", n)))
    assert width(tmp_path / f"{script.stem}.png") == 1200
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_script_is_short_and_says_its_idea(script):
    text = script.read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 101
    assert f"python examples/road/{script.name}" in doc
    assert 4 <= len(doc.splitlines()) <= 14


def test_every_committed_picture_has_a_script_and_is_small():
    pictures = sorted((ROOT / "docs" / "road").glob("*"))
    assert [picture.name for picture in pictures] == [f"{name}.png" for name in NAMES]
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name
        assert width(picture) == 1200, picture.name


def test_each_has_its_place_on_a_page_with_its_script_and_command():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert sorted(re.findall(r"!\[.+\]\(\.\./road/(\w+)\.png\)", text)) == NAMES
    assert sorted(re.findall(r"\[script\]\(\.\./\.\./examples/road/(\w+)\.py\)", text)) == NAMES
    assert sorted(re.findall(r"`python examples/road/(\w+)\.py`", text)) == NAMES
