"""Thinkers: models that read text, pictures, films and sounds, all of them in time, and write (Qwen's Omni models)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.axes import AxesDecoder, DeepDecoder, Stretch
from omniform.architectures.fusion import NOTHING, Medium
from omniform.architectures.generative import RowLayout
from omniform.architectures.omni_places import Clock, Heard, spread, walked
from omniform.architectures.packed_fusion import (
    DeepVisionLanguage,
    PackedPictures,
    PackedVisionLanguage,
    RoutedSeesLM,
    SeesLM,
    Viewed,
    grid_of,
)
from omniform.architectures.windowed_sound import WindowedSound
from omniform.blocks.packed_patches import read_grids
from omniform.core.batch import Facts, Item, Modality, Span
from omniform.core.context import Tapped
from omniform.core.errors import InputError, brief
from omniform.core.outputs import BaseModelOutput

SECONDS = "video_second_per_grid"
ALIGNED = "use_audio_in_video"


class Sensed(Viewed, total=False):
    """What may come with tokens, pictures, films and sounds.

    Attributes:
        input_features: log-mel spectrograms. Shape: [sounds, bands, frames].
        feature_attention_mask: 1 for their frames that are of sound. Shape: [sounds, frames].
        audio_feature_lengths: how many those are; known from the mask, and not read.
        video_second_per_grid: seconds from one of a film's steps in time to the next. Shape: [films].
        use_audio_in_video: whether films stand among the tokens of their own sounds.
        aligned_places: where tokens stand then, and how far what follows lies beyond its index; told on arrival.
    """

    input_features: Tensor | None
    feature_attention_mask: Tensor | None
    audio_feature_lengths: Tensor | None
    video_second_per_grid: Tensor | Sequence[float] | None
    use_audio_in_video: bool | None
    aligned_places: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True)
class Moments(Stretch):
    """A picture or a film whose steps in time may stand between whole positions.

    Attributes:
        seconds: from one step to the next.
        per_second: positions in a second.
        whole: whether they are whole numbers all the same.
    """

    seconds: float = 0.0
    per_second: float = 1.0
    whole: bool = False

    def places(self) -> Tensor:
        return spread(self.grid, self.seconds, self.per_second, whole=self.whole)

    def steps(self) -> Tensor:
        places = self.places()
        steps = torch.zeros(places.shape[1], device="cpu")
        steps[-1] = places.max() + 1
        return steps


@dataclass(frozen=True, kw_only=True)
class Films(PackedPictures):
    """Films, of which it is known how far apart their frames were taken.

    Attributes:
        clock: where tokens stand.
    """

    clock: Clock

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        found, told = super().facts(inputs), inputs.get(SECONDS)
        seconds = [1.0] * len(found) if told is None else [float(s) for s in told]
        if len(seconds) != len(found):
            raise InputError("not one time per film", where=SECONDS, expected=len(found), found=len(seconds))
        return [(*grid, *s.as_integer_ratio()) for grid, s in zip(found, seconds, strict=True)]

    def stretches(self, facts: Facts) -> list[Stretch]:
        time, rows, columns = grid_of(facts)
        merge = self.visual.merge
        told, clock = seconds_of(facts), self.clock
        return [Moments((time, rows // merge, columns // merge), (), told, clock.per_second, clock.chunk is not None)]


def seconds_of(facts: Facts) -> float:
    """The seconds from one of a film's steps in time to the next: facts are whole numbers."""
    return facts[3] / facts[4]


@dataclass(frozen=True, kw_only=True)
class StillPictures(PackedPictures):
    """Pictures, behind which text goes on beyond their longer side."""

    def stretches(self, facts: Facts) -> list[Stretch]:
        time, rows, columns = grid_of(facts)
        return [Moments((time, rows // self.visual.merge, columns // self.visual.merge))]


@dataclass(frozen=True, kw_only=True)
class Sounds(Medium):
    """Sounds as log-mel spectrograms of any lengths. What is known of each: its frames, and which is the first.

    Attributes:
        tower: what hears.
        width: of the vectors as the decoder reads them; zeros stand behind what the tower gives.
    """

    tower: WindowedSound
    width: int

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        features, mask = inputs["input_features"], inputs.get("feature_attention_mask")
        if features.dim() != 3 or features.shape[1] != self.tower.bands:
            raise InputError(
                "the features do not fit the encoder",
                where="input_features",
                expected=f"shape [sounds, {self.tower.bands}, frames]",
                found=f"shape {list(features.shape)}",
            )
        if mask is None:
            return [(features.shape[2], 0)] * features.shape[0]
        if mask.shape != (features.shape[0], features.shape[2]):
            raise InputError(
                "the mask does not cover the sounds",
                where="feature_attention_mask",
                expected=f"shape {[features.shape[0], features.shape[2]]}",
                found=f"shape {list(mask.shape)}",
            )
        return [_stretch_of(row) for row in (mask != 0).tolist()]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [self.tower.length(frames) for frames, _ in facts]

    def cut(self, inputs: Mapping[str, Tensor]) -> list[Item]:
        features = inputs["input_features"]
        found = []
        for number, (frames, first) in enumerate(self.facts(inputs)):
            part = features[number : number + 1, :, first : first + frames]
            found.append(Item(self.modality, {"input_features": part}, (frames, 0)))
        return found

    def join(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {"input_features": torch.cat([item.inputs["input_features"][0] for item in items], dim=1)}

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        known, features = self.known(inputs, facts), inputs["input_features"]
        if features.dim() == 3:
            features = packed(features, known)
        heard = self.tower.forward(features, [frames for frames, _ in known]).last_hidden_state
        return F.pad(heard, (0, self.width - heard.shape[-1]))


def packed(features_NFT: Tensor, facts: Sequence[Facts]) -> Tensor:
    """The real frames of some sounds, end to end. Shape: [sounds, bands, frames] to [bands, all frames]."""
    return torch.cat([x[:, first : first + n] for x, (n, first) in zip(features_NFT, facts, strict=True)], 1)


def _stretch_of(real: Sequence[bool]) -> Facts:
    """How many frames are of sound, and which is the first of them."""
    count, first = sum(real), real.index(True) if True in real else 0
    if not count or not all(real[first : first + count]):
        raise InputError(
            "the frames of a sound follow one another",
            where="feature_attention_mask",
            expected="ones, with zeros in front or behind",
            found=brief([int(x) for x in real]),
        )
    return count, first


class Thinker(PackedVisionLanguage):
    """What sees, what hears, and a decoder on three axes; hidden states out.

    Args:
        audio_tower: what hears.
        visual: what sees.
        language_model: the decoder.
        image_token_id, video_token_id: the tokens that stand for those of a picture and of a film.
        clock: where tokens stand.
    """

    audio_tower: WindowedSound
    clock: Clock

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:  # type: ignore[override]
        films = ("pixel_values_videos", "video_grid_thw", SECONDS)
        audio, pictures = self.clock.audio, ("pixel_values", "image_grid_thw")
        return (
            StillPictures(modality="image", token_id=self.image_token_id, inputs=pictures, visual=self.visual),
            Films(
                modality="video",
                token_id=self.video_token_id,
                inputs=films,
                visual=self.visual,
                clock=self.clock,
            ),
            Sounds(
                modality="audio",
                token_id=audio,
                inputs=("input_features", "feature_attention_mask"),
                tower=self.audio_tower,
                width=self.visual.width,
            ),
        )

    def accepts(self) -> frozenset[str]:
        return super().accepts() | {SECONDS} - {"second_per_grid_ts"}

    # -- where tokens stand --------------------------------------------------------------------------------------------

    def stretches(self, facts: Mapping[Modality, Sequence[Facts]]) -> list[tuple[int, list[Stretch]]]:
        return [
            (m.token_id, [one for known in facts.get(m.modality, ()) for one in m.stretches(known)])
            for m in self.media()
            if isinstance(m, PackedPictures)
        ]

    def heard(self, items: Sequence[Item], *, aligned: bool) -> Heard:
        """What stands among a row's tokens, as positions are counted by."""
        own = {kind: [item.facts for item in items if item.modality == kind] for kind in ("image", "video", "audio")}
        return self._heard(cast("Mapping[Modality, list[Facts]]", own), aligned)

    def _heard(self, facts: Mapping[Modality, Sequence[Facts]], aligned: bool) -> Heard:
        return Heard(
            images=[grid_of(known) for known in facts.get("image", ())],
            videos=[(grid_of(known), seconds_of(known)) for known in facts.get("video", ())],
            audios=[self.audio_tower.length(frames) for frames, _ in facts.get("audio", ())],
            aligned=aligned,
        )

    def layout(self, row: Sequence[int], items: Sequence[Item], spans: Sequence[Span]) -> RowLayout:
        if not any(item.modality != "audio" for item in items):
            return RowLayout()
        aligned = any(len(item.facts) > 5 for item in items if item.modality == "video")
        positions, shift = self.clock.places(row, self.heard(items, aligned=aligned))
        return RowLayout(positions, shift)

    def get_rope_index(  # type: ignore[override]
        self,
        input_ids: Tensor,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_audio_in_video: bool = False,
        audio_seqlens: Tensor | None = None,
        second_per_grids: Tensor | Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Where the tokens of rows stand, Shape: [3, B, T], and how far what follows lies beyond its index, [B, 1].

        Args:
            input_ids: Shape: [B, T].
            image_grid_thw: Shape: [pictures, 3].
            video_grid_thw: Shape: [films, 3].
            attention_mask: Shape: [B, T].
            use_audio_in_video: whether films stand among the tokens of their own sounds.
            audio_seqlens: frames of each sound. Shape: [sounds].
            second_per_grids: Shape: [films].
        """
        facts: dict[Modality, Sequence[Facts]] = {}
        if image_grid_thw is not None:
            facts["image"] = read_grids(image_grid_thw, self.visual.merge, where="image_grid_thw")
        if video_grid_thw is not None:
            grids = read_grids(video_grid_thw, self.visual.merge, where="video_grid_thw")
            seconds = [1.0] * len(grids) if second_per_grids is None else [float(s) for s in second_per_grids]
            facts["video"] = [(*grid, *s.as_integer_ratio()) for grid, s in zip(grids, seconds, strict=True)]
        if audio_seqlens is not None:
            facts["audio"] = [(int(n), 0) for n in audio_seqlens]
        places, shifts = self._walked(input_ids, attention_mask, facts, use_audio_in_video)
        return (places, shifts) if self.clock.chunk is None else (places.long(), shifts.long())

    def _walked(
        self, ids: Tensor, mask: Tensor | None, facts: Mapping[Modality, Sequence[Facts]], aligned: bool
    ) -> tuple[Tensor, Tensor]:
        """The same row by row, on the host."""
        return walked(self.clock, ids, mask, self._heard(facts, aligned))

    def standing(
        self, input_ids: Tensor | None, mask: Tensor | None, given: Viewed
    ) -> tuple[Tensor | None, Tensor | None]:
        told = cast(Sensed, given).get("aligned_places")
        return super().standing(input_ids, mask, given) if told is None else told

    # -- whole batches -------------------------------------------------------------------------------------------------

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        own = {name: x for name, x in features.items() if name not in (ALIGNED, "audio_feature_lengths")}
        found = super().items(rows, own)
        if not bool(features.get(ALIGNED, False)):
            return found
        # It is a fact of films that they stand so: their rows' positions follow from it.
        return [
            [Item(i.modality, i.inputs, (*i.facts, 1)) if i.modality == "video" else i for i in items]
            for items in found
        ]

    def arrive(self, inputs: dict[str, object]) -> None:
        seconds = inputs.get(SECONDS)
        if isinstance(seconds, (list, tuple)):
            inputs[SECONDS] = torch.tensor(seconds)
        aligned = inputs.get(ALIGNED)
        super().arrive(inputs)
        facts = cast("Mapping[Modality, Sequence[Facts]]", inputs.get("media_facts") or {})
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        past = inputs.get("past_key_values")
        fresh = past is None or not cast(Sensed, inputs)["past_key_values"].length  # type: ignore[union-attr]
        if aligned and facts.get("video") and isinstance(ids, Tensor) and fresh and inputs.get("position_ids") is None:
            inputs["aligned_places"] = self._walked(ids, cast("Tensor | None", mask), facts, True)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Sensed]
    ) -> BaseModelOutput:
        """Hidden states of text with pictures, films and sounds in it.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            given: see :class:`Sensed`.
        """
        out = super().forward(input_ids, attention_mask, **given)  # type: ignore[misc]  # no parent minds more inputs
        out.audio_hidden_states = None  # who wants them, asks for get_audio_features
        return out

    def get_audio_features(
        self,
        input_features: Tensor,
        feature_attention_mask: Tensor | None = None,
        audio_feature_lengths: Tensor | None = None,
        **asked: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Vectors of sounds, one sound's after another's.

        Args:
            input_features: Shape: [sounds, bands, frames].
            feature_attention_mask: 1 for frames of sound. Shape: [sounds, frames].
            audio_feature_lengths: known from the mask, and not read.
            asked: see :class:`~omniform.core.context.Tapped`.
        """
        medium = cast(Sounds, self.medium("audio"))
        inputs = {"input_features": input_features, "feature_attention_mask": feature_attention_mask}
        facts = medium.facts({name: value for name, value in inputs.items() if value is not None})
        lengths = [frames for frames, _ in facts]
        heard: BaseModelOutput = self.audio_tower.forward(packed(input_features, facts), lengths, **asked)
        return heard


class DeepThinker(DeepVisionLanguage, Thinker):
    """A thinker whose decoder's first layers are told what earlier layers of its eyes see (Qwen3-Omni)."""

    language_model: DeepDecoder


class FlatThinker(Thinker):
    """A thinker whose decoder sees through its first layer alone (Qwen2.5-Omni)."""

    language_model: AxesDecoder


class ThinkerLM(SeesLM):
    """A thinker that writes."""

    model: Thinker

    def get_audio_features(
        self,
        input_features: Tensor,
        feature_attention_mask: Tensor | None = None,
        audio_feature_lengths: Tensor | None = None,
        **asked: Unpack[Tapped],
    ) -> BaseModelOutput:
        """See :meth:`Thinker.get_audio_features`."""
        lengths = audio_feature_lengths
        return Thinker.get_audio_features(self.model, input_features, feature_attention_mask, lengths, **asked)


class RoutedThinkerLM(ThinkerLM, RoutedSeesLM):
    """One with experts."""
