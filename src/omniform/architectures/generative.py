"""What the engine needs of a model that writes: the four steps from tokens to scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.batch import Item, Modality, Span
from omniform.core.context import Backend, Memory, StepContext
from omniform.core.errors import InputError, brief
from omniform.core.outputs import ModelOutput
from omniform.core.settings import Setting
from omniform.core.state import HasModules


@dataclass(frozen=True, slots=True)
class RowLayout:
    """What a decoder has to know of one row's prompt beyond the order of its tokens.

    Attributes:
        positions: of the prompt's tokens, on one axis or several. Shape: [axes, T]; None where they count 0, 1, 2...
        shift: how far the position of a token after the prompt lies beyond its index, on all axes.
        bidirectional: spans of tokens, each as first and one past its last, that see one another in both directions.
    """

    positions: Tensor | None = None
    shift: float = 0
    bidirectional: tuple[tuple[int, int], ...] = ()

    def of(self, first: int, stop: int) -> Tensor:
        """The positions of a row's tokens, those written after the prompt included. Shape: [axes, stop - first]."""
        if self.positions is None:
            return torch.arange(first, stop)[None]
        axes, prompt = self.positions.shape
        later = torch.arange(max(first, prompt), max(stop, prompt)) + self.shift
        return torch.cat([self.positions[:, first:stop], later.expand(axes, -1)], dim=1)


def rows_of(features: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Inputs of some rows as batches of one.

    Raises:
        InputError: they are not of equally many rows.
    """
    count = next(iter(features.values())).shape[0]
    for name, value in features.items():
        if value.shape[0] != count:
            raise InputError("inputs have different numbers of rows", where=name, expected=count, found=value.shape[0])
    return [{name: value[i : i + 1] for name, value in features.items()} for i in range(count)]


class Decoder(HasModules, Protocol):
    """A decoder, as far as writing takes it.

    Attributes:
        attn_backend: how its attention is computed.
    """

    attn_backend: Backend

    @property
    def max_positions(self) -> int | None:
        """The longest row it can make sense of, prompt and answer together; None if there is no limit."""
        ...

    @property
    def layers(self) -> torch.nn.ModuleList:
        """Its layers, in order."""
        ...

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors. Shape: [B, T] to [B, T, D]."""
        ...

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        ...


class PromptReader(Model):
    """What stands among the tokens of a prompt: nothing but text, where a model does not say otherwise."""

    @property
    def reads_items(self) -> bool:
        """Whether pictures or sounds stand among the tokens that the decoder reads."""
        return False

    @property
    def placeholders(self) -> frozenset[int]:
        """The tokens that stand for pictures and sounds."""
        return frozenset()

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        """The pictures and sounds of each row, in reading order.

        Args:
            rows: the token ids of each row, placeholders included.
            features: inputs of other modalities, those of all rows one after another.

        Raises:
            InputError: the model reads text only, or the features do not match the placeholders.
        """
        if features:
            raise InputError("this model reads text only", where=", ".join(sorted(features)))
        return [[] for _ in rows]

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        """The vectors that stand for items of one modality, each as many as it needs. Shape: [length, D] each."""
        raise InputError("this model reads text only", where="items", found=len(items))

    def spans(self, row: Sequence[int], items: Sequence[Item], lengths: Sequence[int]) -> list[Span]:
        """Which tokens of a row stand for which of its items; ``Span.item`` counts the row's items of one modality.

        Args:
            items: of all modalities, in reading order.
            lengths: how many vectors each item has.

        Raises:
            InputError: the placeholders do not match the items.
        """
        return []

    def layout(self, row: Sequence[int], items: Sequence[Item], spans: Sequence[Span]) -> RowLayout:
        """Where a prompt's tokens stand and which of them see one another in both directions.

        Args:
            row: its token ids, placeholders included; -1 where a vector stands that is no token's.
            items: the row's pictures and sounds, in reading order.
            spans: which tokens stand for which of them.
        """
        return RowLayout()

    def named_by_table(self, input_ids: Tensor) -> Tensor:
        """Ids that the table of tokens has vectors for: some placeholders lie beyond it. Shape: [B, T]."""
        return input_ids

    @property
    def tokenwise(self) -> frozenset[str]:
        """Names of the inputs that hold a number for each of a prompt's tokens, and say its layout."""
        return frozenset()

    def told_layout(self, beside: Mapping[str, Sequence[int]]) -> RowLayout:
        """The layout of a prompt whose tokens come with such numbers.

        Args:
            beside: those of :attr:`tokenwise` that were given, without padding.

        Raises:
            InputError: no layout is told by them.
        """
        return RowLayout()


class Generative(PromptReader, ABC):
    """Base of the models that write tokens one after another.

    Attributes:
        padded_within: whether padding may stand between a prompt's tokens: behind the places of its picture.
        encoder_inputs: names of the inputs that an encoder reads; empty for a decoder alone.
        own_settings: what this kind of model understands beyond the settings that all share
            (:data:`omniform.core.settings.SETTINGS`); :meth:`decoder_prompt` gets those that are set.
        whole_settings: those among them that only ``generate`` acts on, since they are about a whole input, of which
            a request reads a part.
        shows_layers: whether what its layers give can be looked at; of graphs that another library runs only scores
            come out.
        ADAPTERS: what the names of the adapters begin with that were trained for prompts with items of a modality;
            of several the first. Where all of them are there, each prompt is computed with its own.
    """

    ADAPTERS: ClassVar[Mapping[Modality, str]] = {}

    padded_within: ClassVar[bool] = False
    shows_layers: ClassVar[bool] = True
    encoder_inputs = frozenset[str]()
    own_settings: ClassVar[Mapping[str, Setting]] = {}
    whole_settings: ClassVar[frozenset[str]] = frozenset()

    @property
    def vocabulary(self) -> int | None:
        """How many tokens it can read; None if nobody knows."""
        table = self.get_input_embeddings()
        return table.num_embeddings if isinstance(table, torch.nn.Embedding) else None

    @property
    def max_positions(self) -> int | None:
        """The longest row the model can make sense of, prompt and answer together; None if there is no limit."""
        return self.decoder.max_positions

    @property
    def start_token_id(self) -> int | None:
        """The token that an answer begins with where there is no prompt (encoder-decoders)."""
        return None

    def can_generate(self) -> bool:
        return True

    def check_shown(self, name: str) -> None:
        """Refuse what looks into the layers of a model that does not show them (:attr:`shows_layers`).

        Args:
            name: of the setting that asks for it.

        Raises:
            InputError: it does not.
        """
        if not self.shows_layers:
            raise InputError(
                "of this model only scores can be seen, not what its layers give",
                where=name,
                expected="None",
                found=type(self).__name__,
                remedy="Load the checkpoint that it was exported from.",
            )

    def knows(self, token: int) -> bool:
        """Whether a token is in the vocabulary."""
        return token >= 0 and (self.vocabulary is None or token < self.vocabulary)

    @property
    def fixed_settings(self) -> Mapping[str, object]:
        """Settings that this kind of model writes by, whatever its ``generation_config.json`` says; a caller may."""
        return {}

    @property
    def shows_encoder(self) -> bool:
        """Whether what ``generate`` shows of the steps is told as an encoder-decoder's."""
        return bool(self.encoder_inputs)

    def read_inputs(self, named: Mapping[str, object]) -> dict[str, object]:
        """A call's inputs as the engine knows them: its encoder's by their names, and what an answer begins with.

        A model whose ``forward`` has other names for them, or reads more into them, says so here.

        Args:
            named: the inputs that were given, by the names of ``forward``.
        """
        return dict(named)

    def replayed(self, **inputs: object) -> ModelOutput:
        """A plain forward over finished rows, which shows what was seen on the way; see :mod:`omniform.engine.replay`.

        Args:
            inputs: by the names that :meth:`read_inputs` gave; the rows, and what is to be shown.
        """
        return self(**inputs)

    def encode(self, **inputs: Tensor) -> Memory | None:
        """What cross-attention will read, made once per request; None for a decoder alone."""
        return None

    def by_row(self, features: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """An encoder's inputs row by row, each a batch of one.

        Raises:
            InputError: they are not of equally many rows.
        """
        return rows_of(features)

    def decoder_prompt(self, memory: Memory, options: Mapping[str, object]) -> Tensor:
        """The tokens that an encoder-decoder's answer begins with, where the caller gives none.

        Args:
            memory: the encoder's output.
            options: the settings of the call over those of ``generation_config.json``.

        Returns:
            Shape: [B, T].

        Raises:
            InputError: nobody says which token an answer begins with.
        """
        start = self.first_token(options)
        return torch.full((memory.hidden.shape[0], 1), start, device=memory.hidden.device)

    def first_token(self, options: Mapping[str, object]) -> int:
        """The token that an encoder-decoder's answer begins with.

        Args:
            options: the settings of the call over those of ``generation_config.json``.

        Raises:
            InputError: nobody says which.
        """
        start = options.get("decoder_start_token_id", self.start_token_id)
        if not isinstance(start, int) or not self.knows(start):
            raise InputError(
                "nobody says which token an answer begins with",
                where="decoder_start_token_id",
                expected="a token of the vocabulary",
                found=None if start is None else brief(start),
                remedy="Pass decoder_input_ids or decoder_start_token_id.",
            )
        return start

    def opened(self, beginnings: Sequence[Sequence[int]], starts: Sequence[object]) -> list[list[int]]:
        """What an encoder-decoder's answers begin with, where the caller says so: the start token stands in front.

        Args:
            beginnings: the tokens that the caller gave, row by row. Where one of the rows has its start token, all are
                taken as they are.
            starts: each row's start token, where somebody names one.
        """
        rows = [list(row) for row in beginnings]
        if any(start is None or row[0] == start for row, start in zip(rows, starts, strict=True)):
            return rows
        return [[cast(int, start), *row] for row, start in zip(rows, starts, strict=True)]

    def given_back(self, prompt: Tensor, written: Tensor, ends: Sequence[int], pad: int) -> Tensor:
        """What ``generate`` returns: the decoder's prompt and what was written after it.

        Args:
            prompt: Shape: [B, T].
            written: Shape: [B, new].
            ends: tokens that end a row.
            pad: fills rows that ended before others.
        """
        return torch.cat((prompt, written), dim=1)

    def alone(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """A prompt's items as they are read where no other prompt's count.

        Args:
            items: as they are read beside the others of their call.
        """
        return tuple(items)

    def keeper(self) -> HasModules:
        return self.decoder if self.can_generate() else self

    @property
    @abstractmethod
    def decoder(self) -> Decoder:
        """What reads the prompt's vectors and every token after them."""

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors. Shape: [B, T] to [B, T, D]."""
        return self.decoder.embed(input_ids)

    def stand(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Where tokens stand in a step that goes on with rows: at their places, if none is passed over.

        Args:
            input_ids: Shape: [1, N].
            positions: their places in their rows. Shape: [1, N], or [axes, 1, N].
        """
        return positions

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        return self.decoder.decode(embeds_BTD, ctx)

    @abstractmethod
    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states to scores of every token. Shape: [..., D] to [..., V]."""
