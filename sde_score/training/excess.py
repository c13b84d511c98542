"""Excess loss: what the loss of a batch has above that of the best model for the training data.

The best model is known in closed form, the diffused training data themselves (of the class, where
classes are conditions). It meets the same examples, times and noise, so that the difference tells
the network's error alone; below it there is nothing to learn but the data by heart.

Reference: Fang et al. 2025, https://arxiv.org/abs/2506.13763.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sde_score._core.conditions import Condition, described
from sde_score._core.modules import evaluating
from sde_score.models import EmpiricalDistribution, ScoreFunction
from sde_score.training.batches import Batches, MicroBatch
from sde_score.training.build import TrainedModel
from sde_score.training.couplings import Independent
from sde_score.training.prepare import Job
from sde_score.training.streaming import require_no_stream


class ExcessLoss:
    """Measures the excess loss of a model in training.

    Args:
        job: its data, model and objective.
        batches: of the run.

    Raises:
        ValueError: for a run whose best model is not known.
    """

    def __init__(self, job: Job, batches: Batches) -> None:
        config, self._job, self._batches = job.config, job, batches
        require_no_stream(job.examples, "excess=True")
        known = getattr(job.objective, "takes_pairs", False) and job.objective.needs == "score"
        plain = isinstance(batches.coupling, Independent) and str(config.augmentation) == "none"
        if config.conditional and job.examples.condition_shape:
            raise ValueError(
                "excess=True knows the best model of each class, and the conditions are "
                f"{described(job.examples.condition_shape)}: leave it out"
            )
        if not known or not plain or config.dequantize:
            raise ValueError(
                "excess=True knows the best model for denoising objectives on the data as they "
                "are: leave out coupling, augmentation and dequantize, or excess"
            )
        rows = torch.arange(len(job.examples))
        x0, sde, where = job.examples.tensor(), job.model.sde, batches.device
        self._all = EmpiricalDistribution(x0, sde).to(where)
        labels = job.examples.labels_at(rows) if config.conditional else None
        self._classes = (
            {}
            if labels is None
            else {
                int(one): EmpiricalDistribution(x0[labels == one], sde).to(where)
                for one in torch.unique(labels)
            }
        )
        self._best = ScoreFunction(self._score, sde)

    def _score(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        t = t.expand(len(x))
        if condition is None:
            return self._all.score(x, t)
        score = torch.empty_like(x)
        for one in torch.unique(condition).tolist():
            rows = condition == one
            score[rows] = self._classes.get(int(one), self._all).score(x[rows], t[rows])
        return score

    def measure(self, step: int, model: TrainedModel | None = None) -> float:
        """The mean over the first micro-batch of a step, counted from 0, with the weights of now.

        Args:
            step: whose examples, times and noise are met, once more.
            model: with these weights; None for that of the job.
        """
        model = model or self._job.model
        with torch.no_grad(), evaluating(model), evaluating(self._job.objective):
            ours = self._loss(model, next(self._batches.step(step)))
            best = self._loss(self._best, next(self._batches.step(step)))
        return ours - best

    def _loss(self, model: Any, part: MicroBatch) -> float:
        losses = self._job.objective(model, part.x0, part.condition, part.draws)
        return float(losses.double().mean())
