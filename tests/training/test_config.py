"""The configuration: one object that is file and flags, and refuses what it does not know."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest
import torch
import tyro

from sde_score import data
from sde_score.scaling import Scaling
from sde_score.sdes import SDES, VP
from sde_score.training import FREE, CheckpointError, TrainConfig, load_config, resolve, save_config
from sde_score.training.build import build_model, complete_spec
from sde_score.training.config import adopt, require_same

OTHER = {
    "data": "ring",
    "sde": "ve(sigma_max=30.0)",
    "backbone": "mlp(width=32)",
    "model": "energy",
    "head": "inner",
    "prediction": "velocity",
    "objective": "denoising(weighting='likelihood')",
    "coupling": "ot",
    "augmentation": "flip",
    "steps": 7,
    "batch_size": 12,
    "accumulate": 4,
    "optimizer": "adam(decay='coupled')",
    "learning_rate": 1e-5,
    "schedule": "cosine(steps=9)",
    "warmup": 0,
    "clip": 0.0,
    "ema": 0.5,
    "weight_decay": 0.1,
    "precision": "bf16",
    "compile": True,
    "shard": True,
    "conditional": True,
    "condition_columns": "a,b",
    "condition_dropout": 0.25,
    "sigma_data": 0.1 + 0.2,
    "dequantize": True,
    "held_out": 0.0,
    "workers": 3,
    "on_bad_example": "skip",
    "seed": -5,
    "device": "cpu",
    "checkpoint_every": 3,
    "snapshot_every": 2,
    "keep": 9,
    "sample_every": 4,
    "log_every": 1,
    "excess": True,
    "init_from": "/runs/earlier",
    "teacher": "/runs/earlier/checkpoints/step-3",
}


def test_every_field_survives_the_file_to_the_last_bit(tmp_path):
    assert set(OTHER) == {f.name for f in fields(TrainConfig)}
    config = TrainConfig(**OTHER)
    assert all(getattr(config, k) != getattr(TrainConfig(), k) for k in OTHER)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_every_field_is_a_flag_with_its_help(capsys):
    config = tyro.cli(TrainConfig, args=["--steps", "7", "--sde", "ve", "--sigma-data", "0.5"])
    assert config == replace(TrainConfig(), steps=7, sde="ve", sigma_data=0.5)
    with pytest.raises(SystemExit):
        tyro.cli(TrainConfig, args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "Forward diffusion, such as vp" in shown
    assert "Steps between lines of metrics.jsonl, at least 1." in shown


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("steps", 0, ValueError),
        ("steps", 2.0, TypeError),
        ("steps", True, TypeError),
        ("batch_size", -1, ValueError),
        ("accumulate", 3, ValueError),
        ("learning_rate", 0, ValueError),
        ("learning_rate", float("nan"), ValueError),
        ("learning_rate", "1e-3", TypeError),
        ("clip", -1.0, ValueError),
        ("ema", 1.0, ValueError),
        ("held_out", 1.0, ValueError),
        ("weight_decay", float("inf"), ValueError),
        ("sigma_data", 0.0, ValueError),
        ("precision", "fp8", ValueError),
        ("prediction", ["noise"], TypeError),
        ("prediction", "eps", ValueError),
        ("model", "potential", ValueError),
        ("head", "linear", ValueError),
        ("data", None, TypeError),
        ("compile", 1, TypeError),
        ("warmup", -1, ValueError),
        ("keep", 0, ValueError),
        ("seed", None, TypeError),
        ("precision", None, TypeError),
        ("dequantize", None, TypeError),
    ],
)
def test_wrong_values_are_refused_by_name(field, value, error):
    with pytest.raises(error, match=field):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("steps: 5\nstepz: 6\n", "stepz"),
        ("- steps\n", "mapping"),
        ("5: 6\n", "mapping"),
        ("", "mapping"),
        ("steps: [", "config.yaml"),
        ("learning_rate: 1e-3\n", "1.0e-3"),
        ("steps: 0\n", "steps=0"),
        ("data: !!python/object/apply:os.system ['false']\n", "config.yaml"),
        ("data: &a [x]\nsde: [*a, *a]\n", "data="),
        ("data: " + "[" * 1000, "config.yaml"),
        ("# " + "x" * (1 << 20), "larger"),
        ("data: \0\n", "config.yaml"),
    ],
)
def test_a_damaged_or_hostile_file_is_refused_by_its_name(tmp_path, text, why):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml") as caught:
        load_config(path)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_undecodable_and_missing_files_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "config.yaml", tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            load_config(path)


def test_specs_are_written_out_in_full():
    assert complete_spec(SDES, "vp(beta_max=12)") == "vp(beta_min=0.1, beta_max=12.0)"
    with pytest.raises(ValueError, match="beta_mux"):
        complete_spec(SDES, "vp(beta_mux=12)")


def test_a_default_that_no_text_can_hold_is_left_out(register_for_test):
    def mine(width: int = 3, inner: VP = VP(), bound: float = float("inf")) -> VP:  # noqa: B008
        return inner

    register_for_test(SDES, "mine", mine)
    assert complete_spec(SDES, "mine") == "mine(width=3)"


def test_resolving_measures_the_data_leaves_nothing_open_and_is_idempotent():
    digits = data.load("digits")
    config = resolve(TrainConfig(), digits)
    assert config.sigma_data == pytest.approx(digits.tensor().square().mean().sqrt())
    assert config.backbone.startswith("unet(")
    assert "dropout=0.0" in config.backbone
    assert "event_shape" not in config.backbone
    assert resolve(config, digits) == config
    with pytest.raises(ValueError, match="labels"):
        resolve(TrainConfig(conditional=True), data.load("ring(n=10)"))


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("middle", [0, 100, 250])
def test_the_input_of_a_network_has_unit_size_at_every_time(sde, middle):
    """Also of images that differ by a few levels from a mean image far from gray."""
    generator = torch.Generator().manual_seed(0)
    levels = middle + torch.randint(0, 5, (2048, 1, 4, 4), generator=generator)
    images = data.from_tensor(levels.to(torch.uint8), scaling=Scaling.discrete(256))
    config = resolve(TrainConfig(sde=sde, backbone="mlp(width=4, depth=1)"), images)
    model = build_model(config, images.event_shape)
    x0, seen = images.tensor().double(), []
    model.backbone.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].square().mean().sqrt().item())
    )
    ends = model.sde.t_min, model.sde.t_max
    for t in torch.linspace(*ends, 9, dtype=torch.float64):
        noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        model.noise(model.sde.perturb(x0, t, noise), t)
    assert seen == pytest.approx([1.0] * 9, rel=0.02)


@pytest.mark.parametrize("size", [(16,), (8, 9), (4, 4, 5)])
@pytest.mark.parametrize("network", ["unet(base=2, multipliers=(1, 1))", "lucidrains-unet(base=4)"])
def test_weights_of_every_rank_lie_channels_last_in_memory(size, network):
    """Also where a network for volumes has others of four dimensions."""
    examples = data.from_tensor(torch.randn(8, 3, *size))
    model = build_model(resolve(TrainConfig(backbone=network), examples), examples.event_shape)
    wide = [weight for weight in model.parameters() if weight.ndim > 3]
    assert len(wide) > 0 or (len(size) == 1 and "lucid" in network)
    assert all(weight.movedim(1, -1).is_contiguous() for weight in wide)


def test_continuing_adopts_what_is_open_and_refuses_what_differs(tmp_path):
    stored = replace(TrainConfig(**OTHER), backbone="mlp(width=32)", sigma_data=0.25)
    open_again = replace(stored, backbone="auto", sigma_data=None, model="auto", prediction="auto")
    open_again = replace(open_again, init_from=None)
    assert adopt(open_again, stored) == stored
    for name in OTHER:
        changes = {name: asdict(TrainConfig())[name]}
        if name == "batch_size":
            changes["accumulate"] = 1
        if name == "conditional":  # which columns imply
            changes["condition_columns"] = None
        other = replace(stored, **changes)
        if name in (*FREE, "data"):  # data are compared by their content
            require_same(other, stored, tmp_path)
        else:
            with pytest.raises(ValueError, match=rf"configuration: {name} is"):
                require_same(other, stored, tmp_path)


def test_a_run_of_the_first_version_still_holds_a_score(tmp_path):
    save_config(TrainConfig(sigma_data=1.0), tmp_path / "config.yaml")
    lines = (tmp_path / "config.yaml").read_text().splitlines(keepends=True)
    old = [line for line in lines if not line.startswith(("model:", "head:"))]
    assert len(old) == len(lines) - 2
    (tmp_path / "config.yaml").write_text("".join(old))
    assert load_config(tmp_path / "config.yaml").model == "score"


def test_the_model_and_its_output_follow_from_the_objective():
    """Without noise the output is a field of unit variance; what needs an energy gets one."""
    ring = data.load("ring(n=10)")

    def settled(**given):
        config = resolve(TrainConfig(data="ring(n=10)", **given), ring)
        return config.model, config.prediction

    assert settled() == ("score", "edm")
    assert settled(objective="hutchinson") == ("score", "scaled_score")
    assert settled(objective="hutchinson(time_sampler='uniform')") == ("score", "edm")
    assert settled(objective="hutchinson", model="energy", prediction="edm") == ("energy", "edm")
    assert settled(objective="contrastive-divergence") == ("energy", "scaled_score")
    with pytest.raises(ValueError, match="needs an energy: choose model=energy"):
        settled(objective="contrastive-divergence", model="score")


def test_one_example_can_be_trained_on_and_messages_say_how(run_to, tmp_path):
    one = data.from_tensor(torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8))
    given = {"data": one, "backbone": "mlp(width=4, depth=1)", "conditional": False, "steps": 1}
    with pytest.raises(ValueError, match=r"one example cannot be split: .*held_out=0"):
        run_to(tmp_path, **given)
    assert run_to(tmp_path / "one", **given, held_out=0.0).step == 1
    middle = data.from_tensor(torch.ones(4, 1, 8, 8), scaling=Scaling.discrete(3))
    given["data"] = middle
    with pytest.raises(ValueError, match=r"examples are 0 in .*set it, as with sigma_data=0\.5"):
        run_to(tmp_path, **given, held_out=0.0)
    assert run_to(tmp_path, **given, held_out=0.0, sigma_data=0.5).step == 1
