"""What a model's work comes to: FLOP and bytes, by its weights and by what it attends to.

It is told of the config and the parameters, by the names that the ecosystem has for them, so that two libraries with
one checkpoint are told the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
HEADS = ("num_attention_heads", "n_head", "num_heads")
WIDTH = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True, slots=True)
class Seen:
    """Layers that attend alike.

    Attributes:
        pair: FLOP of a query and a key in all of them: a product for the score, and one for the value.
        token: bytes of a token's keys and values in all of them.
        window: how many of the last tokens are seen; None for all.
    """

    pair: float
    token: float
    window: int | None = None

    def at(self, place: int) -> int:
        """How many keys the token at a place sees, where none behind it is."""
        return place + 1 if self.window is None else min(place + 1, self.window)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step comes to.

    Attributes:
        flop: of one token: two for every weight of a matrix that it is multiplied with.
        read: bytes of weights that a step reads.
        vocabulary: how many tokens there are.
        head: what of ``flop`` is the scores of the next token.
        seen: what attention comes to; nothing where the config does not say it in the usual words.
        causal: whether a token sees only itself and those before it.
    """

    flop: float
    read: float
    vocabulary: int
    head: float = 0.0
    seen: tuple[Seen, ...] = ()
    causal: bool = True

    def pass_over(self, length: int) -> float:
        """FLOP of a forward over a row, scores after every token included."""
        return self.flop * length + self.attended(0, length)

    def attended(self, first: int, count: int) -> float:
        """FLOP of the attention of the tokens of a row from a place on; those that nobody may see are not computed."""
        if self.causal:
            return sum(one.pair * sum(one.at(place) for place in range(first, first + count)) for one in self.seen)
        wide = [count if one.window is None else min(count, 2 * one.window - 1) for one in self.seen]
        return sum(one.pair * count * keys for one, keys in zip(self.seen, wide, strict=True))

    def answered(self, prompt: int, new: int) -> tuple[float, float]:
        """FLOP and bytes of all steps of a row after its first token: weights are not among the bytes.

        A step reads the keys and values of all that it sees, and writes its own.
        """
        steps = range(prompt, prompt + new - 1)
        flop = self.flop * len(steps) + self.attended(prompt, len(steps))
        return flop, sum(one.token * (one.at(place) + 1) for one in self.seen for place in steps)

    def prefilled(self, prompt: int) -> tuple[float, float]:
        """FLOP and bytes of reading a prompt: only its last token is scored, and keys and values are written."""
        flop = (self.flop - self.head) * prompt + self.head + self.attended(0, prompt)
        return flop, sum(one.token for one in self.seen) * prompt


def cost_of(model: Any, torch: Any, *, causal: bool) -> Cost:
    """What a model comes to.

    Args:
        model: of any library on torch, with a config and parameters.
    """
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding) or type(module).__name__.endswith("Embedding")
        for parameter in module.parameters(recurse=False)
    }
    head = getattr(getattr(model, "get_output_embeddings", lambda: None)(), "weight", None)
    numbers = read = 0.0
    for parameter in model.parameters():
        if id(parameter) in tables and parameter is not head:
            continue  # a row of a table is read, and multiplied with nothing
        read += parameter.numel() * parameter.element_size()
        if parameter.dim() > 1 and parameter.shape[0] > 1:  # what is added to all places begins with a 1
            numbers += parameter.numel()
    for buffer in model.buffers():  # packed weights are buffers
        read += buffer.numel() * buffer.element_size()
    config = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = getattr(text, "vocab_size", 0)
    kinds = (parameter.element_size() for parameter in model.parameters() if parameter.is_floating_point())
    return Cost(
        2 * numbers, read, vocabulary if isinstance(vocabulary, int) and vocabulary else 1000,
        0.0 if head is None else 2.0 * head.numel(), seen_by(text, next(kinds, 4)), causal,
    )  # fmt: skip


def seen_by(config: Any, size: int) -> tuple[Seen, ...]:
    """What attention comes to, by a config's usual words; nothing where it has others.

    Args:
        size: bytes of a number in a cache.
    """
    layers, heads, width = (_first(config, names) for names in (LAYERS, HEADS, WIDTH))
    if not layers or not heads or not width or _has(config, "kv_lora_rank") or _has(config, "is_encoder_decoder"):
        return ()
    dim = _first(config, ("head_dim",)) or width // heads
    kv_heads = _first(config, ("num_key_value_heads",)) or heads
    window = _first(config, ("sliding_window",)) if getattr(config, "use_sliding_window", True) else None
    kinds = getattr(config, "layer_types", None)
    kinds = (
        list(kinds)
        if isinstance(kinds, list | tuple)
        else ["sliding_attention" if window else "full_attention"] * layers
    )
    counts: Mapping[int | None, int] = {
        None: kinds.count("full_attention") + (0 if window else kinds.count("sliding_attention")),
        **({window: kinds.count("sliding_attention")} if window else {}),
    }
    return tuple(Seen(4.0 * heads * dim * count, 2.0 * kv_heads * dim * size * count, seen)
                 for seen, count in counts.items() if count)  # fmt: skip


def _first(config: Any, names: tuple[str, ...]) -> int | None:
    found = (getattr(config, name, None) for name in names)
    return next((one for one in found if isinstance(one, int) and not isinstance(one, bool) and one > 0), None)


def _has(config: Any, name: str) -> bool:
    return bool(getattr(config, name, None))
