"""Parts of configs that families share: typed groups of fields, each with its reader and its checks.

A family's ``Config`` holds the parts it is made of; its ``read`` names them and the defaults that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.blocks.attention import Attention, CrossAttention, Positions
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.frequencies import FULL, SLIDING, Bases, Frequencies, read_frequencies, read_layer_frequencies
from omniform.blocks.layers import Layer, PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP, GatedMLP
from omniform.blocks.norms import RMSNorm, WideRMSNorm, ZeroCentredRMSNorm
from omniform.blocks.scores import ScoreBias, Scores
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full, Rule, Window

L = TypeVar("L", bound=Layer)
D = TypeVar("D", bound=TextDecoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """How an attention is cut into heads.

    Attributes:
        queries: number of query heads.
        kv: number of key and value heads, a divisor of ``queries``.
        dim: width of a head.
    """

    queries: int
    kv: int
    dim: int

    @classmethod
    def read(
        cls, r: ConfigReader, width: int, *, heads: int = 32, kv_heads: int | None = None, head_dim: int | None = None
    ) -> Heads:
        """``num_attention_heads``, ``num_key_value_heads`` and ``head_dim``.

        Args:
            width: of the residual stream, which heads share where ``head_dim`` is not given.
        """
        queries = r.integer("num_attention_heads", heads)
        name = "num_key_value_heads"
        kv = (r.maybe_integer(name) if kv_heads is None else r.integer_or_null(name, kv_heads)) or queries
        if queries % kv:
            raise r.fail(name, f"a divisor of {queries} (num_attention_heads)", kv)
        dim = r.maybe_integer("head_dim", head_dim)
        if dim is None and width % queries:
            raise r.fail("num_attention_heads", f"a divisor of {width} (hidden_size)", queries)
        found = cls(queries=queries, kv=kv, dim=dim or width // queries)
        r.values |= {name: kv, "head_dim": found.dim}  # what tools ask for, whether the file says it or not
        return found


def read_width(
    r: ConfigReader,
    name: str,
    default: int,
    heads_name: str,
    heads: int,
    *,
    also: tuple[str, ...] = (),
    heads_also: tuple[str, ...] = (),
) -> tuple[int, int]:
    """A width and the number of heads that share it, each with its other names.

    Raises:
        ConfigError: they do not share it evenly.
    """
    dim, count = r.integer(name, default, also=also), r.integer(heads_name, heads, also=heads_also)
    if dim % count:
        raise r.fail(heads_name, f"a divisor of {dim} ({name})", count)
    return dim, count


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The size of the encoder or of the decoder of a model that has both."""

    layers: int
    heads: int
    hidden: int
    layerdrop: float

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        side: str,
        dim: int,
        *,
        layers: int,
        heads: int,
        hidden: int,
        layerdrop: float = 0.0,
        least: int = 0,
    ) -> Side:
        """``encoder_layers``, ``encoder_attention_heads``, ``encoder_ffn_dim`` and so on; the rest are their defaults.

        Args:
            side: ``"encoder"``, which the keys without a side mean too, or ``"decoder"``.
            dim: width of the residual stream, which heads share.
        """
        generic = ("num_attention_heads", "num_key_value_heads", "num_hidden_layers") if side == "encoder" else ()
        count = r.integer(f"{side}_attention_heads", heads, also=generic[:2])
        if dim % count:
            raise r.fail(f"{side}_attention_heads", f"a divisor of {dim} (d_model)", count)
        return cls(
            layers=r.layers(f"{side}_layers", layers, also=generic[2:], least=least),
            heads=count,
            hidden=r.integer(f"{side}_ffn_dim", hidden),
            layerdrop=r.probability(f"{side}_layerdrop", layerdrop),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """An encoder and a decoder as BART's: layer norms, plain feed-forwards, sizes of their own."""

    dim: int
    encoder: Side
    decoder: Side
    act: str
    dropout: float
    attention_dropout: float
    activation_dropout: float

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        dim: int = 1024,
        layers: int = 12,
        heads: int = 16,
        hidden: int = 4096,
        act: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        layerdrop: float = 0.0,
        decoder_layers: int | None = None,
        least: int = 0,
    ) -> Sides:
        """The fields under their usual names; the arguments are their defaults, BART's where not given."""
        dim = r.integer("d_model", dim, also=("hidden_size",))
        size = {"heads": heads, "hidden": hidden}
        return cls(
            dim=dim,
            encoder=Side.read(r, "encoder", dim, layers=layers, layerdrop=layerdrop, **size),
            decoder=Side.read(
                r, "decoder", dim, layers=decoder_layers or layers, layerdrop=layerdrop, least=least, **size
            ),
            act=r.choice("activation_function", ACTIVATIONS, act),
            dropout=r.probability("dropout", dropout),
            attention_dropout=r.probability("attention_dropout", attention_dropout),
            activation_dropout=r.probability("activation_dropout"),
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(self.dim)

    def mlp(self, side: Side) -> MLP:
        """One feed-forward."""
        return MLP(self.dim, side.hidden, self.act, dropout=self.activation_dropout)

    def crossed(self, layer: type[L], self_attn: nn.Module, encoder_attn: nn.Module) -> L:
        """A decoder's layer of one kind or the other."""
        mlp, dropout = self.mlp(self.decoder), self.dropout
        return layer.of(self.norm, self_attn=self_attn, encoder_attn=encoder_attn, mlp=mlp, dropout=dropout)

    def encoder_layer(self, layer: type[L], self_attn: nn.Module) -> L:
        """An encoder's layer, its norms before or after the branches."""
        return layer.of(self.norm, self_attn=self_attn, mlp=self.mlp(self.encoder), dropout=self.dropout)

    def encoder_layers(self, layer: type[Layer], *, biases: str = "qkvo") -> nn.ModuleList:
        """The encoder's layers; ``biases``: which projections of an attention have one."""

        def attention() -> Attention:
            heads, dropout = self.encoder.heads, self.attention_dropout
            return Attention(self.dim, heads, rule=Full(), biases=biases, dropout=dropout)

        return nn.ModuleList(self.encoder_layer(layer, attention()) for _ in range(self.encoder.layers))

    def decoder_layers(self, layer: type[Layer], *, biases: str = "qkvo") -> nn.ModuleList:
        """The decoder's layers; ``biases``: which projections of an attention have one."""
        dim, heads, dropout = self.dim, self.decoder.heads, self.attention_dropout

        def one() -> nn.Module:
            own = Attention(dim, heads, rule=Causal(), biases=biases, dropout=dropout)
            return self.crossed(layer, own, CrossAttention(dim, heads, biases=biases, dropout=dropout))

        return nn.ModuleList(one() for _ in range(self.decoder.layers))


SIDE_KEYS = {
    **{
        f"layers.{{i}}.{ours}": f"layers.{{i}}.{theirs}"
        for ours, theirs in (
            ("self_attn.o_proj", "self_attn.out_proj"),
            ("encoder_attn.o_proj", "encoder_attn.out_proj"),
            ("input_layernorm", "self_attn_layer_norm"),
            ("post_attention_layernorm", "final_layer_norm"),
            ("mlp.fc1", "fc1"),
            ("mlp.fc2", "fc2"),
        )
    },
    "embeddings.embed_positions": "embed_positions",
    "embeddings.norm": "layernorm_embedding",
    "norm": "layer_norm",
}
"""Where either side of BART's line keeps its weights."""


def causal(window: int | None) -> Rule:
    """What a layer of a decoder sees: all that came before, or the last ``window`` tokens, its own among them."""
    return Causal() if window is None else Causal() & Window(window)


def around(window: int | None) -> Rule:
    """What a layer sees that reads both ways: everything, or what is nearer than ``window`` tokens."""
    return Full() if window is None else Window(window)


def read_windows(
    r: ConfigReader,
    layers: int,
    window: int | None,
    kinds: tuple[str, ...] = (),
    seen: Callable[[int | None], Rule] = causal,
) -> tuple[Rule, ...]:
    """What each layer sees, from ``layer_types``: all (``full_attention``) or a window (``sliding_attention``).

    Args:
        window: of the layers that have one.
        kinds: of the layers where the config does not say; the same window for all, if there are none.
        seen: what a window means, and none.
    """
    kinds = r.texts("layer_types", kinds)
    if not kinds:
        return (seen(window),) * layers
    windows = {FULL: None, SLIDING: window}
    if len(kinds) != layers or not windows.keys() >= set(kinds):
        raise r.fail("layer_types", f"{layers} (num_hidden_layers) times one of {', '.join(windows)}", list(kinds))
    if window is None and SLIDING in kinds:
        raise r.fail("sliding_window", "an integer, for the layers of the kind sliding_attention", None)
    return tuple(seen(windows[kind]) for kind in kinds)


def read_upper_windows(r: ConfigReader, layers: int, above: int = 28) -> tuple[Rule, ...]:
    """What each layer sees where ``use_sliding_window`` gives those from ``max_window_layers`` on a window (Qwen)."""
    window, first = r.integer_or_null("sliding_window", 4096), r.maybe_integer("max_window_layers", above, least=0)
    if not r.flag("use_sliding_window", False):
        window = r.values["sliding_window"] = None
    windowed = window is not None and first is not None
    kinds = tuple(SLIDING if windowed and i >= (first or 0) else FULL for i in range(layers))
    return read_windows(r, layers, window, kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderText:
    """What decoders of text have in common, whatever their norms and feed-forwards are."""

    vocab_size: int
    dim: int
    hidden: int
    layers: int
    heads: Heads
    act: str
    eps: float
    max_positions: int
    attention_dropout: float
    classifier_dropout: float
    tie: bool

    def norm(self) -> nn.Module:
        """One norm."""
        raise NotImplementedError

    def attention(
        self,
        rule: Rule,
        positions: Positions | None,
        *,
        biases: str = "",
        scores: Scores | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        bias: ScoreBias | None = None,
    ) -> Attention:
        """One self-attention; see :class:`~omniform.blocks.attention.Attention`."""
        return Attention(
            self.dim,
            self.heads.queries,
            kv_heads=self.heads.kv,
            head_dim=self.heads.dim,
            rule=rule,
            positions=positions,
            biases=biases,
            scores=scores,
            q_norm=q_norm,
            k_norm=k_norm,
            bias=bias,
            dropout=self.attention_dropout,
        )

    def stack(
        self,
        layer: Callable[[int], nn.Module],
        embeddings: Embeddings,
        longest: int | None,
        embed_tokens: nn.Embedding | None = None,
        norm: nn.Module | None = None,
        kind: type[D] = TextDecoder,  # type: ignore[assignment]
    ) -> D:
        """The decoder without a head.

        Args:
            layer: makes the layer with the given index.
            embeddings: what happens to token vectors before the first.
            longest: the longest row; None for no limit.
            embed_tokens: the table of tokens, if it is not a plain one.
            norm: after the last layer, if not one as the others.
            kind: of decoder.
        """
        return kind(
            embed_tokens=nn.Embedding(self.vocab_size, self.dim) if embed_tokens is None else embed_tokens,
            embeddings=embeddings,
            layers=nn.ModuleList(layer(i) for i in range(self.layers)),
            norm=self.norm() if norm is None else norm,
            max_positions=longest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedText(DecoderText):
    """A decoder as Llama's: RMS norms, rotary positions, grouped heads, gated feed-forward.

    Attributes:
        frequencies: how fast queries and keys turn; where kinds of layers differ, in those that see all.
        turning: by the kind of layer, where they differ.
    """

    frequencies: Frequencies
    turning: Mapping[str, Frequencies] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        vocab_size: int = 32000,
        dim: int = 4096,
        hidden: int = 11008,
        layers: int = 32,
        heads: int = 32,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        act: str = "silu",
        act_key: str = "hidden_act",
        eps: float = 1e-6,
        eps_key: str = "rms_norm_eps",
        max_positions: int = 2048,
        theta: float = 10000.0,
        partial: float | None = None,
        trained: int | None = None,
        rope: Mapping[str, object] | None = None,
        bases: Bases | None = None,
        tie: bool = False,
        bos: int | None = 1,
        eos: int | None = 2,
        pad: int | None = None,
    ) -> Self:
        """The fields under their usual names; the arguments are their defaults, Llama's where not given."""
        dim = r.integer("hidden_size", dim)
        cut = Heads.read(r, dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
        longest = r.integer("max_position_embeddings", max_positions)
        r.special_tokens(bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)
        if bases is None:
            turning: Mapping[str, Frequencies] = {}
            frequencies = read_frequencies(
                r, head_dim=cut.dim, max_positions=longest, theta=theta, partial=partial, trained=trained, usual=rope
            )
        else:
            turning = read_layer_frequencies(r, bases, head_dim=cut.dim, max_positions=longest, scaled=(FULL,))
            frequencies = turning[FULL]
        return cls(
            vocab_size=r.integer("vocab_size", vocab_size),
            dim=dim,
            hidden=r.integer("intermediate_size", hidden),
            layers=r.layers("num_hidden_layers", layers),
            heads=cut,
            act=r.choice(act_key, ACTIVATIONS, act),
            eps=r.number(eps_key, eps),
            max_positions=longest,
            frequencies=frequencies,
            turning=turning,
            attention_dropout=r.probability("attention_dropout"),
            classifier_dropout=r.probability("classifier_dropout", r.probability("hidden_dropout", 0.1)),
            tie=r.flag("tie_word_embeddings", tie),
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return RMSNorm(self.dim, self.eps)

    def mlp(self, *, bias: bool = False) -> nn.Module:
        """One feed-forward."""
        return GatedMLP(self.dim, self.hidden, self.act, bias=bias)

    def prenorm(self, attention: nn.Module, mlp: nn.Module | None = None, dropout: float = 0.0) -> PreNorm:
        """One layer with a norm before each branch."""
        return PreNorm.of(self.norm, self_attn=attention, mlp=self.mlp() if mlp is None else mlp, dropout=dropout)

    def decoder(
        self,
        layer: Callable[[int], nn.Module],
        *,
        embed_tokens: nn.Embedding | None = None,
        embeddings: Embeddings | None = None,
        norm: nn.Module | None = None,
        kind: type[D] = TextDecoder,  # type: ignore[assignment]
    ) -> D:
        """The decoder without a head.

        Args:
            layer: makes the layer with the given index.
            embed_tokens: the table of tokens, if it is not a plain one.
            embeddings: what happens to token vectors, if anything does.
            norm: after the last layer, if not one as the others.
            kind: of decoder.
        """
        longest = self.frequencies.longest_row(self.max_positions)
        how = Embeddings() if embeddings is None else embeddings
        return self.stack(layer, how, longest, embed_tokens, norm, kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroCentredText(GatedText):
    """Llama's parts, with norms whose weights are what is added to one (Gemma, Qwen3-Next)."""

    def norm(self) -> nn.Module:
        return ZeroCentredRMSNorm(self.dim, self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class WideText(GatedText):
    """Llama's parts, with norms that are computed in float32 to the end (OLMo 2)."""

    def norm(self) -> nn.Module:
        return WideRMSNorm(self.dim, self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNormedText(GatedText):
    """Llama's parts with layer norms (StableLM, Phi-3.5-MoE)."""

    def norm(self) -> nn.Module:
        return nn.LayerNorm(self.dim, self.eps)
