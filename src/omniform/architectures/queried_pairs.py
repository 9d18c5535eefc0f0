"""Pictures, as queries see them, and texts in one space; and whether the two belong together (BLIP-2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.architectures.qformer import QFormer, QueryText
from omniform.architectures.vision import VisionEncoder
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, DualEncoderOutput, ImageEmbeddingOutput, TextEmbeddingOutput


class WithQueries(Model):
    """Base of models with learned queries.

    Args:
        queries: how many.
        query_dim: width of their vectors.
    """

    queries: int
    query_dim: int
    if TYPE_CHECKING:
        qformer: QFormer  # subclasses name it in its order

    def __post_init__(self) -> None:
        super().__post_init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, self.queries, self.query_dim))

    def reset(self, std: float) -> None:
        """Start from zeros."""
        nn.init.zeros_(self.query_tokens)

    def asked(self, rows: int) -> Tensor:
        """The queries of so many rows. Shape: [B, Q, D]."""
        return self.query_tokens.expand(rows, -1, -1)

    def looked(self, image: Tensor, asked: Tapped) -> Tensor:
        """What queries find in pictures. Shape: [B, S, E] to [B, Q, D]."""
        out = self.qformer(query_embeds=self.asked(image.shape[0]), encoder_hidden_states=image, **asked)
        return cast(BaseModelOutput, out).last_hidden_state


class QueriedTextTower(WithQueries):
    """Texts, read by the queries' layers without queries, each token in the shared space."""

    embeddings: QueryText
    qformer: QFormer
    text_projection: nn.Linear

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def arrive(self, inputs: dict[str, object]) -> None:
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor):
            raise InputError("there is no text", where="input_ids", expected="a tensor", found="None")
        self.embeddings.check(ids)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> TextEmbeddingOutput:
        """Vectors of length 1 for every token, the first of which stands for the text.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens.
            position_ids: Shape: [B, T]; 0, 1, 2... by default.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        vectors = self.embeddings(cast(Tensor, input_ids), position_ids)
        read = self.qformer(query_embeds=vectors, query_length=0, attention_mask=attention_mask, **given)
        out = cast(BaseModelOutput, read)
        embeds = F.normalize(self.text_projection(out.last_hidden_state), dim=-1)
        return TextEmbeddingOutput(text_embeds=embeds, last_hidden_state=out.last_hidden_state, **out.noted())


class QueriedPictureTower(WithQueries):
    """Pictures, each query's finding in the shared space."""

    main_input = "pixel_values"

    vision_model: VisionEncoder
    qformer: QFormer
    vision_projection: nn.Linear

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.patches.projection

    def forward(
        self,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **given: Unpack[Tapped],
    ) -> ImageEmbeddingOutput:
        """Vectors of length 1, one for each query. Shape: [B, channels, height, width] in, [B, Q, E] out.

        Args:
            interpolate_pos_encoding: take pictures of another size than the model's own.
            given: see :class:`~omniform.core.context.Tapped`; of the pictures' encoder.
        """
        out = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **given)
        image = cast(BaseModelOutput, out)
        embeds = F.normalize(self.vision_projection(self.looked(image.last_hidden_state, {})), dim=-1)
        return ImageEmbeddingOutput(image_embeds=embeds, last_hidden_state=image.last_hidden_state, **image.noted())


class QueriedMatcher(QueriedTextTower):
    """Whether texts belong to pictures: told by queries that have the text in mind, or by vectors.

    Args:
        itm_head: what a query has found, to scores of "no" and "yes".
        skips: whether texts begin with the places of pictures, which are not read here.
    """

    main_input = "pixel_values"

    vision_model: VisionEncoder
    vision_projection: nn.Linear
    itm_head: nn.Linear
    skips: bool

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        if not isinstance(ids, Tensor):
            raise InputError("there is no text", where="input_ids", expected="a tensor", found="None")
        if isinstance(mask, Tensor) and mask.shape != ids.shape:
            expected, found = list(ids.shape), list(mask.shape)
            raise InputError("the mask does not cover the text", where="attention_mask", expected=expected, found=found)
        if self.skips and ids.shape[1] <= self.queries:
            raise InputError(
                "a text begins with the places of its picture",
                where="input_ids",
                expected=f"more than {self.queries} tokens",
                found=ids.shape[1],
            )
        self.embeddings.check(ids[:, self.queries :] if self.skips else ids)

    def forward(  # type: ignore[override] # in the ecosystem's order
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_image_text_matching_head: bool | None = False,
        **given: Unpack[Tapped],
    ) -> DualEncoderOutput:
        """Scores of texts and pictures.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            input_ids: Shape: [B, T]; behind the places of pictures, in models whose texts have these.
            attention_mask: Shape: [B, T], 1 for real tokens.
            use_image_text_matching_head: whether to tell of each pair if it matches, ``logits_per_image`` [B, 2]; else
                similarities of every picture with every text.
            given: see :class:`~omniform.core.context.Tapped`; of the pictures' encoder.
        """
        assert input_ids is not None, "calls are checked when they arrive"
        image = cast(BaseModelOutput, self.vision_model(pixel_values, **given))
        words = input_ids[:, self.queries :] if self.skips else input_ids
        if use_image_text_matching_head:
            return self.told(image, words, attention_mask)
        mask = attention_mask
        if mask is not None and self.skips:
            mask = mask[:, self.queries :]
        found = self.looked(image.last_hidden_state, {})
        read = self.qformer(query_embeds=self.embeddings(words), query_length=0, attention_mask=mask)
        text = cast(BaseModelOutput, read)
        image_embeds = F.normalize(self.vision_projection(found), dim=-1)
        text_embeds = F.normalize(self.text_projection(text.last_hidden_state[:, 0]), dim=-1)
        per_image = (image_embeds @ text_embeds.t()).amax(dim=1)
        return DualEncoderOutput(
            logits_per_image=per_image,
            logits_per_text=per_image.t(),
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=image,
        )

    def told(self, image: BaseModelOutput, words: Tensor, attention_mask: Tensor | None) -> DualEncoderOutput:
        """Of each pair, whether it matches."""
        if attention_mask is not None and not self.skips:
            attention_mask = F.pad(attention_mask, (self.queries, 0), value=1)
        queries, text = self.asked(words.shape[0]), self.embeddings(words)
        out = self.qformer(
            query_embeds=torch.cat((queries.to(text), text), dim=1),
            query_length=self.queries,
            attention_mask=attention_mask,
            encoder_hidden_states=image.last_hidden_state,
        )
        read = cast(BaseModelOutput, out)
        per_image = self.itm_head(read.last_hidden_state[:, : self.queries]).mean(dim=1)
        return DualEncoderOutput(
            logits_per_image=per_image,
            logits_per_text=per_image.t(),
            text_embeds=read.last_hidden_state,
            image_embeds=image.last_hidden_state,
            text_model_output=read,
            vision_model_output=image,
        )
