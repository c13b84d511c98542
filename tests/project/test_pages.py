"""The README's Python and command lines run as they stand; so do the examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
COMMANDS = re.findall(r"^(?:sde-score|torchrun).*$", README, flags=re.M)


def run(command: list[str], cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_python_block_runs_as_it_stands(index, tmp_path):
    run([sys.executable, "-c", BLOCKS[index]], tmp_path)


def test_first_block_trains_samples_and_scores(tmp_path):
    """The block leaves names behind; what they hold is what the comments say."""
    check = (
        "\nassert images.min() >= 0 and images.max() <= 16 and images.dtype.itemsize == 1"
        "\nassert x.shape == (16, 1, 8, 8)"
    )
    out = run([sys.executable, "-c", BLOCKS[0].replace("steps=300", "steps=20") + check], tmp_path)
    bits = float(out.strip().splitlines()[-1])
    assert 1.0 < bits < 40.0


def test_readme_names_every_registered_thing():
    from sde_score import mcmc, models, objectives, samplers, sdes

    names = [*samplers.SAMPLERS, *sdes.SDES, *models.PARAMETRIZATIONS, *samplers.GRIDS]
    names += [*objectives.OBJECTIVES, *objectives.WEIGHTINGS, *objectives.TIME_SAMPLERS]
    names += [*mcmc.KERNELS, *models.TARGETS, *models.HEADS]
    assert [n for n in names if f"`{n}`" not in README and f"`{n}(" not in README] == []


def test_commands_of_the_readme_are_accepted(tmp_path):
    """Each line, with `--help` at its end, parses up to the help text of its verb."""
    assert len(COMMANDS) >= 7
    helps: dict[str, str] = {}
    for line in COMMANDS:
        words = line.split("#")[0].split()
        verb = words[words.index("sde_score") + 1] if words[0] == "torchrun" else words[1]
        if verb not in helps:
            helps[verb] = run([sys.executable, "-m", "sde_score", verb, "--help"], tmp_path)
        text = helps[verb]
        flags = re.findall(r"--[a-z-]+", " ".join(words[2:]).replace("--nproc_per_node", ""))
        assert all(flag in text for flag in flags), line


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("quickstart.py", ["--steps", "30"], "bits/dim"),
        ("swap_samplers.py", ["--count", "200", "--steps", "10"], "truth against truth"),
        ("exact_models.py", [], "ideal denoiser"),
    ],
)
def test_example_runs_and_is_short(name, arguments, says, tmp_path):
    path = ROOT / "examples" / name
    assert len(path.read_text().splitlines()) < 60
    assert says in run([sys.executable, str(path), *arguments], tmp_path)
