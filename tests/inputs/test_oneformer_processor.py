"""OneFormer's processor against the reference's: tasks and texts as tokens beside pictures, masks and classes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_processors import same
from test_tokenizers_folders import clip

import omniform
from omniform.architectures.mask_outputs import OneFormerForUniversalSegmentationOutput
from omniform.core.errors import InputError, UnknownArgumentError
from reference import transformers

SHAPES = ((40, 52), (31, 28))
PICTURES = [np.random.default_rng(n).integers(0, 256, (*shape, 3), dtype=np.uint8) for n, shape in enumerate(SHAPES)]
MAPS = [np.random.default_rng(n).integers(0, 5, shape, dtype=np.int32) for n, shape in enumerate(SHAPES)]
CLASSES = {number: number for number in range(6)}
NAMES = ("the fox", "hello", "world", "a dog", "the hello of the world", "fox")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    """Both libraries' processors of one folder, which the reference wrote."""
    folder = tmp_path_factory.mktemp("oneformer")
    told = {str(number): {"name": name, "isthing": number % 2} for number, name in enumerate(NAMES)}
    (folder / "classes.json").write_text(json.dumps(told))
    images = transformers.OneFormerImageProcessor(
        size={"shortest_edge": 33, "longest_edge": 60}, ignore_index=255, num_text=7, repo_path=str(folder),
        class_info_file="classes.json",
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip(folder / "tokenizer"))
    made = transformers.OneFormerProcessor(images, tokenizer, max_seq_length=12, task_seq_length=9)
    made.save_pretrained(folder / "saved")
    return made, omniform.AutoProcessor.from_pretrained(folder / "saved"), folder


def compare(both, method: str, *given: object, **call: object) -> omniform.Batch:
    theirs, ours, _ = both
    expected = getattr(theirs, method)(*copy.deepcopy(given), **copy.deepcopy(call))
    found = getattr(ours, method)(*given, **call)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)
    return found


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_tasks_and_texts(both, task):
    assert isinstance(both[1], omniform.OneFormerProcessor)
    compare(both, "__call__", PICTURES, [task] * 2, return_tensors="pt")
    kinds = {"instance_id_to_semantic_id": CLASSES, "return_tensors": "pt"}
    found = compare(both, "__call__", PICTURES, [task] * 2, MAPS, **kinds)
    assert found["text_inputs"].shape == (2, 7, 12) and found["task_inputs"].shape == (2, 9)
    compare(both, "__call__", PICTURES, [task, "panoptic"], MAPS, **kinds, do_reduce_labels=True, ignore_index=0)


def test_pictures_that_are_pixel_values(both):
    pixels = [torch.randn(3, *shape) for shape in SHAPES]
    maps = [torch.from_numpy(one) for one in MAPS]
    kinds = {"instance_id_to_semantic_id": CLASSES, "return_tensors": "pt"}
    compare(both, "encode_inputs", pixels, ["semantic", "instance"], maps, **kinds)


def test_one_task_as_a_word(both):
    """The reference takes its letters for tasks."""
    _, ours, _ = both
    found, listed = (ours(PICTURES[0], task, return_tensors="pt") for task in ("semantic", ["semantic"]))
    assert torch.equal(found["task_inputs"], listed["task_inputs"])


def test_saved_as_it_was(both, tmp_path):
    theirs, ours, folder = both
    ours.save_pretrained(tmp_path)
    read = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert (read.max_seq_length, read.task_seq_length) == (12, 9)
    before, after = (
        json.loads((place / "processor_config.json").read_text()) for place in (folder / "saved", tmp_path)
    )
    assert before.keys() == after.keys()
    for task in ("semantic", "panoptic"):
        same(read(PICTURES, [task] * 2, return_tensors="pt")["task_inputs"],
             theirs(PICTURES, [task] * 2, return_tensors="pt")["task_inputs"], task)  # fmt: skip
    assert ours.model_input_names == ["pixel_values", "pixel_mask", "task_inputs"]


def test_from_pictures_to_segments(both):
    theirs, ours, _ = both
    generator = torch.Generator().manual_seed(0)
    out = {
        "class_queries_logits": torch.randn(2, 5, 7, generator=generator) * 3,
        "masks_queries_logits": torch.randn(2, 5, 9, 11, generator=generator) * 3,
    }
    made = transformers.models.oneformer.modeling_oneformer.OneFormerForUniversalSegmentationOutput(**out)
    mine = OneFormerForUniversalSegmentationOutput(**out)
    for kind in ("semantic", "instance", "panoptic"):
        name = f"post_process_{kind}_segmentation"
        expected = getattr(theirs, name)(made, target_sizes=list(SHAPES))
        answer = getattr(ours, name)(mine, target_sizes=list(SHAPES))
        for one, other in zip(answer, expected, strict=True):
            left = one if kind == "semantic" else one["segmentation"]
            right = other if kind == "semantic" else other["segmentation"]
            assert (left == right).float().mean() > 0.99


@pytest.mark.parametrize(
    ("call", "error", "where"),
    [
        (lambda ours: ours(PICTURES, ["depth"] * 2), InputError, "task_inputs"),
        (lambda ours: ours(PICTURES), InputError, "task_inputs"),
        (lambda ours: ours(PICTURES, []), InputError, "task_inputs"),
        (lambda ours: ours(None, ["semantic"]), InputError, "images"),
        (lambda ours: ours(PICTURES, ["semantic"], MAPS), InputError, "task"),
        (lambda ours: ours(PICTURES, ["semantic"] * 2, padding=True), UnknownArgumentError, "padding"),
    ],
)
def test_refused(both, call, error, where):
    with pytest.raises(error, match=where):
        call(both[1])


def test_another_models_image_processor_is_refused(both, tmp_path: Path):
    with pytest.raises(InputError, match="OneFormerImageProcessor"):
        omniform.OneFormerProcessor(omniform.CLIPImageProcessor(), both[1].tokenizer)
