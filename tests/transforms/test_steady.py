"""Steps that are told by moving the last one on: the same numbers as when each is told anew, to the bit."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from omniform import AutoConfig, AutoModelForCausalLM, Engine
from omniform.native.library import library
from omniform.transforms import steady
from omniform.transforms.steady import AHEAD, Steady

pytestmark = pytest.mark.skipif(library() is None, reason="there are no native kernels")

SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WINDOWS = {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
TINY = {name: SMALL[name] for name in ("vocab_size", "eos_token_id", "bos_token_id", "pad_token_id")}
GPT = {**TINY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
MAMBA = {**TINY, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16, "state_size": 16}
MODELS = {
    "llama": ("llama", SMALL),
    "llama 3's frequencies": ("llama", {**SMALL, "rope_parameters": LLAMA3}),
    "frequencies by length": ("llama", {**SMALL, "rope_parameters": DYNAMIC, "max_position_embeddings": 24}),
    "windows": ("gemma2", {**SMALL, **WINDOWS, "head_dim": 16}),
    "neighbours": ("gptj", {**GPT, "rotary_dim": 8}),
    "biases by place": ("bloom", {**TINY, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "learned places": ("gpt2", GPT),
    "states of rows": ("mamba2", {**MAMBA, "n_groups": 2, "expand": 2}),
}
MOVING = {"llama", "llama 3's frequencies", "windows", "neighbours", "learned places"}


def model_of(name):
    family, settings = MODELS[name]
    torch.manual_seed(3)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), dtype="bfloat16").eval()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (1.0 if p.dim() == 1 else 0.0))
    return made


def written(model, *, blocks=4):
    """Rows that come, end and are forked at different times; longer than the tables that are made at once."""
    engine = Engine(model, block_size=blocks)
    prompts = [[(7 * i + j) % 60 + 1 for j in range(3 + 5 * i)] for i in range(5)]
    counts = [AHEAD + 50, 9, 40, 2 * AHEAD + 3, 25]
    own = [{"max_new_tokens": n, "logprobs": 2} for n in counts]
    own[2] |= {"do_sample": True, "seed": 5}
    own[4] = {"max_new_tokens": counts[4], "num_beams": 3}
    answers = engine.generate_batch(prompts, own)
    return [(answer.tokens, answer.logprobs) for answer in answers]


@pytest.mark.parametrize("name", MODELS)
def test_moving_on_changes_no_bit(name, monkeypatch):
    model = model_of(name)
    moved = []
    real = Steady.moved
    monkeypatch.setattr(Steady, "moved", lambda self, ctx: moved.append(real(self, ctx)) or moved[-1])
    found = written(model)
    assert (sum(moved) > 50) == (name in MOVING), f"{sum(moved)} of {len(moved)}"
    monkeypatch.setattr(Steady, "moved", lambda self, ctx: False)
    monkeypatch.setattr(steady, "AHEAD", 1)
    assert written(model) == found


def test_rows_alone_and_together_and_another_engine_between():
    model = model_of("windows")
    engines = [Engine(model, block_size=4) for _ in range(2)]
    prompts = [[5, 6, 7], [9] * 11]
    alone = [engines[0].generate(p, max_new_tokens=70).tokens for p in prompts]
    handles = [engine.submit(p, max_new_tokens=70) for p in prompts for engine in engines]
    try:
        assert [handle.result().tokens for handle in handles] == [alone[0], alone[0], alone[1], alone[1]]
    finally:
        for engine in engines:
            engine.close()


def test_an_engine_s_state_goes_with_it():
    model = model_of("llama")
    engine = Engine(model)
    engine.generate([3, 1, 4], max_new_tokens=20)
    state = weakref.ref(engine._state)
    engine.close()
    del engine
    gc.collect()
    assert state() is None


class HooksAfterFive:
    """A streamer that hooks into a layer when five tokens are written."""

    def __init__(self, layer):
        self.layer, self.written, self.calls = layer, 0, 0

    def put(self, tokens):
        self.written += 1
        if self.written == 5:
            self.layer.register_forward_hook(self.watch)

    def end(self):
        pass

    def watch(self, module, args, output):
        self.calls += 1


def test_what_happens_to_a_layer_in_the_midst_of_an_answer_is_seen_soon():
    model = model_of("llama")
    streamer = HooksAfterFive(model.decoder.layers[0])
    model.generate(torch.tensor([[3, 1, 4]]), max_new_tokens=100, streamer=streamer)
    assert 75 <= streamer.calls <= 96
