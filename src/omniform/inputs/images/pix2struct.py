"""Pix2Struct's pictures: as many patches as a number allows, each behind its row and column, and a text written above.

The text is drawn as the model was trained with it (https://arxiv.org/abs/2210.03347), in a font that the caller names.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, MissingPartError, RepoError, brief
from omniform.inputs.images import ops
from omniform.inputs.images.backends import Backend
from omniform.inputs.images.options import FlatOptions, ImageOptions
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors
from omniform.inputs.images.sizes import Exact, exact
from omniform.inputs.images.steps import Plan
from omniform.inputs.media_access import MediaAccess

FONT_SIZE, LINE, MARGIN = 36, 80, 5
"""Points of the font, characters of a line, and pixels around the text."""

Font = str | os.PathLike[str] | bytes
"""A file of a font, or what it holds."""


def flat(_: ImageOptions, b: Backend) -> Plan:
    """Nothing of what other kinds do: sizes and values are this processor's own affair."""
    return Plan((), (), None)


def written(text: str, font: Font) -> Image.Image:
    """A text in black on white, in lines.

    Raises:
        RepoError: the font cannot be read.
    """
    source = io.BytesIO(font) if isinstance(font, bytes) else os.fspath(font)
    try:
        drawn = ImageFont.truetype(source, size=FONT_SIZE, encoding="UTF-8")
    except OSError as error:
        found = "bytes" if isinstance(font, bytes) else os.fspath(font)
        raise RepoError("this font cannot be read", where="font_path", found=found) from error
    lines = "\n".join(textwrap.wrap(text, LINE))
    _, _, right, below = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), lines, font=drawn)
    page = Image.new("RGB", (int(right) + 2 * MARGIN, int(below) + 2 * MARGIN), "white")
    ImageDraw.Draw(page).text((MARGIN, MARGIN), lines, fill="black", font=drawn)
    return page


def with_header(image_CHW: Tensor, text: str, font: Font) -> Tensor:
    """A picture below a text; both get the width of the wider one. Shape: [3, height, width] in and out."""
    below = image_CHW if image_CHW.dtype == torch.uint8 else (image_CHW * 255).clamp(0, 255).to(torch.uint8)
    picture = Image.fromarray(below.cpu().permute(1, 2, 0).contiguous().numpy())
    above = written(text, font)
    width = max(above.width, picture.width)
    tall, head = (int(one.height * (width / one.width)) for one in (picture, above))
    ops.check_area(tall + head, width, "writing above")
    page = Image.new("RGB", (width, tall + head), "white")
    page.paste(above.resize((width, head)), (0, 0))
    page.paste(picture.resize((width, tall)), (0, head))
    found = torch.from_numpy(np.array(page)).permute(2, 0, 1).to(image_CHW.device)
    return found if image_CHW.dtype == torch.uint8 else found.float() / 255.0


def standardized(image_CHW: Tensor, b: Backend) -> Tensor:
    """A picture less its own mean, by its own deviation, which is at least that of one odd number in it."""
    least = 1.0 / image_CHW.numel() ** 0.5
    if b.name == "pil":
        values = image_CHW.cpu().numpy()
        values = values.astype(np.float32) if values.dtype == np.uint8 else values
        return torch.from_numpy((values - np.mean(values)) / max(np.std(values), least))
    values_CHW = image_CHW if image_CHW.is_floating_point() else image_CHW.float()
    return (values_CHW - values_CHW.mean()) / values_CHW.std().clamp(min=least)


def flattened_patches(image_CHW: Tensor, most: int, patch: Exact) -> Tensor:
    """A picture as patches: its size is changed so that as many fit as may be.

    Returns:
        Shape: [most, 2 + height * width * channels]: row and column, from 1, and its numbers; zeros behind.
    """
    channels, height, width = image_CHW.shape
    scale = (most * (patch.height / height) * (patch.width / width)) ** 0.5
    rows = max(min(int(scale * height / patch.height), most), 1)
    columns = max(min(int(scale * width / patch.width), most), 1)
    image_CHW = ops.resize(image_CHW.float(), rows * patch.height, columns * patch.width, resample=2)
    cut = image_CHW.reshape(channels, rows, patch.height, columns, patch.width).permute(1, 3, 2, 4, 0)
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(image_CHW) + 1
    patches = torch.cat((places, cut.reshape(rows * columns, -1)), dim=1)
    return F.pad(patches, (0, 0, 0, most - len(patches)))


class FlatImageProcessor(ImageProcessor):
    """Pix2Struct's: pictures as patches, and which of them are real."""

    model_input_names: ClassVar[Sequence[str]] = ("flattened_patches", "attention_mask")
    beside = ("header_text", "font_path", "font_bytes")

    @property
    def is_vqa(self) -> bool:
        """Whether what is asked is written above the picture."""
        return bool(cast(FlatOptions, self.options).is_vqa)

    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        header_text: str | Sequence[str] | None = None,
        *,
        font_path: str | os.PathLike[str] | None = None,
        font_bytes: bytes | None = None,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures; see :meth:`ImageProcessor.__call__`.

        Args:
            header_text: what is written above each picture, or above all; read with ``is_vqa`` alone.
            font_path, font_bytes: the font that it is written in; checkpoints were trained with Arial.

        Returns:
            ``flattened_patches [B, max_patches, 2 + numbers of a patch]`` and ``attention_mask [B, max_patches]``.

        Raises:
            InputError: there is no text where one is needed, or not one for every picture.
            MissingPartError: there is a text and no font.
            RepoError: the font cannot be read.
        """
        options = cast(FlatOptions, self._changed(return_tensors, overrides))
        if options.max_patches is None:
            raise InputError("patches need it, and it is not set", where="max_patches")
        patch = exact(options.patch_size, "patch_size")
        pictures = list(load_tensors(images, options, self.kind.backend, media_access))
        if options.is_vqa:
            font = font_path if font_path is not None else font_bytes
            pictures = self._headed(pictures, header_text, font)
        found = []
        for picture in pictures:
            values = standardized(picture, self.kind.backend) if options.do_normalize else picture
            found.append(flattened_patches(values, options.max_patches, patch))
        patches = torch.stack(found)
        batch = {"flattened_patches": patches, "attention_mask": (patches.sum(-1) != 0).float()}
        kind = options.return_tensors
        if kind is None:
            return Batch({name: [self.kind.backend.loose(one) for one in rows] for name, rows in batch.items()})
        return Batch({name: as_kind(rows, kind) for name, rows in batch.items()})

    def _headed(self, pictures: list[Tensor], texts: str | Sequence[str] | None, font: Font | None) -> list[Tensor]:
        each = [texts] * len(pictures) if isinstance(texts, str) else texts
        fits = isinstance(each, (list, tuple)) and all(isinstance(one, str) for one in each)
        if each is None or not fits or len(each) != len(pictures):
            expected = f"a text, or {len(pictures)}: what is asked is written above the picture (is_vqa)"
            raise InputError(
                "the pictures' texts are wanted", where="header_text", expected=expected, found=brief(texts)
            )
        if font is None:
            raise MissingPartError(
                "a text is to be written above a picture, in no font",
                where="font_path",
                remedy="Pass font_path=..., a file such as Arial.TTF of huggingface.co/ybelkada/fonts.",
            )
        return [with_header(picture, text, font) for picture, text in zip(pictures, each, strict=True)]
