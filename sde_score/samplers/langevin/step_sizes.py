r"""Step sizes of annealed Langevin dynamics, chosen on Gaussian data.

On data N(0, s^2) under noise sigma_i a Langevin step of size a is linear, so the variance of the
chain follows a recursion in closed form, and the step sizes need no trial and error:

.. math:: v \leftarrow \Big(1 - \frac{a_i}{s^2 + \sigma_i^2}\Big)^2 v + 2 a_i, \qquad
          a_i = r\, \sigma_i^2

Too small a ratio r leaves the variance of the larger noise; too large a one adds its own. Noise
levels are those of x / alpha: sigma / alpha of any diffusion.

Reference: Song & Ermon 2020, https://arxiv.org/abs/2006.09011, section 4.3 (technique 4), for data
at a point, s = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sde_score._core.checks import require_count, require_positive

Stds = float | Sequence[float]

_LARGEST = 1.0
_SMALLEST = 1e-7


def annealed_variance(
    sigmas: Tensor | Sequence[float],
    data_std: Stds,
    steps_each: int,
    step_ratio: Tensor | float,
    start_std: float | None = None,
) -> Tensor:
    """Variance of the chain at the end of each level, on Gaussian data.

    Args:
        sigmas: noise levels, decreasing, `(levels,)`.
        data_std: s, one or several, at least 0.
        steps_each: Langevin steps at each level.
        step_ratio: r: a number, or one per level.
        start_std: standard deviation of the start; None for that of x_t / alpha at the
            first noise level.

    Returns:
        float64, `(levels,)`, or `(levels, len(data_std))` if several are given. The truth is
        `sigmas^2 + data_std^2`.

    Raises:
        ValueError: for arguments outside their range.
    """
    levels, stds = _levels(sigmas), _stds(data_std)
    require_count(steps_each=steps_each)
    ratios = torch.as_tensor(step_ratio, dtype=torch.float64).expand(len(levels))
    variance = _start(levels, stds, start_std)
    path = []
    for sigma, ratio in zip(levels, ratios, strict=True):
        variance = _settle(variance, sigma, stds, steps_each, ratio)
        path.append(variance)
    several = torch.stack(path)
    return several[:, 0] if isinstance(data_std, (int, float)) else several


def choose_step_ratio(
    sigmas: Tensor | Sequence[float],
    data_std: Stds,
    steps_each: int,
    start_std: float | None = None,
) -> float:
    """The ratio r, one for all levels, whose chain ends nearest the truth.

    Nearest in the logarithm of the variance, for the worst of several `data_std`.

    Args:
        sigmas: noise levels, decreasing, `(levels,)`.
        data_std: s, the standard deviation of the data in units of x0; for data of several scales
            those along its principal axes, or the smallest and the largest: 0 stands for all
            directions in which the data are as good as a point, such as off their manifold.
        steps_each: Langevin steps at each level.
        start_std: standard deviation of the start; None for that of x_t / alpha at the
            first noise level.

    Returns:
        r, in (0, 1]: with 1 a direction without data forgets all in one step.

    Raises:
        ValueError: for arguments outside their range.
    """
    levels, stds = _levels(sigmas), _stds(data_std)
    require_count(steps_each=steps_each)
    start = _start(levels, stds, start_std)

    def errors(ratios: Tensor) -> Tensor:
        variance = start.expand(len(ratios), -1)
        for sigma in levels:
            variance = _settle(variance, sigma, stds, steps_each, ratios[:, None])
        return _error(variance, levels[-1], stds)

    return _search(errors).item()


def choose_steps_each(
    sigmas: Tensor | Sequence[float],
    data_std: Stds,
    tolerance: float = 0.05,
    start_std: float | None = None,
    largest: int = 100_000,
) -> int:
    """The fewest steps at each level with which `choose_step_ratio` meets a tolerance.

    Args:
        sigmas: noise levels, decreasing, `(levels,)`.
        data_std: standard deviation of the data, one or several, at least 0.
        tolerance: on the relative error of the variance in the end, > 0.
        start_std: standard deviation of the start; None for that of x_t / alpha at the first noise
            level.
        largest: number of steps at which to give up.

    Raises:
        ValueError: for arguments outside their range, or if `largest` steps do not meet it.
    """
    require_positive(tolerance=tolerance)
    levels, stds = _levels(sigmas), _stds(data_std)

    def met(steps: int) -> bool:
        ratio = choose_step_ratio(levels, data_std, steps, start_std)
        after = annealed_variance(levels, stds.tolist(), steps, ratio, start_std)[-1]
        return bool(((after / (levels[-1] ** 2 + stds**2) - 1).abs() <= tolerance).all())

    tried = [*(1 << k for k in range(largest.bit_length())), largest]
    found = next((k for k, steps in enumerate(tried) if met(steps)), None)
    if found is None:
        raise ValueError(
            f"tolerance={tolerance} is not met by {largest} steps at each of {len(levels)} "
            "levels: use more levels"
        )
    low, high = ([0, *tried][found], tried[found])
    for _ in range((high - low - 1).bit_length()):
        middle = (low + high) // 2
        if low < middle:
            low, high = (low, middle) if met(middle) else (middle, high)
    return high


def _settle(variance: Tensor, sigma: Tensor, stds: Tensor, steps: int, ratio: Tensor) -> Tensor:
    """The recursion after `steps` steps at one level, summed up."""
    pull = ratio * sigma**2 / (stds**2 + sigma**2)
    kept = (1 - pull) ** (2 * steps)
    # Where it settles: 2 a / (1 - (1 - pull)^2), without the square's cancellation.
    settled = 2 * (stds**2 + sigma**2) / (2 - pull)
    return settled + kept * (variance - settled)


def _error(variance: Tensor, sigma: Tensor, stds: Tensor) -> Tensor:
    """Worst error of the log variance over the last dimension."""
    return (variance / (stds**2 + sigma**2)).log().abs().amax(-1)


def _search(errors: Callable[[Tensor], Tensor]) -> Tensor:
    """The ratio of least error, by a grid in the logarithm that closes in on the best point."""
    low, high = torch.tensor([_SMALLEST, _LARGEST], dtype=torch.float64).log().unbind()
    for _ in range(8):
        grid = torch.linspace(0, 1, 101, dtype=torch.float64) * (high - low) + low
        best = errors(grid.exp()).argmin()
        low, high = grid[(best - 1).clamp(min=0)], grid[(best + 1).clamp(max=100)]
    return grid[best].exp()


def _start(levels: Tensor, stds: Tensor, start_std: float | None) -> Tensor:
    if start_std is None:
        return stds**2 + levels[0] ** 2
    require_positive(start_std=start_std)
    return torch.full_like(stds, start_std**2)


def _levels(sigmas: Tensor | Sequence[float]) -> Tensor:
    levels = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
    if levels.ndim != 1 or len(levels) == 0 or not bool((levels > 0).all()):
        raise ValueError(f"sigmas={sigmas!r} must be positive noise levels, shape (levels,)")
    if bool((levels.diff() >= 0).any()):
        raise ValueError("sigmas must decrease, from the largest noise to the smallest")
    return levels


def _stds(data_std: Stds) -> Tensor:
    require_spreads(data_std)
    return torch.tensor(
        [data_std] if isinstance(data_std, (int, float)) else list(data_std), dtype=torch.float64
    )


def require_spreads(data_std: Stds) -> None:
    """Refuse what is not a standard deviation of data, or several.

    Raises:
        ValueError: for a number that is negative or not finite, or no number.
    """
    several = [data_std] if isinstance(data_std, (int, float)) else list(data_std)
    if not several or not all(math.isfinite(value) and value >= 0 for value in several):
        raise ValueError(
            f"data_std={data_std!r} must be a standard deviation of at least 0, or several"
        )
