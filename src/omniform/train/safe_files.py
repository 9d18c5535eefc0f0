"""Files of tensors and numbers: written by torch, read without running anything that a file says."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch

from omniform.core.errors import WeightsError

PLAIN: Final = (np._core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32)),  # type: ignore[attr-defined]
                 type(np.dtype(np.uint64)), type(np.dtype(np.float64)), type(np.dtype(np.int64)))  # fmt: skip
"""What states of NumPy's generators are made of."""


def write_file(path: Path, value: object) -> None:
    """Write tensors, numbers, texts, and mappings and lists of them.

    Raises:
        OSError: the disk is full, or fails.
    """
    try:
        with path.open("wb") as file:
            torch.save(value, file)
    except RuntimeError as error:  # closing the archive fails too, and hides why
        cause: BaseException | None = error.__context__
        while cause is not None:
            if isinstance(cause, OSError):
                raise cause from error
            cause = cause.__context__
        raise


def read_file(path: Path | BinaryIO, *, device: torch.device | str = "cpu") -> object:
    """What :func:`write_file`, or ``torch.save`` elsewhere, wrote.

    Raises:
        WeightsError: the file is damaged, or holds what could run code.
    """
    try:
        with torch.serialization.safe_globals(list(PLAIN)):
            return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a cut file, a strange one and one that would run code differ in what torch raises
        where, found = str(path), str(error).split("\n")[0]
        raise WeightsError("the file is damaged, or holds more than numbers", where=where, found=found) from error
