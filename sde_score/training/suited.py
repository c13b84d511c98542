"""Samplers that suit a trained model, by what it was trained for."""

from __future__ import annotations

from sde_score.models import FlowMapModel, Model
from sde_score.objectives import OBJECTIVES, Objective
from sde_score.training.config import is_note


def few_steps(model: Model, objective: str | Objective) -> tuple[str, ...]:
    """Specs of the samplers that take 1, 2 and 4 steps of a flow map; none for other models.

    A flow map that was trained to go to the data alone takes noise between its steps.

    Args:
        model: of a run.
        objective: that it was trained by.
    """
    if not isinstance(model, FlowMapModel):
        return ()
    known = None if is_note(objective) else OBJECTIVES.resolve(objective)
    between = ", renoise=True" if getattr(known, "to_data_alone", False) else ""
    return ("flow-map(steps=1)", *(f"flow-map(steps={steps}{between})" for steps in (2, 4)))


def sampler_for(model: Model, objective: str | Objective, all_noise_levels: bool) -> str:
    """Spec of the sampler that suits a model, for where none is named.

    Args:
        model: of a run.
        objective: that it was trained by.
        all_noise_levels: whether it was trained at all of them, or on data without noise.
    """
    if few := few_steps(model, objective):
        return few[1]
    if all_noise_levels:
        return "auto(steps=20)"
    kernel = "mala" if hasattr(model, "energy") else "mala-score"
    return f"mcmc(kernel={kernel!r}, steps=500, warmup=500)"
