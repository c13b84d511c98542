"""Guided runs: a trained run whose model is guided, for all that measures runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sde_score.guidance import Guided, guide
from sde_score.models import Model
from sde_score.samplers import Sampler
from sde_score.training import WEIGHTS, Run, load_run


def guided_run(run: Run, guidance: str | None) -> Run:
    """A run with its model under guidance.

    Args:
        run: an open run.
        guidance: such as `"cfg(3)"` or `"cfg(2, against='ema(0.02)')"`, where `against` names
            other weights of the same run, or the directory of another one; None for none.

    Raises:
        ValueError: for unknown guidance, or a model that it does not suit.
        CheckpointError: if what is named cannot be opened.
    """
    if guidance is None:
        return run

    def opened(name: str) -> Model:
        own = name in WEIGHTS or name.startswith("ema(")
        other = load_run(run.path, name) if own else load_run(name)
        return other.model.to(run.device)

    guided: Any = guide(run.model, guidance, opened=opened)
    if guided.against is None and not (run.num_classes or run.condition_shape):
        raise ValueError(
            f"guidance={guidance!r} goes away from the answer without a condition, and {run.path} "
            "was trained without any: train it with --conditional, or go away from a weaker "
            "model, as with against='ema(0.05)'"
        )
    return replace(run, model=guided)


def followed(model: Model, sampler: Sampler) -> Model:
    """The model that a sampler sees: a rule of guidance that depends on the steps knows them.

    Raises:
        ValueError: for such a rule and a sampler that finds its steps on the way.
    """
    return model.followed_by(sampler) if isinstance(model, Guided) else model


def require_flow(model: Model, what: str) -> None:
    """Refuse guidance that is no function of x and t, of which there is no flow.

    Args:
        model: of a run.
        what: needs the flow, for the message, with what to do without.

    Raises:
        ValueError: for guidance with momentum, or a rule for the steps of a sampler.
    """
    if isinstance(model, Guided) and model.rule.depends_on_steps:
        raise ValueError(f"{model.rule!r} depends on the steps of the sampler: {what}")


def parts_of(model: Model) -> Sequence[object]:
    """What decides a guided model's answers, beside weights: for its name in a journal."""
    return (model.rule, model.interval, model.negative) if isinstance(model, Guided) else ()
