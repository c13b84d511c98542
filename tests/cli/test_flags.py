"""No flag is taken without effect, and places and names are looked at before anything is done."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch

from sde_score import __version__
from sde_score.cli import main
from sde_score.cli.options import saved
from sde_score.training import TrainConfig, train

TINY = ["--steps", "1", "--batch-size", "8", "--backbone", "mlp(width=4, depth=1)", "--no-progress"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """An energy without noise of the plane, and a score of all noise levels, as paths."""
    folder = tmp_path_factory.mktemp("flags")
    common = ["train", "--data", "ring(n=60)", *TINY]
    energy = ["--model", "energy", "--objective", "hutchinson"]
    assert main([*common, "--out", str(folder / "energy"), *energy]) == 0
    assert main([*common, "--out", str(folder / "score")]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["likelihood", "energy", "--by", "flow", "bound"], "by=flow, bound needs a model of all"),
        (["likelihood", "energy", "--picture", "a.png"], "layers needs a model of all noise"),
        (["likelihood", "energy", "--dequantizations", "2"], "of discrete data; those of"),
        (["likelihood", "score", "--chains", "64"], "chains=64 is of energies trained without"),
        (["likelihood", "score", "--dequantizations", "2"], "dequantizations=2 is of energies"),
        (["likelihood", "score", "--by"], "by names no likelihood"),
        (["sample", "score", "--data", "moons(n=60)"], "has changed since the run was begun"),
        (["sample", "energy", "--grid", "karras"], "does not take grid"),
        (["sample", "score", "--label", "3"], "train it with --conditional"),
        (["compare", "energy"], "on data without noise"),
        (["data", "info", "ring(n=60)", "--radius", "chi"], "radius=chi is of sde-score data lad"),
        (["data", "info", "ring(n=60)", "--sigma-min", "nan"], "sigma_min=nan is of sde-score"),
        (["benchmark", "--target", "ring", "--weights", "raw"], "weights=raw is of --model"),
        (["benchmark", "--target", "ring", "--device", "cuda"], "device=cuda is of --model"),
    ],
)
def test_a_flag_that_would_have_no_effect_is_refused(runs, refusal, monkeypatch, words, said):
    monkeypatch.chdir(runs)
    assert said in refusal(*words)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dequantize": True}, "dequantize=True has no effect: the data are continuous"),
        ({"head": "square"}, "head=square has no effect: a score needs no map"),
    ],
)
def test_a_setting_of_training_without_effect_is_pointed_out(tmp_path, changes, said):
    given = {"data": "ring(n=60)", "steps": 1, "batch_size": 8, "backbone": "mlp(width=4)"}
    with pytest.warns(UserWarning, match=said):
        train(TrainConfig(**given, **changes), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("verb", "flag"),
    [
        (["sample", "nowhere"], "--out"),
        (["optimise-grid", "nowhere"], "--out"),
        (["likelihood", "nowhere", "--by", "elbo"], "--picture"),
        (["compare", "nowhere"], "--out"),
        (["benchmark", "--target", "ring"], "--out"),
    ],
)
@pytest.mark.parametrize("place", ["below", "long", "folder", "ending"])
def test_every_place_is_looked_at_first(tmp_path, refusal, monkeypatch, verb, flag, place):
    """No run is there, so that anything later would fail otherwise."""
    (tmp_path / "file").write_text("")
    folder = verb[0] in ("compare", "benchmark")
    ending = {"sample": ".npz", "optimise-grid": ".json", "likelihood": ".png"}.get(verb[0], "")
    (tmp_path / f"there{ending}").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    monkeypatch.chdir(tmp_path)
    if folder and place in ("folder", "ending"):
        return  # any name is that of a folder
    out = {
        "below": f"file/x{ending}", "long": "x" * 256 + ending, "folder": f"there{ending}",
        "ending": "x.xyz",
    }[place]  # fmt: skip
    words = {"below": "no folder", "long": "bytes", "folder": "it is a folder", "ending": ending}
    said = refusal(*verb, flag, out)
    assert words[place] in said
    assert "nowhere" not in said


def test_a_page_is_looked_at_before_samples_are_drawn(tmp_path, refusal):
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    said = refusal("evaluate", str(tmp_path / "run"), "--report")
    assert re.search(r"report='.*report\.html' cannot be written: it is a folder", said)


@pytest.mark.parametrize("verb", ["evaluate", "compare", "benchmark"])
@pytest.mark.parametrize("num", ["0", "-3", "3"])
def test_numbers_are_named_as_their_flags(runs, refusal, verb, num):
    words = [verb, *([] if verb == "benchmark" else [str(runs / "score")]), "--num", num]
    assert f"num={num} must be an integer of at least 4" in refusal(*words)


@pytest.mark.parametrize("verb", ["sample", "likelihood", "evaluate", "compare", "optimise-grid"])
def test_a_batch_holds_something(runs, refusal, verb):
    assert "batch_size=0" in refusal(verb, str(runs / "score"), "--batch-size", "0")


def test_a_comparison_can_be_written_elsewhere(runs, tmp_path, record):
    words = ["compare", str(runs / "score"), "--views", "ddim", "--nfe", "2", "--num", "4"]
    words += ["--bits-examples", "0", "--extractor", "pixels", "--no-progress"]
    before = {path.name for path in (runs / "score").iterdir()}
    found = record(*words, "--out", str(tmp_path / "new" / "place"))
    assert {path.name for path in (runs / "score").iterdir()} == before
    written = {path.name for path in (tmp_path / "new" / "place").iterdir()}
    names = {"comparison.json", "comparison.jsonl", "comparison.csv", "comparison.png"}
    assert written == {*names, "report.html"}
    assert found["page"] == str(tmp_path / "new" / "place" / "report.html")


def test_a_moved_run_finds_moved_data(tmp_path, record, refusal, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", torch.randn(60, 2).numpy())
    assert main(["train", "--data", "a.npy", "--out", "run", *TINY]) == 0
    (tmp_path / "new").mkdir()
    shutil.move("a.npy", "new/b.npy")
    shutil.move("run", "new/run")
    monkeypatch.chdir(tmp_path / "new")
    capsys.readouterr()
    words = ["evaluate", "run", "--samplers", "ddim(steps=2)", "--num", "4", "--no-progress"]
    assert "--data on the command line" in refusal(*words)
    record(*words, "--data", "b.npy")
    record("likelihood", "run", "--num", "2", "--by", "bound", "--data", "b.npy", "--no-progress")


def test_a_result_is_kept_elsewhere_where_its_place_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")

    def write(path):
        path.write_text("result")

    with pytest.raises(OSError, match=r"x\.npz cannot be written .*; the result is in ") as error:
        saved(tmp_path / "file" / "x.npz", write)
    (kept,) = tmp_path.glob("sde-score-*/x.npz")
    assert kept.read_text() == "result"
    assert str(kept) in str(error.value)


def test_a_result_is_shown_before_its_files_are_written(runs, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "comparison.json")

    monkeypatch.setattr("sde_score.cli.compare.write_comparison", full)
    words = ["compare", str(runs / "score"), "--views", "ddim", "--nfe", "2", "--num", "4"]
    words += ["--bits-examples", "0", "--extractor", "pixels", "--no-progress"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "DDIM" in said.out
    assert "No space left" in said.err


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sde-score {__version__} (torch {torch.__version__})\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("of Python"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_full_memory_is_one_line(monkeypatch, refusal, error):
    def run(_):
        raise error

    monkeypatch.setattr("sde_score.cli.samplers.Samplers.run", run)
    assert "the memory is full: try smaller numbers" in refusal("samplers")


def test_a_solver_that_gives_up_says_so_in_one_line(runs, tmp_path, refusal):
    words = ["--sampler", "ode(rtol=1e-30, atol=1e-30)", "--num", "2", "--no-progress"]
    said = refusal("sample", str(runs / "score"), *words, "--out", str(tmp_path / "x.npz"))
    assert "the solver gave up" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--out", "new", "--data", "ring(n=60)", "--batch-size"], "batch_size=9"),
        (["sample", "score", "--sampler", "ddim", "--steps"], "memory is full"),
        (["sample", "score", "--num"], "num=9"),
        (["optimise-grid", "score", "--num"], "num=9"),
        (["tune", "score", "--num"], "num=9"),
    ],
)
def test_amounts_beyond_the_memory_are_refused(runs, refusal, monkeypatch, tmp_path, words, said):
    for name in ("score", "energy"):
        (tmp_path / name).symlink_to(runs / name)
    monkeypatch.chdir(tmp_path)
    assert said in refusal(*words, "9" * 18, "--no-progress")
