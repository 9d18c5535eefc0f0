"""Phi-4-multimodal (https://arxiv.org/abs/2503.01743): a vision tower and a speech encoder under one decoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from torch import nn

from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.family import Builder
from omniform.architectures.native_vision import NATIVE_KEYS, NativeSide, NativeVisionEncoder, native_beginning
from omniform.architectures.parts import GatedText, causal
from omniform.architectures.projected_sounds import SoundReader
from omniform.architectures.query_decoder import in_projection
from omniform.architectures.seeing_hearing import Extension, SeeingHearing, SeeingHearingLM
from omniform.architectures.streamed_speech import StreamedSpeech, StreamedSpeechEncoder
from omniform.architectures.tiled_pictures import TileReader
from omniform.blocks.frequencies import LongRope, RenewedLongRope
from omniform.blocks.rotary import Rotary
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap
from omniform.weights.links import fused


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """What the vision tower computes, and what is taken of it.

    Attributes:
        crop: pixels along the edge of a tile.
        token_id: the placeholder in the text.
        layer: the hidden state that is read.
    """

    side: NativeSide
    crop: int
    token_id: int
    layer: int

    def model(self) -> NativeVisionEncoder:
        """The tower."""
        return self.side.model(pools=True)


def read_vision(r: ConfigReader) -> Vision:
    """Read the tower's config."""
    side = NativeSide.read(r, hidden=4304, layers=27, image_size=448, patch_size=14)
    layer = r.one_or_more("feature_layer", (-2,))[0]
    return Vision(
        side=side, crop=r.integer("crop_size", 448), token_id=r.integer("image_token_id", 200010, least=0), layer=layer
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """What the speech encoder computes, and what becomes of it.

    Attributes:
        token_id: the placeholder in the text.
    """

    speech: StreamedSpeech
    token_id: int


def read_audio(r: ConfigReader) -> Audio:
    """Read the speech encoder's config."""
    # All layers are computed, whichever is named; how many bands the stem leaves follows from the others.
    r.inert("nemo_final_size", feature_layer=-2)
    # Of the size of what is made of frames, for the connector; frames are never put side by side.
    r.only("downsample_rate", 1, why="frames are projected one by one")
    r.values.setdefault("downsample_rate", 1)
    speech = StreamedSpeech.read(r)
    r.values["nemo_final_size"] = speech.bands_left
    return Audio(speech=speech, token_id=r.integer("audio_token_id", 200011, least=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Phi-4-multimodal computes.

    Attributes:
        window: how many tokens back each layer sees; None for all.
        dropout: on what each branch of a layer adds.
        merged_dropout: on tokens' vectors once pictures or sounds are among them.
    """

    text: GatedText
    vision: Part
    audio: Part
    window: int | None
    dropout: float
    merged_dropout: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=200064, dim=3072, hidden=8192, heads=32, kv_heads=8, eps=1e-5, max_positions=131072, trained=4096,
        partial=1.0, bos=199999, eos=None, pad=199999,
    )  # fmt: skip
    if not r.values.get("eos_token_id"):
        r.values["eos_token_id"] = [199999, 200020]
    if isinstance(text.frequencies, LongRope):
        text = replace(text, frequencies=RenewedLongRope(**asdict(text.frequencies)))
    return Config(
        text=text,
        vision=Part.of(r, "vision_config", {"model_type": "phi4_multimodal_vision"}),
        audio=Part.of(r, "audio_config", {"model_type": "phi4_multimodal_audio"}),
        window=r.maybe_integer("sliding_window"),
        dropout=r.probability("resid_pdrop"),
        merged_dropout=r.probability("embd_pdrop"),
    )


def decoder(c: Config) -> TextDecoder:
    """The decoder."""
    text, rotary, rule = c.text, Rotary(c.text.frequencies), causal(c.window)
    return text.decoder(lambda _: text.prenorm(text.attention(rule, rotary), dropout=c.dropout))


def build(c: Config) -> SeeingHearing:
    """All of it but a head."""
    vision, audio, width = c.vision.spec(Vision), c.audio.spec(Audio), c.text.dim
    seen, heard = vision.side.tower.dim, audio.speech.dim
    pictures = TileReader(
        img_processor=c.vision.build_as(NativeVisionEncoder),
        img_projection_up=nn.Linear(seen, width),
        img_projection_down=nn.Linear(width, width),
        layer=vision.layer,
        crop=vision.crop,
        uneven=vision.side.side % 2 == 1,
    )
    sounds = SoundReader(
        encoder=c.audio.build_as(StreamedSpeechEncoder),
        up_proj_for_speech=nn.Linear(heard, width),
        down_proj_for_speech=nn.Linear(width, width),
        up_proj_for_vision_speech=nn.Linear(heard, width),
        down_proj_for_vision_speech=nn.Linear(width, width),
    )
    return SeeingHearing(
        language_model=decoder(c),
        embed_tokens_extend=Extension(image_embed=pictures, audio_embed=sounds),
        image_token_id=vision.token_id,
        audio_token_id=audio.token_id,
        dropout=c.merged_dropout,
    )


def causal_lm(c: Config, _: Common) -> SeeingHearingLM:
    """The model that writes."""
    model = build(c)
    table = model.language_model.embed_tokens
    head = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False)
    return SeeingHearingLM(model=model, lm_head=tied(head, table, c.text.tie))


VISION_KEYS = NATIVE_KEYS | KeyMap(
    {
        "pooler": "head",
        "pooler.norm": "head.layernorm",
        **in_projection("pooler", "head.attention"),
    }
)

EXTENSION = "embed_tokens_extend"


def keys(c: Config) -> KeyMap:
    """The decoder lies at the top; queries, keys and values in one matrix, gates and what they open in another."""
    attn, mlp, heads, hidden = "layers.{i}.self_attn", "layers.{i}.mlp", c.text.heads, c.text.hidden
    q, kv = heads.queries * heads.dim, heads.kv * heads.dim
    text = KeyMap(
        {
            **fused(f"{attn}.qkv_proj", {f"{attn}.q_proj": q, f"{attn}.k_proj": kv, f"{attn}.v_proj": kv}),
            **fused(f"{mlp}.gate_up_proj", {f"{mlp}.gate_proj": hidden, f"{mlp}.up_proj": hidden}),
        }
    )
    tower = f"{EXTENSION}.image_embed.img_processor"
    return text.under("language_model", "") | c.vision.keys.under(tower, tower) | OLD


# Spellings of the model's own code (``phi4mm``), which the first checkpoints are written in.
_IMAGE, _AUDIO = rf"{EXTENSION}\.image_embed\.", rf"{EXTENSION}\.audio_embed\."
OLD = KeyMap(
    {},
    aliases=(
        (r"\.base_layer\.", "."),
        (rf"({_IMAGE})img_projection\.0\.", r"\1img_projection_up."),
        (rf"({_IMAGE})img_projection\.2\.", r"\1img_projection_down."),
        (rf"({_IMAGE})glb_GN$", r"\1global_img_feature_extensor"),
        (rf"({_IMAGE})sub_GN$", r"\1sub_img_feature_extensor"),
        (rf"({_AUDIO})audio_projection\.speech\.0\.", r"\1up_proj_for_speech."),
        (rf"({_AUDIO})audio_projection\.speech\.2\.", r"\1down_proj_for_speech."),
        (rf"({_AUDIO})audio_projection\.vision\.0\.", r"\1up_proj_for_vision_speech."),
        (rf"({_AUDIO})audio_projection\.vision\.2\.", r"\1down_proj_for_vision_speech."),
        (r"(\.feed_forward_(?:in|out))\.net\.0\.linear\.", r"\1.gate_up_proj."),
        (r"(\.feed_forward_(?:in|out))\.net\.2\.", r"\1.down_proj."),
        (r"\.self_attn\.linear_([qkv])\.", r".self_attn.\1_proj."),
        (r"\.self_attn\.linear_out\.", ".self_attn.o_proj."),
    ),
    ignored=(r"\.lora_[AB]\.(vision|speech)\.weight$",),
)

VISION = (
    Builder("phi4_multimodal_vision", read_vision, VISION_KEYS, prefix="phi4_vision")
    .public(config="Phi4MultimodalVisionConfig")
    .begins(native_beginning)
    .base("Phi4MultimodalVisionModel", Vision.model)
    .done()
)
AUDIO = (
    Builder("phi4_multimodal_audio", read_audio, KeyMap({}), prefix="")
    .public(config="Phi4MultimodalAudioConfig")
    .base("Phi4MultimodalAudioModel", lambda c: c.speech.model())
    .done()
)
FAMILY = (
    Builder("phi4_multimodal", read, keys, prefix="model")
    .public(
        config="Phi4MultimodalConfig",
        tokenizer="GPT2Tokenizer",
        image_processor="Phi4MultimodalImageProcessor",
        feature_extractor="Phi4MultimodalFeatureExtractor",
        processor="Phi4MultimodalProcessor",
        row="images, sounds and text to text",
    )
    .base("Phi4MultimodalModel", build)
    .head("Phi4MultimodalForCausalLM", ("causal-lm", "multimodal-lm"), causal_lm)
    .done()
)
