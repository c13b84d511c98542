"""Folders in the hub's layout: written, read, pushed, and what training starts from."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sde_score import interop, load_run
from sde_score.cli import main
from sde_score.data import DataError
from sde_score.interop.convert import save_run
from sde_score.interop.imported import Imported
from sde_score.models import EnergyModel, ScoreModel
from sde_score.nn import create
from sde_score.scaling import Scaling
from sde_score.sdes import VE, VP, chain
from sde_score.training import TrainConfig, distill, train
from sde_score.training.errors import CheckpointError

SPEC = "ddpmpp(base=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)"


def network(spec=SPEC, shape=(1, 8, 8), classes=0):
    torch.manual_seed(0)
    net = create(spec, shape, classes)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return net


@pytest.fixture
def imported():
    """A small network of other code."""
    return Imported(
        "mine", SPEC, (1, 8, 8), VP(), "score-sde-vp", network().state_dict(), notes=("odd",)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps, with labels."""
    config = TrainConfig(
        data="gaussians(n=50)", backbone="mlp(width=8, depth=1)", steps=4, batch_size=8,
        conditional=True, condition_dropout=0.0, device="cpu", log_every=2,
    )  # fmt: skip
    return train(config, tmp_path_factory.mktemp("run") / "run", progress=False)


def scores(model, shape, condition=None):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.score(x, model.sde.t_max / 2, condition)


def test_an_imported_network_comes_back_whole(imported, tmp_path):
    folder = interop.save_pretrained(imported, tmp_path / "a" / "net")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    for found in (interop.from_pretrained(folder), interop.load(folder)):
        assert found.state.keys() == imported.state.keys()
        assert all(torch.equal(found.state[k], imported.state[k]) for k in found.state)
        alike = replace(found, state={}, notes=(), facts={})
        assert alike == replace(imported, state={}, notes=(), facts={})
        assert torch.equal(scores(found.model(), (1, 8, 8)), scores(imported.model(), (1, 8, 8)))
    interop.save_pretrained(imported, folder)  # replaces


@pytest.mark.parametrize("sde", [VP(beta_max=12.0), VE(sigma_max=7.0), chain("cosine", 20)])
@pytest.mark.parametrize("prediction", ["ddpm(n=20, output='v')", "edm", "score-sde-ve-discrete"])
def test_the_diffusion_and_the_parametrization_come_back(sde, prediction, imported, tmp_path):
    scaling = Scaling(0.5, 2.0, 7)
    changed = replace(imported, sde=sde, prediction=prediction, sigma_data=0.3, scaling=scaling)
    found = interop.from_pretrained(interop.save_pretrained(changed, tmp_path / "n"))
    assert found.sde == sde
    assert found.scaling == scaling
    assert str(found.model().parametrization) == str(changed.model().parametrization)


def test_a_flow_map_comes_back_as_one_and_knows_how_it_is_sampled(run, tmp_path):
    few = distill(run, tmp_path / "few", steps=1, learning_rate=0.1, warmup=0, progress=False)
    folder = interop.save_pretrained(few, tmp_path / "published")
    found = interop.from_pretrained(folder)
    x, label = (
        torch.randn(3, 2, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 1, 2]),
    )
    with torch.no_grad():
        there = [model.eval()(x, 0.9, 0.2, label) for model in (few.model, found.model())]
    assert torch.equal(*there)
    again = load_run(save_run(found, tmp_path / "again"))
    assert again.sampler == few.sampler == "flow-map(steps=2, renoise=True)"
    in_memory = interop.save_pretrained(
        few.model, tmp_path / "m", backbone="mlp(width=8, depth=1)", event_shape=(2,), num_classes=8
    )
    assert interop.from_pretrained(in_memory).flow_map == "mean-flow"
    assert main(["inspect", str(folder), "--parts"]) == 0
    assert "flow-map(steps=1)" in (folder / "README.md").read_text()
    changed = json.loads((folder / "config.json").read_text()) | {"flow_map": "no such thing"}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=r"config\.json cannot be used.*no such thing"):
        interop.from_pretrained(folder)


def test_a_run_comes_back_with_its_labels_and_its_record(run, tmp_path):
    folder = interop.save_pretrained(run, tmp_path / "gaussians")
    found = interop.load(folder)
    labels = torch.tensor([0, 1, 2])
    assert torch.equal(scores(found.model(), (2,), labels), scores(run.model, (2,), labels))
    assert (found.scaling, found.num_classes, found.needs_condition) == (run.scaling, 8, True)
    with pytest.raises(ValueError, match="condition is missing"):
        scores(found.model(), (2,))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sde_score\n")
    for said in ("# gaussians", "mlp(width=8", "| objective | denoising", "| step | 4 |", "| loss"):
        assert said in card
    raw = interop.load(interop.save_pretrained(load_run(run.path, "raw"), tmp_path / "raw"))
    assert not torch.equal(raw.model().score(torch.ones(1, 2), 0.5, labels[:1]),
                           found.model().score(torch.ones(1, 2), 0.5, labels[:1]))  # fmt: skip
    by_path = interop.load(interop.save_pretrained(run.path, tmp_path / "path"))
    assert all(torch.equal(by_path.state[k], found.state[k]) for k in found.state)


@pytest.mark.parametrize("everywhere", [True, False])
def test_models_in_memory_and_energies(everywhere, tmp_path):
    model = EnergyModel(network("mlp(width=8)", (2,)), VP(), "inner", "noise", 0.7).eval()
    given = {"backbone": "mlp(width=8)", "event_shape": (2,), "scaling": Scaling(1.0, 3.0)}
    found = interop.load(interop.save_pretrained(model, tmp_path / "energy", **given))
    assert isinstance(found.model(), EnergyModel)
    assert torch.equal(
        found.model().score(torch.ones(2, 2), 0.5), model.score(torch.ones(2, 2), 0.5)
    )
    changed = replace(found, all_noise_levels=everywhere)
    opened = load_run(save_run(changed, tmp_path / "run"))
    assert opened.model.head == "inner"
    assert opened.all_noise_levels is everywhere
    again = interop.load(interop.save_pretrained(opened, tmp_path / "again"))
    assert again.all_noise_levels is everywhere
    with pytest.raises(ValueError, match="give backbone="):
        interop.save_pretrained(model, tmp_path / "b")
    with pytest.raises(CheckpointError, match="has shape"):
        interop.save_pretrained(model, tmp_path / "b", **given | {"backbone": "mlp(width=9)"})
    with pytest.raises(ValueError, match="only a model in memory"):
        interop.save_pretrained(opened, tmp_path / "b", num_classes=3)
    with pytest.raises(TypeError, match="must be a run"):
        interop.save_pretrained(3, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_network_that_no_text_names_is_refused(run, tmp_path):
    own = replace(run, config=replace(run.config, backbone="<Mine>"))
    with pytest.raises(ValueError, match="<Mine>"):
        interop.save_pretrained(own, tmp_path / "a")


DAMAGED = {
    "sde": "warp(3)",
    "backbone": "mlp(width=None)",
    "prediction": 3,
    "event_shape": "8",
    "num_classes": [],
    "scaling": {"width": -1.0},
    "sigma_data": None,
    "facts": 3,
}


@pytest.mark.parametrize("key", DAMAGED)
def test_damaged_configurations_are_refused(key, imported, tmp_path):
    folder = interop.save_pretrained(imported, tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: DAMAGED[key]}))
    with pytest.raises(CheckpointError):
        interop.from_pretrained(folder)
    if key in ("facts",):
        return
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != key}))
    with pytest.raises(CheckpointError, match=f"it lacks '{key}'"):
        interop.from_pretrained(folder)


def test_other_weights_and_other_folders_are_refused(imported, tmp_path):
    folder = interop.save_pretrained(imported, tmp_path / "a")
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    for changed, said in (
        ({k: v for k, v in weights.items() if k != name}, "missing"),
        ({**weights, "extra": torch.zeros(2)}, "left over"),
        ({**weights, name: torch.zeros(3, 5)}, "has shape"),
    ):
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=said):
            interop.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no folder of save_pretrained"):
        interop.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="there is no file"):
        interop.from_pretrained(tmp_path / "absent")


class Api:
    """The hub, in a folder."""

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, name, private, exist_ok):
        self.calls.append(("create", name, private, exist_ok, self.token))

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, commit_message))
        shutil.copytree(folder_path, self.place, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"


def test_push_and_fetch(imported, tmp_path, monkeypatch):
    Api.calls, Api.place = [], tmp_path / "hub"

    def download(name, revision, token, allow_patterns):
        Api.calls.append(("download", name, revision, allow_patterns))
        return str(Api.place)

    hub = SimpleNamespace(HfApi=Api, snapshot_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.chdir(tmp_path)
    address = interop.push_to_hub(imported, "me/net", private=True, token="t")
    assert address == "https://hub/me/net/commit/1"
    assert 'from_pretrained("me/net")' in (Api.place / "README.md").read_text()
    found = interop.from_pretrained("me/net", revision="v1")
    assert all(torch.equal(found.state[k], imported.state[k]) for k in found.state)
    assert Api.calls == [
        ("create", "me/net", True, True, "t"),
        ("upload", "me/net", "Upload a model of sde_score"),
        ("download", "me/net", "v1", ["config.json", "model.safetensors"]),
    ]
    with pytest.raises(ValueError, match="'owner/name'"):
        interop.push_to_hub(imported, "net")


def test_without_the_hub_its_extra_is_named(imported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"pip install 'sde-score\[hub\]'"):
        interop.push_to_hub(imported, "me/net")
    with pytest.raises(DataError, match=r"no folder 'me/net', and .*sde-score\[hub\]"):
        interop.from_pretrained("me/net")


def test_training_starts_from_folders_and_from_files_of_others(imported, recorded_file, tmp_path):
    folder = interop.save_pretrained(imported, tmp_path / "net")
    data = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    config = TrainConfig(steps=1, batch_size=4, device="cpu", learning_rate=1e-12, ema=0.0)
    for name, source in {"folder": folder, "object": imported, "text": str(folder)}.items():
        with pytest.warns(UserWarning, match="were trained"):  # another range of the data
            run = train(config, tmp_path / name, data=data, init_from=source, progress=False)
        assert run.config.backbone.startswith("ddpmpp(base=8")
        found = run.model.backbone.state_dict()
        assert all(torch.allclose(found[k], v, atol=1e-6) for k, v in imported.state.items())
    foreign = recorded_file("kdiff_image_v1_train.pth")
    pairs = torch.randint(0, 256, (8, 2, 16, 16), dtype=torch.uint8)
    with pytest.warns(UserWarning, match="were trained"):
        run = train(config, tmp_path / "foreign", data=pairs, init_from=foreign, progress=False)
    found, want = run.model.backbone.state_dict(), interop.load(foreign).state
    assert all(torch.allclose(found[k], v, atol=1e-6) for k, v in want.items())
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 0
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"init_from=interop.load\(path, ...\)"):
        train(config, tmp_path / "x", data=images,
              init_from=recorded_file("diffusers_legacy_names"), progress=False)  # fmt: skip
    with pytest.raises(CheckpointError, match="holds no weights that can be used"):
        train(config, tmp_path / "y", data=images, init_from=tmp_path, progress=False)


def test_a_score_model_equals_its_folder(tmp_path):
    model = ScoreModel(network("mlp(width=8)", (2,)), VP(), "ddpm(n=50)").eval()
    found = interop.load(
        interop.save_pretrained(model, tmp_path / "m", backbone="mlp(width=8)", event_shape=(2,))
    )
    assert torch.equal(scores(found.model(), (2,)), scores(model, (2,)))
    assert found.prediction.startswith("ddpm(n=50")
