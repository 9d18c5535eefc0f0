"""Templates in the manner of the well-known families: the reference's prompts, letter by letter, and its masks."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from chat_families import CONVERSATIONS, PHI3, TEMPLATES, TOOLS
from test_tokenizers_folders import llama, ours, reference

from omniform.core.errors import InputError, OmniformError

OPTIONS = [
    {},
    {"add_generation_prompt": True},
    {"tools": TOOLS},
    {"tools": TOOLS, "add_generation_prompt": True, "enable_thinking": False},
    {"tools": TOOLS, "tools_in_user_message": False, "builtin_tools": ["weather", "code_interpreter"]},
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory):
    folder = llama(tmp_path_factory.mktemp("families") / "llama")
    return ours(folder), reference(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", TEMPLATES)
def test_families(tokenizers, family: str) -> None:
    mine, theirs = tokenizers
    template = TEMPLATES[family]
    rendered = 0
    for name, conversation in CONVERSATIONS.items():
        for options in OPTIONS:
            try:
                expected = theirs.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)
            except Exception:
                with pytest.raises(InputError):
                    mine.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)
                continue
            found = mine.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)
            assert found == expected, (family, name, options)
            rendered += 1
    assert rendered >= 15, "most conversations suit most templates"


MASKED = [
    PHI3,
    "{% for m in messages %}{% if m.role == 'assistant' %}a:{% generation %}{{ m.content }}{% endgeneration %}."
    "{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}a:{% generation %}{% for c in m.content %}{{ c }}{% endfor %}"
    "{% set x = 1 %}{% endgeneration %}{{ x }}{% endif %}{{ m.role }}{% endfor %}",
    "no block",
]


@pytest.mark.parametrize("template", MASKED, ids=range(len(MASKED)))
@pytest.mark.filterwarnings("ignore")
def test_masks(tokenizers, template: str) -> None:
    mine, theirs = tokenizers
    chat = CONVERSATIONS["turns"]
    options = {"chat_template": template, "return_assistant_tokens_mask": True, "return_dict": True}
    a, b = mine.apply_chat_template(chat, **options), theirs.apply_chat_template(chat, **options)
    assert a["input_ids"] == b["input_ids"] and list(a["assistant_masks"]) == list(b["assistant_masks"])


IN_MACRO = (
    "{% macro turn(m) %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}|{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}"
)
DIRECT = IN_MACRO.replace("{% macro turn(m) %}", "{% for m in messages %}").replace(
    "{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}", "{% endfor %}"
)


def test_marks_cannot_be_forged(tokenizers) -> None:
    """What a user writes is neither taken for a mark nor taken away, whether the block stands in a macro or not."""
    mine, theirs = tokenizers
    for odd in ("user", "u\ufdd0se\ufdd1r", "use\ufdd0r", "\ufdd0/0\ufdd1", "\ufdd1\ufdd0", "\ufdd0" * 9):
        chat = [{"role": "user", "content": odd}, {"role": "assistant", "content": f"ok {odd}"}]
        for template in (DIRECT, IN_MACRO):
            text = mine.apply_chat_template(chat, chat_template=template, tokenize=False)
            assert text == f"<user>{odd}|<assistant>ok {odd}|"
        masks = []
        for template in (DIRECT, IN_MACRO):
            options = {"chat_template": template, "return_dict": True, "return_assistant_tokens_mask": True}
            batch = mine.apply_chat_template(chat, **options)
            assert batch["input_ids"] == mine(text, add_special_tokens=False)["input_ids"]
            masks.append(batch["assistant_masks"])
        expected = theirs.apply_chat_template(chat, **{**options, "chat_template": DIRECT})
        assert masks[0] == masks[1] == list(expected["assistant_masks"]) and sum(masks[0]) > 1


def test_unread_words_are_one_warning(tokenizers, caplog: pytest.LogCaptureFixture) -> None:
    mine, theirs = tokenizers
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    chats = [CONVERSATIONS["one"], CONVERSATIONS["system"]]
    options = {"chat_template": template, "tokenize": False, "enable_thinking": False, "add_generation_promt": True}
    with caplog.at_level(logging.WARNING, logger="omniform"):
        found = mine.apply_chat_template(chats, **options)
    (record,) = caplog.records
    assert found == theirs.apply_chat_template(chats, **options)
    for words in ("'enable_thinking', 'add_generation_promt'", "Did you mean 'add_generation_prompt'?"):
        assert words in record.message
    caplog.clear()
    mine.apply_chat_template(chats, chat_template=template + "{{ enable_thinking }}", enable_thinking=1, tokenize=False)
    assert not caplog.records


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no words for this")


NESTED: list[object] = []
NESTED.append(NESTED)
USER = {"role": "user", "content": "hi"}
WRONG = [
    *({"conversation": value} for value in ("hi", b"hi", None, 3, {}, USER, Odd(), [Odd()], {"x"}, iter([USER]))),
    *({"conversation": value} for value in ([], [[]], [USER, "x"], [[USER], USER], [USER, [USER]], [[[USER]]], [None])),
    *({"conversation": value} for value in (np.array(["hi"]), np.array([USER]), [np.array([1])], [{"content": "hi"}])),
    *({"conversation": [{"role": value, "content": "hi"}]} for value in (None, 3, ["user"], Odd())),
    {"conversation": [{"role": "user", "content": NESTED}]},
    *({"tools": value} for value in ("x", 3, print, int, {"name": "f"}, [3], [int], ["f"], [None], {1}, NESTED)),
    *({"documents": value} for value in ("x", 3, {"title": "t"}, [3], [Odd()], Odd())),
    *({"chat_template": value} for value in (3, b"x", ["x"], Odd())),
    *({"continue_final_message": value} for value in (3, 1.5, [1], Odd())),
    {"continue_final_message": True, "add_generation_prompt": True},
    {"tokenizer_kwargs": 3}, {"tokenizer_kwargs": {"paddding": True}}, {"return_assistant_tokens_mask": True},
    {"word": NESTED},
]  # fmt: skip


@pytest.mark.parametrize("given", WRONG, ids=range(len(WRONG)))
def test_wrong_types(tokenizers, given: dict[str, object]) -> None:
    mine, _ = tokenizers
    template = "{% for m in messages %}{{ m.content }}{{ word }}{% endfor %}{{ tools }}"
    options = {"conversation": [USER], "chat_template": template, "tokenize": "tokenizer_kwargs" in given, **given}
    with pytest.raises(OmniformError) as caught:
        mine.apply_chat_template(**options)
    assert len(str(caught.value)) < 2000
