"""`sde-score distill`: its run is one that the other commands take."""

from sde_score.cli import main
from sde_score.training import load_run


def test_a_run_becomes_a_flow_map_that_sample_and_evaluate_take(
    run_path, record, refusal, tmp_path
):
    words = ["distill", str(run_path), "--steps", "2", "--no-progress"]
    out = str(tmp_path / "few")
    changed = ["--change", "batch-size=8", "learning_rate=3e-4"]
    found = record(*words, "--out", out, *changed)
    assert found["step"] == 2
    assert found["teacher"] == str(run_path / "checkpoints" / "step-12")
    run = load_run(out)
    assert (run.config.batch_size, run.config.learning_rate) == (8, 3e-4)
    assert run.config.backbone == load_run(run_path).config.backbone
    drawn = record("sample", out, "--num", "2", "--out", str(tmp_path / "s.npz"))
    assert (drawn["sampler"], drawn["nfe"]) == ("flow-map(steps=2, renoise=True)", 2)
    rows = record("evaluate", out, "--num", "4", "--distances", "energy")
    assert "flow-map(steps=2, renoise=True)" in str(rows)
    said = refusal(*words, "--out", out)
    assert "learning_rate is 0.001, was 0.0003" in said
    assert "'x' must be name=value" in refusal(*words, "--change", "x")


def test_without_out_it_lies_beside_its_teacher(run_path, capsys):
    words = ["--objective", "reflow(steps=1)", "--steps", "1", "--no-progress"]
    assert main(["distill", str(run_path), *words]) == 0
    said = capsys.readouterr().err
    few = f"{run_path}-reflow"
    assert f"next: sde-score sample {few} --out samples.png" in said
    for sampler, warned in (("ancestral(steps=2)", True), ("ddim(steps=2)", False)):
        drawn = ["--num", "1", "--sampler", sampler, "--out", f"{few}/s.npz", "--no-progress"]
        assert main(["sample", few, *drawn]) == 0
        assert ("whose velocity is no score" in capsys.readouterr().err) == warned
