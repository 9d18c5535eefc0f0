"""What the files of a checkpoint of a training are called."""

from __future__ import annotations

from omniform.train.checkpoints import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINING_ARGS_NAME
from omniform.train.rotation import PREFIX_CHECKPOINT_DIR, TRAINER_STATE_NAME

__all__ = [
    "OPTIMIZER_NAME",
    "PREFIX_CHECKPOINT_DIR",
    "SCALER_NAME",
    "SCHEDULER_NAME",
    "TRAINER_STATE_NAME",
    "TRAINING_ARGS_NAME",
]
