"""Programs run by the library: a token's numbers are the same alone, in any batch, and however its row is cut."""

from __future__ import annotations

import copy
import pickle
import random
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

from engines import MAKERS, TEXT, VOCABULARY, roomy
from omniform.engine.runner import Runner
from omniform.native.library import library
from omniform.transforms.lower import LoweredLayers, lower, lowered_reason
from reference import omniform, saved_reference, transformers

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here")

GEMMA2 = {**TEXT, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "num_hidden_layers": 2}
MOE = {
    **TEXT, "head_dim": 8, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "mlp_only_layers": [],
}  # fmt: skip

SPACES = {
    **TEXT, "mamba_n_heads": 4, "mamba_d_head": 24, "mamba_expand": 3, "mamba_n_groups": 2, "mamba_d_state": 10,
    "mamba_d_conv": 4, "attn_layer_indices": [1],
}  # fmt: skip
DELTA = {
    **MOE, "linear_key_head_dim": 12, "linear_value_head_dim": 20, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "shared_expert_intermediate_size": 20, "layer_types": None,
}  # fmt: skip
CHANNELS = {
    "vocab_size": TEXT["vocab_size"], "hidden_size": 24, "num_hidden_layers": 2, "state_size": 6, "expand": 2,
    "conv_kernel": 3, "time_step_rank": 4,
}  # fmt: skip

LATENT = {
    **TEXT, "q_lora_rank": 20, "kv_lora_rank": 18, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10, "v_head_dim": 9,
    "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip


def plain(name: str, config: dict[str, object]) -> tuple[type, object, type]:
    """A decoder of the reference's."""
    made_by = getattr(transformers, f"{name}ForCausalLM"), getattr(transformers, f"{name}Config")
    return made_by[0], made_by[1](**config), omniform.AutoModelForCausalLM


MADE = {
    "llama": MAKERS["llama"],
    "gpt2": MAKERS["gpt2"],
    "t5": MAKERS["t5"],
    "gemma2": lambda: plain("Gemma2", GEMMA2),
    "qwen3_moe": lambda: plain("Qwen3Moe", MOE),
    "bamba": lambda: plain("Bamba", SPACES),
    "qwen3_next": lambda: plain("Qwen3Next", {**DELTA, "num_hidden_layers": 4}),
    "mamba": lambda: plain("Mamba", CHANNELS),
    "deepseek_v3": lambda: plain("DeepseekV3", LATENT),
}  # fmt: skip


@cache
def made(name: str, dtype: torch.dtype) -> omniform.Model:
    """A tiny model whose weights are views of a mapped file."""
    model_class, config, auto = MADE[name]()
    with tempfile.TemporaryDirectory() as folder:
        theirs = saved_reference(model_class, config, Path(folder), scale=0.4)
        theirs.to(dtype).save_pretrained(folder)
        return auto.from_pretrained(folder, dtype=dtype)


def stacks_of(model: omniform.Model) -> list[torch.nn.ModuleList]:
    return [m for m in model.modules() if isinstance(m, LoweredLayers)]


@pytest.fixture
def hidden(monkeypatch):
    """What the steps of an engine gave for every token that was wanted, by all tokens up to it."""
    seen: dict[tuple[object, ...], set[bytes]] = {}
    run = Runner.run

    def watched(self, plan, **options):
        made = run(self, plan, **options)
        for output in made[0]:
            row, item = output.chunk.row, repr(output.chunk.request.memory)
            for place, vector in enumerate(output.hidden, output.first):
                key = item, *row.tokens[: place + 1]
                seen.setdefault(key, set()).add(vector.float().numpy().tobytes())
        return made

    monkeypatch.setattr(Runner, "run", watched)
    return seen


def requests(count: int, seed: int) -> list[list[int]]:
    """Rows that often begin alike."""
    luck = random.Random(seed)
    beginnings = [[luck.randrange(3, VOCABULARY - 1) for _ in range(luck.choice((5, 20, 33)))] for _ in range(4)]
    rows = [luck.choice(beginnings)[: luck.randrange(1, 34)] for _ in range(count)]
    return [row + [luck.randrange(3, VOCABULARY - 1) for _ in range(luck.randrange(0, 9))] for row in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MADE)
def test_a_token_is_the_same_in_every_batch(name, dtype, hidden):
    model, rows, luck = made(name, dtype), requests(40, seed=1), random.Random(2)
    prompts = rows
    if name == "t5":
        ids = torch.tensor([[7, 9, 11, 30]])
        prompts = [{"input_ids": ids, "decoder_input_ids": torch.tensor([[0, *row]])} for row in rows]
    alone = roomy(model, prefix_cache=False)
    for prompt in luck.sample(prompts, 6):
        alone.generate_batch([prompt], [{"max_new_tokens": 4}])
    for size, block in ((7, 4), (33, 8), (512, 8)):
        engine = roomy(model, max_tokens_per_step=size, block_size=block)
        engine.generate_batch(prompts, [{"max_new_tokens": luck.randrange(1, 6)} for _ in prompts])
    assert len(hidden) > 60 and all(len(found) == 1 for found in hidden.values())
    assert stacks_of(model) and not any(map(lowered_reason, stacks_of(model)))


def test_copies_pickles_and_names_are_those_of_plain_lists():
    model = made("llama", torch.float32)
    names = [name for name, _ in model.named_modules()]
    roomy(model).generate_batch([[5, 6, 7]], [{"max_new_tokens": 3}])
    assert stacks_of(model) and [name for name, _ in model.named_modules()] == names
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = model(ids).logits
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(ids).logits, expected)
            assert list(other.state_dict()) == list(model.state_dict())


def lowered_llama() -> omniform.Model:
    model = copy.deepcopy(made("llama", torch.float32))
    lower(model)
    return model


IDS = torch.tensor([[5, 6, 7, 8, 9]])


def reason(model: omniform.Model) -> str:
    return lowered_reason(stacks_of(model)[0])


@torch.no_grad()
def test_a_write_to_a_weight_is_seen():
    model = lowered_llama()
    before = model(IDS).logits
    assert not reason(model)
    for change in (lambda w: w.mul_(1.5), lambda w: w.data.mul_(1.5), lambda w: w.numpy().__imul__(1.5)):
        for weight in (model.model.layers[0].mlp.up_proj.weight, model.model.layers[1].input_layernorm.weight):
            change(weight.detach())
            after = model(IDS).logits
            assert not torch.allclose(after, before, atol=1e-3) and not reason(model)
            plain = copy.deepcopy(model)
            for stack in stacks_of(plain):
                stack.__class__ = torch.nn.ModuleList
            assert torch.allclose(plain(IDS).logits, after, atol=1e-4)
            before = after


@torch.no_grad()
def test_weights_that_move_are_seen():
    model = lowered_llama()
    before = model(IDS).logits
    model.to(torch.bfloat16)
    after = model(IDS).logits
    assert after.dtype is torch.bfloat16 and torch.allclose(after.float(), before, atol=0.3)
    model.to(torch.float32)
    model.load_state_dict({name: x * 1.1 for name, x in model.state_dict().items()}, assign=True)
    assert not torch.allclose(model(IDS).logits, before, atol=1e-2) and not reason(model)


@torch.no_grad()
def test_hooks_and_other_modules_are_called():
    model = lowered_llama()
    model(IDS)
    calls = []
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    model(IDS)
    assert calls == [1] and "hook" in reason(model)
    handle.remove()
    model(IDS)
    assert calls == [1] and not reason(model)

    class Other(torch.nn.Module):
        def forward(self, x):
            calls.append(2)
            return x * 0

    model.model.layers[0].mlp = Other()
    model(IDS)
    assert calls == [1, 2] and "Other" in reason(model)


def test_gradients_are_torchs():
    model = lowered_llama()
    out = model(IDS, labels=IDS)
    out.loss.backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


@torch.no_grad()
def test_who_asks_for_what_lies_between_gets_it():
    model = lowered_llama()
    plain = model(IDS)
    told = model(IDS, output_hidden_states=True)
    assert len(told.hidden_states) == 3
    assert torch.allclose(told.logits, plain.logits, atol=1e-4)
