"""From a published checkpoint to a run directory, and on through the verbs."""

from __future__ import annotations

import json

import pytest
import torch

from sde_score import interop, load_run
from sde_score.cli import main
from sde_score.cli.convert import parse_options
from sde_score.interop.convert import save_run
from sde_score.interop.imported import Imported, images
from sde_score.interop.schedules import text_of
from sde_score.nn import create
from sde_score.sdes import VP, Tabulated, chain


@pytest.fixture
def imported():
    """A small network with weights that are nowhere zero."""
    spec = "ddpmpp(base=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)"
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in create(spec, (1, 8, 8)).state_dict().items()
    }
    return Imported("mine", spec, (1, 8, 8), VP(), "score-sde-vp", state, notes=("as published",))


def test_a_run_directory_holds_the_network(imported, tmp_path):
    run = load_run(save_run(imported, tmp_path / "runs" / "a", step=7))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([0.2, 0.9])
    # Another layout in memory, so other roundings.
    torch.testing.assert_close(run.model.score(x, times), imported.model().score(x, times))
    assert (run.step, run.event_shape, run.scaling) == (7, (1, 8, 8), imported.scaling)
    assert run.all_noise_levels
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "config.yaml"]


def test_a_folder_with_something_in_it_is_left_alone(imported, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="is a folder that holds files"):
        save_run(imported, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    save_run(imported, tmp_path / "b")
    with pytest.raises(ValueError, match="is a folder that holds files"):
        save_run(imported, tmp_path / "b")


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_chains_keep_the_names_of_their_schedules(schedule):
    assert text_of(chain(schedule, 100)) == f"chain(schedule={schedule!r}, layers=100)"
    odd = Tabulated.from_betas(torch.tensor([0.1, 0.3]))
    assert text_of(odd) == f"chain(log_snrs={odd.log_snrs})"


def test_convert_inspect_and_sample(imported, tmp_path, monkeypatch, capsys):
    """The verbs, on a file that a family recognizes."""
    family = interop.Family(
        "mine", lambda contents: contents.has("mine"), lambda c, size=8: imported
    )
    monkeypatch.setattr(interop, "FAMILIES", (family,))
    torch.save({"mine": torch.zeros(1)}, tmp_path / "net.pt")
    source, out = str(tmp_path / "net.pt"), str(tmp_path / "run")
    assert main(["inspect", source, "--json", "--option", "size=16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["family"], found["event_shape"], found["sde"]) == (
        "mine",
        [1, 8, 8],
        "vp(beta_min=0.1, beta_max=20.0)",
    )
    assert found["parameters"] == sum(v.numel() for v in imported.state.values())
    assert main(["inspect", source, "--json", "--parts"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert [part["name"] for part in parts[-2:]] == ["head", "total"]
    assert parts[-1]["parameters"] == found["parameters"]
    assert main(["inspect", source, "--parts"]) == 0
    assert "FLOPs of a forward pass of 1 example" in capsys.readouterr().out
    assert main(["convert", source, out]) == 0
    assert "note: as published" in capsys.readouterr().err
    sampled = str(tmp_path / "s.npy")
    words = ["sample", out, "--num", "2", "--sampler", "ddim", "--steps", "2", "--out", sampled]
    assert main([*words, "--no-progress"]) == 0
    assert main(["convert", source, str(tmp_path / "b"), "--option", "depth=3"]) == 2
    assert "does not take depth; accepted: size" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "absent.pt")]) == 2
    assert not (tmp_path / "b").exists()


def test_options_are_literals_or_text():
    assert parse_options(["a=3", "b=raw", "c=(1, 2)", "d='x=y'", "e=x=y"]) == {
        "a": 3,
        "b": "raw",
        "c": (1, 2),
        "d": "x=y",
        "e": "x=y",
    }
    with pytest.raises(ValueError, match="option='raw' must be name=value"):
        parse_options(["raw"])


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_images_of_published_codes_are_black_at_low_and_white_at_one(low):
    """Level 0 is exactly `low` and 255 exactly 1, unlike ours, whose bins fill [-1, 1]."""
    scaled = images(low).to_model(torch.tensor([0, 51, 255], dtype=torch.uint8))
    expected = torch.tensor([low, low + 0.2 * (1 - low), 1.0])
    torch.testing.assert_close(scaled, expected)
    assert images(low).from_model(scaled).tolist() == [0, 51, 255]
