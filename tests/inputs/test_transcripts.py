"""Transcripts of a recording's pieces against the reference: joined, timed, cut into words, in one way of writing."""

from __future__ import annotations

import json
import random
from importlib import import_module

import numpy as np
import pytest
import torch
from test_tokenizers_folders import ours, reference, whisper

from omniform.core.errors import ConfigError, InputError
from omniform.inputs.text.spoken_numbers import EnglishNumberNormalizer
from omniform.inputs.text.spoken_texts import BasicTextNormalizer, EnglishTextNormalizer
from omniform.inputs.text.transcripts import merged
from omniform.inputs.text.whisper import WhisperTokenizer

english = import_module("transformers.models.whisper.english_normalizer")
whispers = import_module("transformers.models.whisper.tokenization_whisper")
TEXT = " The quick brown fox said \"hello world\" (twice), and -- well -- it's 12.5%; ¿qué? déjà… 你好。 don't!  ok "


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    folder = whisper(tmp_path_factory.mktemp("whisper") / "w")
    mine = ours(folder)
    assert isinstance(mine, WhisperTokenizer)
    return mine, reference(folder)


def decoded(tokenizer: object, outputs: list[dict[str, object]], **how: object) -> object:
    given = {"return_timestamps": None, "return_language": None, "time_precision": 0.02, **how}
    return tokenizer._decode_asr(outputs, **given)


def same(pair: object, outputs: list[dict[str, object]], **how: object) -> None:
    mine, theirs = pair
    assert decoded(mine, outputs, **how) == decoded(theirs, outputs, **how), (outputs, how)


class Recording:
    """Random transcripts of the pieces of a recording, of which neighbours share some tokens."""

    def __init__(self, tokenizer: WhisperTokenizer, seed: int) -> None:
        self.chance = random.Random(seed)
        self.text = tokenizer(TEXT * 2, add_special_tokens=False)["input_ids"]
        self.first = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
        names = ("<|en|>", "<|de|>", "<|ja|>", "<|transcribe|>", "<|startoftranscript|>")
        self.special = [i for i in map(tokenizer.token_id, names) if i is not None]
        self.prompt = [tokenizer.token_id("<|startofprev|>"), 5, 6, tokenizer.token_id("<|startoftranscript|>")]

    def pieces(self, *, strides: bool, times: bool, named: bool) -> list[dict[str, object]]:
        at, found = 0, []
        count = self.chance.randrange(1, 5)
        for number in range(count):
            size = self.chance.randrange(0, 24)
            tokens = self.text[at : at + size]
            at = max(0, at + size - self.chance.randrange(0, 7))
            if self.chance.random() < 0.2 and tokens:
                tokens[self.chance.randrange(len(tokens))] = self.chance.choice(self.text)
            if times:
                tokens = self.timed(tokens)
            if named and self.chance.random() < 0.7:
                tokens = [self.chance.choice(self.special), *tokens]
            if self.chance.random() < 0.1:
                tokens = [*self.prompt, *tokens]
            piece: dict[str, object] = {"tokens": torch.tensor([tokens], dtype=torch.long)}
            seconds = sorted(self.chance.choice((0.02, 0.1, 0.34)) * i for i in range(len(tokens)))
            piece["token_timestamps"] = torch.tensor([seconds])
            if strides:
                left = 0 if number == 0 else self.chance.choice((0.5, 1, 2))
                right = 0 if number == count - 1 else self.chance.choice((0.5, 1, 5))
                piece["stride"] = (30, left, right)
            found.append(piece)
        return found

    def timed(self, tokens: list[int]) -> list[int]:
        row, time = [], 0.0
        for token in tokens:
            if self.chance.random() < 0.25:
                time = self.chance.choice((time, time + 1, time + 7.5, 0.0, 29.0))
                row += [self.first + round(time / 0.02)] * self.chance.choice((1, 2))
            row.append(token)
        return row


@pytest.mark.parametrize("strides", [False, True], ids=["whole", "strides"])
@pytest.mark.parametrize("timestamps", [None, False, True, "word"])
def test_pieces_are_joined_as_the_reference_does(pair, strides, timestamps):
    for seed in range(30):
        recording = Recording(pair[0], seed)
        for times in (False, True):
            outputs = recording.pieces(strides=strides, times=times, named=seed % 2 == 0)
            for language in (None, True):
                same(pair, outputs, return_timestamps=timestamps, return_language=language)
    same(pair, outputs, return_timestamps=timestamps, time_precision=0.04)


def test_arrays_and_nothing(pair):
    mine, theirs = pair
    assert decoded(mine, []) == decoded(theirs, []) == ("", {})
    assert decoded(mine, [], return_timestamps=True) == decoded(theirs, [], return_timestamps=True)
    tokens = np.array([[5, 6, 7]])
    assert decoded(mine, [{"tokens": tokens}]) == decoded(theirs, [{"tokens": torch.from_numpy(tokens)}])


def test_what_cannot_be_joined(pair):
    mine, _ = pair
    with pytest.raises(InputError, match="return_timestamps"):
        decoded(mine, [], return_timestamps="char")
    with pytest.raises(InputError, match="stride"):
        decoded(mine, [{"tokens": torch.tensor([[5]]), "stride": 3}])
    with pytest.raises(InputError, match="token_timestamps"):
        decoded(mine, [{"tokens": torch.tensor([[5]])}], return_timestamps="word")


def test_seams():
    find = whispers._find_longest_common_sequence
    chance = random.Random(1)
    for _ in range(300):
        rows = [[chance.randrange(4) for _ in range(chance.randrange(0, 9))] for _ in range(chance.randrange(1, 4))]
        times = [[(chance.randrange(5), chance.randrange(5)) for _ in row] for row in rows]
        assert merged(rows)[0] == find(rows), rows
        assert merged(rows, times) == tuple(find(rows, times)), (rows, times)


@pytest.mark.parametrize("language", [None, "english", "japanese", "chinese", "german", "cantonese"])
def test_words(pair, language):
    mine, theirs = pair
    ids = mine(TEXT, add_special_tokens=False)["input_ids"]
    emoji = mine(" 🙂🙂 a🙂b", add_special_tokens=False)["input_ids"]
    end = mine.eos_token_id
    for tokens in ([], ids, ids[::-1], emoji, emoji[:-2], emoji[1:], [*ids, end, end], [end, *emoji, end + 1, *ids]):
        words, groups, places = whispers._combine_tokens_into_words(theirs, list(tokens), language)
        found = mine.words_of(tokens, language)
        assert [word.text for word in found] == words
        assert [word.tokens for word in found] == groups and [word.places for word in found] == places


def test_languages_of_words_may_be_codes(pair):
    mine, _ = pair
    ids = mine(" abc 你好 def", add_special_tokens=False)["input_ids"]
    texts = lambda language: [word.text for word in mine.words_of(ids, language)]
    assert texts("ja") == texts("japanese") == texts("Japanese") == texts("<|ja|>"[2:-2])
    assert texts("mandarin") == texts("zh") == texts("chinese") != texts("english") == texts("en")
    mine.language = "japanese"
    assert texts(None) == texts("ja")
    mine.language = None


SPOKEN = [
    "twenty-one thousand and five dollars", "$2 and ¢7", "one oh one", "nineteen sixties", "two and a half million",
    "double seven triple zero", "minus forty point five percent", "three point one four per cent", "1,234.50 won't",
    "Mr. O'Brien's 2nd cat, [noise] (aside) hmm, it'd been 50%!", "COLOUR y'all gonna", "", "a", " ", "½ and ٣",
    "œuvré",
    "the first two hundreds of thirds", "£0.07", "ten and a half", "and", "per", "point", "double", "minus", "oh",
    "twenty twenty one", "one twenty three", "zero hundred thousand", "2.5 thousand", "2.55 hundred thousandths", "7 s",
]  # fmt: skip


def test_one_way_of_writing():
    chance = random.Random(3)
    words = sorted(english.EnglishNumberNormalizer().words)
    lines = [*SPOKEN, *(" ".join(chance.choices([*words, *" ".join(SPOKEN).split()], k=6)) for _ in range(400))]
    mapping = {"colour": "color"}
    pairs = [
        (EnglishNumberNormalizer(), english.EnglishNumberNormalizer()),
        (EnglishTextNormalizer(mapping), english.EnglishTextNormalizer(mapping)),
        (BasicTextNormalizer(), english.BasicTextNormalizer()),
        (BasicTextNormalizer(remove_diacritics=True), english.BasicTextNormalizer(remove_diacritics=True)),
        (BasicTextNormalizer(split_letters=True), english.BasicTextNormalizer(split_letters=True)),
    ]
    for mine, theirs in pairs:
        for line in lines:
            assert mine(line) == theirs(line), (type(mine), line)


@pytest.mark.parametrize(
    "asked", [{"normalize": True}, {"basic_normalize": True}, {"remove_diacritics": True}], ids=str
)
def test_decoded_in_one_way_of_writing(pair, asked):
    mine, theirs = pair
    rows = [theirs(text)["input_ids"] for text in ("Colour, déjà twenty one!", " ok (no)")]
    if "remove_diacritics" in asked:
        asked = {**asked, "basic_normalize": True}
    for row in rows:
        for skip in (True, False):
            for more in ({}, {"decode_with_timestamps": True}, {"output_offsets": True}):
                how = {"skip_special_tokens": skip, **asked, **more}
                assert mine.decode(row, **how) == theirs.decode(row, **how), how
    assert mine.batch_decode(rows, **asked) == theirs.batch_decode(rows, **asked)
    assert mine.normalize("Colour") == theirs.normalize("Colour") == "color"
    assert mine.basic_normalize("Déjà", True) == theirs.basic_normalize("Déjà", True) == "deja"


def test_spellings_are_kept(pair, tmp_path):
    mine, _ = pair
    mine.save_files(tmp_path / "again")
    again = ours(tmp_path / "again")
    assert again.normalize("colour") == "color" and again.english_spelling_normalizer == {"colour": "color"}
    assert json.loads((tmp_path / "again" / "normalizer.json").read_text()) == {"colour": "color"}
    (tmp_path / "plain").mkdir()
    names = [path.rsplit("/", 1)[-1] for path in mine.save_vocabulary(tmp_path / "plain")]
    assert names == ["vocab.json", "merges.txt", "normalizer.json"]
    other = tmp_path / "other.json"
    other.write_text('{"grey": "gray"}')
    chosen = WhisperTokenizer.from_pretrained(tmp_path / "again", normalizer_file=str(other))
    assert chosen.normalize("grey colour") == "gray colour"
    (tmp_path / "again" / "normalizer.json").unlink()
    assert ours(tmp_path / "again").normalize("colour") == "colour"
    other.write_text('{"grey": 3}')
    for wrong in (str(other), 3):
        with pytest.raises(ConfigError):
            WhisperTokenizer.from_pretrained(tmp_path / "again", normalizer_file=wrong)
