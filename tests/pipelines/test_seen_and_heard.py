"""image-text-to-text and any-to-any beside the reference's pipelines, on a tiny LLaVA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import word_pieces

from omniform.core.errors import InputError, OmniformError
from reference import omniform, saved_reference, transformers

NEW = 6
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %} {% endfor %}{% if add_generation_prompt %}i :{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("llava")
    tokenizer = word_pieces()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.padding_side = "left"
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(found)
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=2,
            eos_token_id=3,
        ),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, image_size=28,
            patch_size=7, projection_dim=12,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    saved_reference(transformers.LlavaForConditionalGeneration, config, found)
    return found


@pytest.fixture(scope="module")
def pipes(folder: Path):
    def pair(task: str):
        ours = omniform.pipeline(task, model=folder)
        theirs = transformers.pipeline(task, model=str(folder), device="cpu")
        return ours, theirs

    return {task: pair(task) for task in ("image-text-to-text",)}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8))


def chat(*parts: object, role: str = "user") -> dict[str, object]:
    return {"role": role, "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def seen(seed: int) -> dict[str, object]:
    return {"type": "image", "image": picture(seed)}


ASKED = {
    "a text": ({"images": [picture(1)], "text": "<image> the fox"}, {}),
    "only what is new": ({"images": picture(1), "text": "<image> the fox"}, {"return_full_text": False}),
    "several texts": (
        {"images": [[picture(1)], [picture(2)]], "text": ["<image> a dog", "<image> the cat"]}, {}
    ),
    "token ids": ({"images": picture(2), "text": "<image> the"}, {"return_tensors": True}),
    "a chat": ({"text": [chat(seen(1), "the fox")]}, {}),
    "a chat by position": ({"images": [chat(seen(1), "the fox"), chat("ok", role="assistant"), chat("and")]}, {}),
    "an answer that is begun": ({"text": [chat(seen(1), "the"), chat("the dog", role="assistant")]}, {}),
    "chats": ({"text": [[chat(seen(1), "the fox")], [chat("hello", seen(2), seen(3))]]}, {}),
    "words alone": ({"text": "the lazy dog"}, {}),
    "drawn by beams": (
        {"images": picture(1), "text": "<image> the fox"},
        {"generate_kwargs": {"num_beams": 2, "num_return_sequences": 2}},
    ),
    "special tokens": ({"images": picture(1), "text": "<image> the fox"}, {"skip_special_tokens": False}),
}  # fmt: skip


def plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("name", ASKED)
def test_answers_are_the_references(pipes, name: str) -> None:
    ours, theirs = pipes["image-text-to-text"]
    given, settings = ASKED[name]
    settings = {**settings, "max_new_tokens": NEW}
    assert plain(ours(**given, **settings)) == plain(theirs(**given, **{k: _copied(v) for k, v in settings.items()}))


def _copied(value: object) -> object:
    return dict(value) if isinstance(value, dict) else value  # theirs writes into it


def test_mappings_and_rows_of_all_lengths_are_answered_as_each_alone(pipes) -> None:
    ours, _ = pipes["image-text-to-text"]
    given = [
        {"images": picture(1), "text": "<image> a"},
        {"image": [picture(2), picture(3)], "text": "<image> the <image>"},
    ]
    alone = [ours(one, max_new_tokens=NEW) for one in given]
    assert ours(given, max_new_tokens=NEW) == alone
    assert [*ours(iter(given), max_new_tokens=NEW)] == alone
    rows = {"images": [[picture(1)], [picture(2), picture(3)]], "text": [one["text"] for one in given]}
    assert ours(**rows, max_new_tokens=NEW) == [one for answers in alone for one in answers]


def test_any_to_any_answers_in_text(folder: Path) -> None:
    model = omniform.AutoModelForMultimodalLM.from_pretrained(folder)
    pipe = omniform.pipeline("any-to-any", model=model, processor=omniform.AutoProcessor.from_pretrained(folder))
    other = omniform.pipeline("image-text-to-text", model=folder)
    asked = [[chat(seen(1), "the fox")], [chat("hello")]]
    assert plain(pipe(asked, max_new_tokens=NEW)) == plain(other(asked, max_new_tokens=NEW))
    given = {"text": "<image> the", "images": picture(2)}
    assert pipe(given, max_new_tokens=NEW) == other(text=given["text"], images=given["images"], max_new_tokens=NEW)
    for wrong, told in (({"generation_mode": "audio"}, "no such answers"), ({"generation_mode": "smell"}, "'smell'")):
        with pytest.raises(InputError, match=told):
            pipe(given, **wrong)


def test_bad_input_is_named_and_others_are_answered(pipes) -> None:
    ours, _ = pipes["image-text-to-text"]
    for given, told in (
        ({"images": picture(1), "text": [chat("a")]}, "holds its media itself"),
        ({"images": [picture(1), picture(2)], "text": "<image>"}, r"2 picture\(s\)"),
        ({"images": picture(1)}, "no text"),
        ({"text": {"text": "a", "smell": 1}}, "smell"),
        ({"text": "a", "return_full_text": True, "return_tensors": True}, "exclude"),
    ):
        with pytest.raises(OmniformError, match=told):
            ours(**given)
    good, bad = [chat(seen(1), "the fox")], [chat({"type": "image", "image": b"no picture"}, "the fox")]
    found = ours(text=[good, bad, good], max_new_tokens=NEW, on_error="return")
    assert isinstance(found[1], OmniformError)
    assert plain(found[0]) == plain(found[2]) == plain(ours(text=good, max_new_tokens=NEW))
