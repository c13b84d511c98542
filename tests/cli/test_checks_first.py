"""Every wrong argument of every verb is refused before the model is asked for anything."""

from __future__ import annotations

import numpy as np
import pytest

from sde_score.cli import main

RUN = ["run"]
COMMON = [["--batch-size", "0"], ["--weights", "mine"], ["--device", "tpu"], ["--data", "gone.csv"]]
OUT = [["--out", "own.txt"], ["--out", "file/x.csv"], ["--out", "\0"]]
OTHER = [["--data", "wide.csv"], ["--data", "moons(n=3, seed='x')"]]
GUIDED = [["--guidance", "cfg(3)"], ["--guidance", "cgf(3)"], ["--guidance", "cfg(3"]]

WRONG = {
    "sample": [
        *COMMON, *OUT, *GUIDED, ["--num", "0"], ["--sampler", "hean"], ["--steps", "0"],
        ["--nfe", "0"], ["--grid", "karass"], ["--label", "3"], ["--condition", "gone.npy"],
        ["--shard-size", "0"], ["--shard-size", "5", "--out", "file"], ["--data", "other.csv"],
        ["--num", "9" * 12], ["--sampler", "heun(churn=-1)"], ["--sampler", "tuned"],
    ],
    "likelihood": [
        *COMMON, *OUT, *OTHER, ["--num", "0"], ["--by", "flaw"], ["--by", "flow(rtol=0)"],
        ["--by"], ["--picture", "p.jpg", "--by", "elbo"], ["--picture", "p.png"],
        ["--label", "none"], ["--chains", "8"], ["--part", "test"], ["--out", "scores.png"],
        ["--data", "other.csv", "--part", "train"],
    ],
    "evaluate": [
        *COMMON, *OUT, *OTHER, *GUIDED, ["--num", "3"], ["--samplers", "hean"],
        ["--distances", "fid"], ["--distances"], ["--distances", "frechet(extractor='inception')"],
        ["--distances", "frechet(extractor='vgg')"], ["--out", "x.png"],
        ["--distances", "frechet(extractor=\"safetensors(path='gone')\")"],
        ["--distances", "frechet(extractor='random-convolution')"],
        ["--distances", "precision", "--num", "8"], ["--distances", "energy", "kernel(k=1)"],
    ],
    "compare": [
        *COMMON, *OTHER, *GUIDED, ["--num", "3"], ["--views", "vae"], ["--views"], ["--nfe", "0"],
        ["--nfe"], ["--extractor", "vgg"], ["--extractor", "inception"], ["--bits-examples", "1"],
        ["--bits-examples", "-1"], ["--out", "own.csv"], ["--extractor", "random-convolution"],
    ],
    "benchmark": [
        *COMMON, *OTHER, *GUIDED, ["--num", "3"], ["--samplers", "hean"], ["--samplers"],
        ["--grids", "karass"], ["--nfe", "0"], ["--nfe"], ["--seeds"], ["--out", "own.csv"],
        ["--target", "ring"],
    ],
    "posterior": [
        *COMMON, *OUT, *OTHER, ["--num", "1"], ["--operator", "mosk"], ["--method", "dpz"],
        ["--sampler", "hean"], ["--example", "999"], ["--std", "-1"], ["--label", "3"],
        ["--truth", "gone.npy"], ["--observation", "gone.npy"],
    ],
    "tune": [
        *COMMON, *OUT, ["--nfe", "0"], ["--num", "3"], ["--candidates", "hean"],
        ["--candidates", "ancestral"], ["--iterations", "0"], ["--seconds", "0"],
        ["--data", "other.csv"], ["--num", "9" * 12],
    ],
    "optimise-grid": [
        *COMMON, *OUT, ["--num", "0"], ["--data", "other.csv"], ["--sampler", "hean"],
        ["--sampler", "pc"],
    ],
}  # fmt: skip
USUAL = {
    "posterior": ["--operator", "mask(share=0.5)", "--example", "0"],
    "benchmark": ["--samplers", "ddim"],  # in place of all, whose evaluations are counted first
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of a table, and files beside it."""
    folder = tmp_path_factory.mktemp("checks")
    rows = np.random.default_rng(0).normal(size=(60, 3))
    for name, columns in (
        ("own.csv", rows[:, :2]),
        ("other.csv", rows[9:, 1:]),
        ("wide.csv", rows),
    ):
        header = "a,b" if columns.shape[1] == 2 else "a,b,c"
        np.savetxt(folder / name, columns, "%.5f", ",", header=header, comments="")
    (folder / "file").write_text("")
    words = [
        "train",
        "--data",
        str(folder / "own.csv"),
        "--out",
        str(folder / "run"),
        "--steps",
        "1",
    ]
    words += ["--batch-size", "8", "--backbone", "mlp(width=4, depth=1)", "--held-out", "0.3"]
    assert main([*words, "--no-progress"]) == 0
    return folder


@pytest.mark.parametrize("verb", WRONG)
def test_no_model_is_asked_before_a_mistake_is_found(place, verb, monkeypatch, capsys):
    def asked(*_):
        raise AssertionError("computed before it was checked")

    monkeypatch.chdir(place)
    monkeypatch.setattr("sde_score.nn.backbones.mlp.MLP.forward", asked)
    monkeypatch.setattr("sde_score.evaluation.features.classifier.train_classifier", asked)
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    given = ["--model", "run"] if verb == "benchmark" else RUN
    for words in WRONG[verb]:
        usual = USUAL.get(verb, [])
        usual = [] if words[0] in ("--operator", "--example", "--observation") else usual
        if words[0] == "--operator":
            usual = ["--example", "0"]
        try:
            status = main([verb, *given, *usual, *words])
        except SystemExit as stop:  # of the parser
            status = stop.code
        except AssertionError as error:
            raise AssertionError(f"{verb} {words}: {error}") from error
        said = capsys.readouterr().err
        assert status == 2, (words, said)
        assert "Traceback" not in said, words
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before
