"""What a graph reads: names, axes of any size, and examples to trace and to compare by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError
from omniform.export.onnx.states import BATCH, PAST, Piece

LENGTH, WHOLE = "sequence_length", f"{PAST} + sequence_length"
CHOICES, HEIGHT, WIDTH, SAMPLES, FRAMES = "num_choices", "height", "width", "num_samples", "num_frames"
IMAGES = "num_images"
TEXT_BATCH, IMAGE_BATCH, ANSWER = "text_batch_size", "image_batch_size", "decoder_sequence_length"

Sizes = Mapping[str, int]
Make = Callable[["Input", Sizes, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a graph.

    Attributes:
        name: as loaders call it.
        dims: sizes, or names of axes of any size.
        make: an example of given sizes.
        maybe: axes that are of any size only where the model allows it.
        asked: what the model's forward calls it.
    """

    name: str
    dims: tuple[int | str, ...]
    make: Make
    maybe: Mapping[str, int] = field(default_factory=dict)
    asked: str = ""

    @property
    def keyword(self) -> str:
        """What the model's forward calls it."""
        return self.asked or self.name

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The dims, with these sizes of the axes."""
        return tuple(size_of(dim, {**self.maybe, **sizes}) for dim in self.dims)

    def example(self, sizes: Sizes, seed: int = 0) -> Tensor:
        """Of these sizes; the same for the same seed."""
        return self.make(self, sizes, torch.Generator().manual_seed(seed))


def size_of(dim: int | str, sizes: Sizes) -> int:
    """A size, or the sum of the axes that a name tells of."""
    return dim if isinstance(dim, int) else sum(sizes[part.strip()] for part in dim.split("+"))


def ones(own: Input, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """A mask of real tokens."""
    return torch.ones(own.shape(sizes), dtype=torch.int64)


def zeros(own: Input, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Types of the first kind."""
    return torch.zeros(own.shape(sizes), dtype=torch.int64)


def noise(own: Input, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Features."""
    return torch.randn(own.shape(sizes), generator=generator)


def counted(own: Input, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Positions that go on from what came before."""
    past, (rows, length) = sizes.get(PAST, 0), own.shape(sizes)
    return torch.arange(past, past + length)[None].repeat(rows, 1)


def tokens(model: Model) -> Make:
    """Makes ids that the model has, and that mean nothing special to it where there are enough of them."""
    vocabulary = min(table.num_embeddings for table in model.token_tables())
    special = specials_of(model)
    plain = torch.tensor([t for t in range(min(vocabulary, 4096)) if t not in special] or [0])

    def make(own: Input, sizes: Sizes, generator: torch.Generator) -> Tensor:
        return plain[torch.randint(len(plain), own.shape(sizes), generator=generator)]

    return make


def ending(own: Input, model: Model) -> Input:
    """The same input of ids, whose rows end as texts do: by the end token."""
    (end,) = model.config.common.eos_token_ids[:1] or (None,)
    if end is None:
        return own

    def make(_: Input, sizes: Sizes, generator: torch.Generator) -> Tensor:
        ids = own.make(own, sizes, generator)
        ids[..., -1] = end
        return ids

    return replace(own, make=make)


def specials_of(model: Model) -> set[int]:
    """Ids that a config names: padding, ends, placeholders of pictures."""
    raws: list[Mapping[str, object]] = [raw_of(model)]
    raws += [value for value in raws[0].values() if isinstance(value, Mapping)]
    common = model.config.common
    found = {common.pad_token_id, common.bos_token_id, *common.eos_token_ids}
    for raw in raws:
        for key, value in raw.items():
            if key.endswith(("token_id", "token_index")) and isinstance(value, int):
                found.add(value)
    return {token for token in found if token is not None}


def raw_of(model: Model) -> Mapping[str, object]:
    """The config as the checkpoint writes it."""
    return model.config.raw


def text(model: Model, names: Sequence[str], *, past: bool = False, batch: str = BATCH) -> list[Input]:
    """Inputs of text, those among the names, in this order."""
    whole = WHOLE if past else LENGTH
    known = {
        "input_ids": Input("input_ids", (batch, LENGTH), tokens(model)),
        "attention_mask": Input("attention_mask", (batch, whole), ones),
        "token_type_ids": Input("token_type_ids", (batch, LENGTH), zeros),
        "position_ids": Input("position_ids", (batch, LENGTH), counted),
    }
    return [known[name] for name in names]


def pieces(found: Sequence[Piece], skip: Sequence[str] = ()) -> list[Input]:
    """Inputs of a state."""
    return [Input(piece.past, piece.dims, noise) for piece in found if piece.spec.kept not in skip]


def picture(model: Model, name: str = "pixel_values", batch: str = BATCH) -> Input:
    """An input of pictures: of any size where the model allows that, else of the one that its config says."""
    channels, height, width = picture_size(model)
    return Input(name, (batch, channels, HEIGHT, WIDTH), noise, {HEIGHT: height, WIDTH: width})


def film(model: Model) -> Input:
    """An input of videos, of as many frames as the config says."""
    channels, height, width = picture_size(model)
    frames = _found(model, "num_frames")
    return Input("pixel_values", (BATCH, int(cast(int, frames)), channels, height, width), noise)


MEDIA, TEXTS = ("vision_config", "audio_config", "backbone_config", "encoder"), ("text_config", "decoder")
"""Where a config of several holds the one that tells of pictures or sounds, and of text."""


def said(model: Model, *keys: str, parts: Sequence[str] = TEXTS) -> object:
    """What a config says under the first of some keys, itself or in its parts; None where it says nothing."""
    for own in _configs(model.config, parts):
        for key in keys:
            found = cast("Mapping[str, object]", vars(own)["values"]).get(key, own.raw.get(key))
            if found is not None:
                return found
    return None


def _configs(config: ModelConfig, parts: Sequence[str]) -> Iterator[ModelConfig]:
    """A config, and those of its parts, outer ones first."""
    yield config
    for part in parts:
        if part in config.parts:
            yield from _configs(config.parts[part], parts)


def _found(model: Model, *keys: str) -> object:
    return said(model, *keys, parts=MEDIA)


def picture_size(model: Model) -> tuple[int, int, int]:
    """Channels, height and width of a model's pictures: as its config says, or 224 by 224."""
    channels, size = _found(model, "num_channels", "in_channels"), _found(model, "image_size", "input_size")
    count = channels if isinstance(channels, int) else 3
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(one, int) for one in size):
        return count, int(size[0]), int(size[1])
    side = size if isinstance(size, int) else 224
    return count, side, side


def sound(model: Model, name: str) -> Input:
    """An input of sounds: waves of any length, or features of the length that the config says.

    Raises:
        InputError: the config says no size of features.
    """
    strides, kernels = _found(model, "conv_stride"), _found(model, "conv_kernel")
    bins = _found(model, "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel")
    if name == "input_values" and (strides is not None or not isinstance(bins, int)):
        hop = prod(strides) if isinstance(strides, (list, tuple)) else 384
        last = kernels[-1] if isinstance(kernels, (list, tuple)) else 7
        channels = _found(model, "audio_channels")
        between = (channels,) if isinstance(channels, int) else ()
        return Input(name, (BATCH, *between, SAMPLES), noise, {SAMPLES: hop * (20 + int(last))})
    if not isinstance(bins, int):
        raise InputError("the config says no size of sounds", where=name, expected="num_mel_bins", found="nothing")
    frames, places = _found(model, "max_length"), _found(model, "max_source_positions")
    if name == "input_values":  # spectrograms that are looked at as pictures
        return Input(name, (BATCH, int(cast(int, frames)), bins), noise)
    if _found(model, "feature_projection_input_dim") is None and isinstance(places, int):
        return Input(name, (BATCH, bins, 2 * places), noise)
    return Input(name, (BATCH, FRAMES, bins), noise, {FRAMES: 40})
