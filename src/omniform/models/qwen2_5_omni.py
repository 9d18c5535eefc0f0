"""Qwen2.5-Omni (https://arxiv.org/abs/2503.20215): reads text, pictures, films and sounds; writes, and speaks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.axes import AxesDecoder, in_sections
from omniform.architectures.decoder import tied
from omniform.architectures.family import Builder
from omniform.architectures.flat_talker import FlatTalker
from omniform.architectures.flow_sound import FlowSound
from omniform.architectures.fusion import check_fit, parted_beginning
from omniform.architectures.omni import FlowOmni
from omniform.architectures.omni_places import Clock
from omniform.architectures.omni_thinker import FlatThinker, ThinkerLM
from omniform.architectures.packed_family import SectionedText
from omniform.architectures.packed_vision import PackedVision, block_keys
from omniform.architectures.parts import SIDE_KEYS, GatedText, read_upper_windows
from omniform.architectures.windowed_sound import PooledSound, WindowedSound
from omniform.blocks.attention import Attention
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.qwen2_5_omni_clock import read_clock
from omniform.models.qwen2_5_vl import VisionSide, build_vision, read_vision
from omniform.models.qwen3_omni_moe import begins
from omniform.models.registry import Part
from omniform.models.seeing import MERGER_KEYS
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """What hears.

    Attributes:
        chunk: frames of a spectrogram that are read at a time.
        out: width of the vectors that it gives.
    """

    bands: int
    dim: int
    layers: int
    heads: int
    hidden: int
    act: str
    chunk: int
    out: int


def read_audio(r: ConfigReader) -> Audio:
    """Read a config of what hears; every key is used, declared inert or refused."""
    dim = r.integer("d_model", 1280, also=("hidden_size",))
    heads = r.integer("encoder_attention_heads", 20, also=("num_attention_heads",))
    if dim % heads or dim % 2:
        raise r.fail("encoder_attention_heads", f"a divisor of {dim} (d_model), which is even", heads)
    # The reference leaves nothing out in training, and does not scale.
    r.inert(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, scale_embedding=False)
    r.inert("encoder_layerdrop", "num_hidden_layers", "init_std")  # in published files
    chunk, longest = 2 * r.integer("n_window", 100), r.integer("max_source_positions", 1500)
    if chunk // 2 > longest:
        raise r.fail("n_window", f"at most {longest} (max_source_positions)", chunk // 2)
    return Audio(
        bands=r.integer("num_mel_bins", 128),
        dim=dim,
        layers=r.layers("encoder_layers", 32, also=("num_hidden_layers",)),
        heads=heads,
        hidden=r.integer("encoder_ffn_dim", 5120, also=("intermediate_size",)),
        act=r.choice("activation_function", ACTIVATIONS, "gelu"),
        chunk=chunk,
        out=r.integer("output_dim", 3584),
    )


def build_audio(c: Audio) -> PooledSound:
    """What hears."""

    def layer() -> PreNorm:
        attention = Attention(c.dim, c.heads, rule=Full(), biases="qvo")
        return PreNorm.of(lambda: nn.LayerNorm(c.dim), self_attn=attention, mlp=MLP(c.dim, c.hidden, c.act))

    return PooledSound(
        layers=nn.ModuleList(layer() for _ in range(c.layers)),
        ln_post=nn.LayerNorm(c.dim),
        conv1=nn.Conv1d(c.bands, c.dim, 3, padding=1),
        conv2=nn.Conv1d(c.dim, c.dim, 3, 2, padding=1),
        proj=nn.Linear(c.dim, c.out),
        audio_bos_eos_token=nn.Embedding(2, c.out),
        bands=c.bands,
        chunk=c.chunk,
    )


def read_text(r: ConfigReader) -> SectionedText:
    """Read a decoder's config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=152064, dim=3584, hidden=18944, layers=28, heads=28, kv_heads=4, max_positions=32768,
        theta=1000000.0, tie=True, bos=None, eos=None,
    )  # fmt: skip
    rotary = in_sections(r, text.frequencies)
    return SectionedText(text=text, rotary=rotary, rules=read_upper_windows(r, text.layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """What a thinker computes."""

    vision: Part
    audio: Part
    text: Part
    clock: Clock
    tie: bool


def read_thinker(r: ConfigReader) -> Thinking:
    """Read a thinker's config; every key is used, declared inert or refused."""
    vision = Part.of(r, "vision_config", {"model_type": "qwen2_5_omni_vision_encoder"})
    r.inert("vision_end_token_id", "vision_token_id", "pad_token_id", "ignore_index", "architectures")
    r.inert(audio_end_token_id=151648, user_token_id=872)
    return Thinking(
        vision=vision,
        audio=Part.of(r, "audio_config", {"model_type": "qwen2_5_omni_audio_encoder"}),
        text=Part.of(r, "text_config", {"model_type": "qwen2_5_omni_text"}),
        clock=read_clock(r, vision.spec(VisionSide).tower.merge),
        tie=r.flag("tie_word_embeddings", False),
    )


def build_thinker(c: Thinking) -> FlatThinker:
    """What sees, what hears, and the decoder."""
    audio, visual = c.audio.build_as(WindowedSound), c.vision.build_as(PackedVision)
    decoder = c.text.build_as(AxesDecoder)
    check_fit("vision_config", visual.out, "text_config", decoder.width)
    check_fit("audio_config", audio.width, "text_config", decoder.width)
    return FlatThinker(
        audio_tower=audio,
        visual=visual,
        language_model=decoder,
        image_token_id=c.clock.image,
        video_token_id=c.clock.video,
        clock=c.clock,
    )


def build_writer(c: Thinking, _: Common | None = None) -> ThinkerLM:
    """The thinker that writes."""
    model = build_thinker(c)
    table = model.language_model.embed_tokens
    head = tied(nn.Linear(table.embedding_dim, table.num_embeddings, bias=False), table, c.tie)
    return ThinkerLM(model=model, lm_head=head)


def thinker_begins(config: ModelConfig, path: str) -> Beginning | None:
    """Each part begins as its own family's models do; the head is the thinker's."""
    return None if path.startswith("lm_head.") else parted_beginning(config, path)


def thinker_keys(c: Thinking) -> KeyMap:
    """Each part's own map, at its place, in a thinker without a head."""
    parts = (("audio_tower", c.audio), ("visual", c.vision), ("language_model", c.text))
    found = KeyMap({}, aliases=((r"^thinker\.", ""), (r"^model\.", "language_model.")))
    for place, part in parts:
        found |= part.keys.under(place, place)
    return found | KeyMap({}, ignored=IGNORED)


def writer_keys(c: Thinking) -> KeyMap:
    """The same of one that writes: the decoder alone is called model."""
    found = c.text.keys.under("model.language_model", "model")
    for place, part in (("audio_tower", c.audio), ("visual", c.vision)):
        found |= part.keys.under(f"model.{place}", place)
    now = (
        (r"^thinker\.", ""),
        (r"^model\.(?=visual\.|audio_tower\.)", ""),
        (r"^(model\.)?language_model\.(?!model\.)", "model."),
    )
    modules = (
        (r"^model(?!\.(visual|audio_tower|language_model))(?=\.|$)", "model.language_model"),
        (r"^(?=(visual|audio_tower)(\.|$))", "model."),
    )
    return found | KeyMap({}, aliases=now, modules=modules, ignored=IGNORED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the whole computes; without ``talker`` and ``sound`` it writes alone.

    Attributes:
        ends: the token that ends an answer, where the thinker's config says one.
    """

    thinker: Part
    talker: Part | None
    sound: Part | None
    ends: int | None


def read(r: ConfigReader) -> Config:
    """Read the config of the whole; every key is used, declared inert or refused."""
    thinker = Part.of(r, "thinker_config", {"model_type": "qwen2_5_omni_thinker"})
    speaks = r.flag("enable_audio_output", True)
    talker = Part.of(r, "talker_config", {"model_type": "qwen2_5_omni_talker"})
    sound = Part.of(r, "token2wav_config", {"model_type": "qwen2_5_omni_token2wav"})
    r.inert("architectures", "enable_talker", "initializer_range")
    told = [thinker.config.raw.get("eos_token_id"), thinker.spec(Thinking).text.config.raw.get("eos_token_id")]
    return Config(
        thinker=thinker,
        talker=talker if speaks else None,
        sound=sound if speaks else None,
        ends=next((end for end in told if isinstance(end, int)), None),
    )


def build(c: Config) -> FlowOmni:
    """The whole."""
    thinker = c.thinker.model(THINKER.architectures[f"{NAME}ThinkerForConditionalGeneration"])
    assert isinstance(thinker, ThinkerLM)
    talker = None if c.talker is None else c.talker.build_as(FlatTalker)
    sound = None if c.sound is None else c.sound.build_as(FlowSound)
    return FlowOmni(thinker=thinker, talker=talker, token2wav=sound, ends=c.ends)


def keys(c: Config) -> KeyMap:
    """Each model's own map, at its place."""
    found = KeyMap(writer_keys(c.thinker.spec(Thinking)).rules).under("thinker", "thinker")
    for name, part in (("talker", c.talker), ("token2wav", c.sound)):
        if part is not None:
            found |= KeyMap(part.keys.rules).under(name, name)
    return KeyMap(found.rules, ignored=[] if c.talker is not None else IGNORED)


IGNORED = [r"^talker\.", r"^token2wav\."]
"""What a whole checkpoint holds beside a thinker."""

NAME = "Qwen2_5Omni"
AUDIO_KEYS = KeyMap({name: key for name, key in SIDE_KEYS.items() if name.startswith("layers.")})
LAYER = "layers.{i}.self_attn"
VISION_KEYS = KeyMap(
    {**block_keys({}), **MERGER_KEYS, **{f"{LAYER}.{name}_proj": f"blocks.{{i}}.attn.{name}" for name in "qkv"}}
)

AUDIO = (
    Builder("qwen2_5_omni_audio_encoder", read_audio, AUDIO_KEYS, prefix="audio_tower")
    .public(config=f"{NAME}AudioEncoderConfig")
    .base(f"{NAME}AudioEncoder", build_audio)
    .done()
)
VISION = (
    Builder("qwen2_5_omni_vision_encoder", read_vision, VISION_KEYS, prefix="visual")
    .public(config=f"{NAME}VisionEncoderConfig")
    .base(f"{NAME}VisionEncoder", build_vision)
    .done()
)
TEXT = (
    Builder("qwen2_5_omni_text", read_text, KeyMap({}), prefix="model")
    .public(config=f"{NAME}TextConfig", tokenizer="Qwen2Tokenizer")
    .base(f"{NAME}ThinkerTextModel", SectionedText.build)
    .done()
)
THINKER = (
    Builder("qwen2_5_omni_thinker", read_thinker, thinker_keys, prefix="model")
    .public(config=f"{NAME}ThinkerConfig", tokenizer="Qwen2Tokenizer")
    .begins(thinker_begins)
    .base(f"{NAME}ThinkerModel", build_thinker)
    .architecture(
        f"{NAME}ThinkerForConditionalGeneration", ("image-text-to-text",), build_writer, writer_keys, prefix="model"
    )
    .done()
)
FAMILY = (
    Builder("qwen2_5_omni", read, keys, prefix="")
    .public(
        config=f"{NAME}Config",
        tokenizer="Qwen2Tokenizer",
        feature_extractor="WhisperFeatureExtractor",
        image_processor="Qwen2VLImageProcessor",
        video_processor="Qwen2VLVideoProcessor",
        processor=f"{NAME}Processor",
        row="text, images, video and audio to text and speech; thinker, talker and token2wav alone",
    )
    .begins(begins)
    .base(f"{NAME}ForConditionalGeneration", build, "multimodal-lm", "text-to-waveform")
    .done()
)
