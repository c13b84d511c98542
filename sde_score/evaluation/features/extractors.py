"""Feature extractors: from examples to the vectors that distances compare.

An extractor is any callable from examples in model range, shape `(n, *event)`, to features of shape
`(n, features)`, that has a `name`. Its name belongs to every figure measured through it, as in
`frechet[digits-classifier]`: distances through two extractors cannot be compared. In particular
"FID" means one extractor, an Inception network trained on ImageNet in 2015, with its own
preprocessing and 50 000 samples; no figure of ours has that name.

`EXTRACTORS.register("mine", constructor)` adds an extractor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields, checked
from sde_score._core.checks import require_batch, require_count, require_device
from sde_score._core.progress import progress_bar
from sde_score._core.registry import Registry
from sde_score.evaluation.features._feature_network import RandomConvolution
from sde_score.evaluation.features.classifier import ClassifierExtractor, classifier_for
from sde_score.evaluation.features.pretrained import DINOv2, Inception, TorchScript


class Extractor(Protocol):
    """Maps examples in model range, `(n, *event)`, to features, `(n, features)`; has a name."""

    @property
    def name(self) -> str:
        """Text in brackets behind a distance measured through this extractor."""

    def __call__(self, x: Tensor) -> Tensor:
        """Features of a batch."""


@dataclass(frozen=True)
class Pixels:
    """The entries of the example themselves, flattened."""

    name: str = "pixels"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, x: Tensor) -> Tensor:
        """Flatten `(n, *event)` to `(n, features)`."""
        return x.reshape(len(x), -1)


@dataclass(frozen=True)
class _Named:
    """A plain function with a name."""

    function: Callable[[Tensor], Tensor]
    name: str

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


@checked
def _classifier(
    data: str = "digits", path: str | Path | None = None, seed: int = 0, device: str = "cpu"
) -> ClassifierExtractor:
    """A classifier of a labelled data set, trained on the spot or read from `path`."""
    from sde_score.data import load

    require_device("device", device)
    dataset = load(data)
    if dataset.labels is None:
        raise ValueError(
            f"data={data!r} has no labels to train a classifier on: take 'pixels' or, for images, "
            "'random-convolution'"
        )
    rows = torch.arange(len(dataset))
    x, labels = dataset.batch(rows).x0, dataset.labels_at(rows)
    name = f"{dataset.name}-classifier"
    trained = classifier_for(x, labels, dataset.num_classes, path, name=name, seed=seed)
    return trained.to(device)


EXTRACTORS: Registry[Extractor] = Registry(
    "extractor",
    {
        "pixels": Pixels,
        "classifier": _classifier,
        "random-convolution": RandomConvolution,
        "safetensors": ClassifierExtractor.load,
        "torchscript": TorchScript,
        "inception": Inception,
        "dinov2": DINOv2,
    },
)


def create_extractor(extractor: str | Callable[[Tensor], Tensor]) -> Extractor:
    """The extractor that a spec names, or the given one itself.

    Args:
        extractor: a name in `EXTRACTORS` with its options, such as `"pixels"`,
            `"classifier(data='digits')"` or `"inception(path='inception.pt')"`; or a callable,
            named after its function or class if it has no `name` of its own.

    Raises:
        TypeError: if it is neither text nor callable.
        ValueError: for an unknown name or option, or a file that cannot be used.
    """
    source: Any = EXTRACTORS.resolve(extractor, name="extractor")  # type: ignore[arg-type]
    if isinstance(getattr(source, "name", None), str):
        return cast(Extractor, source)
    return _Named(source, getattr(source, "__name__", type(source).__name__))


def feature_batches(
    x: Tensor,
    extractor: str | Callable[[Tensor], Tensor] = "pixels",
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> Iterator[Tensor]:
    """Features of the examples batch by batch, each `(b, features)`, on the CPU.

    Args:
        x: examples in model range, shape `(n, *event)`.
        extractor: as `create_extractor` takes it; called without gradients.
        batch_size: examples that the extractor sees at once.
        progress: show a bar.

    Raises:
        TypeError: if `x` is not a floating-point tensor.
        ValueError: if the features are not one finite vector per example.
    """
    require_batch("x", x)
    require_count(batch_size=batch_size)
    source = create_extractor(extractor)
    starts: Iterable[int] = range(0, len(x), batch_size)
    if progress:
        starts = progress_bar(starts, name=f"features: {source.name}", unit="batch", delay=0)
    for start in starts:
        examples = x[start : start + batch_size]
        with torch.no_grad():
            features = source(examples).detach().cpu()
        _require_features(source.name, features, len(examples))
        yield features


def extract(
    x: Tensor,
    extractor: str | Callable[[Tensor], Tensor] = "pixels",
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> Tensor:
    """Features of all examples, shape `(n, features)`, on the CPU; see `feature_batches`."""
    batches = feature_batches(x, extractor, batch_size=batch_size, progress=progress)
    found = list(batches)
    if not found:
        raise ValueError("x holds no examples: there is nothing to extract features from")
    return torch.cat(found)


def _require_features(name: str, features: Tensor, count: int) -> None:
    if features.ndim != 2 or len(features) != count or not features.is_floating_point():
        raise ValueError(
            f"extractor {name!r} returned {features.dtype} of shape {tuple(features.shape)} for "
            f"{count} examples; accepted: floating-point features of shape ({count}, features)"
        )
    if not bool(features.isfinite().all()):
        raise ValueError(f"extractor {name!r} returned numbers that are not finite")
