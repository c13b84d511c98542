"""The file of a classifier: safetensors, with its facts in the metadata.

Nothing in it is ever executed, and a network is built only from tensors that fit it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.errors import DataError, damaged, naming
from sde_score._core.records import Record
from sde_score.evaluation.features._feature_network import FeatureNetwork

_KEY = "sde_score_classifier"


@dataclass(frozen=True)
class Facts(Record):
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

    def __post_init__(self) -> None:
        require_count(**{f"event_shape[{i}]": size for i, size in enumerate(self.event_shape)})
        require_count(dimensions=len(self.event_shape), held_out=self.held_out)
        require_count(2, num_classes=self.num_classes)
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy={self.accuracy!r} must lie in [0, 1]")


def pack(facts: Facts, tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a file."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps({**facts.record(), "digest": _digest(plain)})
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
            facts = Facts.from_record(values)
        return facts, _network(facts, tensors)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


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
