"""Imports point down: every file of the package is read, and no room may know a room above it."""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]

# From the roof to the ground. A room may import the floors below its own, and nothing else.
FLOORS = [
    {"__init__", "__main__"},
    {"cli"},
    {"report"},
    {"evaluation", "interop"},
    {"training"},
    {"posterior"},
    {"likelihood"},
    {"guidance", "discrete"},
    {"samplers", "objectives"},
    {"mcmc", "data"},
    {"models"},
    {"sdes", "nn"},
    {"scaling"},
    {"distributions"},
    {"random"},
    {"_core"},
]
# These see a model through the names that the room of models exports, never through its files.
FRONT_DOOR_ONLY = {"mcmc", "samplers", "objectives", "likelihood", "guidance", "discrete"}

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def rooms_on_disk(package):
    """Names of the folders and files right under the package."""
    folders = {path.relative_to(package).parts[0] for path in package.glob("*/**/*.py")}
    return folders | {path.stem for path in package.glob("*.py")}


def imported_modules(path, package):
    """Absolute dotted names of everything that a file imports, wherever in the file it does so."""
    here = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def room_of(module):
    """The room that a dotted name of ours belongs to; what is in no room belongs to the roof."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"


def faults(package):
    """One line for every import that the floors do not allow."""
    for path in sorted(package.rglob("*.py")):
        here = path.relative_to(package).parts[0].removesuffix(".py")
        for module in imported_modules(path, package):
            if module.split(".")[0] != package.name:
                continue
            there = room_of(module)
            down = LEVEL.get(here, 0) < LEVEL[there] or (here == there and here != "__init__")
            side_door = here in FRONT_DOOR_ONLY and is_file(package, module, "models")
            if not down or side_door:
                yield f"{path.relative_to(package).as_posix()} imports {module}"


def is_file(package, module, room):
    """Whether a dotted name reaches into a file or folder of the room."""
    parts = module.split(".")
    if parts[:2] != [package.name, room] or len(parts) < 3:
        return False
    inside = package / room / parts[2]
    return inside.is_dir() or inside.with_suffix(".py").exists()


def test_every_room_has_its_floor():
    unknown = rooms_on_disk(REPO / "sde_score") - set(LEVEL)
    assert not unknown, f"say in FLOORS on which floor these stand: {sorted(unknown)}"


def test_imports_point_down():
    assert list(faults(REPO / "sde_score")) == []


@pytest.mark.parametrize(
    ("file", "source", "allowed"),
    [
        ("samplers/a.py", "from sde_score.models import Model", True),
        ("samplers/a.py", "from sde_score.models.base import Model", False),
        ("samplers/a.py", "import sde_score.models.base as base", False),
        ("guidance/a.py", "from sde_score.models import base", False),
        ("training/a.py", "from sde_score.models.base import Model", True),
        ("training/a.py", "from sde_score.data import load", True),
        ("evaluation/a.py", "from sde_score.data import load", True),
        ("evaluation/a.py", "from sde_score.training import Trainer", True),
        ("training/a.py", "from sde_score.evaluation import compare", False),
        ("data/a.py", "from sde_score.training import Trainer", False),
        ("cli/a.py", "from sde_score.report import write", True),
        ("report/a.py", "from sde_score.cli import main", False),
        ("nn/a.py", "from sde_score.sdes import VE", False),
        ("sdes/a.py", "import sde_score.nn", False),
        ("sdes/a.py", "def f():\n    from sde_score.models import Model", False),
        ("sdes/a.py", "if TYPE_CHECKING:\n    from sde_score.models import Model", False),
        ("sdes/a.py", "from ..models import Model", False),
        ("sdes/a.py", "from .. import models", False),
        ("sdes/deep/a.py", "from ...models import Model", False),
        ("sdes/a.py", "from . import b\nfrom .b import c\nfrom sde_score.sdes.b import c", True),
        ("sdes/a.py", "from sde_score import models", False),
        ("sdes/a.py", "from sde_score import VE", False),
        ("sdes/a.py", "import sde_score", False),
        ("sdes/a.py", "from sde_score import __version__", False),
        ("sdes/a.py", "from importlib import import_module\nimport_module('sde_score.nn')", False),
        ("sdes/a.py", "from sde_score._core.checks import x\nimport sde_score.random", True),
        ("sdes/a.py", "import torch, sde_scored.models", True),
        ("_core/checks.py", "from sde_score.sdes import VE", False),
        ("_core/checks.py", "from sde_score._core.registry import Registry", True),
        ("mcmc/a.py", "from sde_score.samplers import Sampler", False),
        ("scaling.py", "from sde_score.data import DataSet", False),
        ("__init__.py", "from sde_score.cli import main", True),
        ("__main__.py", "from sde_score.cli import main", True),
    ],
)
def test_floors_are_read_from_every_form_of_import(tmp_path, file, source, allowed):
    package = tmp_path / "sde_score"
    for path in (package / "models" / "base.py", package / file):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (package / file).write_text(source)
    assert (list(faults(package)) == []) is allowed
