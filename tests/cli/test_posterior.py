"""`sde-score posterior`: operators, observations and truths, pictures with holes, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sde_score.training import load_run

FEW = ["--sampler", "dpmpp-2m(steps=4)", "--num", "3", "--no-progress"]
BOX = ["--operator", "mask(box=(2, 2, 4, 4))"]


def test_an_example_is_measured_and_measured_against(run_path, tmp_path, record):
    out = tmp_path / "drawn.npz"
    found = record("posterior", str(run_path), *BOX, "--example", "1", "--out", str(out), *FEW)
    assert found["method"] == "mmps"
    assert found["limit"].startswith("biased")
    assert found["nfe"] == 4
    assert {c["interval"] for c in found["coverage"]} == {0.5}  # of three samples
    assert found["psnr"] > 0
    with np.load(out) as file:
        assert file["samples"].shape == (3, 1, 8, 8)
    picture = tmp_path / "seen.png"
    few = ["--method", "twisted", "--sampler", "smc(steps=3, particles=4, islands=2)", *FEW[2:]]
    found = record("posterior", str(run_path), *BOX, "--example", "1", "--out", str(picture), *few)
    assert found["standard_error"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_files_are_what_the_example_would_be(run_path, tmp_path, record):
    """The same measurement by the example's number, or by files of y and of the truth."""
    run = load_run(run_path)
    raw = run.dataset("held_out")[2].double()
    hole = torch.ones(1, 8, 8, dtype=torch.bool)
    hole[:, 2:6, 2:6] = False
    np.save(tmp_path / "y.npy", raw[hole].numpy())
    np.save(tmp_path / "x.npy", raw.numpy())
    words = [*BOX, "--std", "0.5", "--out", str(tmp_path / "a.npy"), *FEW]
    given = ["--observation", str(tmp_path / "y.npy"), "--truth", str(tmp_path / "x.npy")]
    by_files = record("posterior", str(run_path), *given, *words)
    by_number = record("posterior", str(run_path), "--example", "2", *words)
    assert by_files["psnr"] == pytest.approx(by_number["psnr"], abs=3)
    assert by_files["psnr"] != by_number["psnr"]  # y has another draw of noise


def test_a_picture_with_a_hole_is_filled(run_path, tmp_path, record):
    image = pytest.importorskip("PIL.Image")
    pixels = np.full((8, 8), 8, dtype=np.uint8)
    opaque = np.full((8, 8), 255, dtype=np.uint8)
    opaque[:4] = 0
    image.fromarray(np.stack([pixels, opaque], -1), "LA").save(tmp_path / "hole.png")
    words = ["--observation", str(tmp_path / "hole.png"), "--out", str(tmp_path / "x.npy"), *FEW]
    record("posterior", str(run_path), *words, "--std", "0.01")
    filled = np.load(tmp_path / "x.npy")
    assert (abs(filled[:, 0, 4:].astype(float) - 8) <= 2).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*BOX], "give one of --observation"),
        (["--example", "0"], "operator is missing"),
        ([*BOX, "--example", "100000"], "the held-out examples"),
        ([*BOX, "--example", "0", "--out", "x.jpg"], "ends with .jpg"),
        ([*BOX, "--example", "0", "--method", "mmsp"], "unknown method"),
        ([*BOX, "--example", "0", "--num", "1"], "num=1"),
        ([*BOX, "--example", "0", "--label", "3"], "label=3"),
        ([*BOX, "--observation", "absent.npy"], "absent.npy"),
        (["--operator", "mask(box=(6, 6, 4, 4))", "--example", "0"], "does not lie in"),
    ],
)
def test_mistakes_are_refused_in_a_line(run_path, words, said, refusal):
    assert said in refusal("posterior", str(run_path), "--no-progress", *words)
