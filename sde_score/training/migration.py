"""Names in configurations of earlier versions, and what they are called now."""

from __future__ import annotations

RENAMED_VALUES: dict[str, dict[str, str]] = {"prediction": {"field": "scaled_score"}}
"""By field of `TrainConfig`: a value of an earlier version to the one of today."""

RENAMED_ARGUMENTS: dict[str, dict[str, str]] = {
    "objective": {"probe_law": "probe_distribution"},
}
"""By field of `TrainConfig` that holds a spec: an argument of an earlier version to today's."""
