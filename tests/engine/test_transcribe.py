"""``model.transcribe`` with whole models: what a pass writes, when, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from listening import RATE, listening
from omniform.core.context import Memory
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.core.spoken import SpokenWord, Utterance, Words
from omniform.engine.hearing.alignment import heads_of, token_times
from omniform.engine.hearing.hear import hear
from omniform.engine.hearing.listener import Listener
from omniform.engine.hearing.takes import Caller, Window
from omniform.engine.hearing.transcribe import _Rounds
from omniform.engine.settings import Asked
from omniform.inputs.audio.recording import Recording
from reference import omniform

SURE = {"logprob_threshold": None}
BELIEVED = {"no_speech_threshold": None, "compression_ratio_threshold": None}  # random models only repeat themselves
SOUNDS = Path(__file__).parents[2] / "examples" / "sounds"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper") / "w"
    listening(path)
    return path


@pytest.fixture(scope="module")
def parts(folder):
    model = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    return model, omniform.AutoProcessor.from_pretrained(folder)


def sound(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def test_a_file_of_a_window_is_what_generate_writes(parts):
    model, processor = parts
    samples = sound(1.3)
    told = list(model.transcribe(samples, processor=processor, language="en", max_new_tokens=14, **BELIEVED, **SURE))
    features = processor(audio=samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
    ids = model.generate(features, language="en", max_new_tokens=14, return_timestamps=True)[0]
    assert told[-1].final and told[-1].heard == pytest.approx(1.3)
    assert "".join(map(str, told)) == processor.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "how",
    [{}, {"language": "zh", "max_new_tokens": 7}, {"condition_on_prev_tokens": True}, {"temperature": (0.0, 0.9)}],
    ids=str,
)
def test_a_long_file_is_what_hear_tells(parts, how):
    model, processor = parts
    samples = sound(7.3)
    asked = {"max_new_tokens": 12, **how, **BELIEVED, **SURE}
    told = list(model.transcribe(samples, processor=processor, **asked))
    expected = list(hear(model, processor, (samples, RATE), **asked))
    assert list(map(str, told)) == [utterance.text for utterance in expected] and len(told) > 3
    assert [words.heard for words in told] == [utterance.heard for utterance in expected]
    times = [(u.start, u.end, words) for u, words in zip(expected, told, strict=True)]
    assert all(u - 0.01 <= w.start <= w.end <= end + 0.01 for u, end, words in times for w in words)
    assert [words.final for words in told] == [False] * (len(told) - 1) + [told[-1].heard == 7.3]


def test_a_prompt_of_a_file_is_what_hear_is_prompted_with(parts):
    model, processor = parts
    short = {"max_new_tokens": 12, **BELIEVED, **SURE}
    text = lambda **how: "".join(map(str, model.transcribe(sound(3.1), processor=processor, **how, **short)))
    names = " ".join(["hello", "world"] * 20)
    whole = processor.tokenizer.prompt_ids(names)
    ids = [whole[0], *whole[-(model.max_positions // 4) :]]  # the last of them, so that there is room
    assert len(whole) > len(ids)
    for condition in (True, False):
        asked = {"condition_on_prev_tokens": condition, "prompt_ids": ids, **short}
        expected = "".join(map(str, hear(model, processor, (sound(3.1), RATE), **asked)))
        assert text(prompt=names, condition_on_prev_tokens=condition) == expected != text()
    with pytest.raises(InputError, match="twice"):
        text(prompt=names, prompt_ids=ids)


def test_what_came_before_stands_behind_its_token_where_settings_do_not_name_it(parts, takes):
    model, processor = parts
    assert model.generation_config.to_dict().get("prev_sot_token_id") is None
    asked = {"condition_on_prev_tokens": True, "suppress_tokens": [77, 78], "max_new_tokens": 12, **BELIEVED, **SURE}
    list(model.transcribe(sound(5), processor=processor, **asked))
    mark = processor.tokenizer.token_id("<|startofprev|>")
    starts = [windows[0].tokens[0] for windows, _ in takes]
    assert len(starts) > 2 and set(starts[1:]) == {mark}


@pytest.fixture
def takes(monkeypatch):
    """The windows and settings that are heard, one after another."""
    found: list[tuple[list[Window], dict[str, object]]] = []
    begin = Caller.begin

    def noted(self, windows, width, settings, **more):
        found.append((windows, settings))
        return begin(self, windows, width, settings, **more)

    monkeypatch.setattr(Caller, "begin", noted)
    return found


@pytest.mark.parametrize(
    ("limits", "tries"),
    [
        ((None, None, None), 1),
        ((None, None, 0.01), 6),  # it repeats itself
        ((None, 9.0, None), 6),  # it is unlikely
        ((0.0, 9.0, 0.01), 1),  # nobody speaks
        ((0.999, 9.0, None), 6),
    ],
)
def test_what_does_not_convince_is_heard_again_at_higher_temperatures(parts, takes, limits, tries):
    model, processor = parts
    named = ("no_speech_threshold", "logprob_threshold", "compression_ratio_threshold")
    how = dict(zip(named, limits, strict=True))
    told = list(model.transcribe(sound(1.0), processor=processor, language="en", max_new_tokens=5, **how))
    temperatures = [settings["temperature"] if settings["do_sample"] else 0.0 for _, settings in takes]
    assert temperatures == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0][:tries] and (told == []) == (limits[0] == 0.0)


def test_a_file_where_nobody_speaks_is_heard_window_by_window(parts, takes):
    model, processor = parts
    how = {"no_speech_threshold": 0.0, "logprob_threshold": 9.0, "compression_ratio_threshold": None}
    assert list(model.transcribe(sound(7.3), processor=processor, **how)) == [] and len(takes) == 4


def test_text_that_may_be_unlikely_is_told_also_where_nobody_says_what_silence_is(parts):
    model, processor = parts
    asked = {"logprob_threshold": None, "compression_ratio_threshold": None}
    assert list(model.transcribe(sound(1), processor=processor, **asked))
    with pytest.raises(InputError, match="no_speech_threshold"):
        list(model.transcribe(sound(1), processor=processor, no_speech_threshold=0.5, **asked))


def test_a_file_that_is_left_is_closed(parts, monkeypatch):
    model, processor = parts
    closed = []
    leave = Recording.__exit__
    monkeypatch.setattr(Recording, "__exit__", lambda self, *error: closed.append(self) or leave(self, *error))
    told = model.transcribe(sound(7.3), processor=processor, **BELIEVED, **SURE)
    assert not next(told).final and not closed
    told.close()
    assert len(closed) == 1


def test_the_delay_of_a_file_is_since_its_window_was_read():
    now = [0.0]
    said = Utterance(" a b", 0.2, 0.611, (1, 2), (SpokenWord(" a", 0.2, 0.304),), "en", 2.0, 9.0)
    rounds = _Rounds(lambda: now[0])
    for at in (3.0, 7.0):  # the first window tells of nothing
        now[0] = at
        rounds.over(at, 9.0)
    now[0] = 7.5
    assert rounds.told(said) == Words((SpokenWord(" a", 0.2, 0.3),), 2.0, 4.5)
    now[0] = 20.0
    rounds.go_on()
    assert rounds.told(said).delay == 17.0  # the same window, so late since somebody did not ask
    rounds.go_on()
    now[0] = 21.0
    rounds.over(4.0, 9.0)
    assert rounds.told(said, final=True) == Words((SpokenWord(" a", 0.2, 0.3),), 2.0, 1.0, final=True)


def test_the_bundled_recogniser_hears_a_file_by_both_doors():
    name = str(omniform.bundled_checkpoint("audio"))
    model = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(name)
    file = SOUNDS / "command.wav"
    told = list(model.transcribe(file))
    expected = list(hear(model, omniform.AutoProcessor.from_pretrained(name), file, words=True))
    assert list(map(str, told)) == [utterance.text for utterance in expected] and "circles" in str(told[0])
    assert told[-1].final


def test_there_is_room_for_one_window_and_no_more(parts):
    model, processor = parts
    listener = Listener(model, processor.feature_extractor, processor.tokenizer, {"language": "en"}, **BELIEVED)
    for seed in range(4):
        listener.hear(sound(1.9, seed), [], [])
    # Keys and values of 100 frames, of two layers of width 32, take 50 kB; of 60 tokens, 30 kB.
    assert listener._engine.stats().memory.taken < 400_000


def test_a_pass_goes_on_from_what_is_known_and_tells_when(parts):
    model, processor = parts
    listener = Listener(model, processor.feature_extractor, processor.tokenizer, {"language": "zh"}, **BELIEVED)
    samples = sound(1.5)
    whole = listener.hear(samples, [], [])
    assert len(whole.words) > 4 and not whole.doubtful
    said = [token for word in whole.words[:3] for token in word.tokens]
    rest = listener.hear(samples, [], said)
    assert [word.text for word in rest.words] == [word.text for word in whole.words[3:]]
    assert rest.tokens == whole.tokens[len(said) :]
    # The times are those of the reference's way: the token that is read says when the next one begins.
    features = processor(audio=samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
    with torch.no_grad():
        memory = model.encode(input_features=features)
    opening = model.decoder_prompt(memory, Asked(model, {"language": "zh"}).own(1)[0])[0].tolist()
    rows = torch.tensor([[*opening, *whole.tokens, 0]])
    frames = len(samples) // 160
    times = token_times(
        model, Memory(memory.hidden), rows, prompt=len(opening) - 1, heads=[[1, 0], [1, 2]], frames=frames
    )[0, len(opening) - 1 : -1].tolist()
    ends = [times[word.places[-1] + 1] for word in whole.words]
    assert [end for _, end in whole.spans] == pytest.approx(ends)
    assert [end for _, end in rest.spans] == pytest.approx(ends[3:])
    assert all(begin <= end <= 1.5 for begin, end in whole.spans)


def test_what_came_before_is_read(parts):
    model, processor = parts
    listener = Listener(model, processor.feature_extractor, processor.tokenizer, {"language": "en"}, **BELIEVED)
    plain = listener.hear(sound(1.0), [], [])
    led = listener.hear(sound(1.0), processor.tokenizer.prompt_ids("hello world")[1:], [])
    assert plain.tokens != led.tokens
    full = listener.hear(sound(1.0), [5] * 10, [6] * 60)
    assert full.words == () and not full.doubtful


def test_silence_is_told_by_its_token_and_by_what_is_unlikely(parts):
    model, processor = parts
    made = lambda **how: Listener(model, processor.feature_extractor, processor.tokenizer, {"language": "en"}, **how)
    heard = lambda **how: made(**how).hear(sound(1.0), [], [])
    named = ("no_speech_threshold", "logprob_threshold", "compression_ratio_threshold")
    told = lambda *limits: heard(**dict(zip(named, limits, strict=True))).doubtful
    assert told(0.0, 0.0, None) and told(0.0, None, None) and told(None, -99.0, 0.01)
    assert not told(1.0, 0.0, None) and not told(0.0, -99.0, None) and not told(None, 0.0, 99.0)


def test_timestamps_and_special_tokens_are_no_words(parts):
    model, processor = parts
    asked = {"language": "en", "suppress_tokens": [77], "begin_suppress_tokens": None, "max_new_tokens": 20}
    listener = Listener(model, processor.feature_extractor, processor.tokenizer, asked, **BELIEVED)
    allowed = set(range(model.vocabulary)) - {*listener._settings["suppress_tokens"]}
    text = set(range(min(processor.tokenizer.all_special_ids))) - {77}
    assert allowed == text | {processor.tokenizer.eos_token_id}
    for seed in range(4):
        tokens = listener.hear(sound(1.0, seed), [], []).tokens
        assert tokens == [] or set(tokens) <= text


def test_heads_are_the_upper_half_where_nobody_names_them(parts):
    model, processor = parts
    named = model.generation_config.alignment_heads
    try:
        model.generation_config.alignment_heads = None
        listener = Listener(model, processor.feature_extractor, processor.tokenizer, {"language": "en"}, **BELIEVED)
        assert heads_of(model.decoder, None) == [(1, 0), (1, 1), (1, 2), (1, 3)]
        assert listener.hear(sound(1.0), [], []).spans
        asked = {"processor": processor, "language": "en", "max_new_tokens": 9, **BELIEVED, **SURE}
        plain = list(model.transcribe(sound(3.0), **asked))
        halves = list(model.transcribe(sound(3.0), alignment_heads=[(1, n) for n in range(4)], **asked))
        spans = lambda told: [word for words in told for word in words]
        assert spans(plain) == spans(halves) != spans(model.transcribe(sound(3.0), alignment_heads=[[1, 3]], **asked))
    finally:
        model.generation_config.alignment_heads = named


def test_a_stream_of_odd_blocks(parts):
    model, processor = parts
    whole = sound(7.1).numpy()

    def blocks() -> Iterator[np.ndarray]:
        at = 0
        for size in (1, 16000, 37, 9999, 50000, *[777] * 100):
            yield whole[at : at + size]
            at += size
        yield np.zeros(0, np.float32)

    told = list(
        model.transcribe(blocks(), processor=processor, step=0.5, task="transcribe", prompt="hello", **BELIEVED)
    )
    words = [word for some in told for word in some]
    assert len(words) > 3 and told[-1].final
    assert all(word.start <= word.end for word in words) and words[-1].end <= 7.1
    assert [word.start for word in words] == sorted(word.start for word in words)


def test_rates_and_processors(parts, folder):
    model, processor = parts
    half = sound(1.2)[::2]
    told = list(model.transcribe((iter([half.numpy()]), RATE // 2), processor=processor, step=1, **BELIEVED))
    assert told[-1].heard == pytest.approx(1.2)
    own = list(model.transcribe(sound(1.2), sampling_rate=RATE, step=1, **BELIEVED))  # by where the model is from
    assert own[-1].final


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"sampling_rate": 8000}, "sampling_rate"),
        ({"step": 0}, "step"),
        ({"step": "1"}, "step"),
        ({"step": float("inf")}, "step"),
        ({"language": "klingon"}, "language"),
        ({"task": "sing"}, "task"),
        ({"source": []}, "audio"),
        ({"source": torch.zeros(0)}, "audio"),
        ({"source": torch.full((9000,), float("nan"))}, "audio"),
        ({"processor": 3}, "processor"),
        ({"clock": 3}, "clock"),
        ({"prompt": 3}, "text"),
        ({"logprob_threshold": "low"}, "logprob_threshold"),
        ({"no_speech_threshold": float("nan")}, "no_speech_threshold"),
    ],
    ids=str,
)
def test_what_cannot_be(parts, asked, where):
    model, processor = parts
    asked = {"processor": processor, "source": sound(1.0), **asked}
    with pytest.raises(InputError) as caught:
        list(model.transcribe(asked.pop("source"), **asked))
    assert where in str(caught.value.where)


def test_misspelt_settings(parts):
    model, processor = parts
    with pytest.raises(UnknownArgumentError, match="language"):
        list(model.transcribe(sound(1.0), processor=processor, langauge="en"))
