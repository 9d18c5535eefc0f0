"""When tokens were said: against the reference, and the path through a table against a plain one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omniform.core.context import Memory
from omniform.core.errors import InputError
from omniform.engine.hearing.alignment import smoothed, token_times
from omniform.engine.hearing.warping import first_columns
from reference import omniform, saved_reference, transformers

TINY = {
    "vocab_size": 97, "num_mel_bins": 8, "d_model": 32, "encoder_layers": 1, "decoder_layers": 3,
    "encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_source_positions": 30, "max_target_positions": 40, "decoder_start_token_id": 3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "suppress_tokens": None, "begin_suppress_tokens": None,
    "median_filter_width": 5,
}  # fmt: skip
HEADS = [[2, 1], [0, 3], [2, 0]]
SETTINGS = {
    "decoder_start_token_id": 3, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "is_multilingual": False,
    "no_timestamps_token_id": 95, "alignment_heads": HEADS, "return_timestamps": False, "prev_sot_token_id": 94,
    "suppress_tokens": [5, 96],    "max_length": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    config = transformers.WhisperConfig(**TINY)
    theirs = saved_reference(transformers.WhisperForConditionalGeneration, config, folder, scale=0.5)
    theirs.generation_config = transformers.GenerationConfig(**SETTINGS)
    return omniform.AutoModelForSpeechSeq2Seq.from_pretrained(folder), theirs


def sound(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 8, 60, generator=torch.Generator().manual_seed(5))


def expected(theirs, features, **asked):
    out = theirs.generate(
        features, return_token_timestamps=True, return_dict_in_generate=True, max_new_tokens=14, **asked
    )
    return out["sequences"], out["token_timestamps"]


def found(ours, features, sequences, prompt=2, **asked):
    with torch.no_grad():
        memory = ours.encode(input_features=features)
    return token_times(ours, memory, sequences, prompt=prompt, heads=HEADS, median=5, **asked)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape and ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs.float(), atol=1e-6, rtol=0)
    assert ours.max() > 0


def frames_of(lengths: list[int]) -> torch.Tensor:
    return (torch.arange(60)[None] < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("lengths", [None, [60, 60, 60], [40, 40, 40], [60, 21, 34], [8, 60, 4]], ids=str)
@pytest.mark.parametrize("forced", [(), (7, 9)], ids=["all tokens", "rows that end"])
def test_times_are_those_of_the_reference(both, lengths, forced):
    ours, theirs = both
    # An end token that is often the best makes rows of different lengths.
    asked = {"eos_token_id": list(forced)} if forced else {}
    mask = None if lengths is None else frames_of(lengths)
    sequences, times = expected(theirs, sound(), attention_mask=mask, **asked)
    same(found(ours, sound(), sequences, frames=lengths), times)


def test_rows_end_apart_in_these_tests(both):
    _, theirs = both
    sequences, _ = expected(theirs, sound(), eos_token_id=[7, 9])
    assert len({int((row == 0).sum()) for row in sequences}) > 1


def test_several_answers_to_one_window(both):
    ours, theirs = both
    torch.manual_seed(0)
    sequences, times = expected(theirs, sound(2), do_sample=True, num_return_sequences=3)
    assert len(sequences) == 6
    same(found(ours, sound(2), sequences), times)


def test_beams(both):
    ours, theirs = both
    sequences, times = expected(theirs, sound(1), num_beams=3)
    same(found(ours, sound(1), sequences), times)


def test_beginnings_of_other_lengths_are_padded_in_front(both):
    ours, _ = both
    with torch.no_grad():
        memory = ours.encode(input_features=sound(2))
    short = torch.tensor([3, 95, 11, 12, 13, 14, 2])
    long = torch.tensor([31, 32, 33, 3, 95, 15, 16, 17, 18, 2])
    rows = torch.stack([torch.cat([torch.zeros(3, dtype=torch.long), short]), long])
    how = {"heads": HEADS, "median": 5}
    together = token_times(ours, memory, rows, prompt=5, mask=torch.tensor([[0] * 3 + [1] * 7, [1] * 10]), **how)
    alone = token_times(ours, Memory(memory.hidden[:1]), short[None], prompt=2, **how)
    torch.testing.assert_close(together[0, 3:], alone[0])
    other = token_times(ours, Memory(memory.hidden[1:]), long[None], prompt=5, **how)
    torch.testing.assert_close(together[1], other[0])


@pytest.mark.parametrize(("written", "times"), [(0, [0.0, 0.0]), (1, [0.0] * 3), (2, [0.0] * 4)])
def test_hardly_anything_was_written(both, written, times):
    ours, _ = both
    rows = torch.tensor([[3, 95, 11, 12][: 2 + written]])
    assert found(ours, sound(1), rows)[0].tolist() == times


def test_what_is_computed_at_once_changes_nothing(both, monkeypatch):
    ours, theirs = both
    sequences, times = expected(theirs, sound())
    monkeypatch.setattr("omniform.engine.hearing.alignment._MOST_WEIGHTS", 1)
    same(found(ours, sound(), sequences), times)


def test_frames_that_all_tokens_look_at_alike_say_nothing(both):
    ours, _ = both
    with torch.no_grad():
        memory = ours.encode(input_features=sound(1))
    rows = torch.tensor([[3, 95, *range(10, 20), 2]])
    # Beyond its 20 frames nothing is seen: all weights are 0, and the reference would divide by a spread of 0.
    masked = Memory(memory.hidden, torch.arange(30)[None] < 20)
    times = token_times(ours, masked, rows, prompt=2, heads=HEADS, median=5)
    assert times.isfinite().all() and 0 < times.max() < 20 * 0.02
    assert (times[0, 1:] >= times[0, :-1]).all()


@pytest.mark.parametrize("heads", [[], [[3, 0]], [[0, 4]], [[-1, 0]], [[0]]], ids=str)
def test_heads_that_are_not_there(both, heads):
    ours, _ = both
    rows = torch.tensor([[3, 95, 11, 12, 2]])
    with pytest.raises(InputError, match="alignment_heads"):
        token_times(ours, Memory(torch.zeros(1, 30, 32)), rows, prompt=2, heads=heads)


@pytest.mark.parametrize("asked", [{"median": 4}, {"median": 0}, {"frames": [60, 60]}, {"rows": 4}], ids=str)
def test_what_does_not_fit(both, asked):
    ours, _ = both
    rows = torch.tensor([[3, 95, 11, 12, 2]] * asked.pop("rows", 3))
    with pytest.raises(InputError):
        token_times(ours, Memory(torch.zeros(3, 30, 32)), rows, prompt=2, heads=HEADS, **asked)


def plainly(table: np.ndarray) -> list[int]:
    """The same path, cell by cell."""
    rows, columns = table.shape
    cost = np.full((rows + 1, columns + 1), np.inf, dtype=np.float32)
    steps: dict[tuple[int, int], tuple[int, int]] = {}
    cost[0, 0] = 0
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            both, down, on = cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]
            if both < down and both < on:
                steps[i, j], least = (1, 1), both
            elif down < both and down < on:
                steps[i, j], least = (1, 0), down
            else:
                steps[i, j], least = (0, 1), on
            cost[i, j] = np.float64(table[i - 1, j - 1]) + least
    at, first = (rows, columns), [0] * rows
    while at != (0, 0):
        first[at[0] - 1] = at[1] - 1
        at = (at[0] - steps[at][0], at[1] - steps[at][1])
    return first


@pytest.mark.parametrize("rounded", [False, True], ids=["any", "many alike"])
def test_paths_are_the_cheapest(rounded):
    random = np.random.default_rng(0)
    sizes = [(1, 1), (1, 9), (9, 1), (7, 7), (5, 23), (12, 4), (2, 2)]
    tables = [random.standard_normal(size).astype(np.float32) for size in sizes]
    tables = [np.round(table) for table in tables] if rounded else tables
    together = first_columns(tables)
    for table, found in zip(tables, together, strict=True):
        assert found.tolist() == plainly(table) == first_columns([table])[0].tolist()
    assert first_columns([np.zeros((4, 0), np.float32)])[0].tolist() == [0] * 4 and first_columns([]) == []


def test_smoothing():
    values = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    theirs = transformers.models.whisper.generation_whisper._median_filter
    for width in (1, 3, 7, 19):
        torch.testing.assert_close(smoothed(values, width), theirs(values, width))
    assert smoothed(values[..., :3], 7) is not None and torch.equal(smoothed(values[..., :3], 7), values[..., :3])
