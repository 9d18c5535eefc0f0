"""YOLOS (https://arxiv.org/abs/2106.00666): a ViT some of whose tokens look for an object each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.detection import SetLoss, Target
from omniform.architectures.detector import BoxHead
from omniform.architectures.family import Builder
from omniform.architectures.model import Model
from omniform.architectures.vision import GridVisionEncoder
from omniform.architectures.vit_family import LAYER_KEYS, PLAIN_KEYS, PlainVision, zeros
from omniform.blocks.grid_rotary import GridContext
from omniform.blocks.layers import PreNorm
from omniform.blocks.patches import DetectionTokens, GridPositions, PatchStem
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.errors import ConfigError
from omniform.core.outputs import BaseModelOutput, TokenDetectionOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import Index, Link, unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a YOLOS computes."""

    vision: PlainVision
    queries: int
    placed: bool
    deep: bool
    loss: SetLoss


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return Config(
        vision=PlainVision.read(r, image_size=(512, 864)),
        queries=r.integer("num_detection_tokens", 100),
        placed=r.flag("use_mid_position_embeddings", True),
        deep=r.flag("auxiliary_loss", False),
        loss=SetLoss.read(r),
    )


class PlacedPreNorm(PreNorm):
    """A pre-norm layer that adds positions of its own to what it reads."""

    positions: GridPositions

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        assert isinstance(ctx, GridContext)
        return super().forward(x_BTD + self.positions(ctx.grid), ctx)


def build(c: Config, *, pooler: DensePooler | None = None) -> GridVisionEncoder:
    """The encoder; its head does without the pooler."""
    vision, tower, dim = c.vision, c.vision.tower, c.vision.tower.dim

    def positions() -> GridPositions:
        return GridPositions(vision.patching.grid, dim, before=1, after=c.queries)

    def layer(number: int) -> PreNorm:
        placed: dict[str, object] = {"positions": positions()} if c.placed and number else {}
        kind = PlacedPreNorm if placed else PreNorm
        return tower.layer(kind, Full(), biases=vision.biases, dropout=vision.dropout, head_dim=None, **placed)

    return GridVisionEncoder(
        patches=PatchStem(vision.patching, dim),
        positions=positions(),
        class_token=DetectionTokens(dim, c.queries),
        layers=nn.ModuleList(layer(number) for number in range(tower.layers)),
        norm=tower.norm(),
        pooler=pooler,
        dropout=vision.dropout,
    )


def with_pooler(c: Config) -> GridVisionEncoder:
    """The encoder and one vector per picture."""
    return build(c, pooler=DensePooler(c.vision.tower.dim, c.vision.tower.dim))


class ScoreHead(nn.Module):
    """Three projections with ReLU between them, from a token's vector to scores."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, outer) for outer in (dim, dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., classes]."""
        first, second, third = self.layers
        scores: Tensor = third(F.relu(second(F.relu(first(x)))))
        return scores


class TokenDetector(Model):
    """An encoder with heads on its detection tokens: a class (or none) and a box each.

    Args:
        model: the encoder.
        class_labels_classifier: a token's vector to the scores of the classes and of "no object".
        bbox_predictor: a token's vector to its box.
        loss: the loss against the objects that are there.
        deep: whether the config asks for losses on earlier layers, of which nobody has said what they are.
    """

    main_input = "pixel_values"

    model: GridVisionEncoder
    class_labels_classifier: ScoreHead
    bbox_predictor: BoxHead
    loss: SetLoss
    deep: bool

    @property
    def queries(self) -> int:
        """How many objects can be found."""
        assert self.model.class_token is not None
        return self.model.class_token.after

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        if not isinstance(labels, Sequence) or not labels:
            return None
        return torch.tensor(self.loss.counts(labels, self.queries), dtype=torch.float32)

    def forward(
        self,
        pixel_values: Tensor,
        *,
        labels: Sequence[Target] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> TokenDetectionOutput:
        """Classes and boxes; see :meth:`VisionEncoder.forward` for the other inputs.

        Args:
            pixel_values: Shape: [B, channels, height, width], of any size.
            labels: one per picture, each with ``class_labels`` [n] and ``boxes`` [n, 4] (centre x and y, width and
                height, as parts of the picture's size); gives a loss.
            num_items_in_batch: what the loss's sums are divided by, if not this batch's own; see :meth:`loss_items`.

        Raises:
            ConfigError: a loss is asked for, and the config wants one on every layer.
        """
        if labels is not None and self.deep:
            raise ConfigError(
                "losses on earlier layers are not supported",
                where="config.json: auxiliary_loss",
                expected="false",
                found="true",
                remedy="The reference has none either: it fails there. Load with auxiliary_loss=False.",
            )
        out = cast(BaseModelOutput, self.model(pixel_values, **inputs))
        seeking = out.last_hidden_state[:, -self.queries :].contiguous()
        predicted = {"logits": self.class_labels_classifier(seeking), "pred_boxes": self.bbox_predictor(seeking)}
        loss = parts = None
        if labels is not None:
            loss, parts = self.loss(predicted, labels, items=num_items_in_batch)
        return TokenDetectionOutput(
            loss=loss, loss_dict=parts, **predicted, last_hidden_state=out.last_hidden_state, **out.noted()
        )


def object_detector(c: Config, common: Common) -> TokenDetector:
    """A class, or none, and a box per detection token."""
    dim = c.vision.tower.dim
    return TokenDetector(
        model=build(c),
        class_labels_classifier=ScoreHead(dim, common.num_labels + 1),
        bbox_predictor=BoxHead(dim),
        loss=c.loss,
        deep=c.deep,
    )


MIDDLE = "encoder.mid_position_embeddings"


def keys(c: Config) -> KeyMap:
    """Where the weights live; the positions of all layers but the first are one tensor."""
    placed: dict[str, Rule] = {
        f"layers.{i}.positions.weight": Link(MIDDLE, (Index(i - 1), Index(0))) for i in range(1, c.vision.tower.layers)
    }
    plain = {ours: theirs for ours, theirs in PLAIN_KEYS.rules.items() if ours not in LAYER_KEYS}
    detection = {"class_token.detection.weight": unsqueezed("embeddings.detection_tokens", 1)}
    # An encoder of one layer has positions for none, which its checkpoint holds all the same.
    return KeyMap(
        {**plain, **LAYER_KEYS, **detection, **placed},
        # Its name in the reference's memory.
        aliases=((r"(^|\.)encoder\.interpolation\.mid_position", r"\1encoder.mid_position"),),
        ignored=() if placed else (rf"(^|\.){MIDDLE.replace('.', '[.]')}$",),
        modules=((r"(^|\.)encoder\.mid_position", r"\1encoder.interpolation.mid_position"),),
    )


FAMILY = (
    Builder("yolos", read, keys, prefix="vit")
    .public(config="YolosConfig", image_processor="YolosImageProcessor", row="object detection")
    .begins(zeros("class_token.weight", "detection.weight", "positions.weight"))
    .base("YolosModel", with_pooler)
    .head("YolosForObjectDetection", "object-detection", object_detector)
    .done()
)
