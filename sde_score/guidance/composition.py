r"""Composition: products, powers, conjunctions and mixtures of models, each a model again.

    both = Product([smooth, bright])                    # what both find likely
    sharper = Tempered(run.model, 1.5)                  # p^1.5
    away = Product([run.model, other], [1, -0.3])       # p_1 / p_2^0.3
    seven_and_two = Conjunction(run.model, [7, 2])      # both conditions of one network
    either = Mixture([first, second], [-0.2, -1.7])     # of normalized densities

The score of a product of densities is the sum of their scores. With the parts diffused, it is that
of

.. math:: \pi_t(x) \propto \prod_i p_{i, t}(x)^{\beta_i} , \qquad
          \nabla_x \log \pi_t = \sum_i \beta_i \nabla_x \log p_{i, t},

which at t > 0 is not what the product of the data's densities becomes when it is diffused. Samplers
that follow it are biased, the more so the more the parts differ in spread; weighted particles
correct them. A mixture has no such bias: diffusion is linear in the density.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import class_of, expand_like, require_finite, shown
from sde_score._core.conditions import Condition, nothing_like
from sde_score._core.errors import ArgumentError
from sde_score.guidance.guided import PRODUCT_BIAS, as_tensors, require_unconditional
from sde_score.models import (
    BaseModel,
    KnownDensity,
    Model,
    Scales,
    SeveralModels,
    accepts,
    require_model,
    stand_in,
)


class Product(SeveralModels, BaseModel):
    r"""A product of powers of models, p_1^beta_1 ... p_n^beta_n, by the sum of their scores.

    .. math:: s(x, t) = \sum_i \beta_i s_i(x, t)

    A negative weight divides, away from what its model finds likely. At `t_max` the product must
    have a bounded density; whether it has one at the data is for the user to know.

    Args:
        models: anything with the model protocol, of one diffusion; a module's parameters become
            this model's.
        weights: beta, one for each model; ones if not given.

    Attributes:
        weights: beta, one for each part.
        start_std: standard deviation of the product at `t_max`, where part i is normal with
            variance alpha^2 sigma_data_i^2 + sigma^2.
        limit: what samples tend to with ever more steps.

    Raises:
        TypeError: if a model lacks the protocol.
        ValueError: for no models, models of different diffusions, weights that are not finite or
            of another number, or a product that is not bounded at `t_max`.

    Reference: Du et al. 2023, https://arxiv.org/abs/2302.11552; Skreta et al. 2025 (what corrects
    the bias), https://arxiv.org/abs/2503.02819.
    """

    def __init__(self, models: Sequence[Model], weights: Sequence[float] | None = None) -> None:
        super().__init__(models)
        given = [1.0] * len(self.models) if weights is None else list(weights)
        require_one_each("weights", given, len(self.models), "models")
        self._set_weights(given, self.models)

    def _set_weights(self, weights: Sequence[float], parts: Sequence[Model]) -> None:
        """Keep the weights of parts, each the score of a model; refuse those without bound."""
        require_finite(**{f"weights[{i}]": weight for i, weight in enumerate(weights)})
        self.weights = tuple(map(float, weights))
        alpha, sigma = (float(f(self.sde.t_max)) for f in (self.sde.alpha, self.sde.sigma))
        stds = [float(getattr(model, "sigma_data", 1.0)) for model in parts]
        precision = sum(
            weight / ((alpha * std) ** 2 + sigma**2)
            for weight, std in zip(self.weights, stds, strict=True)
        )
        if precision <= 0:
            raise ValueError(
                f"weights={self.weights}: at t_max, where each model is normal, the product has "
                f"the precision {precision:.3g}, so that it has no bound; accepted: weights with a "
                "precision above 0, as those of a positive sum have where all spreads are alike"
            )
        self.start_std = float(precision**-0.5)

    @cached_property
    def stand_in(self) -> Model:
        """A model of one dimension that makes as many evaluations at every time."""
        return Product([stand_in(model) for model in self._parts])

    @property
    def _parts(self) -> Sequence[Model]:
        """The model of each part."""
        return self.models

    @property
    def limit(self) -> str:
        """What samples tend to with ever more steps."""
        alone = [weight for weight in self.weights if weight] == [1.0]
        return "exact" if alone else PRODUCT_BIAS

    @property
    def takes_condition(self) -> bool:
        """Whether a model takes a condition, as far as they say."""
        return any(map(_takes_condition, self.models))

    def require_condition(self, condition: Condition) -> None:
        """Refuse labels that a model refuses."""
        for model in filter(_takes_condition, self.models):
            if check := getattr(model, "require_condition", None):
                check(condition)

    def scores(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Scores of all parts, from one evaluation of each, shape `(parts, batch, *event)`.

        Args:
            x: shape `(batch, *event)`.
            t: a scalar or `(batch,)`.
            condition: passed to the models that take one.
        """
        at = self._scales(x, t)
        self.nfe += 1
        return self._scores(x, at, condition)

    def _scores(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        """Scores of all parts; the caller counts one evaluation, and this the others."""
        before, found = self.evaluations, []
        for model in self.models:
            found.append(model.score(x, at.t, condition if _takes_condition(model) else None))
        self.nfe += self.evaluations - before - 1
        return torch.stack(found)

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        parts = self._scores(x, at, condition)
        total: Tensor = torch.tensordot(parts.new_tensor(self.weights), parts, dims=1)
        return total

    @override
    def extra_repr(self) -> str:
        return f"weights={self.weights}, {self.limit}"


class Tempered(Product):
    """A power of a model, p^beta, by its score times beta.

    Args:
        model: anything with the model protocol.
        beta: inverse temperature, above 0; above 1 is sharper.

    Raises:
        TypeError: if `model` lacks the protocol.
        ValueError: if `beta` is not positive.
    """

    def __init__(self, model: Model, beta: float) -> None:
        require_model(model)
        super().__init__([model], [beta])


class Conjunction(Product):
    r"""Several conditions of one model at once, as if they were independent given x.

    .. math:: s(x) = s_0(x) + \sum_i w_i \left( s(x | c_i) - s_0(x) \right)

    with s_0 the score without a condition; a negative weight means "not". It is a product with the
    parts s_0, s(x | c_1), ... and weights 1 - w_1 - ... - w_n, w_1, ..., in one batched call.

    Args:
        model: anything with the model protocol that knows an answer without a condition.
        conditions: a label, vector, image or dictionary of them each, told of all samples.
        strengths: w, one for each condition; ones if not given.

    Raises:
        TypeError: if `model` lacks the protocol, or some conditions alone are dictionaries.
        ValueError: for no conditions, strengths that are not finite or of another number, or a
            model that knows no answer without a condition; when called, for a condition besides.

    Reference: Liu et al. 2022, https://arxiv.org/abs/2206.01714.
    """

    takes_condition = False

    def __init__(
        self, model: Model, conditions: Sequence[Any], strengths: Sequence[float] | None = None
    ) -> None:
        require_model(model)
        super().__init__([model])
        require_unconditional(model)
        self.conditions = [as_tensors(condition) for condition in conditions]
        if not self.conditions:
            raise ValueError("conditions is empty: give at least one, such as [7, 2]")
        if len({isinstance(condition, Mapping) for condition in self.conditions}) > 1:
            raise ArgumentError(
                f"conditions={shown(conditions)} are of several kinds; accepted: dictionaries, or "
                "labels, vectors or images alone"
            )
        given = [1.0] * len(self.conditions) if strengths is None else list(strengths)
        require_one_each("strengths", given, len(self.conditions), "conditions")
        self._set_weights([1 - sum(given), *given], [model] * (1 + len(given)))

    @property
    @override
    def _parts(self) -> Sequence[Model]:
        return self.models * len(self.weights)

    @override
    def _scores(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        if condition is not None:
            raise ValueError(
                f"condition is {class_of(condition)}, and a conjunction has conditions of its own: "
                "leave it out, or add it to them"
            )
        before, parts = self.evaluations, len(self.weights)
        times = at.t.repeat(parts) if at.t.ndim else at.t
        together = x.repeat(parts, *(1,) * (x.ndim - 1))
        found = self.models[0].score(together, times, _none_and(self.conditions, x))
        self.nfe += parts * (self.evaluations - before) - 1
        return found.reshape(parts, *x.shape)


class Mixture(SeveralModels, KnownDensity):
    r"""A mixture of models with normalized densities, exact at every t.

    .. math:: p_t(x) = \sum_i w_i\, p_{i, t}(x), \qquad
              s(x) = \sum_i \frac{w_i\, p_{i, t}(x)}{p_t(x)}\, s_i(x)

    Args:
        models: with `log_prob(x, t)` beside the model protocol, of one diffusion.
        log_weights: log w, one for each model, normalized here; equal if not given. For a density
            known up to a constant, it is log w - log Z.

    Raises:
        TypeError: if a model lacks the protocol, or has a score alone.
        ValueError: for no models, models of different diffusions, or weights that are not finite
            or of another number.
    """

    limit = "exact"

    def __init__(self, models: Sequence[Model], log_weights: Sequence[float] | None = None) -> None:
        super().__init__(models)
        for index, model in enumerate(self.models):
            log_prob = getattr(model, "log_prob", None)
            if log_prob is None or not accepts(log_prob, 2):
                raise ArgumentError(
                    f"models[{index}] is a {type(model).__name__} without log_prob(x, t): a score "
                    "does not say how much each model weighs at x, for which densities must be "
                    "normalized, log Z included; accepted: models with a known density"
                )
        given = [0.0] * len(self.models) if log_weights is None else list(log_weights)
        require_one_each("log_weights", given, len(self.models), "models")
        require_finite(**{f"log_weights[{i}]": weight for i, weight in enumerate(given)})
        self.log_weights = tuple(torch.tensor(given, dtype=torch.float64).log_softmax(0).tolist())

    @cached_property
    def stand_in(self) -> Model:
        """A model of one dimension that makes as many evaluations at every time."""
        return Product([stand_in(model) for model in self.models])

    def _log_joint(self, x: Tensor, t: Tensor | float) -> Tensor:
        """log w_i p_i(x), shape `(models, batch)`."""
        models: tuple[Any, ...] = self.models
        return torch.stack(
            [model.log_prob(x, t) + w for model, w in zip(models, self.log_weights, strict=True)]
        )

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Log density of x_t in nats, shape `(batch,)`."""
        return self._log_joint(x, t).logsumexp(0)

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        if condition is not None:
            raise ValueError("a mixture takes no condition: leave it out")
        before = self.evaluations
        shares = self._log_joint(x, at.t).softmax(0)
        parts = [model.score(x, at.t) for model in self.models]
        self.nfe += self.evaluations - before - 1
        weighed = [expand_like(share, x) * s for share, s in zip(shares, parts, strict=True)]
        return torch.stack(weighed).sum(0).to(x.dtype)

    @override
    def extra_repr(self) -> str:
        return f"log_weights={self.log_weights}, {self.limit}"


def require_one_each(name: str, given: Sequence[float], count: int, what: str) -> None:
    """Refuse another number of weights.

    Raises:
        ValueError: naming the argument and both numbers.
    """
    if len(given) != count:
        raise ValueError(f"{name}={shown(given)} for {count} {what}: give one for each")


def _takes_condition(model: Model) -> bool:
    return bool(getattr(model, "takes_condition", True))


def _none_and(conditions: Sequence[Condition], x: Tensor) -> Condition:
    """No condition, and behind it each of the conditions, for every example of x."""

    def rows(values: Sequence[Tensor]) -> Tensor:
        together = torch.stack([nothing_like(values[0]), *values])
        return together.to(x.device).repeat_interleave(len(x), 0)

    told = [condition for condition in conditions if isinstance(condition, Mapping)]
    if not told:
        return rows([value for value in conditions if isinstance(value, Tensor)])
    kinds = {name: value for condition in told for name, value in condition.items()}
    return {
        name: rows([each.get(name, nothing_like(kind)) for each in told])
        for name, kind in kinds.items()
    }
