"""Tiny tokenizer folders, made by hand, of every kind; the other tokenizer tests build on these."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram, WordLevel

from omniform.inputs.text.load import tokenizer_from_files
from omniform.inputs.text.tokenizer import Tokenizer

WORDS = [
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "hello", "world", "token", "image", "123"),
    *("ünï", "日本", "don't", "it's"),
]

TEXTS = [
    "Hello world, the quick brown fox jumps over the lazy dog.",
    "",
    " ",
    "   leading and   inner    spaces   ",
    "\n\n\nnewline\n\nruns\n",
    "tabs\tand\r\nreturns",
    "naïve café Ünïcödé ÀÉÎ straße İstanbul",
    "e\u0301 combining, ﬁ ligature, Ａ full width, ½ ① ™",
    "日本語のテキスト 和 中文字符 한국어 ภาษาไทย العربية עברית हिन्दी",
    "emoji 😀 👩‍👩‍👧‍👦 🇩🇪 ☃️",
    "control \x00 \x07 \x1b zero\u200bwidth \ufeff bom \u2028 line \u00a0 nbsp \u3000 wide \ufffd",
    "don't it's they're I'll we've 'quoted' \"double\" (paren) [SEP] x",
    "punct!?.,;: -- … — a.b,c 3.14 1,000 50% #tag @user a_b",
    "special <s> </s> <unk> <pad> <|endoftext|> [CLS] [MASK] <extra_id_0> <image> <|startoftext|> inside<s>word",
    "▁metaspace ▁▁ Ġbyte ##piece </w> <0x41>",
    "the" * 300,
    "word " * 400,
    "a",
    "\u0130\u0049\u0307 \U0001f600\U00010348 \u0e33",
]

PAIRS = [("the quick fox", "jumps over"), ("", "dog"), ("hello", ""), ("lazy dog. " * 20, "日本 world"), (" ", " ")]


def byte_alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def grow(
    alphabet: list[str], words: list[str], first: str = "", last: str = ""
) -> tuple[dict[str, int], list[list[str]]]:
    """A vocabulary and merges that build each word from the left, with its last letter marked by ``last``."""
    vocab = dict.fromkeys(alphabet)
    if last:
        vocab.update(dict.fromkeys(letter + last for letter in alphabet))
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = [first, *word] if first else list(word)
        letters[-1] += last
        piece = letters[0]
        for letter in letters[1:]:
            vocab.setdefault(piece)
            vocab.setdefault(letter)
            merges.setdefault((piece, letter))
            piece += letter
            vocab.setdefault(piece)
    return {token: index for index, token in enumerate(vocab)}, [list(pair) for pair in merges]


def as_bytes(word: str) -> str:
    ((text, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
    return text


def write(folder: Path, **contents: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        name = {
            "vocab_txt": "vocab.txt",
            "merges": "merges.txt",
            "spiece": "spiece.model",
            "model": "tokenizer.model",
        }.get(name, f"{name}.json")
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif isinstance(content, str):
            (folder / name).write_text(content, encoding="utf-8")
        else:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


# ---- the kinds, from vocabulary files alone


def bert(folder: Path, **config: object) -> Path:
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789.,!?'\"-()[]#@_%:;ßüïöéàîHWTU日本語中文字和한국ท"))
    tokens += letters + [f"##{letter}" for letter in letters]
    tokens += [word for word in WORDS if word not in tokens] + [
        "##ing",
        "##ey",
        "Hello",
        "naive",
        "nai",
        "##ve",
        "cafe",
    ]
    text = "\n".join(tokens) + "\n"
    values = {"tokenizer_class": "BertTokenizer", "model_max_length": 64, **config}
    return write(folder, vocab_txt=text, tokenizer_config=values, config={"model_type": "bert"})


def _byte_level() -> tuple[dict[str, int], list[list[str]]]:
    words = [as_bytes(word) for word in WORDS] + [as_bytes(" " + word) for word in WORDS]
    return grow(byte_alphabet(), words)


def gpt2(folder: Path, **config: object) -> Path:
    vocab, merges = _byte_level()
    vocab["<|endoftext|>"] = len(vocab)
    values = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 32, **config}
    text = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
    return write(folder, vocab=vocab, merges=text, tokenizer_config=values, config={"model_type": "gpt2"})


def clip(folder: Path, **config: object) -> Path:
    words = [as_bytes(word) for word in WORDS]
    vocab, merges = grow(byte_alphabet(), words, last="</w>")
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    values = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>", **config}
    text = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
    return write(folder, vocab=vocab, merges=text, tokenizer_config=values, config={"model_type": "clip"})


WHISPER_EXTRA = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>", "<|es|>", "<|translate|>",
    "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>",
]  # fmt: skip


def whisper(folder: Path, **config: object) -> Path:
    vocab, merges = _byte_level()
    text = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
    vocab["<|endoftext|>"] = len(vocab)
    added = {token: len(vocab) + index for index, token in enumerate(WHISPER_EXTRA[1:])}
    added |= {f"<|{step * 0.02:.2f}|>": len(vocab) + len(added) + step for step in range(1501)}
    values = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 448, **config}
    special = {"additional_special_tokens": WHISPER_EXTRA, "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    return write(
        folder, vocab=vocab, merges=text, added_tokens=added, tokenizer_config=values, special_tokens_map=special,
        normalizer={"colour": "color"}, config={"model_type": "whisper"},
    )  # fmt: skip


@cache
def charsmap() -> bytes:
    """sentencepiece's own table of character replacements, as T5 has it."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g"] * 9), model_writer=file, vocab_size=13, minloglevel=2,
        hard_vocab_limit=False, normalization_rule_name="nmt_nfkc", num_threads=1,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file.getvalue())
    return bytes(proto.normalizer_spec.precompiled_charsmap)


def sentencepiece_file(pieces: list[tuple[str, float, int]], *, bpe: bool, normalize: bool, **trainer: object) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    for text, score, kind in pieces:
        proto.pieces.add(piece=text, score=score, type=kind)
    proto.trainer_spec.model_type = 2 if bpe else 1
    for name, value in trainer.items():
        setattr(proto.trainer_spec, name, value)
    proto.normalizer_spec.name = "nmt_nfkc" if normalize else "identity"
    if normalize:
        proto.normalizer_spec.precompiled_charsmap = charsmap()
    return bytes(proto.SerializeToString())


_LETTERS = "▁etaoinshrdlcumwfgypbvkjxqzETAHWTUINSR.,!?'-:;0123456789<>[]|_()ünï日本語"


def llama_pieces() -> list[tuple[str, float, int]]:
    vocab, _ = grow(list(_LETTERS), WORDS, first="▁")
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    merged = [piece for piece in vocab if len(piece) > 1]
    pieces += [(piece, -float(index), 1) for index, piece in enumerate(merged)]
    return pieces + [(letter, -1000.0 - index, 1) for index, letter in enumerate(dict.fromkeys(_LETTERS))]


def llama(folder: Path, **config: object) -> Path:
    data = sentencepiece_file(llama_pieces(), bpe=True, normalize=False, byte_fallback=True)
    values = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "model_max_length": 128, **config}
    return write(folder, model=data, tokenizer_config=values, config={"model_type": "llama"})


def t5_pieces() -> list[tuple[str, float, int]]:
    vocab, _ = grow(list(_LETTERS), WORDS, first="▁")
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
    return pieces + [(piece, -2.0 - index * 0.031 + len(piece), 1) for index, piece in enumerate(vocab)]


def t5(folder: Path, **config: object) -> Path:
    data = sentencepiece_file(t5_pieces(), bpe=False, normalize=True, unk_id=2, bos_id=-1, eos_id=1, pad_id=0)
    values = {"tokenizer_class": "T5Tokenizer", "extra_ids": 10, "model_max_length": 50, **config}
    return write(folder, spiece=data, tokenizer_config=values, config={"model_type": "t5"})


# ---- the kinds, from tokenizer.json


def llama3(folder: Path, **config: object) -> Path:
    vocab, merges = _byte_level()
    backend = Backend(BPE(vocab=vocab, merges=[tuple(pair) for pair in merges], ignore_merges=True))
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    pattern += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    from tokenizers import Regex

    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    start = ("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[start]
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
        "model_max_length": 256, "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"], **config,
    }  # fmt: skip
    write(folder, tokenizer_config=values, config={"model_type": "llama"})
    backend.save(str(folder / "tokenizer.json"))
    return folder


def llava(folder: Path, **config: object) -> Path:
    """Llama's vocabulary the way release 4 converted it, with the tokens that LLaVA adds."""
    pieces = llama_pieces()
    vocab = {text: index for index, (text, _, _) in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in vocab
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    backend = Backend(BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    )
    backend.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    backend.add_tokens([AddedToken("<pad>", special=True, normalized=False)])
    values = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<pad>", "padding_side": "left", "add_bos_token": True, "legacy": False, "image_token": "<image>",
        "extra_special_tokens": {"image_token": "<image>"}, "processor_class": "LlavaProcessor",
        "added_tokens_decoder": {
            str(index): token.__getstate__() for index, token in backend.get_added_tokens_decoder().items()
        }, **config,
    }  # fmt: skip
    write(folder, tokenizer_config=values, config={"model_type": "llava", "text_config": {"model_type": "llama"}})
    backend.save(str(folder / "tokenizer.json"))
    return folder


def generic_wordlevel(folder: Path, **config: object) -> Path:
    backend = Backend(WordLevel({token: index for index, token in enumerate(["[UNK]", "[PAD]", *WORDS])}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_padding(pad_id=1, pad_token="[PAD]", direction="left")
    backend.enable_truncation(5, direction="left")
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", **config}
    write(folder, tokenizer_config=values)
    backend.save(str(folder / "tokenizer.json"))
    return folder


def generic_unigram(folder: Path, **config: object) -> Path:
    pieces = [(text, score) for text, score, _ in t5_pieces()]
    backend = Backend(Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    values = {"tokenizer_class": "TokenizersBackend", "unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    write(folder, tokenizer_config={**values, "add_eos_token": True, **config})
    backend.save(str(folder / "tokenizer.json"))
    return folder


KINDS: dict[str, Callable[..., Path]] = {
    "bert": bert, "gpt2": gpt2, "clip": clip, "whisper": whisper, "llama": llama, "t5": t5, "llama3": llama3,
    "llava": llava, "wordlevel": generic_wordlevel, "unigram": generic_unigram,
}  # fmt: skip


# ---- loading, here and with the reference


def files_of(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def ours(folder: Path, **overrides: object) -> Tokenizer:
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    return tokenizer_from_files(
        files_of(folder), where=str(folder), overrides=overrides, model_type=config.get("model_type"),
        model_class=config.get("tokenizer_class"),
    )  # fmt: skip


def reference(folder: Path, **overrides: object):  # the reference has no types to speak of
    from reference import import_torchvision

    import_torchvision()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), **overrides)


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_every_kind_loads(tmp_path: Path, kind: str) -> None:
    folder = KINDS[kind](tmp_path / kind)
    assert type(reference(folder)).__name__.removesuffix("Fast") == {
        "bert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "clip": "CLIPTokenizer", "whisper": "WhisperTokenizer",
        "llama": "LlamaTokenizer", "t5": "T5Tokenizer",
    }.get(kind, "TokenizersBackend")  # fmt: skip
    assert ours(folder).get_vocab() == reference(folder).get_vocab()
