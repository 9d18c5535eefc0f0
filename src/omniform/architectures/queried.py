"""Language models that read what queries have found in pictures (BLIP-2, InstructBLIP).

A tower reads the picture, queries look at what it gives, and what they have found stands in front of the text that a
decoder, or an encoder-decoder, reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.encoder_decoder import EncoderDecoder
from omniform.architectures.labels import Classes, Targets
from omniform.architectures.losses import Items, next_token_loss, scored
from omniform.architectures.model import Model
from omniform.architectures.qformer import InstructedQFormer, QFormer
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.embeddings import bare_table, check_ids
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.host import is_readable
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, ModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from omniform.core.picture_outputs import QueriedFeatures, QueriedTextOutput
from omniform.core.spans import find_spans
from omniform.core.state import HasModules

PICTURES = "pixel_values"
INSTRUCTION = ("qformer_input_ids", "qformer_attention_mask")
TEXT = ("input_ids", "inputs_embeds", "attention_mask")
TAPPED = ("output_hidden_states", "output_attentions")

Answer = tuple[Tensor | None, Tensor | None, ModelOutput]
"""A loss, scores, and the language model's own output."""


class Queried(Model):
    """A tower, queries and a language model.

    Args:
        queries: how many there are, and how many vectors stand for a picture.
        image_token_id: stands for them in a text; None in models of before 2024, whose pictures stand in front of all.
        start: the token that a text begins with where there is none.
        fill: what is shown in the places of pictures where no token stands for them.

    Attributes:
        INSTRUCTION: names of the inputs that queries have in mind while they look.
    """

    main_input = PICTURES
    INSTRUCTION: ClassVar[tuple[str, ...]] = ()

    vision_model: VisionEncoder
    qformer: QFormer
    language_projection: nn.Linear
    language_model: Model
    queries: int
    query_dim: int
    image_token_id: int | None
    start: int | None
    fill: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, self.queries, self.query_dim))

    def reset(self, std: float) -> None:
        """Start from zeros."""
        nn.init.zeros_(self.query_tokens)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.get_output_embeddings()

    def token_tables(self) -> list[nn.Embedding]:
        return self.language_model.token_tables()

    # -- pictures ------------------------------------------------------------------------------------------------------

    def looked(self, image: Tensor, instruction: Mapping[str, object], asked: Tapped) -> BaseModelOutput:
        """What queries make of pictures' hidden states. Shape: [B, S, E] to [B, Q, D]."""
        queries = self.query_tokens.expand(image.shape[0], -1, -1)
        out = self.qformer(query_embeds=queries, encoder_hidden_states=image, **asked)
        return cast(BaseModelOutput, out)

    def seen(
        self,
        pixel_values: Tensor,
        interpolate: bool,
        instruction: Mapping[str, object],
        of_tower: Tapped,
        of_queries: Tapped,
    ) -> QueriedFeatures:
        """What queries find in pictures, in the language model's width, and all that led there.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            interpolate: whether pictures may have any size.
            instruction: what the queries have in mind, by the names of inputs.
            of_tower, of_queries: what is to be shown of each.
        """
        tower = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate, **of_tower)
        image = cast(BaseModelOutput, tower)
        found = self.looked(image.last_hidden_state, instruction, of_queries)
        vectors = found.last_hidden_state[:, : self.queries].to(image.last_hidden_state.dtype)
        return QueriedFeatures(
            last_hidden_state=image.last_hidden_state,
            pooler_output=self.language_projection(vectors),
            **image.noted(),
            vision_outputs=image,
            qformer_outputs=found,
        )

    def vectors(self, input_ids: Tensor | None, embeds: Tensor | None, found: Tensor | None) -> Tensor:
        """What the language model reads: token vectors with pictures' in their places. Shape: [B, T, D].

        Args:
            embeds: token vectors, where the caller gives them; placeholders are found by the placeholder's own vector.
            found: pictures' vectors, Shape: [pictures, Q, D].
        """
        table = self.get_input_embeddings()
        given = cast(Tensor, table(input_ids)) if embeds is None else embeds
        if found is None:
            return given
        if self.image_token_id is None:
            return torch.cat((found.to(given), given), dim=1)
        if embeds is None:
            marked = cast(Tensor, input_ids) == self.image_token_id
        else:
            marked = (given == table(torch.tensor(self.image_token_id, device=given.device))).all(-1)
        return given.masked_scatter(marked[..., None], found.to(given))

    # -- inputs --------------------------------------------------------------------------------------------------------

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(bare_table(self.get_input_embeddings()).num_embeddings)}

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, embeds, pictures = inputs.get("input_ids"), inputs.get("inputs_embeds"), inputs.get(PICTURES)
        if ids is None and embeds is None:
            raise InputError("there is no text", where="input_ids", expected="ids or vectors", found="neither")
        if isinstance(pictures, Tensor):
            self.vision_model.patches.check(pictures, bool(inputs.get("interpolate_pos_encoding")))
            self.check_instruction(inputs, len(pictures))
        if isinstance(ids, Tensor):
            check_ids(ids, bare_table(self.get_input_embeddings()).num_embeddings)
            self.check_places(ids, len(pictures) if isinstance(pictures, Tensor) else 0)

    def check_instruction(self, inputs: Mapping[str, object], pictures: int) -> None:
        """Raise :class:`InputError` unless queries can read what they are to have in mind: nothing, here."""

    def check_places(self, ids: Tensor, pictures: int) -> None:
        """Raise :class:`InputError` unless pictures and their places match."""
        if self.image_token_id is None:
            if pictures and pictures != len(ids):
                raise InputError("one picture for each text", where=PICTURES, expected=len(ids), found=pictures)
        elif pictures and (is_readable(ids) or ids.device.type not in ("cpu", "meta")):
            find_spans(ids, self.image_token_id, [self.queries] * pictures, "image")

    def led(self, attention_mask: Tensor | None, found: Tensor | None) -> Tensor | None:
        """A mask that covers pictures in front of all, where they stand there. Shape: [B, T] to [B, Q + T]."""
        if attention_mask is None or found is None or self.image_token_id is not None:
            return attention_mask
        return F.pad(attention_mask, (self.queries, 0), value=1)

    # -- a call --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def answer(
        self,
        embeds: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        items: Items,
        given: dict[str, object],
    ) -> Answer:
        """What the language model makes of vectors.

        Args:
            embeds: Shape: [B, T, D].
            attention_mask: Shape: [B, T].
            given: its other inputs.
        """

    def told(
        self,
        inputs: Mapping[str, object],
        labels: Tensor | None,
        items: Items,
        given: dict[str, object],
        *,
        shows: Tapped,
    ) -> QueriedTextOutput:
        """One call.

        Args:
            inputs: by name: pictures, text and instruction.
            given: the language model's other inputs.
            shows: what is to be shown of tower and queries.
        """
        pictures, found = cast("Tensor | None", inputs.get(PICTURES)), None
        if pictures is not None:
            interpolate = bool(inputs.get("interpolate_pos_encoding"))
            found = self.seen(pictures, interpolate, inputs, shows, shows)
        made = None if found is None else cast(Tensor, found.pooler_output)
        ids, embeds, mask = (
            cast("Tensor | None", inputs.get(n)) for n in ("input_ids", "inputs_embeds", "attention_mask")
        )
        read = self.vectors(ids, embeds, made)
        loss, logits, out = self.answer(read, self.led(mask, made), labels, items, given)
        return QueriedTextOutput(
            loss=loss,
            logits=logits,
            vision_outputs=None if found is None else found.vision_outputs,
            qformer_outputs=None if found is None else found.qformer_outputs,
            language_model_outputs=out,
        )

    def accepts(self) -> frozenset[str]:
        return super().accepts() | self.language_model.accepts()

    def keeper(self) -> HasModules:
        return self.language_model.keeper()

    def shown(self, given: Mapping[str, object]) -> Tapped:
        """What is to be shown of tower and queries: what is asked of the language model too."""
        return cast(Tapped, {name: given[name] for name in TAPPED if name in given})

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: object,
    ) -> QueriedTextOutput:
        """Next-token scores of texts about pictures.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            input_ids: with the places of pictures in them. Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens.
            decoder_input_ids, decoder_attention_mask: of an encoder-decoder. Shape: [B, A].
            inputs_embeds: instead of ``input_ids``. Shape: [B, T, D].
            labels: a decoder's tokens, shifted here, or an encoder-decoder's answers; ``-100`` to leave out.
            interpolate_pos_encoding: take pictures of another size than the model's own.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            given: the language model's other inputs.
        """
        inputs = {
            PICTURES: pixel_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "inputs_embeds": inputs_embeds,
            "interpolate_pos_encoding": interpolate_pos_encoding,
        }
        given |= {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        return self.told(inputs, labels, num_items_in_batch, given, shows=self.shown(given))


class Instructed(Queried):
    """One whose queries read an instruction: its inputs stand in another order, and there are two more."""

    INSTRUCTION: ClassVar[tuple[str, ...]] = INSTRUCTION
    qformer: InstructedQFormer

    def check_instruction(self, inputs: Mapping[str, object], pictures: int) -> None:
        ids, mask = (inputs.get(name) for name in INSTRUCTION)
        if not isinstance(ids, Tensor):
            raise InputError("queries have no instruction", where="qformer_input_ids", found="None")
        self.qformer.embeddings.check(ids, "qformer_input_ids")
        if len(ids) != pictures:
            raise InputError(
                "one instruction for each picture", where="qformer_input_ids", expected=pictures, found=len(ids)
            )
        if isinstance(mask, Tensor) and mask.shape != ids.shape:
            raise InputError(
                "the mask does not cover the instruction",
                where="qformer_attention_mask",
                expected=list(ids.shape),
                found=list(mask.shape),
            )

    def looked(self, image: Tensor, instruction: Mapping[str, object], asked: Tapped) -> BaseModelOutput:
        queries = self.query_tokens.expand(image.shape[0], -1, -1)
        ids, mask = (cast("Tensor | None", instruction.get(name)) for name in INSTRUCTION)
        whole = None if mask is None else F.pad(mask, (self.queries, 0), value=1)
        out = self.qformer(ids, whole, query_embeds=queries, encoder_hidden_states=image, **asked)
        return cast(BaseModelOutput, out)

    def forward(  # type: ignore[override] # in the ecosystem's order
        self,
        pixel_values: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: object,
    ) -> QueriedTextOutput:
        """Next-token scores of texts about pictures; see :meth:`Queried.forward` for the other inputs.

        Args:
            qformer_input_ids: what the queries have in mind while they look. Shape: [B, I].
            qformer_attention_mask: Shape: [B, I], 1 for real tokens.
        """
        inputs = {
            PICTURES: pixel_values,
            "qformer_input_ids": qformer_input_ids,
            "qformer_attention_mask": qformer_attention_mask,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "inputs_embeds": inputs_embeds,
            "interpolate_pos_encoding": interpolate_pos_encoding,
        }
        given |= {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        return self.told(inputs, labels, num_items_in_batch, given, shows=self.shown(given))


class QueriedDecoder(Queried):
    """The language model is a decoder, with a head or without."""

    def answer(
        self,
        embeds: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        items: Items,
        given: dict[str, object],
    ) -> Answer:
        own = {name: value for name, value in given.items() if not name.startswith("decoder_")}
        out = self.language_model(inputs_embeds=embeds, attention_mask=attention_mask, **own)
        if not isinstance(out, CausalLMOutput):
            return None, None, out
        logits = cast(Tensor, out.logits)
        if labels is None:
            return None, logits, out
        logits = logits[:, -labels.shape[1] :]
        return next_token_loss(logits, labels, items), logits, out

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return scored(labels[..., 1:]) if isinstance(labels, Tensor) else None


class QueriedBoth(Queried):
    """The language model is an encoder-decoder, with a head or without."""

    def answer(
        self,
        embeds: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        items: Items,
        given: dict[str, object],
    ) -> Answer:
        headed = {} if labels is None else {"labels": labels, "num_items_in_batch": items}
        out = self.language_model(inputs_embeds=embeds, attention_mask=attention_mask, **headed, **given)
        if isinstance(out, Seq2SeqModelOutput):
            return None, None, out
        written = cast(Seq2SeqLMOutput, out)
        return written.loss, written.logits, out

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))


class Shows(Queried):
    """What a model that does not write is asked for, part by part."""

    def get_image_features(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **asked: object
    ) -> ModelOutput:
        """The tower's output. Shape: [B, channels, height, width] in."""
        return self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **asked)

    def get_qformer_features(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """What queries find in pictures. Shape: [B, channels, height, width] to [B, Q, D]."""
        found = self.seen(pixel_values, interpolate_pos_encoding, {}, {}, {})
        return cast(BaseModelOutput, found.qformer_outputs).last_hidden_state

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **asked: object
    ) -> BaseModelOutput:
        """The hidden states of a text, of a decoder or of an encoder. Shape: [B, T] in."""
        inner = self.language_model.base_model
        reader: Model = inner.encoder if isinstance(inner, EncoderDecoder) else inner
        out = cast(BaseModelOutput, reader(input_ids, attention_mask=attention_mask, **asked))
        return BaseModelOutput(last_hidden_state=out.last_hidden_state, **out.noted())


class ShowingDecoder(Shows, QueriedDecoder):
    """BLIP-2 over a decoder, which is asked for scores and does not write."""


class ShowingBoth(Shows, QueriedBoth):
    """BLIP-2 over an encoder-decoder, likewise."""


class InstructedDecoder(Instructed, QueriedDecoder):
    """InstructBLIP over a decoder without a head."""


class InstructedBoth(Instructed, QueriedBoth):
    """InstructBLIP over an encoder-decoder without a head."""
