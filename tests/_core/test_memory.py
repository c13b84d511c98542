"""Amounts beyond the memory are refused with the number."""

from __future__ import annotations

import pytest

from sde_score._core.errors import ArgumentError
from sde_score._core.memory import readable, require_memory, total_memory


def test_there_is_some_memory():
    assert total_memory() > 1e8
    require_memory(1e6, "a little")


@pytest.mark.parametrize("size", [1e15, 10**18, 1e30, 10**400])
def test_amounts_beyond_it_are_refused_with_what_is_there(size):
    with pytest.raises(
        ArgumentError, match=r"^width=9 needs .* of memory, more than the .*: try 8"
    ):
        require_memory(size, "width=9", "try 8")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (5, "5 bytes"),
        (3.5e9, "3.5 GB"),
        (10**12, "1 TB"),
        (1e30, "1e+30 bytes"),
        (10**400, "an integer of 1329 bits bytes"),
    ],
)
def test_sizes_are_readable(size, text):
    assert readable(size) == text


def test_a_limit_of_the_process_counts():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = 1 << 45
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        assert total_memory() <= limit
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
