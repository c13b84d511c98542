"""Renamed values: configurations of earlier versions in the names of today."""

from __future__ import annotations

from typing import Any

from sde_score._core.registry import format_spec, parse_spec

RENAMED_VALUES: dict[str, dict[str, str]] = {"prediction": {"field": "scaled_score"}}
"""By field of `TrainConfig`: a value of an earlier version to the one of today."""

RENAMED_ARGUMENTS: dict[str, dict[str, str]] = {
    "objective": {"probe_law": "probe_distribution"},
}
"""By field of `TrainConfig` that holds a spec: an argument of an earlier version to today's."""

BEFORE: dict[str, Any] = {
    "model": "score",
    "optimizer": "adam(decay='decoupled', betas=(0.9, 0.999), eps=1e-08)",
    "schedule": "constant",
    "condition_dropout": 0.0,
    "coupling": "independent",
    "augmentation": "none",
}
"""By field that came after version 0.1.0: what that version did."""


def migrated(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a `config.yaml` in today's names; those of today are left as they are."""
    values = dict(values)
    whole = str(values.get("model")).startswith("<")  # a model that was given as an object
    if values.get("sigma_data") is not None or whole:  # resolved: the configuration of a run
        for name, value in BEFORE.items():
            values.setdefault(name, value)
    for name, renamed in RENAMED_VALUES.items():
        if isinstance(values.get(name), str):
            values[name] = renamed.get(values[name], values[name])
    for name, renamed in RENAMED_ARGUMENTS.items():
        if isinstance(values.get(name), str) and any(old in values[name] for old in renamed):
            spec, arguments = parse_spec(values[name])
            today = {renamed.get(key, key): value for key, value in arguments.items()}
            values[name] = format_spec(spec, today)
    return values
