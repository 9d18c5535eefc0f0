"""Letters read by beams with a model of words: our processor beside the reference's."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from inputs.speech import LETTERS, arpa, letters, spoken
from omniform import Wav2Vec2CTCTokenizer, Wav2Vec2ProcessorWithLM
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError
from omniform.inputs.audio import WhisperFeatureExtractor
from reference import transformers

pytest.importorskip("kenlm", reason="it is compiled where it is installed")
pyctcdecode = pytest.importorskip("pyctcdecode")

TEXTS = ("bad head", "a cab", "head a bad cab")
OPTIONS = (
    {},
    {"beam_width": 4},
    {"beam_prune_logp": -2.0, "token_min_logp": -1.0},
    {"hotwords": ["cabh", "gab"], "hotword_weight": 20.0},
    {"beam_width": 8, "alpha": 2.0, "beta": 0.1, "unk_score_offset": -2.0, "lm_score_boundary": False},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm")
    named = ["", "<s>", "</s>", "⁇", " ", *LETTERS[5:]]
    decoder = pyctcdecode.build_ctcdecoder(named, str(arpa(path / "words.arpa")))
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(letters(path / "tokenizer"))
    extractor = transformers.Wav2Vec2FeatureExtractor()
    transformers.Wav2Vec2ProcessorWithLM(extractor, tokenizer, decoder).save_pretrained(path / "saved")
    return path / "saved"


def ours(folder: Path) -> Wav2Vec2ProcessorWithLM:
    from omniform.hub.files import locate
    from omniform.inputs.processors.speech_lm import read_decoder

    decoder = read_decoder(locate(folder).gathered(Wav2Vec2ProcessorWithLM.beside), str(folder))
    return Wav2Vec2ProcessorWithLM(WhisperFeatureExtractor(), Wav2Vec2CTCTokenizer.from_pretrained(folder), decoder)


def same(found: object, expected: object) -> None:
    assert {**found} == {name: value for name, value in expected.items() if value is not None}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "usual")
def test_beams(options: dict[str, object], folder: Path) -> None:
    mine, theirs = ours(folder), transformers.Wav2Vec2ProcessorWithLM.from_pretrained(folder)
    for seed, text in enumerate(TEXTS):
        logits = spoken(text, seed).numpy()
        for more in ({}, {"output_word_offsets": True}, {"n_best": 3, "output_word_offsets": True}):
            same(mine.decode(logits, **options, **more), theirs.decode(logits, **options, **more))


@pytest.mark.parametrize("more", [{}, {"output_word_offsets": True}, {"n_best": 2, "num_processes": 2}])
def test_batches(more: dict[str, object], folder: Path) -> None:
    mine, theirs = ours(folder), transformers.Wav2Vec2ProcessorWithLM.from_pretrained(folder)
    rows = [spoken(text, seed) for seed, text in enumerate(TEXTS)]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking
        expected = theirs.batch_decode(batch.numpy(), **more)
        same(mine.batch_decode(batch, **more), expected)
    same(mine.batch_decode(rows, **more), expected)


def test_words_matter(folder: Path) -> None:
    """The model of words is heard: without its weight another text wins."""
    mine = ours(folder)
    logits = spoken("bad head", 5, noise=3.0)
    assert mine.decode(logits, alpha=0.0).text != mine.decode(logits, alpha=3.0).text


def test_saved_and_read_again(folder: Path, tmp_path: Path) -> None:
    mine = ours(folder)
    mine.save_files(tmp_path)
    assert sorted(path.name for path in (tmp_path / "language_model").iterdir()) == [
        "attrs.json", "unigrams.txt", "words.arpa",
    ]  # fmt: skip
    logits = spoken(TEXTS[2], 7).numpy()
    assert ours(tmp_path).decode(logits).text == mine.decode(logits).text


def test_refused(folder: Path, tmp_path: Path) -> None:
    mine = ours(folder)
    with pytest.raises(UnknownArgumentError, match="beam_width"):
        mine.decode(spoken("a"), beam_widht=3)
    with pytest.raises(InputError, match="one sound"):
        mine.decode(spoken("a")[None])
    with pytest.raises(InputError, match="no decoder"):
        Wav2Vec2ProcessorWithLM(mine.feature_extractor, mine.tokenizer, None)
    few = pyctcdecode.build_ctcdecoder(["", "<s>", "</s>", "⁇", " ", *LETTERS[5:-1]])
    with pytest.raises(InputError, match="without h"):
        Wav2Vec2ProcessorWithLM(mine.feature_extractor, mine.tokenizer, few)
    assert Wav2Vec2ProcessorWithLM.get_missing_alphabet_tokens(few, mine.tokenizer) == {"h"}
    (tmp_path / "alphabet.json").write_text("{}")
    from omniform.inputs.processors.speech_lm import read_decoder

    with pytest.raises(ConfigError, match="cannot be read"):
        read_decoder({"alphabet.json": tmp_path / "alphabet.json"}, "x")
    with pytest.raises(ConfigError, match="no alphabet"):
        read_decoder({}, "x")
