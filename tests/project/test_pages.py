"""README and docs: their Python runs, their tables are those of the code."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import torch

import sde_score
from sde_score._core.registry import Registry

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
# A block of Python, and the block of text under it, if any, which is what it prints.
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", flags=re.S)
BLOCKS = [
    pytest.param(*block.groups(), id=f"{name}-{index}")
    for name, text in TEXTS.items()
    for index, block in enumerate(BLOCK.finditer(text))
]
# Blocks with a title, which need what is not installed, or a process of their own.
TITLED = dict(
    found
    for text in TEXTS.values()
    for found in re.findall(r'```python title="([^"]+)"\n(.*?)```', text, re.S)
)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
# Blocks that show no output run with these numbers, as theirs are for readers with more time.
SMALLER = {
    "TrainConfig(data": "TrainConfig(backbone='mlp(width=32, depth=1)', data",
    'multipliers=(1, 2))", conditional=True, steps=300': (
        'multipliers=(1,), blocks=1, attention=())", conditional=True, batch_size=8, steps=3'
    ),
    "steps=300": "steps=12",
    "range(100)": "range(2)",
    "range(200)": "range(2)",
    "raw()[:16]": "raw()[:4]",
    "model.sde, 100)": "model.sde, 20)",
    "model.sde, 50)": "model.sde, 5)",
    "draws=50, warmup=50": "draws=4, warmup=4",
    "chains=256, steps=50": "chains=32, steps=4",
    "steps=50)(model, (1000, 2)": "steps=4)(model, (20, 2)",
    "in samplers.available():\n    x =": "in samplers.available()[::16]:\n    x =",
    "(25, 250)": "(5, 10)",
    "num=64, iterations=20": "num=8, iterations=2",
    "draws=64": "draws=4",
}


@pytest.fixture
def run_block(monkeypatch, tmp_path, fresh_registries):
    """Run Python in this process, from an empty folder; the names that it leaves behind."""
    monkeypatch.chdir(tmp_path)

    def run(code, smaller=True):
        for large, small in SMALLER.items() if smaller else ():
            code = code.replace(large, small)
        names = {"__name__": "__main__"}
        with torch.random.fork_rng():
            exec(compile(code, "block", "exec"), names)
        return names

    return run


def tables():
    """The module that writes docs/reference.md."""
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unit(number):
    """One in the last digit of a printed number."""
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def agrees(printed, shown):
    """Whether words are equal and numbers differ by at most one in the last digit shown."""
    words = [" ".join(NUMBER.sub("0", text).split()) for text in (printed, shown)]
    numbers = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=words[0] == words[1])
    close = [abs(float(new) - float(old)) < 1.01 * unit(old) for new, old in numbers]
    return words[0] == words[1] and all(close)


@pytest.mark.parametrize(("block", "shown"), BLOCKS[1:])  # the first has a test of its own
def test_python_block_runs_and_prints_what_the_page_shows(block, shown, run_block, capsys):
    run_block(block, smaller=shown is None)
    printed = capsys.readouterr().out
    assert shown is None or agrees(printed, shown), printed


@pytest.mark.parametrize(
    ("printed", "agree"),
    [
        ("a  1.25 +- 3e-07\n", True),
        ("a 1.24 +- 4e-07", True),
        ("a 1.23 +- 3e-07", False),
        ("a 1.25 +- 5e-07", False),
        ("a 1.25 +- 3e-06", False),
        ("b 1.25 +- 3e-07", False),
        ("a 1.25 +- 3e-07 2", False),
        ("a -1.25 +- 3e-07", False),
    ],
)
def test_printed_numbers_may_differ_in_the_last_digit(printed, agree):
    assert agrees(printed, "a 1.25 +- 3e-07") is agree


class Fit:
    """What the page on loops asks of Lightning's trainer."""

    def __init__(self, max_epochs):
        self.epochs = max_epochs

    def fit(self, module, loader):
        optimizer = module.configure_optimizers()
        for index, batch in [*enumerate(loader)] * self.epochs:
            optimizer.zero_grad()
            module.training_step(batch, index).backward()
            optimizer.step()


@pytest.mark.parametrize(("title", "code"), TITLED.items(), ids=TITLED)
def test_titled_block_trains(title, code, run_block, monkeypatch, capsys):
    """Standard deviations of 1 and 0.2 are learned, roughly, in a few steps."""
    stand_in = types.SimpleNamespace(LightningModule=torch.nn.Module, Trainer=Fit)
    monkeypatch.setitem(sys.modules, "lightning", stand_in)
    run_block(code)
    one, other = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert 0.5 < one < 1.5
    assert other < 0.7 * one


def test_pages_of_the_course_show_what_they_print_and_solve_their_exercises():
    pages = {name: text for name, text in TEXTS.items() if name.startswith("docs/course/")}
    del pages["docs/course/index.md"]
    assert [name for name, text in pages.items() if "```\n\n```text\n" not in text] == []
    listed = re.findall(r"\| \[.+\]\((\w+\.md)\)", TEXTS["docs/course/index.md"])
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert re.findall(r'"course/(?!index)(\w+\.md)"', navigation) == listed
    assert [
        name for name, text in pages.items() if text.count("<summary>Solution</summary>") < 2
    ] == []


def test_the_numbers_made_smaller_are_on_a_page():
    everything = "".join(TEXTS.values())
    assert [large for large in SMALLER if large not in everything] == []


def test_first_block_trains_samples_and_scores(run_block, capsys):
    """The block leaves names behind; what they hold is what the comments say."""
    names = run_block(BLOCKS[0].values[0])
    images = names["images"]
    assert images.min() >= 0
    assert images.max() <= 16
    assert images.dtype.itemsize == 1
    assert names["x"].shape == (16, 1, 8, 8)
    assert 1.0 < float(capsys.readouterr().out.strip().splitlines()[-1]) < 40.0


def test_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 120


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", TEXTS[str(page.relative_to(ROOT))]):
            assert target.startswith("https://") or (page.parent / target).exists(), target


def test_reference_page_is_what_the_registries_say():
    """On a difference: `make docs`."""
    module = tables()
    assert module.PAGE.read_text(encoding="utf-8") == module.page()


def test_every_public_registry_has_its_table():
    rooms = [getattr(sde_score, room) for room in dir(sde_score) if not room.startswith("_")]
    exported = [getattr(room, name) for room in rooms for name in getattr(room, "__all__", ())]
    shown = [id(section.registry) for section in tables().SECTIONS]
    missing = {x.kind for x in exported if isinstance(x, Registry) and id(x) not in shown}
    assert missing <= {"data format", "predictor"}  # found by the path; samplers


def test_every_published_method_is_on_its_page():
    text = TEXTS["docs/published_methods.md"]
    missing = [name for name in sde_score.samplers.METHODS if f"`{name}" not in text]
    assert missing == []
