"""Pictures and texts found for one another, both ways; and chances of labels by models that judge each by itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from seen import both, new_folder, picture, pictures, same

from omniform import pipeline
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.hub.bundled import bundled_checkpoint
from reference import close, saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "scenes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "inputs"))

import test_tokenizers_folders as folders
from measure_search import unseen


def siglip() -> Path:
    """A SigLIP with a tokenizer of words."""
    folder = new_folder()
    size = len(folders.ours(folders.clip(folder)))
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.SiglipConfig(
        text_config={**tower, "vocab_size": size}, vision_config={**tower, "image_size": 32, "patch_size": 8}
    )
    saved_reference(transformers.SiglipModel, config, folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_each_label_is_judged_by_itself() -> None:
    """SigLIP's scores are odds of each pair, and its texts are all as long as those that it was taught with."""
    ours, theirs = both("zero-shot-image-classification", siglip())
    labels = ["a cat", "the dog runs", "b"]
    same(ours(pictures(), candidate_labels=labels), theirs(pictures(), candidate_labels=labels))
    assert sum(one["score"] for one in ours(pictures()[0], labels)) != pytest.approx(1)


def test_both_directions() -> None:
    pairs = unseen(40, "retrieval")
    pipe = pipeline("image-text-retrieval")
    found = pipe(pairs.pictures, pairs.captions, top_k=3)
    similarity = found["similarity"]
    assert similarity.shape == (40, 40) and (similarity.argmax(1) == torch.arange(40)).float().mean() > 0.95
    for at in range(40):
        best = similarity[at].argsort(descending=True)[:3].tolist()
        assert [one["index"] for one in found["texts_of_images"][at]] == best
        best = similarity[:, at].argsort(descending=True)[:3].tolist()
        assert [one["index"] for one in found["images_of_texts"][at]] == best
    few = pipe(images=pairs.pictures[:5], text=pairs.captions[7])
    assert few["similarity"].shape == (5, 1) and len(few["images_of_texts"][0]) == 5
    close(few["similarity"][:, 0], similarity[:5, 7])
    (listed,) = pipe([{"images": pairs.pictures[:2], "text": pairs.captions[:2]}])
    close(listed["similarity"], similarity[:2, :2])


def test_the_scores_are_the_models_own() -> None:
    folder = bundled_checkpoint("search")
    model = transformers.CLIPModel.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    pairs = unseen(6, "retrieval")
    with torch.no_grad():
        inputs = processor(text=pairs.captions, images=pairs.pictures, padding=True, return_tensors="pt")
        expected = model(**inputs).logits_per_image / model.logit_scale.exp()
    close(pipeline("image-text-retrieval")(pairs.pictures, pairs.captions)["similarity"], expected, tolerance=1e-3)


def test_a_picture_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images = [picture(40, 40, 1), str(tmp_path / "cut.png"), picture(40, 40, 2)]
    pipe = pipeline("image-text-retrieval")
    with pytest.raises(InputError, match=r"cut\.png"):
        pipe(images, ["a star"])
    found = pipe(images, ["a star", "a circle"], on_error="return")
    assert list(found["errors"]) == [1] and found["similarity"][1].isnan().all()
    assert found["texts_of_images"][1] == [] and [one["index"] for one in found["images_of_texts"][0]] != []
    assert {one["index"] for one in found["images_of_texts"][1]} == {0, 2}
    for wrong in ((images,), (images, []), (images, [3]), (None, "a star"), ([], "a star")):
        with pytest.raises((InputError, TypeError)):
            pipe(*wrong)
    with pytest.raises(InputError, match="top_k"):
        pipe(images, "a star", top_k=0)
    with pytest.raises(UnknownArgumentError, match="top_k"):
        pipe(images, "a star", topk=1)


def judge(kind: str) -> Path:
    """A tiny model that looks at pairs of a picture and a text, with its processor."""
    folder = new_folder()
    size = len(folders.ours(folders.bert(folder)))
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    tower = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4}
    if kind == "blip":
        config = transformers.BlipConfig(
            text_config={**tower, "vocab_size": size, "encoder_hidden_size": 24},
            vision_config={**tower, "image_size": 24, "patch_size": 8}, image_text_hidden_size=12,
        )  # fmt: skip
        saved_reference(transformers.BlipForImageTextRetrieval, config, folder, scale=0.4)
        image_processor = transformers.BlipImageProcessor(size={"height": 24, "width": 24})
        transformers.BlipProcessor(image_processor, tokenizer).save_pretrained(folder)
    else:
        config = transformers.ViltConfig(**tower, vocab_size=size, image_size=24, patch_size=8)
        saved_reference(transformers.ViltForImageAndTextRetrieval, config, folder, scale=0.4)
        transformers.ViltProcessor(
            transformers.ViltImageProcessor(size={"shortest_edge": 24}, size_divisor=8), tokenizer
        ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["blip", "vilt"])
def test_models_that_look_at_pairs(kind: str) -> None:
    """Each pair through the model, as the reference's users do by hand."""
    folder = judge(kind)
    pipe = pipeline("image-text-retrieval", str(folder))
    assert pipeline(model=str(folder)).task == "image-text-retrieval"
    name = {"blip": "BlipForImageTextRetrieval", "vilt": "ViltForImageAndTextRetrieval"}[kind]
    theirs = getattr(transformers, name).from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    images, texts = [picture(40, 30, 1), picture(30, 44, 2), picture(24, 24, 3)], ["a cat", "the dog runs"]
    expected = torch.zeros(3, 2)
    with torch.no_grad():
        for row, image in enumerate(images):
            for column, text in enumerate(texts):
                out = theirs(**processor(images=image, text=text, return_tensors="pt"))
                score = out.itm_score.softmax(-1)[0, 1] if kind == "blip" else out.logits[0, 0]
                expected[row, column] = score
    found = pipe(images, texts)
    close(found["similarity"], expected, tolerance=2e-3)
    assert [one["index"] for one in found["texts_of_images"][0]] == expected[0].argsort(descending=True).tolist()
    if kind == "vilt":
        with pytest.raises(InputError, match="no such head"):
            pipe(images, texts, use_itm_head=False)
        return
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        cosines = theirs(**inputs, use_itm_head=False).itm_score
    close(pipe(images, texts, use_itm_head=False)["similarity"], cosines, tolerance=2e-3)
