"""Models that see pictures and films of any sizes, whose tokens stand on three axes (Qwen2-VL and its heirs)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.axes import AxesDecoder, DeepDecoder, Stretch, stand
from omniform.architectures.decoder import CausalLM
from omniform.architectures.fusion import NOTHING, Medium, Merged, Multimodal
from omniform.architectures.generative import RowLayout
from omniform.architectures.packed_vision import PackedVision
from omniform.architectures.routed import RoutedCausalLM
from omniform.blocks.packed_patches import Grid, patches_of, read_grids
from omniform.core.batch import Facts, Item, Modality, Span
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, PackedFeatures
from omniform.core.state import DenseState


class Viewed(Merged, total=False):
    """What may come with tokens, pictures and films.

    Attributes:
        image_grid_thw: patches of each picture in time, down and across. Shape: [pictures, 3].
        video_grid_thw: likewise of films. Shape: [films, 3].
        second_per_grid_ts: the seconds that each of a film's patches takes. Shape: [films].
        mm_token_type_ids: which tokens are those of pictures and films; known from the ids, and not read.
    """

    image_grid_thw: Tensor | None
    video_grid_thw: Tensor | None
    second_per_grid_ts: Tensor | Sequence[float] | None
    mm_token_type_ids: Tensor | None


@dataclass(frozen=True, kw_only=True)
class PackedPictures(Medium):
    """Pictures, or films, as patches end to end. What is known of each is its grid, and where its frames stand in time.

    Attributes:
        visual: their encoder.
    """

    visual: PackedVision

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        patches, grids = self.inputs[:2]
        found = read_grids(inputs.get(grids), self.visual.merge, where=grids)
        self.visual.patch_embed.check(inputs[patches], found, where=patches)
        return list(found)

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [self.visual.length(grid_of(known)) for known in facts]

    def rows(self, name: str, facts: Sequence[Facts]) -> list[int]:
        return [patches_of(grid_of(known)) if name == self.inputs[0] else 1 for known in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        grids = tuple(map(grid_of, self.known(inputs, facts)))
        return self.visual.tokens(inputs[self.inputs[0]], grids)

    def stretches(self, facts: Facts) -> list[Stretch]:
        """An item's tokens as stretches of them that follow one another."""
        time, rows, columns = grid_of(facts)
        return [Stretch((time, rows // self.visual.merge, columns // self.visual.merge), facts[3:])]


@dataclass(frozen=True, kw_only=True)
class TimedFilms(PackedPictures):
    """Films whose frames stand in time as far apart as they were taken (Qwen2.5-VL).

    Attributes:
        pace: positions for a second.
    """

    pace: int

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        found, told = super().facts(inputs), inputs.get("second_per_grid_ts")
        seconds = [1.0] * len(found) if told is None else [float(s) for s in told]
        if len(seconds) != len(found):
            raise InputError(
                "not one time per film", where="second_per_grid_ts", expected=len(found), found=len(seconds)
            )
        return [(*grid, *_times(grid[0], self.pace * s)) for grid, s in zip(found, seconds, strict=True)]


@dataclass(frozen=True, kw_only=True)
class StampedFilms(PackedPictures):
    """Films that text tells the time of between their frames (Qwen3-VL): each frame is a stretch of its own."""

    def stretches(self, facts: Facts) -> list[Stretch]:
        time, rows, columns = grid_of(facts)
        return [Stretch((1, rows // self.visual.merge, columns // self.visual.merge))] * time


def grid_of(facts: Facts) -> Grid:
    """The grid of what is known of an item."""
    return cast(Grid, facts[:3])


def _times(frames: int, pace: float) -> tuple[int, ...]:
    """Where frames stand in time, in float32 and cut off, as the reference counts."""
    counted = torch.arange(frames, device="cpu") * torch.tensor(pace, dtype=torch.float32)
    return tuple(counted.long().tolist())


class PackedVisionLanguage(Multimodal):
    """An encoder of pictures and films, and a decoder on three axes; hidden states out.

    Args:
        visual: the encoder.
        language_model: the decoder.
        image_token_id: the token that stands for those of a picture.
        video_token_id: likewise of a film.
        films: how films are read.
        pace: positions for a second of film, where frames stand in time.
    """

    visual: PackedVision
    language_model: AxesDecoder
    image_token_id: int
    video_token_id: int
    films: type[PackedPictures] = PackedPictures
    pace: int | None = None

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[PackedPictures, ...]:
        pictures = PackedPictures(
            modality="image",
            token_id=self.image_token_id,
            inputs=("pixel_values", "image_grid_thw"),
            visual=self.visual,
        )
        films = ("pixel_values_videos", "video_grid_thw")
        token = self.video_token_id
        if self.pace is not None:
            timed = (*films, "second_per_grid_ts")
            return pictures, TimedFilms(
                modality="video", token_id=token, inputs=timed, visual=self.visual, pace=self.pace
            )
        return pictures, self.films(modality="video", token_id=token, inputs=films, visual=self.visual)

    def accepts(self) -> frozenset[str]:
        return super().accepts() - (frozenset() if self.pace is not None else {"second_per_grid_ts"})

    # -- where tokens stand --------------------------------------------------------------------------------------------

    def stretches(self, facts: Mapping[Modality, Sequence[Facts]]) -> list[tuple[int, list[Stretch]]]:
        """The stretches of all items, by the token that stands for them."""
        return [
            (m.token_id, [one for known in facts.get(m.modality, ()) for one in m.stretches(known)])
            for m in self.media()
        ]

    def get_rope_index(
        self,
        input_ids: Tensor,
        mm_token_type_ids: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Where the tokens of rows stand, Shape: [3, B, T], and how far what follows lies beyond its index, [B, 1]."""
        given = {"image": image_grid_thw, "video": video_grid_thw}
        merge, facts = self.visual.merge, dict[Modality, list[Facts]]()
        for medium in self.media():
            grids = given[medium.modality]
            found = () if grids is None else read_grids(grids, merge, where=medium.inputs[1])
            facts[medium.modality] = list(found)
            if isinstance(medium, TimedFilms) and second_per_grid_ts is not None:
                facts["video"] = [
                    (*grid, *_times(grid[0], medium.pace * float(s)))
                    for grid, s in zip(found, second_per_grid_ts, strict=True)
                ]
        return stand(input_ids, self.stretches(facts), None if attention_mask is None else attention_mask.bool())

    def layout(self, row: Sequence[int], items: Sequence[Item], spans: Sequence[Span]) -> RowLayout:
        if not items:
            return RowLayout()
        facts: dict[Modality, list[Facts]] = {}
        for item in items:
            facts.setdefault(item.modality, []).append(item.facts)
        positions, shift = stand(torch.tensor([row]), self.stretches(facts))
        return RowLayout(positions[:, 0], int(shift))

    def standing(
        self, input_ids: Tensor | None, mask: Tensor | None, given: Viewed
    ) -> tuple[Tensor | None, Tensor | None]:
        """Where the tokens of a call stand, and how far what follows then lies beyond its index; None as it counts."""
        past = given.get("past_key_values")
        before = 0 if past is None else past.length
        shift = None if past is None else past.shift
        tokens = given.get("inputs_embeds") if input_ids is None else input_ids
        assert tokens is not None, "calls are checked when they arrive"
        facts = self.known_facts(given) if input_ids is not None else {}
        if not facts and shift is None:
            return None, None
        rows, new = tokens.shape[:2]
        real = mask.bool() if mask is not None and mask.dim() == 2 else None
        first: Tensor | int = before if shift is None else before + shift
        if real is not None and before:
            counted = real[:, :before].sum(1, keepdim=True)
            first = counted if shift is None else counted + shift
            real = real[:, before:]
        if input_ids is None or not facts:
            steps = torch.arange(new, device=tokens.device)[None] if real is None else (real.cumsum(1) - 1).clamp(min=0)
            return (steps + first).expand(rows, new), shift
        positions, beyond = stand(input_ids, self.stretches(facts), real, first)
        kept = first - shift if shift is not None else first
        return positions, beyond - kept

    def known_facts(self, given: Viewed) -> Mapping[Modality, Sequence[Facts]]:
        """What is known of the items of a call, read now where nobody has."""
        told = given.get("media_facts")
        if told is not None:
            return told
        found: dict[Modality, Sequence[Facts]] = {}
        for medium in self.media():
            there = {name: given.get(name) for name in medium.inputs}
            own = {name: value for name, value in there.items() if isinstance(value, Tensor)}
            if medium.inputs[0] in own:
                found[medium.modality] = medium.facts(own)
        return found

    # -- whole batches -------------------------------------------------------------------------------------------------

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        return super().items(rows, {name: x for name, x in features.items() if name != "mm_token_type_ids"})

    def arrive(self, inputs: dict[str, object]) -> None:
        seconds = inputs.get("second_per_grid_ts")
        if isinstance(seconds, (list, tuple)):
            inputs["second_per_grid_ts"] = torch.tensor(seconds)
        super().arrive(inputs)
        if not inputs.get("media_facts"):
            inputs.pop("media_facts", None)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Viewed]
    ) -> BaseModelOutput:
        """Hidden states of text with pictures and films in it.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            given: see :class:`Viewed`.
        """
        told = given.get("position_ids")
        positions, shift = (told, None) if told is not None else self.standing(input_ids, attention_mask, given)
        out = self.read(input_ids, attention_mask, given, position_ids=positions)
        if shift is not None and isinstance(out.past_key_values, DenseState):
            out.past_key_values.shift = shift
        out.image_hidden_states = out.video_hidden_states = None  # who wants them, asks for get_image_features
        return out

    def get_image_features(
        self, pixel_values: Tensor, image_grid_thw: Tensor | None = None, **asked: Unpack[Tapped]
    ) -> PackedFeatures:
        """The encoder's output on pictures; each picture's tokens in ``pooler_output``.

        Args:
            pixel_values: their patches. Shape: [N, numbers of a patch].
            image_grid_thw: Shape: [pictures, 3].
            asked: see :class:`~omniform.core.context.Tapped`.
        """
        grids = read_grids(image_grid_thw, self.visual.merge, where="image_grid_thw")
        self.visual.patch_embed.check(pixel_values, grids, where="pixel_values")
        out = self.visual.forward(pixel_values, grids, **asked)
        assert out.pooler_output is not None
        lengths, deep = [self.visual.length(grid) for grid in grids], out.deepstack_features
        return PackedFeatures(
            last_hidden_state=out.last_hidden_state,
            pooler_output=torch.split(out.pooler_output, lengths),
            deepstack_features=None if deep is None else [torch.split(one, lengths) for one in deep],
            **out.noted(),
        )

    def get_video_features(
        self, pixel_values_videos: Tensor, video_grid_thw: Tensor | None = None, **asked: Unpack[Tapped]
    ) -> PackedFeatures:
        """The same of films."""
        return self.get_image_features(pixel_values_videos, video_grid_thw, **asked)


class DeepVisionLanguage(PackedVisionLanguage):
    """One whose encoder's earlier layers are told to the decoder's first ones (Qwen3-VL)."""

    language_model: DeepDecoder
    films: type[PackedPictures] = StampedFilms

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors, with room behind them for what is told to layers. Shape: [B, T] to [B, T, width]."""
        return F.pad(super().embed(input_ids), (0, self.visual.width - self.visual.out))

    def merged(self, input_ids: Tensor, given: Merged) -> tuple[Tensor, dict[Modality, Tensor]]:
        there = any(given.get(medium.inputs[0]) is not None for medium in self.media())
        return super().merged(input_ids, given) if there else (self.language_model.embed(input_ids), {})


class SeesLM(CausalLM):
    """What such models that write offer beside writing."""

    model: PackedVisionLanguage

    def get_image_features(
        self, pixel_values: Tensor, image_grid_thw: Tensor | None = None, **asked: Unpack[Tapped]
    ) -> PackedFeatures:
        """See :meth:`PackedVisionLanguage.get_image_features`."""
        return self.model.get_image_features(pixel_values, image_grid_thw, **asked)

    def get_video_features(
        self, pixel_values_videos: Tensor, video_grid_thw: Tensor | None = None, **asked: Unpack[Tapped]
    ) -> PackedFeatures:
        """See :meth:`PackedVisionLanguage.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, video_grid_thw, **asked)


class RoutedSeesLM(SeesLM, RoutedCausalLM):
    """One with experts."""
