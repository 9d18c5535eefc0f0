"""``text-generation`` against the reference's pipeline on the same tiny checkpoint."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch

from checkpoints import text_checkpoint
from omniform import Chat, GenerationConfig, pipeline, set_seed
from omniform.core.errors import InputError, LengthError, UnknownArgumentError
from omniform.pipelines import KeyDataset
from omniform.pipelines.text_generation import TextGenerationPipeline
from omniform.pipelines.writing import ReturnType
from reference import transformers

PROMPTS = ["The cat", "a dog ran over", "x", "The cat sat"]
CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
BEGUN = [*CHAT, {"role": "assistant", "content": "well"}]
GREEDY = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_checkpoint(tmp_path_factory.mktemp("writer"), chat=True)


@pytest.fixture(scope="module")
def ours(folder: Path) -> TextGenerationPipeline:
    return pipeline("text-generation", folder)


@pytest.fixture(scope="module")
def theirs(folder: Path):
    return transformers.pipeline("text-generation", str(folder), device="cpu")


def equal(one: object, other: object) -> bool:
    if isinstance(other, torch.Tensor):
        return one == other.tolist()
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in other)
    if isinstance(other, float):
        return one == pytest.approx(other, abs=1e-4)
    return len(one) == len(other) and all(map(equal, one, other)) if isinstance(other, list) else one == other


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"return_full_text": False},
        {"return_full_text": True},
        {"return_tensors": True},
        {"return_text": True},
        {"skip_special_tokens": False},
        {"clean_up_tokenization_spaces": True},
        {"prefix": "so "},
        {"prefix": "so ", "max_length": 30, "max_new_tokens": None},
        {"num_beams": 3, "num_return_sequences": 2},
        {"add_special_tokens": False},
        {"tokenizer_encode_kwargs": {"truncation": True, "max_length": 4}},
        {"stop_sequence": "e"},
        {"stop_sequence": ["zz", "o"]},
        {"repetition_penalty": 1.7, "min_new_tokens": 3},
    ],
    ids=str,
)
def test_prompts(ours, theirs, given: dict[str, object]) -> None:
    given = {**GREEDY, **given}
    given = {name: value for name, value in given.items() if value is not None}
    expected = theirs(PROMPTS, **given)
    assert equal(ours(PROMPTS, **given), expected)
    assert equal(ours(PROMPTS[1], **given), expected[1])
    assert equal([*ours(KeyDataset([{"t": text} for text in PROMPTS], "t"), batch_size=3, **given)], expected)
    assert equal([*ours(iter(PROMPTS), **given)], expected)


@pytest.mark.parametrize(
    "given",
    [{}, {"return_full_text": False}, {"continue_final_message": False}, {"return_tensors": True}],
    ids=str,
)
def test_chats(ours, theirs, given: dict[str, object]) -> None:
    given = {**GREEDY, **given}
    for chat in (CHAT, BEGUN):
        expected = theirs(chat, **given)
        assert equal(ours(chat, **given), expected)
        assert equal(ours(Chat(chat), **given), expected)
        assert equal(ours([chat, CHAT], **given), theirs([chat, CHAT], **given))
        assert equal([*ours((c for c in [chat, CHAT]), **given)], theirs([chat, CHAT], **given))
        assert equal(ours(KeyDataset([{"c": chat}], "c"), **given), theirs([chat], **given))
    assert CHAT == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def test_what_else_generate_tells(ours) -> None:
    given = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    for text, told in zip(
        PROMPTS, ours(PROMPTS, return_dict_in_generate=True, output_scores=False, **given), strict=True
    ):
        assert [one["generated_text"] for one in told] == [one["generated_text"] for one in ours(text, **given)]
    told = ours(PROMPTS[0], do_sample=False, max_new_tokens=3, return_dict_in_generate=True, output_logits=True)
    assert len(told[0]["logits"]) == 3 and len(told[0]["logits"][0]) == 260


def test_draws(ours, theirs) -> None:
    for given in ({}, {"num_return_sequences": 3}, {"temperature": 1.3, "top_k": 9}):
        for inputs in (PROMPTS[0], CHAT):
            set_seed(3)
            expected = theirs(inputs, max_new_tokens=8, **given)
            set_seed(3)
            assert equal(ours(inputs, max_new_tokens=8, **given), expected)
    set_seed(3)
    expected = theirs(PROMPTS, max_new_tokens=8, batch_size=1)
    set_seed(3)
    assert equal(ours(PROMPTS, max_new_tokens=8, batch_size=1), expected)
    alone = [ours(text, max_new_tokens=8, seed=5 + i)[0] for i, text in enumerate(PROMPTS)]
    assert [one[0] for one in ours(PROMPTS, max_new_tokens=8, seed=5)] == alone


def test_defaults(folder: Path) -> None:
    """The task's own hold only where neither the checkpoint nor the caller says anything."""
    for given in (
        {},
        {"max_length": 9},
        {"temperature": 0.2},
        {"generation_config": GenerationConfig(do_sample=False)},
    ):
        mine = pipeline("text-generation", folder, **given)._prepare_generate_kwargs({})
        config = given.get("generation_config")
        other = {"generation_config": transformers.GenerationConfig(do_sample=False)} if config else given
        its = transformers.pipeline("text-generation", str(folder), device="cpu", **other)._prepare_generate_kwargs({})
        for found in (mine, its):
            if config:
                found |= found.pop("generation_config").to_diff_dict()
            for name in ("transformers_version", "eos_token_id", "bos_token_id"):
                found.pop(name, None)
        assert mine == its


def test_long_prompts_lose_their_beginning(folder: Path, theirs) -> None:
    mine = pipeline("text-generation", folder)
    mine.tokenizer.model_max_length = theirs.tokenizer.model_max_length = 20
    given = {**GREEDY, "handle_long_generation": "hole", "return_full_text": False}
    text = "a very long prompt that has to be cut"
    assert mine(text, **given) == theirs(text, **given)
    with pytest.raises(InputError, match="longer than the tokenizer's limit"):
        mine(text, **{**given, "max_new_tokens": 30})
    theirs.tokenizer.model_max_length = 10**30


def test_beginnings_are_computed_once(folder: Path) -> None:
    mine = pipeline("text-generation", folder, **GREEDY)
    texts = ["the same beginning of every prompt, " + end for end in "abcd"]
    first = mine(texts)
    before = mine._engine.stats().tokens_computed
    assert mine(texts) == first
    assert mine._engine.stats().tokens_computed - before < 4 * 20


def test_copies(ours) -> None:
    expected = ours("x", **GREEDY)
    assert copy.deepcopy(ours)("x", **GREEDY) == pickle.loads(pickle.dumps(ours))("x", **GREEDY) == expected


def test_errors_are_kept_apart(ours) -> None:
    answers = ours(["fine", "x" * 80, 5, ""], on_error="return", **GREEDY)
    assert [type(one) for one in answers] == [list, LengthError, InputError, list]
    assert answers[0] == ours("fine", **GREEDY)
    with pytest.raises(InputError, match="positions"):
        ours(["fine", "x" * 80], **GREEDY)


def test_a_users_steps(folder: Path) -> None:
    class Loud(TextGenerationPipeline):
        def _forward(self, model_inputs, **kwargs):
            assert len(model_inputs["input_ids"]) == 1
            return super()._forward(model_inputs, **kwargs)

        def postprocess(self, outputs, **kwargs):
            return [record["generated_text"].upper() for record in super().postprocess(outputs, **kwargs)]

    plain = pipeline("text-generation", folder, **GREEDY)
    loud = pipeline("text-generation", folder, pipeline_class=Loud, **GREEDY)
    assert loud(PROMPTS) == [[one["generated_text"].upper() for one in many] for many in plain(PROMPTS)]
    assert plain("x", return_type=ReturnType.NEW_TEXT) == plain("x", return_full_text=False)


def test_a_streamer(ours) -> None:
    class Kept:
        def __init__(self):
            self.tokens = []

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.tokens.append("end")

    kept = Kept()
    answer = ours("The cat", streamer=kept, return_tensors=True, **GREEDY)
    assert kept.tokens == [*answer[0]["generated_token_ids"], "end"]


def test_the_task_of_a_model(folder: Path, ours) -> None:
    assert type(pipeline(model=folder)) is TextGenerationPipeline
    assert type(pipeline(model=ours.model, tokenizer=ours.tokenizer)) is TextGenerationPipeline


def test_bad_calls(ours, folder: Path) -> None:
    for wrong, error, words in (
        (lambda: ours("x", return_full_text=True, return_tensors=True), InputError, "exclude"),
        (lambda: ours("x", handle_long_generation="gap"), InputError, "hole"),
        (lambda: ours("x", max_new_token=3), UnknownArgumentError, "max_new_tokens"),
        (lambda: ours({"role": "user"}), InputError, "no prompt"),
        (lambda: ours([{"role": "user", "content": "a"}, {"role": "user"}]), InputError, "no message"),
        (lambda: ours("x", temperature=-1.0), InputError, "temperature"),
        (lambda: pipeline("text-generation", ours.model), InputError, "tokenizer"),
        (lambda: pipeline("text-generation"), InputError, "which model"),
    ):
        with pytest.raises(error, match=words):
            wrong()
