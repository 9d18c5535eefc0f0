"""Every family's processor against the reference's class of that name, fast and slow: equal pixels, equal files."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from omniform.core.errors import InputError
from omniform.inputs.images.kinds import image_processor
from omniform.inputs.images.processor import ImageProcessor
from omniform.inputs.images.table import KINDS
from reference import omniform, transformers

NAMES = [name + form for name, kind in KINDS.items() for form in (("", "Pil") if kind.slow else ("",))]
PHOTOS = [
    Image.fromarray(skimage.data.chelsea()).resize((150, 100)),
    Image.fromarray(skimage.data.coffee()).resize((90, 61)),
]


def picture(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8))


def both(name: str, **config: object):
    theirs = getattr(transformers, name)(**config)
    return theirs, image_processor({"image_processor_type": name, **config}, where="preprocessor_config.json")


def same(expected, found, what: str = "") -> None:
    """Equal entries, types and numbers, in tensors, arrays and lists of them."""
    assert set(found) == set(expected), what
    for name, value in expected.items():
        equal(value, found[name], f"{what} {name}")


def equal(expected: object, found: object, what: str) -> None:
    if isinstance(expected, (list, tuple)):
        assert len(expected) == len(found), what  # type: ignore[arg-type]
        for left, right in zip(expected, found, strict=True):  # type: ignore[call-overload]
            equal(left, right, what)
    elif hasattr(expected, "items"):
        same(expected, found, what)
    elif isinstance(expected, (torch.Tensor, np.ndarray)):
        assert type(found) is type(expected), what
        left, right = (torch.as_tensor(np.array(value)) for value in (expected, found))
        assert right.dtype == left.dtype, what
        torch.testing.assert_close(right, left, rtol=0, atol=0, msg=lambda text: f"{what}: {text}")
    else:
        assert found == expected, what


def small(name: str) -> dict[str, object]:
    """Options by which pictures stay small, in the form that the kind resizes to."""
    size = KINDS[name.removesuffix("Pil")].defaults.size
    form = type(size).__name__
    sizes = {
        "Exact": {"height": 32, "width": 24}, "ShortestEdge": {"shortest_edge": 24},
        "EdgeRange": {"shortest_edge": 40, "longest_edge": 70}, "LongestEdge": {"longest_edge": 33},
    }  # fmt: skip
    options: dict[str, object] = {"size": sizes[form]} if form in sizes else {}
    if KINDS[name.removesuffix("Pil")].defaults.crop_size is not None:
        options["crop_size"] = {"height": 21, "width": 22}
    if name.startswith(("Vilt", "BridgeTower")):
        options["size_divisor"] = 8
    if name.startswith("LayoutLM"):
        options["apply_ocr"] = False  # tesseract is not here
    if name.startswith("BridgeTower"):
        options["crop_size"] = {"shortest_edge": 21}
    if name.startswith("Siglip2"):
        options |= {"patch_size": 4, "max_num_patches": 30}
    if name.startswith("LlavaNextImage"):
        options["image_grid_pinpoints"] = [[24, 48], [48, 24], [48, 48]]  # the usual ones are hundreds of such tiles
    if name.startswith("Phi4"):
        options["size"] = {"height": 28, "width": 28}  # tiles are square
    if name.startswith("SamImage"):
        options |= {"pad_size": {"height": 40, "width": 40}, "mask_size": {"longest_edge": 9}}
        options["mask_pad_size"] = {"height": 12, "width": 12}
    return options


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_references(name: str) -> None:
    theirs, ours = both(name)
    told = json.loads(theirs.to_json_string())
    if name.startswith("Pixtral"):
        told["default_to_square"] = True  # theirs has it, and does not say so
    # The reference forgets which class it was; the file says it here.
    assert ours.to_dict() == {**told, "image_processor_type": name}
    assert list(ours.model_input_names) == theirs.model_input_names
    assert ours.backend == theirs.backend
    assert type(ours) is getattr(omniform, name) and isinstance(ours, ImageProcessor)
    assert image_processor(ours.to_dict(), where="again") == ours


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_the_references(name: str) -> None:
    theirs, ours = both(name, **small(name))
    for image in (*PHOTOS, picture(41, 33), picture(40, 36), picture(34, 90), picture(43, 99)):
        same(theirs(image, return_tensors="pt"), ours(image, return_tensors="pt"), name)
    if name.startswith("Pixtral"):
        return  # without a kind of tensor theirs gives one all the same; ours gives a list, as every other kind
    batch = [*PHOTOS, picture(45, 35)]
    same(theirs(batch[:1]), ours(batch[:1]), name)
    same(theirs([picture(40, 60)] * 2, return_tensors="np"), ours([picture(40, 60)] * 2, return_tensors="np"), name)


def test_the_backend_that_is_asked_for(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    omniform.ViTImageProcessor(size=[20, 30]).save_pretrained(tmp_path)
    auto, theirs = omniform.AutoImageProcessor, transformers.AutoImageProcessor
    assert type(auto.from_pretrained(tmp_path)) is omniform.ViTImageProcessor
    for call in ({"backend": "pil"}, {"use_fast": False}):
        slow = auto.from_pretrained(tmp_path, **call)
        assert type(slow) is omniform.ViTImageProcessorPil and slow.size == {"height": 20, "width": 30}
        same(
            theirs.from_pretrained(tmp_path, **call)(PHOTOS[0], return_tensors="pt"),
            slow(PHOTOS[0], return_tensors="pt"),
        )
    slow.save_pretrained(tmp_path)
    assert type(auto.from_pretrained(tmp_path)) is omniform.ViTImageProcessorPil
    assert type(auto.from_pretrained(tmp_path, backend="torchvision")) is omniform.ViTImageProcessor
    with pytest.raises(InputError, match="backend"):
        auto.from_pretrained(tmp_path, backend="cv2")
    omniform.DINOv3ViTImageProcessorFast(size=20).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="omniform"):
        assert auto.from_pretrained(tmp_path, backend="pil").backend == "torchvision" and "slow" in caplog.text


@pytest.mark.parametrize("form", ["FeatureExtractor", "ImageProcessorFast", "ImageProcessorPil"])
def test_all_names_of_a_class(form: str) -> None:
    for name, kind in KINDS.items():
        found = getattr(omniform, name.removesuffix("ImageProcessor") + form, None)
        if (name, form) == ("Phi4MultimodalImageProcessor", "FeatureExtractor"):
            assert issubclass(found, omniform.SequenceFeatureExtractor)  # the name is that of what reads sounds
        elif form.endswith("Pil"):
            assert (found is not None) == kind.slow and (found is None or issubclass(found, kind.processor))
        else:
            assert found is getattr(omniform, name)
    made = omniform.BeitFeatureExtractor(size=30, do_reduce_labels=True)
    assert pickle.loads(pickle.dumps(made)) == made
    slow = omniform.MaskFormerImageProcessorPil()
    assert type(pickle.loads(pickle.dumps(slow))) is omniform.MaskFormerImageProcessorPil
    with pytest.raises(TypeError, match="crop_pct"):
        omniform.ConvNextImageProcessor(crop_pc=0.5)


def test_timm(tmp_path) -> None:
    cfg = {"input_size": [3, 40, 40], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_type": "timm_wrapper", "architecture": "resnet18", "pretrained_cfg": cfg, "num_classes": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = transformers.TimmWrapperImageProcessor.from_pretrained(tmp_path)
    ours = omniform.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(ours) is omniform.TimmWrapperImageProcessor and ours.data_config == theirs.data_config
    expected = theirs(PHOTOS)["pixel_values"]
    assert torch.equal(ours(PHOTOS)["pixel_values"], expected) and expected.shape == (2, 3, 40, 40)
    assert torch.equal(ours([np.asarray(one) for one in PHOTOS])["pixel_values"], expected)
    with pytest.raises(InputError, match="return_tensors"):
        ours(PHOTOS, return_tensors="np")


def test_a_film_is_a_list_of_pictures() -> None:
    for name in ("VideoMAEImageProcessor", "VideoMAEImageProcessorPil"):
        theirs, ours = both(name, size={"shortest_edge": 24}, crop_size=20)
        film = [picture(41, 33, seed) for seed in range(4)]
        array = np.stack([np.asarray(frame) for frame in film])
        for videos in (film, [film], [film, film[::-1]], array, [array, array]):
            for kind in ("pt", None):
                same(theirs(videos, return_tensors=kind), ours(videos, return_tensors=kind), name)
        assert ours(array[None], return_tensors="pt").pixel_values.shape == (1, 4, 3, 20, 20)
        for videos, text in (
            ([film, film[:2]], "lengths"),
            ([film, film[0]], "mixed"),
            ([[]], "no pictures"),
            ([], "no film"),
        ):
            with pytest.raises(InputError, match=text):
                ours(videos, return_tensors="pt")


OPTIONS = [
    {"do_resize": False}, {"do_center_crop": True, "crop_size": [50, 10]}, {"do_rescale": False},
    {"do_normalize": False}, {"do_convert_rgb": True}, {"resample": 0}, {"resample": 3}, {"resample": 1},
    {"rescale_factor": 1 / 127.5}, {"image_mean": [0.1, 0.2, 0.3], "image_std": 0.4},
    {"size": {"height": 40, "width": 52}}, {"size": {"shortest_edge": 40, "longest_edge": 60}},
    {"size": {"max_height": 50, "max_width": 44}}, {"size": 41}, {"crop_pct": 0.5},
    {"keep_aspect_ratio": True, "ensure_multiple_of": 8}, {"rescale_offset": True}, {"include_top": False},
    {"do_flip_channel_order": False}, {"size_divisor": 8}, {"do_pad": True, "pad_size": 120},
]  # fmt: skip


FORGETFUL = ("Gemma3", "Pixtral", "Pix2Struct")
"""Kinds of the reference that take options (to crop, to pad to a size, one edge of two) and forget them; ours heed
them. They have tests of their own."""


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(FORGETFUL)])
def test_options_and_kinds_of_pictures(name: str) -> None:
    """What the reference answers we answer alike; where it fails, we may know better or say why."""
    theirs, ours = both(name, **small(name))
    known = {field for field in dir(ours.options) if not field.startswith("_")}
    rng = np.random.default_rng(len(name))
    array = np.asarray(picture(45, 37))
    kinds = {
        "array": array, "first": array.transpose(2, 0, 1), "fractions": array.astype(np.float32) / 255,
        "tensor": torch.from_numpy(array.copy()), "alpha": picture(45, 37, channels=4), "grey": PHOTOS[0].convert("L"),
        "ink": PHOTOS[0].convert("CMYK"), "half": torch.from_numpy(array.copy()).permute(2, 0, 1).half() / 255,
    }  # fmt: skip
    compared = 0
    for number, option in enumerate(OPTIONS):
        if not option.keys() <= known:
            continue
        more = {key: value for key, value in OPTIONS[int(rng.integers(8))].items() if key not in option}
        for image in (picture(45, 37), [*kinds.values()][number % len(kinds)]):
            call = {**option, **more, "return_tensors": "pt"}
            try:
                expected = theirs(image, **call)
            except Exception:  # whatever it fails with
                continue
            same(expected, ours(image, **call), f"{name} {call}")
            compared += 1
    assert compared > 9
