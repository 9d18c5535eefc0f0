"""Models that think and speak: a thinker that reads all there is, a talker, and what makes sound of its codes.

The whole writes as its thinker does; how speech comes of it is ``engine/talking.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.code_sound import CodeSound
from omniform.architectures.decoder import TextDecoder
from omniform.architectures.flat_talker import FlatTalker
from omniform.architectures.flow_sound import FlowSound
from omniform.architectures.generative import Generative, RowLayout
from omniform.architectures.omni_places import Clock
from omniform.architectures.omni_thinker import ThinkerLM
from omniform.architectures.talker import Talker
from omniform.core.batch import Item, Span
from omniform.core.errors import InputError, MissingPartError, brief, nearest
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


VOICES = "spk_dict.pt"
"""The file of a checkpoint that tells of its voices."""


class Speaking(Generative):
    """A thinker, and where it speaks a talker; it writes as its thinker does.

    Args:
        thinker: reads text, pictures, films and sounds, and writes.
        talker: writes codes of speech; None where it is silent.
    """

    thinker: ThinkerLM
    talker: Talker | FlatTalker | None

    @property
    def has_talker(self) -> bool:
        """Whether it can speak."""
        return self.talker is not None

    def disable_talker(self) -> None:
        """Let go of what speaks: the model writes on as before."""
        self.talker = None

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
        return (*self.thinker.keepers(), *(() if self.talker is None else self.talker.keepers()))

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


class Omni(Speaking):
    """One whose talker writes frames of several codes, which become a sound piece by piece (Qwen3-Omni).

    Args:
        thinker, talker: see :class:`Speaking`.
        code2wav: codes to samples.
        turns: how a talker's prompt is made.
        clock: where the talker's prompt stands.
    """

    talker: Talker | None
    code2wav: CodeSound | None
    turns: Turns
    clock: Clock

    def disable_talker(self) -> None:
        self.talker = self.code2wav = None

    def keepers(self) -> tuple[HasModules, ...]:
        own = super().keepers()
        return own if self.code2wav is None else (*own, self.code2wav.pre_transformer)

    def stream_speech(self, inputs: object = None, **kwargs: object) -> Iterator[object]:
        """Answer in text and speech, piece by piece as they come; see :func:`omniform.engine.talking.stream_speech`."""
        return cast("Iterator[object]", upstairs("engine.talking:stream_speech")(self, inputs, **kwargs))


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks.

    Attributes:
        begin: the token that what is said begins with.
        vector: of the voice. Shape: [1, V].
        heard: a spectrogram of it. Shape: [1, frames, bands].
    """

    begin: int
    vector: Tensor
    heard: Tensor


class FlowOmni(Speaking):
    """One whose talker writes a code at a time, which all together become a sound (Qwen2.5-Omni).

    Args:
        thinker, talker: see :class:`Speaking`.
        token2wav: codes to samples.
        ends: the token that ends an answer, where the config says one.

    Attributes:
        speaker_map: what is known of voices, by their names: ``bos_token``, ``cond`` and ``ref_mel``.
    """

    own_file = VOICES

    talker: FlatTalker | None
    token2wav: FlowSound | None
    ends: int | None

    def __init__(self, **parts: object) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]
        self.speaker_map: dict[str, Mapping[str, object]] = {}

    def disable_talker(self) -> None:
        self.talker = self.token2wav = None

    def read_own(self, path: Path) -> None:
        self.load_speakers(path)

    def write_own(self, path: Path) -> None:
        if self.speaker_map:
            self.save_speakers(path)

    def load_speakers(self, path: str | os.PathLike[str]) -> None:
        """Learn the voices of a file (``spk_dict.pt``).

        Raises:
            InputError: it holds none.
        """
        told = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(told, dict):
            raise InputError("this file holds no voices", where=str(path), found=type(told).__name__)
        for name in told:
            self.speaker_map[name] = told[name]
            self.voice(name)

    def save_speakers(self, path: str | os.PathLike[str]) -> None:
        """Write them."""
        torch.save({name: dict(told) for name, told in self.speaker_map.items()}, path)

    def voice(self, name: object) -> Voice:
        """What is known of a voice.

        Raises:
            InputError: there is none of that name.
        """
        told = self.speaker_map.get(name) if isinstance(name, str) else None
        if told is None:
            raise InputError(
                "nobody of this name speaks",
                where="speaker",
                expected=" or ".join(sorted(self.speaker_map)) or "a voice of load_speakers",
                found=brief(name),
                remedy=nearest(name, self.speaker_map) if isinstance(name, str) else None,
            )
        begin, vector, heard = (told.get(key) for key in ("bos_token", "cond", "ref_mel"))
        if not (isinstance(begin, int) and isinstance(vector, Tensor) and isinstance(heard, Tensor)):
            raise InputError(
                "a voice is not told whole", where=f"speaker {name}", expected="bos_token, cond and ref_mel"
            )
        return Voice(begin, vector.float(), heard.float())
