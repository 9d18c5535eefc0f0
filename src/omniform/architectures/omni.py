"""Models that think and speak: a thinker that reads all there is, a talker, and what makes sound of its codes.

The whole writes as its thinker does; how speech comes of it is ``engine/talking.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from omniform.architectures.code_sound import CodeSound
from omniform.architectures.decoder import TextDecoder
from omniform.architectures.generative import Generative, RowLayout
from omniform.architectures.omni_places import Clock
from omniform.architectures.omni_thinker import ThinkerLM
from omniform.architectures.talker import Talker
from omniform.core.batch import Item, Span
from omniform.core.errors import MissingPartError
from omniform.core.outputs import ModelOutput
from omniform.core.state import HasModules
from omniform.core.upstairs import upstairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The tokens by which a talker's prompt is made of a chat.

    Attributes:
        start: begins a turn; the token behind it says whose.
        user: of the user's turns; ``assistant``: of the model's.
        pad, begin, end: read where there is no text, before it and behind it.
        nothink, think_begin, think_end, codec_pad, codec_begin, codec_end: first codes that are none of a sound.
        speakers: the code of each voice, by its name in small letters.
        layer: after which layer the thinker's hidden states say what pictures and sounds are.
    """

    start: int
    user: int
    assistant: int
    pad: int
    begin: int
    end: int
    nothink: int
    think_begin: int
    think_end: int
    codec_pad: int
    codec_begin: int
    codec_end: int
    speakers: Mapping[str, int]
    layer: int


class Omni(Generative):
    """A thinker, and where it speaks a talker.

    Args:
        thinker: reads text, pictures, films and sounds, and writes.
        talker: writes codes of speech; None where it is silent.
        code2wav: codes to samples.
        turns: how a talker's prompt is made.
        clock: where the talker's prompt stands.
    """

    thinker: ThinkerLM
    talker: Talker | None
    code2wav: CodeSound | None
    turns: Turns
    clock: Clock

    @property
    def has_talker(self) -> bool:
        """Whether it can speak."""
        return self.talker is not None

    def disable_talker(self) -> None:
        """Let go of what speaks: the model writes on as before."""
        self.talker = self.code2wav = None

    def enable_talker(self) -> None:
        """Nothing, where there is a talker.

        Raises:
            MissingPartError: it was let go of, or the config says that there is none.
        """
        if self.talker is None:
            raise MissingPartError(
                "this model was loaded without a talker",
                remedy="Load it with enable_audio_output=True (config.json).",
            )

    # -- as its thinker ------------------------------------------------------------------------------------------------

    @property
    def decoder(self) -> TextDecoder:
        return self.thinker.decoder

    def keepers(self) -> tuple[HasModules, ...]:
        own = [*self.thinker.keepers()]
        if self.talker is not None:
            own += self.talker.keepers()
        return (*own, self.code2wav.pre_transformer) if self.code2wav is not None else tuple(own)

    def get_input_embeddings(self) -> nn.Module:
        return self.thinker.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.thinker.get_output_embeddings()

    def accepts(self) -> frozenset[str]:
        return self.thinker.accepts()

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.thinker.embed(input_ids)

    def project(self, hidden: Tensor) -> Tensor:
        return self.thinker.project(hidden)

    @property
    def reads_items(self) -> bool:
        return self.thinker.reads_items

    @property
    def placeholders(self) -> frozenset[int]:
        return self.thinker.placeholders

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        return self.thinker.items(rows, features)

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        return self.thinker.encode_items(items)

    def spans(self, row: Sequence[int], items: Sequence[Item], lengths: Sequence[int]) -> list[Span]:
        return self.thinker.spans(row, items, lengths)

    def layout(self, row: Sequence[int], items: Sequence[Item], spans: Sequence[Span]) -> RowLayout:
        return self.thinker.layout(row, items, spans)

    def forward(self, input_ids: Tensor | None = None, **inputs: object) -> ModelOutput:
        """Next-token scores, as the thinker gives them; see there."""
        return self.thinker(input_ids=input_ids, **inputs)

    def stream_speech(self, inputs: object = None, **kwargs: object) -> Iterator[object]:
        """Answer in text and speech, piece by piece as they come; see :func:`omniform.engine.talking.stream_speech`."""
        return cast("Iterator[object]", upstairs("engine.talking:stream_speech")(self, inputs, **kwargs))
