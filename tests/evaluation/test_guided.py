"""Guided runs are measured like any other, at their own cost and under their own name."""

from __future__ import annotations

import pytest
import torch

from sde_score import evaluation, samplers
from sde_score.evaluation.samples import run_classifier, run_identity, share
from sde_score.guidance import Guided
from sde_score.training import TrainConfig, load_run, train

pytestmark = pytest.mark.filterwarnings("ignore:training showed")

FEW = {"count": 8, "extractor": "pixels", "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on labelled digits, whose answers depend on the label."""
    path = tmp_path_factory.mktemp("runs") / "classes"
    config = TrainConfig(
        data="digits", backbone="mlp(width=8, depth=1)", steps=4, batch_size=8, conditional=True
    )
    run = train(config, path, progress=False)
    for weights in run.model.parameters():
        torch.nn.init.normal_(weights, std=0.15, generator=torch.Generator().manual_seed(0))
    return run


def compare(run, folder, guidance=None, views=("ddim",), nfes=(4, 6), bits=2):
    return evaluation.compare(
        run, views=views, nfes=nfes, folder=folder, guidance=guidance, bits_examples=bits, **FEW
    )


def test_a_comparison_counts_guidance_and_keeps_its_rows_apart(run, tmp_path):
    plain = compare(run, tmp_path)
    assert [row.nfe for row in plain.rows] == [4, 6]
    found = compare(run, tmp_path, "cfg(3)", nfes=(6,))
    assert found.guidance == "cfg(3)"
    (row,) = found.rows
    assert (row.sampler, row.nfe) == ("ddim(steps=3, grid='log_snr')", 6)
    assert found.bits != plain.bits
    before = run.model.nfe
    assert compare(run, tmp_path, "cfg(3)", nfes=(6,)) == found
    assert compare(run, tmp_path) == plain
    assert run.model.nfe == before


def test_everything_that_guides_is_in_the_name_of_a_run(run):
    weaker = "cfg(3, against='raw')"
    texts = [None, "cfg(3)", "cfg(2)", "apg(3)", "cfg(3, negative=1)", "cfg(3, negative=2)"]
    texts += ["cfg(3, interval=(0, 1))", "cfg(3, interval=(0, 2))", weaker]
    guided = [evaluation.guided_run(run, text) for text in texts]
    assert len({run_identity(each) for each in guided}) == len(texts)
    assert run_identity(guided[1]) == run_identity(evaluation.guided_run(run, "cfg( 3 )"))


def test_the_likelihood_of_a_guided_view_is_that_of_the_guided_model(run, tmp_path):
    """A chain has as many layers as the sampler has steps, not as it makes evaluations."""
    found = compare(run, tmp_path, "cfg(3)", nfes=(6,))
    (bound,) = found.bits
    assert "layers=3" in bound
    bits = evaluation.likelihood(
        evaluation.guided_run(run, "cfg(3)"), [bound], num=2, progress=False
    ).by[bound]
    assert found.bits[bound].value.value == pytest.approx(bits.mean)
    plain = evaluation.likelihood(run, [bound], num=2, progress=False).by[bound]
    assert abs(bits.mean - plain.mean) > 0.01


def test_a_benchmark_measures_solvers_of_the_guided_flow(run, tmp_path):
    found = evaluation.benchmark(
        run, ["heun"], nfes=[20, 60], count=4, folder=tmp_path, guidance="cfg(1.5)", progress=False
    )
    assert [row.spec for row in found.rows] == ["heun(steps=5)", "heun(steps=15)"]
    assert [row.nfe for row in found.rows] == [18, 58]
    assert found.target == "classes under cfg(1.5)"
    # to the flow of the guided model, and not to that of the plain one
    assert found.rows[1].rms < 0.3 * found.rows[0].rms


def test_cfg_plus_plus_knows_the_steps_of_each_row(run, tmp_path):
    rows = compare(run, tmp_path, "cfg++(0.6)", bits=0).rows
    sampler = samplers.create(rows[1].sampler)
    guided = Guided(run.model, "cfg++(0.6)", sampler=sampler)
    drawn = samplers.run(
        guided, sampler, run.event_shape, 8, condition=run.draw_labels(8), progress=False
    )
    estimator = evaluation.DistanceEstimator(
        *(part.tensor() for part in run.measured_parts()[:2]), 8,
        ["sliced-wasserstein2(projections=128)"],
    )  # fmt: skip
    samples = run.scaling.to_model(run.scaling.from_model(drawn.samples.float()))
    assert rows[1].distances[0] == estimator(samples)[0]


@pytest.fixture
def quick_judge(monkeypatch):
    """A classifier of a few steps, in memory."""

    def quick(x, labels, classes, path, **_):
        return evaluation.train_classifier(x, labels, classes, steps=5)

    monkeypatch.setattr("sde_score.evaluation.samples.classifier_for", quick)


def test_a_sweep_measures_every_guidance_from_the_same_seeds(run, quick_judge):
    found = evaluation.evaluate(
        run, ["ddim(steps=3)"], count=40, guidance=["cfg(1)", "cfg(4)"], distances=["energy"],
        progress=False,
    )  # fmt: skip
    assert [(row.guidance, row.nfe) for row in found.rows] == [("cfg(1)", 6), ("cfg(4)", 6)]
    (plain,) = evaluation.evaluate(
        run, ["ddim(steps=3)"], count=40, distances=["energy"], progress=False
    ).rows
    assert (plain.guidance, plain.accuracy, plain.nfe) == ("", None, 3)
    torch.testing.assert_close(found.rows[0].samples, plain.samples)
    judge, labels = run_classifier(run), run.draw_labels(40)
    for row in found.rows:
        delivered = run.scaling.to_model(run.scaling.from_model(row.samples))
        right = (judge.logits(delivered).argmax(1) == labels).double().mean()
        assert row.accuracy.value == pytest.approx(float(right))
    assert found.accuracy.value == pytest.approx(judge.accuracy)
    assert found.record()["rows"][1]["guidance"] == "cfg(4)"


def test_a_share_keeps_an_error_where_all_hit():
    """Agresti & Coull: as if two more had hit and two more had missed."""
    assert share(10, 10).value == 1
    assert share(10, 10).standard_error == pytest.approx((12 / 14 * 2 / 14 / 14) ** 0.5)
    assert share(3, 12).value == 0.25


@pytest.mark.parametrize(
    ("guidance", "said"),
    [("cfg++", "take a sampler of given steps"), ("apg(3, momentum=-0.5)", "bits_examples must")],
)
def test_what_depends_on_the_steps_is_refused_where_there_are_none(run, tmp_path, guidance, said):
    before = run.model.nfe
    views = ("ode",) if "steps" in said else ("ddim",)
    with pytest.raises(ValueError, match=said):
        compare(run, tmp_path / "none", guidance, views, bits=2 * ("bits" in said))
    with pytest.raises(ValueError, match="there is no flow to measure solvers against"):
        evaluation.benchmark(run, ["ddim"], guidance=guidance, progress=False)
    assert run.model.nfe == before
    assert not (tmp_path / "none").exists()


def test_a_run_without_dropout_has_nothing_to_go_away_from(run, tmp_path):
    run = load_run(run.path)
    run.model.needs_condition = True
    for measure in (evaluation.compare, evaluation.benchmark):
        with pytest.raises(ValueError, match="train with condition_dropout"):
            measure(run, guidance="cfg(3)", folder=tmp_path / "none")
    with pytest.raises(ValueError, match="train with condition_dropout"):
        evaluation.evaluate(run, ["ddim"], guidance="cfg(3)")
    with pytest.raises(ValueError, match=r"guidance='cfg\(3\)' with target='ring'"):
        evaluation.benchmark("ring", guidance="cfg(3)")
    assert not (tmp_path / "none").exists()
