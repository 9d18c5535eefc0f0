"""A tokenizer is saved in the layout that it was read in, beside the reference."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_tokenizers_files import facts
from test_tokenizers_folders import bert, gpt2, llama, ours, reference, sentencepiece_file, t5, t5_pieces, write
from test_tokenizers_ranks import reader, tekken, tiktoken
from tokenizers import AddedToken
from tokenizers.models import WordPiece

from omniform import AutoTokenizer

assert reader  # what the reference reads tiktoken's files by


def xlmr(folder: Path) -> Path:
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *t5_pieces()[3:]]
    data = sentencepiece_file(pieces, bpe=False, normalize=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    write(folder, tokenizer_config={"tokenizer_class": "XLMRobertaTokenizer"}, config={"model_type": "xlm-roberta"})
    (folder / "sentencepiece.bpe.model").write_bytes(data)
    return folder


LAYOUTS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "vocab.txt": (bert, ["vocab.txt"]),
    "vocab.json and merges.txt": (gpt2, ["merges.txt", "vocab.json"]),
    "tokenizer.model": (llama, ["tokenizer.model"]),
    "spiece.model": (t5, ["spiece.model"]),
    "sentencepiece.bpe.model": (xlmr, ["sentencepiece.bpe.model"]),
    "tiktoken under a model's name": (tiktoken, ["tokenizer.model"]),
    "tiktoken": (lambda folder: tiktoken(folder, "tiktoken.model"), ["tiktoken.model"]),
    "tekken.json": (tekken, ["tekken.json"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_files_that_were_read_are_saved(tmp_path: Path, layout: str) -> None:
    make, names = LAYOUTS[layout]
    source, saved = make(tmp_path / "source"), tmp_path / "saved"
    mine = ours(source)
    mine.add_tokens([AddedToken("<new>", lstrip=True), "plain"])
    mine.add_special_tokens({"extra_special_tokens": [*mine.extra_special_tokens, "<odd>"]})
    written = {Path(path).name for path in mine.save_pretrained(saved)}
    assert written == {path.name for path in saved.iterdir()} == {*names, "tokenizer.json", "tokenizer_config.json"}
    (tmp_path / "alone").mkdir()
    assert sorted(Path(path).name for path in mine.save_vocabulary(tmp_path / "alone")) == names
    for name in names:
        original = (source / name).read_bytes()
        assert (saved / name).read_bytes() == (tmp_path / "alone" / name).read_bytes() == original

    expected = facts(mine)
    shutil.copy(source / "config.json", saved)
    again = ours(saved)
    assert facts(again) == expected == facts(reference(saved))
    # Saved from tokenizer.json, what stands beside it is kept.
    again.save_pretrained(tmp_path / "second")
    assert all((tmp_path / "second" / name).read_bytes() == (source / name).read_bytes() for name in names)
    (saved / "tokenizer.json").unlink()
    assert facts(AutoTokenizer.from_pretrained(saved)) == expected
    assert facts(reference(saved)) == expected


def test_a_file_that_is_gone_or_was_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind, name, spoil in (
        (bert, "vocab.txt", Path.unlink),
        (gpt2, "merges.txt", lambda path: path.write_text("a b\n")),
        (t5, "spiece.model", Path.unlink),
        (llama, "tokenizer.model", lambda path: path.write_bytes(b"other")),
    ):
        folder = kind(tmp_path / kind.__name__)
        mine, saved = ours(folder), tmp_path / f"{kind.__name__} saved"
        spoil(folder / name)
        with caplog.at_level(logging.WARNING, logger="omniform"):
            mine.save_pretrained(saved)
        anew = kind in (bert, gpt2)
        assert (saved / name).exists() == anew
        assert (f"{name} is not saved" in caplog.text) == (not anew)
        caplog.clear()
        shutil.copy(folder / "config.json", saved)
        assert facts(ours(saved)) == facts(mine) == facts(reference(saved))
        if anew:
            (saved / "tokenizer.json").unlink()
            assert facts(ours(saved)) == facts(mine) == facts(reference(saved))


def test_another_vocabulary_does_not_keep_the_old_files(tmp_path: Path) -> None:
    mine = ours(bert(tmp_path / "a"))
    trained = mine.train_new_from_iterator(["some other words", "and more words"] * 3, 60)
    trained.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b" / "vocab.txt").exists()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fox"]
    kept = [token for token in mine.get_vocab() if token not in tokens]
    mine.backend.model = WordPiece({t: i for i, t in enumerate([*tokens, *kept])}, unk_token="[UNK]")
    mine.save_pretrained(tmp_path / "c")
    vocab = tmp_path / "c" / "vocab.txt"
    assert not vocab.exists() or vocab.read_text().splitlines()[5] == "fox"


def test_files_that_contradict_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours(gpt2(tmp_path / "a")).save_pretrained(tmp_path / "b")
    vocab = json.loads((tmp_path / "b" / "vocab.json").read_text())
    a, b, *_ = vocab
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (tmp_path / "b" / "vocab.json").write_text(json.dumps(vocab))
    mine = AutoTokenizer.from_pretrained(tmp_path / "b")
    with caplog.at_level(logging.WARNING, logger="omniform"):
        mine.save_pretrained(tmp_path / "c")
    assert json.loads((tmp_path / "c" / "vocab.json").read_text())[a] == mine.get_vocab()[a]
