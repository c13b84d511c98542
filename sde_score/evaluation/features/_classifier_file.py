"""The file of a classifier: safetensors, with its facts in the metadata.

Nothing in it is ever executed, and a network is built only from tensors that fit it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sde_score._core.errors import DataError, damaged, naming
from sde_score.evaluation.features._feature_network import FeatureNetwork

_KEY = "sde_score_classifier"


@dataclass(frozen=True)
class Facts:
    """Metadata of a classifier.

    Args:
        name: of the extractor.
        event_shape: shape of one example.
        num_classes: number of classes.
        accuracy: on held-out examples, 0 to 1.
        held_out: number of held-out examples.
        fingerprint: hash of the data and the training settings.
    """

    name: str
    event_shape: tuple[int, ...]
    num_classes: int
    accuracy: float
    held_out: int
    fingerprint: str


def pack(facts: Facts, tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a file."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps({**dataclasses.asdict(facts), "digest": _digest(plain)})
    content: bytes = save(plain, {_KEY: text})
    return content


def read(path: Path) -> tuple[Facts, FeatureNetwork]:
    """Facts and network of a file, the network on the CPU, in evaluation mode, frozen.

    Raises:
        OSError: if there is no such file.
        DataError: if it is damaged or is no such classifier.
    """
    from safetensors import safe_open

    with naming(path):
        path.open("rb").close()  # a missing file is an OSError
        with (
            damaged("a classifier; remove it to train anew"),
            safe_open(path, framework="pt") as file,
        ):
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = json.loads((file.metadata() or {})[_KEY])
            if values.pop("digest") != _digest(tensors):
                raise ValueError("its tensors do not have the digest in its metadata")
            values["event_shape"] = tuple(values["event_shape"])
            facts = Facts(**values)
        _require_facts(facts)
        return facts, _network(facts, tensors)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _require_facts(facts: Facts) -> None:
    sizes = (*facts.event_shape, facts.held_out)
    texts = (facts.name, facts.fingerprint)
    fits = (
        all(type(size) is int and size >= 1 for size in sizes)
        and all(isinstance(text, str) for text in texts)
        and (type(facts.num_classes) is int and facts.num_classes >= 2)
        and (isinstance(facts.accuracy, float) and 0 <= facts.accuracy <= 1)
    )
    if not fits or not facts.event_shape:
        raise DataError(f"its metadata are not those of a classifier: {str(facts)[:200]}")


def _network(facts: Facts, tensors: Mapping[str, Tensor]) -> FeatureNetwork:
    """Built without memory first: absurd sizes in the metadata must cost none."""
    with damaged("a classifier of such sizes"), torch.device("meta"):
        network = FeatureNetwork(facts.event_shape, facts.num_classes)
    want = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
    have = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    if want != have:
        wrong = sorted(
            name for name in want.keys() | have.keys() if want.get(name) != have.get(name)
        )
        raise DataError(f"its tensors do not fit its metadata, as {', '.join(wrong[:3])}")
    network.load_state_dict(dict(tensors), assign=True)
    return network.eval().requires_grad_(False)
