"""Random directions of an objective: the refusal of wrong settings."""

from __future__ import annotations

from sde_score._core.checks import require_choice, require_count
from sde_score.random import PROBE_DISTRIBUTIONS


def require_probes(probes: int, probe_distribution: str) -> None:
    """Refuse a count below 1 and a distribution that is not in `PROBE_DISTRIBUTIONS`.

    Raises:
        ValueError: naming the argument.
    """
    require_count(probes=probes)
    require_choice("probe_distribution", probe_distribution, tuple(PROBE_DISTRIBUTIONS))
