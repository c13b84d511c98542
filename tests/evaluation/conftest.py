"""Registries that forget what a test registers."""

from __future__ import annotations

import pytest


@pytest.fixture
def restored(monkeypatch):
    """`(*registries)` gives them back after the test as they were before."""

    def protect(*registries):
        for registry in registries:
            for table in ("_entries", "_listed"):
                monkeypatch.setattr(registry, table, dict(getattr(registry, table)))

    return protect
