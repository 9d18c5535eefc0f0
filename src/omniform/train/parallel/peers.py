"""Processes that lose one another: what the transport says, in one plain sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from omniform.core.errors import OmniformError

_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "socket closed",
    "timed out waiting",
    "nccl communicator was aborted",
    "remote process exited",
    "watchdog",
)
"""What gloo and NCCL say where another process is gone, or does not come."""


class ProcessLostError(OmniformError, RuntimeError):
    """Another process of a training has ended, or does not answer."""


@contextmanager
def together() -> Iterator[None]:
    """Inside, an error of the transport becomes one that says where to look.

    Raises:
        ProcessLostError: another process has ended, or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).lower()
        if isinstance(error, OmniformError) or not dist.is_initialized() or not any(one in said for one in _LOST):
            raise
        raise ProcessLostError(
            "another process of this training has ended, or does not answer",
            where=f"process {dist.get_rank()} of {dist.get_world_size()}",
            found=str(error).splitlines()[0][:200],
            remedy="Its own message, which came first, says why.",
        ) from error
