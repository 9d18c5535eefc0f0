"""GOT-OCR 2's image processor, which InternVL's is too, against the reference's: the same tiles."""

from __future__ import annotations

import pytest
from PIL import Image
from test_images_processors import assert_same, both, import_reference, picture

import omniform
from omniform.core.errors import InputError

SMALL = {"size": {"height": 16, "width": 16}}
SIZES = [(1, 1), (1, 60), (61, 29), (16, 16), (64, 16), (50, 40), (90, 8)]
PICTURES = [Image.fromarray(picture(width, height, seed)) for seed, (width, height) in enumerate(SIZES)]


@pytest.fixture(scope="module")
def reference():
    return import_reference()


@pytest.mark.parametrize("pixels", ["", "Pil"])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        {**SMALL, "crop_to_patches": True},
        {"size": {"height": 8, "width": 20}, "crop_to_patches": True, "min_patches": 2, "max_patches": 5},
        {**SMALL, "crop_to_patches": True, "max_patches": 1, "resample": 2, "do_normalize": False},
    ],
    ids=lambda config: ",".join(config),
)
def test_tiles_are_the_references(reference, config, pixels):
    theirs, ours = both(reference, f"GotOcr2ImageProcessor{pixels}", **config)
    assert_same(theirs, ours, PICTURES)
    assert_same(theirs, ours, PICTURES[2], crop_to_patches=True, max_patches=4)
    for width, height in SIZES:
        one = ours(Image.fromarray(picture(width, height)))
        assert len(one["pixel_values"]) == one["num_patches"][0] == ours.get_number_of_image_patches(height, width)


def test_saved_files_and_what_is_refused(reference, tmp_path):
    theirs, ours = both(reference, "GotOcr2ImageProcessor")
    assert ours.size == dict(theirs.size)
    ours.save_pretrained(tmp_path)
    assert omniform.AutoImageProcessor.from_pretrained(tmp_path) == ours
    with pytest.raises(InputError, match="max_patches"):
        ours(PICTURES[0], crop_to_patches=True, max_patches=0)
