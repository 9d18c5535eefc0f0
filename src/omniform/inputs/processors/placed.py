"""Texts with pictures, sounds and videos among their words: markers become placeholders, counted and found once.

A family says what stands for an item in a text, how its parts read items, and what a marker becomes (:class:`Taken`).
Counting markers against items, expanding, tokenizing, finding the runs of placeholders (:class:`Span`) and refusing
what does not fit, before anything is computed, is written here.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

from omniform.core.batch import Batch, Modality
from omniform.core.errors import ConfigError, InputError
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.processors.base import TEXT_OPTIONS, InputPart, Processor, image_options, read_texts, video_options
from omniform.inputs.processors.media import films, image_rows, sounds
from omniform.inputs.processors.options import CallOptions, Part
from omniform.inputs.processors.speech import audio_options
from omniform.inputs.spans import PlacedItem, placed_spans
from omniform.inputs.text.encoding import BatchEncoding, Edit
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos.processor import VideoProcessor

KINDS: Mapping[Modality, int] = {"image": 1, "video": 2, "audio": 3}
"""What ``mm_token_type_ids`` holds for the placeholders of a modality; 0 for text."""

_NAMES: Mapping[Modality, str] = {"image": "picture", "video": "video", "audio": "sound"}


@dataclass(frozen=True, slots=True)
class Slot:
    """How one modality stands in texts.

    Attributes:
        modality: what kind of item it is.
        marker: what stands for one item in a text.
        token: the token whose places take the item's vectors once the marker is expanded.
    """

    modality: Modality
    marker: str
    token: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What a processor's part made of the items of one modality.

    Attributes:
        entries: the model's inputs.
        expansions: what the marker of each item becomes in its text. The slot's token stands in it as often as the
            model has vectors for the item. What stands in it of another slot's token is that modality's next item.
    """

    entries: Mapping[str, object] = field(default_factory=dict)
    expansions: Sequence[str] = ()


class PlacedProcessor(Processor):
    """Base of the processors of models that read media among their tokens.

    Args:
        tokenizer: of the texts; it must know the slots' tokens.
        slots: how each modality stands in texts.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        ConfigError: the tokenizer does not know a slot's token.
    """

    marks_media: ClassVar[bool] = False
    """Whether ``mm_token_type_ids`` come without being asked for."""

    def __init__(
        self, tokenizer: Tokenizer, slots: Sequence[Slot], *, chat_template: ChatTemplates = None, where: str = ""
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self.slots = tuple(slots)
        self._ids = {slot.modality: self._id_of(slot, where) for slot in self.slots}

    def _id_of(self, slot: Slot, where: str) -> int:
        found = self.tokenizer.backend.token_to_id(slot.token)
        if found is None:
            raise ConfigError(
                f"the tokenizer has no such {slot.modality} token",
                where=where or self.tokenizer.name_or_path,
                found=repr(slot.token),
                remedy=f"{slot.modality}_token= names another one.",
            )
        return found

    @abstractmethod
    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        """Have the part for a modality read some items, those of all rows in reading order.

        Args:
            asked: the options of the call, sorted by part; what the processor itself wants of them it may take out.
        """

    # ---- the call

    def _placed(
        self,
        text: str | Sequence[str] | None,
        media: Mapping[Modality, object],
        options: Mapping[str, object],
        own: tuple[str, ...] = (),
    ) -> Batch:
        """Turn texts and the media in them into the model's inputs: the body of every subclass's call.

        Args:
            text: a text or several, with a marker for each item.
            media: what the call was given of each modality; None for nothing.
            options: the options of all parts.
            own: names of options of the processor's own.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]`` if there is text, and what the parts made of the media, with
            the :class:`~omniform.core.batch.Span` s of the items in ``spans``.

        Raises:
            InputError: a row has more or fewer markers than items, truncation cuts through placeholders, or an input
                cannot be used.
            UnknownArgumentError: there is no such option.
        """
        asked = self._options(options, ("return_mm_token_type_ids", *own))
        items, counts = self._rows_of(media)
        if text is None and not any(items.values()):
            what = " nor ".join(["neither text", *(f"a {_NAMES[slot.modality]}" for slot in self.slots)])
            raise InputError(f"there is {what}", where=type(self).__name__)
        rows = None if text is None else [self._opened(row) for row in read_texts(text)]
        if rows is not None:
            self._check_counts(rows, items, counts)
        taken = {kind: self._take(kind, own_items, asked) for kind, own_items in items.items() if own_items}
        entries = {name: value for one in taken.values() for name, value in one.entries.items()}
        if rows is None:
            return Batch(entries)
        expanded, placed, edits = self._expanded(rows, taken)
        kind = cast("str | None", asked.text.pop("return_tensors", None))
        batch = self._encoded(expanded, asked)
        ids = cast("list[list[int]]", batch["input_ids"])
        batch.spans = placed_spans(ids, placed)
        batch.edits = edits
        if asked.own.get("return_mm_token_type_ids", self.marks_media):
            batch["mm_token_type_ids"] = self._kinds_of(ids)
        batch.update(entries)
        finished = self._finished(batch)
        known = finished.pop("video_metadata", None)
        finished.as_tensors(kind)
        if known is not None:
            finished["video_metadata"] = known  # objects, which make no tensor
        return finished

    def _opened(self, text: str) -> str:
        """A text as its markers are looked for in it."""
        return text

    def _encoded(self, texts: Sequence[str], asked: CallOptions) -> BatchEncoding:
        """The texts, their markers replaced, as tokens."""
        return self.tokenizer(texts, **cast(EncodeOptions, asked.text))

    def _finished(self, batch: BatchEncoding) -> BatchEncoding:
        """The batch as the model is to see it."""
        return batch

    def _rows_of(
        self, media: Mapping[Modality, object]
    ) -> tuple[dict[Modality, list[object]], dict[Modality, list[int] | None]]:
        """The items of each modality in reading order, and how many each row has where lists of lists say so."""
        items: dict[Modality, list[object]] = {}
        counts: dict[Modality, list[int] | None] = {}
        for kind, given in media.items():
            if given is None:
                items[kind], counts[kind] = [], None
            elif kind == "image":
                items[kind], counts[kind] = image_rows(given)
            else:
                items[kind], counts[kind] = films(given) if kind == "video" else sounds(given), None
        return items, counts

    def _check_counts(
        self,
        rows: Sequence[str],
        items: Mapping[Modality, Sequence[object]],
        counts: Mapping[Modality, Sequence[int] | None],
    ) -> None:
        """Refuse rows whose markers and items do not match."""
        for slot in self.slots:
            have, given = len(items.get(slot.modality, ())), counts.get(slot.modality)
            found = [sum(one is slot for one, _ in self._markers(row)) for row in rows]
            by_row = given if given is not None and len(given) == len(rows) else None
            left = have
            for row, count in enumerate(found):
                there = left if by_row is None else by_row[row]
                last = by_row is not None or row == len(found) - 1
                if count > there or (last and count < there):
                    raise _mismatch(slot, row, there, found)
                left -= count

    def _markers(self, text: str) -> Iterator[tuple[Slot, re.Match[str]]]:
        """The markers in a text, in order."""
        by_marker = {slot.marker: slot for slot in self.slots}
        longest_first = sorted(by_marker, key=len, reverse=True)
        for found in re.finditer("|".join(map(re.escape, longest_first)), text):
            yield by_marker[found[0]], found

    def _expanded(
        self, rows: Sequence[str], taken: Mapping[Modality, Taken]
    ) -> tuple[list[str], list[list[PlacedItem]], tuple[tuple[Edit, ...], ...]]:
        """The texts with markers replaced, the items of each, and where that happened."""
        texts: list[str] = []
        placed: list[list[PlacedItem]] = []
        edits: list[tuple[Edit, ...]] = []
        seen: dict[Modality, int] = {}
        for row in rows:
            pieces: list[str] = []
            own: list[PlacedItem] = []
            changed: list[Edit] = []
            at = 0
            for slot, found in self._markers(row):
                item = seen.get(slot.modality, 0)
                seen[slot.modality] = item + 1
                expansion = taken[slot.modality].expansions[item]
                pieces += (row[at : found.start()], expansion)
                at = found.end()
                count = expansion.count(slot.token)
                whole = expansion == slot.token * count
                own.append(PlacedItem(slot.modality, item, self._ids[slot.modality], count, whole))
                for other in self.slots:  # a film's own sound stands in what its marker became
                    within = 0 if other.token == slot.token else expansion.count(other.token)
                    if within:
                        inner = seen.get(other.modality, 0)
                        seen[other.modality] = inner + 1
                        own.append(PlacedItem(other.modality, inner, self._ids[other.modality], within, False))
                changed.append(Edit(found.start(), found.end(), len(expansion)))
            texts.append("".join((*pieces, row[at:])))
            placed.append(own)
            edits.append(tuple(changed))
        return texts, placed, tuple(edits)

    def _kinds_of(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        kinds: dict[int, int] = {}
        for slot in self.slots:
            kinds.setdefault(self._ids[slot.modality], KINDS[slot.modality])
        return [[kinds.get(token, 0) for token in row] for row in ids]

    def marked(self, text: str, kinds: Sequence[Modality]) -> str:
        opened = [slot.modality for slot, _ in self._markers(self._opened(text))]
        markers = {slot.modality: slot.marker for slot in self.slots}
        missing = [kind for kind in dict.fromkeys(kinds) for _ in range(kinds.count(kind) - opened.count(kind))]
        return "".join(f"{markers[kind]}\n" for kind in missing if kind in markers) + text

    # ---- what it is made of

    @property
    def typed(self) -> Mapping[Modality, tuple[str, ...]]:
        return {slot.modality: tuple(dict.fromkeys((slot.marker, slot.token))) for slot in self.slots}

    def _known(self) -> dict[Part, frozenset[str]]:
        known: dict[Part, frozenset[str]] = {"text": TEXT_OPTIONS}
        for part in self._parts().values():
            known.update(options_of(part))
        return known


def options_of(part: InputPart) -> dict[Part, frozenset[str]]:
    """What a part may be asked, by the part's name in a call."""
    match part:
        case ImageProcessor():
            return {"images": image_options(part)}
        case VideoProcessor():
            return {"videos": video_options(part)}
        case FeatureExtractor():
            return {"audio": audio_options(type(part))}
    return {}


def _mismatch(slot: Slot, row: int, there: int, found: Sequence[int]) -> InputError:
    what = _NAMES[slot.modality]
    return InputError(
        f"the {slot.marker} placeholders do not match the {what}s",
        where=f"text, row {row}",
        expected=f"{there} placeholder(s) for {there} {what}(s)",
        found=f"{found[row]} placeholder(s)" + (f" (by row: {list(found)})" if len(found) > 1 else ""),
        remedy=f"Write {slot.marker} once for each {what}.",
    )
