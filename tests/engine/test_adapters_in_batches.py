"""Rows with different adapters, and none, in the same steps: each writes what it writes alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "citizens"))
from test_adapters import pair, trained

from citizens import CITIZENS
from omniform.core.errors import InputError
from omniform.engine.calls import read_call
from omniform.engine.engine import Engine
from reference import omniform, transformers

# isort: split
import peft  # after the reference, whose torchvision is made importable there

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = {
    "a": {"target_modules": ["q_proj", "v_proj"]},
    "b": {"target_modules": ["q_proj", "down_proj", "lm_head"], "rank_pattern": {"q_proj": 3}},
    "c": {"target_modules": ["gate_proj"], "use_dora": True},
    "d": {"target_modules": ["embed_tokens", "o_proj"]},
}
PROMPTS = [[5, 6, 7, 8], [5, 6, 7, 9, 10, 11, 12], [20, 21], [5, 6, 7, 8, 30]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("adapters")
    for number, (name, config) in enumerate(CONFIGS.items()):
        theirs, _ = pair("llama", home / "base")
        torch.manual_seed(number)
        trained(theirs, **config).save_pretrained(home / name)
    return home


def model_with(folder, *names):
    model = omniform.LlamaForCausalLM.from_pretrained(folder / "base")
    engine = Engine(model, memory="4MB", block_size=2)
    for name in names:
        engine.load_adapter(folder / name, name)
    return model, engine


def alone(folder, name, prompt, **settings):
    """What PEFT over the reference's model writes."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder / "base").eval()
    if name is not None:
        model = peft.PeftModel.from_pretrained(model, folder / name).eval()
    ids = torch.tensor([prompt])
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    return written[0, len(prompt) :].tolist()


def cut(tokens, written):
    return tokens[: len(written)] == written


def test_rows_write_what_they_write_alone(folder):
    _, engine = model_with(folder, *CONFIGS)
    names = [*CONFIGS, None]
    asked = [(prompt, name) for prompt in PROMPTS for name in names]
    settings = [{"adapter": name} if name else {"adapter": "__base__"} for _, name in asked]
    found = engine.generate_batch([p for p, _ in asked], settings, max_new_tokens=6, do_sample=False)
    for (prompt, name), completion in zip(asked, found, strict=True):
        assert cut(alone(folder, name, prompt), completion.tokens), (prompt, name)
    # Beginnings are shared among rows of one adapter only.
    again = engine.generate_batch([p for p, _ in asked], settings, max_new_tokens=6, do_sample=False)
    assert [c.tokens for c in again] == [c.tokens for c in found]
    assert again[1].cached_tokens and len({tuple(c.tokens) for c in found[:5]}) > 2


def test_generate_takes_a_name_for_each_row(folder):
    model, _ = model_with(folder, "a", "b")
    ids = torch.tensor([PROMPTS[0]] * 3)
    settings = {"max_new_tokens": 6, "do_sample": False}
    written = model.generate(input_ids=ids, adapter_names=["a", "__base__", "b"], **settings)
    for row, name in zip(written, ("a", None, "b"), strict=True):
        assert cut(alone(folder, name, PROMPTS[0]), [t for t in row[4:].tolist() if t != 0])
    beams = model.generate(input_ids=ids[:1], adapter="b", num_beams=3, **settings)
    model.set_adapter("b")
    assert torch.equal(beams, model.generate(input_ids=ids[:1], num_beams=3, **settings))
    with pytest.raises(InputError, match="one adapter per row"):
        model.generate(input_ids=ids, adapter_names=["a"], **settings)


def test_adapters_come_and_go_while_an_engine_lives(folder):
    model, engine = model_with(folder, "a")
    ask = {"max_new_tokens": 6, "do_sample": False}
    plain = engine.generate(PROMPTS[1], **ask).tokens
    assert cut(alone(folder, None, PROMPTS[1]), plain)
    with pytest.raises(InputError, match="no such adapter"):
        engine.generate(PROMPTS[1], adapter="ab", **ask)
    engine.load_adapter(folder / "b", "b")
    assert cut(alone(folder, "b", PROMPTS[1]), engine.generate(PROMPTS[1], adapter="b", **ask).tokens)
    model.set_adapter("b")  # what rows that name none compute with
    assert cut(alone(folder, "b", PROMPTS[1]), engine.generate(PROMPTS[1], **ask).tokens)
    model.set_adapter([])
    assert engine.generate(PROMPTS[1], **ask).tokens == plain
    call = read_call(model, None, PROMPTS[1], {"adapter": "b", **ask})
    request = engine.enqueue(call.prompt, call.settings, Nobody(), parts=call.parts)
    with pytest.raises(InputError, match="requests compute with"):
        engine.unload_adapter("b")
    engine.cancel([request])
    while engine.step():
        pass
    engine.unload_adapter("b")
    with pytest.raises(InputError, match="no such adapter"):
        engine.generate(PROMPTS[1], adapter="b", **ask)
    assert engine.generate(PROMPTS[1], **ask).tokens == plain


class Nobody:
    def piece(self, *args): ...

    def end(self, *args): ...


def test_encoders_are_of_the_adapter_too(folder, tmp_path):
    for number, name in enumerate(("x", "y")):
        theirs, _ = pair("t5", tmp_path / "base")
        torch.manual_seed(number)
        trained(theirs, target_modules=["q", "wo"]).save_pretrained(tmp_path / name)
    model = omniform.T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    engine = Engine(model, memory="4MB")
    engine.load_adapter(tmp_path / "x", "x")
    engine.load_adapter(tmp_path / "y", "y")
    ids = CITIZENS["t5"].asks.inputs()["input_ids"][:1]
    ask = {"max_new_tokens": 5, "do_sample": False}
    settings = [{"adapter": name} for name in ("x", "y", "__base__")]
    found = [c.tokens for c in engine.generate_batch([{"input_ids": ids}] * 3, settings, **ask)]
    for tokens, name in zip(found, ("x", "y", []), strict=True):
        model.set_adapter(name)
        assert model.generate(input_ids=ids, **ask)[0, 1 : 1 + len(tokens)].tolist() == tokens
