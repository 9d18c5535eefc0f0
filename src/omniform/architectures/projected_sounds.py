"""Sounds among the tokens of a text: an encoder of speech, and two projections, of which company decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.fusion import Medium
from omniform.architectures.streamed_speech import StreamedSpeechEncoder
from omniform.blocks.composed import Composed
from omniform.core.batch import Facts, Item
from omniform.core.errors import InputError
from omniform.core.host import is_fetchable

FRAMES, COUNTS, MARKS = NAMES = ("audio_input_features", "audio_embed_sizes", "audio_attention_mask")
COMPANY: Final = "beside_pictures"
"""What an item holds besides: whether its sound is read as one that comes with pictures. Shape: [1]."""


class SoundReader(Composed):
    """Frames to vectors of the decoder's width.

    Args:
        encoder: frames to vectors.
        up_proj_for_speech, down_proj_for_speech: to the decoder's width, where sounds come alone.
        up_proj_for_vision_speech, down_proj_for_vision_speech: where pictures come with them.
    """

    encoder: StreamedSpeechEncoder
    up_proj_for_speech: nn.Linear
    down_proj_for_speech: nn.Linear
    up_proj_for_vision_speech: nn.Linear
    down_proj_for_vision_speech: nn.Linear

    def projected(self, features: Tensor, *, beside_pictures: bool) -> Tensor:
        """Vectors of the decoder's width. Shape: [..., E] to [..., D]."""
        up, down = self.up_proj_for_speech, self.down_proj_for_speech
        if beside_pictures:
            up, down = self.up_proj_for_vision_speech, self.down_proj_for_vision_speech
        vectors: Tensor = down(F.gelu(up(features)))
        return vectors


@dataclass(frozen=True, kw_only=True)
class ProjectedSounds(Medium):
    """Sounds; of each is known how many vectors it has, and whether pictures come with it.

    Attributes:
        reader: makes vectors of them.
        beside_pictures: whether the call holds pictures.
    """

    reader: SoundReader
    beside_pictures: bool

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        frames, counts, marks = inputs[FRAMES], inputs.get(COUNTS), inputs.get(MARKS)
        encoder = self.reader.encoder
        encoder.check(frames, marks, where=FRAMES, marks_where=MARKS)
        most = encoder.frames(frames.shape[1])
        unknown = not is_fetchable(frames)  # nobody can look: as if all of the frames were sound
        if counts is not None and not unknown:
            told = counts.reshape(-1).cpu().numpy().tolist()
        elif marks is not None and not unknown:
            told = [encoder.frames(count) for count in marks.long().sum(1).cpu().numpy().tolist()]
        else:
            told = [most] * frames.shape[0]
        if len(told) != frames.shape[0] or not all(0 < count <= most for count in told):
            raise InputError(
                "this is not how many vectors the sounds have",
                where=COUNTS,
                expected=f"{frames.shape[0]} numbers from 1 to {most}",
                found=told[:8],
            )
        return [(int(count), int(self.beside_pictures)) for count in told]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [count for count, _ in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        heard: object = self.reader.encoder(inputs[FRAMES], inputs.get(MARKS))
        assert isinstance(heard, Tensor)
        if facts is None and not is_fetchable(inputs[FRAMES]):
            return self.reader.projected(heard.flatten(0, 1), beside_pictures=self.beside_pictures)
        facts = self.known(inputs, facts)
        real = torch.cat([own[:count] for own, (count, _) in zip(heard, facts, strict=True)])
        return self.reader.projected(real, beside_pictures=bool(facts[0][1]))


def in_company(item: Item, beside_pictures: bool) -> Item:
    """A sound as it is read in such company; other items as they are."""
    if item.modality != "audio":
        return item
    told = {**item.inputs, COMPANY: torch.tensor([int(beside_pictures)])}
    return Item(item.modality, told, (item.facts[0], int(beside_pictures)))


def alike(items: Sequence[Item]) -> list[list[int]]:
    """Which sounds can be encoded at once: their frames, and what is known of them, are of one kind.

    Padding is heard a little, so that none may be added.
    """
    groups: dict[object, list[int]] = {}
    for number, item in enumerate(items):
        shapes = tuple((name, x.shape[1:]) for name, x in item.inputs.items())
        groups.setdefault((item.facts[1:], shapes), []).append(number)
    return list(groups.values())
