"""Data files of measurements: read without options, with all that they were measured with."""

import platform

import pytest
import torch

results = pytest.importorskip("results")


def test_a_file_is_read_by_pandas_with_figures_and_provenance(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [
        {"sampler": "a, [b]", "nfe": 5, "rms": 2e-20 / 3, "seed": 2},
        {"sampler": "c", "nfe": 10, "rms": float("inf"), "note": 'say "x"'},
    ]
    path = tmp_path / "new" / "mine.csv"
    results.write(path, rows, peers=["numpy", "not-installed"], commit="abc")
    frame = pandas.read_csv(path)
    assert list(frame) == ["sampler", "nfe", "rms", "note", *results.PROVENANCE]
    assert frame["rms"][0] == 6.66667e-21
    assert frame["rms"].isna().tolist() == [False, True]
    assert frame["seed"].tolist() == [2, 0]
    assert set(frame["torch"]) == {torch.__version__}
    assert set(frame["python"]) == {platform.python_version()}
    assert set(frame["commit"]) == {"abc"}
    assert frame["peers"].str.fullmatch(r"numpy [\d.]+").all()
    assert platform.node() not in path.read_text(encoding="utf-8")
    first, second = results.read(path)
    assert (first["sampler"], first["nfe"], first["rms"]) == ("a, [b]", 5, 6.66667e-21)
    assert (second["rms"], second["note"], second["commit"]) == (None, 'say "x"', "abc")
    assert isinstance(first["cores"], int)


def test_a_commit_says_whether_what_measures_differs_from_it(tmp_path, monkeypatch):
    import subprocess

    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e", *words],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip

    here = tmp_path / "benchmarks"
    (here / "results").mkdir(parents=True)
    (here / "a.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "m")
    monkeypatch.setattr(results, "HERE", here)
    (here / "results" / "a.csv").write_text("2")  # what is measured is no change
    (tmp_path / "notes").write_text("2")
    clean = results.provenance()["commit"]
    assert len(clean) == 16
    (here / "a.py").write_text("2")
    assert results.provenance()["commit"] == clean + "+"


def test_without_rows_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"rows of a\.csv are none"):
        results.write(tmp_path / "a.csv", [])
    assert not list(tmp_path.iterdir())


def test_a_journal_keeps_what_has_no_figure(tmp_path):
    path, calls = tmp_path / "deep" / "x.csv", []

    def measure():
        calls.append(1)
        return [{"rms": float("nan")}]

    for _ in range(2):
        assert results.Journal.beside(path).kept(("a", 1), measure) == [{"rms": None}]
    assert calls == [1]
    assert [each.name for each in path.parent.iterdir()] == ["x.jsonl"]
