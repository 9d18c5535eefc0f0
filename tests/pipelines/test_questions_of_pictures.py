"""image-to-text and visual-question-answering beside what the reference's models and processors give.

Its release has no such pipelines any more: what those of release 4 did is spelt out here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import VOCABULARY, word_pieces

from omniform.core.errors import InputError, UnknownArgumentError
from reference import omniform, saved_reference, transformers

NEW = 5


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8))


PICTURES = [picture(1), picture(2)]
QUESTIONS = ["the cat is red ?", "is bob in the old berlin home ?"]


def blip(folder: Path, head: str) -> Path:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    config = transformers.BlipConfig(
        text_config={
            **sizes, "vocab_size": len(VOCABULARY), "encoder_hidden_size": 24, "bos_token_id": 2, "sep_token_id": 3,
            "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 64,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )  # fmt: skip
    saved_reference(getattr(transformers, f"BlipFor{head}"), config, folder)
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.BlipProcessor(images, word_pieces()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blip(tmp_path_factory.mktemp("captions"), "ConditionalGeneration")


def test_captions(captioner: Path) -> None:
    ours = omniform.pipeline("image-to-text", model=captioner)
    model = transformers.BlipForConditionalGeneration.from_pretrained(captioner)
    reader = transformers.BlipProcessor.from_pretrained(captioner)

    def expected(image: Image.Image, prompt: str | None = None) -> list[dict[str, str]]:
        words = {} if prompt is None else {"text": prompt}
        ids = model.generate(**reader(images=image, return_tensors="pt", **words), max_new_tokens=NEW)
        return [{"generated_text": text} for text in reader.batch_decode(ids, skip_special_tokens=True)]

    assert ours(PICTURES, max_new_tokens=NEW) == [expected(image) for image in PICTURES]
    assert ours(PICTURES[0], prompt="the cat", max_new_tokens=NEW) == expected(PICTURES[0], "the cat")
    several = ours(
        images=PICTURES[1], generate_kwargs={"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": NEW}
    )
    assert len(several) == 2
    with pytest.raises(InputError, match="no picture"):
        ours()
    with pytest.raises(InputError, match="twice"):
        ours(PICTURES[0], max_new_tokens=NEW, generate_kwargs={"max_new_tokens": NEW})
    found = ours([PICTURES[0], b"none"], max_new_tokens=NEW, on_error="return")
    assert found[0] == expected(PICTURES[0]) and isinstance(found[1], Exception)


def test_answers_that_are_written(tmp_path: Path) -> None:
    folder = blip(tmp_path, "QuestionAnswering")
    ours = omniform.pipeline("vqa", model=folder)
    model = transformers.BlipForQuestionAnswering.from_pretrained(folder)
    reader = transformers.BlipProcessor.from_pretrained(folder)
    for image in PICTURES:
        for question in QUESTIONS:
            ids = model.generate(**reader(images=image, text=question, return_tensors="pt"), max_new_tokens=NEW)
            expected = [{"answer": reader.decode(ids[0], skip_special_tokens=True).strip()}]
            assert ours(image=image, question=question, max_new_tokens=NEW) == expected
    both = ours([{"image": image, "question": QUESTIONS[0]} for image in PICTURES], max_new_tokens=NEW)
    assert both == [ours(image, QUESTIONS[0], max_new_tokens=NEW) for image in PICTURES]


def test_answers_that_are_chosen(tmp_path: Path) -> None:
    names = ("yes", "no", "red", "blue", "two", "a cat")
    config = transformers.ViltConfig(
        vocab_size=len(VOCABULARY), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        image_size=32, patch_size=8, max_position_embeddings=64, id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    saved_reference(transformers.ViltForQuestionAnswering, config, tmp_path)
    images = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    transformers.ViltProcessor(images, word_pieces()).save_pretrained(tmp_path)
    ours = omniform.pipeline(model=tmp_path)
    assert ours.task == "visual-question-answering"
    model = transformers.ViltForQuestionAnswering.from_pretrained(tmp_path).eval()
    reader = transformers.ViltProcessor.from_pretrained(tmp_path)

    def expected(image: Image.Image, question: str, top: int) -> list[tuple[str, float]]:
        with torch.no_grad():
            logits = model(**reader(images=image, text=question, return_tensors="pt")).logits
        scores, places = logits.sigmoid()[0].topk(top)
        return [(names[place], score) for score, place in zip(scores.tolist(), places.tolist(), strict=True)]

    for image in PICTURES:
        for question in QUESTIONS:
            for top in (1, 5, 99):
                found = ours(image=image, question=question, top_k=top)
                wanted = expected(image, question, min(top, len(names)))
                assert [one["answer"] for one in found] == [name for name, _ in wanted]
                assert [one["score"] for one in found] == pytest.approx([score for _, score in wanted], abs=1e-5)
    crossed = ours(PICTURES, QUESTIONS)
    assert [one[0]["answer"] for one in crossed] == [expected(i, q, 1)[0][0] for i in PICTURES for q in QUESTIONS]
    with pytest.raises(UnknownArgumentError, match="top_k"):
        ours(PICTURES[0], QUESTIONS[0], topk=3)
    with pytest.raises(InputError, match="no question"):
        ours(PICTURES[0])
