"""Text as it comes: whole characters at once, none that changes later, and at a cost that does not grow."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from omniform.engine.text import Detokenizer
from reference import omniform

sys.path.insert(0, str(Path(__file__).parent.parent / "inputs"))

import test_tokenizers_folders as folders

TEXTS = {
    "thai": "สวัสดีครับยินดีต้อนรับเข้าสู่ประเทศไทย",
    "khmer": "សូមស្វាគមន៍មកកាន់ប្រទេសកម្ពុជា",
    "chinese": "你好世界,欢迎来到这里。天地玄黄",
    "emoji": "🤗😄✨🌟🎉👨‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪",
    "address": "https://example.com/a/b/c?d=e&f=g#h",
    "code": "for(i=0;i<n;++i){x[i]=f(y[i]);}",
    "indented": "def f(x):\n    return [\n        x,\n    ]\n",
    "words": "I do n't know , said he . It ' s what we 've seen ! No ?",
    "mixed": "naïve café — 日本語の文 with spaces",
}


def bytes_tokenizer(folder):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return made(tokenizer, folder)


def fallback_tokenizer(folder):
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}, "▁": 257, "a": 258, "▁with": 259}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made(tokenizer, folder)


def made(tokenizer, folder):
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return omniform.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    known = {}

    def of(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            own = {"bytes": bytes_tokenizer, "fallback": fallback_tokenizer}
            if kind in own:
                known[kind] = own[kind](folder)
            else:
                known[kind] = folders.ours(getattr(folders, kind)(folder))
        return known[kind]

    return of


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_characters_are_shown_as_soon_as_they_are_whole(tokenizers, kind, text):
    tokenizer, wanted = tokenizers(kind), TEXTS[text]
    ids = list(wanted.encode())
    if kind == "fallback":
        ids = [1 + byte for byte in ids]
    else:
        ids = tokenizer(wanted, add_special_tokens=False)["input_ids"]
    words, shown, spelt = Detokenizer(tokenizer), "", 0
    for at, token in enumerate(ids):
        piece = words.push(token)
        shown += piece
        assert "\ufffd" not in piece and wanted.startswith(shown)
        whole = wanted.encode()[: at + 1].decode(errors="ignore")
        # At most an end whose space may go away is held back.
        assert len(shown) >= len(whole) - 3, (whole, shown)
        spelt += len(piece)
    assert shown + words.rest() == wanted == tokenizer.decode(ids)


KINDS = ("bert", "clip", "generic_unigram", "gpt2", "llama", "llama3", "t5", "whisper", "bytes")


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_make_the_text_of_all_tokens(tokenizers, kind):
    tokenizer = tokenizers(kind)
    chance = random.Random(kind)
    size = len(tokenizer)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS.values()]
    plain = [i for i in range(size) if not (kind == "llama" and tokenizer.id_token(i).startswith("<0x"))]
    rows += [[chance.choice(plain) for _ in range(chance.randint(1, 120))] for _ in range(40)]
    specials = list(tokenizer.all_special_ids)
    if specials:
        rows += [[*rows[0], *[specials[0]] * 90, *rows[-1]], [specials[0]] * 80 + rows[2]]
    for row in rows:
        for skip in (True, False):
            words = Detokenizer(tokenizer, skip_special_tokens=skip)
            pieces = [words.push(token) for token in row]
            whole = tokenizer.decode(row, skip_special_tokens=skip)
            assert whole.startswith("".join(pieces)), (row, skip)
            assert "".join([*pieces, words.rest()]) == whole, (row, skip)


class Counting:
    """A tokenizer that counts how many tokens it was asked to decode."""

    def __init__(self, tokenizer):
        self.tokenizer, self.count = tokenizer, 0

    def decode(self, token_ids, skip_special_tokens=False):
        self.count += len(token_ids)
        return self.tokenizer.decode(token_ids, skip_special_tokens)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("bytes", list("สวัสดี".encode())), ("bytes", [0xFF]), ("fallback", [1 + b for b in "สวัสดี".encode()]),
        ("fallback", [200]), ("fallback", [257]), ("fallback", [258]), ("gpt2", [5]),
        ("bert", "##"), ("llama", "special"),
    ],
)  # fmt: skip
def test_the_cost_of_a_token_does_not_grow(tokenizers, kind, row):
    tokenizer = tokenizers(kind)
    if kind == "bytes":
        letters = Tokenizer.from_str(tokenizer.backend.to_str())
        row = [letters.token_to_id(decoders_letter(byte)) for byte in row]
    elif row == "##":
        row = [i for i in range(len(tokenizer)) if tokenizer.id_token(i).startswith("##")][:3]
    elif row == "special":
        row = [tokenizer.all_special_ids[0]]
    costs = []
    for length in (600, 1800):
        counting = Counting(tokenizer)
        words = Detokenizer(counting)
        ids = (row * length)[:length]
        text = "".join(words.push(token) for token in ids)
        costs.append(counting.count / length)
        assert text + words.rest() == tokenizer.decode(ids, skip_special_tokens=True)
    assert costs[1] < 1.3 * costs[0] < 300, costs


def decoders_letter(byte: int) -> str:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in plain else chr(256 + [b for b in range(256) if b not in plain].index(byte))
