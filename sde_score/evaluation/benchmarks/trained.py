"""A trained network as a benchmark target: its own flow is the truth for solvers."""

from __future__ import annotations

import copy

from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score.evaluation.benchmarks.targets import BenchmarkTarget, exact_flow
from sde_score.evaluation.guided import guided_run, require_flow
from sde_score.evaluation.samples import as_data, run_identity
from sde_score.training import Run

_TOLERANCE = 1e-8
_MOST = 10_000  # training examples that are looked at


def target_of_run(run: Run, guidance: str | None = None) -> BenchmarkTarget:
    """A trained network as a target: solvers are compared with its flow, samples with its data.

    The flow is integrated with adaptive steps, on a float64 copy of the network, with both
    tolerances 1e-8, down to where time grids end by default, and denoised there: the limit of a
    sampler with ever more steps. Of a flow map it is the flow of its diagonal, which its own 1, 2
    and 4 steps shall reach. The density is not known.

    Args:
        run: an open run, trained at all noise levels, with held-out data.
        guidance: of its model, such as `"cfg(3)"`; see `guided_run`. Of a run with other data,
            samples are measured against these.

    Raises:
        ValueError: for a run without one of them, or guidance that the model does not suit or that
            depends on the steps, so that there is no flow.
    """
    if not run.all_noise_levels:
        raise ValueError(
            f"{run.path} was trained by {run.config.objective} on data without noise: samplers "
            "need all noise levels; train denoising"
        )
    run = guided_run(run, guidance)
    require_flow(run.model, "there is no flow to measure solvers against; compare measures samples")
    parts = run.measured_parts()
    train, held_out = parts.floor, parts.reference
    precise = copy.deepcopy(run.model).double()
    end = run.model.sde.sampling_t_min
    weights, data, code = run_identity(run)

    def flow(x: Tensor, condition: Condition) -> Tensor:
        return exact_flow(precise, x.double(), condition, end=end, tolerance=_TOLERANCE)

    return BenchmarkTarget(
        name=run.path.name if guidance is None else f"{run.path.name} under {guidance}",
        model=run.model,
        event_shape=run.event_shape,
        truth=lambda count: held_out.subset(count).tensor(),
        data=lambda count, seed: train.subset(max(count, min(len(train), _MOST)), seed).tensor(),
        flow=flow,
        flow_note=f"of the network: adaptive to {_TOLERANCE:g} in float64, down to t = {end:g}",
        identity=f"run {weights[:16]} under {run.model.sde!r} on {data[:16]} | {code}",
        condition=run.draw_labels,
        deliver=lambda samples: as_data(run, samples.float()),
        samplers=run.few_steps,
        data_note=f"{parts.data}, the floor by {parts.floor_by or 'the training data'}"
        if parts.data
        else "",
    )
