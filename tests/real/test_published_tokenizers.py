"""Published tokenizers beside the reference: ids, offsets, decoding, chats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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
    "12 345 6789 0.1 1e5 ٣٤٥ ²³¼ ১২৩",
    "\ta\t\tb\t \tc\n\t\n \t\n",
    "x<|endoftext|>y<s>z</s>w<unk>v<pad>u<bos>t<eos>s[INST]q[/INST]",
    "foo<|im_start|>bar<start_of_turn>baz<end_of_turn><BOS_TOKEN>r<|END_OF_TURN_TOKEN|><EOT>",
    " <s> <s>  </s> \n</s>\n",
    "\u2581a \u2581\u2581b \u2581<0x41><0x0A>",
    "\ufffd\ufffe\uffff\U0010ffff",
    "\n" * 20 + " " * 33,
    "q\u0323\u0307 \u1100\u1161\u11a8 각 ㌔ ℌ ２３ ＡＢＣ",
    "can't,won't'll;I'D 'tis `x` ``y'' — “q” ‘r’… ...!!! ---***###",
    "<|reserved_special_token_0|><unused0><|fim_prefix|><|tool_call|>[TOOL_CALLS] [AVAILABLE_TOOLS]",
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


def plain_folder(name: str, made: Path) -> Path:
    """The folder; a copy that names no code of its own, where it does: the reference would ask before it runs that."""
    folder = tokenizer_folder(name)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    if said.pop("auto_map", None) is None:
        return folder
    shutil.copy(folder / "tokenizer.json", made)
    (made / "tokenizer_config.json").write_text(json.dumps(said))
    return made


@pytest.fixture(scope="module", params=TOKENIZERS)
def both(request, tmp_path_factory):
    folder = str(plain_folder(request.param, tmp_path_factory.mktemp(request.param)))
    return omniform.AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def plain(value):
    """Lists and numbers, whatever holds them."""
    if hasattr(value, "items"):
        return {name: plain(inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):
        return [str(value.dtype), value.tolist()]
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def same(both, asked):
    """Both answer alike, or both refuse."""
    ours, theirs = both
    try:
        expected = plain(asked(theirs))
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # tokenizers panics
            raise
        with pytest.raises((omniform.OmniformError, AttributeError)):
            asked(ours)
    else:
        assert plain(asked(ours)) == expected


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


def places(encoding, texts):
    """Every look-up of every character, token and word."""
    rows = range(len(encoding["input_ids"]))
    chars = [(side, at) for side, text in enumerate(texts) for at in range(len(text))]
    words = {(side, word) for side, word in zip(encoding.sequence_ids(), encoding.word_ids(), strict=True)}
    words = sorted(pair for pair in words if None not in pair)
    return [
        [(encoding.char_to_token(0, at, side), encoding.char_to_word(0, at, side)) for side, at in chars],
        [(encoding.token_to_chars(i), encoding.token_to_word(i), encoding.token_to_sequence(i)) for i in rows],
        [(encoding.word_to_tokens(0, w, side), encoding.word_to_chars(0, w, side)) for side, w in words],
        [encoding.word_ids(), encoding.sequence_ids(), encoding.tokens()],
    ]


def test_places_and_options(both):
    theirs = both[1]
    for text in HARD:
        text = text[:100]
        asked = {"return_token_type_ids": True, "return_length": True, "return_special_tokens_mask": True}
        same(both, lambda t: t(text, split_special_tokens=True, **asked))  # noqa: B023
        same(both, lambda t: [t(text_target=text), t(text, text_target=text)])  # noqa: B023
        same(both, lambda t: places(t(text), [text]))  # noqa: B023
        same(both, lambda t: places(t(text, "a b"), [text, "a b"]))  # noqa: B023
        ids = theirs(text)["input_ids"]
        same(both, lambda t: t.batch_decode([ids, ids[1:], []]))  # noqa: B023
        same(both, lambda t: t.convert_tokens_to_string(t.tokenize(text)[1:9]))  # noqa: B023
        same(both, lambda t: t.convert_tokens_to_ids([*t.tokenize(text), "no such token"]))  # noqa: B023
        same(both, lambda t: t.convert_ids_to_tokens(ids, skip_special_tokens=True))  # noqa: B023


PADDINGS = [
    {"padding": True, "padding_side": "left", "return_length": True, "return_token_type_ids": True},
    {"padding": True, "pad_to_multiple_of": 16},
    {"padding": "max_length", "max_length": 48, "truncation": True, "pad_to_multiple_of": 8, "return_tensors": "np"},
    {"padding": True, "return_tensors": "pt", "return_offsets_mapping": True},
    {"truncation": "only_second", "max_length": 40, "stride": 3, "return_overflowing_tokens": True},
    {"truncation": True, "max_length": 3, "padding": True},
    {"max_length": 5},
    {"padding": "longest", "truncation": "do_not_truncate", "max_length": 9},
]


def test_paddings(both):
    kept = [one.pad_token for one in both]
    for one in both:
        one.pad_token = one.pad_token or one.eos_token or one.convert_ids_to_tokens(5)
    texts = [t[:40] for t in HARD if t]
    for asked in PADDINGS:
        same(both, lambda t: t(texts, **asked))  # noqa: B023
        same(both, lambda t: t(texts[:12], texts[8:20], **asked))  # noqa: B023
    for one, token in zip(both, kept, strict=True):
        one.pad_token = token


def test_batches_pairs_and_strides(both):
    ours, theirs = both
    side = (ours.pad_token is None and {"pad_token": ours.eos_token or ours.convert_ids_to_tokens(5)}) or {}
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
    "documents": (CHAT, {"documents": [{"title": "A", "text": "é"}], "add_generation_prompt": True}),
    "masked": (CHAT, {"return_assistant_tokens_mask": True}),
    "two users": ([CHAT[1], CHAT[1]], {}),
    "no system": (CHAT[1:], {"add_generation_prompt": True}),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b "}]}], {}),
    "another template": (CHAT[1:2], {"chat_template": "rag", "documents": [{"title": "A", "text": "b"}]}),
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
        same((ours, again), lambda t: t.apply_chat_template(CHAT[1:], tokenize=False))


def grown(folder, kind, token):
    """A tokenizer of the folder, with added tokens of each kind."""
    made = kind.from_pretrained(folder)
    made.add_tokens(["zweihänder", token("<l>", lstrip=True), token("<r>", rstrip=True), token("x y", normalized=True)])
    made.add_tokens(
        [token("word", single_word=True), token("nrm é", normalized=True), token("raw é", normalized=False)]
    )
    made.add_special_tokens({"pad_token": "<mypad>", "extra_special_tokens": ["<sp1>"]})
    made.add_tokens(["<sp2>"], special_tokens=True)
    return made


GROWN = [
    "a <l> b <r> c word words sword word. nrm é raw é nrm e\u0301 x y  x y z",
    "zweihänderzweihänder <l><r> \n<l>\n<r>\n",
    "<sp1><sp2> <sp2>x<mypad> q",
]


def test_grown(both, tmp_path):
    kinds = omniform.AutoTokenizer, transformers.AutoTokenizer
    folder = both[0].name_or_path
    ours, theirs = (grown(folder, kind, transformers.AddedToken) for kind in kinds)
    ours.save_pretrained(tmp_path)
    for pair in (ours, theirs), tuple(kind.from_pretrained(tmp_path) for kind in kinds):
        same(pair, lambda t: [len(t), t.get_added_vocab(), t.all_special_tokens])
        for text in [*GROWN, *HARD[:24:4]]:
            same(pair, lambda t: t(text, return_offsets_mapping=True, return_special_tokens_mask=True))  # noqa: B023
            same(pair, lambda t: [t.tokenize(text), t.decode(t.encode(text), skip_special_tokens=True)])  # noqa: B023


def test_added_and_trained(both):
    ours, theirs = both
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == len(theirs)
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.model_max_length == theirs.model_max_length and ours.padding_side == theirs.padding_side
    corpus = [[t] for t in HARD if t] * 3
    small = ours.train_new_from_iterator(corpus, vocab_size=len(ours.all_special_tokens) + 400)
    text = "Hello, world! naïve 日本語"
    assert type(small) is type(ours) and small.decode(small(text, add_special_tokens=False)["input_ids"]) == text
