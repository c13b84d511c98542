"""Objects that a run is trained with, ready to be used."""

from __future__ import annotations

import copy

import torch

from sde_score.random import mix
from sde_score.training import rng_streams as streams
from sde_score.training.augmentation import AUGMENTATIONS, require_labels
from sde_score.training.batches import Batches
from sde_score.training.couplings import COUPLINGS, Coupling
from sde_score.training.prepare import Job
from sde_score.training.streaming import require_no_stream


def batches_of(job: Job, rank: int, processes: int, device: torch.device) -> Batches:
    """The batches of a job with its augmentation and its coupling.

    Args:
        job: made by `prepare`.
        rank: index of this process.
        processes: number of processes.
        device: of the network.

    Raises:
        ValueError: for a network that is not told of an augmentation that would leak.
    """
    augmentation = AUGMENTATIONS.resolve(job.settled.augmentation)
    require_labels(augmentation, job.model)
    coupling = copy.deepcopy(COUPLINGS.resolve(job.settled.coupling))
    if type(coupling).begin is not Coupling.begin:
        require_no_stream(job.examples, f"coupling={job.config.coupling}")
        rows = torch.arange(len(job.examples))
        labels = job.examples.labels_at(rows) if job.config.conditional else None
        coupling.begin(job.examples.tensor(), labels, mix(job.config.seed, streams.COUPLE))
    return Batches(job.examples, job.config, rank, processes, device, augmentation, coupling)
