"""Runs of flow maps are compared and benchmarked by their own steps beside all other samplers."""

import pytest

from sde_score import evaluation, report
from sde_score.training import TrainConfig, load_run, train

OWN = ["flow-map(steps=1)", "flow-map(steps=2, renoise=True)", "flow-map(steps=4, renoise=True)"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "map"
    data, backbone = "target(name='gaussian', n=60)", "mlp(width=8, depth=1)"
    config = TrainConfig(data=data, backbone=backbone, objective="ect", steps=2, batch_size=8)
    train(config, path, progress=False)
    return load_run(path)


def test_a_comparison_has_the_views_of_the_diagonal_and_the_steps_of_the_map(run):
    found = evaluation.compare(run, nfes=(4,), count=8, bits_examples=0, progress=False)
    own = [row for row in found.rows if row.view not in evaluation.VIEWS]
    assert [(row.sampler, row.nfe) for row in own] == list(zip(OWN, (1, 2, 4), strict=True))
    assert {row.view for row in found.rows} == {*evaluation.VIEWS, *OWN}
    families = [row[0] for row in report.comparison_table(found).rows]
    assert families[-4:] == ["flow map"] * 3 + ["noise floor"]


def test_a_benchmark_measures_a_map_against_the_flow_of_its_diagonal(run, monkeypatch):
    monkeypatch.setattr("sde_score.evaluation.benchmarks.run.available", lambda: ["ddim"])
    rows = evaluation.benchmark(run, nfes=(2,), count=8, progress=False).rows
    assert [(row.spec, row.nfe) for row in rows] == [
        ("ddim(steps=2)", 2), *zip(OWN, (1, 2, 4), strict=True)
    ]  # fmt: skip
    assert [row.rms is None for row in rows] == [False, False, True, True]  # of what draws no noise
    assert rows[1].rms > 0
