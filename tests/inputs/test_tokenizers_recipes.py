"""Tokenizers put together from vocabulary files, of the classes beyond the first families: equal to the reference's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_tokenizers_folders import (
    PAIRS,
    TEXTS,
    WORDS,
    _byte_level,
    bert,
    grow,
    llama,
    llama_pieces,
    ours,
    reference,
    sentencepiece_file,
    t5_pieces,
    write,
)
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram

from omniform.core.errors import ConfigError

ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def bytes_kind(name: str, family: str, tokens: tuple[str, ...], **config: object) -> Callable[[Path], Path]:
    """A folder of vocab.json and merges.txt over bytes."""

    def make(folder: Path) -> Path:
        vocab, merges = _byte_level()
        vocab = {token: index for index, token in enumerate([*tokens, *vocab])}
        text = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
        values = {"tokenizer_class": name, **config}
        return write(folder, vocab=vocab, merges=text, tokenizer_config=values, config={"model_type": family})

    return make


def unigram_kind(
    name: str, family: str, file: str, first: list[tuple[str, float, int]], **config: object
) -> Callable[[Path], Path]:
    """A folder of one sentencepiece Unigram file."""

    def make(folder: Path) -> Path:
        pieces = [*first, *t5_pieces()[3:]]
        unknown = next(index for index, (_, _, kind) in enumerate(pieces) if kind == 2)
        data = sentencepiece_file(pieces, bpe=False, normalize=True, unk_id=unknown, bos_id=-1, eos_id=-1, pad_id=-1)
        write(folder, tokenizer_config={"tokenizer_class": name, **config}, config={"model_type": family})
        (folder / file).write_bytes(data)
        return folder

    return make


def json_kind(name: str, family: str, **config: object) -> Callable[[Path], Path]:
    """A folder of a tokenizer.json with no step but its model: what stands around it is the class's own."""

    def make(folder: Path) -> Path:
        first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
        words = [text for text, _, _ in llama_pieces()[3:]]
        vocab = {token: index for index, token in enumerate([*first, *words])}
        merges = [(w[:c], w[c:]) for w in vocab for c in range(1, len(w)) if w[:c] in vocab and w[c:] in vocab]
        folder.mkdir(parents=True, exist_ok=True)
        Backend(BPE(vocab=vocab, merges=merges)).save(str(folder / "tokenizer.json"))
        return write(folder, tokenizer_config={"tokenizer_class": name, **config}, config={"model_type": family})

    return make


def bpe_kind(name: str, family: str, file: str, **config: object) -> Callable[[Path], Path]:
    """A folder of one sentencepiece BPE file."""

    def make(folder: Path) -> Path:
        data = sentencepiece_file(llama_pieces(), bpe=True, normalize=True, byte_fallback=True)
        write(folder, tokenizer_config={"tokenizer_class": name, **config}, config={"model_type": family})
        (folder / file).write_bytes(data)
        return folder

    return make


def ended_kind(name: str, family: str) -> Callable[[Path], Path]:
    """A folder of vocab.json and merges.txt over characters, the last of a word marked."""

    def make(folder: Path) -> Path:
        vocab, merges = grow(list("abcdefghijklmnopqrstuvwxyzETH.,!?'日本ünï0123"), WORDS, last="</w>")
        vocab = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *vocab])}
        text = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
        values = {"tokenizer_class": name}
        return write(folder, vocab=vocab, merges=text, tokenizer_config=values, config={"model_type": family})

    return make


def funnel(folder: Path) -> Path:
    bert(folder)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    renamed = {"[PAD]": "<pad>", "[CLS]": "<cls>", "[SEP]": "<sep>", "[MASK]": "<mask>", "[UNK]": "<unk>"}
    text = "\n".join(renamed.get(word, word) for word in words)
    values = {"tokenizer_class": "FunnelTokenizer", "model_input_names": ["input_ids", "token_type_ids"]}
    return write(folder, vocab_txt=text, tokenizer_config=values, config={"model_type": "funnel"})


def splinter(folder: Path) -> Path:
    bert(folder)
    text = (folder / "vocab.txt").read_text(encoding="utf-8") + "[QUESTION]\n"
    values = {"tokenizer_class": "SplinterTokenizer"}
    return write(folder, vocab_txt=text, tokenizer_config=values, config={"model_type": "splinter"})


def mpnet(folder: Path) -> Path:
    bert(folder)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    renamed = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    text = "\n".join(renamed.get(word, word) for word in words)
    return write(folder, vocab_txt=text, tokenizer_config={"tokenizer_class": "MPNetTokenizer"})


def named_bert(name: str, family: str, **config: object) -> Callable[[Path], Path]:
    return lambda folder: write(bert(folder, tokenizer_class=name, **config), config={"model_type": family})


def phi3(folder: Path) -> Path:
    return write(llama(folder), config={"model_type": "phi3"})


XLM_FIRST = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
ALBERT_FIRST = [("<pad>", 0.0, 3), ("<unk>", 0.0, 2), ("[CLS]", 0.0, 3), ("[SEP]", 0.0, 3), ("[MASK]", 0.0, 3)]
DEBERTA_FIRST = [("[PAD]", 0.0, 3), ("[CLS]", 0.0, 3), ("[SEP]", 0.0, 3), ("[UNK]", 0.0, 2)]
END = ("<|endoftext|>",)
COHERE = ("<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>")
BARTHEZ_FIRST = [("<s>", 0.0, 3), ("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("<mask>", 0.0, 3)]
BIRD_FIRST = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<s>", 0.0, 3), ("<unk>", 0.0, 2), ("[SEP]", 0.0, 4),
              ("[MASK]", 0.0, 4), ("[CLS]", 0.0, 4)]  # fmt: skip
REM_FIRST = [("[PAD]", 0.0, 3), ("[CLS]", 0.0, 3), ("<unk>", 0.0, 2), ("[SEP]", 0.0, 3), ("<pad>", 0.0, 3)]
XLNET_FIRST = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<cls>", 0.0, 3), ("<sep>", 0.0, 3),
               ("<pad>", 0.0, 3), ("<mask>", 0.0, 3), ("<eod>", 0.0, 3), ("<eop>", 0.0, 3)]  # fmt: skip

MADE: dict[str, Callable[[Path], Path]] = {
    "roberta": bytes_kind("RobertaTokenizer", "roberta", ROBERTA),
    "roberta, prefix": bytes_kind("RobertaTokenizer", "roberta", ROBERTA, add_prefix_space=True, trim_offsets=False),
    "bart": bytes_kind("BartTokenizerFast", "bart", ROBERTA),
    "deberta": bytes_kind("DebertaTokenizer", "deberta", ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")),
    "qwen2": bytes_kind("Qwen2Tokenizer", "qwen2", END, pad_token="<|endoftext|>"),
    "qwen3": bytes_kind("Qwen2TokenizerFast", "qwen3", END, extra_special_tokens=["<|im_start|>", "<|im_end|>"]),
    "gpt-neox": bytes_kind("GPTNeoXTokenizer", "gpt_neox", (*END, "<|padding|>"), add_eos_token=True),
    "opt": bytes_kind("GPT2Tokenizer", "opt", ROBERTA, bos_token="</s>", eos_token="</s>", unk_token="</s>",
                      pad_token="<pad>", add_bos_token=True),
    "codegen": bytes_kind("CodeGenTokenizer", "codegen", END),
    "xlm-roberta": unigram_kind("XLMRobertaTokenizer", "xlm-roberta", "sentencepiece.bpe.model", XLM_FIRST),
    "camembert": unigram_kind("CamembertTokenizer", "camembert", "sentencepiece.bpe.model", XLM_FIRST),
    "albert": unigram_kind("AlbertTokenizer", "albert", "spiece.model", ALBERT_FIRST),
    "albert, cased": unigram_kind("AlbertTokenizer", "albert", "spiece.model", ALBERT_FIRST, do_lower_case=False,
                                  keep_accents=True, add_prefix_space=False),
    "fnet": unigram_kind("FNetTokenizer", "fnet", "spiece.model", ALBERT_FIRST),
    "deberta-v2": unigram_kind("DebertaV2Tokenizer", "deberta-v2", "spm.model", DEBERTA_FIRST),
    "deberta-v2, split": unigram_kind("DebertaV2TokenizerFast", "deberta-v2", "spm.model", DEBERTA_FIRST,
                                      split_by_punct=True, do_lower_case=True, add_prefix_space=False),
    "gemma": json_kind("GemmaTokenizer", "gemma2"),
    "siglip2": json_kind("GemmaTokenizer", "siglip2"),
    "distilbert": named_bert("DistilBertTokenizer", "distilbert"),
    "electra": named_bert("ElectraTokenizerFast", "electra", do_lower_case=False),
    "convbert": named_bert("ConvBertTokenizer", "convbert"),
    "blenderbot": bytes_kind("BlenderbotTokenizer", "blenderbot", ROBERTA),
    "blenderbot, bare": bytes_kind("BlenderbotTokenizer", "blenderbot", ROBERTA, add_prefix_space=False,
                                   mask_token="<mask>", add_eos_token=True),
    "cohere": bytes_kind("CohereTokenizer", "cohere", COHERE, add_bos_token=True),
    "barthez": unigram_kind("BarthezTokenizer", "barthez", "sentencepiece.bpe.model", BARTHEZ_FIRST),
    "big-bird": unigram_kind("BigBirdTokenizer", "big_bird", "spiece.model", BIRD_FIRST),
    "rembert": unigram_kind("RemBertTokenizer", "rembert", "sentencepiece.model", REM_FIRST),
    "rembert, lower": unigram_kind("RemBertTokenizer", "rembert", "sentencepiece.model", REM_FIRST,
                                   do_lower_case=True, keep_accents=False, add_prefix_space=False),
    "xlnet": unigram_kind("XLNetTokenizer", "xlnet", "spiece.model", XLNET_FIRST),
    "xlnet, lower": unigram_kind("XLNetTokenizer", "xlnet", "spiece.model", XLNET_FIRST, do_lower_case=True,
                                 mask_token="<mask>", padding_side="right"),
    "reformer": bpe_kind("ReformerTokenizer", "reformer", "spiece.model"),
    "code-llama": bpe_kind("CodeLlamaTokenizer", "code_llama", "tokenizer.model"),
    "code-llama, bare": bpe_kind("CodeLlamaTokenizer", "code_llama", "tokenizer.model", add_prefix_space=False,
                                 add_bos_token=False),
    "openai-gpt": ended_kind("OpenAIGPTTokenizer", "openai-gpt"),
    "herbert": ended_kind("HerbertTokenizer", "herbert"),
    "funnel": funnel,
    "splinter": splinter,
    "mpnet": mpnet,
    "phi3": phi3,
}  # fmt: skip

SHORT = [text for text in TEXTS if len(text) < 200] + ["<mask> x [MASK] y", "a  b\tc\n\nd ``q'' e.", "  two  "]
ALL = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_token_type_ids": True}


def compare(mine, theirs) -> None:
    names = ("special_tokens_map", "all_special_ids", "padding_side", "model_input_names", "extra_special_tokens")
    for name in names:
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine.get_vocab() == theirs.get_vocab()
    for text in SHORT:
        for options in (ALL, {"add_special_tokens": False}, {}):
            assert dict(mine(text, **options)) == dict(theirs(text, **options)), text
        ids = theirs(text)["input_ids"]
        assert mine.decode(ids) == theirs.decode(ids)
        assert mine.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    for first, second in PAIRS:
        assert dict(mine(first, second, **ALL)) == dict(theirs(first, second, **ALL)), (first, second)
    if theirs.pad_token is not None:
        padded = {"padding": True, "return_token_type_ids": True}
        assert dict(mine(SHORT[:4], **padded)) == dict(theirs(SHORT[:4], **padded))


@pytest.mark.parametrize("kind", sorted(MADE))
def test_from_its_files_as_the_reference(kind: str, tmp_path: Path) -> None:
    folder = MADE[kind](tmp_path / "made")
    mine, theirs = ours(folder), reference(folder)
    compare(mine, theirs)
    expected = type(theirs).__name__.removesuffix("Fast")
    assert type(mine).__name__ in (expected, {"TokenizersBackend": "Tokenizer"}.get(expected))
    mine.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((folder / "config.json").read_text())
    compare(ours(tmp_path / "saved"), reference(tmp_path / "saved"))
    theirs.save_pretrained(tmp_path / "theirs")
    compare(ours(tmp_path / "theirs"), reference(tmp_path / "theirs"))


def test_qwen3_5_keeps_marks_with_their_letters(tmp_path: Path) -> None:
    """The reference reads its vocabulary from tokenizer.json only."""
    folder = bytes_kind("Qwen3_5Tokenizer", "qwen3_5", END)(tmp_path / "files")
    vocab, merges = _byte_level()
    vocab = {token: index for index, token in enumerate([*END, *vocab])}
    Backend(BPE(vocab=vocab, merges=[tuple(pair) for pair in merges])).save(str(folder / "tokenizer.json"))
    compare(ours(folder), reference(folder))


@pytest.mark.parametrize("name", ["ProphetNetTokenizer", "TapasTokenizer"])
def test_a_class_without_assembly_is_taken_from_its_file_or_refused(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "made", tokenizer_config={"tokenizer_class": name})
    pieces = [(text, score) for text, score, _ in t5_pieces()]
    for file in ("spiece.model", "source.spm", "vocab.json"):
        (folder / file).write_bytes(b"{}")
    with pytest.raises(ConfigError, match=f"{name} is not made from vocabulary files"):
        ours(folder)
    Backend(Unigram(pieces, unk_id=2)).save(str(folder / "tokenizer.json"))
    tokenizer = ours(folder)
    assert type(tokenizer).__name__ == name
    assert tokenizer.tokenize("fox")
