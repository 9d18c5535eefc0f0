"""Sounds whose frames are pooled in pairs, and of which only those within the sound are heard (Qwen2-Audio).

A prompt has a placeholder for each of a sound's vectors. Those that were written before 2024's end have one for each
sound; they are widened where they arrive, and are as any others from there on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.fusion import NOTHING, Medium, Merged, MultimodalLM
from omniform.architectures.fusion_sounds import Ear, Heard, SoundLanguage
from omniform.architectures.labels import IGNORED
from omniform.architectures.lean import LossOnly
from omniform.blocks.layers import run, surviving
from omniform.core.batch import Facts
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.host import is_fetchable
from omniform.core.outputs import AmongSoundsOutput, BaseModelOutput, HeardCausalLMOutput, MediaFeatures

FEATURES, MARKS = NAMES = ("input_features", "feature_attention_mask")


class PooledNorm(nn.LayerNorm):
    """The mean of each pair of frames, normed."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [B, T, D] to [B, T / 2, D]."""
        return super().forward(F.avg_pool1d(x.transpose(1, 2), 2, stride=2).transpose(1, 2))


class PooledEar(Ear):
    """Whisper's encoder, whose frames are pooled in pairs before the last norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.norm = PooledNorm(self.dim)

    def forward(
        self, input_features: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> BaseModelOutput:
        """Hidden states of spectrograms.

        Args:
            input_features: log-mel features. Shape: [B, mel bins, frames].
            attention_mask: 1 for the halved frames that are heard, Shape: [B, T] or [B, 1, T, T]; all, if None.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: another number of bands or frames than the model was made for.
        """
        x = self.embed(self.check(input_features))
        ctx = self.step(x, given, attention_mask=attention_mask)
        hidden = run(surviving(self.layers, self.layerdrop), x, ctx, self.norm)
        return BaseModelOutput(last_hidden_state=hidden, **ctx.taps.noted())


def halved(frames: int) -> int:
    """How many frames are left of a sound's after the convolutions."""
    return (frames - 1) // 2 + 1


def pooled(frames: int) -> int:
    """How many vectors a sound of so many frames becomes."""
    return (halved(frames) - 2) // 2 + 1


class HeardInPart(Heard, total=False):
    """What may come with tokens and sounds.

    Attributes:
        feature_attention_mask: 1 for the frames that are of sound. Shape: [sounds, frames].
        given_mask: the mask of the text as it came, or was widened; told on arrival.
    """

    feature_attention_mask: Tensor | None
    given_mask: Tensor | None


@dataclass(frozen=True, kw_only=True)
class PooledSounds(Medium):
    """Sounds; of each is known how many of its frames are heard.

    Attributes:
        model: whose encoder and projector.
    """

    model: PooledSoundLanguage

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        features, marks = inputs[FEATURES], inputs.get(MARKS)
        tower = self.model.audio_tower
        tower.check(features)
        if marks is not None and marks.shape != (features.shape[0], features.shape[2]):
            raise InputError(
                "the mask does not cover the sounds",
                where=MARKS,
                expected=f"shape {[features.shape[0], features.shape[2]]}",
                found=f"shape {list(marks.shape)}",
            )
        if marks is None or not is_fetchable(marks):  # nobody can look: as if all of it were sound
            return [(features.shape[2],)] * features.shape[0]
        counts = [int(count) for count in (marks != 0).sum(1).cpu().numpy().tolist()]
        if any(pooled(count) < 1 for count in counts):
            raise InputError("a sound is too short for a vector", where=MARKS, expected="3 frames", found=min(counts))
        return [(count,) for count in counts]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [pooled(count) for (count,) in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        features = inputs[FEATURES]
        if facts is None and not is_fetchable(features):  # nobody can look: as if all of it were sound
            whole: object = self.model.audio_tower(features)
            return self.model.projected(cast(BaseModelOutput, whole).last_hidden_state).flatten(0, 1)
        facts = self.known(inputs, facts)
        made = self.model.projected(self.model.heard(features, facts, {}).last_hidden_state)
        return torch.cat([own[:length] for own, length in zip(made, self.lengths(facts), strict=True)])


class PooledSoundLanguage(SoundLanguage):
    """An encoder of sounds, a projector and a decoder; hidden states out.

    Args:
        audio_tower: encodes sounds.
        multi_modal_projector: its vectors to the decoder's width.
        language_model: the decoder.
        audio_token_id: the placeholder in the text.
        pad_token_id: what rows are filled with that are widened; it is not read.
    """

    audio_tower: PooledEar
    multi_modal_projector: nn.Module
    language_model: TextDecoder
    audio_token_id: int
    pad_token_id: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.padding_side = "left"

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        return (PooledSounds(modality="audio", token_id=self.audio_token_id, inputs=NAMES, model=self),)

    def heard(self, features: Tensor, facts: Sequence[Facts], asked: Tapped) -> BaseModelOutput:
        """What the encoder gives, which hears the beginning of each window, as long as its sound is."""
        frames = torch.tensor([halved(count) for (count,) in facts], device=features.device)
        mask = torch.arange(self.audio_tower.frames, device=features.device)[None] < frames[:, None]
        whole = all(halved(count) >= self.audio_tower.frames for (count,) in facts)
        out: object = self.audio_tower(features, None if whole else mask, **asked)
        return cast(BaseModelOutput, out)

    def projected(self, hidden: Tensor) -> Tensor:
        """Encoded sounds to vectors of the decoder's width. Shape: [..., E] to [..., D]."""
        vectors: Tensor = self.multi_modal_projector(hidden)
        return vectors

    def arrive(self, inputs: dict[str, object]) -> None:
        ids = inputs.get("input_ids")
        features = inputs.get(FEATURES)
        if isinstance(ids, Tensor) and isinstance(features, Tensor):
            if ids.shape[1] == 1:  # a step of writing, to which tools hand the sounds again
                inputs[FEATURES] = inputs[MARKS] = None
            else:
                inputs.update(self.widened(inputs))
        inputs["given_mask"] = inputs.get("attention_mask")
        super().arrive(inputs)

    def widened(self, inputs: Mapping[str, object]) -> dict[str, Tensor]:
        """What changes of a call's inputs if it has one placeholder for each sound; else nothing."""
        ids, medium = inputs["input_ids"], self.medium("audio")
        given = {name: value for name in NAMES if isinstance(value := inputs.get(name), Tensor)}
        if not isinstance(ids, Tensor) or not is_fetchable(ids) or not given[FEATURES].shape[0]:
            return {}
        marked = (ids == self.audio_token_id).cpu().numpy()
        lengths = medium.lengths(medium.facts(given))
        alone = not (marked[:, :-1] & marked[:, 1:]).any()
        if not alone or marked.sum() != len(lengths) or sum(lengths) == len(lengths):
            return {}
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(ids) if not isinstance(mask, Tensor) else mask
        left = ids.shape[0] == 1 or _at_left(mask, self.padding_side)
        labels = inputs.get("labels")
        columns = {"input_ids": (ids, self.pad_token_id, self.audio_token_id), "attention_mask": (mask, 0, 1)}
        if isinstance(labels, Tensor):
            columns["labels"] = (labels, IGNORED, IGNORED)
        places = marked.tolist()
        return {name: _widened(x, places, lengths, left, pad, own) for name, (x, pad, own) in columns.items()}

    def get_audio_features(
        self, input_features: Tensor, feature_attention_mask: Tensor | None = None, **asked: Unpack[Tapped]
    ) -> MediaFeatures:
        """The encoder's output, and each sound's vectors as the decoder reads them, in ``pooler_output``.

        Args:
            input_features: Shape: [sounds, bands, frames].
            feature_attention_mask: 1 for frames of sound. Shape: [sounds, frames].
            asked: see :class:`~omniform.core.context.Tapped`.
        """
        medium = self.medium("audio")
        inputs = {FEATURES: input_features}
        if feature_attention_mask is not None:
            inputs[MARKS] = feature_attention_mask
        facts = medium.facts(inputs)
        out = self.heard(input_features, facts, asked)
        made = zip(self.projected(out.last_hidden_state), medium.lengths(facts), strict=True)
        vectors = tuple(own[:length] for own, length in made)
        return MediaFeatures(last_hidden_state=out.last_hidden_state, pooler_output=vectors, **out.noted())

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **given: Unpack[HeardInPart],
    ) -> AmongSoundsOutput:
        """Hidden states of text with sounds in it.

        Args:
            input_ids: Shape: [B, T], with a placeholder for each vector of a sound, or for each sound.
            input_features: the spectrograms of all rows' sounds, in reading order. Shape: [sounds, bands, frames].
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            given: see :class:`HeardInPart`.

        Returns:
            Also the ``attention_mask`` of the tokens that were read, where there is one.
        """
        mask = given.pop("given_mask", attention_mask)
        out = self.read(input_ids, attention_mask, cast(Merged, {**given, "input_features": input_features}))
        return AmongSoundsOutput(
            last_hidden_state=out.last_hidden_state,
            past_key_values=out.past_key_values,
            attention_mask=mask,
            **out.noted(),
        )


class PooledSoundLM(MultimodalLM):
    """Such a model that writes."""

    model: PooledSoundLanguage

    @property
    def padding_side(self) -> str:
        """Where rows are filled up that are widened, if their mask does not tell."""
        return self.model.padding_side

    @padding_side.setter
    def padding_side(self, side: str) -> None:
        self.model.padding_side = side

    def read_inputs(self, named: Mapping[str, object]) -> dict[str, object]:
        ids = named.get("input_ids")
        if isinstance(ids, Tensor) and ids.dim() == 2 and isinstance(named.get(FEATURES), Tensor):
            return {**named, **self.model.widened(named)}
        return dict(named)

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return super().loss_items({**inputs, **self.settled(inputs)})

    def lighten(self, inputs: dict[str, object]) -> None:
        inputs.update(self.settled(inputs))
        super().lighten(inputs)

    def arrive(self, inputs: dict[str, object]) -> None:
        super().arrive(inputs)
        inputs.update(self.settled(inputs))

    def settled(self, inputs: Mapping[str, object]) -> dict[str, Tensor]:
        """What changes of a call's inputs: prompts that are widened, and answers where there is padding."""
        found: dict[str, Tensor] = {}
        ids = inputs.get("input_ids")
        if isinstance(ids, Tensor) and ids.shape[1] > 1 and isinstance(inputs.get(FEATURES), Tensor):
            found = self.model.widened(inputs)
        labels, mask = ({**inputs, **found}.get(name) for name in ("labels", "attention_mask"))
        if isinstance(labels, Tensor) and isinstance(mask, Tensor) and mask.shape == labels.shape:
            found["labels"] = labels.masked_fill(mask == 0, IGNORED)  # padding is no answer, whatever its labels say
        return found

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        logits_to_keep: Tensor | int = 0,
        num_items_in_batch: Tensor | int | None = None,
        loss_only: LossOnly | bool | None = None,
        **inputs: object,
    ) -> HeardCausalLMOutput:
        """Next-token scores; see :meth:`CausalLM.forward`, and :meth:`PooledSoundLanguage.forward` for the inputs.

        Args:
            logits_to_keep: compute scores of the last so many tokens only (0 for all), or of those at some places.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            loss_only: that nobody looks at the scores.
        """
        out = cast(AmongSoundsOutput, self.model(*args, **inputs))
        logits, loss = self.scored(out.last_hidden_state, labels, logits_to_keep, num_items_in_batch, loss_only)
        return HeardCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
            attention_mask=out.attention_mask,
        )


def _at_left(mask: Tensor, usual: str) -> bool:
    """Whether a batch is padded at the left."""
    real = mask.cpu().numpy()
    left, right = bool((real[:, 0] == 0).any()), bool((real[:, -1] == 0).any())
    if left and right:
        raise InputError("rows are padded on either side", where="attention_mask", expected="all at one side")
    return left or (not right and usual == "left")


def _widened(
    values: Tensor, places: Sequence[Sequence[bool]], lengths: Sequence[int], left: bool, pad: int, own: int
) -> Tensor:
    """Rows in which each marked value is as many of ``own`` as its sound has vectors, filled up at one side."""
    rows: list[list[int]] = []
    sound = 0
    for row, marked in zip(values.cpu().numpy().tolist(), places, strict=True):
        wide: list[int] = []
        for value, here in zip(row, marked, strict=True):
            wide += [own] * lengths[sound] if here else [value]
            sound += here
        rows.append(wide)
    longest = max(map(len, rows))
    fill = [[pad] * (longest - len(row)) for row in rows]
    wide_rows = [more + row if left else row + more for row, more in zip(rows, fill, strict=True)]
    return torch.tensor(wide_rows, dtype=values.dtype, device=values.device)
