"""Decoders that keep a state of fixed size and no keys (Mamba): what they take and give has names of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, Unpack, cast

from torch import Tensor, nn

from omniform.architectures.decoder import CausalLM, TextDecoder, tied
from omniform.architectures.family import Builder
from omniform.architectures.lean import LossOnly
from omniform.architectures.stack import Stepped
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.layers import MixerLayer, WideMixerLayer, run, surviving
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.norms import GateFirstRMSNorm, GateLastRMSNorm, RMSNorm
from omniform.blocks.state_space import Gated, StateSpaceMixer
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.context import StepContext
from omniform.core.outputs import RecurrentCausalLMOutput, RecurrentModelOutput
from omniform.core.reader import ConfigReader
from omniform.core.state import DenseState
from omniform.weights.init import normal
from omniform.weights.keymap import KeyMap, Rule

M = TypeVar("M", bound=StateSpaceMixer)


class Continued(Stepped, total=False):
    """What may come with a step.

    Attributes:
        cache_params: ``past_key_values`` under the name that these models have for it.
    """

    cache_params: DenseState | None


class RecurrentDecoder(TextDecoder):
    """A decoder whose layers keep a state of fixed size."""

    def arrive(self, inputs: dict[str, object]) -> None:
        if inputs.get("cache_params") is not None:
            inputs["past_key_values"] = inputs.pop("cache_params")
        super().arrive(inputs)

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out; what is noted are the layers' outputs."""
        hidden = run(surviving(self.layers, self.layerdrop), self.embeddings(embeds_BTD, ctx), ctx)
        if ctx.taps.wants_hidden:
            del ctx.taps.hidden_states[0]
        if self.norm is not None:
            hidden = self.norm(hidden)
        ctx.taps.hidden(hidden)
        return hidden

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *more: Tensor | None,
        **given: Unpack[Continued],
    ) -> RecurrentModelOutput:
        """Hidden states of a padded batch; see :meth:`TextDecoder.forward`."""
        state = given.pop("cache_params", None)
        told = cast(Stepped, given if state is None else {**given, "past_key_values": state})
        out = super().forward(input_ids, attention_mask, *more, **told)
        return RecurrentModelOutput(
            last_hidden_state=out.last_hidden_state, cache_params=out.past_key_values, hidden_states=out.hidden_states
        )


class RecurrentCausalLM(CausalLM):
    """Such a decoder that writes."""

    def forward(  # type: ignore[override]
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        logits_to_keep: Tensor | int = 0,
        num_items_in_batch: Tensor | int | None = None,
        loss_only: LossOnly | bool | None = None,
        **inputs: object,
    ) -> RecurrentCausalLMOutput:
        """Next-token scores; see :meth:`CausalLM.forward`."""
        out = cast(RecurrentModelOutput, self.model(*args, **inputs))
        logits, loss = self.scored(out.last_hidden_state, labels, logits_to_keep, num_items_in_batch, loss_only)
        return RecurrentCausalLMOutput(
            loss=loss,
            logits=logits,
            cache_params=out.cache_params,
            hidden_states=out.hidden_states,
        )


def plain_conv(config: ModelConfig, path: str) -> Beginning | None:
    """Short convolutions begin as matrices do."""
    return normal(config.common.initializer_range) if path.endswith("conv1d.weight") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentText:
    """A decoder of such layers, apart from what they compute.

    Attributes:
        taps: tokens that a convolution sees.
        biases: whether projections, and convolutions, have biases.
        rank: width of what steps of time are made of, where they are.
        wide: whether the residual stream is kept in float32.
    """

    vocab_size: int
    dim: int
    layers: int
    size: int
    taps: int
    act: str
    eps: float
    biases: tuple[bool, bool]
    rank: int
    wide: bool
    tie: bool

    @classmethod
    def read(cls, r: ConfigReader, *, vocab_size: int, dim: int, layers: int, size: int, tie: bool) -> Self:
        """The fields under their usual names; the arguments are the defaults that differ."""
        dim = r.integer("hidden_size", dim)
        rank = math.ceil(dim / 16) if r.raw.get("time_step_rank") == "auto" else None
        r.values["time_step_rank"] = rank = rank or r.integer("time_step_rank", math.ceil(dim / 16))
        # These tell how a fresh model begins.
        r.number("initializer_range", 0.1)
        r.inert("time_step_rank", time_step_min=0.001, time_step_max=0.1, time_step_floor=1e-4)
        r.inert(rescale_prenorm_residual=False)
        # Published files say these too, and the reference reads none: what their authors' code counted by or fused, the
        # norm's kind and place, which are settled here, and what follows from other keys.
        r.inert("d_model", "d_inner", "d_conv", "n_layer", "ssm_cfg", "pad_vocab_size_multiple", "fused_add_norm")
        r.inert("rms_norm", "norm_before_gate", "time_step_scale", "time_step_init_scheme")
        return cls(
            vocab_size=r.integer("vocab_size", vocab_size),
            dim=dim,
            layers=r.layers("num_hidden_layers", layers),
            size=r.integer("state_size", size),
            taps=r.integer("conv_kernel", 4),
            act=r.choice("hidden_act", ACTIVATIONS, "silu"),
            eps=r.number("layer_norm_epsilon", 1e-5),
            biases=(r.flag("use_bias", False), r.flag("use_conv_bias", True)),
            rank=rank,
            wide=r.flag("residual_in_fp32", True),
            tie=r.flag("tie_word_embeddings", tie),
        )

    def decoder(self, mixer: Callable[[], nn.Module]) -> RecurrentDecoder:
        """The decoder without a head, whose layers are of the given mixers."""
        kind = WideMixerLayer if self.wide else MixerLayer
        return RecurrentDecoder(
            embed_tokens=nn.Embedding(self.vocab_size, self.dim),
            embeddings=Embeddings(),
            layers=nn.ModuleList(kind(norm=RMSNorm(self.dim, self.eps), mixer=mixer()) for _ in range(self.layers)),
            norm=RMSNorm(self.dim, self.eps),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridHeads:
    """How the state spaces of a decoder are cut that has attention too (Bamba, Falcon-H1).

    Attributes:
        count: number of heads.
        width: of a head's values.
        size: of its state.
        groups: how many groups of heads share the directions that they write and read their states in.
        taps: tokens that a convolution sees.
        limit: the least and the greatest step of time.
        bias: whether the projection into a mixer has biases.
        conv_bias: whether the convolution has one.
    """

    count: int
    width: int
    size: int
    groups: int
    taps: int
    limit: tuple[float, float]
    bias: bool
    conv_bias: bool

    @classmethod
    def read(cls, r: ConfigReader, dim: int, inner: int | None = None) -> Self:
        """The fields under their usual names.

        Args:
            dim: width of the residual stream.
            inner: of all heads together; a multiple of ``dim``, if not said.
        """
        expand = r.integer_or_null("mamba_expand", 2)
        inner, count = inner or (expand or 2) * dim, r.integer("mamba_n_heads", 128)
        told = r.raw.get("mamba_d_head", "auto")
        width = inner // count if told in ("auto", None) else r.integer("mamba_d_head")
        if count * width != inner:
            raise r.fail("mamba_n_heads", f"{inner} divided by mamba_d_head", count)
        r.inert("mamba_d_head", mamba_chunk_size=256)
        r.values["mamba_d_head"] = width
        groups = r.integer("mamba_n_groups", 1)
        if count % groups:
            raise r.fail("mamba_n_groups", f"a divisor of {count} (mamba_n_heads)", groups)
        return cls(
            count=count,
            width=width,
            size=r.integer("mamba_d_state", 256),
            groups=groups,
            taps=r.integer("mamba_d_conv", 4),
            limit=r.bounds("time_step_limit", (0.0, math.inf)),
            bias=r.flag("mamba_proj_bias", False),
            conv_bias=r.flag("mamba_conv_bias", True),
        )

    def gate_first(self, eps: float) -> GateFirstRMSNorm:
        """A norm behind the gate."""
        return GateFirstRMSNorm(self.count * self.width, eps, self.groups)

    def gate_last(self, eps: float) -> GateLastRMSNorm:
        """A norm before the gate."""
        return GateLastRMSNorm(self.count * self.width, eps, self.groups)

    def mixer(self, kind: type[M], dim: int, *, act: str, norm: Gated, out_bias: bool) -> M:
        """One state space; see :class:`~omniform.blocks.state_space.StateSpaceMixer`."""
        return kind(
            dim, self.count, self.width, self.size, groups=self.groups, taps=self.taps, act=act, norm=norm,
            limit=self.limit, bias=self.bias, conv_bias=self.conv_bias, out_bias=out_bias,
        )  # fmt: skip


class HasRecurrentText(Protocol):
    """A config with such a text."""

    @property
    def text(self) -> RecurrentText: ...


R = TypeVar("R", bound=HasRecurrentText)


def recurrent_family(
    model_type: str,
    name: str,
    read: Callable[[ConfigReader], R],
    build: Callable[[R], RecurrentDecoder],
    rules: dict[str, Rule] | None = None,
) -> Builder[R]:
    """A family of such decoders: the base, and what writes.

    Args:
        name: what its class names begin with: ``"Mamba2"``.
        rules: where its mixers keep what is called otherwise here.
    """

    def causal_lm(c: R, _: Common) -> RecurrentCausalLM:
        model = build(c)
        head = nn.Linear(model.width, model.embed_tokens.num_embeddings, bias=False)
        return RecurrentCausalLM(model=model, lm_head=tied(head, model.embed_tokens, c.text.tie))

    first = ((r"(^|\.)embedding\.", r"\1embeddings."),)
    keys = KeyMap({"embed_tokens": "embeddings", "norm": "norm_f", **(rules or {})}, aliases=first)
    return (
        Builder(model_type, read, keys, prefix="backbone")
        .public(config=f"{name}Config", padding="learned", tokenizer="GPTNeoXTokenizer", row="causal LM")
        .base(f"{name}Model", build)
        .head(f"{name}ForCausalLM", "causal-lm", causal_lm)
    )
