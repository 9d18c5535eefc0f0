"""What a model is asked: objects that make inputs and name the outputs to compare.

A head of a family holds one asker. A new kind of input is a new asker (a dozen lines), never a flag on these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from reference import padded, ragged

Inputs = dict[str, object]


@dataclass(frozen=True, slots=True)
class Question:
    """One call.

    Attributes:
        fields: the outputs to compare; hidden states and attentions are asked for by name.
        real: Shape: [B, T]; the tokens that count, in outputs that have one entry per token. All, if None.
    """

    inputs: Inputs
    fields: tuple[str, ...]
    real: Tensor | None = None


class Asker(Protocol):
    """Makes the questions for one head."""

    @property
    def config(self) -> Mapping[str, object]:
        """Config keys that its labels need."""
        ...

    def questions(self, config: object) -> Iterator[Question]:
        """All there is to compare, the plainest first."""
        ...

    def lesson(self, config: object) -> Inputs | None:
        """Inputs to train on; None for what has no loss."""
        ...


class Labels(Protocol):
    """What a head is trained towards."""

    @property
    def config(self) -> Mapping[str, object]: ...

    @property
    def fields(self) -> tuple[str, ...]: ...

    def given(self, ids: Tensor, mask: Tensor) -> Inputs: ...


@dataclass(frozen=True)
class Nothing:
    """No labels: a base model."""

    fields: tuple[str, ...] = ("last_hidden_state",)
    config: Mapping[str, object] = field(default_factory=dict)

    def given(self, ids: Tensor, mask: Tensor) -> Inputs:
        return {}


@dataclass(frozen=True)
class Words:
    """The tokens themselves, padding left out."""

    fields: tuple[str, ...] = ("loss", "logits")
    config: Mapping[str, object] = field(default_factory=dict)

    def given(self, ids: Tensor, mask: Tensor) -> Inputs:
        return {"labels": ids.masked_fill(mask == 0, -100)}


@dataclass(frozen=True)
class Rows:
    """Labels of whole rows."""

    labels: Tensor
    config: Mapping[str, object]
    fields: tuple[str, ...] = ("loss", "logits")

    def given(self, ids: Tensor, mask: Tensor) -> Inputs:
        return {"labels": self.labels}


@dataclass(frozen=True)
class Tokens:
    """A label for every token, some of them left out."""

    classes: int = 4
    fields: tuple[str, ...] = ("loss", "logits")

    @property
    def config(self) -> Mapping[str, object]:
        return {"num_labels": self.classes}

    def given(self, ids: Tensor, mask: Tensor) -> Inputs:
        return {"labels": (ids % self.classes).masked_fill(mask == 0, -100)}


@dataclass(frozen=True)
class Places:
    """Where answers begin and end; one lies outside the row."""

    fields: tuple[str, ...] = ("loss", "start_logits", "end_logits")
    config: Mapping[str, object] = field(default_factory=dict)

    def given(self, ids: Tensor, mask: Tensor) -> Inputs:
        return {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 5, 90])}


PROBLEMS: dict[str, Rows] = {
    "classes": Rows(torch.tensor([1, 4, 0]), {"num_labels": 5}),
    "regression": Rows(torch.tensor([0.3, -1.0, 2.0]), {"num_labels": 1}),
    "several numbers": Rows(
        torch.tensor([[0.0, 1.5], [1.0, -0.4], [0.3, 0.1]]), {"num_labels": 2, "problem_type": "regression"}
    ),
    "many labels": Rows(
        torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
}
"""A row classifier's labels, one of each type of problem."""


def ended(token: int) -> Callable[[list[Tensor]], list[Tensor]]:
    """Rows whose last token is the given one."""
    return lambda rows: [torch.cat((row[:-1], torch.tensor([token]))) for row in rows]


def counted(mask: Tensor) -> Inputs:
    """Positions that begin at every row's first real token."""
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def uncounted(mask: Tensor) -> Inputs:
    """No positions: they count padding too."""
    return {}


@dataclass(frozen=True)
class Text:
    """Rows of token ids: whole, padded on either side, and as vectors.

    Attributes:
        lengths: of the rows.
        positions: what is passed beside a mask that begins with padding.
        more: inputs of this family beside the ids, made from them.
        taps: what is compared beside the head's outputs where no token is padding.
        rows: what is changed in the rows: an end token that a head looks for.
        embeds: the width of vectors given instead of ids, read from the config; None where they are not taken.
    """

    labels: Labels
    lengths: Sequence[int] = (12, 7, 1)
    vocabulary: int = 97
    positions: Callable[[Tensor], Inputs] = uncounted
    more: Callable[[Tensor], Inputs] = lambda ids: {}
    taps: tuple[str, ...] = ("hidden_states", "attentions")
    rows: Callable[[list[Tensor]], list[Tensor]] = lambda rows: rows
    embeds: Callable[[object], int] | None = lambda config: config.hidden_size  # type: ignore[attr-defined]

    @property
    def config(self) -> Mapping[str, object]:
        return self.labels.config

    def batch(self, side: str = "right") -> tuple[Tensor, Tensor]:
        return padded(self.rows(ragged(self.vocabulary, self.lengths)), side=side)

    def questions(self, config: object) -> Iterator[Question]:
        outputs = tuple(f for f in self.labels.fields if f != "loss")
        ids = torch.stack(self.rows(ragged(self.vocabulary, [self.lengths[0]] * 3, seed=2)))
        ones = torch.ones_like(ids)
        yield Question({"input_ids": ids, **self.more(ids)}, (*outputs, *self.taps))
        yield Question({"input_ids": ids, **self.more(ids), **self.labels.given(ids, ones)}, self.labels.fields)
        asked = ("hidden_states",) if "hidden_states" in self.taps else ()
        ids, mask = self.batch()
        given = {**self.more(ids), **self.labels.given(ids, mask)}
        fields = (*self.labels.fields, *asked)
        yield Question({"input_ids": ids, "attention_mask": mask, **given}, fields, real=mask.bool())
        # Padding in front predicts a row's first token, so a loss would depend on vectors that mean nothing.
        ids, mask = self.batch("left")
        given = {**self.more(ids), **self.positions(mask)}
        yield Question({"input_ids": ids, "attention_mask": mask, **given}, (*outputs, *asked), real=mask.bool())
        if self.embeds is not None:
            vectors = torch.randn(1, 6, self.embeds(config), generator=torch.Generator().manual_seed(4))
            yield Question({"inputs_embeds": vectors}, outputs)

    def lesson(self, config: object) -> Inputs | None:
        ids, mask = self.batch()
        labels = self.labels.given(ids, mask)
        return {"input_ids": ids, "attention_mask": mask, **self.more(ids), **labels} if labels else None


@dataclass(frozen=True)
class Choices(Text):
    """Rows in groups, of which one is right."""

    def grouped(self, inputs: Inputs) -> Inputs:
        return {k: torch.cat([t, t.flip(1)]).view(2, 3, -1) for k, t in inputs.items() if isinstance(t, Tensor)}

    def questions(self, config: object) -> Iterator[Question]:
        for side in ("right", "left"):
            ids, mask = self.batch(side)
            mask = torch.ones_like(mask) if side == "left" else mask
            inputs = self.grouped({"input_ids": ids, "attention_mask": mask, **self.more(ids)})
            yield Question({**inputs, **self.labels.given(ids, mask)}, (*self.labels.fields, "hidden_states"))

    def lesson(self, config: object) -> Inputs | None:
        first, *_ = self.questions(config)
        return first.inputs


STREAMS = (
    "encoder_hidden_states", "decoder_hidden_states", "encoder_attentions", "decoder_attentions", "cross_attentions",
)  # fmt: skip


@dataclass(frozen=True)
class TextToText:
    """An encoder's rows and a decoder's."""

    labels: Labels
    vocabulary: int = 97
    streams: tuple[str, ...] = STREAMS
    positions: Callable[[Tensor], Inputs] = uncounted

    @property
    def config(self) -> Mapping[str, object]:
        return self.labels.config

    def sources(self, side: str = "right") -> Inputs:
        ids, mask = padded(ragged(self.vocabulary, [13, 6, 2]), side=side)
        return {"input_ids": ids, "attention_mask": mask}

    def long_sources(self) -> Inputs:
        return {"input_ids": torch.stack(ragged(self.vocabulary, [45, 45], seed=2))}

    def long_targets(self) -> Tensor:
        return torch.stack(ragged(self.vocabulary, [45, 45], seed=2))

    def answers(self) -> Inputs:
        ids, mask = padded(ragged(self.vocabulary, [7, 4, 1], seed=1))
        return self.labels.given(ids, mask)

    def questions(self, config: object) -> Iterator[Question]:
        outputs = tuple(f for f in self.labels.fields if f != "loss")
        long = {**self.long_sources(), "decoder_input_ids": self.long_targets()}
        yield Question(long, (*outputs, "encoder_last_hidden_state", *self.streams))
        for side in ("right", "left"):
            ids, mask = padded(ragged(self.vocabulary, [8, 3, 5], seed=2), side=side)
            sources = self.sources(side)
            beginnings = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
            yield Question({**sources, **beginnings, **self.positions(mask)}, outputs, real=mask.bool())
            if "attention_mask" in sources:
                known = {"encoder_last_hidden_state"}
                real = sources["attention_mask"].bool()  # type: ignore[union-attr]
                yield Question({**sources, **beginnings}, tuple(known), real=real)
        answers = self.answers()
        if answers:
            yield Question({**self.sources(), **answers}, self.labels.fields)

    def lesson(self, config: object) -> Inputs | None:
        answers = self.answers()
        return {**self.sources(), **answers} if answers else None


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Pictures, sounds or vectors."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Speech(TextToText):
    """Sounds, and a decoder's rows."""

    bands: Callable[[object], int] = lambda config: config.num_mel_bins  # type: ignore[attr-defined]

    def of(self, config: object) -> SpeechOf:
        return SpeechOf(self.labels, self.vocabulary, self.streams, self.positions, rows=self.bands(config))

    def questions(self, config: object) -> Iterator[Question]:
        yield from self.of(config).questions(config)

    def lesson(self, config: object) -> Inputs | None:
        return self.of(config).lesson(config)


@dataclass(frozen=True)
class SpeechOf(TextToText):
    """The same for one config."""

    rows: int = 10

    def sources(self, side: str = "right") -> Inputs:
        return {"input_features": noise(3, self.rows, 30)}

    def long_sources(self) -> Inputs:
        return self.sources()

    def long_targets(self) -> Tensor:
        return torch.stack(ragged(self.vocabulary, [20, 20, 20], seed=2))


@dataclass(frozen=True)
class Pictures:
    """Pictures of the size and channels that the config says."""

    labels: Labels
    taps: tuple[str, ...] = ("hidden_states", "attentions")
    read: Callable[[object], object] = lambda config: config

    @property
    def config(self) -> Mapping[str, object]:
        return self.labels.config

    def pixels(self, config: object, rows: int = 3) -> Tensor:
        made = self.read(config)
        size = made.image_size  # type: ignore[attr-defined]
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return noise(rows, made.num_channels, height, width)  # type: ignore[attr-defined]

    def questions(self, config: object) -> Iterator[Question]:
        pixels = self.pixels(config)
        outputs = tuple(f for f in self.labels.fields if f != "loss")
        yield Question({"pixel_values": pixels}, (*outputs, *self.taps))
        labels = self.labels.given(pixels, pixels)
        if labels:
            yield Question({"pixel_values": pixels, **labels}, self.labels.fields)

    def lesson(self, config: object) -> Inputs | None:
        pixels = self.pixels(config)
        labels = self.labels.given(pixels, pixels)
        return {"pixel_values": pixels, **labels} if labels else None


def frames_of(config: object, samples: int) -> int:
    """How many frames the convolutions of a model of waves make of so many samples."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):  # type: ignore[attr-defined]
        samples = (samples - kernel) // stride + 1
    return samples


@dataclass(frozen=True)
class Waves:
    """Sounds of odd lengths: whole, and padded ones with a mask.

    Attributes:
        fields: the outputs.
        labels: of the config and the number of frames.
        more: inputs beside, likewise.
    """

    fields: tuple[str, ...] = ("last_hidden_state", "extract_features")
    labels: Callable[[object, int], Inputs] = lambda config, frames: {}
    config: Mapping[str, object] = field(default_factory=dict)
    taps: tuple[str, ...] = ("hidden_states", "attentions")
    more: Callable[[object, int], Inputs] = lambda config, frames: {}
    lengths: Sequence[int] = (413, 297, 151)

    def wave(self) -> Tensor:
        return noise(len(self.lengths), max(self.lengths))

    def questions(self, config: object) -> Iterator[Question]:
        frames = frames_of(config, max(self.lengths))
        outputs = tuple(f for f in self.fields if "loss" not in f)
        labels, more = self.labels(config, frames), self.more(config, frames)
        wave = {"input_values": self.wave(), **more}
        mask = (torch.arange(max(self.lengths)) < torch.tensor(self.lengths)[:, None]).long()
        yield Question(wave, (*outputs, *self.taps))
        asked = ("hidden_states",) if "hidden_states" in self.taps else ()
        yield Question({**wave, "attention_mask": mask, **labels}, (*self.fields, *asked))
        yield Question({**wave, "attention_mask": torch.ones_like(mask).bool(), **labels}, self.fields)
        if labels:
            yield Question({**wave, **labels}, self.fields)

    def lesson(self, config: object) -> Inputs | None:
        frames = frames_of(config, max(self.lengths))
        labels = self.labels(config, frames)
        return {"input_values": self.wave(), **self.more(config, frames), **labels} if labels else None


@dataclass(frozen=True)
class Given:
    """Questions written out, for what fits nothing above."""

    make: Callable[[object], Sequence[Question]]
    train: Callable[[object], Inputs] | None = None
    config: Mapping[str, object] = field(default_factory=dict)

    def questions(self, config: object) -> Iterator[Question]:
        yield from self.make(config)

    def lesson(self, config: object) -> Inputs | None:
        return None if self.train is None else self.train(config)


@dataclass(frozen=True)
class Routed(Text):
    """The same questions, and which experts were chosen."""

    def questions(self, config: object) -> Iterator[Question]:
        yield from super().questions(config)
        dense = vars(config).get("mlp_only_layers") or ()
        if len(dense) < config.num_hidden_layers:  # type: ignore[attr-defined]
            ids, mask = self.batch()
            asked = {"input_ids": ids, "attention_mask": mask, "output_router_logits": True}
            labels = self.labels.given(ids, mask)
            yield Question({**asked, **labels}, ("loss", "aux_loss", "logits"), real=mask.bool())
            whole = {"input_ids": torch.stack(list(ids[:1])), "output_router_logits": True}
            yield Question(whole, ("aux_loss", "router_logits", "logits"))


@dataclass(frozen=True)
class Films(Pictures):
    """Videos of the size, the channels and the number of frames that the config says."""

    def pixels(self, config: object, rows: int = 3) -> Tensor:
        frames = config.num_frames  # type: ignore[attr-defined]
        return super().pixels(config, rows * frames).unflatten(0, (rows, frames))
