"""Models that read pictures, sounds and videos among the tokens of a text: embed, encode, merge, the very same decoder.

A model says which kinds of items it reads (:class:`Medium`, one object for each kind), and everything else is written
once, here: :class:`Multimodal` finds the items of a batch, counts their vectors before anything is computed, encodes
them, alone or several at once, and puts them in the places of their tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Final, Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import CausalLM, LanguageModel, TextDecoder
from omniform.architectures.stack import Stepped
from omniform.blocks.embeddings import table_rows
from omniform.core.batch import Facts, Item, Modality, Span
from omniform.core.config import Beginning, ModelConfig
from omniform.core.errors import ConfigError, InputError
from omniform.core.host import is_readable
from omniform.core.outputs import BaseModelOutput, MediaFeatures
from omniform.core.spans import find_spans

NAMES: Final[Mapping[Modality, str]] = {"image": "pictures", "audio": "sounds", "video": "videos"}
NOTHING: Final[Mapping[str, object]] = {}


class Among(Stepped, total=False):
    """What may come with tokens and pictures; each model takes what its media name.

    Attributes:
        image_sizes: their sizes before they were processed. Shape: [pictures, 2], height and width.
        batch_num_images: how many pictures belong to each sample. Shape: [samples].
        pixel_values_videos: videos. Shape: as the model's video processor makes it.
        image_sizes_videos: the sizes of their frames, which are not read.
        vision_feature_layer: which hidden states of the vision tower are read, if not those that the config says.
        vision_feature_select_strategy: whether its class token is left out (``"default"``) or not (``"full"``).
        vision_aspect_ratio: how many tiles' worth of vectors a picture may have (``"anyres_max_9"``).
        mm_encoder_outputs: by modality, what encoders gave already (``get_image_features`` and its like); those items'
            inputs are then not given.
        media_facts: what is known of the items on the host, by modality: :meth:`Multimodal.arrive` tells it, and who
            traces a model hands it in.
    """

    image_sizes: Tensor | None
    batch_num_images: Tensor | None
    pixel_values_videos: Tensor | None
    image_sizes_videos: Tensor | None
    vision_feature_layer: int | Sequence[int] | None
    vision_feature_select_strategy: str | None
    vision_aspect_ratio: str | None
    mm_encoder_outputs: Mapping[Modality, MediaFeatures] | None
    media_facts: Mapping[Modality, Sequence[Facts]] | None


class Merged(Among, total=False):
    """What may come with the tokens of a model that reads other things among them.

    Attributes:
        pixel_values: pictures. Shape: as the model's image processor makes it.
    """

    pixel_values: Tensor | None


_STEPPED: Final = frozenset(Stepped.__annotations__)
_MEDIA: Final = frozenset(Merged.__annotations__) - _STEPPED - {"media_facts", "mm_encoder_outputs"}


@dataclass(frozen=True, kw_only=True)
class Medium(ABC):
    """One kind of items that a model reads, and how they become vectors.

    A medium is made of a model's modules whenever it is asked for, and holds no parameters of its own. What has to be
    known of items on the host (sizes, grids, lengths) is read once, into :data:`~omniform.core.batch.Facts`; nothing
    else looks at a tensor's values.

    Attributes:
        modality: what kind.
        token_id: the token in whose places the vectors go.
        inputs: the names of the inputs that belong to the items; the first is there whenever there are items.
    """

    modality: Modality
    token_id: int
    inputs: tuple[str, ...]

    @abstractmethod
    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        """What is known of each item of a batch: from shapes and from small tables of numbers, on the host.

        Args:
            inputs: those of :attr:`inputs` that are there.

        Raises:
            InputError: shapes that no item has, or tables that do not fit.
        """

    @abstractmethod
    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        """How many vectors each item has."""

    @abstractmethod
    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        """All items at once to vectors of the decoder's width, one item's after another's.

        Args:
            inputs: as :meth:`join` or a caller hands them over.
            facts: of each item; None where nobody has read them (see :meth:`known`).

        Returns:
            Shape: [sum of lengths, D].
        """

    def known(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Sequence[Facts]:
        """The facts, read now where nobody has."""
        return self.facts(inputs) if facts is None else facts

    def told(self, vectors: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The vectors as the ecosystem's outputs show them: end to end, if a medium does not say otherwise.

        Args:
            vectors: Shape: [sum of lengths, D].
            inputs: what they were made of.
        """
        return vectors

    def rows(self, name: str, facts: Sequence[Facts]) -> list[int]:
        """How many rows of an input, along its first axis, each item has: one, if a medium does not say otherwise."""
        return [1] * len(facts)

    def cut(self, inputs: Mapping[str, Tensor]) -> list[Item]:
        """A batch's inputs as items, in reading order; what :meth:`join` puts together again."""
        facts = self.facts(inputs)
        items: list[dict[str, Tensor]] = [{} for _ in facts]
        for name, value in inputs.items():
            ends = list(accumulate(self.rows(name, facts)))
            for item, start, end in zip(items, [0, *ends], ends, strict=False):
                item[name] = value[start:end]
        return [Item(self.modality, own, known) for own, known in zip(items, facts, strict=True)]

    def join(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """The inputs of several items, of one batch or of many."""
        return {name: torch.cat([item.inputs[name] for item in items]) for name in items[0].inputs}


class Multimodal(LanguageModel):
    """Encoders and a decoder; hidden states out. A model names its modules and says its :meth:`media`.

    Args:
        language_model: the decoder. A subclass names it in its body, in the order of the ecosystem's modules.

    Attributes:
        OPTIONS: inputs that are no tensors, and say how items are read in this call; see :meth:`media`.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    if TYPE_CHECKING:
        language_model: TextDecoder

    @abstractmethod
    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        """The kinds of items that it reads.

        Args:
            options: a call's inputs, among them those of :attr:`OPTIONS` that it says.
        """

    def medium(self, modality: Modality, options: Mapping[str, object] = NOTHING) -> Medium:
        """The one of this modality."""
        return next(medium for medium in self.media(options) if medium.modality == modality)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    @property
    def decoder(self) -> TextDecoder:
        return self.language_model

    @property
    def reads_items(self) -> bool:
        return True

    @property
    def placeholders(self) -> frozenset[int]:
        return frozenset(medium.token_id for medium in self.media())

    def accepts(self) -> frozenset[str]:
        own = {name for medium in self.media() for name in medium.inputs}
        return super().accepts() - (_MEDIA - own - self.OPTIONS)

    def unpads(self) -> bool:
        return self.language_model.unpads()

    # -- items, for the engine -----------------------------------------------------------------------------------------

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        media = self.media()
        others = sorted(features.keys() - {name for medium in media for name in medium.inputs})
        if others:
            kinds = ", ".join(NAMES[medium.modality] for medium in media)
            raise InputError(f"this model reads {kinds} and text only", where=", ".join(others))
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows])
        found: list[list[tuple[int, Item]]] = [[] for _ in rows]
        for medium in media:
            given = _own(medium, features)
            items = medium.cut(given) if given else []
            placed = _first_runs(
                find_spans(ids, medium.token_id, medium.lengths([i.facts for i in items]), medium.modality)
            )
            for span in placed:
                found[span.row].append((span.start, items[span.item]))
        return [[item for _, item in sorted(own, key=lambda one: one[0])] for own in found]

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        medium = self.medium(items[0].modality)
        facts = [item.facts for item in items]
        return list(torch.split(medium.encode(medium.join(items), facts), medium.lengths(facts)))

    def spans(self, row: Sequence[int], items: Sequence[Item], lengths: Sequence[int]) -> list[Span]:
        ids, found = torch.tensor([row]), list[Span]()
        for medium in self.media():
            own = [length for item, length in zip(items, lengths, strict=True) if item.modality == medium.modality]
            found += find_spans(ids, medium.token_id, own, medium.modality)
        return found

    # -- whole batches -------------------------------------------------------------------------------------------------

    def arrive(self, inputs: dict[str, object]) -> None:
        media = self.media(inputs)
        there = [(medium, given) for medium in media if (given := _own(medium, inputs))]
        ready = {medium.modality: made for medium in media if (made := _ready(medium, inputs)) is not None}
        if twice := [medium.inputs[0] for medium, _ in there if medium.modality in ready]:
            raise InputError("these items are given, and encoded as well", where=f"mm_encoder_outputs, {twice[0]}")
        if (there or ready) and inputs.get("input_ids") is None:
            names = " and ".join(NAMES[kind] for kind in (*(medium.modality for medium, _ in there), *ready))
            raise InputError(f"{names} need the text's ids to find their places", where="input_ids", found="none")
        self.arrive_text(inputs)
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor) or inputs.get("inputs_embeds") is not None:
            return
        if there and inputs.get("media_facts") is None:
            inputs["media_facts"] = {medium.modality: medium.facts(given) for medium, given in there}
        facts = cast("Mapping[Modality, Sequence[Facts]]", inputs.get("media_facts") or {})
        for medium in media:
            made = ready.get(medium.modality)
            lengths = medium.lengths(facts.get(medium.modality, ())) if made is None else [len(one) for one in made]
            # On an accelerator placeholders are counted where there are items: too few of them would end its work.
            if is_readable(ids) or (lengths and ids.device.type not in ("cpu", "meta")):
                find_spans(ids, medium.token_id, lengths, medium.modality)

    def arrive_text(self, inputs: dict[str, object]) -> None:
        """Check what the decoder is given beside the items."""
        ids = inputs.get("input_ids")
        if isinstance(ids, Tensor):
            inputs["input_ids"] = self.named_by_table(ids)
        self.language_model.arrive(inputs)
        if isinstance(ids, Tensor):
            inputs["input_ids"] = ids

    def named_by_table(self, input_ids: Tensor) -> Tensor:
        rows = table_rows(self.language_model.get_input_embeddings())
        for medium in self.media():
            if medium.token_id >= rows:  # as in files of early releases; a vector of the item's comes into its place
                input_ids = input_ids.masked_fill(input_ids == medium.token_id, 0)
        return input_ids

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to the vectors that items are put among. Shape: [B, T] to [B, T, D]."""
        return self.language_model.embed(self.named_by_table(input_ids))

    def merged(self, input_ids: Tensor, given: Merged) -> tuple[Tensor, dict[Modality, Tensor]]:
        """Token vectors with the items in their places, Shape: [B, T, D], and all items' vectors by modality."""
        vectors: dict[Modality, Tensor] = {}
        embeds = self.embed(input_ids)
        facts = given.get("media_facts") or {}
        for medium in self.media(given):
            own = _inputs(medium, given)
            ready = _ready(medium, given)
            if ready is not None or _is_there(medium, given):
                made = medium.encode(own, facts.get(medium.modality)) if ready is None else torch.cat(ready)
                marked = (input_ids == medium.token_id)[..., None]
                embeds = embeds.masked_scatter(marked, made.to(embeds))
                vectors[medium.modality] = medium.told(made, own) if ready is None else made
        return embeds, vectors

    def read(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, given: Merged, **more: object
    ) -> BaseModelOutput:
        """One forward of text with items in it; ``more``: what the decoder takes beside its own."""
        stepped = cast(Stepped, {name: value for name, value in given.items() if name in _STEPPED} | more)
        vectors: dict[Modality, Tensor] = {}
        if input_ids is not None and stepped.get("inputs_embeds") is None:
            embeds, vectors = self.merged(input_ids, given)
            stepped["inputs_embeds"] = embeds
        out = self.language_model.forward(None, attention_mask, **stepped)
        out.image_hidden_states = vectors.get("image")
        out.audio_hidden_states = vectors.get("audio")
        out.video_hidden_states = vectors.get("video")
        return out

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Merged]
    ) -> BaseModelOutput:
        """Hidden states of text with pictures, sounds and videos in it.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            given: the inputs of the items, those of all rows in reading order; and see
                :class:`~omniform.architectures.stack.Stepped`.
        """
        return self.read(input_ids, attention_mask, given)


class MultimodalLM(CausalLM):
    """A model that reads more than text, and writes."""

    model: Multimodal


def check_fit(first: str, gives: int, second: str, takes: int) -> None:
    """Raise :class:`ConfigError` unless what one module gives is as wide as what the next one takes."""
    if gives != takes:
        raise ConfigError(
            f"{second} does not fit behind {first}",
            where=f"config.json: {first}, {second}",
            expected=f"vectors of {gives} numbers, as {first} gives them",
            found=f"{second} reads vectors of {takes}",
        )


def parted_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Each part begins as its own family's models do."""
    inner = path.removeprefix("model.")
    parts = {"language_model.": "text_config", "lm_head.": "text_config", "vision_tower.": "vision_config"}
    parts |= {"visual.": "vision_config", "audio_tower.": "audio_config"}
    found = next(((key, start) for start, key in parts.items() if inner.startswith(start)), None)
    if found is None and "initializer_range" in config.raw:
        return None
    part = config.get(found[0] if found is not None else "text_config")
    assert isinstance(part, ModelConfig)
    if found is None:
        return part.common.initializer_range
    rest = inner if inner.startswith("lm_head.") else inner.removeprefix(found[1])
    how = part.beginning(rest)
    return part.common.initializer_range if how is None else how


def _own(medium: Medium, given: Mapping[str, object]) -> dict[str, Tensor]:
    """The inputs of a medium's items; nothing where there are no items."""
    return _inputs(medium, given) if _is_there(medium, given) else {}


def _is_there(medium: Medium, given: Mapping[str, object]) -> bool:
    """Whether there are any items of a medium."""
    main = given.get(medium.inputs[0])
    return isinstance(main, Tensor) and main.shape[0] > 0


def _inputs(medium: Medium, given: Mapping[str, object]) -> dict[str, Tensor]:
    """What is given of a medium's inputs, be there items or none."""
    found = {name: given.get(name) for name in medium.inputs}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _ready(medium: Medium, given: Mapping[str, object]) -> tuple[Tensor, ...] | None:
    """The vectors of each item, where a caller has had them encoded."""
    outputs = given.get("mm_encoder_outputs")
    if outputs is None:
        return None
    if not isinstance(outputs, Mapping):
        raise InputError("outputs come by modality", where="mm_encoder_outputs", found=type(outputs).__name__)
    out = outputs.get(medium.modality)
    vectors = out.pooler_output if isinstance(out, MediaFeatures) else None
    if out is not None and vectors is None:
        raise InputError(
            "this is not what an encoder of the model gives",
            where=f"mm_encoder_outputs[{medium.modality!r}]",
            expected="what get_image_features or its like returns",
            found=type(out).__name__,
        )
    return None if vectors is None else tuple(vectors)


def _first_runs(spans: Iterable[Span]) -> list[Span]:
    """The first of each item's runs of tokens."""
    return list({span.item: span for span in reversed(list(spans))}.values())[::-1]
