"""StableLM (https://arxiv.org/abs/2402.17834): Llama with layer norms, a quarter of each head turned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import LayerNormedText
from omniform.blocks.layers import OneNormParallel, PreNorm
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.norms import WideLayerNorm
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap
from omniform.weights.links import stacked


class DroppedMLP(GatedMLP):
    """A gated feed-forward whose outcome is dropped out, in training; attention's is not."""

    SHARDS = GatedMLP.SHARDS

    dropped: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), self.dropped, self.training)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a StableLM computes.

    Attributes:
        qk_norm: whether queries and keys are normed, each head with weights of its own.
        layer: branches one after another, or beside one another.
        dropout: on what the feed-forward adds.
    """

    text: LayerNormedText
    biases: str
    qk_norm: bool
    layer: type[PreNorm] | type[OneNormParallel]
    dropout: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = LayerNormedText.read(
        r, vocab_size=50304, dim=2560, hidden=6912, kv_heads=32, eps=1e-5, eps_key="layer_norm_eps",
        max_positions=4096, partial=0.25, bos=0, eos=0,
    )  # fmt: skip
    # What the first releases' own code calls these things, beside the names that count.
    r.inert("norm_eps", "rope_pct", "rotary_scaling_factor")
    dropout = r.probability("hidden_dropout")
    return Config(
        text=replace(text, classifier_dropout=r.probability("classifier_dropout", dropout)),
        biases="qkv" if r.flag("use_qkv_bias", False) else "",
        qk_norm=r.flag("qk_layernorm", False),
        layer=OneNormParallel if r.flag("use_parallel_residual", False) else PreNorm,
        dropout=dropout,
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary = c.text, Rotary(c.text.frequencies)

    def norm(heads: int) -> nn.Module | None:
        return WideLayerNorm((heads, text.heads.dim), text.eps) if c.qk_norm else None

    def layer(_: int) -> nn.Module:
        q_norm, k_norm = norm(text.heads.queries), norm(text.heads.kv)
        attention = text.attention(Causal(), rotary, biases=c.biases, q_norm=q_norm, k_norm=k_norm)
        mlp = DroppedMLP(text.dim, text.hidden, text.act)
        mlp.dropped = c.dropout
        return c.layer.of(text.norm, self_attn=attention, mlp=mlp)

    return text.decoder(layer)


def keys(c: Config) -> KeyMap:
    """Every head's norm is a module of its own."""
    counts = {"q": c.text.heads.queries, "k": c.text.heads.kv}
    attention = "layers.{i}.self_attn"
    return KeyMap(
        {
            f"{attention}.{name}_norm": stacked(f"{attention}.{name}_layernorm.norms.{{n}}", count)
            for name, count in counts.items()
        }
    )


FAMILY = decoder_family(
    "stablelm", "StableLm", read, build, keys, tokenizer="PreTrainedTokenizerFast", answers=None
).done()
