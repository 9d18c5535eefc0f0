"""What work comes to, beside what torch counts of the same models elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from omniform.bench.backends.costs import Cost, Seen, cost_of, seen_by
from reference import transformers

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
OWN = {"attn_implementation": "eager"}


def counted(model: torch.nn.Module, **inputs: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(**inputs)
    return counter.get_total_flops()


def llama() -> torch.nn.Module:
    config = transformers.LlamaConfig(vocab_size=96, num_key_value_heads=2, **SIZES, **OWN)
    return transformers.LlamaForCausalLM(config)


def gpt2() -> torch.nn.Module:
    config = transformers.GPT2Config(vocab_size=96, n_embd=64, n_layer=3, n_head=4, n_positions=32, **OWN)
    return transformers.GPT2LMHeadModel(config)


def bert() -> torch.nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=96, **SIZES, **OWN))


@pytest.mark.parametrize(("made", "causal"), [(llama, True), (gpt2, True), (bert, False)])
def test_a_forward_comes_to_what_torch_counts(made, causal: bool):
    model, length = made(), 11
    cost = cost_of(model, torch, causal=causal)
    # Torch counts the scores of tokens that are yet to come, too, which are computed in vain.
    vain = sum(one.pair for one in cost.seen) * (length * (length - 1) / 2) if causal else 0
    found = counted(model, input_ids=torch.randint(5, 90, (2, length)))
    assert found == 2 * (cost.pass_over(length) + vain) and cost.attended(0, length) > 0


def test_of_pictures_the_stem_alone_is_counted_for_a_token_too_many():
    config = transformers.ViTConfig(image_size=32, patch_size=8, **SIZES, **OWN)
    model = transformers.ViTModel(config, add_pooling_layer=False)
    found = counted(model, pixel_values=torch.randn(2, 3, 32, 32))
    assert found == 2 * (cost_of(model, torch, causal=False).pass_over(17) - 2 * 3 * 8 * 8 * 64)


def test_an_answer_comes_to_its_prompt_and_its_steps():
    cost = Cost(flop=100.0, read=1000.0, vocabulary=96, head=40.0, seen=(Seen(2.0, 10.0), Seen(1.0, 5.0, window=3)))
    prompt, answer = cost.prefilled(4), cost.answered(4, 3)
    assert prompt == (60 * 4 + 40 + 2 * (1 + 2 + 3 + 4) + (1 + 2 + 3 + 3), 15 * 4)
    assert answer == (2 * 100 + 2 * (5 + 6) + 3 + 3, 10 * (6 + 7) + 5 * (4 + 4))
    # Token by token, or at once: the same scores.
    assert cost.attended(0, 6) == cost.attended(0, 4) + cost.attended(4, 2)


def test_windows_are_those_of_the_config():
    common = {"num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 8}
    kinds = ["sliding_attention", "full_attention", "linear_attention", "sliding_attention"]
    mixed = SimpleNamespace(**common, sliding_window=16, layer_types=kinds, head_dim=8, num_key_value_heads=1)
    assert seen_by(mixed, 2) == (Seen(4 * 2 * 8, 2 * 8 * 2), Seen(2 * 4 * 2 * 8, 2 * 2 * 8 * 2, 16))
    assert seen_by(SimpleNamespace(**common, sliding_window=16), 4) == (Seen(4 * 4 * 8, 4 * 2 * 8 * 4, 16),)
    off = SimpleNamespace(**common, sliding_window=16, use_sliding_window=False)
    assert seen_by(off, 4) == (Seen(4 * 4 * 8, 4 * 2 * 8 * 4),)
    assert seen_by(SimpleNamespace(**common, kv_lora_rank=4), 2) == seen_by(SimpleNamespace(), 2) == ()
