"""Qwen3-Omni (https://arxiv.org/abs/2509.17765): reads text, pictures, films and sounds; writes text, and speaks it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.axes import DeepDecoder
from omniform.architectures.code_sound import CodeSound
from omniform.architectures.decoder import tied
from omniform.architectures.deep_vision import DEEP_KEYS, DeepTower
from omniform.architectures.family import Builder
from omniform.architectures.fusion import check_fit
from omniform.architectures.omni import Omni, Turns
from omniform.architectures.omni_places import Clock
from omniform.architectures.omni_thinker import DeepThinker, RoutedThinkerLM
from omniform.architectures.packed_family import InterleavedText
from omniform.architectures.packed_vision import PackedVision
from omniform.architectures.parts import SIDE_KEYS, GatedText
from omniform.architectures.routed import Routing, expert_keys, read_sparse
from omniform.architectures.talker import Talker
from omniform.architectures.windowed_sound import ChunkedSound, WindowedSound
from omniform.blocks.attention import Attention
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.moe import Experts, MoE, RoutedPreNorm, SoftmaxTop
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """What hears.

    Attributes:
        chunk: frames of a spectrogram that convolutions read at a time; ``chunks``: of those in a window.
        channels: of the convolutions.
        out: width of the vectors that it gives.
    """

    bands: int
    dim: int
    layers: int
    heads: int
    hidden: int
    act: str
    chunk: int
    chunks: int
    channels: int
    out: int
    at_once: int


def read_audio(r: ConfigReader) -> Audio:
    """Read a config of what hears; every key is used, declared inert or refused."""
    dim = r.integer("d_model", 1280, also=("hidden_size",))
    heads = r.integer("encoder_attention_heads", 20, also=("num_attention_heads",))
    if dim % heads or dim % 2:
        raise r.fail("encoder_attention_heads", f"a divisor of {dim} (d_model), which is even", heads)
    # The reference leaves nothing out in training, and does not scale; positions are sines of any length.
    r.inert(
        dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, scale_embedding=False, max_source_positions=1500
    )
    r.inert("encoder_layerdrop", "num_hidden_layers")  # in published files
    chunk, window = 2 * r.integer("n_window", 50), r.integer("n_window_infer", 800)
    if window < chunk:
        raise r.fail("n_window_infer", f"at least {chunk}, twice n_window", window)
    return Audio(
        bands=r.integer("num_mel_bins", 128),
        dim=dim,
        layers=r.layers("encoder_layers", 32, also=("num_hidden_layers",)),
        heads=heads,
        hidden=r.integer("encoder_ffn_dim", 5120, also=("intermediate_size",)),
        act=r.choice("activation_function", ACTIVATIONS, "gelu"),
        chunk=chunk,
        chunks=window // chunk,
        channels=r.integer("downsample_hidden_size", 480),
        out=r.integer("output_dim", 3584),
        at_once=r.integer("conv_chunksize", 500),
    )


def build_audio(c: Audio) -> ChunkedSound:
    """What hears."""

    def layer() -> PreNorm:
        attention = Attention(c.dim, c.heads, rule=Full())
        return PreNorm.of(lambda: nn.LayerNorm(c.dim), self_attn=attention, mlp=MLP(c.dim, c.hidden, c.act))

    bands = (((c.bands + 1) // 2 + 1) // 2 + 1) // 2
    return ChunkedSound(
        layers=nn.ModuleList(layer() for _ in range(c.layers)),
        ln_post=nn.LayerNorm(c.dim),
        conv2d1=nn.Conv2d(1, c.channels, 3, 2, padding=1),
        conv2d2=nn.Conv2d(c.channels, c.channels, 3, 2, padding=1),
        conv2d3=nn.Conv2d(c.channels, c.channels, 3, 2, padding=1),
        conv_out=nn.Linear(c.channels * bands, c.dim, bias=False),
        proj1=nn.Linear(c.dim, c.dim),
        proj2=nn.Linear(c.dim, c.out),
        act=c.act,
        bands=c.bands,
        chunk=c.chunk,
        chunks=c.chunks,
        at_once=c.at_once,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(InterleavedText):
    """What the thinker's decoder computes.

    Attributes:
        sparse: which layers have experts.
        hidden: width of an expert.
        normed: whether the chosen experts' shares sum to one.
    """

    routing: Routing
    sparse: tuple[bool, ...]
    hidden: int
    normed: bool


def read_text(r: ConfigReader) -> Text:
    """Read a decoder's config; every key is used, declared inert or refused."""
    width, heads = r.integer("hidden_size", 2048), r.integer("num_attention_heads", 28)
    # Of the usual sizes no model can be made, in the ecosystem either: they are read all the same.
    text = GatedText.read(
        r, vocab_size=3584, dim=2048, hidden=18944, layers=28, heads=28, kv_heads=4,
        head_dim=width // heads // 2 * 2, max_positions=32768, theta=1000000.0, bos=None, eos=None,
    )  # fmt: skip
    r.inert(sliding_window=None)  # every layer sees all there is, whatever is said
    r.inert("use_sliding_window", "max_window_layers", "shared_expert_intermediate_size", "use_qk_norm")
    routing = Routing.read(r, experts=128, top=8, least=0)
    return Text.of(
        r,
        text,
        routing=routing,
        sparse=read_sparse(r, text.layers, routing.experts),
        hidden=r.integer("moe_intermediate_size", 768),
        normed=r.flag("norm_topk_prob", True),
    )


def build_text(c: Text) -> DeepDecoder:
    """The decoder."""
    t, how = c.text, c.routing

    def layer(i: int) -> nn.Module:
        attention = c.attention()
        if not c.sparse[i]:
            return t.prenorm(attention)
        gate, experts = nn.Linear(t.dim, how.experts, bias=False), Experts(how.experts, t.dim, c.hidden, t.act)
        mlp = MoE(gate=gate, choose=SoftmaxTop(how.top, c.normed), experts=experts)
        return RoutedPreNorm.of(t.norm, self_attn=attention, mlp=mlp)

    decoder = t.decoder(layer, kind=DeepDecoder)
    decoder.routes_unasked = how.unasked
    return decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """What a thinker computes."""

    vision: Part
    audio: Part
    text: Part
    clock: Clock
    tie: bool


def read_clock(r: ConfigReader, audio_start: int) -> Clock:
    """The tokens around media, and the positions of a second."""
    return Clock(
        image=r.integer("image_token_id", 151655, least=0),
        audio=r.integer("audio_token_id", 151646, least=0),
        video=r.integer("video_token_id", 151656, least=0),
        vision_start=r.integer("vision_start_token_id", 151652, least=0),
        audio_start=r.integer("audio_start_token_id", audio_start, least=0),
        per_second=r.number("position_id_per_seconds", 25),
        merge=r.integer("spatial_merge_size", 2),
    )


def read_thinker(r: ConfigReader) -> Thinking:
    """Read a thinker's config; every key is used, declared inert or refused."""
    vision = Part.of(r, "vision_config", {"model_type": "qwen3_omni_moe_vision_encoder"})
    r.inert("audio_end_token_id", "vision_end_token_id", "vision_token_id", "seconds_per_chunk", user_token_id=872)
    r.inert("architectures")
    clock = read_clock(r.within({**r.raw, "spatial_merge_size": vision.spec(DeepTower).tower.merge}), 151647)
    read_clock(r, 151647)
    return Thinking(
        vision=vision,
        audio=Part.of(r, "audio_config", {"model_type": "qwen3_omni_moe_audio_encoder"}),
        text=Part.of(r, "text_config", {"model_type": "qwen3_omni_moe_text"}),
        clock=clock,
        tie=r.flag("tie_word_embeddings", False),
    )


def build_thinker(c: Thinking) -> DeepThinker:
    """What sees, what hears, and the decoder."""
    audio, visual = c.audio.build_as(WindowedSound), c.vision.build_as(PackedVision)
    decoder = c.text.build_as(DeepDecoder)
    check_fit("vision_config", visual.out, "text_config", decoder.width)
    check_fit("audio_config", audio.width, "text_config", decoder.width)
    return DeepThinker(
        audio_tower=audio,
        visual=visual,
        language_model=decoder,
        image_token_id=c.clock.image,
        video_token_id=c.clock.video,
        clock=c.clock,
    )


def build_writer(c: Thinking, _: Common | None = None) -> RoutedThinkerLM:
    """The thinker that writes."""
    model, how = build_thinker(c), c.text.spec(Text).routing
    table = model.language_model.embed_tokens
    head = tied(nn.Linear(table.embedding_dim, table.num_embeddings, bias=False), table, c.tie)
    return RoutedThinkerLM(model=model, lm_head=head, top=how.top, unasked=how.unasked, coefficient=how.coefficient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the whole computes; without ``talker`` and ``sound`` it writes alone."""

    thinker: Part
    talker: Part | None
    sound: Part | None
    turns: Turns
    clock: Clock


def read(r: ConfigReader) -> Config:
    """Read the config of the whole; every key is used, declared inert or refused."""
    thinker = Part.of(r, "thinker_config", {"model_type": "qwen3_omni_moe_thinker"})
    speaks = r.flag("enable_audio_output", True)
    talker = _part(r, "talker_config", "qwen3_omni_moe_talker")
    sound = _part(r, "code2wav_config", "qwen3_omni_moe_code2wav")
    r.inert("im_end_token_id", "system_token_id", "initializer_range", "code_predictor_config")
    r.values.update(
        im_end_token_id=r.raw.get("im_end_token_id", 151645), system_token_id=r.raw.get("system_token_id", 8948)
    )
    r.values["initializer_range"] = thinker.config.common.initializer_range
    t = ConfigReader(talker.config.raw, where=talker.where)
    return Config(
        thinker=thinker,
        talker=talker if speaks else None,
        sound=sound if speaks else None,
        turns=Turns(
            start=r.integer("im_start_token_id", 151644),
            user=r.integer("user_token_id", 872),
            assistant=r.integer("assistant_token_id", 77091),
            pad=r.integer("tts_pad_token_id", 151671),
            begin=r.integer("tts_bos_token_id", 151672),
            end=r.integer("tts_eos_token_id", 151673),
            nothink=t.integer("codec_nothink_id", 4203),
            think_begin=t.integer("codec_think_bos_id", 4204),
            think_end=t.integer("codec_think_eos_id", 4205),
            codec_pad=t.integer("codec_pad_id", 4196),
            codec_begin=t.integer("codec_bos_id", 4197),
            codec_end=t.integer("codec_eos_token_id", 4198),
            speakers={
                name.lower(): t.within(t.mapping("speaker_id") or {}).integer(name)
                for name in t.mapping("speaker_id") or {}
            },
            layer=t.integer("accept_hidden_layer", 18, least=0),
        ),
        clock=read_clock(t, 151669),
    )


def _part(r: ConfigReader, name: str, model_type: str) -> Part:
    """A nested config, whose type the ecosystem leaves empty."""
    raw = r.mapping(name) or {}
    part = Part(r.within({key: value for key, value in raw.items() if key != "model_type"}, name), model_type)
    r.values[name] = part.config
    return part


def build(c: Config) -> Omni:
    """The whole."""
    thinker = c.thinker.model(THINKER.architectures[f"{NAME}ThinkerForConditionalGeneration"])
    assert isinstance(thinker, RoutedThinkerLM)
    talker = None if c.talker is None else c.talker.build_as(Talker)
    sound = None if c.sound is None else c.sound.build_as(CodeSound)
    return Omni(thinker=thinker, talker=talker, code2wav=sound, turns=c.turns, clock=c.clock)


def begins(config: ModelConfig, path: str) -> Beginning | None:
    """Each part begins as its own family's models do."""
    name, _, rest = path.partition(".")
    part = config.parts.get(f"{name}_config")
    if part is None:
        return None
    how = part.beginning(rest)
    return part.common.initializer_range if how is None else how


def thinker_keys(c: Thinking) -> KeyMap:
    """Each part's own map, at its place, in a thinker without a head."""
    parts = (("audio_tower", c.audio), ("visual", c.vision), ("language_model", c.text))
    found = KeyMap({}, aliases=((r"^thinker\.", ""), (r"^model\.", "language_model.")))
    for place, part in parts:
        found |= part.keys.under(place, place)
    return found | KeyMap({}, ignored=IGNORED)


def writer_keys(c: Thinking) -> KeyMap:
    """The same of one that writes: the decoder alone is called model."""
    audio, vision = (
        c.audio.keys.under("model.audio_tower", "audio_tower"),
        c.vision.keys.under("model.visual", "visual"),
    )
    now = (
        (r"^thinker\.", ""),
        (r"^model\.(?=visual\.|audio_tower\.)", ""),
        (r"^(model\.)?language_model\.(?!model\.)", "model."),
    )
    modules = (
        (r"^model(?!\.(visual|audio_tower|language_model))(?=\.|$)", "model.language_model"),
        (r"^(?=(visual|audio_tower)(\.|$))", "model."),
    )
    text = c.text.keys.under("model.language_model", "model")
    return audio | vision | text | KeyMap({}, aliases=now, modules=modules, ignored=IGNORED)


def keys(c: Config) -> KeyMap:
    """Each model's own map, at its place."""
    spec = c.thinker.spec(Thinking)
    found = KeyMap(writer_keys(spec).rules).under("thinker", "thinker")
    for name, part in (("talker", c.talker), ("code2wav", c.sound)):
        if part is not None:
            found |= KeyMap(part.keys.rules).under(name, name)
    silent = [] if c.talker is not None else IGNORED
    return KeyMap(found.rules, ignored=silent)


IGNORED = [r"^talker\.", r"^code2wav\."]
"""What a whole checkpoint holds beside a thinker."""

NAME = "Qwen3OmniMoe"
AUDIO_KEYS = KeyMap({name: key for name, key in SIDE_KEYS.items() if name.startswith("layers.")})
MERGER = {"norm": "ln_q", "linear_fc1": "mlp.0", "linear_fc2": "mlp.2"}
VISION_KEYS = DEEP_KEYS | KeyMap(
    {
        f"{ours}.{name}": f"{theirs}.{key}"
        for ours, theirs in (("merger", "merger"), ("deepstack_merger_list.{j}", "merger_list.{j}"))
        for name, key in MERGER.items()
    }
)

AUDIO = (
    Builder("qwen3_omni_moe_audio_encoder", read_audio, AUDIO_KEYS, prefix="audio_tower")
    .public(config=f"{NAME}AudioEncoderConfig")
    .base(f"{NAME}AudioEncoder", build_audio)
    .done()
)
VISION = (
    Builder("qwen3_omni_moe_vision_encoder", DeepTower.read, VISION_KEYS, prefix="visual")
    .public(config=f"{NAME}VisionEncoderConfig")
    .base(f"{NAME}VisionEncoder", DeepTower.build)
    .done()
)
TEXT = (
    Builder("qwen3_omni_moe_text", read_text, lambda c: expert_keys(c.routing.experts), prefix="model")
    .public(config=f"{NAME}TextConfig", pretrained=f"{NAME}ThinkerTextPreTrainedModel", tokenizer="Qwen2Tokenizer")
    .base(f"{NAME}ThinkerTextModel", build_text)
    .done()
)
THINKER = (
    Builder("qwen3_omni_moe_thinker", read_thinker, thinker_keys, prefix="model")
    .public(config=f"{NAME}ThinkerConfig", tokenizer="Qwen2Tokenizer")
    .base(f"{NAME}ThinkerModel", build_thinker)
    .architecture(
        f"{NAME}ThinkerForConditionalGeneration", ("image-text-to-text",), build_writer, writer_keys, prefix="model"
    )
    .done()
)
FAMILY = (
    Builder("qwen3_omni_moe", read, keys, prefix="")
    .public(
        config=f"{NAME}Config",
        tokenizer="Qwen2Tokenizer",
        feature_extractor="WhisperFeatureExtractor",
        image_processor="Qwen2VLImageProcessor",
        video_processor="Qwen2VLVideoProcessor",
        processor=f"{NAME}Processor",
        row="text, images, video and audio to text and speech; thinker, talker and code2wav alone",
    )
    .begins(begins)
    .base(f"{NAME}ForConditionalGeneration", build, "multimodal-lm", "text-to-waveform")
    .done()
)
