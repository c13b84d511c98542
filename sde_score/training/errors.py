"""Errors of training and of the files of a run."""

from __future__ import annotations

import signal


class TrainingError(RuntimeError):
    """Training that cannot go on, such as after a loss that is not finite. Checkpoints stay."""


class CheckpointError(ValueError):
    """A file of a run is missing, damaged, truncated or not what it claims to be."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training that a signal stopped, after the step was finished and a checkpoint saved.

    Args:
        message: what happened and how to go on.
        signum: the signal, such as `signal.SIGTERM`; by custom a program that ends for it returns
            128 + signum.
    """

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum
