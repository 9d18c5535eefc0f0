"""Processors as objects: the reference's names and arguments, and its results to the last bit."""

from __future__ import annotations

import pytest
import torch
from omniform.generation import logits_process as ours_module

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from reference import transformers

V = 61
theirs_module = transformers.generation.logits_process
ENDS = [2, 7, 30]
TABLE = {
    "MinLengthLogitsProcessor": [(9, 2), (4, ENDS), (9, torch.tensor(ENDS)), (9, 1000)],
    "MinNewTokensLengthLogitsProcessor": [(3, 4, ENDS), (3, 1, 2), (0, 0, 2)],
    "TemperatureLogitsWarper": [(0.7,), (3.1,)],
    "RepetitionPenaltyLogitsProcessor": [(1.7,), (0.4,), (1.7, 2), (1.7, 0), (1.7, torch.tensor([0, 3, 1, 6]))],
    "EncoderRepetitionPenaltyLogitsProcessor": [(1.7, "read"), (0.4, "read"), (1.7, "half")],
    "TopPLogitsWarper": [(0.8,), (0.0,), (1.0,), (0.3, -7.0, 5), (0.999,), (1,)],
    "TopKLogitsWarper": [(3,), (500,), (1,), (2, -7.0, 9)],
    "TopHLogitsWarper": [(0.4,), (1.0,), (0.01, -7.0)],
    "MinPLogitsWarper": [(0.1,), (0.0,), (1.0,), (0.5, -7.0, 4), (0.5, -7.0, 400)],
    "TypicalLogitsWarper": [(), (0.2,), (0.99, -7.0, 6)],
    "EpsilonLogitsWarper": [(0.02,), (0.9,), (0.3, -7.0, 4)],
    "EtaLogitsWarper": [(0.02,), (0.9,), (0.3, -7.0, 4)],
    "NoRepeatNGramLogitsProcessor": [(1,), (2,), (3,), (40,)],
    "EncoderNoRepeatNGramLogitsProcessor": [(1, "read"), (2, "read"), (2, "half"), (3, "read"), (40, "read")],
    "SequenceBiasLogitsProcessor": [
        ({(3,): 4.5, (5,): -7.25, (1, 2): 3.0, (2, 2): float("-inf"), (1, 2, 1): 0.1, (1,) * 30: 9.0},),
        ([[[3], 4.5], [[1, 2], 0.3], [[2, 2], 0.7], [[1, 1], 0.9]],),
    ],
    "NoBadWordsLogitsProcessor": [([[3], [1, 2], [2, 2], [1, 1, 2]],), ([[2], [3], [1, 2]], 2), ([[2]], ENDS)],
    "PrefixConstrainedLogitsProcessor": [(lambda i, ids: [3 + i, int(ids[-1])], 2), (lambda i, ids: [8], 1)],
    "ForcedBOSTokenLogitsProcessor": [(4,)],
    "ForcedEOSTokenLogitsProcessor": [(9, 4), (9, ENDS), (2, 4), (7, torch.tensor([4]))],
    "InfNanRemoveLogitsProcessor": [()],
    "ExponentialDecayLengthPenalty": [((2, 1.3), 2, 3), ((2, 0.3), ENDS, 3), ((20, 1.3), 2, 3)],
    "LogitNormalization": [()],
    "SuppressTokensLogitsProcessor": [([1, 2, 900],), ([],)],
    "SuppressTokensAtBeginLogitsProcessor": [([1, 2, 900], 8), ([1, 2], 1), ([1], 3)],
    "AlternatingCodebooksLogitsProcessor": [(3, 20, 20), (4, 20, 20), (0, 0, 0)],
    "BarkEosPrioritizerLogitsProcessor": [(2, 0.01), (ENDS, 0.02), (2, None), (2, 0.9)],
    "DiaEOSChannelFilterLogitsProcessor": [(2, 30), (4, 5), (1, 30)],
    "DiaEOSDelayPatternLogitsProcessor": [([0, 1], 30, 10), ([0, 2, 1, 3], 5, 40)],
    "WatermarkLogitsProcessor": [
        (V, "cpu"), (V, "cpu", 0.6, 1.5, 12345, "lefthash", 3), (V, "cpu", 0.3, 2.0, 15485863, "selfhash", 2),
    ],
    "SynthIDTextWatermarkLogitsProcessor": [
        (3, [5, 9, 11], 64, 1, 7, "cpu"), (3, [5, 9], 64, 1, 2, "cpu", True), (2, [5], 64, 1, 7, "cpu", False, True),
    ],
}  # fmt: skip
CASES = [(name, number) for name, rows in TABLE.items() for number in range(len(rows))]


def ids(rows=4, length=8, low=0, high=4, seed=0):
    return torch.randint(low, high, (rows, length), generator=torch.Generator().manual_seed(seed))


def scores(seed=0, rows=4, dtype=torch.float32):
    made = torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * 3
    made[0, 10:40] = made[0, 3]  # ties
    made[1:2, 5:9] = float("-inf")
    return made.to(dtype)


def both(name, arguments, **kwargs):
    read = {"read": ids(4, 9, 0, 5, 3), "half": ids(2, 9, 0, 5, 3)}
    given = [read.get(a) if isinstance(a, str) and a in read else a for a in arguments]
    made = []
    for module in (ours_module, theirs_module):
        copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in given]
        made.append(getattr(module, name)(*copies, **kwargs))
    return made


def same(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert torch.equal(ours.nan_to_num(1e30), theirs.nan_to_num(1e30))
    assert torch.equal(ours.isnan(), theirs.isnan())


@pytest.mark.parametrize(("name", "number"), CASES)
def test_results_are_the_reference_s(name, number):
    ours, theirs = both(name, TABLE[name][number])
    for length in (1, 2, 3, 8, 9):
        for seed in (0, 1):
            row, given = ids(length=length, seed=seed), scores(seed + length)
            before = given.clone()
            try:
                expected = theirs(row, given.clone())
            except Exception as error:
                with pytest.raises(type(error)):
                    ours(row, given)
                continue
            same(ours(row, given), expected)
            assert torch.equal(given, before), "a processor leaves its input alone"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["RepetitionPenaltyLogitsProcessor", "InfNanRemoveLogitsProcessor", "TopKLogitsWarper",
                                  "NoRepeatNGramLogitsProcessor", "MinPLogitsWarper", "SuppressTokensLogitsProcessor",
                                  "SequenceBiasLogitsProcessor", "ForcedEOSTokenLogitsProcessor"])  # fmt: skip
def test_halves(name, dtype):
    ours, theirs = both(name, TABLE[name][0])
    given = scores(dtype=dtype)
    given[2, 3], given[3, 4] = float("nan"), float("inf")
    same(ours(ids(), given), theirs(ids(), given.clone()))


def test_every_processor_of_the_reference_is_there():
    wanted = {
        name
        for name, value in vars(theirs_module).items()
        if isinstance(value, type) and issubclass(value, theirs_module.LogitsProcessor)
    }
    assert wanted <= set(dir(omniform)), wanted - set(dir(omniform))
    for name in wanted:
        assert getattr(omniform, name) is getattr(ours_module, name)


BROKEN = [
    ("MinLengthLogitsProcessor", (-1, 2)), ("MinLengthLogitsProcessor", (1.5, 2)),
    ("MinNewTokensLengthLogitsProcessor", (-1, 1, 2)), ("MinNewTokensLengthLogitsProcessor", (1, 0.5, 2)),
    ("TemperatureLogitsWarper", (0.0,)), ("TemperatureLogitsWarper", (1,)), ("TemperatureLogitsWarper", (-1.0,)),
    ("RepetitionPenaltyLogitsProcessor", (0.0,)), ("RepetitionPenaltyLogitsProcessor", (2,)),
    ("RepetitionPenaltyLogitsProcessor", (2.0, -1)), ("RepetitionPenaltyLogitsProcessor", (2.0, torch.ones(1, 1))),
    ("EncoderRepetitionPenaltyLogitsProcessor", (-2.0, None)), ("TopPLogitsWarper", (1.1,)),
    ("TopPLogitsWarper", (-0.1,)),
    ("TopPLogitsWarper", (0.5, 0.0, 0)), ("TopKLogitsWarper", (0,)), ("TopKLogitsWarper", (1.5,)),
    ("TopHLogitsWarper", (0.0,)), ("TopHLogitsWarper", (1.2,)), ("MinPLogitsWarper", (2.0,)),
    ("MinPLogitsWarper", (0.5, 0.0, 0)),
    ("TypicalLogitsWarper", (1.0,)), ("TypicalLogitsWarper", (0.0,)), ("EpsilonLogitsWarper", (1.0,)),
    ("EpsilonLogitsWarper", (0.5, 0.0, 0)), ("EtaLogitsWarper", (0.0,)), ("NoRepeatNGramLogitsProcessor", (0,)),
    ("NoRepeatNGramLogitsProcessor", (1.5,)), ("EncoderNoRepeatNGramLogitsProcessor", (0, torch.ones(1, 1))),
    ("SequenceBiasLogitsProcessor", ([],)), ("SequenceBiasLogitsProcessor", ({},)),
    ("SequenceBiasLogitsProcessor", ({3: 1.0},)),
    ("SequenceBiasLogitsProcessor", ({(3,): 1},)), ("SequenceBiasLogitsProcessor", ({(): 1.0},)),
    ("SequenceBiasLogitsProcessor", ([[[3], 1]],)), ("SequenceBiasLogitsProcessor", ({(-3,): 1.0},)),
    ("NoBadWordsLogitsProcessor", ([],)), ("NoBadWordsLogitsProcessor", ([3],)),
    ("NoBadWordsLogitsProcessor", ([[-3]],)),
    ("ForcedEOSTokenLogitsProcessor", (4, -1)), ("ForcedEOSTokenLogitsProcessor", (4, torch.tensor([1.0]))),
    ("ExponentialDecayLengthPenalty", ((1, 1.5), [-2], 1)), ("ClassifierFreeGuidanceLogitsProcessor", (1.0,)),
    ("AlternatingCodebooksLogitsProcessor", (-1, 2, 2)), ("BarkEosPrioritizerLogitsProcessor", (-1, 0.5)),
    ("BarkEosPrioritizerLogitsProcessor", (1, 0.0)), ("DiaClassifierFreeGuidanceLogitsProcessor", (0.5,)),
    ("DiaClassifierFreeGuidanceLogitsProcessor", (2.0, 0)), ("DiaEOSChannelFilterLogitsProcessor", (0, 3)),
    ("DiaEOSChannelFilterLogitsProcessor", (3, 0)), ("WatermarkLogitsProcessor", (9, "cpu", 0.3, 2.0, 1, "x")),
    ("WatermarkLogitsProcessor", (9, "cpu", 1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), BROKEN)
def test_arguments_that_cannot_be(name, arguments):
    with pytest.raises(ValueError):
        getattr(theirs_module, name)(*arguments)
    with pytest.raises(InputError, match="expected"):
        getattr(ours_module, name)(*arguments)


def test_guidance_takes_both_halves():
    for name, arguments in (
        ("ClassifierFreeGuidanceLogitsProcessor", (2.5,)),
        ("DiaClassifierFreeGuidanceLogitsProcessor", (2.5,)),
        ("DiaClassifierFreeGuidanceLogitsProcessor", (2.5, 5)),
    ):
        ours, theirs = both(name, arguments)
        given = torch.randn(4, V)
        same(ours(ids(2), given), theirs(ids(2), given))
        with pytest.raises(InputError, match="rows"):
            ours(ids(3), given)


class Model(torch.nn.Module):
    """Scores of the last token that depend on all tokens it was given, with a cache that counts them."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, input_ids, attention_mask=None, use_cache=None, past_key_values=None):
        self.calls.append((input_ids.tolist(), attention_mask.tolist()))
        seen = input_ids if past_key_values is None else torch.cat([past_key_values, input_ids], 1)
        logits = torch.stack([torch.sin(seen.sum(1)[:, None] * (1 + torch.arange(V)))], 1)
        return transformers.modeling_outputs.CausalLMOutputWithPast(
            logits=logits, past_key_values=seen if use_cache else None
        )


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("ids_given", [None, torch.tensor([[1, 2, 3]])])
def test_guidance_runs_the_model_without_the_prompt(cached, ids_given):
    models = Model(), Model()
    ours, theirs = (
        module.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, model, ids_given, None, cached)
        for module, model in zip((ours_module, theirs_module), models, strict=True)
    )
    for length in (4, 5, 6):
        given = scores(length, 1)
        same(ours(ids(1, length), given), theirs(ids(1, length), given))
    assert models[0].calls == models[1].calls


def test_penalty_of_scores_of_every_position():
    ours, theirs = both("RepetitionPenaltyLogitsProcessor", (1.7,))
    given = torch.randn(2, 3, V)
    same(ours(ids(2), given.clone()), theirs(ids(2), given.clone()))
    for processor in (ours, theirs):
        processor.logits_indices = torch.tensor([2, 5])
        processor.cu_seq_lens_q = torch.tensor([0, 3, 6])
    given = torch.randn(1, 6, V)
    same(ours(ids(1, 6)[0], given.clone()), theirs(ids(1, 6)[0], given.clone()))
    ours, theirs = both("RepetitionPenaltyLogitsProcessor", (1.7, torch.tensor([1, 2])))
    with pytest.raises(InputError, match="prompt_ignore_length"):
        ours(ids(3), scores(rows=3))


def test_ids_beyond_the_scores_do_no_harm():
    for name in ("RepetitionPenaltyLogitsProcessor", "NoRepeatNGramLogitsProcessor"):
        ours, theirs = both(name, (2.0,) if "Penalty" in name else (1,))
        row = torch.tensor([[3, V, V + 9, 4]])
        same(ours(row, scores(rows=1)), theirs(row, scores(rows=1)))


def diverse_by_definition(penalty, beams, groups, tokens, group, given):
    each = beams // groups
    out = given.clone()
    for prompt in range(tokens.shape[0] // beams):
        for earlier in tokens[prompt * beams : prompt * beams + group * each].tolist():
            out[prompt * each : (prompt + 1) * each, earlier] -= penalty
    return out


@pytest.mark.parametrize("group", [0, 1, 2])
def test_groups_keep_away_from_earlier_ones(group):
    processor = omniform.HammingDiversityLogitsProcessor(0.5, 6, 3)
    tokens = torch.tensor([4, 4, 9, 4, 1, 1, 8, 9, 9, 9, 0, 0])
    given = scores(rows=4)
    found = processor(ids(4), given, current_tokens=tokens, beam_group_idx=group)
    assert torch.allclose(found, diverse_by_definition(0.5, 6, 3, tokens, group, given))
    for arguments in ((0, 6, 3), (0.5, 1, 3), (0.5, 6, 1), (0.5, 2, 3)):
        with pytest.raises(InputError):
            omniform.HammingDiversityLogitsProcessor(*arguments)


class Needs(omniform.LogitsProcessor):
    def __call__(self, input_ids, scores, word):
        return scores + len(word)


class Takes(omniform.LogitsProcessor):
    def __call__(self, input_ids, scores, **kwargs):
        return scores + len(kwargs)


def test_a_list_asks_for_what_its_processors_need():
    chain = omniform.LogitsProcessorList([omniform.TemperatureLogitsWarper(0.5), Needs()])
    given = scores()
    same(chain(ids(), given, word="abc"), given / 0.5 + 3)
    with pytest.raises(ValueError, match=r"Needs: .*word"):
        chain(ids(), given)
    with pytest.raises(UnknownArgumentError):
        chain(ids(), given)
    same(omniform.LogitsProcessorList([Takes()])(ids(), given), given)
    with pytest.raises(NotImplementedError, match="LogitsProcessor"):
        omniform.LogitsProcessor()(ids(), given)


def test_no_token_may_follow():
    with pytest.raises(InputError, match="prompt 0"):
        omniform.PrefixConstrainedLogitsProcessor(lambda i, row: [], 1)(ids(), scores())
    ours, theirs = both("PrefixConstrainedLogitsProcessor", (lambda i, row: [6], 2))
    given = scores()
    given[:2, 6] = float("-inf")  # both beams of the first prompt are stuck, one of the second's
    given[2, 6] = float("-inf")
    same(ours(ids(), given), theirs(ids(), given))


WHISPER = {"no_timestamps_token_id": 40, "eos_token_id": 30, "bos_token_id": 29}


@pytest.mark.parametrize("initial", [None, 3])
@pytest.mark.parametrize("detect", [None, True, False])
def test_whisper_s_timestamps(initial, detect):
    config = transformers.GenerationConfig(**WHISPER)
    config.no_timestamps_token_id, config.max_initial_timestamp_index = 40, initial
    own = omniform.GenerationConfig(**WHISPER, max_initial_timestamp_index=initial)
    theirs = transformers.WhisperTimeStampLogitsProcessor(config, 2, detect)
    generator = torch.Generator().manual_seed(0)
    for ours in (omniform.WhisperTimeStampLogitsProcessor(c, 2, detect) for c in (own, config, own.to_dict())):
        for length in (2, 3, 4, 6, 9):
            for _ in range(3):
                row = torch.randint(0, V, (6, length), generator=generator)
                row[:3, 2:] = row[:3, 2:].clamp(min=38)
                given = torch.randn(6, V, generator=generator) * 2
                same(ours(row, given), theirs(row, given))
    with pytest.raises(ValueError):
        omniform.WhisperTimeStampLogitsProcessor(own, None)


def test_no_speech_is_noted():
    ours, theirs = both("WhisperNoSpeechDetection", (5, 1))
    assert ours.no_speech_prob == theirs.no_speech_prob
    given = scores()
    for length in (1, 2):
        same(ours(ids(length=length), given), theirs(ids(length=length), given))
        same(ours.no_speech_prob, theirs.no_speech_prob)
    ours.set_begin_index(2)
    assert ours.begin_index == 2
