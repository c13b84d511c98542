"""Samplers of ours as schedulers, for the pipelines of diffusers.

A pipeline hands the answers of its network to `step`, while a sampler asks a model. So the sampler
runs in a thread of its own on a model that passes each question on to the pipeline, and waits.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from queue import Queue
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_score.interop.diffusers_scheduler import schedule_of
from sde_score.models import ScoreModel
from sde_score.samplers import SAMPLERS, Sampler


class Step(NamedTuple):
    """What `step` returns."""

    prev_sample: Tensor


class _Stopped(Exception):
    """The pipeline begins anew."""


class SamplerScheduler:
    """A sampler in the place of a scheduler; made by `as_diffusers_scheduler`.

    Args:
        sampler: takes as many steps as the pipeline says.
        config: of the scheduler in whose place it stands.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, sampler: Sampler, config: dict[str, Any]) -> None:
        self.sampler, self.config = sampler, config
        schedule = schedule_of(config, {}, False, False)
        self.sde, self.prediction = schedule.sde, schedule.prediction
        self.timesteps = torch.zeros(0)
        self._walk: _Walk | None = None

    def _model(self, network: Any) -> ScoreModel:
        return ScoreModel(network, self.sde, self.prediction)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Find the time labels of all evaluations, by sampling once with a network of zeros."""
        self.stop()
        labels: list[float] = []

        def network(x: Tensor, label: Tensor) -> Tensor:
            labels.append(float(label.flatten()[0]))
            return torch.zeros_like(x)

        self.sampler = replace(self.sampler, steps=num_inference_steps)
        self.sampler(self._model(network), torch.zeros(1, 1), seed=0, progress=False)
        self.timesteps = torch.tensor(labels, device=device)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        """Go on with the answer of the network.

        Args:
            model_output: the answer.
            timestep: that it was asked at.
            sample: that it was asked at.
            generator: of all random draws on the way.
            return_dict: whether to return an object, not a tuple.
            others: arguments of other schedulers, without effect.

        Returns:
            the next question, or the samples after the last one, as `prev_sample`.
        """
        if self._walk is None:
            self._walk = _Walk(self, sample, generator)
        answer = model_output[:, : sample.shape[1]]
        result, ended = self._walk.answer(answer)
        if ended:
            self._walk = None
        result = result.to(sample.dtype)
        return Step(result) if return_dict else (result,)

    def stop(self) -> None:
        """Forget samples that are on the way."""
        if self._walk is not None:
            self._walk.stop()
            self._walk = None


class _Walk:
    """A sampler on its way, in a thread."""

    def __init__(
        self, scheduler: SamplerScheduler, start: Tensor, generator: torch.Generator | None
    ) -> None:
        self.questions: Queue[Any] = Queue()
        self.answers: Queue[Any] = Queue()

        def network(x: Tensor, label: Tensor) -> Tensor:
            self.questions.put((x, False))
            given = self.answers.get()
            if given is None:
                raise _Stopped
            return given.to(x)  # type: ignore[no-any-return]

        def noise() -> Tensor:
            device = start.device if generator is None else generator.device
            return torch.randn(start.shape, generator=generator, device=device).to(start)

        def walk() -> None:
            try:
                found = scheduler.sampler(
                    scheduler._model(network), start, noise=noise, progress=False
                )
                self.questions.put((found, True))
            except BaseException as error:
                self.questions.put((error, True))

        self.thread = threading.Thread(target=walk, daemon=True)
        self.thread.start()
        self._next()  # the first question is the start

    def _next(self) -> tuple[Tensor, bool]:
        value, ended = self.questions.get()
        if isinstance(value, BaseException):
            raise value
        return value, ended

    def answer(self, value: Tensor) -> tuple[Tensor, bool]:
        """The next question, or what was drawn and True."""
        self.answers.put(value.detach())
        return self._next()

    def stop(self) -> None:
        """End the thread."""
        self.answers.put(None)
        self.thread.join()


def as_diffusers_scheduler(sampler: str | Sampler, scheduler: Any) -> SamplerScheduler:
    """A sampler of ours for a pipeline of diffusers.

    As in `pipe = DDPMPipeline(pipe.unet, as_diffusers_scheduler("unipc", pipe.scheduler))`; it is
    told the number of steps by the pipeline, and makes as many evaluations as the sampler does.

    Args:
        sampler: of fixed times, by name or an object.
        scheduler: of the pipeline, whose chain and prediction are kept, or its configuration.

    Raises:
        ValueError: for a sampler whose evaluations depend on what it finds.
        CheckpointError: for a scheduler that is no chain of betas.
    """
    chosen = SAMPLERS.resolve(sampler)
    if chosen.adaptive or not chosen.from_noise:
        raise ValueError(
            f"sampler={chosen} evaluates at times that depend on what it finds; a pipeline asks "
            "for all of them before: take one with steps, such as 'unipc'"
        )
    config = dict(getattr(scheduler, "config", scheduler))
    return SamplerScheduler(chosen, config)
