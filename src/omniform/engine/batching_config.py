"""Settings of continuous batching by the ecosystem's names: which the engine has, and which it has no need of."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Final

import torch

from omniform.architectures.generative import Generative
from omniform.core.coded import coding_of
from omniform.core.errors import InputError, brief
from omniform.core.generation import as_settings
from omniform.engine.memory import available, decoder_bytes
from omniform.engine.paged_state import ROWS

log = logging.getLogger("omniform")

WHY: Final = {
    "max_blocks_per_request": "a row has as many blocks as it is long",
    "use_async_batching": "a step is planned while nothing waits for it",
    "q_padding_interval_size": "steps are not padded",
    "kv_padding_interval_size": "steps are not padded",
    "varlen_compile_config": "steps are not compiled",
    "decode_compile_config": "steps are not compiled",
    "default_compile_level": "steps are not compiled",
    "scheduler_type": "there is one order: the most urgent first, then the first that came",
    "safety_margin": "who finds no room gives way and goes on later with the same tokens",
    "auto_switch_to_flash": "the model computes as it was loaded",
    "cpu_offload_space": "who gives way is computed again",
    "cpu_offload_space_safety_threshold": "who gives way is computed again",
    "per_request_processors": "every request may have settings of its own",
    "drop_unsupported_processors": "a setting is used or refused",
    "disable_nccl_graph_mixing": "one process computes",
    "cpu_group_timeout": "one process computes",
    "use_default_compile_configs": "steps are not compiled",
}
"""What changes nothing here, and why."""


@dataclass(kw_only=True)
class ContinuousBatchingConfig:
    """How a manager batches; names and defaults are the ecosystem's.

    Attributes:
        page_size: tokens in a block of state; the ecosystem's default stands for the engine's own.
        num_blocks: how many blocks there are, instead of as many as there is memory for.
        max_batch_tokens: how many tokens go through the model at once.
        max_memory_percent: which part of the free memory the state may take, from 0 to 1.
        max_requests_per_batch: how many requests are worked on at a time.
        allow_block_sharing: whether beginnings are shared between requests.
        return_logprobs: whether outputs say how likely each token was among those it was chosen from.
        seed: of the draws; requests draw each for itself.
        use_cuda_graph: whether steps in which every row brings one token are recorded and played again, on a GPU; of
            two switches, as the ecosystem has them, the second. By default they are.
        max_cached_graphs: how many records are kept at most.
        max_queue_size: how many requests may wait; whoever adds one more waits too. 0 for any number.
        block_size: the older name of ``page_size``.
        cache_dtype: how keys and values are kept, this library's own: see :class:`~omniform.engine.engine.Engine`.

    The others change nothing here; one that is set is named in a warning, with the reason.

    Raises:
        InputError: a value of another kind or out of range.
    """

    page_size: int = 256
    num_blocks: int | None = None
    max_batch_tokens: int | None = None
    max_memory_percent: float | None = None
    max_requests_per_batch: int | None = None
    max_blocks_per_request: int | None = None
    allow_block_sharing: bool = True
    use_async_batching: bool | None = None
    use_cuda_graph: bool | tuple[bool, bool] | None = None
    q_padding_interval_size: int = 0
    kv_padding_interval_size: int = 0
    varlen_compile_config: object = None
    decode_compile_config: object = None
    default_compile_level: int = 0
    scheduler_type: str = "fifo"
    safety_margin: float | None = None
    return_logprobs: bool = False
    seed: int | None = None
    auto_switch_to_flash: bool = True
    cpu_offload_space: float | None = 0.0
    cpu_offload_space_safety_threshold: float = 0.8
    max_queue_size: int = 0
    per_request_processors: bool = False
    drop_unsupported_processors: bool = True
    disable_nccl_graph_mixing: bool = True
    cpu_group_timeout: float | None = 300.0
    use_default_compile_configs: bool | None = None
    max_cached_graphs: int | None = None
    block_size: int | None = None
    cache_dtype: str | torch.dtype | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("page_size", 1), ("num_blocks", 1), ("max_batch_tokens", 1), ("max_requests_per_batch", 1),
            ("seed", 0), ("max_queue_size", 0), ("max_cached_graphs", 0), ("block_size", 1),
        ):  # fmt: skip
            value = vars(self)[name]
            if value is not None and (type(value) is not int or value < least):
                raise InputError(
                    "this value cannot be", where=name, expected=f"an integer >= {least}", found=brief(value)
                )
        share = self.max_memory_percent
        if share is not None and (type(share) not in (int, float) or not 0 < share <= 1):
            raise InputError(
                "this value cannot be", where="max_memory_percent", expected="a number > 0, up to 1", found=brief(share)
            )
        for name in ("allow_block_sharing", "return_logprobs"):
            if type(vars(self)[name]) is not bool:
                raise InputError("this value cannot be", where=name, expected="a bool", found=brief(vars(self)[name]))
        coding_of(self.cache_dtype)  # what cannot be is refused here
        for field in fields(self):
            if field.name in WHY and vars(self)[field.name] != field.default:
                log.warning("%s changes nothing here: %s", field.name, WHY[field.name])

    def graphs(self) -> bool | int:
        """Whether steps are recorded on a GPU, or how many records are kept at most."""
        asked = self.use_cuda_graph
        on = asked[-1] if isinstance(asked, tuple) else asked is not False
        return on if not on or self.max_cached_graphs is None else self.max_cached_graphs

    def tokens_per_block(self) -> int | None:
        """Tokens in a block; None for the engine's own number."""
        size = self.page_size if self.block_size is None else self.block_size
        return None if size == _DEFAULT_PAGE else size

    def memory(self, model: Generative) -> int | str:
        """What the engine's state may take: bytes, or ``"auto"``."""
        if self.num_blocks is not None:
            sizes = decoder_bytes(model, coding_of(self.cache_dtype))
            size = self.page_size if self.block_size is None else self.block_size
            return self.num_blocks * sum(n * (1 if pool == ROWS else size) for pool, n in sizes.items())
        if self.max_memory_percent is not None:
            return max(1, int(available(model.device) * self.max_memory_percent))
        return "auto"


_DEFAULT_PAGE: Final = 256


def batching(config: object, settings: object = None) -> ContinuousBatchingConfig | None:
    """A config of batching as a caller hands it over, or None.

    Args:
        settings: a ``generation_config``, which held it in older releases of the ecosystem.

    Raises:
        InputError: it is none.
    """
    config = as_settings(settings).get("continuous_batching_config") if config is None else config
    if config is None or isinstance(config, ContinuousBatchingConfig):
        return config
    raise InputError(
        "these are no settings of batching",
        where="continuous_batching_config",
        expected="a ContinuousBatchingConfig",
        found=brief(config),
    )


@contextlib.contextmanager
def bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """What is told of requests that are done; draws a bar of them if that is asked for."""
    if not shown:
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=f"{total} requests", unit="request") as drawn:
        yield drawn.update
