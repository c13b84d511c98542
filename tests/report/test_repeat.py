"""Commands on the page make the run and its samples again; sections and runs stand side by side."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shlex
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import sde_score
from sde_score.cli.parsing import parse
from sde_score.evaluation import Interval, RunBits, evaluate
from sde_score.likelihood import BitsPerDim
from sde_score.models import GaussianMixture
from sde_score.report import Section, render, write_report, write_side_by_side
from sde_score.report.curves import training_curve
from sde_score.report.page import insert
from sde_score.report.repeat import evaluate_command, sample_commands, train_command
from sde_score.report.tables import kinds_of_rows
from sde_score.report.trajectory import trajectory_scene
from sde_score.scaling import Scaling
from sde_score.training import TrainConfig, load_run, train

CHANGED = {
    "data": "moons", "sde": "ve(sigma_max=30.0)", "steps": 7, "dequantize": True,
    "objective": "denoising(weighting='edm')", "learning_rate": 2.5e-05, "held_out": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = TrainConfig(
        data="digits", backbone="mlp(width=32, depth=1)", steps=20, batch_size=16, log_every=5
    )
    return train(config, tmp_path_factory.mktemp("repeat") / "run", progress=False)


def words(line):
    return shlex.split(line)[1:]


@pytest.mark.parametrize("name", [None, *CHANGED])
def test_the_command_names_the_whole_configuration(name, tmp_path):
    config = TrainConfig(**({} if name is None else {name: CHANGED[name]}))
    verb = parse(words(train_command(config, tmp_path / "a run")))
    assert verb.config == config
    assert verb.out == tmp_path / "a run"


def test_the_command_of_a_run_is_that_of_its_resolved_configuration(run):
    assert parse(words(train_command(run.config, run.path))).config == run.config


def test_what_no_text_names_is_said():
    config = replace(TrainConfig(), backbone="<MyNetwork>")
    assert train_command(config, "x").startswith("# backbone is an object of its own")


def test_the_command_draws_the_samples_of_the_evaluation_again(run, tmp_path, monkeypatch):
    spec = "ddim(steps=3)"
    found = evaluate(run, [spec], count=12, seed=5, batch_size=5, progress=False)
    verb = parse(
        [*words(sample_commands(run, [spec], 6, found.seed)), "--out", f"{tmp_path}/x.npy"]
    )
    verb.run()
    drawn = run.scaling.to_model(torch.as_tensor(np.load(tmp_path / "x.npy")))
    expected = run.scaling.to_model(run.scaling.from_model(found.rows[0].samples[:6]))
    torch.testing.assert_close(drawn, expected.to(drawn.dtype), rtol=0, atol=1e-4)
    again = parse(words(evaluate_command(run, found)))
    assert (again.samplers, again.num, again.seed, again.report) == ((spec,), 12, 5, True)


def test_conditions_of_fewer_samples_are_the_first_of_more(tmp_path):
    config = TrainConfig(data="digits", backbone="mlp(width=8, depth=1)", steps=1, conditional=True)
    run = train(config, tmp_path / "run", progress=False)
    assert torch.equal(run.draw_labels(500, 3)[:16], run.draw_labels(16, 3))
    assert "condition=run.draw_labels(16, 3)" in sample_commands(run, ["ddim(steps=2)"], 16, 3)


def test_sections_of_others_stay_and_the_last_is_how_to_repeat():
    page = render("t", "l", [Section("A", "old"), Section("Repeat", "r")])
    page = insert(page, Section("Posterior & more", "kept"))
    page = render("t", "l", [Section("A", "new"), Section("B", "b"), Section("Repeat", "r")], page)
    titles = ["A", "Posterior &amp; more", "B", "Repeat"]
    assert re.findall("<h2>(.*?)</h2>", page) == titles
    assert re.findall(r'<a href="#[^"]+">(.*?)</a>', page) == titles
    assert "old" not in re.findall("<p>(.*?)</p>", page)


def test_measurements_put_themselves_on_the_page(run, tmp_path):
    page = run.path / "report.html"
    path = str(run.path)
    parse(["likelihood", path, "--num", "3", "--by", "bound", "--report"]).run()  # no layers
    assert "bound" in page.read_text().split('id="likelihood"')[1]
    parse(["likelihood", path, "--num", "3", "--by", "elbo(layers=3)", "--report"]).run()
    operator, sampler = "mask(box=(2, 2, 4, 4))", "dpmpp-2m(steps=2)"
    given = ["--operator", operator, "--sampler", sampler, "--example", "0", "--num", "4"]
    parse(["posterior", path, *given, "--out", str(tmp_path / "p.png"), "--report"]).run()
    before = page.read_text()
    titles = re.findall("<h2>(.*?)</h2>", before)
    assert titles[-3:] == ["Likelihood", "Posterior by mmps", "Repeat"]
    parts = dict(zip(titles, before.split("<section ")[1:], strict=True))
    assert "elbo(layers=3)" in parts["Likelihood"]
    assert "data:image/png" in parts["Likelihood"]
    assert "misfit" in parts["Posterior by mmps"]
    parse(["report", path]).run()
    assert re.findall("<h2>(.*?)</h2>", page.read_text()) == titles


def test_rows_beyond_the_floor_are_those_above_its_upper_end():
    floors = [Interval(1.0, 0.1), Interval(5.0, 1.0)]  # 0.8 to 1.2 and 3 to 7
    rows = [(1.1, 6.5), (1.3, 5.0), (0.5, 7.5), (0.5, 2.0)]
    found = kinds_of_rows([[Interval(v, 0.3) for v in row] for row in rows], floors)
    assert found == {1: "beyond", 2: "beyond", 4: "floor"}


def test_runs_side_by_side(run, tmp_path):
    """Only what differs is in the table; each evaluation stands beside its own floor, and each
    likelihood and version beside its run."""
    folder = tmp_path / "other"
    shutil.copytree(run.path, folder)
    state, sums = (
        folder / "checkpoints" / "step-20" / name for name in ("state.json", "SHA256SUMS")
    )
    before, old = state.read_bytes(), f'"sde_score": "{sde_score.__version__}"'
    state.write_bytes(before.replace(old.encode(), b'"sde_score": "0.0.9"'))
    digests = [hashlib.sha256(each).hexdigest() for each in (before, state.read_bytes())]
    sums.write_text(sums.read_text().replace(*digests))
    found = evaluate(run, ["ddim(steps=3)"], count=12, progress=False)
    bits = BitsPerDim(torch.tensor([1.0, 2.0, 3.0]), 7)
    write_report(run, found, RunBits("held_out", 3, {"flow": bits}))
    other = load_run(folder)
    (folder / "likelihood.json").write_text('{"rows": [{}]}')  # damaged: as if there were none
    other = replace(other, config=replace(other.config, learning_rate=0.5))
    text = write_side_by_side([run, other], tmp_path / "both.html").read_text()
    choices = text[text.index('id="what-differs"') : text.index('id="training"')]
    rows = re.findall(r"<tr><td data-name=\"choice\">(.*?)</td>", choices)
    assert rows == ["learning_rate", "weights of the network", "steps so far"]
    assert ">0.5</td>" in choices
    measured = text[text.index('id="measured"') : text.index('id="repeat"')]
    assert measured.count("ddim(steps=3)") == 1
    assert measured.count('<tr class="floor">') == 1
    likelihood = text[text.index('id="likelihood"') : text.index('id="repeat"')]
    cells = re.findall(r"<td [^>]*>(.*?)</td>", likelihood)
    assert cells == ["run", "flow", "held_out", "3", "2.0000 ± 0.5774", "7"]
    assert text.count("sde-score train") == 2
    told = re.findall("# trained with sde-score ([^,\n<]*)", text)
    assert told == [sde_score.__version__, "0.0.9"]
    write_report(other)
    assert "trained with sde-score 0.0.9, torch" in (folder / "report.html").read_text()


def test_the_report_of_one_run_has_no_other_place(run, tmp_path):
    with pytest.raises(ValueError, match=r"out=.*x\.html is for several runs"):
        parse(["report", str(run.path), "--out", str(tmp_path / "x.html")]).run()
    with pytest.raises(ValueError, match=r"paths is empty"):
        parse(["report"]).run()
    parse(["report", str(run.path), str(run.path), "--out", str(tmp_path / "x.html")]).run()
    assert f"<h1>sde_score: {run.path}, {run.path}</h1>" in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize("shape", [(2,), (3, 12), (5,)])
def test_the_way_of_what_is_no_image_is_drawn_frame_by_frame(shape):
    """As many frames of one size as states; ink moves from the spread of noise to that of data."""
    model = GaussianMixture(torch.zeros(1, *shape), 0.01, "vp")
    run = SimpleNamespace(
        model=model, event_shape=shape, record=None, scaling=Scaling(),
        draw_labels=lambda count, seed: None,
    )  # fmt: skip
    scene = trajectory_scene(run, "ddim(steps=4)")
    (layer,) = scene.panels[0]["layers"]
    picture = Image.open(io.BytesIO(base64.b64decode(layer["source"].split(",")[1])))
    assert layer["frames"] == len(scene.controls[0]["values"]) == 5
    assert picture.height % 5 == 0
    frames = np.asarray(picture.convert("L")).reshape(5, -1, picture.width) < 128
    heights = [np.flatnonzero(frame[20:-20, 40:-40].any(1)) for frame in frames]
    if shape != (3, 12):  # series fill their panel
        assert np.ptp(heights[0]) > 2 * np.ptp(heights[-1])
    assert scene.controls[0]["values"][0].startswith("t = 1, log SNR")
    assert scene.controls[0]["values"][-1] == "t = 0"


def test_curves_have_plain_axes_and_a_panel_for_the_excess():
    records = [{"step": 10 * i, "loss": 0.1 + 1 / (1 + i), "excess_loss": 0.01 / (1 + i)}
               for i in range(30)]  # fmt: skip
    loss, excess = training_curve(records).axes
    assert loss.get_yscale() == excess.get_yscale() == "log"
    low, high = loss.get_ylim()
    texts = [label.get_text() for label in loss.get_yticklabels()]
    assert len(texts) >= 3
    assert all(low <= float(text) <= high for text in texts)
    smooth = loss.get_lines()[1].get_ydata()
    assert smooth[10] == pytest.approx(0.1 + 1 / 11)  # the median of a falling curve is its middle
    near = training_curve([{"step": 1, "loss": 0.26}, {"step": 2, "loss": 0.25}])
    assert near.axes[0].get_yscale() == "linear"
    below = training_curve([{"step": 1, "loss": -0.5}, {"step": 2, "loss": 0.5}])
    assert below.axes[0].get_yscale() == "linear"
