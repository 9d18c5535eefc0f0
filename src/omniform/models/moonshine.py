"""Moonshine (https://arxiv.org/abs/2410.15608): an encoder of waves as long as they are, and a decoder that writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.encoder_decoder import EncoderDecoder, MemoryEncoder, RightShift, Seq2SeqLM
from omniform.architectures.family import Builder
from omniform.architectures.parts import Heads
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.frequencies import Frequencies, read_frequencies
from omniform.blocks.layers import CrossPreNorm, PreNorm, run
from omniform.blocks.mlp import ACTIVATIONS, MLP, GatedMLP
from omniform.blocks.rotary import InterleavedRotary
from omniform.core.config import Common
from omniform.core.context import Memory, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.outputs import BaseModelOutput, HeardOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full, Rule
from omniform.weights.keymap import KeyMap
from omniform.weights.links import split

CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))
"""Width and stride of each convolution over the samples."""

STEP = 64 * 3 * 2
"""Samples from one frame to the next."""


@dataclass(frozen=True, slots=True)
class PairedRotary(InterleavedRotary):
    """One that turns whole pairs, where the share of a head that is to turn is an odd number of channels."""

    def __post_init__(self) -> None:
        """Any number of channels is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Moonshine computes."""

    vocab_size: int
    dim: int
    hidden: int
    encoder_layers: int
    decoder_layers: int
    heads: Heads
    encoder_act: str
    decoder_act: str
    frequencies: Frequencies
    max_positions: int
    biases: str
    dropout: float
    tie: bool
    shift: RightShift

    def norm(self) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(self.dim, bias=False)

    def attention(self, rule: Rule) -> Attention:
        """One self-attention."""
        rotary = PairedRotary(self.frequencies)
        return Attention(
            self.dim, self.heads.queries, kv_heads=self.heads.kv, head_dim=self.heads.dim, rule=rule, positions=rotary,
            biases=self.biases, dropout=self.dropout,
        )  # fmt: skip

    def crossing(self) -> CrossAttention:
        """One attention that looks at sounds."""
        return CrossAttention(
            self.dim, self.heads.queries, kv_heads=self.heads.kv, head_dim=self.heads.dim, biases=self.biases,
            dropout=self.dropout,
        )  # fmt: skip


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim = r.integer("hidden_size", 288)
    heads = r.integer("encoder_num_attention_heads", 8)
    kv = r.integer("encoder_num_key_value_heads", heads)
    head_dim = r.integer("head_dim", dim // heads)
    if heads % kv:
        raise r.fail("encoder_num_key_value_heads", f"a divisor of {heads} (encoder_num_attention_heads)", kv)
    # The reference makes its encoder first, which writes its own numbers over the decoder's.
    written = r.integer("decoder_num_attention_heads", 8, also=("num_attention_heads",))
    r.integer("decoder_num_key_value_heads", written, also=("num_key_value_heads",))
    # Kernels like some widths of heads better; the zeros that fill them up change nothing.
    r.inert("pad_head_dim_to_multiple_of")
    r.special_tokens(bos_token_id=1, eos_token_id=2)
    longest = r.integer("max_position_embeddings", 512)
    return Config(
        vocab_size=r.integer("vocab_size", 32768),
        dim=dim,
        hidden=r.integer("intermediate_size", 1152),
        encoder_layers=r.layers("encoder_num_hidden_layers", 6),
        decoder_layers=r.layers("decoder_num_hidden_layers", 6, also=("num_hidden_layers",)),
        heads=Heads(queries=heads, kv=kv, dim=head_dim),
        encoder_act=r.choice("encoder_hidden_act", ACTIVATIONS, "gelu"),
        decoder_act=r.choice("decoder_hidden_act", ACTIVATIONS, "silu", also=("hidden_act",)),
        frequencies=read_frequencies(r, head_dim=head_dim, max_positions=longest, partial=0.9),
        max_positions=longest,
        biases="qkv" if r.flag("attention_bias", False) else "",
        dropout=r.probability("attention_dropout"),
        tie=r.flag("tie_word_embeddings", True),
        shift=RightShift(r.token("decoder_start_token_id", 1), r.token("pad_token_id")),
    )


class WaveReader(MemoryEncoder):
    """Three convolutions over a wave, and layers over the frames that they make of it.

    The mean and the spread of a wave's first features are taken over all of its samples, padding among them, as the
    model was trained with: a row is not the same beside a longer one.

    Args:
        dim: width of the hidden states.
        layers: called as ``layer(hidden, ctx)``.
        norm: after the last layer.
    """

    main_input = "input_values"

    dim: int
    layers: nn.ModuleList
    norm: nn.Module

    def __post_init__(self) -> None:
        super().__post_init__()
        first, second, third = CONVOLUTIONS
        self.conv1 = nn.Conv1d(1, self.dim, first[0], first[1], bias=False)
        self.conv2 = nn.Conv1d(self.dim, 2 * self.dim, second[0], second[1])
        self.conv3 = nn.Conv1d(2 * self.dim, self.dim, third[0], third[1])
        self.groupnorm = nn.GroupNorm(1, self.dim)

    def get_input_embeddings(self) -> nn.Module:
        return self.conv1

    def frames_of(self, samples: int) -> int:
        """How many frames come of so many samples."""
        for width, stride in CONVOLUTIONS:
            samples = (samples - width) // stride + 1
        return max(samples, 0)

    def memory(self, hidden: Tensor, attention_mask: Tensor | None) -> Memory:
        if attention_mask is None:
            return Memory(hidden)
        mask = attention_mask
        if mask.shape[-1] != hidden.shape[1]:
            mask = self.reduced(mask)
        check_shape("the mask does not cover the samples", mask.shape, hidden.shape[:2], where="attention_mask")
        return Memory(hidden, mask.bool())

    def memory_of(self, out: BaseModelOutput, attention_mask: Tensor | None) -> Memory:
        if isinstance(out, HeardOutput) and out.attention_mask is not None:
            return Memory(out.last_hidden_state, out.attention_mask.bool())
        return self.memory(out.last_hidden_state, attention_mask)

    def reduced(self, attention_mask: Tensor) -> Tensor:
        """The mask of the frames: each is as real as the first sample it is made of. Shape: [B, L] to [B, T]."""
        return attention_mask[:, ::STEP][:, : self.frames_of(attention_mask.shape[-1])]

    def forward(
        self, input_values: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> HeardOutput:
        """Hidden states of waves.

        Args:
            input_values: 16,000 samples a second. Shape: [B, samples].
            attention_mask: Shape: [B, samples], 1 for real ones.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no waves, or waves too short for one frame.
        """
        waves = self._checked(input_values)
        x = self.groupnorm(F.tanh(self.conv1(waves[:, None])))
        x = F.gelu(self.conv3(F.gelu(self.conv2(x)))).transpose(1, 2)
        mask = None
        if attention_mask is not None:
            problem = "the mask does not cover the samples"
            check_shape(problem, attention_mask.shape, waves.shape, where="attention_mask")
            mask = self.reduced(attention_mask)
        ctx = self.step(x, given, attention_mask=mask)
        hidden = run(self.layers, x, ctx, self.norm)
        kept = None if mask is None else mask.int()
        return HeardOutput(last_hidden_state=hidden, attention_mask=kept, **ctx.taps.noted())

    def _checked(self, waves: Tensor | None) -> Tensor:
        fits = waves is not None and waves.dim() == 2 and waves.is_floating_point()
        if waves is None or not fits or self.frames_of(waves.shape[1]) < 1:
            least = 1
            for width, stride in reversed(CONVOLUTIONS):
                least = (least - 1) * stride + width
            raise InputError(
                "the waves do not fit the encoder",
                where="input_values",
                expected=f"floating-point numbers of shape [batch, samples], at least {least} samples",
                found="none" if waves is None else f"{waves.dtype} of shape {list(waves.shape)}",
            )
        return waves.to(self.conv1.weight.dtype)


def layers_of(count: int, layer: Callable[[], nn.Module]) -> nn.ModuleList:
    """So many layers."""
    return nn.ModuleList(layer() for _ in range(count))


def build(c: Config) -> EncoderDecoder:
    """Encoder and decoder without a head."""

    def reading() -> nn.Module:
        return PreNorm.of(c.norm, self_attn=c.attention(Full()), mlp=MLP(c.dim, c.hidden, c.encoder_act))

    def writing() -> nn.Module:
        mlp = GatedMLP(c.dim, c.hidden, c.decoder_act, bias=True)
        return CrossPreNorm.of(c.norm, self_attn=c.attention(Causal()), encoder_attn=c.crossing(), mlp=mlp)

    return EncoderDecoder(
        encoder=WaveReader(dim=c.dim, layers=layers_of(c.encoder_layers, reading), norm=c.norm()),
        decoder=TextDecoder(
            embed_tokens=nn.Embedding(c.vocab_size, c.dim),
            embeddings=Embeddings(),
            layers=layers_of(c.decoder_layers, writing),
            norm=c.norm(),
            max_positions=c.frequencies.longest_row(c.max_positions),
        ),
    )


def speech_to_text(c: Config, _: Common) -> Seq2SeqLM:
    """The model that writes what was said."""
    model = build(c)
    table = model.decoder.embed_tokens
    head = tied(nn.Linear(c.dim, c.vocab_size, bias=False), table, c.tie)
    return Seq2SeqLM(model=model, lm_head=head, shift=c.shift)


LAYER = "decoder.layers.{i}"
KEYS = KeyMap(
    {
        "encoder.norm": "encoder.layer_norm",
        f"{LAYER}.encoder_attn_layer_norm": f"{LAYER}.post_attention_layernorm",
        f"{LAYER}.post_attention_layernorm": f"{LAYER}.final_layernorm",
        f"{LAYER}.mlp.up_proj": split(f"{LAYER}.mlp.fc1", 0, 2),
        f"{LAYER}.mlp.gate_proj": split(f"{LAYER}.mlp.fc1", 1, 2),
        f"{LAYER}.mlp.down_proj": f"{LAYER}.mlp.fc2",
    }
)

FAMILY = (
    Builder("moonshine", read, KEYS, prefix="model")
    .public(
        config="MoonshineConfig",
        tokenizer="PreTrainedTokenizerFast",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to text",
        usual={"is_encoder_decoder": True, "pad_head_dim_to_multiple_of": None},
    )
    .base("MoonshineModel", build)
    .head("MoonshineForConditionalGeneration", "speech-seq2seq", speech_to_text, {"lm_head": "proj_out"})
    .done()
)
