"""Phi-3 (https://arxiv.org/abs/2404.14219)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, causal
from omniform.blocks.frequencies import LongRope, RenewedLongRope
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap
from omniform.weights.links import fused


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Phi-3 computes.

    Attributes:
        window: how many tokens back each layer sees; None for all.
        dropout: on what each branch of a layer adds.
    """

    text: GatedText
    window: int | None
    dropout: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=32064, dim=3072, hidden=8192, eps=1e-5, max_positions=4096, trained=4096, partial=1.0, eos=32000,
        pad=32000,
    )  # fmt: skip
    if isinstance(text.frequencies, LongRope):
        text = replace(text, frequencies=RenewedLongRope(**asdict(text.frequencies)))
    # No release drops out embeddings, whatever its config says.
    r.inert("embd_pdrop")
    r.inert("full_attn_mod", "interpolate_factor")  # Phi-4-mini's own code has them, and they are 1
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        r.only(name, None, False, why="this family has no biases")
    return Config(text=text, window=r.maybe_integer("sliding_window"), dropout=r.probability("resid_pdrop"))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, rule = c.text, Rotary(c.text.frequencies), causal(c.window)
    return text.decoder(lambda _: text.prenorm(text.attention(rule, rotary), dropout=c.dropout))


def keys(c: Config) -> KeyMap:
    """Queries, keys and values lie in one matrix, gates and what they open in another."""
    attn, mlp, heads, hidden = "layers.{i}.self_attn", "layers.{i}.mlp", c.text.heads, c.text.hidden
    q, kv = heads.queries * heads.dim, heads.kv * heads.dim
    return KeyMap(
        {
            **fused(f"{attn}.qkv_proj", {f"{attn}.q_proj": q, f"{attn}.k_proj": kv, f"{attn}.v_proj": kv}),
            **fused(f"{mlp}.gate_up_proj", {f"{mlp}.gate_proj": hidden, f"{mlp}.up_proj": hidden}),
        }
    )


FAMILY = decoder_family("phi3", "Phi3", read, build, keys, answers=None, usual={"embd_pdrop": 0.0}).done()
