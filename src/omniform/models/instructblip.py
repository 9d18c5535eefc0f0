"""InstructBLIP (https://arxiv.org/abs/2305.06500): BLIP-2 whose queries read the instruction while they look."""

from __future__ import annotations

from omniform.architectures.family import Builder
from omniform.architectures.picture_family import VISION_KEYS, TwiceNormedVision
from omniform.architectures.qformer import READING_KEYS, Querying
from omniform.architectures.queried import Instructed, InstructedBoth, InstructedDecoder
from omniform.architectures.queried_writers import InstructedDecoderLM, InstructedSeq2SeqLM, QueriedWriter
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.blip_2 import TOWER, Config, beginning, compose, read_parts
from omniform.weights.keymap import KeyMap


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("image_text_hidden_size")
    return read_parts(r, "instructblip")


def base(c: Config) -> Instructed:
    """The model without a head."""
    kind: type[Instructed] = InstructedDecoder if c.decodes else InstructedBoth
    return compose(c, kind, c.querying.reading(), c.text.model())


def writer(c: Config, _: Common) -> QueriedWriter:
    """The model that writes."""
    kind: type[QueriedWriter] = InstructedDecoderLM if c.decodes else InstructedSeq2SeqLM
    return compose(c, kind, c.querying.reading(), c.text.model(c.writing))


SEEN = TOWER | READING_KEYS.under("qformer", "qformer") | KeyMap({"qformer.embeddings": "qformer.embeddings"})


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place, the language model without a head."""
    return SEEN | c.text.keys.under("language_model", "language_model")


def writing_keys(c: Config) -> KeyMap:
    """The same, the language model with its head."""
    return SEEN | c.writing.keys(c.text.config.spec).under("language_model", "language_model")


VISION = (
    Builder("instructblip_vision_model", TwiceNormedVision.read_giant, VISION_KEYS, prefix="vision_model")
    .public(config="InstructBlipVisionConfig", image_processor="BlipImageProcessor")
    .base("InstructBlipVisionModel", TwiceNormedVision.model)
    .done()
)
QFORMER = (
    Builder("instructblip_qformer", Querying.read_reading, READING_KEYS, prefix="qformer")
    .public(config="InstructBlipQFormerConfig", tokenizer="BertTokenizer")
    .base("InstructBlipQFormerModel", Querying.reading)
    .done()
)
FAMILY = (
    Builder("instructblip", read, keys, prefix="")
    .public(
        config="InstructBlipConfig",
        tokenizer="LlamaTokenizer",
        image_processor="BlipImageProcessor",
        processor="InstructBlipProcessor",
        row="image and instruction to text, over Vicuna or T5",
        usual={"initializer_factor": 1.0},
    )
    .begins(beginning)
    .base("InstructBlipModel", base)
    .architecture("InstructBlipForConditionalGeneration", ("image-text-to-text", "multimodal-lm"), writer, writing_keys)
    .done()
)
