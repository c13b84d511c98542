"""EDM's pickles: the recorded answers, and nothing executed."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
import torch

from sde_score import interop
from sde_score.training.errors import CheckpointError

# The first ships with the repository.
NETS = [
    "edm_net_songunet_ve",
    "edm_net_dhariwal",
    "edm_net_dhariwal_iddpm",
    "edm_net_songunet_ddpmpp_cond",
    "edm_net_songunet_ncsnpp",
    "edm_net_songunet_skip_skip",
    "edm_net_songunet_vp",
]
SHIPPED = NETS[0]


class EasyDict(dict):
    """EDM's dictionary, by the name that its pickles have."""

    __module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a reader of somebody else's files must not call this")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    """An object that is pickled as those of EDM's `persistent_class`."""

    def __init__(self, name, state):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('source was run')",
            "class_name": name,
            "state": state,
        }

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


def module(parameters=(), modules=()):
    """Attributes of a module of torch."""
    return {
        "training": False,
        "_parameters": dict(parameters),
        "_buffers": {},
        "_non_persistent_buffers_set": set(),
        "_modules": dict(modules),
    }


def tree(state, name="Module"):
    """Nested modules with the tensors of a state."""
    own = {key: torch.nn.Parameter(value) for key, value in state.items() if "." not in key}
    inner = {}
    for key, value in state.items():
        if "." in key:
            folder, rest = key.split(".", 1)
            inner.setdefault(folder, {})[rest] = value
    modules = {}
    for folder, part in inner.items():
        modules[folder] = tree(part)
        if folder in ("enc", "dec"):
            modules[folder] = torch.nn.ModuleDict()
            modules[folder].__dict__["_modules"] = tree(part).meta["state"]["_modules"]
    return Persistent(name, module(own, modules))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Pickle an object under the names of EDM's modules, which are not installed here."""

    def save(content, protocol=4, name="network-snapshot.pkl"):
        with monkeypatch.context() as patch:
            for place, value in (
                ("torch_utils.persistence", _reconstruct_persistent_obj),
                ("dnnlib.util", EasyDict),
            ):
                parent = place.split(".")[0]
                stub = types.ModuleType(place)
                setattr(stub, value.__name__, value)
                patch.setitem(sys.modules, parent, types.ModuleType(parent))
                patch.setitem(sys.modules, place, stub)
            (tmp_path / name).write_bytes(pickle.dumps(content, protocol))
        return tmp_path / name

    return save


def snapshot(arrays, params, **changes):
    """A snapshot of EDM with the weights and arguments of a recorded network."""
    state = {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
    network = tree(state, params["precond"])
    network.meta["state"]["_init_args"] = ()
    network.meta["state"]["_init_kwargs"] = EasyDict(
        img_resolution=params["img_resolution"],
        img_channels=params["img_channels"],
        label_dim=params.get("label_dim", 0),
        use_fp16=False,
        **{**params["model_kwargs"], **params["precond_kwargs"], **changes},
    )
    loss = Persistent("EDMLoss", {"P_mean": -1.2, "P_std": 1.2})
    return {
        "ema": network,
        "loss_fn": loss,
        "augment_pipe": None,
        "dataset_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset"),
    }


@pytest.fixture
def small(reference):
    """Arrays and arguments of the network that ships."""
    arrays, description = reference(SHIPPED)
    return arrays, description["params"]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("case", ["", "_nolabel", "_augment"])
def test_denoisers_answer_as_recorded(name, case, reference, write, matches):
    arrays, description = reference(name)
    if f"D_f64{case}" not in arrays:
        pytest.skip(f"{name} was not recorded with {case}")
    imported = interop.load(write(snapshot(arrays, description["params"])))
    condition = {}
    if "class_labels" in arrays and case != "_nolabel":
        condition["label"] = arrays["class_labels"].argmax(1)
    if case == "_augment":
        condition["augment"] = arrays["augment_labels"]

    def answer(model, dtype):
        assert model.needs_condition == ("class_labels" in arrays)
        model.needs_condition = False
        x, sigma = arrays["x"].to(dtype), arrays["sigma"]
        return model.denoise(x, sigma, condition or None)

    matches(imported, answer, arrays[f"D_f64{case}"])


@pytest.mark.parametrize("name", NETS)
def test_networks_answer_as_recorded(name, reference, write, matches):
    arrays, description = reference(name)
    imported = interop.load(write(snapshot(arrays, description["params"])))
    condition = arrays["class_labels"].argmax(1) if "class_labels" in arrays else None

    def answer(model, dtype):
        x, label = arrays["x"].to(dtype), arrays["c_noise"].to(dtype)
        return model.backbone.everything(x, label, condition)

    matches(imported, answer, arrays["F_f64"])


@pytest.mark.parametrize("protocol", [4, 2, 3, 5])
def test_every_protocol_is_read(protocol, small, write):
    imported = interop.load(write(snapshot(*small), protocol))
    assert imported.family == "edm"
    assert imported.sde.sigma_min == pytest.approx(0.02)


def test_imported_model_works(small, write, usable):
    usable(interop.load(write(snapshot(*small))))


def test_a_network_alone_is_read(small, write):
    alone = interop.load(write(snapshot(*small)["ema"], name="net.pt"))
    within = interop.load(write(snapshot(*small)))
    assert alone.backbone == within.backbone
    with pytest.raises(ValueError, match="loss_fn"):
        interop.load(write(snapshot(*small)), weights="mean")


class Call:
    """A pickle that calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [4, 0])
def test_pickles_that_run_something_are_refused_by_name(protocol, small, write, tmp_path):
    content = snapshot(*small)
    target = tmp_path / "written"
    content["loss_fn"] = [Call(open, str(target), "w"), Call(eval, "1 / 0"), Call(print, "x")]
    content["other"] = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"eval.*print.*torch\.nn.*Linear") as refusal:
        interop.load(write(content, protocol))
    assert not target.exists()
    assert "nothing of it was imported" in str(refusal.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 0.9999])
def test_truncated_pickles_are_refused(share, small, write):
    path = write(snapshot(*small))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(CheckpointError):
        interop.load(path)


def test_changed_bytes_end_in_a_network_or_a_refusal(small, write):
    path = write(snapshot(*small))
    raw = path.read_bytes()
    for place in range(11, len(raw), len(raw) // 12):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        try:
            interop.load(path)
        except (CheckpointError, ValueError):
            continue


def storage_of(count):
    return torch.zeros(count)._typed_storage()


def tensor_of(storage, offset, size, stride):
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {})


@pytest.mark.parametrize(
    "wrong",
    [
        tensor_of(storage_of(4), 0, (2**40,), (0,)),
        tensor_of(storage_of(4), 3, (2,), (1,)),
        tensor_of(storage_of(4), -1, (2,), (1,)),
        tensor_of(storage_of(4), 0, (2,), (-1,)),
        tensor_of([1.0], 0, (1,), (1,)),
        Call(torch.storage._load_from_bytes, b"PK" + bytes(40)),
        Call(torch.storage._load_from_bytes, pickle.dumps(Call(eval, "1 / 0"), 2)),
    ],
)
def test_tensors_that_are_none_are_refused(wrong, small, write):
    content = snapshot(*small)
    content["loss_fn"] = wrong
    with pytest.raises(CheckpointError, match="damaged"):
        interop.load(write(content))


def test_a_module_that_holds_itself_is_refused(small, write):
    content = snapshot(*small)
    inner = torch.nn.ModuleDict()
    inner.__dict__["_modules"]["again"] = inner
    content["ema"].meta["state"]["_modules"]["model"] = inner
    with pytest.raises(CheckpointError):
        interop.load(write(content))


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "OtherUNet"},
        {"resample_filter": [1, 2, 1]},
        {"embedding_type": "learned"},
        {"model_channels": -8},
        {"model_channels": 2**40},
        {"channel_mult": "1234"},
        {"channel_mult": []},
        {"attn_resolutions": [16.5]},
        {"num_heads": 3},
        {"num_blocks": 2},
        {"sigma_max": "far"},
        {"sigma_min": 90.0},
    ],
)
def test_configurations_that_do_not_fit_are_refused(change, small, write):
    with pytest.raises(CheckpointError):
        interop.load(write(snapshot(*small, **change)))


@pytest.mark.parametrize("break_", ["missing", "extra", "shape", "class"])
def test_weights_that_do_not_fit_are_refused(break_, small, write):
    arrays, params = dict(small[0]), dict(small[1])
    conv = next(name for name in arrays if name.endswith("block0.conv1.weight"))
    if break_ == "missing":
        del arrays[conv]
    elif break_ == "extra":
        arrays["state.model.other.weight"] = torch.zeros(2)
    elif break_ == "shape":
        arrays[conv] = arrays[conv][1:]
    else:
        params["precond"] = "OtherPrecond"
    with pytest.raises(CheckpointError):
        interop.load(write(snapshot(arrays, params)))
