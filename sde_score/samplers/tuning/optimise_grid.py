r"""Find the times at which a sampler should stop, for a model and a number of evaluations.

The grid that minimizes

.. math:: \frac1n \sum_i \log rms\big(\tilde x^{(i)} - x^{(i)}\big),

with x~ the end of a sampling run and x that of a fine solution from the same start, is searched by
gradient, through all steps of the sampler (`search`). The mean of logarithms counts a factor
of two in the error the same for every start, where a mean of squares would see the few starts at a
boundary between modes and nothing else.

Reference: Sabour et al. 2024 (Align Your Steps), https://arxiv.org/abs/2404.14507, and Chen et al.
2024 (GITS), https://arxiv.org/abs/2405.11326, look for the same grids by a bound on the local
error and by dynamic programming; the error at the end, which counts, is differentiated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score._core.conditions import Condition
from sde_score._core.modules import evaluating
from sde_score.models import Model
from sde_score.samplers.adaptive.probability_flow import ProbabilityFlowODE
from sde_score.samplers.base import SAMPLERS, Sampler
from sde_score.samplers.fixed_step.auto import suited
from sde_score.samplers.grids import GridFile, NoiseRatios, UniformTime, write_grid_file
from sde_score.samplers.tuning.search import EndErrors, Parts, Search, Starts, ratios_of

METHODS = ("auto", "gradient", "search")
"""How grids are searched: by gradient, one increment at a time, or the first where it works."""


@dataclass(frozen=True)
class FoundGrid:
    """A grid that was searched for, with the evidence.

    Args:
        grid: for `Sampler.grid`.
        sampler: the sampler with that grid.
        spec: the sampler in words, steps included and the grid not.
        nfe: its evaluations, counted.
        target: what was sampled, in words.
        method: how it was searched, `"gradient"` or `"search"`.
        began: the stock grid that the search began with.
        errors: of both grids on both noises, by `(noise, grid)`: `"fitted"` or `"fresh"`, and
            `"before"`, the grid that the sampler came with, or `"after"`.
    """

    grid: NoiseRatios
    sampler: Sampler
    spec: str
    nfe: int
    target: str
    method: str
    began: str
    errors: Mapping[tuple[str, str], EndErrors]

    def file(self) -> GridFile:
        """What its file holds."""
        found = {}
        for (noise, which), errors in self.errors.items():
            found[f"{noise}_rms_{which}"] = errors.rms
            found[f"{noise}_median_{which}"] = errors.median
        return GridFile(self.grid.ratios, self.spec, self.nfe, self.target, found)

    def save(self, path: str | Path) -> None:
        """Write it for `grid="file(path=...)"`, or `--grid` on the command line.

        Raises:
            ValueError: if the name does not end with .json.
            OSError: if it cannot be written.
        """
        write_grid_file(path, self.file())


def optimise_grid(
    model: Model,
    sampler: str | Sampler,
    nfe: int,
    event_shape: Sequence[int] | None = None,
    *,
    num: int = 512,
    fresh: int = 512,
    seed: int = 0,
    iterations: int = 100,
    learning_rate: float = 0.1,
    method: str = "auto",
    reference: Sampler | None = None,
    condition: Condition = None,
    batch_size: int = 512,
    target: str = "",
    progress: bool = True,
) -> FoundGrid:
    """Find the grid of a deterministic sampler with the least error at the end.

    The search begins with the best of the stock grids, each with several last noise levels, and
    keeps the best it meets on starts that the gradient has not seen. A model with parameters is
    frozen meanwhile, and its activations are computed again in the backward pass.

    Args:
        model: anything with the model protocol that can be differentiated.
        sampler: a name such as `"adams(order=3, corrector=2)"`, or an object; its steps are
            replaced.
        nfe: evaluations it may use; it makes as many steps as they allow.
        event_shape: of one sample; None takes `model.event_shape`.
        num: starts to fit to. Half as many more decide which iterate is kept.
        fresh: further starts, for the errors that are reported as fresh.
        seed: random seed of the starts; the same seed finds the same grid.
        iterations: steps of Adam, or four times as many runs of the search without gradients.
        learning_rate: of Adam, on the logarithms of the increments; falls to a twentieth.
        method: `"gradient"`, `"search"` (one increment at a time) or `"auto"`: by gradient if the
            sampler and the model can be differentiated in the times, which is tried.
        reference: the fine solution; None is `ProbabilityFlowODE`, to 1e-7 and down to `sde.t_min`,
            or for a model with parameters to 1e-5 and down to `sde.sampling_t_min`.
        condition: passed to the model; one entry per start, `num + num // 2 + fresh` in all.
        batch_size: starts that the model sees at once.
        target: what is sampled, in words, for the file.
        progress: show a bar once it takes over two seconds.

    Raises:
        ValueError: for a sampler that is stochastic, adaptive, or keeps the last noise; a budget
            below its cost; or arguments outside their range.
    """
    require_count(nfe=nfe, num=num, fresh=fresh, iterations=iterations, batch_size=batch_size)
    require_positive(learning_rate=learning_rate)
    require_choice("method", method, METHODS)
    sampler = SAMPLERS.resolve(sampler, name="sampler")
    _require_suitable(sampler)
    reference = reference or fine_solution(model)
    with frozen(model):
        rectified = replace(sampler, grid="rectified").within(nfe, model)
        sampler, spent = replace(sampler, steps=rectified.steps), rectified.count_nfe(model)
        sampler = suited(sampler, model)
        shape = event_shape_of(model, event_shape)
        parts = Parts(model, reference, shape, seed, condition, batch_size, progress)
        fit, held, new = parts.take(num, max(1, num // 2), fresh)
        search = Search(model, sampler, fit, held, progress)
        spec = sampler.text("grid")
        method, began, grid = search_grid(search, spent, method, iterations, learning_rate, seed)
        better = replace(sampler, grid=grid)
        errors = _errors(search, sampler, better, fit, new)
    return FoundGrid(grid, better, spec, spent, target, method, began, errors)


def search_grid(
    search: Search, nfe: int, method: str, iterations: int, learning_rate: float, seed: int
) -> tuple[str, str, NoiseRatios]:
    """How the grid of a search's sampler was searched, where that began, and the grid.

    Args:
        search: the model, the sampler and the starts.
        nfe: the sampler's evaluations.
        method: one of `METHODS`.
        iterations: of Adam; the search without gradients makes four times as many runs.
        learning_rate: of Adam.
        seed: random seed of the directions in which gradients are tried.
    """
    began, theta = search.best_stock()
    method = _choose(method, search, theta, seed)
    if method == "gradient":
        theta = search.by_gradient(theta, iterations, learning_rate)
    else:
        theta = search.by_coordinate(theta, 4 * iterations)
    ratios = tuple(ratios_of(search.sde, theta).tolist())
    made_for = f"{search.sampler.text('grid')}, {nfe} NFE"
    return method, began, NoiseRatios(ratios=ratios, made_for=made_for)


def _errors(
    search: Search, before: Sampler, after: Sampler, fitted: Starts, fresh: Starts
) -> dict[tuple[str, str], EndErrors]:
    """Errors of two samplers on two sets of starts, as in `FoundGrid.errors`."""
    return {
        (noise, which): EndErrors.of(search.errors(sampler.times(search.model.sde), starts))
        for noise, starts in (("fitted", fitted), ("fresh", fresh))
        for which, sampler in (("before", before), ("after", after))
    }


def _require_suitable(sampler: Sampler) -> None:
    """Refuse a sampler to which no grid can be fitted."""
    if sampler.stochastic:
        raise ValueError(
            f"sampler={sampler} draws noise on the way: a grid is fitted to end points, which only "
            "deterministic samplers repeat; try adams, or eta=0"
        )
    if sampler.adaptive:
        raise ValueError(f"sampler={sampler} chooses its own steps: there is no grid to find")
    if not sampler.denoise:
        raise ValueError(
            "denoise=False keeps the noise of the last time: which one is best is part of what is "
            "found, so set denoise=True"
        )


def _choose(method: str, search: Search, theta: Tensor, seed: int) -> str:
    """The method to search by, `"gradient"` or `"search"`."""
    if method == "search" or search.differentiable(theta, seed):
        return "search" if method == "search" else "gradient"
    if method == "gradient":
        raise ValueError(
            "method='gradient': the gradient through a run of this sampler is not that of "
            "differences, so that it or the model cannot be differentiated in the times; "
            "try 'search'"
        )
    return "search"


def event_shape_of(model: Model, given: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of one sample: the given one, or that of the model."""
    shape = getattr(model, "event_shape", None) if given is None else given
    if shape is None:
        raise ValueError("event_shape=None: this model does not say its own, so it must be given")
    return tuple(shape)


def parameters_of(model: Model) -> list[nn.Parameter]:
    """Those of a network; none of a model known in closed form."""
    return list(model.parameters()) if isinstance(model, nn.Module) else []


def fine_solution(model: Model) -> Sampler:
    """An exact model is asked for all it knows, a network for what it was trained to say well."""
    if parameters_of(model):
        return ProbabilityFlowODE(rtol=1e-5, atol=1e-5, grid=UniformTime())
    return ProbabilityFlowODE(rtol=1e-7, atol=1e-7, grid=UniformTime(end=model.sde.t_min))


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """The model in evaluation mode, its parameters without gradients; as before on leaving."""
    parameters = [p for p in parameters_of(model) if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        with evaluating(model):
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
