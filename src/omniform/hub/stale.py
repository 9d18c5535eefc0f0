"""Files of earlier saves that must not stay beside newer ones: they would be read instead of these, or with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from omniform.core.file_names import PREPROCESSOR_FILE, PROCESSOR_FILE, TEMPLATES_FOLDER

WEIGHTS: Final = re.compile(
    r"(pytorch_)?model(?:\.(?P<early>[\w-]+?))?(-\d{5}-of-\d{5})?"
    r"(?:\.(?P<late>[\w-]+))?\.(safetensors|bin)(\.index(?:\.(?P<index>[\w-]+))?\.json)?"
)
"""Names of weights files, and the variant that they are of."""

ADAPTERS: Final = frozenset({"adapter_model.safetensors", "adapter_model.bin"})
"""Where the weights of an adapter may be."""

TOKENIZER_LEFTOVERS: Final = frozenset({"special_tokens_map.json", "added_tokens.json"})
"""What older releases wrote beside ``tokenizer_config.json``, which says it now."""

PROCESSOR_LEFTOVERS: Final = TOKENIZER_LEFTOVERS | {
    "chat_template.json", "chat_template.jinja", TEMPLATES_FOLDER, PREPROCESSOR_FILE,
}  # fmt: skip
"""What older releases wrote beside ``processor_config.json``."""


def is_weights(name: str, variant: str | None) -> bool:
    """Whether this is a file of weights, or their index, of a variant."""
    found = WEIGHTS.fullmatch(name)
    return found is not None and _variant(found) == variant


def stale_beside(written: Iterable[str], there: Iterable[str]) -> list[str]:
    """Those of the files that are there that contradict the ones written, as a save to the same folder removes them.

    Args:
        written: paths in the repository, ``"model.safetensors"``, ``"chat_templates/x.jinja"``.
        there: likewise.
    """
    names = set(written)
    variants = {_variant(found) for found in map(WEIGHTS.fullmatch, names) if found}
    leftovers = TOKENIZER_LEFTOVERS if "tokenizer_config.json" in names else frozenset()
    if PROCESSOR_FILE in names:
        leftovers = PROCESSOR_LEFTOVERS
    if names & ADAPTERS:
        leftovers |= ADAPTERS
    if any(name.startswith(f"{TEMPLATES_FOLDER}/") for name in names):
        leftovers |= {TEMPLATES_FOLDER}

    def stale(name: str) -> bool:
        found = WEIGHTS.fullmatch(name)
        return name.partition("/")[0] in leftovers or (found is not None and _variant(found) in variants)

    return sorted(name for name in there if name not in names and stale(name))


def _variant(found: re.Match[str]) -> str | None:
    return next((value for value in found.groupdict().values() if value), None)
