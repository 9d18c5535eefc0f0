"""Which requests choose their tokens alike, so that their rows choose at once."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from omniform.engine.settings import Settings


@lru_cache(maxsize=1024)
def choosing(settings: Settings) -> Settings:
    """What of some settings the next token is chosen by; one object for all that have it in common.

    Rows of requests that differ in other things (how long they may become, what ends them, what is noted of them)
    choose all at once.
    """
    longest = settings.max_new_tokens if settings.forced_last else 1
    one = replace(settings, max_new_tokens=longest, num_return_sequences=1, seed=None)
    return _only_one(
        replace(one, max_time=None, stop_strings=(), logprobs=None, prompt_logprobs=None, keep_logits=False)
    )


@lru_cache(maxsize=1024)
def _only_one(settings: Settings) -> Settings:
    return settings
