"""The bundled digits: 1797 real handwritten digits, 8 x 8, that come with scikit-learn."""

from __future__ import annotations

import torch

from sde_score.data.dataset import DataSet
from sde_score.data.tensors import from_tensor
from sde_score.scaling import Scaling


def digits() -> DataSet:
    """Handwritten digits, event `(1, 8, 8)`, 17 grey levels 0 ... 16, 10 classes.

    Source: test set of the UCI Optical Recognition of Handwritten Digits data,
        https://doi.org/10.24432/C50P49.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = torch.as_tensor(bundle.images).unsqueeze(1)
    labels = torch.as_tensor(bundle.target)
    return from_tensor(images, labels, Scaling.discrete(17), name="digits")
