"""Qwen2.5-Omni's talker (https://arxiv.org/abs/2503.20215): a decoder that writes codes of speech."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.axes import in_sections
from omniform.architectures.family import Builder
from omniform.architectures.flat_talker import FlatTalker, Marks, SpeechDecoder
from omniform.architectures.omni_places import Clock
from omniform.architectures.packed_family import SectionedText
from omniform.architectures.parts import GatedText, read_upper_windows
from omniform.core.reader import ConfigReader
from omniform.models.qwen2_5_omni_clock import read_clock
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a talker computes.

    Attributes:
        inside: width of the thinker's vectors.
    """

    decoder: SectionedText
    inside: int
    clock: Clock
    marks: Marks


def read(r: ConfigReader) -> Config:
    """Read its config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=8448, dim=3584, hidden=18944, layers=28, heads=28, kv_heads=4, head_dim=128,
        max_positions=32768, theta=1000000.0, bos=None, eos=None,
    )  # fmt: skip
    rotary = in_sections(r, text.frequencies)
    r.inert(audio_end_token_id=151648, vision_end_token_id=151653, tts_text_start_token_id=151860)
    r.inert("architectures", "init_std", "speaker_embedding_size", "name", "tts_text_start_token_id")
    return Config(
        decoder=SectionedText(text=text, rotary=rotary, rules=read_upper_windows(r, text.layers)),
        inside=r.integer("embedding_size", 3584),
        clock=read_clock(r, r.integer("spatial_merge_size", 2)),
        marks=Marks(
            mask=r.integer("tts_codec_mask_token_id", 8296, least=0),
            pad=r.integer("tts_codec_pad_token_id", 8292, least=0),
            begin=r.integer("tts_codec_start_token_id", 8293, least=0),
            end=r.integer("tts_codec_end_token_id", 8294, least=0),
            text_pad=r.integer("tts_text_pad_token_id", 151859, least=0),
            text_end=r.integer("tts_text_end_token_id", 151861, least=0),
        ),
    )


def build_decoder(c: Config) -> SpeechDecoder:
    """The decoder without a head."""
    d, t = c.decoder, c.decoder.text
    return t.decoder(
        lambda i: t.prenorm(t.attention(d.rules[i], d.rotary, biases="qkv")),
        embed_tokens=nn.Embedding(t.vocab_size, c.inside),
        kind=SpeechDecoder,
    )


def build(c: Config) -> FlatTalker:
    """The talker."""
    text = c.decoder.text
    return FlatTalker(
        model=build_decoder(c),
        lm_head=nn.Linear(text.dim, text.vocab_size, bias=False),
        thinker_to_talker_proj=nn.Linear(c.inside, text.dim),
        clock=c.clock,
        marks=c.marks,
    )


def bare_keys(c: Config) -> KeyMap:
    """Where the decoder alone lies."""
    return KeyMap({}, aliases=((r"^(talker\.)?model\.", ""),), ignored=[r"^(talker\.)?(codec_head|thinker_to_talker)"])


NAME = "Qwen2_5Omni"
KEYS = KeyMap({"lm_head": "codec_head"})
FAMILY = (
    Builder("qwen2_5_omni_talker", read, KEYS, prefix="talker")
    .public(config=f"{NAME}TalkerConfig")
    .base(f"{NAME}TalkerForConditionalGeneration", build)
    .architecture(f"{NAME}TalkerModel", (), lambda c, _: build_decoder(c), bare_keys)
    .done()
)
