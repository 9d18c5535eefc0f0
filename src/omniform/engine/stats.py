"""What an engine says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omniform.engine.memory import MemoryUse
from omniform.engine.recorded import Counts


@dataclass(frozen=True, slots=True)
class Stats:
    """What an engine did and holds.

    Attributes:
        blocks_total: blocks of the decoder's state and of memories.
        blocks_used: those that requests hold.
        blocks_cached: those that nobody holds and that are remembered for their content.
        waiting, running: requests.
        steps: how many were computed.
        tokens_computed: tokens that went through the decoder.
        tokens_cached: prompt tokens that did not have to, because another request had begun the same.
        tokens_drafted, tokens_accepted: tokens that were guessed ahead, and those among them that came true.
        encoder_runs: pictures, sounds and texts that an encoder read.
        encoder_hits: those that were known already.
        preemptions: how often a request was preempted: had to give up its blocks.
        prefix_cache: whether beginnings are shared between requests: ``"on"``, or ``"off"`` and why.
        cache_dtype: how state is kept: that of tokens, and what is kept otherwise beside it.
        memory: what its blocks take, of how much, and why.
        graphs: steps that a GPU played from records; None on a device without them, or where they are off.
        seconds: spent planning (``plan``, encoders included), in the decoder (``model``), choosing tokens (``sample``).
    """

    blocks_total: int
    blocks_used: int
    blocks_cached: int
    waiting: int
    running: int
    steps: int
    tokens_computed: int
    tokens_cached: int
    tokens_drafted: int
    tokens_accepted: int
    encoder_runs: int
    encoder_hits: int
    preemptions: int
    prefix_cache: str
    memory: MemoryUse
    cache_dtype: str
    seconds: Mapping[str, float]
    graphs: Counts | None = None
