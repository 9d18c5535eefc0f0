"""One table of settings: every name that the reference knows, every way a value comes in, and every kind of mistake."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import numpy as np
import pytest
import torch

from omniform.core.errors import InputError, OmniformError, UnknownArgumentError
from omniform.core.generation import ATTRIBUTES, GenerationConfig
from omniform.core.settings import SETTINGS, Effect
from omniform.engine.engine import Engine
from reference import omniform, saved_reference, transformers

TINY = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.tensor([[1, 5, 9, 33, 7, 12]])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    theirs = saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder, scale=0.3)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs, folder


def answer(model, **settings):
    return model.generate(IDS, **{"max_new_tokens": 5, **settings}).tolist()


def with_file(folder, tmp_path, settings):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 0, **settings}))
    return omniform.AutoModelForCausalLM.from_pretrained(tmp_path)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_every_attribute_of_the_reference_and_no_other():
    theirs = {n for n in vars(transformers.GenerationConfig()) if n not in ("_original_object_hash",)}
    assert theirs == set(ATTRIBUTES)
    assert set(transformers.GenerationConfig().to_dict()) == set(GenerationConfig().to_dict())


def test_every_row_takes_what_changes_nothing_from_everywhere(pair, tmp_path):
    model, _, folder = pair
    greedy = answer(model)
    skip = {"max_length", "min_length", "return_dict_in_generate"}
    for name, row in SETTINGS.items():
        if name in skip:
            continue
        for value in (None, row.neutral, *row.also):
            settings = {name: value} if name != "max_new_tokens" else {name: 5}
            assert answer(model, **settings) == greedy, (name, value)
            assert answer(model, generation_config=settings) == greedy, (name, value)
    file = {n: r.neutral for n, r in SETTINGS.items() if n not in skip and r.neutral is not None}
    assert answer(with_file(folder, tmp_path, file)) == greedy


@pytest.mark.parametrize("name", [n for n, row in SETTINGS.items() if row.effect is Effect.INERT])
def test_what_is_inert_takes_anything(pair, name):
    assert answer(pair[0], **{name: object()}) == answer(pair[0])


WITHOUT_EFFECT = [
    {"do_sample": False, "temperature": 0.0}, {"temperature": 0}, {"top_k": 50}, {"top_k": -1}, {"top_p": 0.0},
    {"top_p": 1.7}, {"min_p": 0.3}, {"typical_p": 0.0}, {"epsilon_cutoff": 1.0}, {"top_h": 0.4}, {"num_beam_groups": 1},
    {"guidance_scale": 1}, {"prompt_lookup_num_tokens": None}, {"cache_implementation": "static"},
    {"disable_compile": True}, {"diversity_penalty": 0.0}, {"length_penalty": 3.0}, {"early_stopping": True},
    {"cache_position": torch.arange(6)}, {"num_items_in_batch": 3}, {"synced_gpus": False}, {"use_cache": True},
    {"use_cache": False}, {"return_dict_in_generate": False}, {"output_scores": True}, {"output_attentions": False},
    {"output_hidden_states": None}, {"logits_processor": []}, {"stopping_criteria": []}, {"constraints": []},
    {"num_assistant_tokens": 7}, {"trust_remote_code": True}, {"past_key_values": None}, {"do_sample": np.False_},
    {"do_sample": True, "temperature": 0.0, "seed": 3}, {"do_sample": True, "top_k": 1}, {"eos_token_id": 10**9},
    {"penalty_alpha": 0.0}, {"suppress_tokens": [10**9]}, {"pad_token_id": 10**9}, {"assistant_model": None},
]  # fmt: skip


@pytest.mark.parametrize("settings", WITHOUT_EFFECT, ids=str)
def test_a_value_without_effect_is_never_refused(pair, tmp_path, settings):
    model, _, folder = pair
    free = answer(model, eos_token_id=None)
    assert answer(model, **{"eos_token_id": None, **settings}) == free
    config = GenerationConfig(**settings)
    assert answer(model, generation_config=config) == answer(model)
    assert Engine(model, memory="5MB").generate(IDS[0].tolist(), max_new_tokens=5, **settings).tokens == free[0][6:]
    if not any(isinstance(value, torch.Tensor | np.generic) for value in settings.values()):
        assert answer(with_file(folder, tmp_path, settings)) == answer(model)


@pytest.mark.parametrize(
    ("file", "asked"),
    [
        ({"eos_token_id": list(range(3, 60))}, {"eos_token_id": None}),
        ({"top_k": 1, "do_sample": True}, {"top_k": None, "temperature": 5.0}),
        ({"top_p": 0.1, "do_sample": True}, {"top_p": None, "temperature": 5.0}),
        ({"repetition_penalty": 9.0}, {"repetition_penalty": None}),
        ({"min_new_tokens": 5, "eos_token_id": list(range(3, 60))}, {"min_new_tokens": None}),
        ({"suppress_tokens": list(range(3, 50))}, {"suppress_tokens": None}),
        ({"do_sample": True}, {"do_sample": None}),
        ({"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": None}),
        ({"max_new_tokens": 3}, {"max_new_tokens": None}),
        ({"max_new_tokens": 3}, {"max_length": None}),
        ({"top_k": 1, "do_sample": True}, {"generation_config": {"top_k": None}, "temperature": 5.0}),
    ],
)
def test_none_unsets_as_in_the_reference(pair, tmp_path, file, asked):
    _, _, folder = pair
    ours = with_file(folder, tmp_path, file)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    expected = dict(asked)
    if "generation_config" in expected:
        expected["generation_config"] = transformers.GenerationConfig(**expected["generation_config"])
    torch.manual_seed(1)
    wanted = theirs.generate(IDS, attention_mask=torch.ones_like(IDS), **expected)
    torch.manual_seed(1)
    assert ours.generate(IDS, **asked).tolist() == wanted.tolist()


@pytest.mark.parametrize("name", ["max_new_token", "temprature", "topk", "num_beam", "eos_token_ids", "do_samples"])
def test_a_misspelt_name_is_refused_everywhere(pair, tmp_path, name):
    model, _, folder = pair
    meant = r"Did you mean '\w+'"
    for call in (
        lambda: answer(model, **{name: 3}),
        lambda: answer(model, generation_config={name: 3}),
        lambda: list(omniform.stream(model, IDS, **{name: 3})),
        lambda: model.generate_batch([[5]], **{name: 3}),
        lambda: Engine(model, memory="5MB").submit([5], **{name: 3}),
        lambda: GenerationConfig(**{name: 3}),
        lambda: GenerationConfig.from_dict({}, **{name: 3}),
        lambda: setattr(GenerationConfig(), name, 3),
        lambda: answer(with_file(folder, tmp_path, {name: 3})),
        lambda: answer(model, generation_config=GenerationConfig.from_dict({name: 3})),
    ):
        with pytest.raises(UnknownArgumentError, match=meant):
            call()


def test_an_unlike_name_is_refused_in_a_call_and_kept_in_a_file(pair, tmp_path):
    model, _, folder = pair
    for call in (
        lambda: answer(model, chat_format="x"),
        lambda: answer(model, generation_config={"chat_format": "x"}),
        lambda: answer(model, language="en"),  # a speech model's own
    ):
        with pytest.raises(UnknownArgumentError, match=r"chat_format|language"):
            call()
    loaded = with_file(folder, tmp_path, {"chat_format": "x"})
    assert answer(loaded) == answer(model) and loaded.generation_config.chat_format == "x"
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text())["chat_format"] == "x"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"token_healing": True}, "expected False"),
        ({"assistant_ensemble_weight": 0.5}, "expected None"),
    ],
)
def test_what_is_not_built_is_refused_in_words(pair, asked, words):
    with pytest.raises(InputError, match=words) as error:
        answer(pair[0], **asked)
    assert error.value.where in asked and len(str(error.value)) < 400


def said_by(call) -> list[str]:
    said, handler = [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("omniform")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        call()
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return said


def test_one_warning_is_said_once(pair):
    model = pair[0]
    long = (torch.arange(58) + 2)[None]
    engine = Engine(model, memory="5MB")
    asked = {"max_new_tokens": 20, "eos_token_id": -1}
    for number, call in enumerate(
        (
            lambda: model.generate(long, **asked),
            lambda: model.generate(long.repeat(3, 1), **asked),
            lambda: model.generate(long, num_beams=2, **asked),
            lambda: list(omniform.stream(model, long, **asked)),
            lambda: model.generate_batch(long.tolist() * 2, **asked),
            lambda: engine.generate(long[0].tolist(), **asked),
        )
    ):
        said = said_by(call)
        assert len(said) == 1, (number, said)
    idle = said_by(lambda: answer(model, temperature=0.5, top_p=0.3))
    assert len(idle) == 1 and "temperature" in idle[0] and "top_p" in idle[0] and "do_sample=True" in idle[0]
    assert said_by(lambda: answer(model, temperature=0.5, top_p=0.3)) == [], "a loop of calls is told once"
    for call in (
        lambda: model.generate_batch([[1, 5]] * 3, top_k=3),
        lambda: engine.generate_batch([[1]] * 2, top_k=4),
    ):
        assert len(said_by(call)) <= 1
    assert len(said_by(lambda: engine.generate_batch(long.tolist() * 3, **asked))) == 1
    for quiet in ({}, {"temperature": 0.0}, {"top_k": 50}, {"do_sample": True, "temperature": 0, "top_p": 0.5}):
        assert said_by(lambda q=quiet: answer(model, **q)) == []


def test_an_engine_takes_a_config_as_a_call_does(pair):
    model, engine = pair[0], Engine(pair[0], memory="5MB")
    expected = model.generate(IDS, max_new_tokens=2, eos_token_id=-1)[0, 6:].tolist()
    for config in (GenerationConfig(max_new_tokens=2, eos_token_id=-1), {"max_new_tokens": 2, "eos_token_id": -1}):
        assert engine.generate(IDS[0].tolist(), generation_config=config).tokens == expected
        assert engine.generate_batch([IDS[0].tolist()], generation_config=config)[0].tokens == expected
        assert engine.submit(IDS[0].tolist(), generation_config=config).result().tokens == expected
        over = engine.generate(IDS[0].tolist(), generation_config=config, max_new_tokens=1)
        assert over.tokens == expected[:1]
    for wrong in (5, "x", [("max_new_tokens", 2)], {"max_new_token": 2}):
        with pytest.raises(OmniformError, match="generation_config"):
            engine.generate([1, 2], generation_config=wrong)


def test_whatever_stands_as_a_model_s_config(pair, tmp_path):
    model = copy.copy(pair[0])
    for fine in (None, {"max_new_tokens": 3}):
        model.generation_config = fine
        assert model.generate(IDS, max_new_tokens=2, eos_token_id=-1).shape == (1, 8)
        model.save_pretrained(tmp_path / "saved")
    model.generation_config = {"max_new_tokens": 1, "eos_token_id": -1}
    assert model.generate(IDS).shape == (1, 7)
    for wrong in (5, "x", [1], {"temprature": 1}):
        model.generation_config = wrong
        for call in (lambda: model.generate(IDS), lambda: model.save_pretrained(tmp_path / "saved")):
            with pytest.raises(OmniformError, match=r"model\.generation_config"):
                call()


@pytest.mark.parametrize("memory", [10**30, "9999999TB", "9" * 400 + "TB", 2**62])
def test_more_memory_than_there_is(pair, memory):
    with pytest.raises(InputError, match="memory"):
        Engine(pair[0], memory=memory)


# -- GenerationConfig --------------------------------------------------------------------------------------------------


def test_attributes_of_a_config():
    config = GenerationConfig.from_dict({"max_new_tokens": 3, "odd": {"kept": [1]}})
    assert config.max_new_tokens == 3 and config.temperature is None and config.odd == {"kept": [1]}
    config.temperature = 0.5
    assert config.update(top_k=4, nothing=3) == {"nothing": 3} and config.top_k == 4
    assert config.update(defaults_only=True, top_k=9, top_p=0.5) == {"top_k": 9} and (config.top_k, config.top_p) == (
        4,
        0.5,
    )
    assert config.update(allow_custom_entries=True, mine=1) == {} and config.mine == 1
    for unknown in ("tempreature", "nothing_like_it"):
        assert not hasattr(config, unknown)
        with pytest.raises(AttributeError, match=unknown):
            getattr(config, unknown)
    with pytest.raises(AttributeError, match="Did you mean 'temperature'"):
        config.tempreature = 1
    del config.temperature
    assert config.temperature is None
    config.to_dict()["odd"]["kept"].append(2)
    assert config.odd == {"kept": [1]} and "top_k=4" in repr(config)
    for twin in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config and hash(twin) == hash(config)
        twin.top_k = 5
        assert twin != config and config.top_k == 4
    assert GenerationConfig(top_k=None) == GenerationConfig() != 3
    mine = torch.tensor([3, 4])
    held = GenerationConfig(eos_token_id=mine, temperature=np.float32(0.5))
    assert held.eos_token_id == [3, 4] and held.temperature == 0.5


CONFIGS = [
    {}, {"max_new_tokens": 3, "eos_token_id": [1, 2]}, {"do_sample": True, "temperature": 0.7, "top_k": 9},
    {"suppress_tokens": [], "num_beams": 4, "early_stopping": "never"},
    {"forced_decoder_ids": [[1, None]], "language": "en"},
    {"sequence_bias": [[[5], 1.0]], "stop_strings": ["a"]},
]  # fmt: skip


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_saved_files_are_the_reference_s(tmp_path, settings):
    ours, theirs = GenerationConfig(**settings), transformers.GenerationConfig(**settings)
    ours.save_pretrained(tmp_path / "a")
    theirs.save_pretrained(tmp_path / "b")
    mine, other = ((tmp_path / at / "generation_config.json").read_text() for at in "ab")
    raw = json.loads(other)
    assert raw.pop("transformers_version") and mine == json.dumps(raw, indent=2, sort_keys=True) + "\n"
    again, left = GenerationConfig.from_pretrained(tmp_path / "b", top_p=0.5, foo=1, return_unused_kwargs=True)
    assert again.top_p == 0.5 and left == {"foo": 1}
    again = GenerationConfig.from_pretrained(tmp_path / "b")
    assert again == ours and transformers.GenerationConfig.from_pretrained(tmp_path / "a") == theirs
    mine, other = ours.to_dict(), theirs.to_dict()
    assert {**mine, "transformers_version": 0} == {**other, "transformers_version": 0}


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token_id": 7, "vocab_size": 9, "forced_eos_token_id": 3, "output_scores": True},
        {"text_config": {"eos_token_id": 5, "hidden_size": 3}, "pad_token_id": 1},
        {"decoder": {"bos_token_id": 5, "num_beams": 3}, "eos_token_id": None, "transformers_version": "4.0"},
    ],
)
def test_from_a_model_s_config(config):
    ours = GenerationConfig.from_model_config(config)
    assert ours == transformers_as_ours(transformers.GenerationConfig.from_model_config(dict(config)))


def transformers_as_ours(theirs):
    return GenerationConfig.from_dict({k: v for k, v in theirs.to_dict().items() if v is not None})


def test_a_config_is_not_changed_by_calls(pair):
    config = GenerationConfig(max_new_tokens=3, eos_token_id=[7, 8])
    before = config.to_dict()
    assert answer(pair[0], generation_config=config, max_new_tokens=2) == answer(
        pair[0], max_new_tokens=2, eos_token_id=[7, 8]
    )
    assert config.to_dict() == before
    assert len(pair[0].generate(IDS, generation_config={"max_new_tokens": 3})[0]) <= 9


def test_files_that_are_none(tmp_path):
    with pytest.raises(OmniformError, match="generation_config"):
        GenerationConfig.from_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("[1]")
    for call in (
        lambda: GenerationConfig.from_pretrained(tmp_path),
        lambda: GenerationConfig.from_pretrained(3),
        lambda: GenerationConfig.from_pretrained(tmp_path, 3),
        lambda: GenerationConfig.from_dict([1]),
        lambda: GenerationConfig.from_dict({1: 2}),
        lambda: GenerationConfig.from_model_config(3),
        lambda: GenerationConfig(temperature="hot").save_pretrained(tmp_path),
        lambda: GenerationConfig(mine=object()).save_pretrained(tmp_path),
        lambda: GenerationConfig().save_pretrained(tmp_path / "generation_config.json"),
        lambda: GenerationConfig().save_pretrained(3),
    ):
        with pytest.raises(OmniformError) as error:
            call()
        assert len(str(error.value)) < 2000


# -- odd values --------------------------------------------------------------------------------------------------------


class Foreign:
    """What breaks whoever looks at it."""

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    def __bool__(self):
        raise RuntimeError("no truth")

    def __repr__(self):
        raise RuntimeError("no words")

    __hash__ = None


def cyclic():
    loop = []
    loop.append(loop)
    return loop


ODD = [
    "x", "", b"x", 2**70, -(2**70), -1, 0, 1, True, 1.5, 1e308, float("nan"), float("inf"), -float("inf"), 3 + 1j, [],
    [[]], [None], ["a"], [1, [2]], [[1, "a"]], {}, {"a": 1}, {1: 2}, {(1,): "a"}, (), {1, 2}, set(), object(),
    print, int, Foreign(), [Foreign()], cyclic(), np.int64(3), np.float32(0.5), np.array([1, 2]), np.array(object()),
    np.zeros((2, 2)), np.datetime64("2020"), torch.tensor(3), torch.tensor([3]), torch.tensor([33, 7]),
    torch.tensor([[1.5]]), torch.tensor(float("nan")), torch.zeros(0), torch.zeros(2, device="meta"),
    torch.eye(2).to_sparse(), torch.tensor([1j]), torch.tensor([True]), torch.nn.Linear(1, 1), range(3),
    (i for i in [1]), GenerationConfig(), 10**6, [10**6], [[10**6]], [[[5], 10.0**300]], "x" * 100_000,
    list(range(100_000)),
]  # fmt: skip


def fine_or_typed(call, what):
    try:
        call()
    except OmniformError as error:
        assert len(str(error)) < 2000, what
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}"[:300]) from error


def many(value) -> bool:
    """Whether a value is a request for more work than a test should do, not a mistake."""
    return isinstance(value, int) and not isinstance(value, bool) and 1000 < value < 2**53


PARTS = 4
"""The odd values in so many parts, each with values of many kinds."""


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", [n for n, row in SETTINGS.items() if row.effect is not Effect.INERT])
def test_odd_values_of_every_setting(pair, name, part):
    model = pair[0]
    for at, value in [*enumerate(ODD)][part::PARTS]:
        if many(value) and name in ("num_return_sequences", "num_beams"):
            continue
        beside = ({}, {"do_sample": True, "seed": 1}, {"num_beams": 2})[at % 3]
        given = {"max_new_tokens": 2, **beside, name: value}
        fine_or_typed(lambda g=given: model.generate(IDS, **g), (name, at, beside))
        if at % 5 == 0:
            fine_or_typed(lambda v=value: model.generate(IDS, generation_config={name: v}), (name, at))


def inputs_of_calls(model, engine):
    """Every public argument that is no setting, by name, as a call with one odd value in it."""
    rest = {"max_new_tokens": 2}
    yield "inputs", lambda v: model.generate(v, **rest)
    yield "row", lambda v: model.generate([v], **rest)
    yield "input_ids", lambda v: model.generate(input_ids=v, **rest)
    yield "attention_mask", lambda v: model.generate(IDS, attention_mask=v, **rest)
    yield "generation_config", lambda v: model.generate(IDS, generation_config=v, **rest)
    yield "streamer", lambda v: model.generate(IDS, streamer=v, **rest)
    yield "tokenizer", lambda v: model.generate(IDS, tokenizer=v, **rest)
    yield "pixel_values", lambda v: omniform.generate(model, IDS, position_ids=v, **rest)
    yield "generate", lambda v: omniform.generate(v, IDS, **rest)
    yield "stream", lambda v: list(omniform.stream(model, v, **rest))
    yield "stream of", lambda v: list(omniform.stream(v, IDS))
    yield "batch", lambda v: model.generate_batch(v, **rest)
    yield "batch row", lambda v: model.generate_batch([[5], v], **rest)
    yield "batch config", lambda v: model.generate_batch([[5]], v, **rest)
    yield "prompt", lambda v: engine.submit(v, **rest).result(20)
    yield "prompt in a list", lambda v: engine.generate([v], **rest)
    yield "prompt by name", lambda v: engine.generate({"input_ids": v}, **rest)
    yield "named mask", lambda v: engine.generate({"input_ids": IDS, "attention_mask": v}, **rest)
    yield "priority", lambda v: engine.submit([5], priority=v, **rest).result(20)
    yield "prompts", lambda v: engine.generate_batch(v, **rest)
    yield "settings", lambda v: engine.generate_batch([[5]], v, **rest)
    yield "own settings", lambda v: engine.generate_batch([[5]], [v], **rest)
    yield "from_dict", GenerationConfig.from_dict
    yield "from_model_config", GenerationConfig.from_model_config


def test_odd_values_of_every_other_argument(pair):
    model = pair[0]
    engine = Engine(model, memory="5MB")
    for name, call in inputs_of_calls(model, engine):
        for at, value in enumerate(ODD):
            fine_or_typed(lambda c=call, v=value: c(v), (name, at))
    assert engine.generate([5], max_new_tokens=2).tokens == model.generate([[5]], max_new_tokens=2)[0, 1:].tolist()


def test_values_as_the_ecosystem_passes_them(pair):
    model = pair[0]
    right = answer(model, eos_token_id=[33, 7])
    for value in (torch.tensor([33, 7]), np.array([33, 7]), (33, 7), {33, 7}, [torch.tensor(33), np.int64(7)]):
        assert answer(model, eos_token_id=value) == right
        assert answer(model, generation_config=GenerationConfig(eos_token_id=value)) == right
    assert answer(model, max_new_tokens=np.int64(3)) == answer(model, max_new_tokens=torch.tensor([3]))
    drawn = answer(model, do_sample=True, seed=1, temperature=0.5, top_k=3)
    assert drawn == answer(
        model, do_sample=np.bool_(True), seed=np.uint8(1), temperature=np.float32(0.5), top_k=torch.tensor(3)
    )
    for ids in (IDS.numpy(), IDS.int(), IDS.to_sparse(), IDS.to(torch.uint8), IDS.to(torch.uint64)):
        assert model.generate(ids, max_new_tokens=5).tolist() == answer(model)
    assert model.generate(IDS, attention_mask=[[1] * 6], max_new_tokens=5).tolist() == answer(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("forced_eos_token_id", 10**6), ("forced_eos_token_id", [61]), ("sequence_bias", [[[61], 1.0]]),
        ("bad_words_ids", [[5, 61]]),
    ],
)  # fmt: skip
def test_tokens_past_the_vocabulary(pair, name, value):
    for beside in ({}, {"num_beams": 2}, {"do_sample": True}):
        with pytest.raises(InputError, match=name):
            answer(pair[0], **beside, **{name: value})
    with pytest.raises(InputError, match="forced_bos_token_id"):
        pair[0].generate([[5]], forced_bos_token_id=61)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"repetition_penalty": 1.3}, {"suppress_tokens": [3]}, {"do_sample": True}, {"num_beams": 2}, {"seed": 3},
        {"do_sample": True, "num_return_sequences": 2}, {"num_beams": 2, "do_sample": True},
        {"do_sample": True, "seed": 2, "top_p": 0.5}, {"num_beams": 3, "no_repeat_ngram_size": 2},
        {"renormalize_logits": True}, {"min_new_tokens": 3},
    ],
    ids=str,
)  # fmt: skip
def test_scores_that_are_no_numbers_name_row_and_step(pair, settings):
    model = copy.deepcopy(pair[0])
    with torch.no_grad():  # NaN where token 59 is read, and nowhere else
        model.get_input_embeddings().weight[59] = float("nan")
    rows = [[1, 5, 9], [4, 59, 6], [7, 8, 9]]
    place = settings.get("num_return_sequences", 1)
    with pytest.raises(OmniformError, match=rf"row {place}, step 0.*no numbers"):
        model.generate(torch.tensor(rows), max_new_tokens=4, **settings)
    with pytest.raises(OmniformError, match=rf"row {place}, step 0.*no numbers"):
        model.generate_batch(rows, max_new_tokens=4, **settings)
    with pytest.raises(OmniformError, match=rf"row {place}, step 0.*no numbers"):
        Engine(model, memory="5MB").generate_batch(rows, max_new_tokens=4, **settings)
    fine = answer(model, **{**settings, "seed": 1})
    assert fine == answer(pair[0], **{**settings, "seed": 1})


@pytest.mark.parametrize("name", ["num_return_sequences", "num_beams"])
def test_more_rows_than_there_is_room_for_cost_nothing(pair, name):
    for count in (10**8, 2**40):
        with pytest.raises(InputError):
            answer(pair[0], do_sample=True, seed=1, **{name: count})


def test_rules_that_leave_nothing(pair):
    every = list(range(61))
    with pytest.raises(OmniformError, match=r"row 0, step 0.*leave no token"):
        answer(pair[0], do_sample=True, suppress_tokens=every)
    with pytest.raises(OmniformError, match="leave no token"):
        answer(pair[0], do_sample=True, num_beams=2, suppress_tokens=every)


def test_texts_are_cut_to_a_screen(pair):
    for call in (
        lambda: answer(pair[0], **{"x" * 100_000: 1}),
        lambda: answer(pair[0], nothing_like_it=1),
        lambda: answer(pair[0], bad_words_ids="y" * 10**6),
        lambda: answer(pair[0], suppress_tokens=[*range(10**5), "z"]),
    ):
        with pytest.raises(OmniformError) as error:
            call()
        assert len(str(error.value)) < 1950
