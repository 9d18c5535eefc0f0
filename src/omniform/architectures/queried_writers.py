"""What writes of all that reads pictures by queries: a decoder or an encoder-decoder, through the one engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.encoder_decoder import Seq2SeqLM
from omniform.architectures.fusion import NOTHING, Medium, Multimodal
from omniform.architectures.generative import Generative
from omniform.architectures.queried import (
    INSTRUCTION,
    PICTURES,
    TAPPED,
    Instructed,
    Queried,
    QueriedBoth,
    QueriedDecoder,
)
from omniform.core.batch import Facts, Item, Span
from omniform.core.context import Memory, Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import ModelOutput
from omniform.core.picture_outputs import QueriedFeatures, QueriedTextOutput

TOKENS = ("eos_token_id", "pad_token_id", "decoder_start_token_id")


class QueriedWriter(Queried, Generative):
    """Base of those that write. What is asked to be shown is shown of the language model alone."""

    @property
    def fixed_settings(self) -> Mapping[str, object]:
        part = self.config.get_text_config()
        return {name: part.get(name) for name in TOKENS if part.get(name) is not None}

    @property
    def decoder(self) -> TextDecoder:
        assert isinstance(self.language_model, Generative), "whoever builds it sees to that"
        stack = self.language_model.decoder
        assert isinstance(stack, TextDecoder), "likewise"
        return stack

    def shown(self, given: Mapping[str, object]) -> Tapped:
        return {}

    def get_image_features(
        self, pixel_values: Tensor, *, interpolate_pos_encoding: bool | None = False, **given: object
    ) -> QueriedFeatures:
        """The tower's output, with pictures' vectors as the language model reads them in ``pooler_output``.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            interpolate_pos_encoding: take pictures of another size than the model's own.
            given: the instruction, of a model whose queries read one; and what is to be shown of the tower.
        """
        asked = cast(Tapped, {name: given[name] for name in TAPPED if name in given})
        return self.seen(pixel_values, bool(interpolate_pos_encoding), given, asked, {})

    def project(self, hidden: Tensor) -> Tensor:
        return cast(Generative, self.language_model).project(hidden)

    def stand(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return cast(Generative, self.language_model).stand(input_ids, positions)

    def embed(self, input_ids: Tensor) -> Tensor:
        return cast(Generative, self.language_model).embed(input_ids)

    def read_inputs(self, named: Mapping[str, object]) -> dict[str, object]:
        """Where there is no text, one begins."""
        found = dict(named)
        pictures = found.get(PICTURES)
        if not isinstance(pictures, Tensor):
            return found
        self.vision_model.patches.check(pictures, bool(found.pop("interpolate_pos_encoding", None)))
        self.check_instruction(found, len(pictures))
        if found.get("input_ids") is None and found.get("inputs_embeds") is None:
            if self.start is None:
                raise InputError("nobody says which token a text begins with", where="input_ids", found="None")
            start = torch.full((len(pictures), 1), self.start)
            places = 0 if self.image_token_id is None else self.queries
            found["input_ids"] = F.pad(start, (places, 0), value=self.image_token_id or 0)
        return found

    def replayed(self, **inputs: object) -> ModelOutput:
        out = cast(QueriedTextOutput, self(**inputs))
        assert out.language_model_outputs is not None
        return out.language_model_outputs


@dataclass(frozen=True, kw_only=True)
class QueriedPictures(Medium):
    """Pictures of one size, each as many vectors as there are queries, with an instruction where there is one.

    Attributes:
        model: whose tower and queries.
    """

    model: QueriedWriter

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        return [()] * len(inputs[PICTURES])

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [self.model.queries] * len(facts)

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        found = self.model.seen(inputs[PICTURES], True, inputs, {}, {})
        return cast(Tensor, found.pooler_output).flatten(0, 1)

    def join(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """The inputs of several items; instructions of several lengths are filled up behind."""
        held = [item.inputs for item in items]
        joined = {PICTURES: torch.cat([one[PICTURES] for one in held])}
        ids, mask = INSTRUCTION
        if ids in held[0]:
            longest = max(one[ids].shape[1] for one in held)
            masks = [one.get(mask, torch.ones_like(one[ids])) for one in held]
            joined[ids] = torch.cat([F.pad(one[ids], (0, longest - one[ids].shape[1])) for one in held])
            joined[mask] = torch.cat([F.pad(one, (0, longest - one.shape[1])) for one in masks])
        return joined


class QueriedDecoderLM(QueriedWriter, QueriedDecoder, Multimodal):  # type: ignore[misc] # another kind of language_model
    """A decoder that writes on from texts with pictures in front."""

    padded_within: ClassVar[bool] = True

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        token = -1 if self.image_token_id is None else self.image_token_id
        return (QueriedPictures(modality="image", token_id=token, inputs=(PICTURES, *self.INSTRUCTION), model=self),)

    def read_inputs(self, named: Mapping[str, object]) -> dict[str, object]:
        found = super().read_inputs(named)
        pictures, ids, mask = found.get(PICTURES), found.get("input_ids"), found.get("attention_mask")
        if self.image_token_id is not None or not isinstance(pictures, Tensor):
            return found
        if isinstance(ids, Tensor):
            found["input_ids"] = F.pad(ids, (self.queries, 0), value=self.fill)
            if isinstance(mask, Tensor):
                found["attention_mask"] = F.pad(mask, (self.queries, 0), value=1)
        elif isinstance(ids, (list, tuple)):
            found["input_ids"] = [[*[self.fill] * self.queries, *row] for row in ids]
        return found

    def replayed(self, **inputs: object) -> ModelOutput:
        if self.image_token_id is None:
            for name in ("input_ids", "attention_mask"):
                if isinstance(given := inputs.get(name), Tensor):
                    inputs[name] = given[:, self.queries :]
            inputs.pop("position_ids", None)
        return super().replayed(**inputs)

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        if self.image_token_id is not None or not features:
            return super().items(rows, features)
        items = self.media()[0].cut(features)
        if len(items) != len(rows):
            raise InputError("one picture for each text", where=PICTURES, expected=len(rows), found=len(items))
        return [[item] for item in items]

    def spans(self, row: Sequence[int], items: Sequence[Item], lengths: Sequence[int]) -> list[Span]:
        if self.image_token_id is not None or not items:
            return super().spans(row, items, lengths)
        return [Span("image", 0, 0, self.queries, 0)]

    def given_back(self, prompt: Tensor, written: Tensor, ends: Sequence[int], pad: int) -> Tensor:
        shown = prompt if self.image_token_id is not None else prompt[:, self.queries :]
        return super().given_back(shown, written, ends, pad)


class QueriedSeq2SeqLM(QueriedWriter, QueriedBoth):
    """An encoder-decoder that reads texts with pictures in front, and writes."""

    @property
    def encoder_inputs(self) -> frozenset[str]:  # type: ignore[override] # by whether there is an instruction
        return frozenset(
            {"input_ids", "attention_mask", "inputs_embeds", "encoder_outputs", PICTURES, *self.INSTRUCTION}
        )

    @property
    def writer(self) -> Seq2SeqLM:
        """The encoder-decoder."""
        assert isinstance(self.language_model, Seq2SeqLM), "whoever builds it sees to that"
        return self.language_model

    @property
    def start_token_id(self) -> int | None:
        return self.writer.start_token_id

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """See :meth:`Seq2SeqLM.prepare_decoder_input_ids_from_labels`."""
        return self.writer.shift(labels)

    def encode(self, **inputs: Tensor) -> Memory:
        if "encoder_outputs" in inputs:
            return self.writer.encode(**inputs)
        pictures, mask, found = inputs.get(PICTURES), inputs.get("attention_mask"), None
        if pictures is not None:
            found = cast(Tensor, self.seen(pictures, True, inputs, {}, {}).pooler_output)
        embeds = self.vectors(inputs.get("input_ids"), inputs.get("inputs_embeds"), found)
        whole = self.led(mask, found)
        masked = {} if whole is None else {"attention_mask": whole}
        return self.writer.encode(inputs_embeds=embeds, **masked)


class InstructedDecoderLM(Instructed, QueriedDecoderLM):  # type: ignore[misc] # as the other
    """InstructBLIP over a decoder that writes."""


class InstructedSeq2SeqLM(Instructed, QueriedSeq2SeqLM):
    """InstructBLIP over an encoder-decoder that writes."""
