"""The pictures of docs/inverse_problems.md: their scripts run, and what they compare with is so."""

from __future__ import annotations

import itertools
import math
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from PIL import Image

from sde_score import data, posterior
from sde_score.models import GaussianMixture

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "posterior"
PAGE = (ROOT / "docs" / "inverse_problems.md").read_text(encoding="utf-8")
NAMES = ["image", "plane", "products"]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The functions of a script, whose settings are as before afterwards; `run` runs its main."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)

    def opened(name, **smaller):
        text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
        for large, less in smaller.items():
            assert f"{large}=100" in text
            text = text.replace(f"{large}=100", f"{large}={less}")
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        found = runpy.run_path(str(tmp_path / f"{name}.py"))

        def run(*words, **less):
            monkeypatch.setattr(sys, "argv", [name, *words])
            found["main"].__globals__.update(less)
            found["main"]()
            return Image.open(tmp_path / f"{name}.png")

        return {**found, "run": run}

    with matplotlib.rc_context(), torch.random.fork_rng():
        yield opened
    torch.set_num_threads(threads)


def test_plane_is_drawn_with_each_method_in_its_panel(script, capsys):
    few = {"twisted": "smc(steps=3, particles=4, islands=2)", "ddrm": None, "mmps": None}
    image = script("plane")["run"]("--samples", "20", METHODS=few)
    assert image.width == 1200
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["exact", "exact", *few]


def test_plane_has_every_method_but_those_for_images(script):
    named = [name.partition("(")[0] for name in script("plane")["METHODS"]]
    assert {*named, "pc-inpaint", "pc-inpaint-published"} == set(posterior.available())


def test_plane_compares_with_the_posterior(script):
    """Its density over prior times likelihood is the same everywhere."""
    plane = script("plane")
    prior = plane["mixture"](*plane["spiral"]())
    truth = plane["mixture"](*plane["given"](*plane["spiral"]()))
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = -0.5 * ((plane["Y"] - x @ plane["A"]) / plane["STD"]) ** 2
    evidence = prior.log_prob(x) + fit - truth.log_prob(x)
    torch.testing.assert_close(evidence, evidence[:1].expand(20))


def test_distance_is_that_of_a_shift(script):
    """A shift by 1 moves a projection by |cos| of its angle, 2 / pi in the mean."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = torch.cat([x, x]) + torch.tensor([0.6, 0.8], dtype=torch.float64)
    distance = script("plane")["distance"]
    assert distance(x, torch.cat([x, x])) == pytest.approx(0, abs=1e-12)
    assert distance(x, moved) == pytest.approx(2 / math.pi, abs=1e-3)


def test_image_is_drawn_of_a_run(script, capsys):
    digits = data.load("digits")
    run = SimpleNamespace(
        model=GaussianMixture(torch.zeros(1, 1, 8, 8), 0.5, "vp"),
        event_shape=(1, 8, 8), scaling=digits.scaling, dataset={"held_out": digits}.get,
    )  # fmt: skip
    few = {"ddrm": (None, ("k", "-")), "mcg-diff": ("smc(steps=2, particles=2)", ("k", "--"))}
    image = script("image")["run"](
        "--run", ".", "--examples", "2", METHODS=few, load_run=lambda path: run
    )
    assert image.width == 1200
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == list(few)


def test_image_counts_ranks_as_calibration_does(script):
    """Of 31 draws and a truth alike, each rank is as likely, also of few gray levels."""
    image = script("image")
    levels = torch.randint(0, 3, (32, 20_000), generator=torch.Generator().manual_seed(0))

    class Plain:
        from_model = staticmethod(lambda samples: samples)

    wanted, found = image["coverage"](image["ranks"](levels[1:], levels[0], Plain, 0))
    torch.testing.assert_close(found, wanted.double(), atol=0.012, rtol=0)
    assert wanted[0] == 30 / 32


def test_products_are_drawn_and_their_integrals_found(script, capsys):
    """The sum of p q over the line is that of N(-1.4 + 0.6; 0, 0.25^2 + 0.9^2) and three more."""
    assert script("products", steps=3)["run"]("--samples", "80").width == 1200
    lines = capsys.readouterr().out.splitlines()
    parts = {(-1.4, 0.25): 0.5, (1.2, 0.5): 0.5}, {(-0.6, 0.9): 0.7, (2.0, 0.35): 0.3}
    total = 0.0
    for ((m, s), w), ((n, r), v) in itertools.product(*(part.items() for part in parts)):
        total += w * v * math.exp(-0.5 * (m - n) ** 2 / (s**2 + r**2)) / math.hypot(s, r)
    expected = math.log(total / math.sqrt(2 * math.pi))
    assert float(lines[0].split("exact log Z = ")[1].split(";")[0]) == pytest.approx(
        expected, abs=1e-3
    )
    assert len(lines) == 3


@pytest.mark.parametrize("name", NAMES)
def test_picture_is_on_the_page_and_small(name):
    path = ROOT / "docs" / "posterior" / f"{name}.png"
    assert f"(posterior/{name}.png)" in PAGE
    assert f"(../examples/posterior/{name}.py)" in PAGE
    assert path.stat().st_size < 300_000
    with Image.open(path) as image:
        assert image.width == 1200
    assert f"python examples/posterior/{name}.py" in (SCRIPTS / f"{name}.py").read_text()
