"""Files that are damaged or hostile: refused by name, and nothing of them executed."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sde_score import interop
from sde_score.training.errors import CheckpointError


class Call:
    """A pickle that calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def weights():
    return {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


def refused(path, match):
    with pytest.raises(CheckpointError, match=match):
        interop.load(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "bin", "pkl"])
def test_files_of_torch_are_read_whatever_they_are_called(legacy, suffix, weights, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    torch.save(weights, path, _use_new_zipfile_serialization=not legacy)
    found = interop.read_contents(path).tensors
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_tensors_of_a_bare_pickle_are_tensors(weights, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(weights))
    found = interop.read_contents(tmp_path / "a.pkl").tensors
    assert torch.equal(found["layer.weight"], weights["layer.weight"])


@pytest.mark.parametrize("content", [None, [1, "a"], {"step": np.float64(2.5)}, {"a": (3,)}])
@pytest.mark.parametrize("bare", [False, True])
def test_plain_values_are_read(content, bare, tmp_path):
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(content)) if bare else torch.save(content, path)
    assert interop.read_contents(path).content == content


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_a_pickle_are_read(order, tmp_path):
    array = np.arange(6, dtype=">f4").reshape((2, 3), order=order)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": array, "again": array}))
    found = interop.read_contents(tmp_path / "a.pkl").content
    np.testing.assert_array_equal(found["a"], array)
    assert found["a"] is found["again"]


@pytest.mark.parametrize("bare", [False, True])
def test_a_file_that_would_write_another_writes_none(bare, weights, tmp_path):
    target, path = tmp_path / "written", tmp_path / "hostile.pth"
    content = {**weights, "run": Call(open, str(target), "w")}
    path.write_bytes(pickle.dumps(content)) if bare else torch.save(content, path)
    refused(path, "open")
    assert not target.exists()


@pytest.mark.parametrize("function", [os.system, eval, pickle.loads, torch.load, os.remove])
def test_foreign_functions_are_refused_by_name(function, tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps([Call(function, "x"), Call(np.save, "y")]))
    refused(path, f"(?s){function.__name__}")
    refused(path, r"numpy\.save")


def test_objects_outside_of_a_pickle_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04\x8c\x01aQ.")
    refused(tmp_path / "a.pkl", "outside of the file")


@pytest.mark.parametrize(
    "raw",
    [
        b"Nr" + struct.pack("<I", 2**29) + b".",  # a table of 4 GB
        b"\x8e" + struct.pack("<Q", 2**45) + b"abc.",
        b"\x96" + struct.pack("<Q", 2**45) + b"abc.",
        b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x82\x01.",
        b"ccollections\nOrderedDict\nK\x05\x85R.",
    ],
)
def test_pickles_that_ask_for_all_memory_are_refused(raw, tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x05" + raw)
    refused(tmp_path / "a.pkl", "damaged")


def test_a_file_changes_nothing_that_the_next_one_meets(tmp_path):
    """A pickle can set attributes of what it names, so nothing of ours is named."""
    attack = b"\x80\x04" + b"ctorch._utils\n_rebuild_tensor_v2\n" + b"N}\x8c\x07__new__Ns\x86b."
    (tmp_path / "attack.pkl").write_bytes(attack)
    with pytest.raises(CheckpointError):
        interop.read_contents(tmp_path / "attack.pkl")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": torch.ones(2)}))
    assert torch.equal(interop.read_contents(tmp_path / "a.pkl").content["a"], torch.ones(2))


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**23))
    assert path.stat().st_size < 2**14
    refused(path, "unpack to")


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_of_torch_are_refused(legacy, weights, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=not legacy)
    raw = path.read_bytes()
    for share in (0.0, 0.3, 0.6, 0.99):
        path.write_bytes(raw[: int(share * len(raw))])
        refused(path, "damaged|no checkpoint")
    for place in range(0, len(raw), 7):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        with pytest.raises(CheckpointError):  # of no known family, at best
            interop.load(path)


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a": {"dtype": "F32", "shape": [9]}}'])
def test_damaged_safetensors_are_refused(header, weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(path, "cannot be read")
    path.write_bytes(struct.pack("<Q", 2**60) + header)
    refused(path, "cannot be read")
    save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-3])
    refused(path, "cannot be read")


@pytest.mark.parametrize("name", ["empty.pth", "empty.pkl", "empty.safetensors", "empty"])
def test_an_empty_file_is_refused(name, tmp_path):
    (tmp_path / name).touch()
    refused(tmp_path / name, name)


def test_what_is_no_file_is_refused(tmp_path):
    refused(tmp_path / "absent.pth", "no file")
    refused(tmp_path, "no weights")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "no file")
    refused(tmp_path, "no file")  # a folder whose weights are a pipe
    refused("/dev/zero", "no file")


def test_a_folder_says_what_is_wrong_with_it(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    for text in ("{", "[" * 100_000, ""):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        refused(tmp_path, "JSON")
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    refused(tmp_path, "no known family")
    named = json.dumps({"_class_name": "AutoencoderKL"})
    (tmp_path / "config.json").write_text(named, encoding="utf-8")
    refused(tmp_path, "no known family.*AutoencoderKL of diffusers")
    (tmp_path / "model.safetensors.index.json").touch()
    refused(tmp_path, "several parts")


def test_full_precision_is_preferred(weights, tmp_path):
    save_file({k: v.half() for k, v in weights.items()}, tmp_path / "model.fp16.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    assert interop.read_contents(tmp_path).tensors["layer.bias"].dtype == torch.float32


def test_a_foreign_file_is_described(weights, tmp_path):
    torch.save(weights, tmp_path / "foreign.pth")
    refused(tmp_path / "foreign.pth", r"no known family.*adm.*layer\.bias")
    torch.save(weights, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="'vae'"):
        interop.load(tmp_path / "foreign.pth", family="vae")
