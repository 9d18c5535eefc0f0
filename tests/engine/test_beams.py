"""Beam search against the reference: tokens, scores and paths, without an engine and without a cache.

A table of random scores stands in for a model where results are to be equal to the last bit; the families show that the
same holds of what real models give.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.beams import BeamSearch, BeamSettings, Fork, Hypothesis
from reference import omniform, ragged, saved_reference, transformers

VOCABULARY = 23
EARLY = (True, False, "never")

Rules = Callable[[Tensor, Tensor], Tensor]


def search(
    step: Callable[[Tensor], Tensor],
    prompt: Tensor,
    settings: BeamSettings,
    rules: Rules | None = None,
    ends: Callable[[list[int]], bool] | None = None,
    generator: torch.Generator | None = None,
) -> list[Hypothesis]:
    """What an engine does with a group of beams: run the rows, tell the scores, fork."""
    group = BeamSearch(settings, generator)
    rows = prompt[None]

    def over(parent: int, token: int) -> bool:
        return ends is not None and ends([*rows[parent].tolist(), token])

    with torch.no_grad():
        while not group.done:
            scores = step(rows).float().log_softmax(-1)
            fork = group.advance(scores if rules is None else rules(rows, scores), None if ends is None else over)
            rows = torch.cat([rows[fork.parents], torch.tensor(fork.tokens)[:, None]], dim=1)
    return group.results()


def asked(settings: BeamSettings) -> dict[str, object]:
    """The same settings for the reference."""
    return {
        "num_beams": settings.num_beams,
        "num_return_sequences": settings.num_return_sequences,
        "length_penalty": settings.length_penalty,
        "early_stopping": settings.early_stopping,
        "do_sample": settings.do_sample,
        "max_new_tokens": settings.max_new_tokens,
        "eos_token_id": list(settings.eos_token_ids) or None,
        "pad_token_id": settings.pad_token_id,
        "return_dict_in_generate": True,
        "output_scores": True,
    }


def same(found: list[Hypothesis], theirs: object, start: int, row: int, s: BeamSettings, tolerance: float) -> None:
    """Fail unless one prompt's answers are the reference's: tokens, padding, scores and paths."""
    n = s.num_return_sequences
    picked = slice(row * n, (row + 1) * n)
    tokens, paths = theirs.sequences[picked, start:].tolist(), theirs.beam_indices[picked].tolist()
    fill = s.fill_token_id if s.eos_token_ids else -1
    for mine, other, path in zip(found, tokens, paths, strict=True):
        assert mine.tokens + [fill] * (len(other) - len(mine.tokens)) == other
        assert [row * s.num_beams + b for b in mine.beams] + [-1] * (len(path) - len(mine.beams)) == path
    scores = torch.tensor([h.score for h in found])
    expected = theirs.sequences_scores[picked]
    assert torch.equal(scores, expected) or (scores - expected).abs().max() <= tolerance, (scores, expected)


class Table(transformers.PreTrainedModel, transformers.GenerationMixin):
    """A model of the reference that looks its scores up, by the last two tokens and the length."""

    config_class = transformers.PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, seed: int, *, scale: float, ends: float, eos: tuple[int, ...], coarse: bool) -> None:
        super().__init__(transformers.PretrainedConfig(vocab_size=VOCABULARY))
        table = torch.randn(61, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale
        table[:, list(eos)] += ends
        # Coarse scores are often equal: then the order of equals counts.
        self.table = torch.nn.Parameter(table.round() if coarse else table, requires_grad=False)

    def scores(self, rows: Tensor) -> Tensor:
        before = rows[:, -2] if rows.shape[1] > 1 else 0
        return self.table[(rows[:, -1] * 7 + before * 3 + rows.shape[1] * 5) % 61]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: object) -> object:
        return transformers.modeling_outputs.CausalLMOutput(logits=self.scores(input_ids)[:, None])

    def search(self, prompt: Tensor, settings: BeamSettings, **more: object) -> object:
        return self.generate(prompt[None], use_cache=False, **asked(settings), **more)


def draw_case(seed: int) -> tuple[Table, Tensor, BeamSettings]:
    chance = random.Random(seed)
    eos = tuple(chance.sample(range(1, VOCABULARY), chance.choice((0, 1, 1, 2, 4))))
    beams = chance.randint(2, 5)
    settings = BeamSettings(
        num_beams=beams,
        num_return_sequences=chance.randint(1, beams),
        length_penalty=chance.choice((-2.0, -0.5, 0.0, 0.6, 1.0, 2.0)),
        early_stopping=chance.choice(EARLY),
        max_new_tokens=chance.randint(1, 12),
        eos_token_ids=eos,
        pad_token_id=chance.choice((0, 5)),
    )
    table = Table(
        seed,
        scale=chance.choice((0.3, 1.0, 3.0)),
        ends=chance.choice((-2.0, 0.0, 1.0, 3.0)),
        eos=eos,
        coarse=chance.random() < 0.3,
    )
    return table, ragged(VOCABULARY, [chance.randint(1, 4)], seed=seed, low=0)[0], settings


@pytest.mark.parametrize("seed", range(150))
def test_equal_to_the_last_bit(seed):
    table, prompt, settings = draw_case(seed)
    theirs = table.search(prompt, settings)
    same(search(table.scores, prompt, settings), theirs, len(prompt), 0, settings, tolerance=0)


@pytest.mark.parametrize("seed", range(40))
def test_drawn_beams_are_the_reference_s(seed):
    table, prompt, settings = draw_case(seed)
    settings = replace(settings, do_sample=True)
    few = 1 + max(1, len(settings.eos_token_ids))
    warpers = transformers.LogitsProcessorList(
        [
            transformers.TemperatureLogitsWarper(0.7),
            transformers.TopKLogitsWarper(3, min_tokens_to_keep=few),
            transformers.TopPLogitsWarper(0.9, min_tokens_to_keep=few),
        ]
        if seed % 2
        else []
    )
    flags = {"temperature": 0.7, "top_k": 3, "top_p": 0.9} if seed % 2 else {"top_k": 0}
    torch.manual_seed(seed)
    theirs = table.search(prompt, settings, **flags)
    torch.manual_seed(seed)
    same(search(table.scores, prompt, settings, warpers), theirs, len(prompt), 0, settings, tolerance=0)
    own = torch.Generator().manual_seed(seed)
    torch.manual_seed(99)
    drawn = search(table.scores, prompt, settings, warpers, generator=own)
    same(drawn, theirs, len(prompt), 0, settings, tolerance=0)


class Criterion(transformers.StoppingCriteria):
    """Calls a function on every candidate, prompt included."""

    def __init__(self, ends: Callable[[list[int]], bool]) -> None:
        self.ends = ends

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        return torch.tensor([self.ends(row) for row in input_ids.tolist()])


ENDS = {
    "two tokens, as a stop string": lambda row: sum(row[-2:]) % 5 == 0,
    "most tokens": lambda row: row[-1] % 7 > 0,
    "time is over": lambda row: len(row) >= 7,
    "at once": lambda row: True,
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("seed", range(10))
def test_other_ends(seed, name):
    table, prompt, settings = draw_case(seed + 500)
    criteria = transformers.StoppingCriteriaList([Criterion(ENDS[name])])
    theirs = table.search(prompt, settings, stopping_criteria=criteria)
    same(search(table.scores, prompt, settings, ends=ENDS[name]), theirs, len(prompt), 0, settings, tolerance=0)


def only(*tokens: int, at: Callable[[int], bool]) -> Rules:
    def rule(rows: Tensor, scores: Tensor) -> Tensor:
        if not at(rows.shape[1]):
            return scores
        keep = torch.tensor(tokens)
        return torch.full_like(scores, -torch.inf).index_copy(1, keep, scores[:, keep])

    return rule


RULES = {
    "one first token": only(3, at=lambda length: length == 3),
    "one last token": only(4, at=lambda length: length == 3 + 5),
    "two tokens": only(3, 4, at=lambda length: True),
    "nothing but the end at first": only(4, at=lambda length: length == 3),
    "nothing but the end later": only(4, at=lambda length: length == 5),
    "penalty": transformers.RepetitionPenaltyLogitsProcessor(1.8),
    "no repeats": transformers.NoRepeatNGramLogitsProcessor(2),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("seed", range(3))
def test_rules_that_leave_few_tokens(name, early, seed):
    table = Table(seed, scale=1.0, ends=1.0, eos=(4,), coarse=False)
    settings = BeamSettings(
        num_beams=4, num_return_sequences=4, early_stopping=early, max_new_tokens=6, eos_token_ids=(4,),
        length_penalty=float(seed),
    )  # fmt: skip
    prompt = ragged(VOCABULARY, [3], seed=seed)[0]
    theirs = table.search(prompt, settings, logits_processor=transformers.LogitsProcessorList([RULES[name]]))
    same(search(table.scores, prompt, settings, RULES[name]), theirs, 3, 0, settings, tolerance=0)


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0])
def test_an_answer_that_comes_late(early, penalty):
    """A beam that is likely all along ends at last, when poor answers have long filled the list."""
    end, on = 4, 1

    def rule(rows: Tensor, scores: Tensor) -> Tensor:
        chances = torch.full_like(scores, 1e-4)
        chances[:, end], chances[:, on] = (0.99, 1e-3) if rows.shape[1] == 5 else (0.02, 0.97)
        return chances.log()

    table = Table(0, scale=1.0, ends=0.0, eos=(end,), coarse=False)
    settings = BeamSettings(
        num_beams=2, num_return_sequences=2, length_penalty=penalty, early_stopping=early, max_new_tokens=200,
        eos_token_ids=(end,),
    )  # fmt: skip
    prompt = torch.tensor([3, 3])
    theirs = table.search(prompt, settings, logits_processor=transformers.LogitsProcessorList([rule]))
    found = search(table.scores, prompt, settings, rule)
    same(found, theirs, 2, 0, settings, tolerance=0)
    if early == "never":
        assert found[0].tokens == [on, on, on, end]


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 2.0])
def test_one_answer_where_more_are_wanted(early, penalty):
    """All beams are alike, and over at one time: one is an answer, and the others fill the list."""
    table = Table(0, scale=1.0, ends=0.0, eos=(4,), coarse=False)
    settings = BeamSettings(
        num_beams=3, num_return_sequences=3, length_penalty=penalty, early_stopping=early, max_new_tokens=9,
        eos_token_ids=(4,),
    )  # fmt: skip
    prompt, rule = torch.tensor([3, 3]), only(5, at=lambda length: True)
    criteria = transformers.StoppingCriteriaList([Criterion(ENDS["time is over"])])
    rules = transformers.LogitsProcessorList([rule])
    theirs = table.search(prompt, settings, logits_processor=rules, stopping_criteria=criteria)
    found = search(table.scores, prompt, settings, rule, ENDS["time is over"])
    same(found, theirs, 2, 0, settings, tolerance=0)
    assert found[0].tokens == [5] * 5 and found[0].stopped and found[1].score < -1e7


def test_more_ends_than_tokens():
    """The reference fails here; every continuation there is, is an answer."""
    settings = BeamSettings(num_beams=2, num_return_sequences=2, max_new_tokens=5, eos_token_ids=(0, 1))
    group = BeamSearch(settings)
    group.advance(torch.tensor([[0.3, 0.7]]).log())
    assert group.done
    assert [h.tokens for h in group.results()] == [[1], [0]]


# Families.

TEXT = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "llama": lambda: (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            **TEXT, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64,
        ),
        omniform.AutoModelForCausalLM,
    ),
    "gpt2": lambda: (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(**TEXT, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        omniform.AutoModelForCausalLM,
    ),
    "t5": lambda: (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(
            **TEXT, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
            relative_attention_num_buckets=8, relative_attention_max_distance=16,
        ),
        omniform.AutoModelForSeq2SeqLM,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def pair(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp(request.param)
    model_class, config, auto = FAMILIES[request.param]()
    theirs = saved_reference(model_class, config, folder, scale=0.3)
    return auto.from_pretrained(folder), theirs


class Likelier(transformers.LogitsProcessor):
    """Makes ends likelier, so that beams end at different lengths."""

    def __init__(self, tokens: tuple[int, ...], by: float) -> None:
        self.tokens, self.by = tokens, by

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_add(1, torch.tensor(self.tokens), torch.full((len(scores), len(self.tokens)), self.by))


def family_case(seed: int, early: bool | str, sample: bool = False) -> tuple[BeamSettings, Rules]:
    chance = random.Random(f"{seed} {early}")
    beams = chance.randint(2, 5)
    settings = BeamSettings(
        num_beams=beams,
        num_return_sequences=chance.randint(1, beams),
        length_penalty=(-1.0, 0.0, 1.0, 2.0)[seed % 4],
        early_stopping=early,
        max_new_tokens=1 + seed % 12,
        eos_token_ids=((2,), (2, 7), (5, 9, 31, 40))[seed % 3],
        do_sample=sample,
        pad_token_id=0,
    )
    return settings, Likelier(settings.eos_token_ids, chance.choice((1.0, 3.0, 5.0)))


def ours_on(model: object, row: Tensor, settings: BeamSettings, rules: Rules) -> list[Hypothesis]:
    if model.config.model_type != "t5":
        return search(lambda rows: model(input_ids=rows).logits[:, -1], row, settings, rules)

    def step(rows: Tensor) -> Tensor:
        return model(input_ids=row.expand(len(rows), -1), decoder_input_ids=rows).logits[:, -1]

    return search(step, torch.tensor([0]), settings, rules)


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("seed", range(12))
def test_families_token_for_token(pair, early, seed):
    ours, theirs = pair
    settings, rules = family_case(seed, early)
    prompts = torch.stack(ragged(97, [1 + seed % 5] * 3, seed=seed))
    expected = theirs.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        logits_processor=transformers.LogitsProcessorList([rules]),
        **asked(settings),
    )
    start = 1 if theirs.config.is_encoder_decoder else prompts.shape[1]
    for row, prompt in enumerate(prompts):
        same(ours_on(ours, prompt, settings, rules), expected, start, row, settings, tolerance=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_families_drawn(pair, seed):
    ours, theirs = pair
    settings, rules = family_case(seed + 7, EARLY[seed % 3], sample=True)
    prompt = ragged(97, [5], seed=seed)[0]
    torch.manual_seed(seed)
    expected = theirs.generate(
        prompt[None],
        attention_mask=torch.ones(1, 5, dtype=torch.long),
        logits_processor=transformers.LogitsProcessorList([rules]),
        top_k=0,
        **asked(settings),
    )
    torch.manual_seed(seed)
    start = 1 if theirs.config.is_encoder_decoder else 5
    same(ours_on(ours, prompt, settings, rules), expected, start, 0, settings, tolerance=1e-4)


# What must hold whatever the reference does.


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_answers_are_complete_and_their_scores_are_their_paths(seed, sample):
    table, prompt, settings = draw_case(seed + 1000)
    settings = replace(settings, do_sample=sample)
    torch.manual_seed(seed)
    group, rows, steps = BeamSearch(settings), prompt[None], []
    while not group.done:
        scores = table.scores(rows).log_softmax(-1)
        fork = group.advance(scores)
        assert len(fork.parents) == len(fork.tokens) == settings.num_beams
        assert all(0 <= parent < len(rows) for parent in fork.parents)
        assert all(0 <= token < VOCABULARY for token in fork.tokens)
        assert group.done or not set(fork.tokens) & set(settings.eos_token_ids)
        rows = torch.cat([rows[fork.parents], torch.tensor(fork.tokens)[:, None]], dim=1)
        steps.append(scores.expand(settings.num_beams, -1))
    found = group.results()
    assert 1 <= len(steps) <= settings.max_new_tokens
    assert len(found) == settings.num_return_sequences
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert len({tuple(h.tokens) for h in found}) == len(found)
    for answer in found:
        path = zip(steps, answer.beams, answer.tokens, strict=False)
        total = sum(scores[beam, token].item() for scores, beam, token in path)
        assert answer.score == pytest.approx(total / len(answer.tokens) ** settings.length_penalty, rel=1e-4)
        assert answer.stopped == (answer.tokens[-1] in settings.eos_token_ids)
        assert answer.stopped or len(answer.tokens) == settings.max_new_tokens
        assert not set(answer.tokens[:-1]) & set(settings.eos_token_ids)


def test_with_beams_enough_the_best_of_all_answers_is_found():
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(3, 3, generator=generator).log_softmax(-1) for _ in range(3)]
    settings = BeamSettings(
        num_beams=18, num_return_sequences=4, length_penalty=0.0, early_stopping="never", max_new_tokens=3,
        eos_token_ids=(2,),
    )  # fmt: skip
    every: dict[tuple[int, ...], float] = {}
    for tokens in itertools.product(range(3), repeat=3):
        cut = tokens[: tokens.index(2) + 1] if 2 in tokens else tokens
        every[cut] = sum(float(tables[i][a, b]) for i, (a, b) in enumerate(zip((0, *cut), cut, strict=False)))
    best = sorted(every.items(), key=lambda item: -item[1])[:4]
    found = search(lambda rows: tables[rows.shape[1] - 1][rows[:, -1]], torch.tensor([0]), settings)
    assert [tuple(h.tokens) for h in found] == [tokens for tokens, _ in best]
    assert [h.score for h in found] == pytest.approx([score for _, score in best], rel=1e-5)


def test_a_step_by_hand():
    settings = BeamSettings(num_beams=2, num_return_sequences=2, max_new_tokens=2, eos_token_ids=(0,))
    group = BeamSearch(settings)
    fork = group.advance(torch.tensor([[0.2, 0.5, 0.3]]).log())
    assert fork == Fork([0, 0], [1, 2])
    # The likeliest pairs: 1 then 2 (0.30), 2 then 0 (0.27); the length runs out for the former.
    group.advance(torch.tensor([[0.1, 0.3, 0.6], [0.9, 0.05, 0.05]]).log())
    assert group.done
    first, second = group.results()
    assert (first.tokens, first.beams, first.stopped) == ([1, 2], [0, 0], False)
    assert (second.tokens, second.beams, second.stopped) == ([2, 0], [0, 1], True)
    assert first.score == pytest.approx(torch.tensor(0.30).log().item() / 2)


def test_asked_of_each_candidate_is_its_row_and_token():
    group = BeamSearch(BeamSettings(num_beams=2, max_new_tokens=9))
    pairs: list[tuple[int, int]] = []

    def ends(parent: int, token: int) -> bool:
        pairs.append((parent, token))
        return False

    group.advance(torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log(), ends)
    assert pairs == [(0, 3), (0, 2), (0, 1), (0, 0)]
    pairs.clear()
    group.advance(torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.9, 0.1, 0.0, 0.0]]).log(), ends)
    assert pairs == [(1, 0), (0, 3), (0, 2), (0, 1)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", -1), ("num_beams", 0), ("num_return_sequences", 0), ("num_return_sequences", 4),
        ("max_new_tokens", 0), ("length_penalty", float("nan")), ("length_penalty", float("inf")),
        ("length_penalty", 1e9), ("length_penalty", -1e9), ("early_stopping", "always"), ("early_stopping", 2),
    ],
)  # fmt: skip
def test_values_that_cannot_be(name, value):
    with pytest.raises(InputError, match=name):
        BeamSettings(**{"num_beams": 3, "max_new_tokens": 10, name: value})
