"""An engine says what computes its steps, and why."""

from __future__ import annotations

import omniform
from omniform.native.library import library


def engine():
    config = omniform.AutoConfig.for_model(
        "llama", vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    return omniform.Engine(omniform.AutoModelForCausalLM.from_config(config).eval(), memory="1MB")


def test_what_computes_is_told():
    ours = engine()
    ours.generate([3, 4, 5], max_new_tokens=2)
    lines = repr(ours).splitlines()
    assert lines[0].startswith("Engine of LlamaForCausalLM")
    assert any(line.startswith("room: ") for line in lines)
    if library() is not None:
        assert f"native kernels: {library().variant}" in lines and "model.layers: one native program" in lines


def test_why_torch_computes_is_told():
    ours = engine()
    ours.model.model.layers[0].self_attn.register_forward_hook(lambda *_: None)
    ours.generate([3, 4, 5], max_new_tokens=2)
    if library() is not None:
        assert "model.layers: native programs (layer 0 by torch: Attention: somebody hooked into it)" in repr(ours)


def test_that_there_are_no_kernels_is_told(monkeypatch):
    monkeypatch.setenv("OMNIFORM_NATIVE", "0")
    assert "native kernels: OMNIFORM_NATIVE=0" in repr(engine())
