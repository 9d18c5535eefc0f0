"""Files of several pictures, very large and very thin ones, and pixels that are lent and not copied."""

from __future__ import annotations

import gc
import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from omniform.core.errors import InputError, OmniformError
from omniform.inputs.images import load_frames, load_image
from omniform.inputs.images.decoded import pixels
from omniform.inputs.media_access import MediaAccess
from reference import omniform

COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]


def film(form: str, **options: object) -> bytes:
    frames = [Image.new("RGB", (20, 14), colour) for colour in COLOURS]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_frames(form: str, caplog: pytest.LogCaptureFixture) -> None:
    data = film(form, **({"lossless": True} if form == "WEBP" else {}))
    with caplog.at_level(logging.WARNING, logger="omniform"):
        first = load_image(data)
    assert "load_frames" in caplog.text and np.abs(np.asarray(first)[3, 3].astype(int) - COLOURS[0]).max() <= 1
    frames = load_frames(data)
    assert [np.abs(np.asarray(one)[3, 3].astype(int) - c).max() <= 1 for one, c in zip(frames, COLOURS, strict=True)]
    found = omniform.VideoMAEImageProcessor(size={"shortest_edge": 10}, crop_size=8)(frames, return_tensors="pt")
    assert found.pixel_values.shape == (1, 3, 3, 8, 8)
    caplog.clear()
    buffer = io.BytesIO()
    first.save(buffer, form)
    with caplog.at_level(logging.WARNING, logger="omniform"):
        assert len(load_frames(buffer.getvalue())) == 1 and load_image(buffer.getvalue()).size == (20, 14)
    assert not caplog.records
    assert len(load_frames(np.zeros((9, 5, 3), np.uint8))) == len(load_frames(first)) == 1


def test_frames_that_are_refused() -> None:
    with pytest.raises(InputError, match="too large together"):
        load_frames(film("GIF"), media_access=MediaAccess(max_total_pixels=600))
    for form in ("GIF", "TIFF", "WEBP", "PNG"):
        data = film(form)
        for cut in (len(data) // 3, len(data) // 2, len(data) - 9):
            for read in (load_frames, load_image, omniform.ViTImageProcessor(size=8)):
                try:
                    read(data[:cut])
                except OmniformError as error:
                    assert len(str(error)) < 2000


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_lent_pixels_are_the_pictures_own(mode: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, (31, 23, 4), dtype=np.uint8)
    image = Image.fromarray(array).convert("RGB").convert(mode) if mode != "RGBA" else Image.fromarray(array)
    lent, copied = pixels(image, "x"), pixels(image, "x", lend=False)
    assert torch.equal(lent, copied)
    expected = np.array(image)
    del image
    gc.collect()
    noise = [Image.new(mode, (31, 23), 7 if mode == "L" else (7,) * len(mode)) for _ in range(50)]
    assert np.array_equal(lent.numpy(), expected) and len(noise) == 50


def test_what_is_returned_is_nobody_elses() -> None:
    """With no step to change them, pictures of the caller's memory come back as copies."""
    image = Image.new("L", (9, 9), 3)
    ours = omniform.ViTImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    for batch in ([image], [image, Image.new("L", (5, 5))]):
        found = ours(batch).pixel_values[0]
        found.fill_(200)
        assert np.asarray(image).max() == 3
    coloured = Image.new("RGB", (9, 9))
    load_image(coloured).putpixel((1, 1), (9, 9, 9))
    assert coloured.getpixel((1, 1)) == (0, 0, 0)
    tensor = torch.zeros(3, 9, 9, dtype=torch.uint8)
    ours([tensor, torch.zeros(3, 5, 5, dtype=torch.uint8)]).pixel_values[0].fill_(9)
    assert not tensor.any()


def test_a_picture_in_strips_is_whole() -> None:
    """What Pillow does not lend is read in parts."""
    wide = np.random.default_rng(0).integers(0, 256, (2, 3_000_000, 2), dtype=np.uint8)
    assert np.array_equal(pixels(Image.fromarray(wide, "LA"), "x").numpy(), wide)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("name", ["ViT", "ConvNext", "DPT", "Segformer", "Beit", "Bit", "ZoeDepth", "Detr", "Sam"])
def test_thin_pictures(name: str, shape: tuple[int, int]) -> None:
    """A right answer, or a typed error where no pixel would be left or too many would be made."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for form in ("", "Pil"):
        ours = getattr(omniform, f"{name}ImageProcessor{form}")()
        try:
            found = ours(image, input_data_format="channels_last", return_tensors="pt").pixel_values
        except InputError as error:
            assert "pixels" in str(error)
            continue
        assert torch.isfinite(found).all() and found.shape[1] == 3


def test_too_large_is_refused_by_a_limit_that_is_said() -> None:
    big = Image.new("L", (12_000, 12_000))
    with pytest.raises(InputError, match=r"max_pixels"):
        omniform.ViTImageProcessor()(big)
    for wrong in (np.zeros((0, 5, 3), np.uint8), np.full((5, 5, 3), np.nan), np.full((5, 5, 3), np.inf)):
        for name in ("ViTImageProcessor", "ViTImageProcessorPil", "MaskFormerImageProcessor"):
            with pytest.raises(InputError):
                getattr(omniform, name)()(wrong)


def test_several_at_a_time() -> None:
    """As many as torch has threads; the same pictures in the same order, and the first error of all."""
    images = [Image.new("RGB", (20 + number, 30), (number, 9, 99)) for number in range(9)]
    ours = [omniform.ViTImageProcessor(size=12), omniform.ViTImageProcessorPil(size=12), omniform.DetrImageProcessor()]
    alone = [one(images, return_tensors="pt").pixel_values for one in ours]
    torch.set_num_threads(3)
    try:
        for one, expected in zip(ours, alone, strict=True):
            assert torch.equal(one(images, return_tensors="pt").pixel_values, expected)
            with pytest.raises(InputError, match=r"images\[4\]"):
                one([*images[:4], np.full((5, 9, 3), np.nan), *images])
        with pytest.raises(InputError, match="empty or too large"):
            omniform.DetrImageProcessor(size={"shortest_edge": 3, "longest_edge": 9})(
                [*images, Image.new("L", (1, 900))]
            )
    finally:
        torch.set_num_threads(1)
