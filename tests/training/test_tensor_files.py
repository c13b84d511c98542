"""Files of tensors: those of safetensors, whoever wrote which rows."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save

from sde_score.training.tensor_files import (
    Part,
    begin_file,
    change_metadata,
    fill_file,
    read_file,
)

TENSORS = {
    "seven": torch.randn(7, 2, 3),
    "five": torch.arange(5),
    "three": torch.randn(3, dtype=torch.float64),
    "number": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "half": torch.randn(4, 3).to(torch.bfloat16).T,
    "yes": torch.tensor([True, False]),
}


def shares(world, rank):
    """The tensors with rows as the parts of one process, as FSDP2 cuts them."""
    found = {}
    for name, value in TENSORS.items():
        if value.ndim == 0 or name == "yes":
            found[name] = value
            continue
        size = -(-len(value) // world)
        start = min(rank * size, len(value))
        found[name] = Part(value[start : start + size], tuple(value.shape), start)
    return found


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_file_is_that_of_safetensors_and_any_rows_are_read(tmp_path, world):
    """First dimensions of 3, 5 and 7, more processes than rows, in any order of writing."""
    path, unknown, known = tmp_path / "x.safetensors", {"sum": "0" * 4}, {"sum": "abcd"}
    begin_file(path, shares(world, 0), unknown)
    for rank in reversed(range(world)):
        fill_file(path, shares(world, rank), first=rank == 0, metadata=unknown)
    change_metadata(path, shares(world, 0), known)
    plain = {name: value.contiguous() for name, value in TENSORS.items()}
    assert path.read_bytes() == save(plain, known)
    for others in (1, 2, 3, 5):
        for rank in range(others):
            expected = shares(others, rank)
            found = read_file(path, expected)
            assert found.keys() == expected.keys()
            for name, want in expected.items():
                have = found[name]
                if isinstance(want, Part):
                    assert (have.shape, have.start) == (want.shape, want.start)
                    have, want = have.rows, want.rows
                assert have.dtype == want.dtype
                assert torch.equal(have, want), name


def test_what_the_format_does_not_hold_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"w is torch\.complex128, which files"):
        begin_file(tmp_path / "x", {"w": torch.zeros(2, dtype=torch.complex128)})
