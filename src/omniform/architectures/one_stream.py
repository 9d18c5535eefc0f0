"""Words and patches of a picture in one row: one stack of layers reads both (ViLT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Unpack, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.bridged import check_seen
from omniform.architectures.encoder import Filling
from omniform.architectures.heads import Head, TokenClassifier
from omniform.architectures.labels import Chances, Classes, Targets
from omniform.architectures.losses import divided, row_loss, scored, token_loss
from omniform.architectures.stack import TextStack
from omniform.blocks.embeddings import check_ids
from omniform.blocks.layers import run
from omniform.blocks.patches import ClassToken, Learned, PatchStem, Size
from omniform.core.context import Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.fused_outputs import SeveralScores
from omniform.core.host import is_all_true, is_readable
from omniform.core.outputs import BaseModelOutput, ClassifierOutput, MaskedLMOutput


def real_patches(pixel_mask: Tensor, grid: Size) -> Tensor:
    """Which patches of a grid are real, from which pixels are. Shape: [B, height, width] to [B, rows, columns]."""
    return F.interpolate(pixel_mask[:, None].float(), size=grid)[:, 0] > 0


def extents(mask_BRC: Tensor) -> tuple[Tensor, Tensor]:
    """How many rows and columns of patches each picture has. Shape: [B] each."""
    return mask_BRC[:, :, 0].sum(1), mask_BRC[:, 0].sum(1)


@dataclass(frozen=True, slots=True)
class Drawing:
    """Which patches may be read: a forward draws some of them, in an order by chance, as the reference draws them.

    Each row gets as many as the largest picture has. Rows with fewer are filled up with padding, drawn too: nobody
    looks at it.

    Attributes:
        real: the numbers of each row's patches in the grid.
        padding: the numbers of those that are none.
        count: how many are read of each row.
    """

    real: tuple[Tensor, ...]
    padding: tuple[Tensor, ...]
    count: int

    @classmethod
    def of(cls, real_BRC: Tensor, most: int | None) -> Drawing:
        """From which patches are real.

        Args:
            real_BRC: Shape: [B, rows, columns], on the host.
            most: how many are read at most.

        Raises:
            InputError: a picture has no patches.
        """
        flags_BN = real_BRC.flatten(1).numpy()
        rows, columns = (edges.numpy() for edges in extents(real_BRC))
        count = int((rows * columns).max())
        count = count if most is None else min(count, most)
        for number, flags in enumerate(flags_BN):
            if not flags.any() or not count:
                raise InputError("nothing is left of a picture", where=f"pixel_mask, row {number}", found="no patch")
        real, padding = (tuple(torch.from_numpy(np.flatnonzero(x)) for x in part) for part in (flags_BN, ~flags_BN))
        return cls(real, padding, count)

    def drawn(self) -> Tensor:
        """The numbers of the patches that are read. Shape: [B, count]."""
        picked = []
        for real, padding in zip(self.real, self.padding, strict=True):
            lacking = self.count - len(real)
            if lacking <= 0:
                picked.append(real[torch.multinomial(torch.ones(len(real)), self.count)])
            else:
                filler = torch.multinomial(torch.ones(len(padding)), lacking, replacement=True)
                picked.append(torch.cat((real, padding[filler])))
        return torch.stack(picked)


def along(lengths_B: Tensor, count: int, learned: int) -> Tensor:
    """Weights by which learned places along an edge make those of edges of other lengths, corners on corners.

    Args:
        lengths_B: how many patches the edges have; beyond, places are zeros.
        count: how many patches the longest has.
        learned: how many places are learned.

    Returns:
        Shape: [B, count, learned].
    """
    place = torch.arange(count, device=lengths_B.device)
    at = place * ((learned - 1) / (lengths_B - 1).clamp(min=1))[:, None]
    near = (1 - (at[..., None] - torch.arange(learned, device=at.device)).abs()).clamp(min=0)
    return near * (place < lengths_B[:, None])[..., None]


class OneStream(TextStack):
    """ViLT (https://arxiv.org/abs/2102.03334): token vectors and patches, one after another, through the same layers.

    Args:
        patches: pixels to patch vectors.
        class_token: a vector in front of the patches.
        places: of the class token, then of a grid of patches.
        grid: its rows and columns.
        modalities: marks words (0) and the pictures (1, 2...).
        most_patches: how many are read of a picture at most, by chance; None for all.
        image_dropout: on the patches, in training.
    """

    UNPADS: ClassVar[bool] = False
    patches: PatchStem
    class_token: ClassToken
    places_2d: Learned
    grid: Size
    modalities: nn.Embedding
    most_patches: int | None = None
    image_dropout: float = 0.0

    def arrive(self, inputs: dict[str, object]) -> None:
        text = {k: inputs[k] for k in inputs if k in ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids")}
        super().arrive(text)
        inputs.update(text)
        mask = inputs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() != 2:
            found = f"shape {list(mask.shape)}"
            raise InputError("words are masked one by one", where="attention_mask", expected="[B, T]", found=found)
        rows = cast(Tensor, text.get("inputs_embeds", text.get("input_ids"))).shape[0]
        check_seen(inputs, rows)
        pixels, seen = inputs.get("pixel_values"), inputs.get("pixel_mask")
        if isinstance(seen, Tensor):
            wanted = (rows, None, None) if pixels is not None else cast(Tensor, inputs["image_embeds"]).shape[:2]
            if seen.dim() < 2 or seen.shape[0] != rows or (pixels is None and seen.flatten(1).shape != wanted):
                found = f"shape {list(seen.shape)}"
                raise InputError("the mask does not cover the pictures", where="pixel_mask", found=found)
        if isinstance(pixels, Tensor):
            self.patches.check(pixels, any_size=True)
            grid = self.patches.patching.grid_of(*pixels.shape[2:])
            if isinstance(seen, Tensor) and is_all_true(seen):
                inputs["pixel_mask"] = seen = None
            index = inputs.get("patch_index")
            if index is not None:
                check_ids(cast(Tensor, index), grid[0] * grid[1], "patch_index")
            elif is_readable(pixels) or pixels.is_cuda:
                whole = torch.ones(rows, *grid, dtype=torch.bool)
                real = whole if seen is None else real_patches(cast(Tensor, seen), grid).cpu()
                inputs["patch_drawing"] = Drawing.of(real, self.most_patches)
        else:
            check_pictures_embedded(inputs.get("image_embeds"), self.width)

    def see(
        self, pixel_values: Tensor, pixel_mask: Tensor | None, index: Tensor | None, drawing: Drawing | None
    ) -> tuple[Tensor, Tensor | None]:
        """Pictures as the layers read them, the class token first, and which of it is no padding.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            pixel_mask: Shape: [B, height, width], 1 where pictures are; None for everywhere.
            index: which patches are read. Shape: [B, N]; None for those that are drawn.
            drawing: what is drawn from; None for all of them, in order.

        Returns:
            Shape: [B, 1 + N, D] and [B, 1 + N].
        """
        vectors = self.patches(pixel_values, any_size=True)
        height, width = pixel_values.shape[2:]
        rows, columns = self.patches.patching.grid_of(height, width)
        mask = None if pixel_mask is None else real_patches(pixel_mask, (rows, columns))
        device = vectors.device
        sizes = [torch.full((1,), n, device=device) for n in (rows, columns)] if mask is None else extents(mask)
        down, across = along(sizes[0], rows, self.grid[0]), along(sizes[1], columns, self.grid[1])
        first, learned = self.places_2d.weight[:1], self.places_2d.weight[1:].float()
        learned = learned.view(*self.grid, -1)
        placed = torch.einsum("brp,bcq,pqd->brcd", down, across, learned).flatten(1, 2).to(vectors.dtype)
        placed = placed.expand(vectors.shape[0], -1, -1)
        real = None if mask is None else mask.flatten(1)
        if index is None and drawing is not None:
            index = drawing.drawn().to(device)
        elif index is None and self.most_patches is not None and self.most_patches < rows * columns:
            odds = torch.rand(vectors.shape[:2], device=device)  # what is traced draws without looking
            index = (odds if real is None else odds + real).topk(self.most_patches, dim=1).indices
        if index is not None:
            spread = index[..., None].expand(-1, -1, vectors.shape[-1])
            vectors, placed = vectors.gather(1, spread), placed.gather(1, spread)
            real = None if real is None else real.gather(1, index)
        hidden = self.class_token(vectors) + torch.cat((first.expand(vectors.shape[0], 1, -1), placed), dim=1)
        hidden = F.dropout(hidden, self.image_dropout, self.training)
        return hidden, None if real is None else F.pad(real, (1, 0), value=True)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        image_token_type_idx: int | None = None,
        patch_index: Tensor | None = None,
        patch_drawing: Drawing | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of words and patches.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens.
            token_type_ids: Shape: [B, T]; 0 by default.
            pixel_values: Shape: [B, channels, height, width], of any size.
            pixel_mask: Shape: [B, height, width], 1 where pictures are and 0 in the padding; with ``image_embeds`` one
                for each of these.
            inputs_embeds: Shape: [B, T, D], instead of ``input_ids``.
            image_embeds: Shape: [B, N, D], patches in their places, instead of ``pixel_values``.
            image_token_type_idx: what marks the picture; 1 by default.
            patch_index: which patches are read, by their numbers in the grid, Shape: [B, N]; by default drawn from
                torch's generator when a call arrives, as the reference does: all of them, in an order by chance.
            patch_drawing: what they are drawn from; told when a call arrives.
            given: see :class:`~omniform.core.context.Tapped`.

        Returns:
            ``last_hidden_state`` with the words first, Shape: [B, T + 1 + N, D], the patches in the order in which they
            were drawn.

        Raises:
            InputError: ids outside the vocabulary, no pictures, or not one for each row of words.
        """
        embeds = self.vectors(input_ids, {"inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids})
        text = self.embeddings(embeds, self.step(embeds))
        if image_embeds is None:
            assert pixel_values is not None, "calls are checked when they arrive"
            image_embeds, real = self.see(pixel_values, pixel_mask, patch_index, patch_drawing)
        else:
            real = None if pixel_mask is None else pixel_mask.flatten(1).bool()
        marks = torch.tensor([0, 1 if image_token_type_idx is None else image_token_type_idx], device=text.device)
        words, picture = self.modalities(marks)
        x = torch.cat((text + words, image_embeds + picture), dim=1)
        mask = None
        if attention_mask is not None or real is not None:
            known = [
                torch.ones(part.shape[:2], dtype=torch.bool, device=x.device) if flags is None else flags.bool()
                for part, flags in ((text, attention_mask), (image_embeds, real))
            ]
            mask = torch.cat(known, dim=1)
        ctx = self.step(x, given, attention_mask=mask)
        hidden = run(self.layers, x, ctx)
        assert self.norm is not None
        hidden = self.norm(hidden)
        pooled = None if self.pooler is None else self.pooler(hidden, None)
        return BaseModelOutput(last_hidden_state=hidden, pooler_output=pooled, **ctx.taps.noted())


def check_pictures_embedded(embeds: object, width: int) -> None:
    """Raise :class:`InputError` unless these are vectors of pictures, of that width."""
    fits = isinstance(embeds, Tensor) and embeds.is_floating_point() and embeds.dim() == 3 and embeds.shape[2] == width
    if not fits:
        found = f"shape {list(embeds.shape)}" if isinstance(embeds, Tensor) else type(embeds).__name__
        raise InputError(
            "vectors do not fit the model", where="image_embeds", expected=f"[batch, patches, {width}]", found=found
        )


def words_of(args: Sequence[Tensor | None], inputs: Mapping[str, object]) -> int:
    """How many words a call's rows have."""
    tokens = (*args[:1], inputs.get("input_ids"), inputs.get("inputs_embeds"))
    return next(x for x in tokens if isinstance(x, Tensor)).shape[1]


class OneStreamMaskedLM(Filling):
    """Masked words filled in by who sees the picture."""

    model: OneStream

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> MaskedLMOutput:
        """Scores of every token at every place of the words; see :meth:`OneStream.forward` for the inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own labels.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        logits = self.lm_head(out.last_hidden_state[:, : words_of(args, inputs)])
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits, **out.noted())


class OneStreamTokenClassifier(TokenClassifier):
    """One class per word."""

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Class scores of every word; see :meth:`OneStream.forward` for the inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own labels.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        hidden = self.dropped(out.last_hidden_state)
        logits = self.classifier(hidden[:, : words_of(args, inputs)])
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **out.noted())


class PictureAnswerer(Head):
    """Which of many known answers fit a question about a picture."""

    classifier: nn.Sequential

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Chances()}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return labels.shape[0] if isinstance(labels, Tensor) else None

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Scores of answers, Shape: [B, C]; see :meth:`OneStream.forward` for the inputs.

        Args:
            labels: how well each answer fits, 0 to 1, Shape: [B, C]; gives a loss: the answers' binary cross-entropies,
                summed, their mean over rows (https://arxiv.org/abs/1707.07998).
            num_items_in_batch: what the loss's sum over rows is divided by, if not this batch's own rows.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        logits = self.classifier(out.pooler_output)
        loss = None
        if labels is not None:
            check_shape("labels do not match the scores", labels.shape, logits.shape, where="labels")
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits)) * labels.shape[1]
            if num_items_in_batch is not None:
                loss = divided(loss * len(logits), num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **out.noted())


class PictureRanker(Head):
    """How well a text fits a picture."""

    rank_output: nn.Linear

    def forward(self, *args: Tensor | None, labels: Tensor | None = None, **inputs: object) -> ClassifierOutput:
        """A score of each pair, Shape: [B, 1]; see :meth:`OneStream.forward` for the inputs.

        Args:
            labels: not known: ViLT's ranking is taught by comparing pairs, and has no loss of single ones.
        """
        if labels is not None:
            raise InputError("a ranking has no labels", where="labels", expected="None", found="a tensor")
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        return ClassifierOutput(logits=self.rank_output(out.pooler_output), **out.noted())


class PictureComparer(Head):
    """One class for a text and several pictures (NLVR2).

    Args:
        classifier: from their vectors, side by side, to scores.
        pictures: how many there are.
    """

    classifier: nn.Sequential
    pictures: int

    def targets(self) -> Mapping[str, Targets]:
        last = self.classifier[-1]
        return {"labels": Classes(last.out_features if isinstance(last, nn.Linear) else None)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor | None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> SeveralScores:
        """Class scores, Shape: [B, C]; see :meth:`OneStream.forward` for the other inputs.

        Args:
            pixel_values: Shape: [B, pictures, channels, height, width].
            pixel_mask: Shape: [B, pictures, height, width].
            image_embeds: Shape: [B, pictures, N, D], instead of ``pixel_values``.
            labels: Shape: [B]; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own rows.
        """
        seen = self._several(pixel_values, image_embeds)
        name = "pixel_values" if image_embeds is None else "image_embeds"
        outs = []
        for i in range(self.pictures):
            mask = None if pixel_mask is None else pixel_mask[:, i]
            one = {name: seen[:, i], "pixel_mask": mask, "image_token_type_idx": i + 1}
            outs.append(cast(BaseModelOutput, self.model(*args, **inputs, **one)))
        logits = self.classifier(torch.cat([cast(Tensor, out.pooler_output) for out in outs], dim=-1))
        loss = None if labels is None else row_loss(logits, labels, items=num_items_in_batch)
        hidden = [out.hidden_states for out in outs if out.hidden_states is not None]
        seen_by = [out.attentions for out in outs if out.attentions is not None]
        return SeveralScores(loss=loss, logits=logits, hidden_states=hidden or None, attentions=seen_by or None)

    def _several(self, pixels: Tensor | None, embeds: Tensor | None) -> Tensor:
        """The pictures, with an axis for their number."""
        given, single = (pixels, 4) if embeds is None else (embeds, 3)
        if given is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        given = given[:, None] if given.dim() == single else given
        if given.dim() != single + 1 or given.shape[1] != self.pictures:
            raise InputError(
                "the model compares another number of pictures",
                where="pixel_values" if embeds is None else "image_embeds",
                expected=f"{self.pictures} for each text",
                found=f"shape {list(given.shape)}",
            )
        return given
