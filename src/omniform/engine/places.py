"""What ``generate`` takes by position, in the ecosystem's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PLACES = (
    "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus", "assistant_model", "streamer",
    "negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate",
)  # fmt: skip
"""What stands behind the inputs and the config."""


def by_place(given: Sequence[object], named: Mapping[str, object]) -> dict[str, object]:
    """Arguments by position, by their names.

    Raises:
        TypeError: more of them than there are, or one that is also named.
    """
    if len(given) > len(PLACES):
        raise TypeError(f"generate takes {len(PLACES) + 2} arguments by position at most, {len(given) + 2} were given")
    found = {name: value for name, value in zip(PLACES, given, strict=False) if value is not None}
    twice = next((name for name in found if named.get(name) is not None), None)
    if twice is not None:
        raise TypeError(f"generate got {twice!r} by position and by name")
    return found
