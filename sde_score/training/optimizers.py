"""Optimizers by name: Adam with either weight decay, and Muon; their state as named tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score._core.registry import Registry

Parameters = Mapping[str, nn.Parameter]


class Stepper(ABC):
    """An optimizer at work on the parameters of a run."""

    @abstractmethod
    def step(self, rate: float) -> None:
        """Change the weights by their gradients, at a learning rate."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that is remembered, as tensors named `<parameter>/<entry>`."""

    @abstractmethod
    def expected_state(self) -> dict[str, Tensor]:
        """Tensors of the names, shapes and types that `state` has after a step, on no device."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class Optimizer(ABC):
    """A choice of optimizer; an object of your own gives `begin`."""

    by_entry = False
    """Whether each number of a weight is changed by itself, so that it works on any rows of it."""

    @abstractmethod
    def begin(self, parameters: Parameters, weight_decay: float) -> Stepper:
        """The optimizer for parameters, by name, with the weight decay of the run."""


def _check_adam(betas: tuple[float, float], eps: float) -> None:
    require_positive(eps=eps)
    for index, beta in enumerate(betas):
        if not 0 <= beta < 1:
            raise ValueError(f"betas[{index}]={beta!r} must lie in [0, 1)")


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, with the weight decay decoupled from the gradient (AdamW) or joined to it.

    Args:
        decay: `"decoupled"` shrinks the weights besides the step; `"coupled"` adds weight decay
            times the weights to the gradient, as Adam of score_sde does.
        betas: decay of the averages of the gradient and of its square, in [0, 1).
        eps: added to the root of the second average, > 0.

    Reference: Kingma & Ba 2015, https://arxiv.org/abs/1412.6980; Loshchilov & Hutter 2019,
    https://arxiv.org/abs/1711.05101.
    """

    decay: str = "decoupled"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    by_entry = True

    def __post_init__(self) -> None:
        check_fields(self)
        require_choice("decay", self.decay, ("decoupled", "coupled"))
        _check_adam(self.betas, self.eps)

    def begin(self, parameters: Parameters, weight_decay: float) -> Stepper:
        """Torch's Adam or AdamW, fused where it can be."""
        return _AdamStepper(parameters, self, weight_decay)


class _AdamStepper(Stepper):
    def __init__(self, parameters: Parameters, choice: Adam, weight_decay: float) -> None:
        self.parameters = dict(parameters)
        weights = list(self.parameters.values())
        fused = all(weight.device.type in ("cpu", "cuda") for weight in weights)
        kind = torch.optim.Adam if choice.decay == "coupled" else torch.optim.AdamW
        self.torch: torch.optim.Optimizer = kind(
            weights, betas=choice.betas, eps=choice.eps, weight_decay=weight_decay, fused=fused
        )

    def step(self, rate: float) -> None:
        _step(self.torch, rate)

    def state(self) -> dict[str, Tensor]:
        if not self.torch.state:  # no step was taken yet, as where the first ones overflow
            return _zeros(self.expected_state(), self.parameters)
        return {
            f"{name}/{entry}": value
            for name, weight in self.parameters.items()
            for entry, value in self.torch.state[weight].items()
        }

    def expected_state(self) -> dict[str, Tensor]:
        return {
            f"{name}/{entry}": torch.empty(shape, dtype=dtype, device="meta")
            for name, weight in self.parameters.items()
            for entry, shape, dtype in (
                ("step", (), torch.float32),
                ("exp_avg", weight.shape, weight.dtype),
                ("exp_avg_sq", weight.shape, weight.dtype),
            )
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, weight in self.parameters.items():
            moments = ("exp_avg", "exp_avg_sq")
            # In the memory layout of the weight, as if Adam had made them.
            entries = {m: torch.empty_like(weight).copy_(state[f"{name}/{m}"]) for m in moments}
            fused = self.torch.defaults["fused"]
            count = state[f"{name}/step"].clone().to(weight.device if fused else "cpu")
            self.torch.state[weight] = {"step": count, **entries}


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for the matrices inside the network, Adam for all other parameters.

    Each step of a matrix is its averaged gradient with all singular values made alike, scaled so
    that its size is that of Adam's: the learning rate is one for both. Kernels of convolutions are
    matrices of one row for each output channel. Adam keeps the first and the last matrix, biases,
    norms, and what has `embed` in its name. Weight decay is decoupled.

    Args:
        momentum: decay of the average of the gradient, in [0, 1).
        iterations: of Newton and Schulz, at least 1.
        betas: of Adam.
        eps: of Adam.

    Reference: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025,
    https://arxiv.org/abs/2502.16982.
    """

    momentum: float = 0.95
    iterations: int = 5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(iterations=self.iterations)
        _check_adam(self.betas, self.eps)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum!r} must lie in [0, 1)")
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"muon needs torch 2.9 or newer, this is {torch.__version__}")

    def begin(self, parameters: Parameters, weight_decay: float) -> Stepper:
        """Torch's Muon and Adam side by side."""
        return _MuonStepper(parameters, self, weight_decay)


class _MuonStepper(Stepper):
    def __init__(self, parameters: Parameters, choice: Muon, weight_decay: float) -> None:
        inner = inner_matrices(parameters)
        others = {name: weight for name, weight in parameters.items() if name not in inner}
        self.adam = _AdamStepper(others, Adam("decoupled", choice.betas, choice.eps), weight_decay)
        self.parameters = {name: parameters[name] for name in inner}
        self.matrices = {
            name: nn.Parameter(_as_matrix(weight.detach()))
            for name, weight in self.parameters.items()
        }
        self.torch = None
        if self.matrices:
            self.torch = torch.optim.Muon(
                list(self.matrices.values()),
                momentum=choice.momentum,
                ns_steps=choice.iterations,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )

    def step(self, rate: float) -> None:
        self.adam.step(rate)
        if self.torch is None:
            return
        for name, weight in self.parameters.items():
            gradient = torch.empty_like(weight).copy_(weight.grad)  # type: ignore[arg-type]
            self.matrices[name].grad = _as_matrix(gradient)
        _step(self.torch, rate)

    def state(self) -> dict[str, Tensor]:
        memory: Any = self.torch.state if self.torch is not None else {}
        own = {
            f"{n}/momentum": memory[m]["momentum_buffer"] if memory else torch.zeros_like(m)
            for n, m in self.matrices.items()
        }
        return {**self.adam.state(), **own}

    def expected_state(self) -> dict[str, Tensor]:
        own = {f"{n}/momentum": m.detach().to("meta") for n, m in self.matrices.items()}
        return {**self.adam.expected_state(), **own}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.adam.restore(state)
        for name, matrix in self.matrices.items():
            memory = torch.empty_like(matrix).copy_(state[f"{name}/momentum"])
            self.torch.state[matrix] = {"momentum_buffer": memory}  # type: ignore[union-attr]


def _zeros(expected: Mapping[str, Tensor], parameters: Parameters) -> dict[str, Tensor]:
    """Tensors of 0 beside the parameters: what an optimizer begins with."""
    where = next(iter(parameters.values())).device if parameters else "cpu"
    return {name: torch.zeros_like(value, device=where) for name, value in expected.items()}


def inner_matrices(parameters: Parameters) -> list[str]:
    """Names of the parameters that Muon takes, in order.

    Args:
        parameters: by name, in the order of the network.
    """
    several = [name for name, weight in parameters.items() if weight.ndim > 1]
    own = [name for name in several if not name.startswith("objective.")]
    return [name for name in own[1:-1] if "embed" not in name]


def _as_matrix(weight: Tensor) -> Tensor:
    """The same memory with one row for each output; columns in the order of the memory."""
    order = sorted(range(1, weight.ndim), key=weight.stride, reverse=True)
    return weight.permute(0, *order).view(len(weight), -1)


def _step(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def zero_missing(weights: Iterable[nn.Parameter]) -> None:
    """Give parameters that no loss depends on, such as a constant of an energy, a gradient of 0."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)


OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer", {"adam": Adam, "muon": Muon}, base=Optimizer, aliases={"adamw": "adam"}
)
