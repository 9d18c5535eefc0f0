"""Tokenizer and weight files that mean to use up time or memory, and panics of the Rust backend: typed errors."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tokenizers import AddedToken

import omniform
from omniform.core.errors import ConfigError, InputError, OmniformError, WeightsError
from omniform.inputs.text.growth import check_growth
from omniform.weights.safetensors import read_header

LETTERS = {chr(code): number for number, code in enumerate(range(33, 127))}


def folder(path: Path, **parts: object) -> Path:
    """A folder with a ``tokenizer.json`` of single letters, and the given parts of that file."""
    path.mkdir(parents=True, exist_ok=True)
    raw: dict[str, object] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    raw |= {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    raw["model"] = {"type": "BPE", "vocab": LETTERS, "merges": []}
    (path / "tokenizer.json").write_text(json.dumps(raw | parts))
    return path


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, object]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def steps(*parts: object, name: str = "normalizers") -> dict[str, object]:
    return {"type": "Sequence", name: list(parts)}


def charsmap(replacements: bytes, units: int = 64) -> dict[str, object]:
    trie = struct.pack(f"<{units}I", *[(i * 2654435761 + 12345) & 0x7FFFFFFF for i in range(units)])
    coded = base64.b64encode(struct.pack("<I", len(trie)) + trie + replacements).decode()
    return {"type": "Precompiled", "precompiled_charsmap": coded}


FATAL = replace("a", "\ufdfa"), {"type": "NFKC"}, replace(" ", "a")
GROWING = [
    {"normalizer": steps(*[replace("a", "aa")] * 40)},
    {"normalizer": steps(*[steps(replace("a", "aa"))] * 40)},
    {"normalizer": steps(*[replace("", "aa")] * 40)},
    {"normalizer": steps(*[replace("a|$", "aa", "Regex")] * 40)},
    {"normalizer": replace("a", "a" * 100_000)},
    {"normalizer": {"type": "Prepend", "prepend": "a" * 100_000}},
    {"normalizer": steps(*[{"type": "Prepend", "prepend": "aaaaaaa"}] * 40)},
    {"normalizer": steps(*[{"type": "ByteLevel"}] * 40)},
    {"normalizer": steps(*FATAL * 40)},
    {"normalizer": steps(*[charsmap(b"aa\0aaa\0")] * 40)},
    {"normalizer": charsmap(b"a" * 100_000 + b"\0")},
    {"normalizer": steps(*[{"type": "Lowercase"}] * 10_000)},
    {"normalizer": steps(*[{"type": "Strip", "strip_left": True, "strip_right": True}] * 10_000)},
    {"pre_tokenizer": steps(*[{"type": "ByteLevel", "add_prefix_space": True}] * 40, name="pretokenizers")},
    {"decoder": steps(*[replace("a", "aa")] * 40, name="decoders")},
    {"model": {"type": "BPE", "vocab": LETTERS, "merges": [], "continuing_subword_prefix": "a" * 100_000}},
    {"model": {"type": "BPE", "vocab": LETTERS, "merges": [], "end_of_word_suffix": "a" * 100_000}},
    {"model": {"type": "WordPiece", "vocab": LETTERS, "unk_token": "!", "max_input_chars_per_word": 10**9}},
]  # fmt: skip


@pytest.mark.parametrize("parts", GROWING, ids=range(len(GROWING)))
def test_steps_that_grow_without_bound(tmp_path: Path, parts: dict[str, object]) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        omniform.AutoTokenizer.from_pretrained(folder(tmp_path, **parts))
    assert time.process_time() - start < 2


def template(tokens: int, texts: int, ids: int = 1) -> dict[str, object]:
    single = [{"SpecialToken": {"id": "a", "type_id": 0}}] * tokens + [{"Sequence": {"id": "A", "type_id": 0}}] * texts
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    table = {"a": {"id": "a", "ids": [64] * ids, "tokens": ["a"] * ids}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": table}


def swapped(step: dict[str, object]) -> dict[str, object]:
    return {**step, "single": step["pair"], "pair": step["single"]}


LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
FRAMINGS = {
    "many tokens": template(20_000, 1), "tokens of many ids": template(200, 1, 1000), "texts": template(1, 500),
    "in the pair": swapped(template(0, 500)), "twice thirty times": steps(*[template(1, 2)] * 30, name="processors"),
    "a thousand steps": steps(*[template(0, 1)] * 1000, name="processors"),
    "tokens in steps": steps(*[template(900, 1)] * 12, name="processors"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMINGS)
def test_framings_are_bounded(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"post_processor.*longer than in any tokenizer"):
        omniform.AutoTokenizer.from_pretrained(folder(tmp_path, post_processor=FRAMINGS[name]))


def test_framings_as_they_are_published(tmp_path: Path) -> None:
    for fine in (template(4, 1), steps(LEVEL, template(1, 1), name="processors"), template(0, 2, 9)):
        assert omniform.AutoTokenizer.from_pretrained(folder(tmp_path, post_processor=fine))("a")["input_ids"]


def test_the_steps_of_known_tokenizers_are_fine(tmp_path: Path) -> None:
    albert = steps(
        *(replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
        *(charsmap("\u0627\u0644".encode() * 9 + b"\0"), replace(" {2,}", " ", "Regex")),
    )
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    check_growth({"normalizer": albert, "pre_tokenizer": space}, "albert")
    llama = steps({"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581"))
    decoder = steps(replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, name="decoders")
    check_growth({"normalizer": llama, "decoder": decoder}, "llama")
    assert omniform.AutoTokenizer.from_pretrained(folder(tmp_path, normalizer=llama))("a b")["input_ids"]
    qwen = {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"}}
    check_growth(qwen, "qwen")


HUGE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")


@pytest.mark.parametrize(
    "name", [*HUGE, "chat_template.jinja", "chat_template.json", "additional_chat_templates/a.jinja"]
)
def test_files_are_refused_by_their_size(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path) / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.truncate(path, 40 * 2**30)
    with pytest.raises(ConfigError, match=f"{path.name}.* large.*up to .*{40 * 2**30} bytes"):
        omniform.AutoTokenizer.from_pretrained(tmp_path)


VOCABULARIES = [
    ("GPT2Tokenizer", ("vocab.json", "merges.txt")),
    ("BertTokenizer", ("vocab.txt",)),
    ("LlamaTokenizer", ("tokenizer.model",)),
]


@pytest.mark.parametrize(("kind", "names"), VOCABULARIES)
def test_vocabularies_are_refused_by_their_size(tmp_path: Path, kind: str, names: tuple[str, ...]) -> None:
    for huge in names:
        for name in names:
            (tmp_path / name).write_text("{}" if name.endswith("json") else "")
        os.truncate(tmp_path / huge, 40 * 2**30)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
        with pytest.raises(ConfigError, match=f"{huge}.* large.*{40 * 2**30} bytes"):
            omniform.AutoTokenizer.from_pretrained(tmp_path)


def test_deep_json(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        path = folder(tmp_path / name) / name
        path.write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
        with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
            omniform.AutoTokenizer.from_pretrained(tmp_path / name)


HEADERS = {
    "many tensors": lambda: b"{" + b",".join(b'"%d":{}' % number for number in range(1_000_000)) + b"}",
    "many parts": lambda: b'{"a":[' + b"[]," * 10_000_000 + b"[]]}",
    "many commas": lambda: b'{"a":[' + b"1," * 10_000_000 + b"1]}",
    "one twice": lambda: b"{" + b",".join(b'"%d":1' % (number % 99_999) for number in range(100_000)) + b"}",
    "too long": lambda: b"{}".ljust(100_000_001),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_bounded(tmp_path: Path, name: str) -> None:
    header = HEADERS[name]()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    start = time.process_time()
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read_header(path)
    assert time.process_time() - start < 2


def test_panics_are_typed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The backend's panics are no ``Exception``; wherever it is called, they are one of ours."""
    tokenizer = omniform.AutoTokenizer.from_pretrained(folder(tmp_path, normalizer=charsmap(b"abc\0def\0")))
    texts = "a\xe9\u2460"
    calls = [
        lambda: tokenizer(texts),
        lambda: tokenizer([texts, "b"], padding=True),
        lambda: tokenizer.encode(texts),
        lambda: tokenizer.tokenize(texts),
        lambda: tokenizer.add_tokens(["\xe9\u2460"]),
        lambda: tokenizer.add_tokens([AddedToken("\xe9\u2460", normalized=True)]),
        lambda: tokenizer.apply_chat_template(
            [{"role": "user", "content": texts}], chat_template="{{ messages[0].content }}"
        ),
        lambda: pickle.loads(pickle.dumps(tokenizer))(texts),
    ]
    raised = 0
    for call in calls:
        try:
            call()
        except OmniformError:
            raised += 1
    assert raised >= 6 and tokenizer.convert_tokens_to_ids("a") == LETTERS["a"]
    capfd.readouterr()  # Rust has told of its panics


def test_hostile_patterns(tmp_path: Path) -> None:
    """A pattern that backtracks without end is given up by the backend, which panics."""
    for pattern in ("(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*a){30}$"):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        tokenizer = omniform.AutoTokenizer.from_pretrained(folder(tmp_path, pre_tokenizer=split))
        with suppress(InputError):
            tokenizer("a" * 40 + "!")
    for pattern in ("(", "[", "(?P<", "a{99999999}", "\\"):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        with pytest.raises(ConfigError):
            omniform.AutoTokenizer.from_pretrained(folder(tmp_path, pre_tokenizer=split))


def test_a_loop_over_conversations_is_warned_once(tmp_path: Path) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("omniform")
    level = log.level
    log.setLevel(logging.WARNING)
    log.addHandler(handler)
    tokenizer = omniform.AutoTokenizer.from_pretrained(folder(tmp_path))
    tokenizer.chat_template = "{{ messages[0].content }}{# of this test alone #}"
    try:
        for _ in range(3):
            tokenizer.apply_chat_template([{"role": "user", "content": "x"}], enable_thinking=True)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert said == ["the chat template reads no 'enable_thinking'"]
