"""Training: from a configuration, or objects, to a run directory; `load_run` opens it again.

`train(TrainConfig(data="digits"), "runs/digits")` trains and returns a `Run`; the same call again
continues a run that was stopped, to the same bits. `distill("runs/digits", "runs/few")` trains a
flow map from a run.
"""

from sde_score.training.augmentation import AUGMENTATIONS, Augmentation
from sde_score.training.batches import Batches, MicroBatch
from sde_score.training.build import build_model, resolve, split_data
from sde_score.training.checkpoint import Checkpoints
from sde_score.training.config import ADJUSTABLE, FREE, TrainConfig, load_config, save_config
from sde_score.training.couplings import COUPLINGS, Coupling
from sde_score.training.data_record import DataRecord
from sde_score.training.distillation import distill, distillation
from sde_score.training.ema import EMA
from sde_score.training.entry import train
from sde_score.training.errors import CheckpointError, TrainingError, TrainingInterrupted
from sde_score.training.metrics import Metrics
from sde_score.training.optimizer import Update, warmup_factor
from sde_score.training.optimizers import OPTIMIZERS, Optimizer
from sde_score.training.prepare import Job, prepare
from sde_score.training.run import WEIGHTS, Run, load_run
from sde_score.training.schedules import SCHEDULES, Schedule
from sde_score.training.state import DataFacts, TrainState
from sde_score.training.tables import as_table, coding_of
from sde_score.training.trainer import Trainer

__all__ = [
    "ADJUSTABLE",
    "AUGMENTATIONS",
    "COUPLINGS",
    "EMA",
    "FREE",
    "OPTIMIZERS",
    "SCHEDULES",
    "WEIGHTS",
    "Augmentation",
    "Batches",
    "CheckpointError",
    "Checkpoints",
    "Coupling",
    "DataFacts",
    "DataRecord",
    "Job",
    "Metrics",
    "MicroBatch",
    "Optimizer",
    "Run",
    "Schedule",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "TrainingError",
    "TrainingInterrupted",
    "Update",
    "as_table",
    "build_model",
    "coding_of",
    "distill",
    "distillation",
    "load_config",
    "load_run",
    "prepare",
    "resolve",
    "save_config",
    "split_data",
    "train",
    "warmup_factor",
]
