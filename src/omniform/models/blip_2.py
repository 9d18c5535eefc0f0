"""BLIP-2 (https://arxiv.org/abs/2301.12597): queries between a frozen tower and a frozen language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import nn

from omniform.architectures.family import Architecture, Builder
from omniform.architectures.fusion import check_fit
from omniform.architectures.model import Model
from omniform.architectures.picture_family import VISION_KEYS, TwiceNormedVision, of_parts
from omniform.architectures.qformer import QFORMER_KEYS, Querying
from omniform.architectures.queried import Queried, ShowingBoth, ShowingDecoder, Shows
from omniform.architectures.queried_pairs import QueriedMatcher, QueriedPictureTower, QueriedTextTower
from omniform.architectures.queried_writers import QueriedDecoderLM, QueriedSeq2SeqLM, QueriedWriter
from omniform.blocks.embeddings import bare_table
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap

Q = TypeVar("Q", bound=Queried)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What tower, queries and language model compute together.

    Attributes:
        queries: how many there are.
        matching: width of the space that pictures and texts meet in.
    """

    vision: TwiceNormedVision
    querying: Querying
    text: Part
    queries: int
    matching: int
    image_token_id: int | None

    @property
    def decodes(self) -> bool:
        """Whether the language model is a decoder alone."""
        return decodes(self.text)

    @property
    def writing(self) -> Architecture:
        """The language model with its head.

        Raises:
            ConfigError: its family has none that writes.
        """
        task = "causal-lm" if self.decodes else "seq2seq-lm"
        found = [a for a in self.text.family.architectures.values() if task in a.tasks]
        if not found:
            said = repr(self.text.config.model_type)
            raise ConfigError("this family does not write", where=self.text.where, found=said)
        return found[0]


def decodes(text: Part) -> bool:
    """Whether a language model's family has decoders that write; those of encoder-decoders that do are taken alone."""
    return any("causal-lm" in a.tasks for a in text.family.architectures.values())


def read_parts(r: ConfigReader, name: str) -> Config:
    """Read a config of both families; queries look at what the tower gives, whatever their own config says.

    Args:
        name: what the types of its parts begin with.
    """
    r.inert("use_decoder_only_language_model", "is_encoder_decoder", "tie_word_embeddings", initializer_factor=1.0)
    vision = Part.of(r, "vision_config", {"model_type": f"{name}_vision_model"}).spec(TwiceNormedVision)
    querying = Part.of(r, "qformer_config", {"model_type": f"{name}_qformer"})
    r.values["qformer_config"] = querying.config.replace(encoder_hidden_size=vision.tower.dim)
    text = Part.of(r, "text_config", {"model_type": "opt"})
    r.values["use_decoder_only_language_model"] = decodes(text)
    return Config(
        vision=vision,
        querying=replace(querying.spec(Querying), memory=vision.tower.dim),
        text=text,
        queries=r.integer("num_query_tokens", 32),
        matching=r.integer("image_text_hidden_size", 256),
        image_token_id=r.maybe_integer("image_token_index", least=0, also=("image_token_id",)),
    )


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    config = read_parts(r, "blip_2")
    r.values["is_encoder_decoder"] = config.text.config.get("is_encoder_decoder") is True
    return config


def compose(c: Config, kind: Callable[..., Q], qformer: nn.Module, language_model: Model) -> Q:
    """A model of both families.

    Args:
        kind: its class.
    """
    config, dim = c.text.config, c.querying.dim
    width = bare_table(language_model.get_input_embeddings()).embedding_dim
    stated = config.get("hidden_size", config.get("d_model"))
    assert isinstance(stated, int), "text families say their width"
    check_fit("language_projection", stated, "language_model", width)
    pad, start = config.get("pad_token_id"), config.get("bos_token_id")
    return kind(
        vision_model=c.vision.model(),
        qformer=qformer,
        language_projection=nn.Linear(dim, width),
        language_model=language_model,
        queries=c.queries,
        query_dim=dim,
        image_token_id=c.image_token_id,
        start=start if isinstance(start, int) else None,
        fill=int(pad == 0),  # anything but padding, which nobody would look at
    )


def base(c: Config) -> Shows:
    """The model that is asked for scores."""
    kind: type[Shows] = ShowingDecoder if c.decodes else ShowingBoth
    return compose(c, kind, c.querying.model(), c.text.model(c.writing))


def writer(c: Config, _: Common) -> QueriedWriter:
    """The model that writes."""
    kind: type[QueriedWriter] = QueriedDecoderLM if c.decodes else QueriedSeq2SeqLM
    return compose(c, kind, c.querying.model(), c.text.model(c.writing))


def texts(c: Config, _: Common) -> QueriedTextTower:
    """Texts in the shared space."""
    dim = c.querying.dim
    return QueriedTextTower(
        queries=c.queries,
        query_dim=dim,
        embeddings=c.querying.text(),
        qformer=c.querying.model(),
        text_projection=nn.Linear(dim, c.matching),
    )


def pictures(c: Config, _: Common) -> QueriedPictureTower:
    """Pictures in the shared space."""
    dim = c.querying.dim
    return QueriedPictureTower(
        queries=c.queries,
        query_dim=dim,
        vision_model=c.vision.model(),
        qformer=c.querying.model(),
        vision_projection=nn.Linear(dim, c.matching),
    )


def matcher(c: Config, _: Common) -> QueriedMatcher:
    """Whether texts belong to pictures."""
    dim = c.querying.dim
    return QueriedMatcher(
        queries=c.queries,
        query_dim=dim,
        vision_model=c.vision.model(),
        embeddings=c.querying.text(),
        qformer=c.querying.model(),
        vision_projection=nn.Linear(dim, c.matching),
        text_projection=nn.Linear(dim, c.matching),
        itm_head=nn.Linear(dim, 2),
        skips=c.image_token_id is not None,
    )


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Each part begins as its own config says."""
    return of_parts(config, path, {"vision_model.": "vision_config", "qformer.": "qformer_config"})


TOWER = VISION_KEYS.under("vision_model", "vision_model")
QUERIES = QFORMER_KEYS.under("qformer", "qformer")


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    written = c.writing.keys(c.text.config.spec).under("language_model", "language_model")
    return TOWER | QUERIES | written


# Files of the whole model hold what the towers and the matcher have no use for.
UNUSED = KeyMap({}, ignored=(r"^language_(model|projection)\.",))

VISION = (
    Builder("blip_2_vision_model", TwiceNormedVision.read_giant, VISION_KEYS, prefix="vision_model")
    .public(config="Blip2VisionConfig", image_processor="BlipImageProcessor")
    .base("Blip2VisionModel", TwiceNormedVision.model)
    .done()
)
QFORMER = (
    Builder("blip_2_qformer", Querying.read, QFORMER_KEYS, prefix="qformer")
    .public(config="Blip2QFormerConfig")
    .base("Blip2QFormerModel", Querying.model)
    .done()
)
FAMILY = (
    Builder("blip-2", read, keys, prefix="")
    .public(
        config="Blip2Config",
        tokenizer="GPT2Tokenizer",
        image_processor="BlipImageProcessor",
        processor="Blip2Processor",
        row="captions, visual question answering, image-text retrieval, over OPT or T5",
        usual={"initializer_factor": 1.0},
    )
    .begins(beginning)
    .architecture("Blip2Model", ("base",), lambda c, _: base(c), keys, skeleton=Shows)
    .architecture("Blip2TextModelWithProjection", ("text-embedding",), texts, QUERIES | UNUSED)
    .architecture("Blip2VisionModelWithProjection", ("image-embedding",), pictures, TOWER | QUERIES | UNUSED)
    .architecture(
        "Blip2ForConditionalGeneration",
        ("image-text-to-text", "multimodal-lm", "visual-question-answering"),
        writer,
        keys,
    )
    .architecture("Blip2ForImageTextRetrieval", ("zero-shot-image-classification",), matcher, TOWER | QUERIES | UNUSED)
    .done()
)
