"""Encoder-decoders whose encoder reads pictures among its text: the decoder, and all that writes, is as ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from omniform.architectures.biased_seq2seq import ApartOfThree, TaughtSeq2SeqLM
from omniform.architectures.decoder import TextDecoder
from omniform.architectures.encoder_decoder import OF_THE_CALL, EncoderDecoder, EncoderOutputs, MemoryEncoder
from omniform.architectures.model import Model
from omniform.architectures.packing import NAMES
from omniform.blocks.embeddings import check_ids, table_rows
from omniform.core.context import Memory
from omniform.core.errors import InputError
from omniform.core.host import is_readable
from omniform.core.outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from omniform.core.spans import find_spans
from omniform.core.state import DenseState

PICTURES = "pixel_values"
READ = ("input_ids", "inputs_embeds")


class MapReader(Protocol):
    """A connector of maps, as far as this skeleton knows it."""

    def length(self, height: int, width: int) -> int:
        """How many vectors stand for a map of so many rows and columns."""
        ...


class MapTower(Protocol):
    """A vision tower that gives maps, as far as this skeleton knows it."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the map of such a picture."""
        ...


class SeeingEncoderDecoder(Model):
    """A vision tower, a projector and an encoder-decoder of text; hidden states out.

    Args:
        vision_tower: encodes pictures.
        multi_modal_projector: maps to vectors of the encoder's width.
        language_model: reads text with pictures in it, and is asked about it.
        image_token_id: the placeholder in the encoder's text.
        start: what the decoder reads where a caller gives it nothing.
    """

    vision_tower: Model
    multi_modal_projector: nn.Module
    language_model: EncoderDecoder
    image_token_id: int
    start: int | None

    @property
    def encoder(self) -> MemoryEncoder:
        """What reads text and pictures' vectors."""
        return self.language_model.encoder

    @property
    def decoder(self) -> TextDecoder:
        """What writes."""
        return self.language_model.decoder

    def keeper(self) -> TextDecoder:
        return self.decoder

    def accepts(self) -> frozenset[str]:
        return super().accepts() | self.language_model.accepts()

    def unpads(self) -> bool:
        return self.language_model.unpads()

    def get_input_embeddings(self) -> nn.Module:
        # Where sides have tables of their own, the text that pictures stand in is of the third one.
        inner = self.language_model
        return inner.shared if isinstance(inner, ApartOfThree) else inner.get_input_embeddings()

    def token_tables(self) -> list[nn.Embedding]:
        return self.language_model.token_tables()

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutput:
        """The tower's output; its ``pooler_output`` are the vectors that stand in the text, Shape: [N, length, D].

        Args:
            pixel_values: Shape: [N, channels, height, width].
        """
        out = cast(BaseModelOutput, self.vision_tower(pixel_values))
        out.pooler_output = self.multi_modal_projector(out.last_hidden_state)
        return out

    def vectors(self, input_ids: Tensor | None, pixel_values: Tensor | None, embeds: Tensor | None) -> Tensor:
        """What the encoder reads: token vectors with the pictures in their places. Shape: [B, T, D].

        Args:
            embeds: token vectors, where the caller gives them; placeholders are found by the placeholder's own vector.
        """
        table = self.get_input_embeddings()
        if embeds is None:
            assert input_ids is not None, "calls are checked when they arrive"
            embeds = cast(Tensor, table(input_ids))
        if pixel_values is None:
            return embeds
        features = cast(Tensor, self.get_image_features(pixel_values).pooler_output)
        if input_ids is None:
            token = cast(Tensor, table(torch.tensor(self.image_token_id, device=embeds.device)))
            marked = (embeds == token).all(-1)
        else:
            marked = input_ids == self.image_token_id
        return embeds.masked_scatter(marked[..., None], features.to(embeds))

    def length(self, pixel_values: Tensor) -> int:
        """How many tokens each of some pictures stands for."""
        tower, projector = cast(MapTower, self.vision_tower), cast(MapReader, self.multi_modal_projector)
        return projector.length(*tower.grid(*pixel_values.shape[2:]))

    def encode(self, **inputs: Tensor) -> Memory:
        """The memory of one request, from the encoder's inputs."""
        embeds = self.vectors(inputs.get("input_ids"), inputs.get(PICTURES), inputs.get("inputs_embeds"))
        mask = {name: value for name, value in inputs.items() if name == "attention_mask"}
        return self.encoder.encode(inputs_embeds=embeds, **mask)

    def by_row(self, features: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """An encoder's inputs row by row, each with its pictures.

        Raises:
            InputError: pictures and placeholders do not match.
        """
        pictures, ids = features.get(PICTURES), features.get("input_ids")
        rest = {name: value for name, value in features.items() if name != PICTURES}
        count = next(iter(rest.values())).shape[0]
        rows = [{name: value[i : i + 1] for name, value in rest.items()} for i in range(count)]
        if pictures is None:
            return rows
        if ids is None:
            return [{**row, PICTURES: pictures[i : i + 1]} for i, row in enumerate(rows)]
        self.vision_tower.arrive({self.vision_tower.main_input: pictures})
        own: list[list[int]] = [[] for _ in rows]
        for span in find_spans(ids, self.image_token_id, [self.length(pictures)] * len(pictures), "image"):
            own[span.row].append(span.item)
        return [{**row, PICTURES: pictures[its]} if its else row for row, its in zip(rows, own, strict=True)]

    def begun(self, inputs: Mapping[str, object]) -> Tensor:
        """What the decoder reads where it is given nothing: its first token. Shape: [B, 1]."""
        given = next(
            (inputs[name] for name in (*READ, "encoder_outputs") if inputs.get(name) is not None),
            None,
        )
        if isinstance(given, Mapping):
            given = given["last_hidden_state"]
        rows = given if isinstance(given, Tensor) else cast("tuple[Tensor, ...]", given)[0]
        if self.start is None:
            raise InputError("the decoder needs a beginning", where="decoder_input_ids", found="neither")
        return torch.full((rows.shape[0], 1), self.start, device=rows.device)

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, embeds, pictures = inputs.get("input_ids"), inputs.get("inputs_embeds"), inputs.get(PICTURES)
        if inputs.get("encoder_outputs") is None:
            if (ids is None) == (embeds is None):
                found = "neither" if ids is None else "both"
                raise InputError("the encoder needs a text", where="input_ids", expected="ids or vectors", found=found)
            if isinstance(pictures, Tensor):
                self.vision_tower.arrive({self.vision_tower.main_input: pictures})
            if isinstance(ids, Tensor):
                check_ids(ids, table_rows(self.get_input_embeddings()))
                lengths = [self.length(pictures)] * len(pictures) if isinstance(pictures, Tensor) else []
                # A text without pictures may hold the placeholder: it is then a token like any other.
                if lengths and (is_readable(ids) or ids.device.type not in ("cpu", "meta")):
                    find_spans(ids, self.image_token_id, lengths, "image")
        own = {name: value for name, value in inputs.items() if name != PICTURES}
        if all(inputs.get(f"decoder_{name}") is None for name in READ):
            own["decoder_input_ids"] = self.begun(inputs)
        self.language_model.arrive(own)
        for name in ("attention_mask", "decoder_input_ids", "decoder_attention_mask"):
            if name in own:
                inputs[name] = own[name]

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        **given: object,
    ) -> Seq2SeqModelOutput:
        """The decoder's hidden states and the encoder's; see :meth:`EncoderDecoder.forward`.

        Args:
            input_ids: the encoder's text, with a placeholder for each vector of a picture. Shape: [B, S].
            pixel_values: every picture of the batch in reading order. Shape: [N, channels, height, width].
            decoder_input_ids: Shape: [B, T]; the first token of an answer, where nothing is given.
        """
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "encoder_outputs": encoder_outputs}
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.begun(inputs)
        if encoder_outputs is None:
            given["inputs_embeds"] = self.vectors(input_ids, pixel_values, inputs_embeds)
        return self.language_model.forward(
            None,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            past_key_values,
            decoder_inputs_embeds=decoder_inputs_embeds,
            **given,  # type: ignore[arg-type] # the rest of the same call
        )


class SeeingSeq2SeqLM(TaughtSeq2SeqLM):
    """An encoder-decoder that reads pictures and writes."""

    model: SeeingEncoderDecoder  # type: ignore[assignment] # has an encoder-decoder's parts at other paths

    def __post_init__(self) -> None:
        super().__post_init__()
        self.encoder_inputs = self.model.encoder.accepts() - NAMES - OF_THE_CALL | {PICTURES}

    def forward(  # type: ignore[override] # pictures come behind the text
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        **inputs: object,
    ) -> Seq2SeqLMOutput:
        """Next-token scores; see :meth:`SeeingEncoderDecoder.forward` and :meth:`Seq2SeqLM.forward`."""
        inputs |= {"input_ids": input_ids, PICTURES: pixel_values}
        return super().forward(None, attention_mask, decoder_input_ids, **inputs)  # type: ignore[arg-type]

    def encode(self, **inputs: Tensor) -> Memory:
        return super().encode(**inputs) if "encoder_outputs" in inputs else self.model.encode(**inputs)

    def by_row(self, features: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        return self.model.by_row(features)

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutput:
        """See :meth:`SeeingEncoderDecoder.get_image_features`."""
        return self.model.get_image_features(pixel_values)
