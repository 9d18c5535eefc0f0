"""Beam search through ``generate`` against the reference: every kind of model, rules in the search, the engine."""

from __future__ import annotations

import pytest
import torch

from checkpoints import IMAGE
from engines import t5_pair
from omniform.core.errors import InputError
from omniform.engine.constraints import PhrasalConstraint
from omniform.engine.engine import Engine
from omniform.engine.generate import Answers, enqueue, prepare
from reference import close, omniform, padded, ragged, saved_reference, transformers

VOCABULARY = 97
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, **SPECIAL,
}  # fmt: skip


def llama(folder):
    config = transformers.LlamaConfig(**DECODER)
    theirs = saved_reference(transformers.LlamaForCausalLM, config, folder, scale=0.3)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


def mistral(folder):
    config = transformers.MistralConfig(**DECODER, sliding_window=6, head_dim=8)
    theirs = saved_reference(transformers.MistralForCausalLM, config, folder, scale=0.3)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


def gpt2(folder):
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, **SPECIAL)
    theirs = saved_reference(transformers.GPT2LMHeadModel, config, folder, scale=0.3)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


def t5(folder):
    return t5_pair(folder, VOCABULARY)


def whisper(folder):
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=8, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_source_positions=20, max_target_positions=40, decoder_start_token_id=3, suppress_tokens=None,
        begin_suppress_tokens=None, **SPECIAL,
    )  # fmt: skip
    theirs = saved_reference(transformers.WhisperForConditionalGeneration, config, folder, scale=0.4)
    return omniform.AutoModelForSpeechSeq2Seq.from_pretrained(folder), theirs


def llava(folder):
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4,
    }  # fmt: skip
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**DECODER),
        vision_config=transformers.CLIPVisionConfig(**vision),
        image_token_index=IMAGE,
    )
    theirs = saved_reference(transformers.LlavaForConditionalGeneration, config, folder, scale=0.3)
    return omniform.AutoModelForImageTextToText.from_pretrained(folder), theirs


def text_inputs():
    ids, mask = padded(ragged(VOCABULARY, [9, 4, 13]), side="left")
    return {"input_ids": ids, "attention_mask": mask}


def source_inputs():
    ids, mask = padded(ragged(VOCABULARY, [9, 4, 13]))
    return {"input_ids": ids, "attention_mask": mask}


def sound_inputs():
    return {"input_features": torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))}


def picture_inputs():
    rows = [torch.cat([torch.full((4,), IMAGE), row]) for row in ragged(VOCABULARY, [5, 2], low=5)]
    ids, mask = padded(rows, side="left")
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


FAMILIES = {
    "llama": (llama, text_inputs),
    "mistral": (mistral, text_inputs),
    "gpt2": (gpt2, text_inputs),
    "t5": (t5, source_inputs),
    "whisper": (whisper, sound_inputs),
    "llava": (llava, picture_inputs),
}

ENDS = {"eos_token_id": [1, 2, 5, 9, 20, 31, 40, 52, 66, 77, 88]}
CASES = {
    "plain": {},
    "all of them": {"num_return_sequences": 3, **ENDS},
    "long ones": {"length_penalty": 2.0, "num_return_sequences": 2, **ENDS},
    "short ones": {"length_penalty": -1.5, "num_return_sequences": 2, **ENDS},
    "early": {"early_stopping": True, "num_return_sequences": 2, **ENDS},
    "never early": {"early_stopping": "never", "length_penalty": 0.7, **ENDS},
    "many beams": {"num_beams": 6, "num_return_sequences": 4, **ENDS},
    "penalty": {"repetition_penalty": 1.7, "num_return_sequences": 2},
    "no repeats": {"no_repeat_ngram_size": 2, "num_return_sequences": 2},
    "minimum": {"min_new_tokens": 6, "num_return_sequences": 2, **ENDS},
    "suppress": {"suppress_tokens": list(range(3, 60)), "begin_suppress_tokens": list(range(60, 90))},
    "forced end": {"forced_eos_token_id": 7, "num_return_sequences": 2},
    "one token": {"max_new_tokens": 1, "num_return_sequences": 3},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    built = {}

    def pair(name):
        if name not in built:
            built[name] = FAMILIES[name][0](tmp_path_factory.mktemp(name))
        return built[name]

    return pair


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_beams_token_for_token(pairs, family, case):
    ours, theirs = pairs(family)
    inputs = FAMILIES[family][1]()
    asked = {"num_beams": 3, "max_new_tokens": 9, "return_dict_in_generate": True, **CASES[case]}
    if family == "whisper":  # the reference's own Whisper knows one end only, and repeats the best answer
        asked = {k: 31 if k == "eos_token_id" else v for k, v in asked.items() if k != "num_return_sequences"}
        asked["pad_token_id"] = asked.get("eos_token_id", 0)  # as published checkpoints have it
    expected = theirs.generate(**inputs, **asked, output_scores=True)
    found = ours.generate(**inputs, **asked, output_scores=True, output_logits=True)
    assert found.sequences.tolist() == expected.sequences.tolist()
    close(found.sequences_scores, expected.sequences_scores)
    plain = {**asked, "return_dict_in_generate": False}
    assert ours.generate(**inputs, **plain).tolist() == theirs.generate(**inputs, **plain).tolist()
    if family == "whisper":  # whose steps the reference hands out row by row, not as its own helper reads them
        return
    assert found.beam_indices.tolist() == expected.beam_indices.tolist()
    noted = [len(found.scores), len(found.logits), len(expected.scores)]
    assert noted == noted[:1] * 3
    told = theirs.compute_transition_scores(expected.sequences, expected.scores, expected.beam_indices)
    close(ours.compute_transition_scores(found.sequences, found.scores, found.beam_indices), told)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.7}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, ENDS])
def test_drawn_beams_are_the_reference_s(pairs, family, settings):
    ours, theirs = pairs(family)
    row = ragged(VOCABULARY, [6])[0][None]
    asked = {"num_beams": 3, "num_return_sequences": 2, "do_sample": True, "max_new_tokens": 9, **settings}
    torch.manual_seed(4)
    expected = theirs.generate(row, attention_mask=torch.ones_like(row), **asked)
    torch.manual_seed(4)
    assert ours.generate(row, **asked).tolist() == expected.tolist()


def answers_of(engine, model, rows, **settings):
    job = prepare(model, rows, None, settings)
    answers = [Answers() for _ in job.prompts]
    enqueue(engine, job, answers)
    most = 0
    while not all(answer.done for answer in answers):
        engine.step()
        most = max(most, engine.stats().blocks_used)
    return [[(s.tokens, s.score) for s in answer.finished().sequences] for answer in answers], most


def same(found, expected):
    for mine, other in zip(found, expected, strict=True):
        assert [tokens for tokens, _ in mine] == [tokens for tokens, _ in other]
        assert [score for _, score in mine] == pytest.approx([score for _, score in other], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_beams_are_the_same_whatever_the_engine_has_to_do(pairs, family):
    ours, _ = pairs(family)
    rows = [row.tolist() for row in ragged(VOCABULARY, [37, 4, 13, 22])]
    asked = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 12, **ENDS}
    expected, _ = answers_of(Engine(ours, memory=4 << 20), ours, rows, **asked)
    for steps in (3, 5, 16):
        tiny = Engine(ours, memory=4 << 20, max_tokens_per_step=steps, block_size=4)
        same(answers_of(tiny, ours, rows, **asked)[0], expected)
    cached = Engine(ours, memory=4 << 20, block_size=4)
    answers_of(cached, ours, rows, **asked)
    before = cached.stats().tokens_cached
    same(answers_of(cached, ours, rows, **asked)[0], expected)
    assert cached.stats().tokens_cached > before


def test_beams_survive_preemption(pairs):
    ours, _ = pairs("llama")
    rows = [row.tolist() for row in ragged(VOCABULARY, [30, 28, 25, 31, 27])]
    asked = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 20, "min_new_tokens": 20}
    expected, most = answers_of(Engine(ours, memory=4 << 20, block_size=4), ours, rows, **asked)
    token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width, bytes
    small = Engine(ours, memory=50 * 4 * token, block_size=4)
    found, used = answers_of(small, ours, rows, **asked)
    same(found, expected)
    assert used <= small.stats().blocks_total < most and small.stats().preemptions > 0
    assert small.stats().blocks_used == 0


def test_beams_share_the_blocks_of_what_they_have_in_common(pairs):
    ours, _ = pairs("llama")
    rows = [ragged(VOCABULARY, [64])[0].tolist()]
    engine = Engine(ours, memory=4 << 20, block_size=4)
    _, most = answers_of(engine, ours, rows, num_beams=8, max_new_tokens=12, min_new_tokens=12)
    # Eight rows of their own would take 8 * 19 blocks; the prompt's 16 are held once.
    assert most <= 16 + 8 * 4
    assert engine.stats().tokens_computed <= 64 + 8 * 11 and engine.stats().blocks_used == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"num_beams": 3, "num_return_sequences": 4}, "num_return_sequences"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty"),
        ({"num_beams": 2, "logprobs": 2}, "logprobs"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 0.5}, "num_beam_groups"),
        ({"num_beams": 2, "num_beam_groups": 2}, "diversity_penalty"),
        ({"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True}, "num_beam_groups"),
        ({"force_words_ids": [[5]]}, "num_beams"),
        ({"constraints": [PhrasalConstraint([5])]}, "num_beams"),
        ({"num_beams": 2, "force_words_ids": [[5]], "do_sample": True}, "force_words_ids"),
        ({"num_beams": 2, "constraints": [PhrasalConstraint([5])], "do_sample": True}, "constraints"),
        ({"num_beams": 2, "force_words_ids": [[]]}, "force_words_ids"),
        ({"num_beams": 2, "force_words_ids": [[97]]}, "force_words_ids"),
        ({"num_beams": 2, "constraints": ["tree"]}, "constraints"),
    ],
)
def test_what_beams_cannot_do_is_refused_by_name(pairs, asked, says):
    ours, _ = pairs("llama")
    row = torch.tensor([[5, 6, 7]])
    with pytest.raises(omniform.OmniformError, match=says):
        ours.generate(row, **asked)
    with pytest.raises(InputError, match="streamer"):
        list(omniform.stream(ours, row, num_beams=2))
