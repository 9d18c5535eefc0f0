"""Tokenizers whose texts are framed by their language: equal to the reference's own classes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from test_tokenizers_folders import llama_pieces, ours, reference, sentencepiece_file, t5_pieces, write
from test_tokenizers_recipes import XLM_FIRST, compare, unigram_kind

from omniform.core.errors import InputError
from omniform.inputs.text.language_codes import NLLB

TEXTS = ["The quick brown fox", " two  spaces\n\nand a line ", "ünïcode 日本語 x</s>y <mask> ☃☃", ""]
NLLB_PIECES = [*llama_pieces()[:3], *(piece for piece in llama_pieces() if piece[2] == 1)]


def nllb(folder: Path, **config: object) -> Path:
    data = sentencepiece_file(NLLB_PIECES, bpe=True, normalize=True)
    # As published folders do: where none names them, the reference from this file alone knows no languages.
    values = {"tokenizer_class": "NllbTokenizer", "additional_special_tokens": NLLB, **config}
    write(folder, tokenizer_config=values, config={"model_type": "m2m_100"})
    (folder / "sentencepiece.bpe.model").write_bytes(data)
    return folder


def written(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """The same folder as the reference writes it: with a tokenizer.json."""

    def again(folder: Path) -> Path:
        first = make(folder / "files")
        reference(first).save_pretrained(folder / "saved")
        (folder / "saved" / "config.json").write_text((first / "config.json").read_text())
        return folder / "saved"

    return again


SPM = "sentencepiece.bpe.model"
MBART50 = unigram_kind("MBart50Tokenizer", "mbart", SPM, XLM_FIRST)
PEGASUS_FIRST = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
MADE: dict[str, Callable[[Path], Path]] = {
    "mbart": written(unigram_kind("MBartTokenizer", "mbart", SPM, XLM_FIRST)),
    "mbart, told": written(unigram_kind("MBartTokenizer", "mbart", SPM, XLM_FIRST, src_lang="de_DE", tgt_lang="ro_RO")),
    "mbart50": MBART50,
    "mbart50, written": written(MBART50),
    "nllb": nllb,
    "nllb, told": lambda folder: nllb(folder, src_lang="fra_Latn", tgt_lang="deu_Latn"),
    "nllb, legacy": lambda folder: nllb(folder, legacy_behaviour=True),
    "nllb, written": written(nllb),
    "pegasus": unigram_kind("PegasusTokenizer", "pegasus", "spiece.model", PEGASUS_FIRST),
    "pegasus, few": unigram_kind("PegasusTokenizer", "pegasus", "spiece.model", PEGASUS_FIRST, offset=5),
    "pegasus, written": written(unigram_kind("PegasusTokenizer", "pegasus", "spiece.model", PEGASUS_FIRST)),
}
LANGUAGES = {"mbart": ("fr_XX", "zh_CN"), "mbart50": ("gl_ES", "xh_ZA"), "nllb": ("zul_Latn", "ace_Arab")}


@pytest.mark.parametrize("kind", sorted(MADE))
def test_as_the_reference(kind: str, tmp_path: Path) -> None:
    folder = MADE[kind](tmp_path / "made")
    mine, theirs = ours(folder), reference(folder)
    compare(mine, theirs)
    assert type(mine).__name__ == type(theirs).__name__
    mine.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((folder / "config.json").read_text())
    compare(ours(tmp_path / "saved"), reference(tmp_path / "saved"))
    compare(pickle.loads(pickle.dumps(mine)), theirs)


@pytest.mark.parametrize("kind", [kind for kind in sorted(MADE) if "pegasus" not in kind])
def test_languages(kind: str, tmp_path: Path) -> None:
    folder = MADE[kind](tmp_path / "made")
    mine, theirs = ours(folder), reference(folder)
    source, target = LANGUAGES[kind.split(",")[0]]

    def same() -> None:
        names = ["src_lang", "tgt_lang", "prefix_tokens", "suffix_tokens"]
        names += ["lang_code_to_id", "cur_lang_code_id"] if "50" in kind else ["cur_lang_code"]
        assert [getattr(mine, name) for name in names] == [getattr(theirs, name) for name in names]
        for options in ({}, {"padding": True, "truncation": True, "max_length": 9}):
            found = mine(TEXTS, text_target=TEXTS[::-1], **options)
            assert dict(found) == dict(theirs(TEXTS, text_target=TEXTS[::-1], **options))
        assert dict(mine(text_target=TEXTS)) == dict(theirs(text_target=TEXTS))
        assert dict(mine(TEXTS)) == dict(theirs(TEXTS))

    same()
    mine.src_lang = theirs.src_lang = source
    same()
    mine.tgt_lang = theirs.tgt_lang = target
    same()
    asked = {"return_tensors": None, "src_lang": target, "tgt_lang": source}
    found, expected = (dict(t._build_translation_inputs(TEXTS, **asked)) for t in (mine, theirs))
    assert found == expected and found["forced_bos_token_id"] == mine.get_lang_id(source)
    assert mine.src_lang == theirs.src_lang == target
    for name in ("set_tgt_lang_special_tokens", "set_src_lang_special_tokens"):
        getattr(mine, name)(source)
        getattr(theirs, name)(source)
        assert mine.build_inputs_with_special_tokens([5, 6]) == [*mine.prefix_tokens, 5, 6, *mine.suffix_tokens]
        assert mine.prefix_tokens == theirs.prefix_tokens and mine.suffix_tokens == theirs.suffix_tokens
    before = mine.src_lang
    with pytest.raises(InputError, match="no such language"):
        mine.src_lang = "frXX"
    assert mine.src_lang == before and dict(mine("x")) == dict(mine("x"))
    mine.save_pretrained(tmp_path / "saved")
    again = ours(tmp_path / "saved")
    assert (again.src_lang, again.tgt_lang) == (mine.src_lang, mine.tgt_lang)


def test_mbart_from_its_sentencepiece_file_is_numbered_as_its_model(tmp_path: Path) -> None:
    """As fairseq numbered it: the reference's release 5 leaves the file's own order, which no checkpoint has."""
    folder = unigram_kind("MBartTokenizer", "mbart", SPM, XLM_FIRST)(tmp_path)
    mine, pieces = ours(folder), [piece for piece, _, _ in t5_pieces()[3:]]
    assert [mine.id_token(index) for index in range(5)] == ["<s>", "<pad>", "</s>", "<unk>", pieces[0]]
    assert mine.get_lang_id("ar_AR") == len(pieces) + 4 and mine.mask_token_id == len(pieces) + 29


def test_pegasus_is_numbered_as_its_model(tmp_path: Path) -> None:
    """Published folders name both masks; the reference then leaves one out, and every id is one too low."""
    named = {"mask_token": "<mask_2>", "additional_special_tokens": ["<mask_1>", "<unk_2>"]}
    mine = ours(unigram_kind("PegasusTokenizer", "pegasus", "spiece.model", PEGASUS_FIRST, **named)(tmp_path))
    tokens = ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_102>", "<unk>"]
    assert mine.convert_tokens_to_ids(tokens) == [0, 1, 2, 3, 4, 104, 105]
    assert mine("x")["input_ids"][-1] == 1
