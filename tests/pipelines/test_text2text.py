"""``text2text-generation``, ``summarization``, ``translation``: the reference has them no more, so they are compared
with its tokenizer and ``generate``, called as its release 4 did."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tiny import VOCABULARY, word_pieces

from omniform import pipeline
from omniform.core.errors import InputError, UnknownNameError
from omniform.pipelines.text2text_generation import (
    SummarizationPipeline,
    Text2TextGenerationPipeline,
    TranslationPipeline,
)
from reference import saved_reference, transformers

TEXTS = ["the cat sat on the mat", "a dog", "anna lives in berlin and bob works at home", "this film is very good !"]
TASKS = {
    "summarization": {
        "prefix": "summarize : ",
        "max_length": 12,
        "min_length": 4,
        "num_beams": 2,
        "length_penalty": 2.0,
    },
    "translation_en_to_de": {"prefix": "translate english to german : ", "max_length": 9, "num_beams": 3},
}


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    config = transformers.T5Config(
        vocab_size=len(VOCABULARY), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, num_decoder_layers=2,
        pad_token_id=0, eos_token_id=3, decoder_start_token_id=0, task_specific_params=TASKS,
    )  # fmt: skip
    saved_reference(transformers.T5ForConditionalGeneration, config, folder)
    word_pieces().save_pretrained(folder)
    return folder


def naive(folder: Path, text: str, *, ids: bool = False, **given: object) -> list:
    """What the reference writes for a text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    forced = given.pop("src_lang", None), given.pop("tgt_lang", None)
    if forced[0] is not None:
        tokenizer.src_lang = forced[0]
        given["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(forced[1])
    inputs = tokenizer(text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        rows = model.generate(**inputs, **given)
    if ids:
        return rows.tolist()
    return [tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in rows]


@pytest.mark.parametrize("given", [{"max_new_tokens": 7}, {"num_beams": 1, "max_new_tokens": 5}, {"max_length": 9}])
def test_text2text(t5: Path, given: dict[str, int]) -> None:
    pipe = pipeline("text2text-generation", t5)
    expected = [naive(t5, text, **{"num_beams": 4, **given})[0] for text in TEXTS]
    assert pipe(TEXTS, **given) == [{"generated_text": text} for text in expected]
    assert pipe(TEXTS[2], **given) == [{"generated_text": expected[2]}]
    assert [one[0]["generated_text"] for one in pipe(iter(TEXTS), **given)] == expected
    assert pipe(TEXTS, batch_size=3, **given) == pipe(TEXTS, **given)


def test_several_answers_and_tensors(t5: Path) -> None:
    pipe = pipeline("text2text-generation", t5, num_beams=3, num_return_sequences=2, max_new_tokens=6)
    expected = [naive(t5, text, num_beams=3, num_return_sequences=2, max_new_tokens=6) for text in TEXTS]
    assert pipe(TEXTS) == [[{"generated_text": text} for text in many] for many in expected]
    told = pipe("a dog", return_tensors=True)
    assert [*told[0]] == ["generated_token_ids"] and told[0]["generated_token_ids"].tolist()[0] == 0
    stopped = pipe("a dog", num_beams=1, num_return_sequences=1, do_sample=False, stop_sequence="a")
    assert "a" in stopped[0]["generated_text"] or len(stopped[0]["generated_text"].split()) <= 6


def test_what_the_checkpoint_says_of_a_task(t5: Path, caplog: pytest.LogCaptureFixture) -> None:
    for task, kind, name in (
        ("summarization", SummarizationPipeline, "summary_text"),
        ("translation_en_to_de", TranslationPipeline, "translation_text"),
    ):
        pipe = pipeline(task, t5)
        assert type(pipe) is kind and pipe.task == task
        settings = dict(TASKS[task])
        prefix = settings.pop("prefix")
        expected = [naive(t5, prefix + text, **settings)[0] for text in TEXTS]
        assert pipe(TEXTS) == [{name: text} for text in expected]
        assert pipe(TEXTS[0], max_length=6)[0][name] == naive(t5, prefix + TEXTS[0], **{**settings, "max_length": 6})[0]
        longer = naive(t5, prefix + TEXTS[0], **{**settings, "max_length": None, "max_new_tokens": 20})[0]
        assert pipe(TEXTS[0], max_new_tokens=20)[0][name] == longer
        mine = pipeline(task, t5, num_beams=1)
        assert mine(TEXTS[1])[0][name] == naive(t5, prefix + TEXTS[1], **{**settings, "num_beams": 1})[0]
    other = pipeline("translation_en_to_fr", t5, max_new_tokens=5)
    assert other(TEXTS[0])[0]["translation_text"] == naive(t5, TEXTS[0], num_beams=4, max_new_tokens=5)[0]
    with caplog.at_level(logging.WARNING, "omniform"):
        pipeline("translation_en_to_de", t5)(TEXTS[2])
    assert "would allow more" in caplog.text


@pytest.fixture(scope="module")
def mbart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mbart")
    letters = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((c, -3.0) for c in "abcdefghij"),
    ]
    tokenizer = transformers.MBartTokenizer(vocab=letters, src_lang="en_XX")
    config = transformers.MBartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64,
        forced_eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    saved_reference(transformers.MBartForConditionalGeneration, config, folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_languages(mbart: Path) -> None:
    given = {"src_lang": "de_DE", "tgt_lang": "ro_RO", "num_beams": 2, "max_new_tokens": 5}
    texts = ["a bad cab", "be", "age hid"]
    expected = [naive(mbart, text, ids=True, **given)[0] for text in texts]
    assert len({*map(tuple, expected)}) > 1

    def ids(answers: list) -> list[list[int]]:
        return [one["translation_token_ids"].tolist() for one in answers]

    pipe = pipeline("translation", mbart, return_tensors=True)
    assert ids(pipe(texts, **given)) == expected and pipe.tokenizer.src_lang == "en_XX"
    assert ids(pipe(texts, num_workers=2, **given)) == expected
    assert ids(pipeline("translation", mbart, return_tensors=True, **given)(texts)) == expected
    named = pipeline("translation_de_DE_to_ro_RO", mbart, num_beams=2, max_new_tokens=5, return_tensors=True)
    assert ids(named(texts)) == expected and ids(named(texts[0])) == expected[:1]
    other = naive(mbart, texts[0], ids=True, **{**given, "tgt_lang": "fr_XX"})
    assert ids(named(texts[0], src_lang="de_DE", tgt_lang="fr_XX")) == other != expected[:1]


def test_bad_calls(t5: Path, mbart: Path) -> None:
    for wrong, error, words in (
        (lambda: pipeline("translation", mbart)("a"), InputError, "which language"),
        (lambda: pipeline("translation", mbart)("a", src_lang="xx", tgt_lang="ro_RO"), InputError, "no such language"),
        (lambda: pipeline("translation_en_XX", mbart), UnknownNameError, "translation_xx_to_yy"),
        (lambda: pipeline("summarization", t5)(["a", 5]), InputError, "no text"),
        (lambda: pipeline("text-generation", t5), InputError, "does not do text-generation"),
    ):
        with pytest.raises(error, match=words):
            wrong()
    assert type(pipeline(model=t5)) is Text2TextGenerationPipeline
    answers = pipeline("summarization", t5)(["a", 5], on_error="return")
    assert type(answers[1]) is InputError and "summary_text" in answers[0][0]
