"""Marian's and M2M-100's tokenizers, of sentencepiece files and a vocabulary beside them: equal to the reference's."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from test_tokenizers_folders import ours, reference, sentencepiece_file, t5_pieces, write
from test_tokenizers_translating import NLLB_PIECES

from omniform.core.errors import ConfigError, InputError
from omniform.inputs.text.language_codes import M2M100

TEXTS = [
    "The quick brown fox", " two  spaces\n\nand a\tline ", "ünïcode 日本語 x", "</s> a </s>b <unk> c <pad>", "☃☃ snow☃",
    "", "   ", ">>fr<< The quick", ">>xx<<The >>fr<< fox", "▁odd▁", "ﬁne ｗide",
]  # fmt: skip
FIRST = [("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
UNIGRAM = [*FIRST, *t5_pieces()[3:]]


def marian(folder: Path, apart: bool = False, **config: object) -> Path:
    """Two files that share some pieces, and a vocabulary that lacks some of them."""
    source, target = UNIGRAM[:60] + UNIGRAM[90:], [*FIRST, *UNIGRAM[:1:-1][:90]]
    options = {"bpe": False, "normalize": True, "unk_id": 1, "bos_id": -1, "eos_id": 0, "pad_id": -1}
    names = [text for text, _, _ in [*source[5:], *target]] + ["☃", ">>fr<<", ">>de<<"]
    ids = {token: index for index, token in enumerate(dict.fromkeys(["</s>", "<unk>", *names, "<pad>"]))}
    values = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": apart, **config}
    write(folder, vocab=ids, tokenizer_config=values, config={"model_type": "marian"})
    if apart:
        tokens = dict.fromkeys(["</s>", "<unk>", *reversed(names), "<pad>"])
        write(folder, target_vocab={token: index for index, token in enumerate(tokens)})
    for name, pieces in (("source.spm", source), ("target.spm", target)):
        (folder / name).write_bytes(sentencepiece_file(pieces, **options))
    return folder


def m2m100(folder: Path, bpe: bool = True, **config: object) -> Path:
    pieces = NLLB_PIECES if bpe else [*NLLB_PIECES[:3], *t5_pieces()[3:]]
    names = ["<s>", "<pad>", "</s>", "<unk>", *(text for text, _, _ in reversed(pieces[7:])), "madeupword0000"]
    ids = {token: index for index, token in enumerate(dict.fromkeys(names))}
    langs = [f"__{code}__" for code in M2M100]
    values = {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": langs, "tgt_lang": "ro", **config}
    write(folder, vocab=ids, tokenizer_config=values, config={"model_type": "m2m_100"})
    data = sentencepiece_file(pieces, bpe=bpe, normalize=True)
    (folder / "sentencepiece.bpe.model").write_bytes(data)
    return folder


MADE: dict[str, Callable[[Path], Path]] = {
    "marian": marian,
    "marian, apart": lambda folder: marian(folder, apart=True),
    "marian, told": lambda folder: marian(folder, source_lang="en", target_lang="fr", model_max_length=7),
    "m2m100": m2m100,
    "m2m100, unigram": lambda folder: m2m100(folder, bpe=False, src_lang="fr", tgt_lang="zu"),
    "m2m100, languages unnamed": lambda folder: m2m100(folder, additional_special_tokens=[]),
    "wmt21": lambda folder: m2m100(
        folder, language_codes="wmt21", tgt_lang="ha", additional_special_tokens=["__en__", "__ha__"]
    ),
}


def compare(mine, theirs) -> None:
    for name in ("special_tokens_map", "all_special_ids", "padding_side", "model_input_names", "model_max_length"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine.get_vocab() == theirs.get_vocab() and len(mine) == len(theirs) and mine.vocab_size == theirs.vocab_size
    for text in TEXTS:
        for options in ({}, {"add_special_tokens": False}, {"text_pair": "a b"}, {"return_special_tokens_mask": True}):
            # Marian's own mask counts special tokens within texts too.
            if (text or "text_pair" not in options) and not ("<" in text and "return_special_tokens_mask" in options):
                assert dict(mine(text, **options)) == dict(theirs(text, **options)), (text, options)
        assert mine.tokenize(text) == theirs.tokenize(text), text
        for ids in (theirs(text)["input_ids"], theirs(text_target=text)["input_ids"]):
            assert mine.decode(ids) == theirs.decode(ids), text
            assert mine.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    for options in ({}, {"padding": True, "truncation": True, "max_length": 6}):
        found = mine(TEXTS, text_target=TEXTS[::-1], **options)
        assert dict(found) == dict(theirs(TEXTS, text_target=TEXTS[::-1], **options))
    assert dict(mine(text_target=TEXTS)) == dict(theirs(text_target=TEXTS))
    tokens = ["▁a", "</s>", "nonsense", ">>fr<<", "__fr__"]
    assert mine.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    every = [*range(0, theirs.vocab_size, 7)]
    assert mine.convert_ids_to_tokens(every) == theirs.convert_ids_to_tokens(every)


@pytest.mark.parametrize("kind", sorted(MADE))
def test_as_the_reference(kind: str, tmp_path: Path) -> None:
    folder = MADE[kind](tmp_path / "made")
    mine, theirs = ours(folder), reference(folder)
    assert type(mine).__name__ == type(theirs).__name__
    compare(mine, theirs)
    compare(pickle.loads(pickle.dumps(mine)), theirs)
    mine.save_pretrained(tmp_path / "saved")
    for file in folder.glob("*.*"):
        if file.name not in ("tokenizer_config.json", "config.json"):
            saved = tmp_path / "saved" / file.name
            same = json.loads if file.suffix == ".json" else bytes
            assert same(saved.read_bytes()) == same(file.read_bytes()), file.name
    (tmp_path / "saved" / "config.json").write_text((folder / "config.json").read_text())
    compare(ours(tmp_path / "saved"), reference(tmp_path / "saved"))
    theirs.save_pretrained(tmp_path / "theirs")
    compare(ours(tmp_path / "theirs"), reference(tmp_path / "theirs"))


def test_languages(tmp_path: Path) -> None:
    folder = m2m100(tmp_path)
    mine, theirs = ours(folder), reference(folder)
    names = ("lang_code_to_token", "lang_token_to_id", "lang_code_to_id", "id_to_lang_token", "src_lang", "tgt_lang")
    for source, target in (("en", "fr"), ("zu", "af")):
        for tokenizer in (mine, theirs):
            tokenizer.src_lang, tokenizer.tgt_lang = source, target
        for name in (*names, "prefix_tokens", "suffix_tokens", "cur_lang_id"):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert dict(mine(TEXTS, text_target=TEXTS)) == dict(theirs(TEXTS, text_target=TEXTS))
        found, expected = (
            dict(t._build_translation_inputs(TEXTS, src_lang="de", tgt_lang="hu")) for t in (mine, theirs)
        )
        assert found == expected and found["forced_bos_token_id"] == mine.get_lang_id("hu") == theirs.get_lang_id("hu")
    with pytest.raises(InputError, match="no such language"):
        mine.src_lang = "eng"
    with pytest.raises(InputError, match="no such language"):
        mine.get_lang_id("__en__")


def test_codes_and_bad_files(tmp_path: Path) -> None:
    folder = marian(tmp_path / "one")
    mine, theirs = ours(folder), reference(folder)
    assert mine.supported_language_codes == theirs.supported_language_codes == [">>fr<<", ">>de<<"]
    (folder / "target.spm").unlink()
    with pytest.raises(ConfigError, match=r"target\.spm"):
        ours(folder)
    folder = write(marian(tmp_path / "two"), vocab={"a": "b"})
    with pytest.raises(ConfigError, match="no vocabulary"):
        ours(folder)
    with pytest.raises(ConfigError, match="language_codes"):
        ours(m2m100(tmp_path / "three", language_codes="all"))


def test_from_a_folder_by_its_door(tmp_path: Path) -> None:
    import omniform

    for make in (marian, m2m100):
        folder = make(tmp_path / make.__name__)
        found = omniform.AutoTokenizer.from_pretrained(folder)
        assert dict(found(TEXTS)) == dict(reference(folder)(TEXTS))
        again = type(found).from_pretrained(folder)
        again.save_pretrained(tmp_path / "again" / make.__name__)
        again = omniform.AutoTokenizer.from_pretrained(tmp_path / "again" / make.__name__)
        assert dict(again(TEXTS)) == dict(found(TEXTS))
