"""Pix2Struct (https://arxiv.org/abs/2210.03347): patches of pictures of any shape, and a T5 decoder that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import tied
from omniform.architectures.encoder_decoder import (
    EncoderDecoder,
    MemoryCausalLM,
    MemoryEncoder,
    RightShift,
    Seq2SeqLM,
)
from omniform.architectures.family import Builder
from omniform.architectures.seq2seq_family import BiasedText
from omniform.blocks.attention import Attention
from omniform.blocks.layers import PreNorm, run
from omniform.blocks.mlp import ACTIVATIONS, GatedMLP
from omniform.blocks.norms import RMSNorm
from omniform.blocks.scores import Scores
from omniform.core.config import Common
from omniform.core.context import Memory, Tapped
from omniform.core.errors import ConfigError, InputError, check_shape
from omniform.core.outputs import BaseModelOutput, Seq2SeqLMOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


class PatchReader(MemoryEncoder):
    """Layers over patches that say themselves in which row and column they stand.

    Args:
        patch_projection: numbers of a patch to a vector.
        row_embedder: a vector for each row; row 0 is padding's.
        column_embedder: likewise for columns.
        layers: called as ``layer(hidden, ctx)``.
        norm: after the last layer.
        dropout: on the embedded patches, in training.
    """

    main_input = "flattened_patches"

    patch_projection: nn.Linear
    row_embedder: nn.Embedding
    column_embedder: nn.Embedding
    layers: nn.ModuleList
    norm: nn.Module
    dropout: float = 0.0

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_projection

    def memory(self, hidden: Tensor, attention_mask: Tensor | None) -> Memory:
        if attention_mask is None:
            return Memory(hidden)
        problem = "the mask does not cover the patches"
        check_shape(problem, attention_mask.shape, hidden.shape[:2], where="attention_mask")
        return Memory(hidden, attention_mask.bool())

    def arrive(self, inputs: dict[str, object]) -> None:
        patches, width = inputs.get("flattened_patches"), self.patch_projection.in_features + 2
        if not isinstance(patches, Tensor) or patches.dim() != 3 or patches.shape[2] != width:
            raise InputError(
                "these are no patches for this model",
                where="flattened_patches",
                expected=f"shape [batch, patches, {width}]: row, column, and the numbers of a patch",
                found=f"shape {list(patches.shape)}" if isinstance(patches, Tensor) else "None",
            )

    def forward(
        self, flattened_patches: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> BaseModelOutput:
        """Hidden states of patches.

        Args:
            flattened_patches: row, column, and the numbers of each patch. Shape: [B, patches, 2 + numbers].
            attention_mask: Shape: [B, patches], 1 for real ones; by default those that are not zeros.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: patches of another width.
        """
        assert flattened_patches is not None, "checked on arrival"
        mask = flattened_patches.sum(dim=-1) != 0 if attention_mask is None else attention_mask
        rows, columns = flattened_patches[..., 0].long(), flattened_patches[..., 1].long()
        x = self.patch_projection(flattened_patches[..., 2:].to(self.patch_projection.weight.dtype))
        x = x + self.row_embedder(rows) + self.column_embedder(columns)
        x = nn.functional.dropout(x, self.dropout, self.training)
        ctx = self.step(x, given, attention_mask=mask)
        return BaseModelOutput(last_hidden_state=self.norm(run(self.layers, x, ctx)), **ctx.taps.noted())


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the encoder computes."""

    dim: int
    patch: int
    hidden: int
    head_dim: int
    layers: int
    heads: int
    act: str
    eps: float
    dropout: float
    attention_dropout: float
    places: int

    @classmethod
    def read(cls, r: ConfigReader) -> VisionSide:
        """Read the encoder's config."""
        # Said in every file, and of no meaning to what is computed.
        r.number("initializer_factor", 1.0)
        r.integer("relative_attention_num_buckets", 32)
        r.integer("relative_attention_max_distance", 128)
        return cls(
            dim=r.integer("hidden_size", 768),
            patch=r.integer("patch_embed_hidden_size", 768),
            hidden=r.integer("d_ff", 2048),
            head_dim=r.integer("d_kv", 64),
            layers=r.layers("num_hidden_layers", 12),
            heads=r.integer("num_attention_heads", 12),
            act=r.choice("dense_act_fn", ACTIVATIONS, "gelu_new"),
            eps=r.number("layer_norm_eps", 1e-6),
            dropout=r.probability("dropout_rate"),
            attention_dropout=r.probability("attention_dropout"),
            places=r.integer("seq_len", 4096),
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return RMSNorm(self.dim, self.eps)

    def layer(self) -> nn.Module:
        """One layer."""
        attention = Attention(
            self.dim, self.heads, head_dim=self.head_dim, biases="", scores=Scores(1.0), rule=Full(),
            dropout=self.attention_dropout,
        )  # fmt: skip
        mlp = GatedMLP(self.dim, self.hidden, self.act, dropout=self.dropout)
        return PreNorm.of(self.norm, self_attn=attention, mlp=mlp)

    def model(self) -> PatchReader:
        """The encoder."""
        return PatchReader(
            patch_projection=nn.Linear(self.patch, self.dim),
            row_embedder=nn.Embedding(self.places, self.dim),
            column_embedder=nn.Embedding(self.places, self.dim),
            layers=nn.ModuleList(self.layer() for _ in range(self.layers)),
            norm=self.norm(),
            dropout=self.dropout,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSide:
    """What the decoder computes."""

    text: BiasedText
    tie: bool

    @classmethod
    def read(cls, r: ConfigReader) -> TextSide:
        """Read the decoder's config."""
        r.inert("initializer_factor", "add_cross_attention")
        r.only("is_decoder", True, why="a decoder that reads both ways")
        r.special_tokens(bos_token_id=None)
        layers = r.layers("num_layers", 12, also=("num_hidden_layers", "encoder_layers", "decoder_layers"), least=1)
        dim, head = r.integer("hidden_size", 768), r.integer("d_kv", 64)
        heads = r.integer(
            "num_heads", 12, also=("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads")
        )
        text = BiasedText(
            vocab_size=r.integer("vocab_size", 50244),
            dim=dim,
            head_dim=head,
            heads=heads,
            hidden=r.integer("d_ff", 2048),
            encoder_layers=0,
            decoder_layers=layers,
            buckets=r.integer("relative_attention_num_buckets", 32, least=4),
            max_distance=r.integer("relative_attention_max_distance", 128),
            act=r.choice("dense_act_fn", ACTIVATIONS, "gelu_new"),
            gated=True,
            eps=r.number("layer_norm_epsilon", 1e-6),
            dropout=r.probability("dropout_rate", 0.1),
            classifier_dropout=0.0,
            scale_outputs=False,
            shift=RightShift(r.token("decoder_start_token_id", 0), r.token("pad_token_id", 0)),
            eos_token_id=r.token("eos_token_id", 1),
        )
        return cls(text=text, tie=r.flag("tie_word_embeddings", False))

    def writer(self, _: Common | None = None, *, tie: bool = False) -> MemoryCausalLM:
        """The decoder that writes; ``tie``: its matrices are one even if its own config does not say so."""
        text = self.text
        if text.heads * text.head_dim != text.dim:
            expected = f"heads of {text.head_dim} (d_kv) that fill {text.dim} (hidden_size)"
            raise ConfigError("the heads do not fit", where="num_heads", expected=expected, found=text.heads)
        decoder = text.writing(nn.Embedding(text.vocab_size, text.dim))
        head = nn.Linear(text.dim, text.vocab_size, bias=False)
        return MemoryCausalLM(model=decoder, lm_head=tied(head, decoder.embed_tokens, self.tie or tie))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both compute together."""

    vision: Part
    text: Part
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    vision = Part.of(r, "vision_config", {"model_type": "pix2struct_vision_model"})
    text = Part.of(r, "text_config", {"model_type": "pix2struct_text_model"})
    width, own = text.spec(TextSide).text.dim, vision.spec(VisionSide).dim
    if width != own:
        raise ConfigError(
            "the decoder reads vectors of another width than the encoder gives",
            where=f"{vision.where}: hidden_size", expected=f"{width}, the decoder's", found=own,
        )  # fmt: skip
    r.flag("is_vqa", False)  # of the processor
    r.number("initializer_factor", 1.0)
    r.inert("initializer_range")
    shift = text.spec(TextSide).text.shift
    r.inert("decoder_start_token_id", "pad_token_id", "eos_token_id")
    eos = text.config.get("eos_token_id")
    r.values.update(decoder_start_token_id=shift.start, pad_token_id=shift.pad, eos_token_id=eos)
    return Config(vision=vision, text=text, tie=r.flag("tie_word_embeddings", False))


class PatchPair(EncoderDecoder):
    """Encoder and decoder; a mask counts even if all patches are real by it, since zeros are none without."""

    def arrive(self, inputs: dict[str, object]) -> None:
        mask = inputs.get("attention_mask")
        super().arrive(inputs)
        if mask is not None:
            inputs["attention_mask"] = mask


class PatchWriter(Seq2SeqLM):
    """The model that writes; it does not look back at the padding of labels.

    Args:
        keeps: whether a call returns state, where it does not say.
    """

    keeps: bool = False

    def forward(  # type: ignore[override]
        self,
        features: Tensor | None = None,
        /,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        **inputs: object,
    ) -> Seq2SeqLMOutput:
        if labels is not None and decoder_input_ids is None and inputs.get("decoder_inputs_embeds") is None:
            decoder_input_ids = self.shift(labels)
            seen = decoder_attention_mask
            if seen is None and self.shift.pad is not None:
                seen = decoder_input_ids.ne(self.shift.pad)
            if seen is not None:
                decoder_attention_mask = torch.cat((torch.ones_like(seen[:, :1]), seen[:, 1:]), dim=1)
        inputs["decoder_attention_mask"] = decoder_attention_mask
        if inputs.get("use_cache") is None:
            inputs["use_cache"] = self.keeps
        return super().forward(features, attention_mask, decoder_input_ids, labels=labels, **inputs)  # type: ignore[arg-type]


def build(c: Config, _: Common) -> PatchWriter:
    """Both, and the projection onto the vocabulary."""
    writer = c.text.spec(TextSide).writer(tie=c.tie)
    model = PatchPair(encoder=cast(PatchReader, c.vision.model()), decoder=writer.decoder)
    keeps = c.text.config.raw.get("use_cache") is True
    head, shift = cast(nn.Linear, writer.lm_head), c.text.spec(TextSide).text.shift
    return PatchWriter(model=model, lm_head=head, shift=shift, keeps=keeps)


_QKVO = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"}
_GATED = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}


def _within(ours: str, theirs: str, names: dict[str, str]) -> dict[str, str]:
    return {f"layers.{{i}}.{ours}.{mine}": f"{theirs}.{their}" for mine, their in names.items()}


VISION_KEYS = KeyMap(
    {
        **{name: f"embeddings.{name}" for name in ("patch_projection", "row_embedder", "column_embedder")},
        "norm": "layernorm",
        "layers.{i}.input_layernorm": "encoder.layer.{i}.pre_attention_layer_norm",
        "layers.{i}.post_attention_layernorm": "encoder.layer.{i}.pre_mlp_layer_norm",
        **_within("self_attn", "encoder.layer.{i}.attention", _QKVO),
        **_within("mlp", "encoder.layer.{i}.mlp", _GATED),
    }
)
STACK_KEYS = KeyMap(
    {
        "norm.0": "final_layer_norm",
        "layers.{i}.input_layernorm": "layer.{i}.self_attention.layer_norm",
        "layers.{i}.encoder_attn_layer_norm": "layer.{i}.encoder_decoder_attention.layer_norm",
        "layers.{i}.post_attention_layernorm": "layer.{i}.mlp.layer_norm",
        **_within("self_attn", "layer.{i}.self_attention.attention", {**_QKVO, "bias": "relative_attention_bias"}),
        **_within("encoder_attn", "layer.{i}.encoder_decoder_attention.attention", _QKVO),
        **_within("mlp", "layer.{i}.mlp.DenseReluDense", _GATED),
    }
)
TEXT_KEYS = STACK_KEYS.under("model", "")
KEYS = (
    VISION_KEYS.under("model.encoder", "encoder")
    | STACK_KEYS.under("model.decoder", "decoder")
    | KeyMap({"lm_head": "decoder.lm_head"})
)

TEXT = (
    Builder("pix2struct_text_model", TextSide.read, TEXT_KEYS, prefix="")
    .public(
        config="Pix2StructTextConfig",
        padding="learned",
        tokenizer="T5Tokenizer",
        usual={"initializer_factor": 1.0, "use_cache": False},
    )
    .architecture("Pix2StructTextModel", ("causal-lm",), TextSide.writer, TEXT_KEYS)
    .done()
)
VISION = (
    Builder("pix2struct_vision_model", VisionSide.read, VISION_KEYS, prefix="")
    .public(
        config="Pix2StructVisionConfig", image_processor="Pix2StructImageProcessor", usual={"initializer_range": 1e-10}
    )
    .base("Pix2StructVisionModel", VisionSide.model)
    .done()
)
FAMILY = (
    Builder("pix2struct", read, KEYS, prefix="")
    .public(
        config="Pix2StructConfig",
        padding="learned",
        tokenizer="T5Tokenizer",
        image_processor="Pix2StructImageProcessor",
        processor="Pix2StructProcessor",
        row="image to text, questions about pictures",
        usual={"is_encoder_decoder": True},
    )
    .architecture("Pix2StructForConditionalGeneration", ("image-text-to-text", "multimodal-lm"), build, KEYS)
    .done()
)
