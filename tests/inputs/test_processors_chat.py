"""Conversations with pictures and sounds, to a model's inputs in one call, against the reference."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_processors import PICTURES, SMALL, WAVES, check_spans, same, save
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import InputError, OmniformError, RepoError, UnknownArgumentError
from omniform.inputs.media_access import MediaAccess
from reference import transformers

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% elif c['type'] == 'text' %}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ c['text'] }}{% endgeneration %}"
    "{% else %}{{ c['text'] }}{% endif %}{% endif %}{% endfor %}{% endif %} {% endfor %}"
    "{% if mood %}{{ mood }}{% endif %}{% if add_generation_prompt %}assistant:{% endif %}"
)
BARE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
FULL = {"tokenize": True, "return_dict": True}


def picture(image: object = PICTURES[0], key: str = "image") -> dict[str, object]:
    return {"type": "image", key: image}


def user(*parts: object) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def assistant(text: str) -> dict[str, object]:
    return {**user(text), "role": "assistant"}


ASK = [user(picture(), "hello")]
TALK = [user(picture(), "hello", picture(PICTURES[1])), assistant("the fox"), user("dog", picture(PICTURES[2]))]
ENDED = [*TALK, assistant("lazy dog")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    folder = save(tmp_path_factory.mktemp("chat"), "llava", chat_template={"default": TEMPLATE, "bare": BARE})
    return omniform.AutoProcessor.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)


CALLS = [
    (ASK, {}),
    (ASK, {"add_generation_prompt": True}),
    (ASK, {"tokenize": True}),
    (ASK, {"tokenize": True, "return_tensors": "pt"}),
    (ASK, {**FULL, "return_tensors": "np"}),
    (TALK, {**FULL, "add_generation_prompt": True}),
    ([ASK, TALK], {}),
    ([ASK, [user("no picture")], TALK], {**FULL, "padding": True, "return_tensors": "pt"}),
    ([ASK, TALK], {**FULL, "processor_kwargs": {"text_kwargs": {"padding": True}}, "return_tensors": "pt"}),
    ([{"role": "user", "content": "plain text"}], FULL),
    ([{"role": "user", "content": None}], FULL),
    (ASK, {**FULL, "chat_template": "bare"}),
    (ASK, {**FULL, "chat_template": BARE}),
    (ASK, {"mood": "fox"}),
    (ASK, {**FULL, "mood": "fox", "crop_size": {"height": 14, "width": 14}}),
    ([user({"type": "image"}, "hello")], {**FULL, "images": [PICTURES[0]]}),
    (ENDED, {**FULL, "continue_final_message": True}),
    (ENDED, {**FULL, "return_assistant_tokens_mask": True}),
    (ENDED, {**FULL, "return_assistant_tokens_mask": True, "return_tensors": "pt"}),
    (
        [ENDED, [user("hello"), assistant("the fox")]],
        {**FULL, "return_assistant_tokens_mask": True, "return_tensors": "pt", "padding": True},
    ),
]


@pytest.mark.parametrize(("conversation", "options"), CALLS, ids=[str(number) for number in range(len(CALLS))])
def test_chats(pair, conversation, options) -> None:
    ours, theirs = pair
    # The reference adds to the mappings that it is given.
    theirs_options = {k: dict(v) if isinstance(v, dict) else v for k, v in options.items()}
    expected = theirs.apply_chat_template(conversation, **theirs_options)
    found = ours.apply_chat_template(conversation, **options)
    if not isinstance(found, omniform.Batch):
        same(found, expected)
        return
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)
    if "pixel_values" in found:
        check_spans(found, ours.image_token_id)


def test_where_pictures_come_from(pair, tmp_path: Path) -> None:
    ours, theirs = pair
    file = io.BytesIO()
    PICTURES[0].save(file, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(file.getvalue())
    coded = base64.b64encode(file.getvalue()).decode()
    expected = theirs.apply_chat_template(ASK, **FULL, return_tensors="pt")
    parts = [
        picture(str(path)), picture(path, "path"), picture(str(path), "url"), picture(coded, "base64"),
        picture(f"data:image/png;base64,{coded}", "url"), picture(np.asarray(PICTURES[0])), picture(file.getvalue()),
        {"type": "image_url", "image_url": {"url": str(path)}}, {"type": "image_url", "image_url": str(path)},
    ]  # fmt: skip
    for part in parts:
        given = [user(part, "hello")]
        found = ours.apply_chat_template(given, **FULL, return_tensors="pt")
        assert given == [user(part, "hello")], "the conversation was changed"
        for name in expected:
            same(found[name], expected[name], f"{name} of {part!r:.40}")


def test_files_of_a_stranger(pair, tmp_path: Path) -> None:
    """A conversation that is not the caller's own reads no file but from the folders that the caller names."""
    ours = pair[0]
    path = tmp_path / "a.png"
    PICTURES[0].save(path)
    narrow = MediaAccess(roots=[]), MediaAccess(roots=[tmp_path / "b"]), MediaAccess(roots=[], urls="none")
    for template in (TEMPLATE, TEMPLATE + "{{ media_access }}"):
        for part in (picture(str(path)), picture(str(path), "path"), picture(str(path), "url")):
            for access in narrow:
                for many in (False, True):
                    chat = [[user(part, "hello")]] * 2 if many else [user(part, "hello")]
                    with pytest.raises(OmniformError):
                        ours.apply_chat_template(chat, chat_template=template, media_access=access, **FULL)
            access = MediaAccess(roots=[tmp_path])
            batch = ours.apply_chat_template([user(part, "hello")], media_access=access, **FULL)
            assert "pixel_values" in batch
    with pytest.raises(InputError):
        ours.apply_chat_template(ASK, media_access="public", **FULL)


def test_one_bos(pair) -> None:
    ours = pair[0]
    bos = ours.tokenizer.bos_token_id
    for template in ("default", "bare"):
        batch = ours.apply_chat_template(ASK, **FULL, chat_template=template, return_tensors="pt")
        assert int((batch.input_ids == bos).sum()) == 1


BAD = [
    ([], {}, InputError, "no message"),
    (["hello"], {}, InputError, "mapping"),
    ([user({"type": "image"}, "hello")], FULL, InputError, r"row 0.* 0 picture\(s\).* 1 placeholder"),
    (ASK, {**FULL, "chat_template": "no placeholder"}, InputError, r"1 picture\(s\).* 0 placeholder"),
    ([user(picture("nowhere.png"), "hello")], FULL, RepoError, "nowhere.png"),
    ([user({"type": "video", "video": "a.mp4"})], FULL, InputError, "reads no videos"),
    ([user({"type": "audio", "audio": "a.wav"})], FULL, InputError, "no sound"),
    (ASK, {**FULL, "processor_kwargs": {"paddding": True}}, UnknownArgumentError, "'padding'"),
    (ASK, {"return_assistant_tokens_mask": True}, InputError, "tokenize=True"),
    (ENDED, {"continue_final_message": True, "add_generation_prompt": True}, InputError, "continue"),
    (ASK, {"chat_template": "{% if %}"}, OmniformError, "jinja"),
    (ASK, {"chat_template": "{{ messages.__class__ }}"}, OmniformError, "unsafe"),
]  # fmt: skip


@pytest.mark.parametrize(("conversation", "options", "error", "said"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_conversations(pair, conversation, options, error, said: str) -> None:
    with pytest.raises(error, match=said):
        pair[0].apply_chat_template(conversation, **options)


@pytest.mark.parametrize("text", ["an <image>", "<image><image> and <image>"])
def test_a_placeholder_that_somebody_types_is_text(pair, text: str) -> None:
    """It takes no picture's place, in a message of text and beside pictures; given as an argument it does."""
    ours = pair[0]
    for chat in ([{"role": "user", "content": text}], [user(text)], [user(picture(), text), assistant(text)]):
        batch = ours.apply_chat_template(chat, **FULL)
        held = sum(part["type"] == "image" for m in chat if not isinstance(m["content"], str) for part in m["content"])
        ids = batch["input_ids"][0]
        assert len(batch.spans) == held and ids.count(ours.image_token_id) == sum(s.length for s in batch.spans)
        assert "image>" in ours.decode(ids, skip_special_tokens=True)
    pictures = [PICTURES[0]] * text.count("<image>")
    meant = ours.apply_chat_template([{"role": "user", "content": text}], images=pictures, **FULL)
    theirs = pair[1].apply_chat_template([{"role": "user", "content": text}], tokenize=False)
    assert len(meant.spans) == len(pictures)
    assert meant["input_ids"][0] == pair[1](text=theirs, images=pictures, add_special_tokens=False)["input_ids"][0]


def test_the_tokenizers_template_does_where_the_processor_has_none(tmp_path: Path) -> None:
    tokenizer = omniform.AutoTokenizer.from_pretrained(llava(tmp_path / "a", chat_template=BARE))
    images = omniform.AutoProcessor.from_pretrained(save(tmp_path, "llava")).image_processor
    ours = omniform.LlavaProcessor(images, tokenizer, patch_size=7, chat_template=None)
    assert ours.apply_chat_template(ASK) == "<image>hello"
    bare = omniform.AutoProcessor.from_pretrained(save(tmp_path / "b", "llava"))
    with pytest.raises(InputError, match="no chat template"):
        bare.apply_chat_template(ASK)
    assert SMALL["size"] == images.size


def test_sound_in_a_conversation(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, WAVES[1] / 8, 16000, subtype="FLOAT")
    ours = omniform.AutoProcessor.from_pretrained(save(tmp_path, "whisper"))
    template = "{% for c in messages[0]['content'] %}{{ c['text'] }}{% endfor %}"
    chat = [user("hello", {"type": "audio", "path": str(path)}, {"type": "audio", "audio": WAVES[0]})]
    batch = ours.apply_chat_template(chat, chat_template=template, **FULL, return_tensors="pt")
    expected = ours(audio=[WAVES[1] / 8, WAVES[0]], text="hello", return_tensors="pt")
    assert batch.input_features.shape[0] == 2
    for name in expected:
        assert torch.equal(batch[name], expected[name])


def test_files_and_addresses_of_a_strangers_chat(pair, tmp_path: Path) -> None:
    PICTURES[0].save(tmp_path / "x.png")
    (tmp_path / "root").mkdir()
    closed, rooted = MediaAccess(urls="none", roots=[]), MediaAccess(roots=[tmp_path])
    for address in (str(tmp_path / "x.png"), (tmp_path / "x.png").as_uri()):
        chat = [user({"type": "image_url", "image_url": {"url": address}}, "hello")]
        batch = pair[0].apply_chat_template(chat, **FULL, return_tensors="pt", media_access=rooted)
        assert batch.pixel_values.shape[0] == 1
        for access in (closed, MediaAccess(roots=[tmp_path / "root"])):
            with pytest.raises(RepoError, match="may not be read"):
                pair[0].apply_chat_template(chat, **FULL, media_access=access)
    with pytest.raises(RepoError, match="not read here"):
        chat = [user({"type": "image", "url": "http://example.com/x.png"}, "hello")]
        pair[0].apply_chat_template(chat, **FULL, media_access=closed)
    with pytest.raises(InputError, match="too large together"):
        pair[0].apply_chat_template(TALK, **FULL, media_access=MediaAccess(max_total_pixels=9))
