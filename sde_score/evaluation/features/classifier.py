"""Features from a small classifier of the data's own labels, trained in seconds.

They replace those of a network trained on photographs, where none is at hand or the data are no
photographs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sde_score._core.arguments import checked
from sde_score._core.checks import require_batch, require_count, require_device
from sde_score._core.files import replace_file
from sde_score._core.progress import progress_bar
from sde_score._core.statistics import chunks
from sde_score.evaluation.features import _classifier_file as classifier_file
from sde_score.evaluation.features._feature_network import FeatureNetwork, seeded_network
from sde_score.evaluation.provenance import package_digest
from sde_score.random import generator_from

_HELD_OUT = 0.1
_BATCH = 128
_LEARNING_RATE = 2e-3
_SPLIT, _ORDER = 1, 2  # streams of random numbers


@dataclass(frozen=True, eq=False)
class ClassifierExtractor:
    """Features, shape `(n, 64)`, from before the last layer of a trained classifier.

    Args:
        network: the classifier.
        name: such as `"digits-classifier"`.
        accuracy: fraction of held-out examples that it gets right.
        held_out: number of examples held out of training.
        fingerprint: hash of the data and the training settings.
    """

    network: FeatureNetwork
    name: str
    accuracy: float
    held_out: int
    fingerprint: str

    def __call__(self, x: Tensor) -> Tensor:
        """Features of a batch `(n, *event)` in model range."""
        return self.network.features(self._to_network(x))

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the classes of a batch, shape `(n, num_classes)`."""
        found: Tensor = self.network(self._to_network(x))
        return found

    def to(self, device: str | torch.device) -> ClassifierExtractor:
        """Move the network to a device; returns itself."""
        self.network.to(device)
        return self

    def _to_network(self, x: Tensor) -> Tensor:
        return x.to(self.network.head.weight.device, torch.float32)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, in one step."""
        facts = classifier_file.Facts(
            name=self.name,
            event_shape=self.network.event_shape,
            num_classes=self.network.num_classes,
            accuracy=self.accuracy,
            held_out=self.held_out,
            fingerprint=self.fingerprint,
        )
        replace_file(Path(path), classifier_file.pack(facts, self.network.state_dict()))

    @classmethod
    @checked
    def load(cls, path: str | Path, device: str = "cpu") -> ClassifierExtractor:
        """Read a file of `save`.

        Raises:
            OSError: if there is no such file.
            DataError: if it is damaged or is no such classifier.
        """
        require_device("device", device)
        facts, network = classifier_file.read(Path(path))
        extractor = cls(network, facts.name, facts.accuracy, facts.held_out, facts.fingerprint)
        return extractor.to(device)


def classifier_for(
    x: Tensor,
    labels: Tensor | None,
    num_classes: int,
    path: str | Path | None = None,
    *,
    name: str = "classifier",
    steps: int = 400,
    seed: int = 0,
    progress: bool = False,
) -> ClassifierExtractor:
    """The classifier of a data set, read from `path` or else trained and kept there.

    A file that was trained on other data, with other settings or by another version is replaced; a
    damaged one is not.

    Args:
        x: as for `train_classifier`.
        labels: as for `train_classifier`.
        num_classes: as for `train_classifier`.
        name: as for `train_classifier`.
        path: a safetensors file; None keeps nothing.
        steps: as for `train_classifier`.
        seed: as for `train_classifier`.
        progress: as for `train_classifier`.

    Raises:
        TypeError, ValueError: as `train_classifier` does.
        DataError: if the file is damaged: remove it to train anew.
    """
    labels = _require_labelled(x, labels, num_classes)
    fingerprint = _fingerprint(x, labels, num_classes, steps, seed)
    if path is not None and Path(path).exists():
        found = ClassifierExtractor.load(path)
        if found.fingerprint == fingerprint:
            return replace(found, name=name)
    trained = train_classifier(
        x, labels, num_classes, name=name, steps=steps, seed=seed, progress=progress
    )
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        trained.save(path)
    return trained


def train_classifier(
    x: Tensor,
    labels: Tensor | None,
    num_classes: int,
    *,
    name: str = "classifier",
    steps: int = 400,
    seed: int = 0,
    progress: bool = False,
) -> ClassifierExtractor:
    """Train a small classifier on nine tenths of the data and test it on the rest.

    Adam on the cross entropy of batches of 128, with a learning rate that falls to zero along a
    cosine. On one machine the result depends on the arguments alone.

    Args:
        x: examples in model range, shape `(n, *event)`, n >= 10.
        labels: int64, shape `(n,)`, values 0 ... num_classes - 1.
        num_classes: number of classes, at least 2.
        name: name of the extractor.
        steps: training steps.
        seed: random seed of the split, the initial weights and the order of the examples.
        progress: show a bar.

    Raises:
        TypeError: for tensors of the wrong kind.
        ValueError: for data without labels, or labels that do not fit.
    """
    labels = _require_labelled(x, labels, num_classes)
    require_count(steps=steps)
    x, labels = x.detach().to("cpu", torch.float32), labels.cpu()
    order = torch.randperm(len(x), generator=generator_from(seed, _SPLIT))
    held_out = max(1, round(_HELD_OUT * len(x)))
    test, train = order[:held_out], order[held_out:]
    network = seeded_network(tuple(x.shape[1:]), num_classes, seed)
    batches: Iterable[Tensor] = _batches(train, steps, generator_from(seed, _ORDER))
    if progress:
        batches = progress_bar(batches, name=f"train {name}", total=steps, delay=0)
    _fit(network, x, labels, batches, steps)
    network.eval().requires_grad_(False)
    right = _right_answers(network, x[test], labels[test])
    fingerprint = _fingerprint(x, labels, num_classes, steps, seed)
    return ClassifierExtractor(network, name, right / held_out, held_out, fingerprint)


def _fit(
    network: FeatureNetwork, x: Tensor, labels: Tensor, batches: Iterable[Tensor], steps: int
) -> None:
    optimizer = torch.optim.Adam(network.parameters())
    with torch.enable_grad():
        for step, rows in enumerate(batches):
            rate = _LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _right_answers(network: FeatureNetwork, x: Tensor, labels: Tensor) -> int:
    right = 0
    for start in range(0, len(x), 1024):
        rows = slice(start, start + 1024)
        right += int((network(x[rows]).argmax(1) == labels[rows]).sum())
    return right


def _batches(rows: Tensor, steps: int, generator: Generator) -> Iterator[Tensor]:
    """Random batches without replacement, epoch after epoch, without the incomplete last ones."""
    size = min(_BATCH, len(rows))
    left = rows[:0]
    for _ in range(steps):
        if len(left) < size:
            left = rows[torch.randperm(len(rows), generator=generator)]
        yield left[:size]
        left = left[size:]


def _require_labelled(x: Tensor, labels: Tensor | None, num_classes: int) -> Tensor:
    require_batch("x", x)
    if labels is None:
        raise ValueError(
            "labels=None: a classifier needs labelled data; without labels take the extractor "
            "'pixels' or, for images, 'random-convolution'"
        )
    require_count(2, num_classes=num_classes)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError("labels must be an int64 tensor: try labels.long()")
    if len(x) < 10 or tuple(labels.shape) != (len(x),):
        raise ValueError(
            f"x holds {len(x)} examples and labels have shape {tuple(labels.shape)}: accepted are "
            "at least 10 examples with one label each"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, accepted: 0 to "
            f"{num_classes - 1}"
        )
    if not bool(x.isfinite().all()):
        raise ValueError("x holds numbers that are not finite")
    return labels


def _fingerprint(x: Tensor, labels: Tensor, num_classes: int, steps: int, seed: int) -> str:
    settings: Mapping[str, object] = {
        "recipe": package_digest(),
        "shape": tuple(x.shape),
        "num_classes": num_classes,
        "steps": steps,
        "seed": seed,
    }
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in (x.detach().to("cpu", torch.float32), labels.cpu()):
        for piece in chunks(tensor):
            digest.update(piece.contiguous().numpy().tobytes())
    return digest.hexdigest()
