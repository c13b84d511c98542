"""Each verb does what its help says, and says what went wrong in one line."""

from __future__ import annotations

import json
import os
import re
import runpy
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sde_score import data, likelihood, objectives, samplers
from sde_score.cli import main
from sde_score.cli.parsing import parse
from sde_score.training import load_run

VERBS = ["train", "sample", "likelihood", "evaluate", "compare", "data", "samplers", "objectives"]
VERBS += ["benchmark", "optimise-grid", "tune", "demo"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_flag(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "sde-score" in text
    assert "undocumented" not in text


def test_train_writes_a_run_and_reports_it(run_path, record):
    found = record("train", "--out", str(run_path), *_same_training(), "--no-progress")
    assert found["step"] == 12
    assert found["parameters"] == sum(p.numel() for p in load_run(run_path).model.parameters())
    assert (run_path / "config.yaml").exists()


def _same_training() -> list[str]:
    from_fixture = ["--steps", "12", "--batch-size", "16", "--backbone", "mlp(width=32, depth=1)"]
    return [*from_fixture, "--held-out", "0.2"]


def test_train_writes_grids_of_samples_along_the_way(tmp_path):
    words = ["train", "--out", str(tmp_path / "r"), *_same_training(), "--no-progress"]
    assert main([*words, "--sample-every", "6", "--conditional"]) == 0
    pictures = sorted(p.name for p in (tmp_path / "r" / "samples").iterdir())
    assert len(pictures) == 2
    assert all((tmp_path / "r" / "samples" / p).read_bytes()[1:4] == b"PNG" for p in pictures)


def test_train_refuses_another_configuration(run_path, refusal):
    said = refusal("train", "--out", str(run_path), "--learning-rate", "0.5", *_same_training())
    assert "learning_rate" in said


def test_samples_are_in_the_terms_of_the_data(run_path, tmp_path, record):
    out = tmp_path / "s.npz"
    found = record("sample", str(run_path), "--num", "6", "--steps", "4", "--out", str(out))
    x = np.load(out, allow_pickle=False)["samples"]
    assert (found["sampler"], found["nfe"]) == ("auto(steps=4)", 4)
    assert x.shape == (6, 1, 8, 8)
    assert x.dtype == np.uint8
    assert x.max() <= 16
    run = load_run(run_path)
    direct = samplers.create("auto", steps=4)(run.model, (6, 1, 8, 8), seed=0)
    assert np.array_equal(x, run.scaling.from_model(direct).numpy())
    assert data.load(str(out)).event_shape == (1, 8, 8)


def test_samples_do_not_depend_on_the_batch_or_their_number(run_path, tmp_path):
    few, many = tmp_path / "few.npy", tmp_path / "many.npy"
    common = ["sample", str(run_path), "--sampler", "pc", "--steps", "5", "--seed", "3"]
    assert main([*common, "--num", "3", "--out", str(few)]) == 0
    assert main([*common, "--num", "7", "--batch-size", "2", "--out", str(many)]) == 0
    assert np.array_equal(np.load(few), np.load(many)[:3])
    assert main([*common[:-1], "4", "--num", "3", "--out", str(many)]) == 0
    assert not np.array_equal(np.load(few), np.load(many))


def test_sample_as_a_picture(run_path, tmp_path):
    from PIL import Image

    out = tmp_path / "deep" / "s.png"
    assert main(["sample", str(run_path), "--num", "9", "--steps", "3", "--out", str(out)]) == 0
    picture = np.asarray(Image.open(out).convert("L")).astype(float)
    assert picture.std() > 10  # not an empty sheet


def test_conditional_samples_carry_their_labels(tmp_path):
    path, out = tmp_path / "r", tmp_path / "s.npz"
    assert main(["train", "--out", str(path), *_same_training(), "--conditional"]) == 0
    assert main(["sample", str(path), "--num", "12", "--steps", "3", "--out", str(out)]) == 0
    assert np.load(out)["labels"].tolist() == [i % 10 for i in range(12)]
    common = ["sample", str(path), "--steps", "3", "--num", "2", "--out", str(out)]
    assert main([*common, "--label", "7"]) == 0
    assert np.load(out)["labels"].tolist() == [7, 7]
    assert main([*common, "--label", "none"]) == 0
    assert "labels" not in np.load(out)
    words = ["likelihood", str(path), "--num", "2", "--by", "bound(times=1)", "--no-progress"]
    assert main([*words, "--label", "none"]) == 0


def test_labels_are_left_out_of_runs_that_were_trained_without_some_alone(
    tmp_path, run_path, capsys
):
    path, out = str(tmp_path / "r"), str(tmp_path / "s.npz")
    train = [*_same_training(), "--conditional", "--condition-dropout", "0"]
    assert main(["train", "--out", path, *train]) == 0
    for words in (["sample", path, "--steps", "3", "--out", out], ["likelihood", path]):
        assert main([*words, "--num", "2", "--label", "none"]) == 2
        assert "every example had a label in training" in capsys.readouterr().err
    assert main(["likelihood", str(run_path), "--num", "2", "--label", "none"]) == 2
    assert "takes no labels" in capsys.readouterr().err


def test_likelihoods_are_those_of_the_library(run_path, record):
    specs = ["flow(rtol=1e-3, atol=1e-3)", "bound(draws=1, times=4)", "elbo(layers=5)"]
    words = ["likelihood", str(run_path), "--num", "5", "--seed", "3", "--no-progress"]
    found = record(*words, "--by", *specs)
    run = load_run(run_path)
    raw = run.dataset("held_out").raw(torch.arange(5))
    assert (found["examples"], found["part"]) == (5, "held_out")
    assert [row["by"] for row in found["rows"]] == specs
    for row in found["rows"]:
        direct = likelihood.bits_per_dim(run.model, raw, run.scaling, row["by"], seed=3)
        assert row["bits_per_dim"] == pytest.approx(direct.mean, rel=1e-9)
        assert row["standard_error"] == pytest.approx(direct.standard_error, rel=1e-9)
        assert row["nfe"] == direct.nfe


def test_likelihood_by_default_is_the_flow(run_path, capsys):
    assert main(["likelihood", str(run_path), "--num", "2", "--part", "train"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "±" in line)
    assert line.split()[:3] == ["flow", "train", "2"]


def test_evaluate_measures_each_sampler_beside_the_floor(run_path, record):
    words = ["--samplers", "ddim(steps=4)", "heun(steps=3)", "--num", "40", "--report"]
    found = record("evaluate", str(run_path), *words, "--no-progress")
    assert [row["nfe"] for row in found["rows"]] == [4, 5]
    assert found["names"] == ["sliced-wasserstein2", "mmd2", "energy"]
    for row in found["rows"]:
        # 12 steps of training: far from the data, and measured to be
        for distance, floor in zip(row["distances"], found["floors"], strict=True):
            assert distance["value"] > floor["value"] + 10 * floor["standard_error"]
    assert "ddim(steps=4)" in (run_path / "report.html").read_text()


def test_samplers_lists_them_all(record):
    found = record("samplers")["samplers"]
    assert [s["name"] for s in found] == samplers.available()
    assert all("https://" in s["paper"] for s in found)
    for listed in found:
        sampler = samplers.SAMPLERS[listed["name"]]()
        assert listed["order"] == str(sampler.convergence_order)
        assert listed["nfe_per_step"]
        assert (listed["noise"] == "drawn") == sampler.stochastic
        assert f"steps={sampler.steps}" in listed["arguments"]


def test_data_info_measures(record):
    found, info = record("data", "info", "digits"), data.load("digits").info()
    assert found["sigma_max"] == pytest.approx(info.sigma_max)
    assert found["count"] == 1797


def test_data_info_names_the_columns_of_a_table(tmp_path, capsys):
    """Why three columns have four entries."""
    (tmp_path / "t.csv").write_text("age,job\n30,cook\n40,nurse\n50,smith\n")
    assert main(["data", "info", str(tmp_path / "t.csv")]) == 0
    shown = re.sub(" +", " ", capsys.readouterr().out)
    assert "column age, integer" in shown
    assert "column job, categorical" in shown
    assert "shape 4" in shown


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["sample", "nowhere"], "nowhere"),
        (["data", "info", "nothing"], "nothing"),
        (["train", "--out", "x", "--sde", "vq"], "vp"),
        (["train", "--out", "x", "--sde", "ve(sigma_max=0.001)"], "sigma_max"),
        (["train", "--out", "x", "--backbone", "unet(base=0)"], "base"),
        (["likelihood", "x", "--by", "flow", "elbow"], "elbo"),
    ],
)
def test_mistakes_are_named(words, names, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names in refusal(*words)
    assert not (tmp_path / "x" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--sampler", "hean"], "heun"),
        (["--steps", "0"], "steps=0"),
        (["--grid", "karass"], "karras"),
        (["--out", "s.txt"], ".npz"),
        (["--label", "3"], "--conditional"),
    ],
)
def test_mistakes_in_sampling_are_named(words, names, run_path, refusal):
    assert names in refusal("sample", str(run_path), *words)


def test_module_runs_as_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sde_score", "objectives"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("sde_score", run_name="__main__")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in objectives.available())


@pytest.mark.parametrize(("sde", "hinted"), [("ve", True), ("ve(sigma_max=3)", False)])
def test_default_noise_of_an_exploding_sde_is_held_against_the_data(sde, hinted, tmp_path, capsys):
    words = ["train", "--out", str(tmp_path / "r"), *_same_training(), "--sde", sde]
    assert main(words) == 0
    largest = data.load("digits").info().sigma_max
    assert (f"ve(sigma_max={largest:.3g})" in capsys.readouterr().err) == hinted


def test_two_processes_share_the_examples_and_find_the_bits_of_one(run_path, record, tmp_path):
    """Rank r takes every second example with its own seed; only the main process speaks."""
    words = ["likelihood", str(run_path), "--num", "5", "--by", "bound(draws=1)", "--no-progress"]
    alone = record(*words)["rows"][0]
    with socket.socket() as free:  # what `torchrun` sets, without waiting for it
        free.bind(("localhost", 0))
        given = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    given |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    given["PYTHONPATH"] = str(Path(__file__).parents[2])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "sde_score", *words, "--json", "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **given, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    said = [rank.communicate(timeout=600) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert said[1][0] == ""
    together = json.loads(said[0][0])["rows"][0]
    assert together["bits_per_dim"] == pytest.approx(alone["bits_per_dim"], rel=1e-6)


def test_likelihood_draws_where_the_bits_go(run_path, record, refusal, tmp_path):
    out = tmp_path / "new" / "bits.png"
    words = ("likelihood", str(run_path), "--num", "4", "--no-progress", "--picture", str(out))
    assert "give --by elbo" in refusal(*words)
    record(*words, "--by", "flow(rtol=1e-2, atol=1e-2)", "elbo(layers=4)")
    assert out.read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_over_in_a_pipe(tmp_path, capsys):
    """Standard error of a test is no terminal."""
    words = ["train", "--data", "ring(n=60)", "--batch-size", "8", "--steps", "20"]
    words += ["--backbone", "mlp(width=4)"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "\r" not in said
    assert "100% 20/20" in said


@pytest.mark.parametrize(("flags", "shown"), [([], True), (["--no-progress"], False)])
def test_reading_obeys_the_flag_for_progress(tmp_path, capsys, monkeypatch, flags, shown):
    from PIL import Image

    monkeypatch.setattr("sde_score._core.progress.Lines.close", lambda bar: bar._tell(0.0))
    for index in range(3):
        gray = torch.randint(0, 256, (4, 4), dtype=torch.uint8).numpy()
        Image.fromarray(gray).save(tmp_path / f"{index}.png")
    assert main(["data", "info", str(tmp_path), *flags]) == 0
    assert ("reading" in capsys.readouterr().err) == shown


def test_a_warning_is_one_plain_line(capsys, monkeypatch):
    def warned(_):
        warnings.warn("two\n lines", stacklevel=1)

    monkeypatch.setattr("sde_score.cli.samplers.Samplers.run", warned)
    before = warnings.showwarning
    assert main(["samplers"]) == 0
    assert capsys.readouterr().err == "warning: two lines\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize("verb", ["samplers", "objectives"])
def test_lists_fit_80_columns_and_their_links_stay_whole(verb, capsys):
    assert main([verb]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 or "https://" in line for line in lines)
    assert any("https://arxiv.org/abs/2011.13456" in line for line in lines) == (verb == "samplers")
    assert len(lines) < 125


@pytest.mark.parametrize("words", [["--lr", "0.25"], ["--lr=0.25"]])
def test_the_usual_name_of_the_learning_rate_is_known(words):
    assert parse(["train", "--out", "x", *words]).config.learning_rate == 0.25


def test_the_next_command_can_be_pasted(tmp_path, capsys, monkeypatch):
    """A folder with a space in its name is quoted."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "--data", "ring(n=64)", "--out", "my run", "--steps", "1", "--no-progress"]
    assert main([*words, "--backbone", "mlp(width=4, depth=1)", "--batch-size", "8"]) == 0
    assert "sde-score sample 'my run' --out" in capsys.readouterr().err
