"""Objects of the user's in a run: trained, resumed to the same bits, and asked for by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sde_score.models import EnergyModel, GaussianMixture, ScoreModel
from sde_score.objectives import DenoisingControl, DenoisingScoreMatching
from sde_score.sdes import SDE, SDES, VE, VP
from sde_score.training import CheckpointError, TrainConfig, load_config, load_run, train


class Net(nn.Module):
    """A network of a user's, with dropout, a buffer and a frozen weight."""

    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Dropout(0.1))
        self.last = nn.Linear(width, 2)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("shift", torch.tensor([0.5, -0.5]))

    def forward(self, x, noise_level, condition=None):
        h = self.body(torch.cat([x - self.shift, noise_level[:, None]], 1))
        return self.frozen * self.last(h)


class Straight(SDE):
    """A diffusion of a user's: alpha = 1 - t, sigma = t."""

    t_min, t_max = 0.01, 0.99

    def alpha(self, t):
        return 1 - torch.as_tensor(t, dtype=torch.float64)

    def sigma(self, t):
        return torch.as_tensor(t, dtype=torch.float64)

    def __eq__(self, other):
        return isinstance(other, Straight)

    __hash__ = None


class Halved(DenoisingScoreMatching):
    """An objective of a user's."""

    def __call__(self, model, x0, condition=None, generator=None):
        return super().__call__(model, x0, condition, generator) / 2


PLAIN = TrainConfig(
    data="ring(n=60)",
    steps=6,
    batch_size=8,
    learning_rate=0.01,
    warmup=2,
    checkpoint_every=3,
    log_every=2,
    device="cpu",
)


def _net(seed=0):
    torch.manual_seed(seed)
    return Net()


def _train(out, steps=6, config=PLAIN, **given):
    return train(replace(config, steps=steps), out, progress=False, **given)


GIVEN = {
    "network": lambda: {"model": _net()},
    "whole model": lambda: {"model": ScoreModel(_net(), VE(sigma_max=9.0), "velocity")},
    "energy": lambda: {"model": EnergyModel(_net(), VP())},
    "objective": lambda: {"objective": Halved()},
    "state": lambda: {"objective": _stateful()},
    "data": lambda: {"data": torch.randn(60, 2, generator=torch.Generator().manual_seed(1)) + 5},
}


def _stateful():
    return DenoisingControl(bins=4)


@pytest.mark.parametrize("name", GIVEN)
def test_a_run_of_objects_resumes_to_the_same_bits_by_the_same_call(tmp_path, tensor_bytes, name):
    whole = _train(tmp_path / "whole", **GIVEN[name]())
    _train(tmp_path / "cut", steps=4, **GIVEN[name]())
    torch.manual_seed(7)
    cut = _train(tmp_path / "cut", **GIVEN[name]())
    assert tensor_bytes(tmp_path / "cut", 6) == tensor_bytes(tmp_path / "whole", 6)
    x = torch.randn(5, 2)
    assert torch.equal(cut.model.score(x, 0.3), whole.model.score(x, 0.3))


def test_objects_are_copied_and_left_as_they_are(tmp_path):
    net, objective = _net(), _stateful()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kept = {name: value.clone() for name, value in objective.state_dict().items()}
    run = _train(tmp_path, model=net, objective=objective)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(torch.equal(kept[name], v) for name, v in objective.state_dict().items())
    trained = run.model.backbone.state_dict()
    assert not torch.equal(trained["last.weight"], before["last.weight"])
    assert torch.equal(trained["frozen"], before["frozen"])


def test_a_network_gets_the_sde_and_prediction_of_the_configuration(tmp_path):
    run = _train(tmp_path, model=_net(), config=_with(sde="ve(sigma_max=9)", prediction="data"))
    assert isinstance(run.model.backbone, Net)
    assert run.model.sde == VE(sigma_max=9.0)
    assert run.model.parametrization.name == "data"
    assert run.model.sigma_data == pytest.approx(run.dataset("train").sigma_data)
    stored = load_config(tmp_path / "config.yaml")
    assert (stored.backbone, stored.sde) == ("<Net>", "ve(sigma_min=0.01, sigma_max=9.0)")


def _with(**changes):
    return replace(PLAIN, **changes)


def test_a_run_asks_for_its_network_by_name_and_checks_the_weights(tmp_path):
    run = _train(tmp_path, model=_net())
    with pytest.raises(ValueError, match=r"trained with backbone <Net>.*load_run\(path, backbone="):
        load_run(tmp_path)
    x = torch.randn(5, 2)
    for opened in (load_run(tmp_path, backbone=_net(3)), load_run(tmp_path, model=_net(3))):
        assert torch.equal(opened.model.score(x, 0.3), run.model.score(x, 0.3))
    with pytest.raises(CheckpointError, match=r"ema\.safetensors.*shape"):
        load_run(tmp_path, backbone=Net(width=9))
    with pytest.raises(ValueError, match=r"backbone <Net>.*train\(..., backbone="):
        _train(tmp_path)
    with pytest.raises(ValueError, match=r"backbone is 'mlp.*was '<Net>'"):
        _train(tmp_path, config=_with(backbone="mlp"))
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*the model needs"):
        _train(tmp_path, steps=8, model=Net(width=9))


def test_a_whole_model_is_trained_as_it_is(tmp_path):
    model = ScoreModel(_net(), VE(sigma_max=9.0), "velocity")
    run = _train(tmp_path, model=model)
    stored = load_config(tmp_path / "config.yaml")
    assert (stored.model, stored.sde) == ("<ScoreModel>", "ve(sigma_min=0.01, sigma_max=9.0)")
    assert run.model.sde == VE(sigma_max=9.0)
    with pytest.raises(ValueError, match="trained with model <ScoreModel>"):
        load_run(tmp_path)
    assert load_run(tmp_path, model=model).step == 6
    assert _train(tmp_path, config=stored, model=model).step == 6


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"sde": "cosine"}, "sde='cosine' is not that of the model"),
        ({"backbone": "mlp"}, "backbone is part of the model"),
        ({"prediction": "data"}, "prediction is part of the model"),
        ({"objective": "contrastive-divergence"}, "needs an energy, and model has none"),
    ],
)
def test_a_whole_model_and_a_configuration_that_disagree_are_refused(tmp_path, given, why):
    with pytest.raises(ValueError, match=why):
        _train(tmp_path, config=_with(**given), model=ScoreModel(_net(), VE(sigma_max=9.0)))
    assert not (tmp_path / "config.yaml").exists()


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(ValueError, match="GaussianMixture> has no parameters to train"):
        _train(tmp_path, model=GaussianMixture([[0.0, 0.0]], 1.0, VP()))
    with pytest.raises(TypeError, match="model=3 must be a network"):
        _train(tmp_path, model=3)
    for name, value in {"sde": VP, "objective": 3, "backbone": 3, "prediction": 3}.items():
        with pytest.raises(TypeError, match=f"{name}="):
            _with(**{name: value})


def test_objects_that_text_names_are_stored_as_that_text(tmp_path):
    config = _with(
        sde=VP(beta_max=12.0),
        objective=DenoisingScoreMatching(weighting="likelihood"),
        backbone="mlp(width=8, depth=1)",
    )
    _train(tmp_path, config=config)
    stored = load_config(tmp_path / "config.yaml")
    assert stored.sde == "vp(beta_min=0.1, beta_max=12.0)"
    assert stored.objective.startswith("denoising(weighting='likelihood'")
    assert load_run(tmp_path).model.sde == VP(beta_max=12.0)
    same = _with(sde="vp(beta_max=12)", objective=stored.objective, backbone=stored.backbone)
    assert _train(tmp_path, steps=7, config=same).step == 7


def test_an_sde_that_no_text_names_is_asked_for(tmp_path):
    config = _with(sde=Straight(), backbone="mlp(width=8, depth=1)")
    _train(tmp_path, config=config)
    assert load_config(tmp_path / "config.yaml").sde == "<Straight>"
    with pytest.raises(ValueError, match=r"sde <Straight>.*load_run\(path, sde="):
        load_run(tmp_path)
    assert load_run(tmp_path, sde=Straight()).model.sde == Straight()
    assert _train(tmp_path, steps=7, config=config).step == 7


def test_an_objective_of_the_users_is_needed_to_go_on_but_not_to_open(tmp_path):
    small = _with(backbone="mlp(width=8, depth=1)")
    _train(tmp_path, config=small, objective=Halved())
    assert load_run(tmp_path).all_noise_levels
    with pytest.raises(ValueError, match=r"objective is .denoising.*was '<Halved>'"):
        _train(tmp_path, config=small)
    with pytest.raises(ValueError, match=r"objective <Halved>.*train\(..., objective="):
        _train(tmp_path, config=load_config(tmp_path / "config.yaml"))


def test_a_registered_sde_is_stored_by_its_name(tmp_path, register_for_test):
    register_for_test(SDES, "straight", Straight)
    _train(tmp_path, config=_with(sde="straight", backbone="mlp(width=8, depth=1)"))
    assert load_config(tmp_path / "config.yaml").sde == "straight"
    assert load_run(tmp_path).model.sde == Straight()


def test_each_line_of_the_metrics_is_handed_on(tmp_path, measured):
    seen = []
    _train(
        tmp_path,
        config=_with(backbone="mlp(width=8, depth=1)"),
        on_metrics=lambda step, line: seen.append((step, line["loss"])),
    )
    assert seen == [(line["step"], line["loss"]) for line in measured(tmp_path)]
    assert [step for step, _ in seen] == [2, 4, 6]


def test_no_configuration_imports_or_runs_anything(tmp_path, monkeypatch):
    """A note in a hostile file is text, whatever stands in the brackets."""
    _train(tmp_path, config=_with(backbone="mlp(width=8, depth=1)"))
    text = (tmp_path / "config.yaml").read_text()
    monkeypatch.setattr("builtins.__import__", _no_import(__import__))
    for note in ("<os.system('false')>", "evil_module.Net", "mlp(width=__import__('os'))"):
        lines = [ln for ln in text.splitlines() if not ln.startswith("backbone:")]
        (tmp_path / "config.yaml").write_text("\n".join([*lines, f'backbone: "{note}"']))
        with pytest.raises(ValueError, match=r"backbone|cannot read|unknown"):
            load_run(tmp_path)


def _no_import(original):
    def guarded(name, *args, **kwargs):
        assert name not in ("evil_module", "os.system"), name
        return original(name, *args, **kwargs)

    return guarded
