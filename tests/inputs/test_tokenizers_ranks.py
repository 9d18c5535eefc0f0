"""Vocabularies listed by rank, beside the reference: tiktoken's files and Mistral's tekken.json."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from test_tokenizers_files import facts
from test_tokenizers_folders import WORDS, ours, reference, write

from omniform.core.errors import ConfigError


def ranked() -> list[bytes]:
    tokens = [bytes([byte]) for byte in range(256)]
    for word in WORDS:
        for spelled in (word.encode(), b" " + word.encode()):
            tokens += [spelled[:end] for end in range(2, len(spelled) + 1)]
            tokens += [spelled[-end:] for end in range(2, len(spelled))]
    return list(dict.fromkeys(tokens))


def lines(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}


def tiktoken(folder: Path, file: str = "tokenizer.model", **config: object) -> Path:
    write(folder, tokenizer_config=config, config={"model_type": "llama"})
    (folder / file).write_bytes(lines(ranked()))
    return folder


def tekken(folder: Path, config: dict[str, object] | None = None, **settings: object) -> Path:
    pattern = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokens = [
        {"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(ranked())
    ]
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"]
    special = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)]
    raw = {
        "config": {"pattern": pattern, "default_vocab_size": 300, "default_num_special_tokens": 10, "version": "v3",
                   **(config or {})},
        "vocab": tokens, "special_tokens": special[::-1],
    }  # fmt: skip
    write(folder, tekken=raw, config={"model_type": "mistral"})
    return write(folder, tokenizer_config=settings) if settings else folder


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tiktoken package reads, which need not be installed."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    def load(path: str) -> dict[bytes, int]:
        pairs = (line.split() for line in Path(path).read_bytes().splitlines() if line)
        return {base64.b64decode(token): int(rank) for token, rank in pairs}

    monkeypatch.setattr(TikTokenConverter, "load_tiktoken_bpe", staticmethod(load))


KINDS = {
    "tiktoken": tiktoken,
    "tiktoken, its own name": lambda f: tiktoken(f, "tiktoken.model"),
    "tiktoken, framed": lambda f: tiktoken(
        f, extra_special_tokens=["<|begin_of_text|>", "<|end_of_text|>"], bos_token="<|begin_of_text|>",
        add_bos_token=True, eos_token="<|end_of_text|>",
    ),
    "tiktoken, added by id": lambda f: tiktoken(
        f, added_tokens_decoder={str(len(ranked()) + 3): {"content": "<four>", **FLAGS}}, eos_token="<four>",
        extra_special_tokens=["<five>"],
    ),
    "tiktoken, llama": lambda f: tiktoken(f, tokenizer_class="LlamaTokenizer"),
    "tekken": tekken,
    "tekken, whole": lambda f: tekken(f, {"default_vocab_size": None, "default_num_special_tokens": None}),
    "tekken, framed": lambda f: tekken(f, bos_token="<s>", eos_token="</s>", add_bos_token=True, pad_token="<pad>"),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_as_the_reference(kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path / "a")
    mine = ours(folder)
    assert facts(mine) == facts(reference(folder))
    mine.save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text((folder / "config.json").read_text())
    assert facts(ours(tmp_path / "b")) == facts(reference(tmp_path / "b")) == facts(mine)


def test_what_is_damaged(tmp_path: Path) -> None:
    good = tekken(tmp_path / "a")
    raw = json.loads((good / "tekken.json").read_text())
    for change in (
        {"config": None}, {"config": {}}, {"vocab": None}, {"vocab": [{"token_bytes": "?"}]}, {"vocab": []},
        {"special_tokens": None}, {"special_tokens": [{"rank": 3, "token_str": "a"}]}, {"special_tokens": 5},
        {"config": {"pattern": 7}}, {"config": {"pattern": "("}},
    ):  # fmt: skip
        (good / "tekken.json").write_text(json.dumps({**raw, **change}))
        with pytest.raises(ConfigError):
            ours(good)
    other = tiktoken(tmp_path / "b")
    for data in (b"YQ== 0\nYg==\n", b"YQ== 0\n!! 1\n", b"YQ== 0\nYg== x\n", b"YQ== 0\n\xff\xff 1\n"):
        (other / "tokenizer.model").write_bytes(data)
        with pytest.raises(ConfigError):
            ours(other)
    with pytest.raises(ConfigError, match="far behind"):
        ours(tiktoken(tmp_path / "c", added_tokens_decoder={"999999999": {"content": "<a>", **FLAGS}}))
