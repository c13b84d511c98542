"""GPUs by name, with the figures of their data sheets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_positive
from sde_score._core.registry import Registry


@dataclass(frozen=True)
class GPU:
    """Speed and size of a GPU, and its links to others.

    Args:
        half: FLOP/s of dense matrix products in bfloat16 (float16 for those without), > 0.
        full: FLOP/s in float32 without tensor cores, > 0.
        memory: bytes, > 0.
        bandwidth: bytes/s of the memory, > 0.
        link: bytes/s to GPUs of the same machine, in each direction, > 0.
    """

    half: float
    full: float
    memory: float
    bandwidth: float
    link: float

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(**dataclasses.asdict(self))

    def flops(self, precision: str) -> float:
        """Peak FLOP/s of a precision of training."""
        return self.full if precision == "float32" else self.half


def v100() -> GPU:
    """Tesla V100 SXM2, 32 GB; float16 in place of bfloat16.

    Reference: NVIDIA V100 data sheet, January 2020.
    """
    return GPU(half=125e12, full=15.7e12, memory=32e9, bandwidth=0.9e12, link=150e9)


def a100() -> GPU:
    """A100 SXM, 80 GB.

    Reference: NVIDIA A100 data sheet, June 2021.
    """
    return GPU(half=312e12, full=19.5e12, memory=80e9, bandwidth=2.039e12, link=300e9)


def h100() -> GPU:
    """H100 SXM, 80 GB.

    Reference: NVIDIA H100 data sheet, whose tensor figures are with sparsity, twice the dense.
    """
    return GPU(half=989e12, full=67e12, memory=80e9, bandwidth=3.35e12, link=450e9)


def h200() -> GPU:
    """H200 SXM, 141 GB.

    Reference: NVIDIA H200 data sheet, as of the H100.
    """
    return GPU(half=989e12, full=67e12, memory=141e9, bandwidth=4.8e12, link=450e9)


def l40s() -> GPU:
    """L40S, 48 GB, on PCIe 4.

    Reference: NVIDIA L40S data sheet.
    """
    return GPU(half=362e12, full=91.6e12, memory=48e9, bandwidth=0.864e12, link=32e9)


def rtx4090() -> GPU:
    """GeForce RTX 4090, 24 GB, on PCIe 4.

    Reference: NVIDIA Ada GPU architecture paper, appendix A; sums in float32.
    """
    return GPU(half=165.2e12, full=82.6e12, memory=24e9, bandwidth=1.008e12, link=32e9)


GPUS: Registry[GPU] = Registry(
    "GPU",
    {
        "h100": h100,
        "h200": h200,
        "a100": a100,
        "v100": v100,
        "l40s": l40s,
        "rtx4090": rtx4090,
        "custom": GPU,
    },
    base=GPU,
)
"""GPUs by name; `custom(half=4e14, ...)` is one that is not here."""
