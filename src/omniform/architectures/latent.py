"""What decoders with latent attention share (DeepSeek-V2, DeepSeek-V3 and their kin): their part of the config."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.parts import GatedText
from omniform.blocks.attention import Positions
from omniform.blocks.frequencies import read_frequencies
from omniform.blocks.latent import LatentAttention, LatentHeads, LowRankLatentAttention
from omniform.blocks.moe import RoutedPreNorm
from omniform.blocks.scores import Scores
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentText:
    """A latent attention, and the decoder around it.

    Attributes:
        text: the rest of the decoder; its heads tell how many there are.
        heads: how the attention is cut.
        query_rank: width of what queries are made of; None where they are made of the residual stream itself.
        bias: whether what reads and writes the residual stream has biases.
        scores: how queries and keys are compared.
    """

    text: GatedText
    heads: LatentHeads
    query_rank: int | None
    bias: bool
    scores: Scores

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        vocab_size: int,
        dim: int,
        hidden: int,
        layers: int,
        heads: int,
        kv_heads: int | None,
        max_positions: int,
        bos: int,
        eos: int,
    ) -> Self:
        """The fields under their usual names; the arguments are the defaults that differ.

        Raises:
            ConfigError: fewer heads of keys than of queries, which latents do not have.
        """
        # Before the frequencies are read: they note what they were resolved to.
        turned, magnitude = r.integer("qk_rope_head_dim", 64), _magnitude(r)
        text = GatedText.read(
            r, vocab_size=vocab_size, dim=dim, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads,
            head_dim=turned, max_positions=max_positions, bos=bos, eos=eos,
        )  # fmt: skip
        if text.heads.kv != text.heads.queries:
            raise r.fail("num_key_value_heads", f"{text.heads.queries} (num_attention_heads)", text.heads.kv)
        if text.heads.dim != turned:  # which tools may have written, and which nobody reads
            frequencies = read_frequencies(r, head_dim=turned, max_positions=text.max_positions)
            text = replace(text, frequencies=frequencies)
        plain = r.integer("qk_nope_head_dim", 128)
        r.values |= {"head_dim": turned, "qk_head_dim": plain + turned}
        r.inert("qk_head_dim", pretraining_tp=1)
        return cls(
            text=text,
            heads=LatentHeads(
                count=text.heads.queries,
                rank=r.integer("kv_lora_rank", 512),
                turned=turned,
                plain=plain,
                value=r.integer("v_head_dim", 128),
            ),
            query_rank=r.integer_or_null("q_lora_rank", 1536),
            bias=r.flag("attention_bias", False),
            scores=Scores((plain + turned) ** -0.5 * magnitude),
        )

    def attention(self, positions: Positions) -> LatentAttention:
        """One self-attention."""
        dim, dropout = self.text.dim, self.text.attention_dropout
        if self.query_rank is None:
            return LatentAttention(
                dim, self.heads, rule=Causal(), positions=positions, scores=self.scores, bias=self.bias, dropout=dropout
            )
        return LowRankLatentAttention(
            dim, self.heads, self.query_rank, rule=Causal(), positions=positions, scores=self.scores, bias=self.bias,
            dropout=dropout,
        )  # fmt: skip

    def decoder(
        self, positions: Positions, dense: int, moe: Callable[[], nn.Module], *, mlp_bias: bool = False
    ) -> TextDecoder:
        """The decoder without a head.

        Args:
            dense: how many layers there are before those with experts.
            moe: makes the experts of a layer.
            mlp_bias: whether the feed-forwards of the others have biases.
        """
        t = self.text

        def layer(i: int) -> nn.Module:
            attention = self.attention(positions)
            if i < dense:
                return t.prenorm(attention, t.mlp(bias=mlp_bias))
            return RoutedPreNorm.of(t.norm, self_attn=attention, mlp=moe())

        return t.decoder(layer)


def _magnitude(r: ConfigReader) -> float:
    """What stretched frequencies multiply scores by: those of the channels that do not turn too."""
    s = ConfigReader(
        r.mapping("rope_scaling") or r.mapping("rope_parameters") or {}, where=f"{r.where}: rope_parameters"
    )
    whole = s.maybe_number("mscale_all_dim")
    if not whole or s.text("rope_type", "default", also=("type",)) == "default":
        return 1.0
    factor = s.number("factor")
    return 1.0 if factor <= 1 else (0.1 * whole * math.log(factor) + 1.0) ** 2
