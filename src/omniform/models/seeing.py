"""Configs of the vision-language models of Qwen's line: an encoder, a decoder, and the tokens that stand for items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import nn

from omniform.architectures.axes import AxesDecoder, DeepDecoder
from omniform.architectures.decoder import tied
from omniform.architectures.fusion import check_fit
from omniform.architectures.packed_fusion import (
    DeepVisionLanguage,
    PackedVisionLanguage,
    SeesLM,
)
from omniform.architectures.packed_vision import PackedVision
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap, Rule

IDS = {"image": 151655, "video": 151656, "vision_start": 151652, "vision_end": 151653}
"""The tokens of Qwen's vocabulary that stand for pictures and films, and around them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeeingConfig:
    """What such a model computes."""

    vision: Part
    text: Part
    image_token_id: int
    video_token_id: int
    tie: bool

    @classmethod
    def read(cls, r: ConfigReader, model_type: str, *, flat: bool = False) -> Self:
        """Read a config; every key is used, declared inert or refused.

        Args:
            model_type: of the whole; its parts are called after it.
            flat: whether first releases hold the decoder's keys among their own, and tie its tables there.
        """
        ids = {name: r.integer(f"{name}_token_id", usual, least=0) for name, usual in IDS.items()}
        vision = _part(r, "vision_config", f"{model_type}_vision", first=model_type)
        tie = r.flag("tie_word_embeddings", False)
        text = _part(r, "text_config", f"{model_type}_text", first="", spread=flat)
        return cls(
            vision=vision,
            text=text,
            image_token_id=ids["image"],
            video_token_id=ids["video"],
            tie=tie or (flat and text.config.get("tie_word_embeddings") is True),
        )

    def build(self, pace: int | None = None) -> PackedVisionLanguage:
        """Encoder and decoder without a head; ``pace``: positions for a second of film, where it matters."""
        visual, decoder = self.vision.build_as(PackedVision), self.text.build_as(AxesDecoder)
        check_fit("vision_config", visual.out, "text_config", decoder.width)
        return PackedVisionLanguage(
            visual=visual,
            language_model=decoder,
            image_token_id=self.image_token_id,
            video_token_id=self.video_token_id,
            pace=pace,
        )

    def deep(self) -> DeepVisionLanguage:
        """Encoder and decoder without a head, the latter's first layers told of the former's."""
        visual, decoder = self.vision.build_as(PackedVision), self.text.build_as(DeepDecoder)
        check_fit("vision_config", visual.out, "text_config", decoder.width)
        return DeepVisionLanguage(
            visual=visual,
            language_model=decoder,
            image_token_id=self.image_token_id,
            video_token_id=self.video_token_id,
        )

    def head(self, model: PackedVisionLanguage) -> nn.Linear:
        """The projection onto the vocabulary."""
        table = model.language_model.embed_tokens
        return tied(nn.Linear(table.embedding_dim, table.num_embeddings, bias=False), table, self.tie)

    def writing(self, model: PackedVisionLanguage) -> SeesLM:
        """A model that writes."""
        return SeesLM(model=model, lm_head=self.head(model))

    def causal_lm(self, _: Common) -> SeesLM:
        """The model that writes."""
        return self.writing(self.build())

    def deep_lm(self, _: Common) -> SeesLM:
        """The model that writes, with a deep stack."""
        return self.writing(self.deep())


def _part(r: ConfigReader, name: str, model_type: str, *, first: str, spread: bool = False) -> Part:
    """A nested config.

    Args:
        model_type: where it names none, or ``first``, as the first releases did.
        spread: whether its keys stand among those of the whole where there is no nested one.
    """
    raw = r.mapping(name)
    if raw is None:
        raw = _spread(r) if spread else {}
    if raw.get("model_type") == first:
        raw = {**raw, "model_type": model_type}
    part = Part(r.within(raw, name), model_type)
    if spread and r.raw.get(name) is None:
        r.inert(*(raw.keys() - {*part.config.unknown}))
    r.values[name] = part.config
    return part


def _spread(r: ConfigReader) -> Mapping[str, object]:
    """The keys of a config that are not its own: those of its decoder."""
    own = {*(f"{name}_token_id" for name in IDS), "vision_config", "text_config", "model_type", "architectures"}
    return {key: value for key, value in r.raw.items() if key not in own}


def parts_keys(c: SeeingConfig) -> KeyMap:
    """Each part's own map, at its place."""
    return c.vision.keys.under("visual", "visual") | c.text.keys.under("language_model", "language_model")


MERGER_KEYS: Mapping[str, Rule] = {
    "merger.norm": "merger.ln_q",
    "merger.linear_fc1": "merger.mlp.0",
    "merger.linear_fc2": "merger.mlp.2",
}
"""Where Qwen2-VL and Qwen2.5-VL have what makes tokens of patches."""


def base_keys_before_2025(c: SeeingConfig) -> KeyMap:
    """Where a model without a head lies, which first releases called as in a model that writes."""
    old = (
        (r"^model\.(?=visual\.|language_model\.)", ""),
        (r"^model\.", "language_model."),
    )
    return parts_keys(c) | KeyMap({}, aliases=old)


def head_keys_before_2025(c: SeeingConfig) -> KeyMap:
    """Where a model that writes lies: files keep the layout of first releases."""
    rules = c.vision.keys.under("model.visual", "visual") | c.text.keys.under("model.language_model", "model")
    now = (
        (r"^model\.visual\.", "visual."),
        (r"^(model\.)?language_model\.(?!model\.)", "model."),
    )
    modules = (
        (r"^model(?!\.(visual|language_model))(?=\.|$)", "model.language_model"),
        (r"^visual(?=\.|$)", "model.visual"),
    )
    return rules | KeyMap({}, aliases=now, modules=modules)
