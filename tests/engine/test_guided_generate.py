"""Grammars in every way of writing: rows of a form, alone and beside others."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from guide_cases import CHOICES, FORMS, byte_level, unigram

from engines import idle, roomy, tight
from omniform.core.errors import InputError
from omniform.engine.guides import grammar_of
from reference import omniform, saved_reference, transformers

FORM = FORMS["plain"]
LONG = 480
"""The longest text of the form in tokens of a character each: nine places for a new line and 40 spaces, a name of nine
letters that are all escaped, and the rest. With fewer, a model that likes spaces is cut off in the middle."""
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@cache
def llama() -> omniform.Model:
    """A decoder whose scores have more columns than the tokenizer has tokens."""
    config = transformers.LlamaConfig(
        vocab_size=448, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, **SPECIAL,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        saved_reference(transformers.LlamaForCausalLM, config, Path(folder))
        return omniform.AutoModelForCausalLM.from_pretrained(folder)


@cache
def t5() -> omniform.Model:
    """An encoder-decoder."""
    config = transformers.T5Config(
        vocab_size=256, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        saved_reference(transformers.T5ForConditionalGeneration, config, Path(folder))
        return omniform.AutoModelForSeq2SeqLM.from_pretrained(folder)


PROMPTS = [[5, 9, 40, 77], [300], [21, 22, 23, 24, 25, 26, 27]]
SAMPLED = {"do_sample": True, "temperature": 1.5}
WAYS = {
    "greedy": {},
    "sampled": {**SAMPLED, "seed": 3},
    "filtered": {**SAMPLED, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 4},
    "several": {**SAMPLED, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "drawn beams": {"num_beams": 3, **SAMPLED, "seed": 5},
    "ruled": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 6, "renormalize_logits": True},
    "ruled beams": {"num_beams": 3, "renormalize_logits": True, "remove_invalid_values": True, "length_penalty": 0.5},
}


def _texts(tokens: torch.Tensor, prompt: int) -> list[str]:
    return byte_level().batch_decode(tokens[:, prompt:], skip_special_tokens=True)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_keeps_the_form(way: str) -> None:
    torch.manual_seed(0)
    found = llama().generate(PROMPTS, guide=FORM.guide, tokenizer=byte_level(), max_new_tokens=LONG, **WAYS[way])
    assert len(found) == len(PROMPTS) * WAYS[way].get("num_return_sequences", 1)
    for text in _texts(found, max(map(len, PROMPTS))):
        assert FORM.holds(text), text


def test_many_sampled_answers() -> None:
    for form in ("alternation", "choice", "sum"):
        found = llama().generate(
            [PROMPTS[0]], guide=FORMS[form].guide, tokenizer=byte_level(), max_new_tokens=LONG, num_return_sequences=50,
            **SAMPLED,
        )  # fmt: skip
        texts = _texts(found, len(PROMPTS[0]))
        assert len(set(texts)) > 2
        for text in texts:
            assert FORMS[form].holds(text), text


def test_an_encoder_decoder_writes_the_form() -> None:
    tokenizer = unigram()
    for settings in ({}, {"num_beams": 2}, {**SAMPLED, "seed": 1}, {"forced_bos_token_id": 2}):
        found = t5().generate(
            torch.tensor([[5, 6, 7, 1]]), guide=FORM.guide, tokenizer=tokenizer, max_new_tokens=LONG, **settings
        )
        assert FORM.holds(tokenizer.decode(found[0], skip_special_tokens=True))


def test_rows_with_and_without_a_grammar_share_a_batch() -> None:
    alone, guides = {}, [None, FORM.guide, None, {"type": "boolean"}, ["yes", "no"]]
    asked = [{"max_new_tokens": 30} if guide is None else {"guide": guide, "max_new_tokens": LONG} for guide in guides]
    prompts = [PROMPTS[i % 3] for i in range(len(guides))]
    for i, own in enumerate(asked):
        alone[i] = roomy(llama(), processor=byte_level()).generate(prompts[i], **own).tokens
    engine = roomy(llama(), processor=byte_level())
    together = engine.generate_batch(prompts, asked)
    assert [completion.tokens for completion in together] == [alone[i] for i in range(len(guides))]
    assert together[3].text in ("true", "false")
    assert together[4].text in ("yes", "no")
    assert FORM.holds(together[1].text)
    idle(engine)
    handle = engine.submit(prompts[1], response_format={"type": "json_object", "schema": {"type": "boolean"}})
    assert "".join(piece.text for piece in handle) in ("true", "false")
    found = llama().generate_batch(PROMPTS, guide=["a", "b"], tokenizer=byte_level())
    assert {completion.text for completion in found.values()} <= {"a", "b"}
    pieces = list(omniform.stream(llama(), [PROMPTS[0]], guide=["yes"], tokenizer=byte_level()))
    assert byte_level().decode(torch.cat(pieces), skip_special_tokens=True) == "yes"


def test_rows_that_are_computed_anew_and_guesses_change_nothing() -> None:
    settings = {"guide": FORM.guide, "max_new_tokens": 60, **SAMPLED, "seed": 7}
    expected = [roomy(llama(), processor=byte_level()).generate(prompt, **settings).tokens for prompt in PROMPTS]
    _, found = tight(llama(), PROMPTS, [settings] * 3, processor=byte_level())
    assert [c.tokens for c in found] == expected

    class Guesser:
        def draft(self, entries, most):
            rows = [row for _, row in entries]
            known = [next(e for e in expected if e[: row.written] == row.tokens[row.prompt :]) for row in rows]
            spoilt = [k[r.written : r.written + random.randrange(5)] for k, r in zip(known, rows, strict=True)]
            return [[7 if random.random() < 0.2 else t for t in some] for some in spoilt]

        def confirmed(self, row, drafted, right):
            """Nobody counts."""

        def over(self, request):
            """Nothing is kept for it."""

    engine = roomy(llama(), processor=byte_level())
    real = engine.enqueue

    def enqueue(*args, **kwargs):
        request = real(*args, **kwargs)
        request.drafter = Guesser()
        return request

    engine.enqueue = enqueue
    assert [c.tokens for c in engine.generate_batch(PROMPTS, **settings)] == expected
    assert engine.stats().tokens_accepted > 5


def test_filters_come_after_the_grammar_and_logprobs_are_the_models_own() -> None:
    engine = roomy(llama(), processor=byte_level())
    found = engine.generate(PROMPTS[0], guide=CHOICES, logprobs=3, output_scores=True, output_logits=True)
    answer = found.sequences[0]
    drawn = engine.generate(PROMPTS[0], guide=CHOICES, do_sample=True, top_k=1, seed=1).tokens
    assert drawn == answer.tokens
    matcher = grammar_of(omniform.Guide.choice(CHOICES), byte_level()).matcher([2])
    for token, noted, scores, logits in zip(answer.tokens, answer.logprobs, answer.scores, answer.logits, strict=True):
        assert noted.logprob == pytest.approx(float(logits.float().log_softmax(-1)[token]), abs=1e-5)
        allowed = scores.isfinite()
        assert torch.equal(scores[allowed], logits.float()[allowed])
        assert int(scores.argmax()) == token
        assert 0 < int(allowed.sum()) < 30
        assert matcher.accept(token)


def test_without_end_tokens_an_answer_ends_when_nothing_can_follow() -> None:
    for settings in ({}, {"num_beams": 2}, {"num_beams": 2, **SAMPLED, "seed": 1}):
        engine = roomy(llama(), processor=byte_level())
        found = engine.generate(PROMPTS[0], guide=["yes", "no"], eos_token_id=None, max_new_tokens=9, **settings)
        assert found.text in ("yes", "no")
        assert found.finish_reason == "stop"


def test_beams_that_a_grammar_has_no_room_for_are_copies() -> None:
    engine = roomy(llama(), processor=byte_level())
    for guide, texts in ((["#"], {"#"}), (["#", "$"], {"#", "$"})):
        for drawn in ({}, {**SAMPLED, "seed": 1}):
            found = engine.generate(PROMPTS[0], guide=guide, num_beams=4, num_return_sequences=4, **drawn)
            assert {answer.text for answer in found.sequences} == texts
    # Words that the form has no place for are not written, and said to be missing; others are.
    no = byte_level().convert_tokens_to_ids("no")
    for words, texts in (([[X]], {"yes", "no"}), ([[no]], {"no"})):
        found = engine.generate(PROMPTS[0], guide=["yes", "no"], num_beams=4, force_words_ids=words)
        assert {answer.text for answer in found.sequences} <= texts
    groups = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}
    found = engine.generate(PROMPTS[0], guide=FORM.guide, max_new_tokens=LONG, **groups)
    assert FORM.holds(found.text)


def test_what_does_not_fit_is_a_beginning() -> None:
    found = roomy(llama(), processor=byte_level()).generate(PROMPTS[0], guide=FORM.guide, max_new_tokens=5)
    assert found.finish_reason == "length"
    assert len(found.tokens) == 5
    matcher = grammar_of(FORM.guide, byte_level()).matcher([2])
    assert all(matcher.accept(token) for token in found.tokens)


def test_stop_strings_end_answers_early() -> None:
    settings = {"guide": "(ab){8}", "stop_strings": "aba", "max_new_tokens": 40}
    found = roomy(llama(), processor=byte_level()).generate(PROMPTS[0], **settings)
    assert found.text == ""
    assert found.finish_reason == "stop"


X = byte_level().convert_tokens_to_ids("#")
CONTRADICTIONS = {
    "min_new_tokens": ({"min_new_tokens": 9}, "guide and min_new_tokens.*'##' so far"),
    "min_length": ({"min_length": 30}, "guide and min_new_tokens"),
    "forced_bos_token_id": ({"forced_bos_token_id": 9}, "guide and forced_bos_token_id"),
    "forced_eos_token_id": ({"forced_eos_token_id": 2, "max_new_tokens": 1}, "guide and forced_eos_token_id"),
    "suppress_tokens": ({"suppress_tokens": [X]}, "guide and suppress_tokens"),
    "bad words": ({"bad_words_ids": [[X]]}, "guide and bad_words_ids"),
    "drawn": ({"suppress_tokens": [X], **SAMPLED}, "guide and suppress_tokens"),
    "beams": ({"suppress_tokens": [X], "num_beams": 2}, "guide and suppress_tokens"),
    "two forms": ({"response_format": {"type": "json_object"}}, "guide and response_format: an answer has one form"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_name_both_options(case: str) -> None:
    settings, words = CONTRADICTIONS[case]
    prompt = [4] if "bos" in case else PROMPTS[0]
    engine = roomy(llama(), processor=byte_level())
    with pytest.raises(InputError, match=words):
        engine.generate(prompt, guide="#{2}", **settings)
    idle(engine)


def test_no_tokenizer_and_broken_forms_are_told_before_anything_is_computed() -> None:
    with pytest.raises(InputError, match="needs a tokenizer"):
        llama().generate([PROMPTS[0]], guide=["a"])
    engine = roomy(llama(), processor=byte_level())
    for guide in ("(a", {"type": "nope"}, []):
        with pytest.raises(InputError):
            engine.submit(PROMPTS[0], guide=guide)
    assert engine.stats().steps == 0
    idle(engine)
    assert llama().generate([PROMPTS[0]], response_format={"type": "text"}, max_new_tokens=2).shape == (1, 6)
