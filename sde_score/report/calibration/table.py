"""Tables of calibration and of posterior-predictive checks."""

from __future__ import annotations

from sde_score.evaluation import Calibration, PredictiveCheck
from sde_score.report.tables import Table

_LEVELS = (0.5, 0.8, 0.95)


def calibration_table(found: Calibration) -> Table:
    """A row for each parameter, and one for distances to random points: p-value and coverage."""
    rows = []
    for ranks in (found.sbc, found.tarp):
        _, shares = ranks.coverage(_LEVELS)
        for name, p_value, row in zip(ranks.names, ranks.p_values(), shares, strict=True):
            cells = [f"{float(share):.3f}" for share in row] if ranks is found.sbc else [""] * 3
            rows.append([name, f"{float(p_value):.3g}", *cells])
    expected, _ = found.sbc.coverage(_LEVELS)
    wide = [2 * (share * (1 - share) / len(found.truth)) ** 0.5 for share in _LEVELS]
    spans = [f"{float(e):.3f} ± {w:.3f}" for e, w in zip(expected, wide, strict=True)]
    rows.append(["expected", "", *spans])
    caption = (
        f"{len(found.truth)} truths among {found.sbc.draws} draws each: the probability of ranks "
        "as uneven as these if the posteriors are exact, and the share of truths within central "
        "intervals."
    )
    return Table(["", "p", *(f"{level:.0%} interval" for level in _LEVELS)], rows, caption)


def predictive_table(found: PredictiveCheck) -> Table:
    """A row for each statistic: what was seen, and the spread of what is simulated again."""
    low, middle, high = found.quantiles()
    rows = [
        [name, *(f"{float(value):.4g}" for value in values)]
        for name, *values in zip(
            found.names, found.seen, low, middle, high, found.p_values, strict=True
        )
    ]
    caption = f"What was seen among {len(found.simulated)} simulations of the posterior's draws."
    return Table(["statistic", "seen", "5%", "median", "95%", "p"], rows, caption)
