"""Words and regions of pictures: what a detector found, as vectors and boxes, beside what is said of it (LXMERT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack, cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.heads import Head
from omniform.architectures.labels import Classes, Targets
from omniform.architectures.losses import row_loss, scored, token_loss
from omniform.architectures.model import Model, arrive_masked
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.stack import TextStack
from omniform.blocks.attention import CrossAttention
from omniform.blocks.composed import Composed
from omniform.blocks.embeddings import table_rows
from omniform.blocks.layers import Layer, PostNorm, passed
from omniform.blocks.mlp import activation
from omniform.blocks.poolers import DensePooler
from omniform.core.context import Memory, StepContext, Tapped, Taps
from omniform.core.errors import InputError, check_shape
from omniform.core.fused_outputs import RegionAnswerOutput, RegionModelOutput, RegionPreTrainingOutput

Pair = tuple[Tensor, Tensor]
"""Words and regions."""


class RegionStem(Composed):
    """What a region is, and where: the mean of both, each projected and normed.

    Args:
        feats: from what the detector saw.
        feats_norm: after it.
        boxes: from the box.
        boxes_norm: after it.
        dropout: on the mean, in training.
    """

    feats: nn.Linear
    feats_norm: nn.Module
    boxes: nn.Linear
    boxes_norm: nn.Module
    dropout: float

    def forward(self, feats_BRF: Tensor, boxes_BRP: Tensor) -> Tensor:
        """Shape: [B, R, F] and [B, R, P] to [B, R, D]."""
        seen = self.feats_norm(self.feats(feats_BRF.to(self.feats.weight.dtype)))
        placed = self.boxes_norm(self.boxes(boxes_BRP.to(self.boxes.weight.dtype)))
        return F.dropout((seen + placed) / 2, self.dropout, self.training)


class Exchange(Layer):
    """Words look at regions and regions at words, by the same attention; then each at its own kind.

    Args:
        cross_attn: looks both ways.
        cross_attn_layer_norm: after either.
        text: a layer of the words.
        regions: a layer of the regions.
    """

    cross_attn: CrossAttention
    cross_attn_layer_norm: nn.Module
    text: PostNorm
    regions: PostNorm

    def forward(self, text_BTD: Tensor, seen_BRD: Tensor, of_text: StepContext, of_seen: StepContext) -> Pair:
        """One exchange.

        Args:
            text_BTD: Shape: [B, T, D].
            seen_BRD: Shape: [B, R, D].
            of_text: a step over the words; its taps note how these look at regions.
            of_seen: a step over the regions.

        Returns:
            Both, in their shapes.
        """
        at_seen = of_text.with_(memory=Memory(seen_BRD, of_seen.padding))
        at_text = of_seen.with_(memory=Memory(text_BTD, of_text.padding))
        text = self.cross_attn_layer_norm(self.add(text_BTD, self.cross_attn(text_BTD, at_seen), at_seen))
        seen = self.cross_attn_layer_norm(self.add(seen_BRD, self.cross_attn(seen_BRD, at_text), at_text))
        # By turns, as the reference draws what it drops.
        alone = of_text.with_(taps=Taps())
        text, seen = looked(self.text, text, alone), looked(self.regions, seen, of_seen)
        return thought(self.text, text, alone), thought(self.regions, seen, of_seen)


def looked(layer: PostNorm, x_BTD: Tensor, ctx: StepContext) -> Tensor:
    """The first half of a layer. Shape: [B, T, D] in and out."""
    normed: Tensor = layer.self_attn_layer_norm(layer.add(x_BTD, layer.self_attn(x_BTD, ctx), ctx))
    return normed


def thought(layer: PostNorm, x_BTD: Tensor, ctx: StepContext) -> Tensor:
    """The second half. Shape: [B, T, D] in and out."""
    normed: Tensor = layer.final_layer_norm(layer.add(x_BTD, layer.mlp(x_BTD), ctx))
    return normed


class RegionReader(Model):
    """LXMERT (https://arxiv.org/abs/1908.07490): words alone, regions alone, then both.

    Args:
        text_model: the words' table, embeddings and layers.
        stem: what regions begin as.
        region_layers: over regions alone.
        cross_layers: where both meet.
        pooler: the words' hidden states to one vector per row.
    """

    text_model: TextStack
    stem: RegionStem
    region_layers: nn.ModuleList
    cross_layers: nn.ModuleList
    pooler: DensePooler

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embed_tokens

    def arrive(self, inputs: dict[str, object]) -> None:
        text = {k: v for k, v in inputs.items() if k in OF_TEXT}
        self.text_model.arrive(text)
        inputs.update(text)
        rows = cast(Tensor, text.get("inputs_embeds", text.get("input_ids"))).shape[0]
        regions = check_regions(inputs.get("visual_feats"), "visual_feats", rows, None, self.stem.feats.in_features)
        check_regions(inputs.get("visual_pos"), "visual_pos", rows, regions, self.stem.boxes.in_features)
        for name in ("attention_mask", "visual_attention_mask"):
            mask = inputs.get(name)
            if isinstance(mask, Tensor) and mask.dim() != 2:
                found = f"shape {list(mask.shape)}"
                raise InputError("what is looked at is masked one by one", where=name, expected="2 axes", found=found)
        masked = {"attention_mask": inputs.get("visual_attention_mask")}
        arrive_masked(masked, rows=rows, new=regions)
        if inputs.get("visual_attention_mask") is not None:
            inputs["visual_attention_mask"] = masked["attention_mask"]

    def forward(
        self,
        input_ids: Tensor | None = None,
        visual_feats: Tensor | None = None,
        visual_pos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> RegionModelOutput:
        """Words and regions that have looked at one another.

        Args:
            input_ids: Shape: [B, T].
            visual_feats: what a detector saw in each region, Shape: [B, R, F].
            visual_pos: the regions' boxes, from 0 to 1, Shape: [B, R, 4].
            attention_mask: Shape: [B, T], 1 for real tokens.
            visual_attention_mask: Shape: [B, R], 1 for real regions.
            token_type_ids: Shape: [B, T]; 0 by default.
            inputs_embeds: Shape: [B, T, D], instead of ``input_ids``.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: ids outside the vocabulary; no regions, or of other shapes than the model reads.
        """
        assert visual_feats is not None and visual_pos is not None, "calls are checked when they arrive"
        embeds = self.text_model.vectors(input_ids, {"inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids})
        of_text = self.text_model.step(embeds, given, attention_mask=attention_mask)
        text, seen = self.text_model.embeddings(embeds, of_text), self.stem(visual_feats, visual_pos)
        of_seen = self.text_model.step(seen, given, attention_mask=visual_attention_mask)
        words, regions, met = of_text.taps, of_seen.taps, Taps(given)
        for number, layer in enumerate(self.text_model.layers):
            text = passed(layer, number, text, of_text)
            words.hidden(text)
        for number, layer in enumerate(self.region_layers):
            seen = passed(layer, number, seen, of_seen)
            regions.hidden(seen)
        at_seen, at_text = of_text.with_(taps=met), of_seen.with_(taps=Taps())
        for layer in self.cross_layers:
            text, seen = layer(text, seen, at_seen, at_text)
            words.hidden(text)
            regions.hidden(seen)
        return RegionModelOutput(
            language_output=text,
            vision_output=seen,
            pooled_output=self.pooler(text),
            language_hidden_states=words.hidden_or_none,
            vision_hidden_states=regions.hidden_or_none,
            language_attentions=words.attentions_or_none,
            vision_attentions=regions.attentions_or_none,
            cross_encoder_attentions=met.cross_or_none,
        )


OF_TEXT = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids")
"""What the words' part is given."""


def check_regions(given: object, name: str, rows: int, regions: int | None, width: int) -> int:
    """How many regions there are in each row.

    Args:
        given: what came.
        regions: how many there must be; None for at least one.
        width: of what stands for each.

    Raises:
        InputError: it is no such tensor.
    """
    shape = list(given.shape) if isinstance(given, Tensor) and given.is_floating_point() else []
    fits = len(shape) == 3 and [shape[0], shape[2]] == [rows, width] and shape[1] > 0
    if not fits or regions not in (None, shape[1]):
        many = "regions" if regions is None else regions
        kind = f"{given.dtype} of shape {list(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise InputError(
            "the regions do not fit the model",
            where=name,
            expected=f"floating-point numbers of shape [{rows}, {many}, {width}]",
            found=kind,
            remedy="They come from a detector, which is no part of the model." if given is None else None,
        )
    return shape[1]


class RegionAnswerer(Head):
    """One of many known answers to a question about a picture."""

    model: RegionReader
    answer_head: nn.Sequential

    @property
    def answers(self) -> int:
        """How many there are."""
        last = self.answer_head[-1]
        assert isinstance(last, nn.Linear)
        return last.out_features

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.answers)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> RegionAnswerOutput:
        """Scores of answers; see :meth:`RegionReader.forward` for the inputs.

        Args:
            labels: the answers' numbers, Shape: [B]; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own rows.
        """
        out = cast(RegionModelOutput, self.model(*args, **inputs))
        scores = self.answer_head(out.pooled_output)
        loss = None if labels is None else row_loss(scores, labels, items=num_items_in_batch)
        return RegionAnswerOutput(loss=loss, question_answering_score=scores, **out.noted())


class ObjectHead(Composed):
    """What each hidden region is: which object, with which attributes, and what the detector saw of it.

    Args:
        dense: a projection.
        act: name of the activation after it.
        layer_norm: after that.
        decoder_dict: scores by what is told: ``obj``, ``attr``, ``feat``.
        weight: of each loss.
    """

    dense: nn.Linear
    act: str
    layer_norm: nn.Module
    decoder_dict: nn.ModuleDict
    weight: float

    def check(self, labels: object) -> None:
        """Raise :class:`InputError` unless there are labels of everything that is told, each with its shares."""
        wanted = ", ".join(self.decoder_dict)
        if not isinstance(labels, Mapping) or not self.decoder_dict.keys() <= labels.keys():
            found = ", ".join(map(str, labels)) if isinstance(labels, Mapping) else type(labels).__name__
            raise InputError("labels of regions are pairs by name", where="obj_labels", expected=wanted, found=found)
        for name, decoder in self.decoder_dict.items():
            where, pair = f"obj_labels: {name}", labels[name]
            if not isinstance(pair, (tuple, list)) or [isinstance(x, Tensor) for x in pair] != [True, True]:
                raise InputError("a label and how much it counts", where=where, expected="two tensors")
            if name != "feat":
                assert isinstance(decoder, nn.Linear)
                Classes(decoder.out_features).check(where, pair[0], {})

    def loss(self, hidden_BRD: Tensor, labels: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """How far it is from labels, each with how much it counts.

        Args:
            hidden_BRD: Shape: [B, R, D].
            labels: by what is told: classes, Shape: [B, R], or for ``feat`` numbers, Shape: [B, R, F]; and shares,
                Shape: [B, R].

        Raises:
            InputError: one does not fit the regions.
        """
        hidden: Tensor = self.layer_norm(activation(self.act)(self.dense(hidden_BRD)))
        total = hidden.new_zeros(())
        for name, decoder in self.decoder_dict.items():
            scores, (label, share) = decoder(hidden), labels[name]
            where = f"obj_labels: {name}"
            told = scores.shape if name == "feat" else scores.shape[:-1]
            check_shape("labels do not match the regions", label.shape, told, where=where)
            if name == "feat":
                losses = F.smooth_l1_loss(scores, label, reduction="none").mean(-1)
            else:
                losses = F.cross_entropy(scores.flatten(0, 1), label.flatten(), reduction="none").view_as(share)
            total = total + (losses * share).mean() * self.weight
        return total


class RegionPreTraining(Head):
    """LXMERT's pre-training: masked words, masked regions, whether both belong together, and questions.

    Args:
        lm_head: scores masked words.
        seq_relationship: whether text and picture belong together.
        obj_predict_head: what hidden regions are; None where that is no task.
        answer_head: scores answers; None where that is no task.
        words: whether masked words count in the loss.
        matched: whether belonging together does.
    """

    model: RegionReader
    lm_head: ScoringHead
    seq_relationship: nn.Linear
    obj_predict_head: ObjectHead | None = None
    answer_head: nn.Sequential | None = None
    words: bool
    matched: bool

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def arrive(self, inputs: dict[str, object]) -> None:
        if self.obj_predict_head is not None and inputs.get("obj_labels") is not None:
            self.obj_predict_head.check(inputs["obj_labels"])

    def targets(self) -> Mapping[str, Targets]:
        last = None if self.answer_head is None else self.answer_head[-1]
        answers = last.out_features if isinstance(last, nn.Linear) else None
        words = table_rows(self.model.text_model.embed_tokens)
        return {"labels": Classes(words), "matched_label": Classes(2), "ans": Classes(answers)}

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        obj_labels: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        matched_label: Tensor | None = None,
        ans: Tensor | None = None,
        **inputs: object,
    ) -> RegionPreTrainingOutput:
        """Scores of all tasks; see :meth:`RegionReader.forward` for the inputs.

        Args:
            labels: masked words, Shape: [B, T], ``-100`` to leave out.
            obj_labels: see :meth:`ObjectHead.loss`.
            matched_label: Shape: [B], 1 where text and picture belong together.
            ans: answers, Shape: [B]. The loss is the sum over the tasks that have labels.
        """
        out = cast(RegionModelOutput, self.model(*args, **inputs))
        pooled = out.pooled_output
        words, relation = self.lm_head(out.language_output), self.seq_relationship(pooled)
        # Without the task the reference gives back one number of the pooled vector.
        answers = pooled[0][0] if self.answer_head is None else self.answer_head(pooled)
        loss = None
        if any(x is not None for x in (labels, obj_labels, matched_label, ans)):
            loss = pooled.new_zeros(())
            if labels is not None and self.words:
                loss = loss + token_loss(words, labels)
            if matched_label is not None and self.matched:
                loss = loss + row_loss(relation, matched_label, "matched_label")
            if obj_labels is not None and self.obj_predict_head is not None:
                loss = loss + self.obj_predict_head.loss(out.vision_output, obj_labels)
            if ans is not None and self.answer_head is not None:
                loss = loss + row_loss(answers, ans, "ans")
        return RegionPreTrainingOutput(
            loss=loss,
            prediction_logits=words,
            cross_relationship_score=relation,
            question_answering_score=answers,
            **out.noted(),
        )
