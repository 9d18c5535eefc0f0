"""The part of ModernBERT's line: windows and all tokens in turn, a rotary base for either, gated feed-forwards, and the
projection that all its heads score through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.parts import read_width
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.stack import TextStack
from omniform.blocks.attention import Attention
from omniform.blocks.embeddings import NormedEmbeddings
from omniform.blocks.frequencies import Frequencies, read_layer_frequencies
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS, GatedMLP
from omniform.blocks.rotary import RoundedRotary
from omniform.core import rules
from omniform.core.config import Beginning, ModelConfig
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.weights.init import truncated
from omniform.weights.keymap import Rule
from omniform.weights.links import split

S = TypeVar("S", bound=TextStack)

FULL, SLIDING = "full_attention", "sliding_attention"
BASES = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}
TOKENS = {
    "pad_token_id": 50283, "eos_token_id": 50282, "bos_token_id": 50281, "cls_token_id": 50281, "sep_token_id": 50282,
}  # fmt: skip


class DroppedAttention(Attention):
    """Dropout on the output too, the same as on the weights."""

    SHARDS = Attention.SHARDS

    def output(self, mixed_BTE: Tensor, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        return F.dropout(super().output(mixed_BTE, x_BTD, ctx), self.dropout, self.training)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModernText:
    """What a ModernBERT and its kin compute.

    Attributes:
        kinds: of the layers, :data:`FULL` or :data:`SLIDING`.
        window: how many tokens a layer with a window sees on a side, its own among them; None where it sees all.
        score_bias: whether the heads' projection has a bias; ``score_act`` is its activation.
        decoder_bias: whether scores of tokens have one.
    """

    vocab_size: int
    dim: int
    hidden: int
    heads: int
    act: str
    eps: float
    max_positions: int
    kinds: tuple[str, ...]
    window: int | None
    frequencies: Mapping[str, Frequencies]
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    decoder_bias: bool
    score_bias: bool
    score_act: str
    tie: bool
    embedding_dropout: float
    attention_dropout: float
    mlp_dropout: float
    classifier_dropout: float

    @classmethod
    def read(cls, r: ConfigReader, *, own: int, half: int | None = None) -> ModernText:
        """The fields under their usual names.

        Args:
            own: 1 where a window of ``local_attention`` holds half as many tokens on a side and the token itself, 0
                where that is counted in.
            half: that half, if the config says it by itself.
        """
        dim, heads = read_width(r, "hidden_size", 768, "num_attention_heads", 12)
        layers, longest = r.layers("num_hidden_layers", 22), r.integer("max_position_embeddings", 8192)
        every = r.integer("global_attn_every_n_layers", 3)
        kinds = r.texts("layer_types", tuple(SLIDING if i % every else FULL for i in range(layers)))
        if len(kinds) != layers or not BASES.keys() >= set(kinds):
            raise r.fail("layer_types", f"{layers} (num_hidden_layers) times one of {', '.join(BASES)}", list(kinds))
        local = r.maybe_integer("local_attention", 128, least=0)
        if half is None and local is not None:
            half = local // 2
        r.inert("layer_norm_eps", "position_embedding_type", "reference_compile", initializer_cutoff_factor=2.0)
        r.special_tokens(**TOKENS)
        return cls(
            vocab_size=r.integer("vocab_size", 50368),
            dim=dim,
            hidden=r.integer("intermediate_size", 1152),
            heads=heads,
            act=r.choice("hidden_activation", ACTIVATIONS, "gelu"),
            eps=r.number("norm_eps", 1e-5),
            max_positions=longest,
            kinds=kinds,
            window=None if half is None else half + own,
            frequencies=read_layer_frequencies(r, BASES, head_dim=dim // heads, max_positions=longest, scaled=BASES),
            norm_bias=r.flag("norm_bias", False),
            attention_bias=r.flag("attention_bias", False),
            mlp_bias=r.flag("mlp_bias", False),
            decoder_bias=r.flag("decoder_bias", True),
            score_bias=r.flag("classifier_bias", False),
            score_act=r.choice("classifier_activation", ACTIVATIONS, "gelu"),
            tie=r.flag("tie_word_embeddings", True),
            embedding_dropout=r.probability("embedding_dropout"),
            attention_dropout=r.probability("attention_dropout"),
            mlp_dropout=r.probability("mlp_dropout"),
            classifier_dropout=r.probability("classifier_dropout"),
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(self.dim, self.eps, bias=self.norm_bias)

    def layer(self, kind: str, rule: rules.Rule) -> PreNorm:
        """One layer."""
        attention = DroppedAttention(
            self.dim,
            self.heads,
            rule=rule,
            positions=RoundedRotary(self.frequencies[kind]),
            biases="qkvo" if self.attention_bias else "",
            dropout=self.attention_dropout,
        )
        mlp = GatedMLP(self.dim, self.hidden, self.act, bias=self.mlp_bias, dropout=self.mlp_dropout)
        return PreNorm.of(self.norm, self_attn=attention, mlp=mlp)

    def stack(self, stack: type[S], seen: Mapping[str, rules.Rule]) -> S:
        """The stack without a head.

        Args:
            stack: what it is, an encoder or a decoder.
            seen: what each kind of layer sees.
        """
        layers = [self.layer(kind, seen[kind]) for kind in self.kinds]
        for first in layers[:1]:
            first.input_layernorm = nn.Identity()  # the embeddings are normed already
        return stack(
            embed_tokens=nn.Embedding(self.vocab_size, self.dim),
            embeddings=NormedEmbeddings(norm=self.norm(), dropout=self.embedding_dropout),
            layers=nn.ModuleList(layers),
            norm=self.norm(),
            max_positions=self.frequencies[FULL].longest_row(self.max_positions),
        )

    def scores(self, count: int, *, bias: bool = True, dropout: float = 0.0) -> ScoringHead:
        """What gives hidden states so many scores."""
        dense, decoder = nn.Linear(self.dim, self.dim, bias=self.score_bias), nn.Linear(self.dim, count, bias=bias)
        return ScoringHead(dense=dense, act=self.score_act, layer_norm=self.norm(), dropout=dropout, decoder=decoder)

    def vocabulary(self, model: TextStack) -> ScoringHead:
        """What scores tokens."""
        scores = self.scores(self.vocab_size, bias=self.decoder_bias)
        if self.tie:
            scores.decoder.weight = model.embed_tokens.weight
        return scores


STACK_KEYS: Mapping[str, Rule] = {
    "embed_tokens": "embeddings.tok_embeddings",
    "layers.{i}.input_layernorm": "layers.{i}.attn_norm",
    "layers.{i}.self_attn": "layers.{i}.attn",
    "layers.{i}.self_attn.o_proj": "layers.{i}.attn.Wo",
    "layers.{i}.post_attention_layernorm": "layers.{i}.mlp_norm",
    "layers.{i}.mlp.gate_proj": split("layers.{i}.mlp.Wi", 0, 2),
    "layers.{i}.mlp.up_proj": split("layers.{i}.mlp.Wi", 1, 2),
    "layers.{i}.mlp.down_proj": "layers.{i}.mlp.Wo",
    "norm": "final_norm",
}
"""Where this line keeps the weights of its stacks."""


def modern_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Truncated normal distributions; smaller ones for what writes onto the residual stream, and for heads."""
    module, _, tensor = path.rpartition(".")
    last = module.rpartition(".")[2]
    std, dim = config.common.initializer_range, float(cast(int, config.hidden_size))
    deep = std * (2 * cast(int, config.num_hidden_layers)) ** -0.5
    stds = dict.fromkeys(("embed_tokens", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), std)
    stds |= dict.fromkeys(("o_proj", "down_proj", "dense"), deep)
    stds["decoder"] = deep if path.startswith("lm_head") else dim**-0.5
    if tensor != "weight" or last not in stds:
        return None
    return truncated(stds[last], float(cast(float, config.get("initializer_cutoff_factor", 3.0) or 3.0)))


def scored(ours: str, projection: str, scores: str) -> dict[str, str]:
    """Where the weights of one of our heads live."""
    head = {"dense": f"{projection}.dense", "layer_norm": f"{projection}.norm", "decoder": scores}
    return {f"{ours}.{part}": theirs for part, theirs in head.items()}
