"""zero-shot-object-detection beside the reference's pipeline, on a tiny OWL-ViT."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny import VOCABULARY, word_pieces

from omniform.core.errors import InputError, UnknownArgumentError
from reference import omniform, saved_reference, transformers

LABELS = ["a red cat", "the old book"]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8))


PICTURES = [picture(1), picture(2)]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("owlvit")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.OwlViTConfig(
        text_config={
            **sizes, "vocab_size": len(VOCABULARY), "max_position_embeddings": 16, "eos_token_id": 3, "bos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={**sizes, "image_size": 20, "patch_size": 5}, projection_dim=16,
    )  # fmt: skip
    saved_reference(transformers.OwlViTForObjectDetection, config, folder, scale=0.5)
    tokenizer = word_pieces()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    images = transformers.OwlViTImageProcessor(size={"height": 20, "width": 20})
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    task = "zero-shot-object-detection"
    return omniform.pipeline(task, model=folder), transformers.pipeline(task, model=str(folder), device="cpu")


def close(found: object, expected: object) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
        return
    assert found["label"] == expected["label"] and found["box"] == expected["box"]
    assert found["score"] == pytest.approx(expected["score"], abs=1e-5)


CALLS = [
    ((PICTURES[0],), {"candidate_labels": LABELS}),
    ((PICTURES[0], LABELS), {"threshold": 0.45}),
    ((PICTURES,), {"candidate_labels": LABELS, "top_k": 3}),
    ((PICTURES,), {"candidate_labels": [LABELS, ["the dog"]]}),
    (([{"image": picture, "candidate_labels": LABELS} for picture in PICTURES],), {"threshold": 0.0}),
    ((PICTURES[1],), {"text_queries": LABELS}),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_objects_are_the_references(pipes, number: int) -> None:
    ours, theirs = pipes
    args, settings = CALLS[number]
    expected = theirs(*args, **settings)
    assert expected
    close(ours(*args, **settings), expected)


def test_it_is_drawn_and_told(pipes) -> None:
    ours, _ = pipes
    found = ours(PICTURES[0], LABELS, threshold=0.0)
    assert ours.draw(PICTURES[0], found).size[0] >= PICTURES[0].width
    assert [row["label"] for row in ours.rows(found)] == [one["label"] for one in found]


def test_bad_calls(pipes) -> None:
    ours, _ = pipes
    for args, settings, error, said in (
        ((PICTURES[0],), {}, InputError, "candidate_labels"),
        ((PICTURES[0], []), {}, InputError, "no label"),
        ((PICTURES, [["a"]]), {}, InputError, "2 lists"),
        ((PICTURES[0], LABELS), {"treshold": 1}, UnknownArgumentError, "threshold"),
        ((PICTURES[0], LABELS), {"top_k": 0}, InputError, "top_k"),
    ):
        with pytest.raises(error, match=said):
            ours(*args, **settings)
