"""Checkpoints of EDM2: the recorded answers, what a file does not say, and what is refused."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
import torch

from sde_score import interop
from sde_score.training.errors import CheckpointError

# The first ships with the repository.
RECORDED = ["edm2_net_uncond", "edm2_net"]
SHIPPED = RECORDED[0]
FROM_WEIGHTS = (
    "channels_per_head",
    "sigma_data",
    "res_balance",
    "attn_balance",
    "concat_balance",
)


def state_of(arrays):
    return {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}


def options_of(params):
    """What the weights do not say."""
    return {key: params[key] for key in FROM_WEIGHTS if key in params}


@pytest.fixture
def small(reference):
    """Weights of the small network that ships, and its options."""
    arrays, description = reference(SHIPPED)
    return state_of(arrays), options_of(description["params"])


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "model.pt")
        return tmp_path / "model.pt"

    return write


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a reader of somebody else's files must not call this")


class Persistent:
    """A module that is pickled as those of EDM2's `persistent_class`."""

    def __init__(self, name, state, given=None):
        here = {key: value for key, value in state.items() if "." not in key}
        folders = sorted({key.split(".")[0] for key in state if "." in key})
        modules = {
            folder: Persistent(
                "Module",
                {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(folder + ".")},
            )
            for folder in folders
        }
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('source was run')",
            "class_name": name,
            "state": {"_parameters": here, "_buffers": {}, "_modules": modules},
        }
        if given is not None:
            self.meta["state"] |= {"_init_args": (), "_init_kwargs": given}

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A pickle with a network of these weights and arguments."""
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"

    def write(state, given, name="Precond"):
        stub = types.ModuleType("torch_utils.persistence")
        stub._reconstruct_persistent_obj = _reconstruct_persistent_obj
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
            patch.setitem(sys.modules, "torch_utils.persistence", stub)
            content = {"ema": Persistent(name, state, given), "encoder": None, "loss_fn": None}
            path = tmp_path / "network-snapshot-0000010-0.100.pkl"
            path.write_bytes(pickle.dumps(content))
        return path

    return write


@pytest.mark.parametrize("name", RECORDED)
def test_answers_are_the_recorded_ones(name, recorded_file, save, matches):
    from safetensors.torch import load_file

    arrays = load_file(recorded_file(f"{name}.safetensors"))
    options = {
        "edm2_net": {"channels_per_head": 8},
        "edm2_net_uncond": {
            "channels_per_head": 4,
            "sigma_data": 1.0,
            "res_balance": 0.4,
            "attn_balance": 0.2,
            "concat_balance": 0.6,
        },
    }[name]
    imported = interop.load(save(state_of(arrays)), **options)
    label = arrays["class_labels"].argmax(1) if "class_labels" in arrays else None

    def network(model, dtype):
        x, noise = arrays["x_raw"].to(dtype), arrays["c_noise_raw"].to(dtype)
        return model.backbone(x, noise, label)

    def variance(model, dtype):
        return model.backbone.log_variance((arrays["sigma"].log() / 4).to(dtype))

    matches(imported, network, arrays["raw_f64"])
    matches(imported, variance, arrays["logvar_f64"])
    matches(
        imported,
        lambda model, dtype: model.denoise(arrays["x"].to(dtype), arrays["sigma"], label),
        arrays["denoised_f64"],
    )
    if label is not None:
        assert imported.needs_condition

        def free(model, dtype):
            model.needs_condition = False
            return model.denoise(arrays["x"].to(dtype), arrays["sigma"])

        matches(imported, free, arrays["denoised_no_label_f64"])


def test_model_samples_and_has_a_likelihood(small, save, usable):
    state, options = small
    usable(interop.load(save(state), **options))


def test_weights_do_not_say_what_is_taken_as_published(small, save):
    state, options = small
    imported = interop.load(save(state), **options)
    assert "clip_act=256" in imported.notes[0]
    assert "sigma_data" not in imported.notes[0]
    assert "latents" in imported.notes[1]
    with pytest.raises(ValueError, match="sigma"):
        interop.load(save(state), sigma_datum=1.0)


def test_a_pickle_says_all_and_is_computed_in_float32(small, snapshot, reference):
    """Its weights are of half precision; the source inside is not run."""
    state, _ = small
    params = dict(reference(SHIPPED)[1]["params"])
    half = {key: value.half() for key, value in state.items()}
    imported = interop.load(snapshot(half, params))
    assert imported.notes == (interop.edm2._LATENTS,)
    assert {value.dtype for value in imported.state.values()} == {torch.float32}
    exact = interop.load(snapshot(state, params))
    for option in ("head_channels=4", "residual_balance=0.4", "concat_balance=0.6"):
        assert option in exact.backbone
    assert exact.sigma_data == 1.0
    torch.testing.assert_close(
        imported.state["head.weight"], exact.state["head.weight"], rtol=1e-3, atol=1e-3
    )
    with pytest.raises(CheckpointError, match=r"constructed with .'resample_filter'."):
        interop.load(snapshot(state, {**params, "resample_filter": [1, 3, 3, 1]}))
    with pytest.raises(CheckpointError, match="constructed with sigma_data='half'"):
        interop.load(snapshot(state, {**params, "sigma_data": "half"}))
    with pytest.raises(CheckpointError, match="no known family"):
        interop.load(snapshot(state, params, "StackedRandomGenerator"))


def test_a_file_of_the_trainer_holds_several_averages(small, save):
    state, options = small
    shifted = [{**state, "unet.out_gain": state["unet.out_gain"] + k} for k in range(3)]
    content = {
        "state": {"cur_nimg": 128},
        "net": shifted[0],
        "loss_fn": {},
        "optimizer": {"state": {}},
        "ema": {"stds": [0.05, 0.1], "emas": shifted[1:]},
    }
    path = save(content)
    for weights, k in (("raw", 0), ("ema", 1), ("0.05", 1), ("0.1", 2)):
        imported = interop.load(path, weights=weights, **options)
        assert torch.equal(imported.state["gain"], shifted[k]["unet.out_gain"])
    with pytest.raises(ValueError, match=r"weights='0.2' must be one of raw, ema, 0.05, 0.1"):
        interop.load(path, weights="0.2", **options)
    content["ema"]["emas"] = shifted[1:2]
    with pytest.raises(CheckpointError, match="more averages under 'stds'"):
        interop.load(save(content), weights="0.1", **options)
    del content["ema"]
    with pytest.raises(ValueError, match=r"weights='ema' is no network of the file"):
        interop.load(save(content), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("unet.out_conv.weight"), "has no 'unet.out_conv.weight'"),
        (lambda s: s.pop("unet.dec.8x8_up.emb_gain"), "has no 'unet.dec.8x8_up.emb_gain'"),
        (lambda s: s.update(more=torch.zeros(1)), r"1 tensors .* no place .*'more'"),
        (lambda s: s.update({"unet.dec.4x4_in0.conv_res0.weight": torch.zeros(5)}), "has shape"),
        (
            lambda s: [s.pop(key) for key in list(s) if ".enc." in key],
            "has no 'unet.enc.' blocks",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message, small, save):
    state, options = small
    change(state)
    with pytest.raises(CheckpointError, match=message):
        interop.load(save(state), **options)
