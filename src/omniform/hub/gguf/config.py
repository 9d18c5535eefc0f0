"""From a GGUF file's metadata to the mapping that ``config.json`` would hold, and to settings of writing."""

from __future__ import annotations

from collections.abc import Mapping

from omniform.core.errors import ConfigError, UnknownNameError, nearest
from omniform.hub.gguf import told
from omniform.hub.gguf.architectures import ARCHITECTURES, Architecture
from omniform.hub.gguf.facts import Facts
from omniform.weights.gguf.reader import Value

ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|return|>", "<|call|>")
"""Special tokens that end an answer wherever they are, though a file names one or two of them only."""

CONTROL = 3
"""The type of special tokens in a file's list of tokens."""


def architecture_of(facts: Facts) -> Architecture:
    """What is known of a file's architecture.

    Raises:
        UnknownNameError: nothing is.
    """
    found = ARCHITECTURES.get(facts.architecture)
    if found is None:
        raise UnknownNameError(
            "GGUF files of this architecture are not read",
            where=f"{facts.where}: general.architecture",
            found=facts.architecture,
            expected=", ".join(sorted(ARCHITECTURES)),
            remedy=nearest(facts.architecture, ARCHITECTURES),
        )
    return found


def config_of(facts: Facts) -> dict[str, object]:
    """What ``config.json`` would hold.

    Raises:
        UnknownNameError: the architecture is not known.
        ConfigError: a key is missing or has a wrong value.
    """
    arch = architecture_of(facts)
    for key in arch.needs:
        facts.integer(key)
    config: dict[str, object] = {"model_type": arch.model_type, "architectures": [arch.writer], **arch.fixed}
    for key, name in arch.keys.items():
        if facts.has(key):
            config[name] = _plain(facts, key)
    config.update(arch.told(facts))
    if "rope_freqs.weight" in facts.tensors:
        settings = config.get("rope_parameters")
        assert isinstance(settings, dict)
        config["rope_parameters"] = told.stretched(facts, facts.numbers("rope_freqs.weight"), settings)
    for name in ("long", "short"):
        tensor = f"rope_factors_{name}.weight"
        if tensor in facts.tensors:
            settings = config.get("rope_parameters")
            if isinstance(settings, dict):
                settings[f"{name}_factor"] = facts.numbers(tensor)
    config["vocab_size"] = facts.shape("token_embd.weight")[0]
    config["tie_word_embeddings"] = "output.weight" not in facts.tensors
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        found = facts.metadata.get(f"tokenizer.ggml.{key}_token_id")
        config[f"{name}_token_id"] = found if type(found) is int else None
    return config


def _plain(facts: Facts, key: str) -> object:
    found = facts.metadata[facts.own(key)]
    if isinstance(found, list):
        return facts.integer(key)  # one for each layer
    return round(found, 12) if isinstance(found, float) and not float(found).is_integer() else found


def settings_of(facts: Facts) -> dict[str, object]:
    """What ``generation_config.json`` would hold: which tokens begin and end an answer."""
    ends = [
        found
        for name in ("eos", "eot", "eom")
        if type(found := facts.metadata.get(f"tokenizer.ggml.{name}_token_id")) is int
    ]
    tokens, kinds = (_list(facts.metadata.get(f"tokenizer.ggml.{name}")) for name in ("tokens", "token_type"))
    marked = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False)) if kind == CONTROL}
    ends += [marked[token] for token in ENDS if token in marked]
    made: dict[str, object] = {}
    if ends:
        made["eos_token_id"] = list(dict.fromkeys(ends)) if len({*ends}) > 1 else ends[0]
    for name, key in (("bos", "bos"), ("pad", "padding")):
        found = facts.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if type(found) is int:
            made[f"{name}_token_id"] = found
    return made


def _list(value: Value | None) -> list[Value]:
    return value if isinstance(value, list) else []


def check_tensors(facts: Facts, config: Mapping[str, object]) -> None:
    """Raise :class:`ConfigError` where there are fewer tokens in the list than rows that the file embeds."""
    tokens = _list(facts.metadata.get("tokenizer.ggml.tokens"))
    rows = config["vocab_size"]
    if tokens and isinstance(rows, int) and len(tokens) > rows:
        raise ConfigError(
            "there are tokens that the model has no vectors for",
            where=facts.where,
            expected=f"at most {rows} tokens",
            found=str(len(tokens)),
        )
