"""Published tokenizers beside the reference: ids, offsets, decoding, chats."""

from __future__ import annotations

import pytest
from real_files import TOKENIZERS, tokenizer_folder

import omniform
from reference import transformers

HARD = [
    "",
    " ",
    "   \n\n\t  \r\n x",
    "Hello, world! It's 3.14159 o'clock; don't DON'T we'LL.",
    "def f(x):\n    return x ** 2  # squared\n\n\n",
    "naïve café Ångström ﬁnance ½ Ⅷ ﷺ",
    "e\u0301 vs é; \u1e9b\u0323; \u0041\u030a",
    "日本語の文章です。 中文字符，標點！ 한국어 문장",
    "สวัสดีชาวโลก नमस्ते दुनिया مرحبا بالعالم שלום",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ☃\ufe0f",
    "\u200b\u200d\ufeff\u00ad\u2028\u2029\u3000x\u00a0y",
    "\x00\x01\x7f\x80\x9f",
    "<|im_start|>user<|im_end|><|endoftext|> <|eot_id|> <|begin_of_text|><｜begin▁of▁sentence｜> <think>a</think>",
    "<|im_start |> <| eot_id|>< |end▁of▁sentence|>",
    "123456789012345678901234567890 1,000,000.00 0x1F 1e-10",
    "https://example.org/a_b-c?d=e&f=%20#g mail@example.org C:\\dir\\file.txt",
    "a" * 300,
    "ab " * 200,
    " leading and trailing  ",
    "𝕬𝖇𝖈 𐍈 𠜎 𝟘𝟙",
    "ǅ ŀ ĳ ß ẞ ı İ ſ",
    "\\n \\t \\u0041 {{x}} {% y %} <b>&amp;</b>",
    "'s 're 've 'm 'll 'd 'S 'RE",
    "mixed\r\nline\rends\n\r\n",
]

CHAT = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "What is 2+2?\n <|im_end|>"},
    {"role": "assistant", "content": "<think>\nadd them\n</think>\n\nFour"},
    {"role": "user", "content": "And 3+3? 😀"},
]


def get_weather(city: str, unit: str = "celsius") -> str:
    """The weather of a city.

    Args:
        city: its name
        unit: of the temperature (choices: ["celsius", "kelvin"])
    """
    return city + unit


TOOL_CHAT = [
    {"role": "user", "content": "Weather in Rome?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}],
    },
    {"role": "tool", "name": "get_weather", "content": "sunny"},
]


@pytest.fixture(scope="module", params=TOKENIZERS)
def both(request):
    folder = str(tokenizer_folder(request.param))
    return omniform.AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_a_text(both, text):
    ours, theirs = both
    for special in (True, False):
        asked = {"add_special_tokens": special, "return_offsets_mapping": True, "return_special_tokens_mask": True}
        found, expected = ours(text, **asked), theirs(text, **asked)
        assert {k: list(v) for k, v in found.items()} == {k: list(v) for k, v in expected.items()}
    ids = expected["input_ids"]
    assert ours.tokenize(text) == theirs.tokenize(text)
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    for skip in (True, False):
        for tidy in (None, True, False):
            asked = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": tidy}
            assert ours.decode(ids, **asked) == theirs.decode(ids, **asked)
    assert [ours.decode([i]) for i in ids[:40]] == [theirs.decode([i]) for i in ids[:40]]


def test_batches_pairs_and_strides(both):
    ours, theirs = both
    side = (ours.pad_token is None and {"pad_token": ours.eos_token}) or {}
    for one in both:
        for name, token in side.items():
            setattr(one, name, token)
    texts = [t for t in HARD if t]
    calls = [
        ((texts,), {"padding": True}),
        ((texts, texts[::-1]), {"padding": True, "truncation": True, "max_length": 24}),
        ((texts, texts[::-1]), {"truncation": "only_first", "max_length": 600, "return_offsets_mapping": True}),
        (
            (texts,),
            {"truncation": True, "max_length": 16, "stride": 4, "return_overflowing_tokens": True, "padding": True},
        ),
        (
            ([t.split() or ["x"] for t in texts],),
            {"is_split_into_words": True, "padding": "max_length", "max_length": 40},
        ),
    ]
    for args, asked in calls:
        found, expected = ours(*args, **asked), theirs(*args, **asked)
        assert {k: list(map(list, v)) if hasattr(v[0], "__len__") else list(v) for k, v in found.items()} == {
            k: list(map(list, v)) if hasattr(v[0], "__len__") else list(v) for k, v in expected.items()
        }
        for i in range(len(expected["input_ids"])):
            assert found.word_ids(i) == expected.word_ids(i)
            assert found.sequence_ids(i) == expected.sequence_ids(i)


CHATS = {
    "plain": (CHAT, {}),
    "asking": (CHAT, {"add_generation_prompt": True}),
    "not thinking": (CHAT, {"add_generation_prompt": True, "enable_thinking": False}),
    "thinking": (CHAT, {"add_generation_prompt": True, "enable_thinking": True}),
    "continued": ([*CHAT, {"role": "assistant", "content": "The answer is "}], {"continue_final_message": True}),
    "tools": (TOOL_CHAT, {"tools": [get_weather], "add_generation_prompt": True}),
    "tools, no answer yet": (TOOL_CHAT[:1], {"tools": [get_weather]}),
    "several": ([CHAT, CHAT[:2], TOOL_CHAT[:1]], {"add_generation_prompt": True}),
}


@pytest.mark.parametrize("name", CHATS)
def test_a_chat(both, name):
    ours, theirs = both
    chat, asked = CHATS[name]
    try:
        expected = theirs.apply_chat_template(chat, tokenize=False, **asked)
    except Exception as error:
        with pytest.raises(omniform.OmniformError):
            ours.apply_chat_template(chat, tokenize=False, **asked)
        pytest.skip(f"the reference refuses it too: {type(error).__name__}")
    assert ours.apply_chat_template(chat, tokenize=False, **asked) == expected
    found = ours.apply_chat_template(chat, return_dict=True, **asked)
    assert found["input_ids"] == theirs.apply_chat_template(chat, return_dict=True, **asked)["input_ids"]


def test_saved_and_read_again(both, tmp_path):
    ours, _ = both
    ours.save_pretrained(tmp_path)
    for again in (
        omniform.AutoTokenizer.from_pretrained(tmp_path),
        transformers.AutoTokenizer.from_pretrained(tmp_path),
    ):
        assert [again(t)["input_ids"] for t in HARD] == [ours(t)["input_ids"] for t in HARD]
        assert again.get_vocab() == ours.get_vocab()
        assert again.apply_chat_template(CHAT, tokenize=False) == ours.apply_chat_template(CHAT, tokenize=False)


def test_added_and_trained(both):
    ours, theirs = both
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == len(theirs)
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.model_max_length == theirs.model_max_length and ours.padding_side == theirs.padding_side
    corpus = [[t] for t in HARD if t] * 3
    small = ours.train_new_from_iterator(corpus, vocab_size=len(ours.all_special_tokens) + 400)
    text = "Hello, world! naïve 日本語"
    assert type(small) is type(ours) and small.decode(small(text, add_special_tokens=False)["input_ids"]) == text
