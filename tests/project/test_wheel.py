"""What a user installs: the wheel is built, put into an environment of its own, and trains."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


def run(*command, cwd, **environment):
    """Run to the end without our path in the environment; on failure show all that was printed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | environment
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    for needed in ("build", "hatchling"):
        pytest.importorskip(needed, reason="building the wheel needs the extra [dev]")
    out = tmp_path_factory.mktemp("wheel")
    # From outside the checkout, so that no folder named build can hide the module.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, REPO]
    run(*command, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment that sees the packages installed here, and ours from the wheel alone."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    run(sys.executable, *install, cwd=home)
    (packages,) = home.glob("lib/python*/site-packages")
    # Lines of a .pth file are appended to the path, and .pth files in those folders are not read:
    # an editable install of this checkout stays out of sight.
    borrowed = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    return home


def test_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    """py.typed and data files travel with the code; tests and benchmarks stay at home."""
    files = (path for path in (REPO / "sde_score").rglob("*") if path.is_file())
    expected = {p.relative_to(REPO).as_posix() for p in files if "__pycache__" not in p.parts}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert "sde_score/py.typed" in held
    assert {name for name in held if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)


def test_environment_takes_the_package_from_the_wheel(environment, tmp_path):
    command = "from importlib.util import find_spec; print(find_spec('sde_score').origin)"
    printed = run(environment / "bin" / "python", "-c", command, cwd=tmp_path)
    assert Path(printed.strip()).is_relative_to(environment)


def test_installed_command_trains(environment, tmp_path):
    """Five steps on the bundled digits, from outside the checkout, leave a run directory."""
    command = environment / "bin" / "sde-score"
    out = tmp_path / "run"
    options = {
        "--data": "digits",
        "--sde": "vp",
        "--steps": "5",
        "--batch-size": "8",
        "--backbone": "mlp(width=32, depth=1)",
        "--out": str(out),
    }
    flags = [word for pair in options.items() for word in pair]
    run(command, "train", *flags, "--no-progress", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert (out / "config.yaml").stat().st_size > 0
    assert (out / "metrics.jsonl").stat().st_size > 0
    assert list(out.glob("checkpoints/step-*/*.safetensors"))
