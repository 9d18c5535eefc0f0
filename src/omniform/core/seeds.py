"""One seed for every generator of random numbers."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from omniform.core.errors import InputError


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python's, NumPy's and torch's generators, those of accelerators included.

    Args:
        seed: a whole number from 0 to 2**32 - 1.
        deterministic: also ask torch for algorithms that give the same numbers in every run.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError("no seed", where="seed", expected="an integer from 0 to 2**32 - 1", found=repr(seed)[:80])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)


def enable_full_determinism(seed: int, warn_only: bool = False) -> None:
    """Seed everything, and ask every library for the same numbers in every run, whatever it costs.

    Args:
        seed: see :func:`set_seed`.
        warn_only: warn of an operation that has no such algorithm, instead of refusing it.

    Source: https://pytorch.org/docs/stable/notes/randomness.html
    """
    set_seed(seed)
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
