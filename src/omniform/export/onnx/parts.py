"""The graphs that a model is taken apart into, each a module of tensors in and tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.architectures.dual_encoder import TwoTowers
from omniform.architectures.encoder import TextWriter
from omniform.architectures.encoder_decoder import EncoderDecoder, Seq2SeqLM
from omniform.architectures.fusion import MultimodalLM
from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.architectures.paired import PairedWriter
from omniform.architectures.picture_text import PictureTextPair
from omniform.architectures.seq2seq_heads import Seq2SeqClassifier
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, ModelOutput
from omniform.export.onnx import inputs as reading
from omniform.export.onnx.attention import WrittenOut
from omniform.export.onnx.inputs import ANSWER, CHOICES, HEIGHT, IMAGE_BATCH, IMAGES, LENGTH, TEXT_BATCH, WIDTH, Input
from omniform.export.onnx.layout import Role
from omniform.export.onnx.states import BATCH, READ, Piece, handed, kept, pieces_of
from omniform.export.onnx.tasks import Wanted

Pair = Seq2SeqLM | PairedWriter
"""An encoder and a decoder that writes."""


class Flat(nn.Module):
    """A module of tensors by position, for a trace.

    Args:
        model: whose graph it is.
        inputs: what it reads.
        pieces: of its state, in and out.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Input], pieces: Sequence[Piece] = ()) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.pieces = tuple(inputs), tuple(pieces)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the inputs, to tensors in the order of the outputs."""
        given = {own.name: value for own, value in zip(self.inputs, values, strict=True)}
        with WrittenOut():
            return tuple(self.run(given))

    def run(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """The same by name."""
        raise NotImplementedError

    def named(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model is called with: no state."""
        past = {piece.past for piece in self.pieces}
        return {own.keyword: given[own.name] for own in self.inputs if own.name not in past}


class Whole(Flat):
    """A model in one step."""

    def __init__(self, model: Model, inputs: Sequence[Input], outputs: Sequence[str]) -> None:
        super().__init__(model, inputs)
        self.outputs = tuple(outputs)
        self.extra: dict[str, object] = {"use_cache": False} if "use_cache" in model.accepts() else {}

    def run(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        found = tensors_of(cast(ModelOutput, self.model(**self.named(given), **self.extra)))
        return [found[name] for name in self.outputs]


class Step(Flat):
    """A decoder that goes on from a state."""

    def run(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        state = handed(self.pieces, given)
        out = self.model(**self.named(given), past_key_values=state, use_cache=True)
        return [out.logits, *kept(self.pieces, state)]


class Encoder(Flat):
    """What reads for a decoder."""

    def run(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [self.model(**self.named(given)).last_hidden_state]


class Looking(Flat):
    """Pictures to the vectors that stand for them among a text's."""

    def run(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        pixels = given["pixel_values"]
        vectors: Tensor = cast(MultimodalLM, self.model).model.medium("image").encode({"pixel_values": pixels}, None)
        return [vectors.reshape(pixels.shape[0], -1, vectors.shape[-1])]


class Table(Flat):
    """Tokens to vectors."""

    def run(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [cast(MultimodalLM, self.model).embed(given["input_ids"])]


class Writer(Flat):
    """A decoder that looks at an encoder's output.

    Args:
        reread: whether keys and values of that output are made; else they are handed in.
    """

    def __init__(
        self, model: Generative, inputs: Sequence[Input], pieces: Sequence[Piece], width: int, *, reread: bool
    ) -> None:
        super().__init__(model, inputs, pieces)
        self.width, self.reread = width, reread

    def run(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        state = handed(self.pieces, given)
        named = self.named(given)
        hidden = named.pop("encoder_hidden_states", None)
        if hidden is None:
            read = next(given[piece.past] for piece in self.pieces if piece.spec.kept == "memory")
            # Nobody looks at it: what cross-attention reads was handed in.
            hidden = read.new_zeros(read.shape[0], read.shape[2], self.width)
        out = self.model(
            **named, encoder_outputs=BaseModelOutput(last_hidden_state=hidden), past_key_values=state, use_cache=True
        )
        return [out.logits, *kept([p for p in self.pieces if self.reread or p.spec.kept != "memory"], state)]


@dataclass(frozen=True, slots=True)
class Part:
    """One graph to be.

    Attributes:
        role: what it does.
        module: what is traced.
        inputs: what it reads.
        outputs: names of what it gives.
    """

    role: Role
    module: nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


def fitting(model: Model, task: Wanted) -> Wanted:
    """A task that was not asked for by name, without a cache where the model's does not go in and out."""
    able = (
        isinstance(model, (Seq2SeqLM, PairedWriter, MultimodalLM))
        or (task.name == "text-generation" and isinstance(model, (CausalLM, TextWriter)) and _writes_alone(model))
    )  # fmt: skip
    return task if able or task.asked else replace(task, cached=False)


def parts_of(model: Model, task: Wanted) -> list[Part]:
    """The graphs that a task takes.

    Raises:
        InputError: a model of this kind is not taken apart.
    """
    if isinstance(model, (Seq2SeqLM, PairedWriter)) and task.name != "feature-extraction":
        return _encoder_decoder(model, task)
    if isinstance(model, MultimodalLM) and task.cached:
        return _seeing(model)
    if task.name == "text-generation" and isinstance(model, (CausalLM, TextWriter)) and _writes_alone(model):
        return [_decoder(model, cached=task.cached)]
    if task.cached:
        raise InputError("the cache of such a model does not go in and out", where=task.whole, found=named(model))
    return [_whole(model, task)]


def named(model: Model) -> str:
    """The ecosystem's name of a model's class."""
    return model.origin.architecture.name


def _writes_alone(model: CausalLM | TextWriter) -> bool:
    """Whether it reads text and nothing else, one token after another."""
    if not model.can_generate() or (isinstance(model, CausalLM) and model.reads_items):
        return False
    return not model.decoder.reads_memory


def _decoder(model: CausalLM | TextWriter, *, cached: bool) -> Part:
    names = ["input_ids", "attention_mask", "position_ids"]
    if not cached:
        inputs = reading.text(model, names)
        return Part("model", Whole(model, inputs, ["logits"]), tuple(inputs), ("logits",))
    pieces = pieces_of(model.decoder, reads_memory=False)
    counted = any(piece.spec.kept == "token" for piece in pieces)
    inputs = [*reading.text(model, names, past=counted), *reading.pieces(pieces)]
    outputs = ("logits", *(piece.present for piece in pieces))
    return Part("model", Step(model, inputs, pieces), tuple(inputs), outputs)


def _encoder_decoder(model: Pair, task: Wanted) -> list[Part]:
    encoder, decoder = encoder_of(model), model.decoder
    read = fixed(encoder_inputs(model), encoder)
    parts = [Part("encoder", Encoder(encoder, read), tuple(read), ("last_hidden_state",))]
    width = decoder.memory_width
    pieces = pieces_of(decoder, reads_memory=True)
    ids = Input("input_ids", (BATCH, LENGTH), reading.tokens(model), asked="decoder_input_ids")
    masked = any(own.name == "attention_mask" for own in read)
    mask = [Input("encoder_attention_mask", (BATCH, READ), reading.ones, asked="attention_mask")] if masked else []
    hidden = Input("encoder_hidden_states", (BATCH, READ, width), reading.noise)
    first = (*mask, ids, hidden)
    outputs = ("logits", *(piece.present for piece in pieces))
    parts.append(Part("decoder", Writer(model, first, pieces, width, reread=True), first, outputs))
    if task.cached:
        later = (*mask, ids, *reading.pieces(pieces))
        own = ("logits", *(piece.present for piece in pieces if piece.spec.kept != "memory"))
        module = Writer(model, later, pieces, width, reread=False)
        parts.append(Part("decoder_with_past", module, later, own))
    return parts


def encoder_inputs(model: Pair) -> list[Input]:
    """What the encoder of such a model reads."""
    name = model.main_input
    if name == "input_ids":
        found = reading.text(model, ["input_ids", "attention_mask"])
        return [Input(own.name, (BATCH, READ), own.make) for own in found]
    if name == "pixel_values":
        return [reading.picture(model)]
    return [reading.sound(model, name)]


def encoder_of(model: Pair) -> Model:
    """What reads for its decoder."""
    return model.encoder if isinstance(model, PairedWriter) else model.model.encoder


SMALL = {BATCH: 2, LENGTH: 5, READ: 5, CHOICES: 4, TEXT_BATCH: 2, IMAGE_BATCH: 2, ANSWER: 6}
"""Sizes of a first look."""


def another(axis: str, size: int) -> int:
    """Another size of an axis: of pictures one that is cut as the first is, of sounds any."""
    return size * 2 if axis in (HEIGHT, WIDTH) else size + size // 3


def fixed(inputs: Sequence[Input], model: Model) -> list[Input]:
    """The inputs, with the axes of the one size that a model allows, where it refuses another."""
    free = {axis: size for own in inputs for axis, size in own.maybe.items()}
    if not free:
        return list(inputs)
    sizes = {**SMALL, **{axis: another(axis, size) for axis, size in free.items()}}
    try:
        with torch.no_grad():
            model(**{own.keyword: own.example(sizes) for own in inputs})
    except (ValueError, RuntimeError):
        return of_one_size(inputs)
    return list(inputs)


def of_one_size(inputs: Sequence[Input]) -> list[Input]:
    """The inputs, none of whose axes is of any size only where the model allows it."""
    return [
        replace(own, dims=tuple(own.maybe.get(d, d) if isinstance(d, str) else d for d in own.dims), maybe={})
        for own in inputs
    ]


def of_size(part: Part) -> Part:
    """A part that reads pictures and sounds of one size."""
    return replace(part, inputs=tuple(of_one_size(part.inputs)))


def _seeing(model: MultimodalLM) -> list[Part]:
    """Pictures to vectors, tokens to vectors, and the decoder that reads both: what transformers.js puts together."""
    look = (reading.picture(model, batch=IMAGES),)
    parts = [Part("vision_encoder", Looking(model, look), look, ("image_features",))]
    ids = tuple(reading.text(model, ["input_ids"]))
    parts.append(Part("embed", Table(model, ids), ids, ("inputs_embeds",)))
    pieces = pieces_of(model.decoder, reads_memory=False)
    vectors = Input("inputs_embeds", (BATCH, LENGTH, model.decoder.width), reading.noise)
    inputs = [vectors, *reading.text(model, ["attention_mask", "position_ids"], past=True), *reading.pieces(pieces)]
    outputs = ("logits", *(piece.present for piece in pieces))
    # One graph reads an empty cache as well, so that it is the merged one.
    parts.append(Part("decoder_merged", Step(model, inputs, pieces), tuple(inputs), outputs))
    return parts


UNASKED = ("loss", "past_key_values", "hidden_states", "attentions", "cross_attentions")


def tensors_of(out: ModelOutput) -> dict[str, Tensor]:
    """The tensors of an output by name; of several in one entry, each by its number."""
    found: dict[str, Tensor] = {}
    for name, value in out.items():
        if name in UNASKED or name.endswith(("_hidden_states", "_attentions")):
            continue
        if isinstance(value, Tensor) and value.dim():
            found[name] = value
        elif isinstance(value, (tuple, list)) and value and all(isinstance(one, Tensor) for one in value):
            found |= {f"{name}.{number}": one for number, one in enumerate(value)}
    return found


def _whole(model: Model, task: Wanted) -> Part:
    inputs = fixed(whole_inputs(model, task), model)
    with torch.no_grad():
        sizes = SMALL
        extra = {"use_cache": False} if "use_cache" in model.accepts() else {}
        out = model(**{own.keyword: own.example(sizes) for own in inputs}, **extra)
    outputs = tuple(tensors_of(out))
    return Part("model", Whole(model, inputs, outputs), tuple(inputs), outputs)


def whole_inputs(model: Model, task: Wanted) -> list[Input]:
    """What a model reads in one step, by what its forward takes.

    Raises:
        InputError: it reads something that there is no example of.
    """
    accepted = model.accepts()
    pairs = isinstance(model, (TwoTowers, PictureTextPair)) and {"input_ids", "pixel_values"} <= accepted
    found: list[Input] = []
    if "input_ids" in accepted:
        types = reading.said(model, "type_vocab_size")
        names = ["input_ids", "attention_mask"]
        if isinstance(types, int) and types > 1 and "token_type_ids" in accepted:
            names.append("token_type_ids")
        if isinstance(model, (CausalLM, TextDecoder)) and "position_ids" in accepted:
            names.append("position_ids")
        found = reading.text(model, [n for n in names if n in accepted], batch=TEXT_BATCH if pairs else BATCH)
        if isinstance(model, Seq2SeqClassifier):
            found = [reading.ending(own, model) if own.name == "input_ids" else own for own in found]
        if task.name == "multiple-choice":
            found = [Input(own.name, (BATCH, CHOICES, LENGTH), own.make) for own in found]
        if isinstance(model, EncoderDecoder):
            found.append(Input("decoder_input_ids", (BATCH, ANSWER), reading.tokens(model)))
    if "pixel_values" in accepted:
        filmed = reading.said(model, "num_frames", parts=()) is not None
        found.append(reading.film(model) if filmed else reading.picture(model, batch=IMAGE_BATCH if pairs else BATCH))
    for name in ("input_values", "input_features"):
        if name in accepted:
            found.append(reading.sound(model, name))
    if not found:
        raise InputError("what this model reads has no example", where=named(model), found=", ".join(sorted(accepted)))
    return found
