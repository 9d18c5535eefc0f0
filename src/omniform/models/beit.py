"""BEiT (https://arxiv.org/abs/2106.08254)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.backbone import read_outputs
from omniform.architectures.beit_family import (
    BEIT_KEYS,
    PYRAMID_KEYS,
    SEGMENTER_KEYS,
    STRIDES,
    BeitEncoder,
    BeitSegmenter,
    PatchBackbone,
    Pyramid,
    RowsPatchBackbone,
    beginning,
    build,
    check_four,
    read_tower,
    with_pooler,
)
from omniform.architectures.beit_family import Config as Shared
from omniform.architectures.beit_family import classifier as classifier_of
from omniform.architectures.beit_family import read as read_shared
from omniform.architectures.beit_family import segmenter as segmenter_of
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier
from omniform.architectures.labels import IGNORED, Classes, Targets
from omniform.architectures.losses import Items, scored, token_loss
from omniform.architectures.model import Model
from omniform.core.config import Common
from omniform.core.errors import InputError
from omniform.core.host import is_readable
from omniform.core.outputs import BaseModelOutput, MaskedLMOutput
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a BEiT computes.

    Attributes:
        vocab: how many visual tokens there are.
        pyramid: whether a backbone makes maps of four sizes.
        maps: whether a backbone gives maps, and not rows of hidden states.
    """

    shared: Shared
    vocab: int
    names: tuple[str, ...]
    pyramid: bool
    maps: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    tower = read_tower(r)
    names = ("stem", *(f"stage{i + 1}" for i in range(tower.layers)))
    former = r.integers("segmentation_indices", ())
    outputs = read_outputs(r, names)
    if former and r.raw.get("out_indices") is None:
        outputs = read_outputs(r.within({"out_indices": list(former)}, "segmentation_indices"), names)
    shared = read_shared(r, outputs, tower)
    pyramid = r.flag("add_fpn", False)
    if pyramid:
        check_four(shared)
    return Config(
        shared=shared,
        vocab=r.integer("vocab_size", 8192),
        names=names,
        pyramid=pyramid,
        maps=r.flag("reshape_hidden_states", True),
    )


def encoder(c: Config) -> BeitEncoder:
    """The encoder and one vector per picture."""
    return with_pooler(c.shared)


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture."""
    return classifier_of(c.shared, common)


def segmenter(c: Config, common: Common) -> BeitSegmenter:
    """A class for every place."""
    return segmenter_of(c.shared, common)


def backbone(c: Config) -> PatchBackbone:
    """Hidden states as maps."""
    s = c.shared
    kind = PatchBackbone if c.maps else RowsPatchBackbone
    count, patch = len(c.names), s.patching.patch_size[0]
    reductions = [patch] * count
    for place, factor in zip(s.outputs if c.pyramid else (), STRIDES, strict=False):
        reductions[place] = max(1, int(patch * factor))
    return kind(
        model=build(s),
        fpn=Pyramid(s.tower.dim) if c.pyramid else None,
        names=c.names,
        outputs=s.outputs,
        num_features=(s.tower.dim,) * count,
        reductions=tuple(reductions),
    )


@dataclass(frozen=True, slots=True)
class HiddenTokens(Classes):
    """One visual token for each hidden patch."""

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        Classes.check(self, name, labels, inputs)
        masked = inputs.get("bool_masked_pos")
        if isinstance(masked, Tensor) and is_readable(masked) and int(masked.bool().sum()) != labels.numel():
            raise InputError(
                "there is not one label for each hidden patch",
                where=name,
                expected=f"{int(masked.bool().sum())} of them, as bool_masked_pos says",
                found=labels.numel(),
            )


class VisualTokenModeler(Model):
    """Tells which visual token each hidden patch was.

    Args:
        model: the encoder.
        layernorm: of its hidden states.
        lm_head: to the scores of all visual tokens.
    """

    main_input = "pixel_values"

    model: BeitEncoder
    layernorm: nn.Module
    lm_head: nn.Linear

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": HiddenTokens(self.lm_head.out_features)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        pixel_values: Tensor,
        *,
        bool_masked_pos: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> MaskedLMOutput:
        """Scores of all visual tokens in every patch's place.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            bool_masked_pos: Shape: [B, patches], true for patches to hide.
            labels: Shape: [N], the visual tokens of all hidden patches, one picture after the other; gives a loss.
            num_items_in_batch: how many labels count in all batches of a step, if not those of this one.

        Raises:
            InputError: labels, and nothing is hidden.
        """
        out = cast(BaseModelOutput, self.model(pixel_values, bool_masked_pos=bool_masked_pos, **inputs))
        scores = self.lm_head(self.layernorm(out.last_hidden_state)[:, 1:])
        loss = None if labels is None else hidden_token_loss(scores, bool_masked_pos, labels, num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=scores, **out.noted())


def hidden_token_loss(scores_BNV: Tensor, masked: Tensor | None, labels: Tensor, items: Items) -> Tensor:
    """Mean cross-entropy of hidden patches against the tokens that they were.

    Args:
        masked: Shape: [B, N], true for hidden patches.
        labels: Shape: [hidden patches of all pictures].
    """
    if masked is None or not labels.numel():
        raise InputError("a loss needs hidden patches", where="bool_masked_pos", expected="[batch, patches]")
    masked, labels = masked.to(scores_BNV.device).bool(), labels.to(scores_BNV.device).reshape(-1)
    # Each hidden patch's place among them; nobody asks how many there are, which would wait for an accelerator.
    number = (masked.flatten().cumsum(0) - 1).clamp(0, labels.shape[0] - 1)
    spread = torch.where(masked.flatten(), labels[number], IGNORED)
    return token_loss(scores_BNV, spread.view(masked.shape), items)


def visual_token_modeler(c: Config, _: Common) -> VisualTokenModeler:
    """The encoder that tells hidden patches' visual tokens."""
    t = c.shared.tower
    return VisualTokenModeler(model=build(c.shared), layernorm=t.norm(), lm_head=nn.Linear(t.dim, c.vocab))


# The ecosystem's backbone keeps these two where its other models do.
BACKBONE_KEYS = BEIT_KEYS.under("model", "") | KeyMap(
    {
        **PYRAMID_KEYS,
        "model.shared_position_bias.weight": "beit.encoder.relative_position_bias.relative_position_bias_table",
        "model.norm": "beit.layernorm",
    },
    aliases=((r"^beit\.(embeddings|encoder)\.", r"\1."),),
    modules=((r"^(embeddings|layers)\.", r"beit.\1."),),
)

FAMILY = (
    Builder("beit", read, BEIT_KEYS, prefix="beit")
    .public(
        config="BeitConfig",
        image_processor="BeitImageProcessor",
        row="image classification, semantic segmentation, masked image modelling, backbone",
    )
    .begins(beginning)
    .base("BeitModel", encoder)
    .head("BeitForImageClassification", "image-classification", classifier)
    .head("BeitForMaskedImageModeling", (), visual_token_modeler)
    .head("BeitForSemanticSegmentation", "semantic-segmentation", segmenter, SEGMENTER_KEYS)
    .backbone("BeitBackbone", backbone, BACKBONE_KEYS)
    .done()
)
