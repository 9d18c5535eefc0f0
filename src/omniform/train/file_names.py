"""What the files of a checkpoint of a training are called."""

from __future__ import annotations

from typing import Final

from omniform.train.checkpoints import ARGUMENTS, OPTIMIZER, SCALER, SCHEDULER
from omniform.train.rotation import PREFIX_CHECKPOINT_DIR, STATE

TRAINING_ARGS_NAME: Final = ARGUMENTS
TRAINER_STATE_NAME: Final = STATE
OPTIMIZER_NAME: Final = OPTIMIZER
SCHEDULER_NAME: Final = SCHEDULER
SCALER_NAME: Final = SCALER

__all__ = [
    "OPTIMIZER_NAME",
    "PREFIX_CHECKPOINT_DIR",
    "SCALER_NAME",
    "SCHEDULER_NAME",
    "TRAINER_STATE_NAME",
    "TRAINING_ARGS_NAME",
]
