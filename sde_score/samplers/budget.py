"""The most steps within a budget of network evaluations, found by counting."""

from __future__ import annotations

from collections.abc import Callable

from sde_score._core.memory import require_memory

REFUSALS = (ValueError, RuntimeError, ArithmeticError, LookupError)
"""What a sampler may raise where a number of steps does not suit it."""

_LONGEST_GIVEN = 10_000  # steps of a grid of given times
_MOST_STEPS = 4  # per evaluation: steps that are solved in parallel take less than one each


def most_steps(count: Callable[[int], int], nfe: int) -> int:
    """The most steps that cost at most `nfe` evaluations.

    Args:
        count: evaluations of a number of steps, which does not fall with it; raises one of
            `REFUSALS` where the number does not suit.
        nfe: the budget.

    Raises:
        ValueError: if no number of steps fits, with the reason.
    """
    require_memory(8 * nfe, f"nfe={nfe}")  # of the times of so many steps
    best, low, high, guess = 0, 0, _MOST_STEPS * nfe + 1, nfe
    refused = exceeded = ""
    for _ in range(high):  # each closes the gap by one at least
        if high - low <= 1:
            break
        steps = min(max(guess, low + 1), high - 1)
        try:
            found = count(steps)
        except REFUSALS as error:  # more steps are needed, as a rule
            low, refused = steps, f"{steps} steps: {error}"
            guess = (low + high) // 2
            continue
        if found > nfe:  # evaluations are nearly in proportion to the steps
            high, exceeded = steps, f"{steps} steps make {found} evaluations"
            guess = steps * nfe // found
        else:
            guess = (steps + high) // 2 if steps == low + 1 else steps + 1
            best = low = steps
    # A grid of given times suits one number of steps, which halving does not find.
    best = best or next(
        (s for s in range(min(nfe, _LONGEST_GIVEN), 0, -1) if _fits(count, s, nfe)), 0
    )
    if not best:
        raise ValueError(f"nfe={nfe} is too small: {exceeded or refused}")
    return best


def _fits(count: Callable[[int], int], steps: int, nfe: int) -> bool:
    try:
        return count(steps) <= nfe
    except REFUSALS:
        return False
