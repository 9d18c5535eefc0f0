"""Bamba (https://huggingface.co/blog/bamba): Mamba 2 mixers, some layers of attention, a feed-forward in each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.architectures.decoder_family import DecoderHeads, decoder_family
from omniform.architectures.losses import share_of
from omniform.architectures.parts import GatedText
from omniform.architectures.state_space import HybridHeads, plain_conv
from omniform.blocks.rotary import Rotary
from omniform.blocks.state_space import StateSpaceMixer
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Bamba computes.

    Attributes:
        space: how a mixer is cut.
        attends: which layers have attention instead.
        biases: whether attentions, and feed-forwards, have biases.
        z_loss: what the loss of great scores counts for beside that of the tokens.
    """

    text: GatedText
    space: HybridHeads
    attends: frozenset[int]
    biases: tuple[bool, bool]
    z_loss: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=128000, dim=4096, hidden=14336, layers=32, heads=32, kv_heads=8, eps=1e-5, max_positions=262144,
        partial=0.5, bos=1, eos=2, pad=0,
    )  # fmt: skip
    attends = r.integers("attn_layer_indices", ())
    if not set(range(text.layers)) >= set(attends):
        raise r.fail("attn_layer_indices", f"indices of {text.layers} layers (num_hidden_layers)", list(attends))
    r.values["attn_layer_indices"] = r.raw.get("attn_layer_indices")
    kinds = ["full_attention" if i in attends else "linear_attention" for i in range(text.layers)]
    r.inert(num_logits_to_keep=1, layer_types=kinds, layers_block_type=kinds)
    return Config(
        text=text,
        space=HybridHeads.read(r, text.dim),
        attends=frozenset(attends),
        biases=(r.flag("attention_bias", False), r.flag("mlp_bias", False)),
        z_loss=r.number("z_loss_coefficient", 0.0),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, rotary, (attention_bias, mlp_bias) = c.text, Rotary(c.text.frequencies), c.biases

    def layer(i: int) -> nn.Module:
        if i in c.attends:
            mixer: nn.Module = t.attention(Causal(), rotary, biases="qkvo" if attention_bias else "")
        else:
            norm = c.space.gate_first(t.eps)
            mixer = c.space.mixer(StateSpaceMixer, t.dim, act=t.act, norm=norm, out_bias=c.space.bias)
        return t.prenorm(mixer, t.mlp(bias=mlp_bias))

    return t.decoder(layer)


class RestrainedCausalLM(CausalLM):
    """A decoder that writes, and is to keep its scores small.

    Attributes:
        coefficient: what the square of their softmax's denominators' logarithms counts for in the loss.
    """

    coefficient: float = 0.0
    SHIFT = None

    def loss(self, logits_BTV: Tensor, labels_BT: Tensor, items: Tensor | int | None) -> Tensor:
        plain = super().loss(logits_BTV, labels_BT, items)
        great = logits_BTV.logsumexp(-1).to(plain.dtype).square().mean()
        return plain + self.coefficient * great * share_of(labels_BT[..., 1:], items)


def causal_lm(c: Config, _: Common) -> CausalLM:
    """The decoder that writes."""
    model = build(c)
    head = DecoderHeads(build, lambda c: c.text).lm_head(c, model)
    return RestrainedCausalLM(model=model, lm_head=head, coefficient=c.z_loss)


def keys(c: Config) -> KeyMap:
    """What a layer's mixer is called depends on its kind."""
    rules: dict[str, Rule] = {
        "norm": "final_layernorm",
        "layers.{i}.post_attention_layernorm": "layers.{i}.pre_ff_layernorm",
        "layers.{i}.mlp": "layers.{i}.feed_forward",
    }
    mixers = set(range(c.text.layers)) - c.attends
    return KeyMap(rules | {f"layers.{i}.self_attn": f"layers.{i}.mamba" for i in mixers})


FAMILY = decoder_family(
    "bamba", "Bamba", read, build, keys, tokenizer="PreTrainedTokenizerFast", classified=(), answers=None,
    causal_lm=causal_lm,
).begins(plain_conv).done()  # fmt: skip
