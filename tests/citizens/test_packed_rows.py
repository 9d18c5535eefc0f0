"""Rows that hold several texts end to end: each is computed as if it were alone, however the caller says so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import omniform
from citizens import GROUPED, Text, registered, shared
from omniform.architectures.decoder import TextDecoder
from omniform.architectures.fusion import Multimodal
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.core.rules import Causal, Chunk
from reference import close, randomise, transformers

UNTOLD = {"qwen2_5_omni_thinker"}
"""Models that do not yet take positions which begin anew for the beginnings of texts; bounds and numbers they do."""
LENGTHS = (3, 9, 1, 5)  # one longer than every window


def packing() -> list[str]:
    """Models of text with a loss of words or none, that read rows of several texts."""
    asks = {n: c for n, c in registered().items() if type(c.asks) is Text and c.asks.labels != "rows"}
    return [name for name in asks if "cu_seq_lens_q" in shared(name).accepts() and "choices" not in name]


def texts(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    """Tokens of each text."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(5, 60, (1, n), generator=generator) for n in lengths]


def stack_of(model: nn.Module) -> nn.Module:
    """What reads the text."""
    return model.base_model.language_model if isinstance(model.base_model, Multimodal) else model.base_model


def counted(model: nn.Module, ids: Tensor) -> Tensor:
    """The positions that a model gives a text that is alone."""
    own = stack_of(model).embeddings.count(ids, ids, 0)
    return torch.arange(ids.shape[1])[None] if own is None else own


def told(model: nn.Module, alone: list[Tensor], how: str) -> dict[str, Tensor]:
    """The texts end to end, and how the caller says where they begin."""
    lengths = torch.tensor([0, *(ids.shape[1] for ids in alone)])
    bounds = lengths.cumsum(0).int()
    ways = {
        "positions": {"position_ids": torch.cat([counted(model, ids) for ids in alone], dim=1)},
        "bounds": {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 9, "max_length_k": 9},
        "numbers": {"seq_idx": torch.arange(len(alone)).repeat_interleave(lengths[1:])[None].int()},
    }
    return {"input_ids": torch.cat(alone, dim=1), **ways[how]}


def hidden(out: object) -> Tensor:
    return out["logits"] if "logits" in out else out["last_hidden_state"]


def random(name: str, training: bool = False) -> nn.Module:
    return randomise(copy.deepcopy(shared(name)), scale=0.3).train(training)


@pytest.mark.parametrize("name", packing())
def test_texts_in_one_row_do_not_see_one_another(name):
    model, alone = random(name), texts()
    with torch.no_grad():
        expected = torch.cat([hidden(model(input_ids=ids)) for ids in alone], dim=1)
        for how in ("positions", "bounds", "numbers"):
            inputs = told(model, alone, how)
            if how == "positions" and (name in UNTOLD or "position_ids" not in model.accepts()):
                continue
            close(hidden(model(**inputs)), expected, how, 2e-5)
            if "use_cache" in model.accepts():
                close(hidden(model(**inputs, use_cache=False)), expected, f"{how}, no cache", 2e-5)
            model.set_attn_implementation("eager")
            close(hidden(model(**inputs)), expected, f"{how}, eager", 2e-5)
            model.set_attn_implementation("sdpa")
        seen = torch.cat(alone, dim=1)
        assert (hidden(model(input_ids=seen)) - expected).abs().max() > 1e-3, "it would not be seen otherwise"


@pytest.mark.parametrize("name", packing())
def test_what_no_host_may_look_at_is_told_apart_all_the_same(name, monkeypatch):
    model, alone = random(name), texts()
    for place in ("omniform.architectures.packing.is_readable",):
        monkeypatch.setattr(place, lambda x: False)
    with torch.no_grad():
        expected = torch.cat([hidden(model(input_ids=ids)) for ids in alone], dim=1)
        for how in ("positions", "bounds"):
            if how == "bounds" or ("position_ids" in model.accepts() and name not in UNTOLD):
                close(hidden(model(**told(model, alone, how))), expected, how, 2e-5)


UNSHIFTED = {"bart, decoder", "marian, decoder", "trocr"}
"""Decoders whose labels stand beside what they are scored at, as the reference's do."""


def taught() -> list[str]:
    heads = {n: shared(n) for n in packing() if "labels" in shared(n).accepts() and "two heads" not in n}
    return list(heads)


@pytest.mark.parametrize("name", taught())
def test_gradients_are_those_of_the_texts_alone(name):
    model, alone = random(name, training=True), texts((3, 9, 5))
    for module in model.modules():
        vars(module).update(dict.fromkeys(vars(module).keys() & {"dropout", "p"}, 0.0))
    shifts = isinstance(stack_of(model), TextDecoder) and name not in UNSHIFTED
    inputs = told(model, alone, "bounds")
    labels = inputs["input_ids"].clone()
    if shifts:  # the first token of a text follows nothing
        labels[:, inputs["cu_seq_lens_q"][:-1].long()] = -100
    scored = int((labels != -100).sum())
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = torch.zeros(())
    for ids in alone:
        total = total + model(input_ids=ids, labels=ids).loss * (ids.shape[1] - shifts) / scored
    total.backward()
    close(loss.detach(), total.detach(), "loss", 2e-5)
    assert packed.keys() == {n for n, p in model.named_parameters() if p.grad is not None}
    for n, p in model.named_parameters():
        if p.grad is not None:
            close(packed[n], p.grad, n, 5e-5)


@pytest.mark.parametrize("lengths", [(3, 4, 2), (1, 1, 7)])
def test_several_rows_of_several_texts(lengths):
    model = random("llama")
    one, two = texts(lengths), texts(lengths[::-1])
    ids = torch.cat([torch.cat(one, 1), torch.cat(two, 1)])
    places = torch.cat([torch.cat([torch.arange(n) for n in each])[None] for each in (lengths, lengths[::-1])])
    with torch.no_grad():
        expected = torch.cat([torch.cat([model(input_ids=x).logits for x in row], 1) for row in (one, two)])
        close(model(ids, position_ids=places).logits, expected, "positions", 2e-5)
        flat = torch.tensor([0, *lengths, *lengths[::-1]]).cumsum(0)
        close(model(ids, cu_seq_lens_q=flat).logits, expected, "bounds", 2e-5)
        mask = torch.ones_like(ids)
        mask[:, -1] = 0
        seen = model(ids, cu_seq_lens_q=flat, attention_mask=mask).logits
        close(seen[:, :-1], expected[:, :-1], "bounds and a mask", 2e-5)


REFERENCES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**GROUPED, "sliding_window": 3}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", GROUPED),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**GROUPED, "head_dim": 8, "sliding_window": 3}),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_reference_tells_them_apart_by_the_same_positions(name, tmp_path):
    config, kind, tiny = REFERENCES[name]
    torch.manual_seed(0)
    theirs = randomise(getattr(transformers, kind)(getattr(transformers, config)(**tiny)).eval(), scale=0.3)
    theirs.save_pretrained(tmp_path)
    ours = getattr(omniform, kind).from_pretrained(tmp_path).eval()
    ids = torch.cat(texts(), dim=1)
    cases = {
        "anew": torch.cat([torch.arange(n) for n in LENGTHS]),
        "padding in front": torch.tensor([0] * 5 + list(range(13))),
        "any steps": torch.tensor([0, 1, 5, 6, 2, 3, 4, *range(11)]),
        "counting on": torch.arange(18) + 4,
    }
    with torch.no_grad():
        for what, places in cases.items():
            inputs = {"input_ids": ids, "position_ids": places[None], "labels": ids, "use_cache": False}
            found, expected = ours(**inputs), theirs(**inputs)
            close(found.logits, expected.logits, what, 2e-5)
            close(found.loss, expected.loss, f"{what}, loss", 2e-5)
        seen = {"input_ids": ids, "position_ids": cases["anew"][None], "attention_mask": torch.ones_like(ids)}
        close(ours(**seen).logits, theirs(**seen).logits, "a mask says that a row is one text", 2e-5)


def test_rules_that_count_from_the_beginning_of_a_row_count_from_that_of_a_text():
    from omniform.core.context import StepContext
    from omniform.core.texts import by_bounds

    numbers = by_bounds(torch.tensor([0, 3, 8]), 1, 8)
    ctx = StepContext(positions=torch.arange(8)[None], texts=numbers)
    allowed = ctx.mask(Causal() & Chunk(2), 8, torch.device("cpu")).allowed
    assert allowed is not None
    for start, stop in ((0, 3), (3, 8)):
        alone = StepContext(positions=torch.arange(stop - start)[None])
        own = alone.mask(Causal() & Chunk(2), stop - start, torch.device("cpu")).allowed
        assert torch.equal(allowed[0, 0, start:stop, start:stop], own[0, 0])
    assert allowed.sum() == sum(
        StepContext(positions=torch.arange(n)[None]).mask(Causal() & Chunk(2), n, torch.device("cpu")).allowed.sum()
        for n in (3, 5)
    )


WRONG = {
    "no end": {"cu_seq_lens_q": torch.tensor([0, 3, 7])},
    "no beginning": {"cu_seq_lens_q": torch.tensor([1, 3, 18])},
    "backwards": {"cu_seq_lens_q": torch.tensor([0, 9, 3, 18])},
    "two that differ": {"cu_seq_lens_q": torch.tensor([0, 3, 18]), "cu_seq_lens_k": torch.tensor([0, 4, 18])},
    "numbers that do not fit": {"seq_idx": torch.zeros(1, 4, dtype=torch.int32)},
    "no tensor": {"seq_idx": [0, 0]},
}


@pytest.mark.parametrize("what", WRONG)
def test_bounds_that_cannot_be_are_refused(what):
    with pytest.raises(InputError) as error:
        shared("llama")(torch.cat(texts(), 1), **WRONG[what])
    assert next(reversed(WRONG[what])) in str(error.value)


def test_a_state_is_not_gone_on_from_with_packed_texts():
    model, ids = shared("llama"), torch.cat(texts(), 1)
    past = model(ids).past_key_values
    with pytest.raises(InputError, match="cu_seq_lens_q"):
        model(ids, past_key_values=past, cu_seq_lens_q=torch.tensor([0, 3, 18]))


def test_encoder_decoders_say_that_a_row_is_one_text():
    ids, bounds = torch.cat(texts(), 1), torch.tensor([0, 3, 18])
    for name in ("t5", "bart", "marian"):
        with pytest.raises(UnknownArgumentError, match="cu_seq_lens_q"):
            shared(name)(input_ids=ids, decoder_input_ids=ids, cu_seq_lens_q=bounds)
    places = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    with pytest.raises(InputError, match="decoder_position_ids"):
        shared("bart")(input_ids=ids, decoder_input_ids=ids, decoder_position_ids=places)
