r"""The contract of objectives for flow maps: pairs of times, and a residual on the circle.

With z, theta and the mean velocity u of `FlowMap`, gap = theta_t - theta_s, and
v = cos(theta) noise - sin(theta) x_0 / sigma_d the velocity of one example, each objective is the
mean square of what is left of one identity of the flow. Where s = t all of them are |u - v|^2, flow
matching, which makes the diagonal a score model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import expand_like, mean_event, require_positive
from sde_score._core.conditions import Condition
from sde_score._core.errors import ArgumentError
from sde_score.models import FlowMapModel, Model, require_model
from sde_score.objectives.base import BaseObjective
from sde_score.objectives.time_samplers import TIME_SAMPLERS, TimeSampler
from sde_score.random import Draws, noise_beside, step_generator, uniform
from sde_score.sdes import SDE
from sde_score.sdes.clocks import ANGLE, Clock, shifted


@dataclass(frozen=True)
class Circle:
    """The circle on which data and noise have unit variance; see `sde_score.models.FlowMap`.

    Args:
        sde: the diffusion.
        sigma_data: root mean square of the data.
    """

    sde: SDE
    sigma_data: float

    @cached_property
    def clock(self) -> Clock:
        """atan(sigma / (alpha sigma_data))."""
        return shifted(ANGLE, self.sigma_data)

    def angle(self, t: Tensor) -> Tensor:
        """theta at t, in its shape."""
        return self.clock.at(self.sde, t)

    def time(self, angle: Tensor) -> Tensor:
        """t at theta, in its shape."""
        return self.clock.time(self.sde, angle)

    def time_rate(self, t: Tensor) -> Tensor:
        """dt / d theta, in the shape of t."""
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        turn = alpha * self.sde.sigma_derivative(t) - sigma * self.sde.alpha_derivative(t)
        return (sigma**2 + (alpha * self.sigma_data) ** 2) / (self.sigma_data * turn)

    def velocity(self, model: Model, z: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """dz / d theta of a model's flow, like z."""
        if isinstance(model, FlowMapModel):
            return model.mean_velocity(z, t, t, condition)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        size = expand_like((sigma**2 + (alpha * self.sigma_data) ** 2).sqrt(), z)
        mean = model.denoise(size * z, t, condition) / self.sigma_data
        angle = expand_like(self.angle(t), z)
        return (z * angle.cos() - mean) / angle.sin()


@dataclass(frozen=True, eq=False)
class Pair:
    """Noisy data on the circle, and the two times between which the flow is learned.

    Args:
        z: shape `(batch, *event)`.
        velocity: what the diagonal learns, like z.
        t: time of z, float64 `(batch,)`.
        s: time of the end, alike; at most t unless `upward`.
        circle: of the model.
        condition: passed on to the model.
    """

    z: Tensor
    velocity: Tensor
    t: Tensor
    s: Tensor
    circle: Circle
    condition: Condition

    def like(self, value: Tensor) -> Tensor:
        """A number per example in a shape that multiplies z."""
        return expand_like(value, self.z)

    @cached_property
    def gap(self) -> Tensor:
        """theta_t - theta_s, float64 `(batch,)`."""
        return self.circle.angle(self.t) - self.circle.angle(self.s)

    @cached_property
    def diagonal(self) -> Tensor:
        """Whether s = t, in a shape that selects examples of z."""
        return (self.s == self.t).reshape(-1, *(1,) * (self.z.ndim - 1))


@dataclass(frozen=True)
class FlowMapObjective(BaseObjective):
    r"""An objective for flow maps: subclasses give `residual`, r, and may give `weight`, w.

    .. math:: L = w\, \frac{m}{\mathrm{sg}[m + c]^p}, \qquad m = \mathrm{mean}(r^2)

    A power p above 0 lets examples with a large residual count less. Its gradient with p = 1/2 is,
    up to a factor of 2, that of the pseudo-Huber loss sqrt(m + c) - sqrt(c). Where the residual
    holds noise of the data, p = 0 alone has the flow itself as its minimum.

    Args:
        time_sampler: of both times, of which the later is t; a name in `TIME_SAMPLERS`, or an
            object.
        share: of examples off the diagonal s = t, in [0, 1].
        upward: of those, the share that goes from less noise to more, s > t, which densities need.
        teacher: a trained or exact model whose flow is learned; None learns it from the data.
        power: p, in [0, 1]; 0.75 or 1 in MeanFlow, 0.5 in consistency tuning.
        floor: c, > 0; 1e-3 in MeanFlow, the square of the constant of a pseudo-Huber loss.

    Raises:
        ValueError: for an unknown name, or a number outside its range.
        TypeError: for a teacher that is no model.
    """

    needs: ClassVar[str] = "flow map"
    takes_pairs: ClassVar[bool] = True
    to_data_alone: ClassVar[bool] = False  # the flow to t_min, and not to the times between
    needs_teacher: ClassVar[bool] = False
    has_score: ClassVar[bool] = True  # on the diagonal
    converges_to: ClassVar[str] = "the flow between any two times, and the score"

    time_sampler: str | TimeSampler = "uniform_angle"
    share: float = 0.75
    teacher: Model | None = None
    upward: float = field(default=0.0, kw_only=True)
    power: float = field(default=0.0, kw_only=True)
    floor: float = field(default=1e-3, kw_only=True)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("share", "upward", "power"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name}={value!r} must lie in [0, 1]")
        if self.upward and self.to_data_alone:
            raise ValueError(f"upward={self.upward!r}: this objective goes to the data alone")
        require_positive(floor=self.floor)
        if self.teacher is not None:
            require_model(self.teacher, "teacher")
        _ = self._times

    @cached_property
    def _times(self) -> TimeSampler:
        return TIME_SAMPLERS.resolve(self.time_sampler, name="time_sampler")

    @override
    def require_precision(self, model: Model, rounding: float) -> None:
        """Refuse half precision where derivatives in time are taken, which are lost in it."""
        if self.second_derivatives:
            refuse_rounding(rounding)

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        if not isinstance(model, FlowMapModel):
            raise ArgumentError(
                f"model is a {type(model).__name__} and knows no flow between two times; accepted: "
                "FlowMap(network, sde), or FlowMap.from_model(model) of a trained model"
            )
        if self.teacher is not None:
            require_fitting(self.teacher, model)
        pair = self.draw(model, x0, condition, generator)
        return self.losses(self.residual(model, model, pair), pair)

    def required_teacher(self) -> Model:
        """The teacher, for objectives that cannot do without.

        Raises:
            ValueError: if there is none.
        """
        if self.teacher is None:
            raise ValueError(
                f"{type(self).__name__} learns from a teacher alone: give teacher=..., or train by "
                "sde-score distill RUN without --from-data"
            )
        return self.teacher

    def losses(self, residual: Tensor, pair: Pair) -> Tensor:
        """The loss of each example, `(batch,)`."""
        square = mean_event(residual**2)
        if self.power:
            square = square / (square.detach() + self.floor) ** self.power
        weight = self.weight(pair)
        return square if weight is None else weight.to(square) * square

    def weight(self, pair: Pair) -> Tensor | None:
        """Factors on the losses, `(batch,)`; None for 1."""
        return None

    def draw(self, model: FlowMapModel, x0: Tensor, condition: Condition, generator: Draws) -> Pair:
        """Noisy data, and where they go."""
        first, second = (self._times(model.sde, len(x0), generator, x0.device)[0] for _ in range(2))
        far = uniform(len(x0), generator, x0.device) < self.share
        noise = noise_beside(x0, generator)
        circle = Circle(model.sde, float(model.sigma_data))
        t, s = self._ordered(circle, first, second)
        if self.upward:
            up = far & (uniform(len(x0), generator, x0.device) < self.upward)
            t, s = torch.where(up, s, t), torch.where(up, t, s)
        s = torch.where(far, s, t)
        angle = expand_like(circle.angle(t), x0)
        data = self._data(circle, x0, noise, condition)
        z = angle.cos() * data + angle.sin() * noise
        pair = Pair(z, angle.cos() * noise - angle.sin() * data, t, s, circle, condition)
        return self._taught(pair)

    def _ordered(self, circle: Circle, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The times t and s of examples off the diagonal, of two that were drawn."""
        return torch.maximum(first, second), torch.minimum(first, second)

    def _data(self, circle: Circle, x0: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """The data that meet the noise, in units of sigma_data."""
        return x0 / circle.sigma_data

    def _taught(self, pair: Pair) -> Pair:
        """The pair with the velocity of the teacher, where there is one."""
        if self.teacher is None:
            return pair
        with torch.no_grad():
            velocity = pair.circle.velocity(self.teacher, pair.z, pair.t, pair.condition)
        return replace(pair, velocity=velocity)

    @abstractmethod
    def residual(self, model: FlowMapModel, fixed: FlowMapModel, pair: Pair) -> Tensor:
        """What is left of the identity, like z.

        Args:
            model: what is trained.
            fixed: the same model where no gradient goes through it.
            pair: noisy data and times.
        """

    def _velocity(self, fixed: FlowMapModel, z: Tensor, t: Tensor, pair: Pair) -> Tensor:
        """dz / d theta of the teacher, or of the model's own diagonal."""
        return pair.circle.velocity(self.teacher or fixed, z, t, pair.condition)


def require_fitting(teacher: Model, model: FlowMapModel) -> None:
    """Refuse a teacher whose times or circle are not those of the model.

    Raises:
        ValueError: saying what differs.
    """
    if teacher.sde != model.sde:
        raise ValueError(
            f"teacher has the sde {teacher.sde}, and the model {model.sde}: take that of the "
            "teacher, whose flow is learned"
        )
    own = float(getattr(teacher, "sigma_data", model.sigma_data))
    if isinstance(teacher, FlowMapModel) and own != float(model.sigma_data):
        raise ValueError(
            f"teacher is a flow map with sigma_data={own}, and the model has "
            f"{float(model.sigma_data)}: take that of the teacher"
        )


def refuse_rounding(rounding: float) -> None:
    """Refuse a precision in which derivatives in time are lost.

    Raises:
        ValueError: with a way out.
    """
    if rounding > 1e-4:
        raise ValueError(
            f"derivatives in time are lost in a precision that rounds to {rounding:.1g}: train "
            "with precision='float32', or with semigroup or consistency"
        )


def angle_derivative(
    circle: Circle,
    field: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    t: Tensor,
    along: Tensor,
    difference: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """A field of (z, t), and its derivative in theta while z moves along a velocity; both like z.

    Args:
        circle: whose angle is meant.
        field: a function of z and t.
        z: where.
        t: when, float64 `(batch,)`.
        along: dz / d theta, like z.
        difference: step in the angle of a central difference, one-sided at the ends of the range;
            0 for forward mode, which is exact.

    Raises:
        ValueError: for a network that has no forward mode, or under autocast, which rounds it away.
    """
    half = torch.is_autocast_enabled(z.device.type)
    refuse_rounding(torch.finfo(torch.bfloat16 if half else z.dtype).eps)
    if difference:
        here, sde = circle.angle(t), circle.sde
        least, most = (circle.angle(torch.full_like(t, end)) for end in (sde.t_min, sde.t_max))
        ahead = torch.minimum(here + difference, most)
        behind = torch.maximum(here - difference, least)
        after, before = (
            field(z + expand_like(angle - here, z) * along, circle.time(angle))
            for angle in (ahead, behind)
        )
        return (after + before) / 2, (after - before) / expand_like(ahead - behind, z)
    try:
        found = torch.func.jvp(field, (z, t), (along, circle.time_rate(t)))
    except (NotImplementedError, RuntimeError) as error:
        if "forward" not in str(error).lower():
            raise
        raise ValueError(
            "something in this network, such as fused attention, has no forward derivative: set "
            f"difference=0.005 for a central difference ({str(error).splitlines()[0]})"
        ) from error
    return found[0], found[1]


def rewinder(x: Tensor) -> Callable[[], None]:
    """A function that puts the generators of dropout back to where they are now, so that two
    evaluations see the same masks.

    Args:
        x: a tensor on the device of the network.
    """
    source, cuda = step_generator(), x.device.type == "cuda"
    kept = None if source is None else source.get_state()
    usual = torch.cuda.get_rng_state(x.device) if cuda else torch.get_rng_state()

    def rewind() -> None:
        if source is not None and kept is not None:
            source.set_state(kept)
        if cuda:
            torch.cuda.set_rng_state(usual, x.device)
        else:
            torch.set_rng_state(usual)

    return rewind
