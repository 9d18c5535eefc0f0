"""Detectors of what a text or another picture shows: OWL-ViT (https://arxiv.org/abs/2205.06230) and OWLv2.

Every patch of a picture is a candidate: its vector is compared with those of queries, and it says where its object is.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.dual_encoder import DualEncoder, unit
from omniform.architectures.model import Model
from omniform.blocks.patches import Size
from omniform.blocks.poolers import NormPooler
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, DualEncoderOutput, ModelOutput


class PlainDualEncoder(DualEncoder):
    """One that hands the towers' outputs on as they are: their pooled vectors are not projected (OWL-ViT)."""

    def forward(  # type: ignore[override] # texts count from their beginning
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **given: Unpack[Tapped],
    ) -> DualEncoderOutput:
        """Similarities of every picture with every text; see :meth:`DualEncoder.forward`."""
        if input_ids is None or pixel_values is None:
            lacking = "input_ids" if input_ids is None else "pixel_values"
            raise InputError("pictures are compared with texts: both are needed", where=lacking, found="None")
        image = cast(
            BaseModelOutput,
            self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **given),
        )
        text = cast(BaseModelOutput, self.text_model(input_ids, attention_mask=attention_mask, **given))
        image_embeds = unit(self.visual_projection(image.pooler_output))
        text_embeds = unit(self.text_projection(text.pooler_output))
        per_text = self.scores(text_embeds @ image_embeds.t())
        return DualEncoderOutput(
            loss=self.loss_of(per_text) if return_loss else None,
            logits_per_image=per_text.t(),
            logits_per_text=per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=image,
        )


@dataclass(slots=True)
class OpenDetectionOutput(ModelOutput):
    """What was found of each picture's queries.

    Attributes:
        logits: Shape: [B, patches, queries].
        objectness_logits: how likely each patch shows an object at all; of models that tell. Shape: [B, patches].
        pred_boxes: centre and extent in parts of the picture. Shape: [B, patches, 4].
        text_embeds: Shape: [B, queries, E], of length 1.
        image_embeds: Shape: [B, rows, columns, D].
        class_embeds: what queries are compared with, Shape: [B, patches, E], of length 1.
        text_model_output: the text tower's output.
        vision_model_output: the vision tower's.
    """

    logits: Tensor | None = None
    _: KW_ONLY
    objectness_logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    class_embeds: Tensor | None = None
    text_model_output: BaseModelOutput | None = None
    vision_model_output: BaseModelOutput | None = None

    def to_tuple(self) -> tuple[object, ...]:
        """The entries that are there, in order, the towers' outputs as tuples too."""
        return tuple(e.to_tuple() if isinstance(e, ModelOutput) else e for e in map(self.__getitem__, self.keys()))


@dataclass(slots=True)
class GuidedDetectionOutput(ModelOutput):
    """What was found in each picture that looks like the object of another.

    Attributes:
        logits: Shape: [B, patches, 1].
        image_embeds: Shape: [B, rows, columns, D]; ``query_image_embeds`` likewise.
        target_pred_boxes: centre and extent in parts of the picture. Shape: [B, patches, 4].
        query_pred_boxes: the same of the query's picture.
        class_embeds: Shape: [B, patches, E], of length 1.
        vision_model_output: the vision tower's output for the pictures.
    """

    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    query_image_embeds: Tensor | None = None
    target_pred_boxes: Tensor | None = None
    query_pred_boxes: Tensor | None = None
    class_embeds: Tensor | None = None
    text_model_output: BaseModelOutput | None = None
    vision_model_output: BaseModelOutput | None = None

    def to_tuple(self) -> tuple[object, ...]:
        """The entries that are there, in order, the tower's output as a tuple too."""
        return tuple(e.to_tuple() if isinstance(e, ModelOutput) else e for e in map(self.__getitem__, self.keys()))


class PatchHead(nn.Module):
    """Three projections of a patch's vector with GELUs between them.

    Args:
        dim: width of the vectors; ``out``: of what it gives.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.dense0 = nn.Linear(dim, dim)
        self.dense1 = nn.Linear(dim, dim)
        self.dense2 = nn.Linear(dim, out)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., dim] to [..., out]."""
        found: Tensor = self.dense2(F.gelu(self.dense1(F.gelu(self.dense0(x)))))
        return found


class QueryHead(nn.Module):
    """How much patches look like queries, on a scale of each patch's own.

    Args:
        dim: width of the patches' vectors; ``queries``: of the queries'.
    """

    def __init__(self, dim: int, queries: int) -> None:
        super().__init__()
        self.dense0 = nn.Linear(dim, queries)
        self.logit_shift = nn.Linear(dim, 1)
        self.logit_scale = nn.Linear(dim, 1)

    def forward(
        self, x_BND: Tensor, queries_BQE: Tensor | None, real_BQ: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores and the vectors that were compared; without queries zeros, and the vectors as they are.

        Args:
            x_BND: patches.
            queries_BQE: vectors of queries.
            real_BQ: which of them are asked for.

        Returns:
            Shape: [B, N, Q] and [B, N, E].
        """
        vectors: Tensor = self.dense0(x_BND)
        if queries_BQE is None:
            return x_BND.new_zeros(x_BND.shape, dtype=torch.float32), vectors
        vectors, queries = _shortened(vectors), _shortened(queries_BQE)
        scores = (vectors @ queries.transpose(-1, -2) + self.logit_shift(x_BND)) * (F.elu(self.logit_scale(x_BND)) + 1)
        if real_BQ is not None:
            least = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~real_BQ[:, None], least).float()
        return scores, vectors


def _shortened(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-6)


def box_bias(grid: Size, device: torch.device) -> Tensor:
    """What boxes begin with: each patch's lower right corner, and a patch's extent. Shape: [patches, 4]."""
    rows, columns = grid
    across = torch.arange(1, columns + 1, dtype=torch.float32, device=device) / columns
    down = torch.arange(1, rows + 1, dtype=torch.float32, device=device) / rows
    places = torch.stack((across.expand(rows, -1), down[:, None].expand(-1, columns)), dim=-1).view(-1, 2)
    extent = torch.stack((torch.full_like(places[:, 0], 1 / columns), torch.full_like(places[:, 1], 1 / rows)), dim=-1)
    both = torch.cat((places.clamp(0, 1), extent), dim=-1)
    return torch.log(both + 1e-4) - torch.log1p(-both + 1e-4)


class OpenDetector(Model):
    """Finds what texts name, or what another picture shows.

    Args:
        model: both towers.
        class_head: patches compared with queries.
        box_head: where a patch's object is.
        layer_norm: of patches' vectors, each multiplied with the picture's.
    """

    model: PlainDualEncoder
    class_head: QueryHead
    box_head: PatchHead
    layer_norm: nn.LayerNorm

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def accepts(self) -> frozenset[str]:
        return super().accepts() - {"return_loss"}

    def patches_of(self, out: BaseModelOutput, grid: Size) -> Tensor:
        """Patches' vectors as a map, from the vision tower's output. Shape: [B, rows, columns, D]."""
        pooler = self.model.vision_model.pooler
        assert isinstance(pooler, NormPooler)
        normed: Tensor = pooler.norm(out.last_hidden_state)
        mixed: Tensor = self.layer_norm(normed[:, 1:] * normed[:, :1])
        return mixed.view(mixed.shape[0], *grid, mixed.shape[-1])

    def boxes(self, x_BHWD: Tensor) -> Tensor:
        """Where the patches' objects are. Shape: [B, rows, columns, D] to [B, patches, 4]."""
        said: Tensor = self.box_head(x_BHWD.flatten(1, 2))
        bias = box_bias((x_BHWD.shape[1], x_BHWD.shape[2]), said.device)
        return (said + bias).to(said.dtype).sigmoid()

    def objectness(self, x_BHWD: Tensor) -> Tensor | None:
        """How likely each patch shows an object at all; None where nobody has learned that. Shape: [B, patches]."""
        return None

    def found(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool, **given: Unpack[Tapped]
    ) -> tuple[Tensor, BaseModelOutput]:
        """Patches' vectors of pictures, and the vision tower's output."""
        tower = self.model.vision_model
        out = cast(BaseModelOutput, tower(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **given))
        return self.patches_of(out, tower.grid_of(pixel_values)), out

    def image_guided_detection(
        self,
        pixel_values: Tensor,
        query_pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **given: Unpack[Tapped],
    ) -> GuidedDetectionOutput:
        """Find in pictures what the pictures beside them show.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            query_pixel_values: one for each of them; likewise.
            interpolate_pos_encoding: take pictures of another size than the model's own.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: there are no query pictures, or not one for each.
        """
        if query_pixel_values is None or query_pixel_values.shape[0] != pixel_values.shape[0]:
            raise InputError(
                "every picture is searched for what another shows",
                where="query_pixel_values",
                expected=f"{pixel_values.shape[0]} pictures",
                found="none" if query_pixel_values is None else query_pixel_values.shape[0],
            )
        asked, _ = self.found(query_pixel_values, interpolate_pos_encoding)
        patches, out = self.found(pixel_values, interpolate_pos_encoding, **given)
        query, query_boxes = self.queried(asked)
        scores, vectors = self.class_head(patches.flatten(1, 2), query)
        return GuidedDetectionOutput(
            logits=scores,
            image_embeds=patches,
            query_image_embeds=asked,
            target_pred_boxes=self.boxes(patches),
            query_pred_boxes=query_boxes,
            class_embeds=vectors,
            vision_model_output=out,
        )

    def queried(self, x_BHWD: Tensor) -> tuple[Tensor, Tensor]:
        """What each picture shows, as a query, Shape: [B, 1, E]; and where its patches' objects are."""
        _, vectors = self.class_head(x_BHWD.flatten(1, 2), None)
        boxes = self.boxes(x_BHWD)
        best = self.foremost(x_BHWD, vectors, boxes)
        return vectors.gather(1, best[:, None, None].expand(-1, -1, vectors.shape[-1])), boxes

    def foremost(self, x_BHWD: Tensor, vectors_BNE: Tensor, boxes_BN4: Tensor) -> Tensor:
        """Which patch shows what a picture is about: one that fills it, and is least like all others. Shape: [B]."""
        covered = _covered(boxes_BN4)
        whole = covered >= 0.8 * covered.amax(-1, keepdim=True)
        alike = (vectors_BNE * vectors_BNE.mean(1, keepdim=True)).sum(-1)
        return alike.masked_fill(~whole, float("inf")).argmin(-1)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **given: Unpack[Tapped],
    ) -> OpenDetectionOutput:
        """Find what texts name.

        Args:
            input_ids: the queries of each picture, all pictures' as many; one whose first token is 0 is none.
                Shape: [B * queries, T].
            pixel_values: Shape: [B, channels, height, width].
            attention_mask: Shape: [B * queries, T], 1 for real tokens.
            interpolate_pos_encoding: take pictures of another size than the model's own.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        both = cast(
            DualEncoderOutput,
            self.model(
                input_ids,
                pixel_values,
                attention_mask=attention_mask,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **given,
            ),
        )
        seen, text = both.vision_model_output, both.text_embeds
        assert seen is not None and text is not None
        patches = self.patches_of(seen, self.model.vision_model.grid_of(pixel_values))
        queries = text.view(pixel_values.shape[0], -1, text.shape[-1])
        real = input_ids.view(*queries.shape[:2], -1)[..., 0] > 0
        scores, vectors = self.class_head(patches.flatten(1, 2), queries, real)
        return OpenDetectionOutput(
            scores,
            objectness_logits=self.objectness(patches),
            pred_boxes=self.boxes(patches),
            text_embeds=queries,
            image_embeds=patches,
            class_embeds=vectors,
            text_model_output=both.text_model_output,
            vision_model_output=seen,
        )

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, pictures = inputs.get("input_ids"), inputs.get("pixel_values")
        if isinstance(ids, Tensor) and isinstance(pictures, Tensor) and (ids.shape[0] % pictures.shape[0]):
            raise InputError(
                "every picture has as many queries",
                where="input_ids",
                expected=f"a multiple of {pictures.shape[0]} rows",
                found=ids.shape[0],
            )


class ObjectDetector(OpenDetector):
    """One that also tells how likely patches show an object at all (OWLv2, https://arxiv.org/abs/2306.09683)."""

    objectness_head: PatchHead

    def objectness(self, x_BHWD: Tensor) -> Tensor | None:
        scores: Tensor = self.objectness_head(x_BHWD.flatten(1, 2).detach())
        return scores[..., 0]

    def foremost(self, x_BHWD: Tensor, vectors_BNE: Tensor, boxes_BN4: Tensor) -> Tensor:
        likely = self.objectness(x_BHWD)
        assert likely is not None
        return likely.argmax(-1)


def _covered(boxes_BN4: Tensor) -> Tensor:
    """How boxes overlap with the whole picture, over both together. Shape: [B, N, 4] to [B, N]."""
    (x, y), (w, h) = boxes_BN4[..., :2].unbind(-1), boxes_BN4[..., 2:].unbind(-1)
    left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    inside = (right.clamp(max=1) - left.clamp(min=0)).clamp(min=0) * (bottom.clamp(max=1) - top.clamp(min=0)).clamp(
        min=0
    )
    return inside / (1 + (right - left) * (bottom - top) - inside)
