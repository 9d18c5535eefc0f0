"""``model.transcribe`` with whole models: what a pass writes, when, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from omniform.core.context import Memory
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.engine.hearing.alignment import token_times
from omniform.engine.hearing.listener import Listener
from omniform.engine.settings import Asked
from reference import omniform, saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "inputs"))
from test_tokenizers_folders import whisper

SECONDS = 2
SURE = {"logprob_threshold": None}
BELIEVED = {"no_speech_threshold": None, "compression_ratio_threshold": None}  # random models only repeat themselves
RATE = 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = whisper(tmp_path_factory.mktemp("whisper") / "w")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    index = tokenizer.convert_tokens_to_ids
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.eos_token_id}
    ids |= {"pad_token_id": tokenizer.eos_token_id, "decoder_start_token_id": index("<|startoftranscript|>")}
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=8, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_source_positions=50 * SECONDS, max_target_positions=60, suppress_tokens=[], begin_suppress_tokens=[], **ids,
    )  # fmt: skip
    theirs = saved_reference(transformers.WhisperForConditionalGeneration, config, path, scale=0.4)
    theirs.generation_config = transformers.GenerationConfig(
        **ids, is_multilingual=True, no_timestamps_token_id=index("<|notimestamps|>"), max_length=60,
        lang_to_id={name: index(name) for name in ("<|en|>", "<|de|>", "<|zh|>")}, alignment_heads=[[1, 0], [1, 2]],
        task_to_id={name: index(f"<|{name}|>") for name in ("transcribe", "translate")},
        suppress_tokens=list(range(tokenizer.eos_token_id + 1, len(tokenizer))),
        begin_suppress_tokens=[tokenizer.eos_token_id],
    )  # fmt: skip
    theirs.generation_config.save_pretrained(path)
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=SECONDS, sampling_rate=RATE)
    extractor.save_pretrained(path)
    settings = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps({**settings, "processor_class": "WhisperProcessor"}))
    return path


@pytest.fixture(scope="module")
def parts(folder):
    model = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    return model, omniform.AutoProcessor.from_pretrained(folder)


def sound(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def test_a_short_file_is_what_generate_writes(parts):
    model, processor = parts
    samples = sound(1.3)
    told = list(model.transcribe(samples, processor=processor, language="en", max_new_tokens=14, **BELIEVED, **SURE))
    features = processor(audio=samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
    ids = model.generate(features, language="en", max_new_tokens=14)[0]
    assert len(told) == 1 and told[0].final and told[0].heard == pytest.approx(1.3)
    assert str(told[0]) == processor.decode(ids, skip_special_tokens=True)


def test_what_does_not_convince_is_heard_again_at_higher_temperatures(parts):
    model, processor = parts
    for limits, tries in (
        ((None, None, None), 1),
        ((None, None, 0.01), 6),  # it repeats itself
        ((None, 9.0, None), 6),  # it is unlikely
        ((0.0, 9.0, 0.01), 1),  # nobody speaks
        ((0.999, 9.0, None), 6),
    ):
        named = ("no_speech_threshold", "logprob_threshold", "compression_ratio_threshold")
        asked = {"language": "en", "max_new_tokens": 5}
        how = dict(zip(named, limits, strict=True))
        listener = Listener(model, processor.feature_extractor, processor.tokenizer, asked, **how)
        temperatures: list[float] = []
        generate = listener._engine.generate

        def counted(inputs, generate=generate, temperatures=temperatures, **settings):
            temperatures.append(settings.get("temperature", 0.0))
            return generate(inputs, **settings)

        listener._engine.generate = counted
        heard = listener.hear_whole(sound(1.0), [5, 6], [])
        assert temperatures == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0][:tries] and heard.doubtful == (limits[0] == 0.0)


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
    allowed = set(range(len(processor.tokenizer))) - {*listener._settings["suppress_tokens"]}
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
        assert listener._heads() == [(1, 0), (1, 1), (1, 2), (1, 3)]
        assert listener.hear(sound(1.0), [], []).spans
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
