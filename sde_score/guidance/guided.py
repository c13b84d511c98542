r"""Guidance: a model that goes away from a prediction that is worse.

    guided = Guided(run.model, "cfg(3)")                        # away from the answer without label
    guided = Guided(run.model, "cfg(2)", against=weaker.model)  # autoguidance
    guided = Guided(run.model, ClassifierFree(3), interval=(0.2, 5))

It is a model like any other: samplers, likelihoods, views and benchmarks run on it. Its likelihood
is that of the guided flow, which is a distribution, if not one with a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like
from sde_score._core.conditions import BESIDE, Condition, nothing_like
from sde_score._core.registry import parse_spec
from sde_score.guidance.rules import RULES, Rule
from sde_score.models import (
    Model,
    Scales,
    WrappedDenoiser,
    as_condition,
    require_model,
    stand_in,
)
from sde_score.samplers import Sampler, suited

PRODUCT_BIAS = (
    "biased: at t > 0 the sum of the scores is not that of the diffused product; corrected by "
    "posterior.smc"
)


class Guided(WrappedDenoiser):
    r"""A model's prediction, guided away from a worse one by a rule.

    Args:
        model: anything with the model protocol.
        rule: such as `"cfg(3)"`, `"apg(weight=4, radius=5)"` or `ClassifierFree(3)`.
        against: a model that is worse in the way that guidance shall correct, asked under the same
            condition, such as one trained shorter or an earlier average of the weights; None asks
            `model` without its condition, both as one batch.
        negative: a label, or a vector, to go away from, in place of no condition; a dictionary of
            them for a model of several conditions, of which those it lacks are dropped.
        interval: noise levels sigma / alpha, (low, high], within which guidance acts; outside them
            the answer is that of `model`, at one evaluation. None for all.
        sampler: whose steps the rule is for, where it depends on them (CFG++).

    Raises:
        TypeError: if `model` or `against` lacks the protocol.
        ValueError: for an unknown rule, an interval that is not increasing, models of different
            diffusions, both `against` and `negative`, or a model that knows no answer without a
            condition.

    Reference: Ho & Salimans 2022, https://arxiv.org/abs/2207.12598; Karras et al. 2024
    (autoguidance), https://arxiv.org/abs/2406.02507; Kynkaanniemi et al. 2024 (interval),
    https://arxiv.org/abs/2404.07724.
    """

    def __init__(
        self,
        model: Model,
        rule: str | Rule,
        against: Model | None = None,
        negative: Any = None,
        interval: Sequence[float] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__(model)
        self.rule = RULES.resolve(rule, name="rule")
        if sampler is not None:
            self.rule = self.rule.on_grid(suited(sampler, model).times(model.sde))
        _require_worse(model, against, negative)
        self.against = against
        self.negative: Condition = as_tensors(negative)
        self.interval = _require_interval(interval)
        self._before: tuple[Tensor, Tensor] | None = None

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        inside = self._inside(at)
        if inside is not None and not inside.ndim and not inside:
            return self.model.denoise(x, at.t, condition)
        good, worse = self._pair(x, at.t, condition)
        if self.rule.momentum:
            worse = good - self._with_momentum(good - worse, at.t)
        guided = self.rule(x, good, worse, at)
        if inside is None or not inside.ndim:
            return guided
        return torch.where(inside.reshape(-1, *(1,) * (x.ndim - 1)), guided, good)

    def _inside(self, at: Scales) -> Tensor | None:
        """Where guidance acts; None for everywhere."""
        if self.interval is None:
            return None
        ratio = self.sde.noise_ratio(at.t)
        return (self.interval[0] < ratio) & (ratio <= self.interval[1])

    def _pair(self, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The good prediction and the worse one, whose evaluations are added to those of the inner
        model."""
        if self.against is not None:
            before = self.against.nfe - self.model.nfe
            worse = self.against.denoise(x, t, condition)
            self.nfe += self.against.nfe - self.model.nfe - before  # it may be made of the model
            return self.model.denoise(x, t, condition), worse
        if condition is None:
            raise ValueError(
                "condition is missing: guidance goes away from the answer without one. Give "
                "labels or vectors, one per example"
            )
        times = torch.cat([t, t]) if t.ndim else t
        both, before = self._both(condition), self.model.nfe
        good, worse = self.model.denoise(torch.cat([x, x]), times, both).chunk(2)
        self.nfe += self.model.nfe - before  # once more, for as many examples again
        return good, worse

    def _both(self, condition: Tensor | Mapping[str, Tensor]) -> Condition:
        """The condition, and behind it that of the worse prediction."""
        if isinstance(condition, Mapping):
            away = self.negative if isinstance(self.negative, Mapping) else {}
            kept = {name: value for name, value in condition.items() if name in BESIDE}
            return {
                name: torch.cat([value, kept.get(name, _away_from(value, away.get(name)))])
                for name, value in condition.items()
            }
        negative = None if isinstance(self.negative, Mapping) else self.negative
        return torch.cat([condition, _away_from(condition, negative)])

    def _with_momentum(self, change: Tensor, time: Tensor) -> Tensor:
        """The difference with a share of the one before, of the same samples at a later time."""
        before, self._before = self._before, None
        if before is not None and before[0].shape == change.shape and before[1].ndim == time.ndim:
            goes_on = expand_like(time < before[1], change)
            change = change + self.rule.momentum * goes_on * before[0]
        self._before = change.detach(), time
        return change

    @cached_property
    def stand_in(self) -> Model:
        """A model of one dimension that makes as many evaluations at every time."""
        against = self.model if self.against is None else self.against
        return Guided(stand_in(self.model), "cfg(1)", stand_in(against), interval=self.interval)

    def followed_by(self, sampler: Sampler) -> Guided:
        """This guidance for the steps of a sampler, where its rule depends on them (CFG++).

        Raises:
            ValueError: for such a rule and a sampler that finds its steps on the way.
        """
        if not self.rule.depends_on_steps:
            return self
        if sampler.adaptive:
            raise ValueError(
                f"{self.rule!r} depends on the steps, which {sampler} finds on the way: take a "
                "sampler of given steps"
            )
        rule = self.rule.on_grid(suited(sampler, self).times(self.sde))
        return Guided(self.model, rule, self.against, self.negative, self.interval)

    @property
    def limit(self) -> str:
        """What samples tend to with ever more steps."""
        try:
            weights = self.weights
        except ValueError:
            return "biased: what is followed is the score of no diffused distribution"
        return "exact" if weights == (1.0, 0.0) else PRODUCT_BIAS

    @property
    def weights(self) -> tuple[float, float]:
        """(w, 1 - w), where guidance is a product of powers of the good model and the worse.

        Raises:
            ValueError: for rules and intervals with which it is none.
        """
        weight = self.rule.power
        if weight is None or self.interval is not None:
            raise ValueError(
                f"{self.rule!r} with interval={self.interval} is no product of powers of two "
                "models; accepted: ClassifierFree without rescale, at all noise levels"
            )
        return weight, 1 - weight

    def scores(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Scores of the good prediction and of the worse, shape `(2, batch, *event)`.

        Args:
            x: shape `(batch, *event)`.
            t: a scalar or `(batch,)`.
            condition: of the good prediction.
        """
        at, before = self._scales(x, t), self.model.nfe
        pair = torch.stack(self._pair(x, at.t, condition))
        self.nfe += self.model.nfe - before
        return expand_like(at.alpha / at.sigma**2, x) * pair - x / expand_like(at.sigma**2, x)

    @override
    def extra_repr(self) -> str:
        return f"rule={self.rule}, interval={self.interval}"


def as_tensors(condition: Any) -> Condition:
    """What one example is told, with numbers and arrays as tensors; None stays None."""
    if isinstance(condition, Mapping):
        return {name: torch.as_tensor(value) for name, value in condition.items()}
    return None if condition is None else torch.as_tensor(condition)


def _away_from(condition: Tensor, negative: Tensor | None) -> Tensor:
    """What stands for each example's condition in the worse prediction."""
    if negative is None:
        return nothing_like(condition)
    return negative.to(condition).expand_as(condition)


def _require_worse(model: Model, against: Model | None, negative: object) -> None:
    if against is None:
        if negative is None:
            require_unconditional(model, ", or give against=, a weaker model")
        return
    require_model(against, "against")
    if against.sde != model.sde:
        raise ValueError(f"against has {against.sde}, and model {model.sde}: give models of one")
    if negative is not None:
        raise ValueError("against and negative both say what is worse: give one of them")


def require_unconditional(model: Model, or_else: str = "") -> None:
    """Refuse a model without an answer without condition, and say where that is hardly trained.

    Args:
        model: anything with the model protocol.
        or_else: what else can be done, for the message.

    Raises:
        ValueError: for a model that was trained with a condition for every example.
    """
    if getattr(model, "needs_condition", False):
        raise ValueError(
            "model was trained with a condition for every example, so that its answer without one "
            f"is of no use: train with condition_dropout=0.1{or_else}"
        )
    as_condition(None, 1, model=model)


def _require_interval(interval: Sequence[float] | None) -> tuple[float, float] | None:
    if interval is None:
        return None
    if len(interval) != 2 or not 0 <= interval[0] < interval[1]:
        raise ValueError(
            f"interval={interval} must be two noise levels sigma / alpha, 0 <= low < high"
        )
    return float(interval[0]), float(interval[1])


def guide(
    model: Model,
    text: str,
    sampler: Sampler | None = None,
    opened: Callable[[str], Model] | None = None,
) -> Guided:
    """The guided model that a text describes, such as `"cfg(3, interval=(0.2, 5))"`.

    Args:
        model: anything with the model protocol.
        text: a rule, with the options `against`, `negative` and `interval` of `Guided` beside its
            own.
        sampler: whose steps the rule is for, where it depends on them.
        opened: gives the model that the text names as `against`.

    Raises:
        ValueError: for an unknown rule or option, or as for `Guided`.
    """
    name, options = parse_spec(text, lambda name: list(signature(RULES[name]).parameters))
    own = {key: options.pop(key) for key in ("negative", "interval", "against") if key in options}
    rule = RULES.create(name, **options)
    if "against" in own:
        if opened is None:
            raise ValueError(
                f"{text!r}: give the model itself, as Guided(model, rule, against=...)"
            )
        own["against"] = opened(str(own["against"]))
    return Guided(model, rule, sampler=sampler, **own)
