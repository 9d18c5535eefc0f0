"""Experts multiply by packed matrices: as loaded, or as whole numbers; in programs and one by one alike."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

import omniform
from omniform.blocks.moe import Stacked
from omniform.hub.plan import plan
from omniform.native.library import library
from omniform.transforms import stacks
from omniform.transforms.lower import LoweredLayers, lowered_reason
from omniform.transforms.pack import _PACKED, pack
from omniform.transforms.stacks import NativeStacked
from reference import saved_reference, transformers

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels here")

TEXT = {
    "vocab_size": 97, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 80}
LATENT = {
    "kv_lora_rank": 32, "q_lora_rank": 48, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 6, "num_experts_per_tok": 2, "n_shared_experts": 2, "moe_intermediate_size": 80,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
FAMILIES = {
    "Mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2},
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 96},
    "Qwen3Moe": {**EXPERTS, "head_dim": 32},
    "Olmoe": EXPERTS,
    "GptOss": {
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "head_dim": 32,
        "sliding_window": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "DeepseekV2": LATENT,
    "DeepseekV3": {**LATENT, "n_group": 2, "topk_group": 1},
    "GraniteMoe": {"num_local_experts": 6, "num_experts_per_tok": 2},
}


@cache
def folder_of(name, root):
    kind = getattr(transformers, f"{name}ForCausalLM")
    theirs = saved_reference(kind, kind.config_class(**{**TEXT, **FAMILIES[name]}), root / name, scale=0.15)
    theirs.to(torch.bfloat16).save_pretrained(root / name)
    return root / name


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path_factory):
    root = tmp_path_factory.getbasetemp() / "stacks"
    root.mkdir(exist_ok=True)
    return folder_of(request.param, root)


def scores(of, rows=3):
    ids = torch.arange(7 * rows).view(rows, 7) % 97
    with torch.no_grad():
        return of(ids).logits


def stacks_of(model):
    return [module for module in model.modules() if isinstance(module, NativeStacked)]


def named_stacks(model):
    return [(path, module) for path, module in model.named_modules() if isinstance(module, Stacked)]


def kinds_of(model):
    return {matrix.kind.name for stack in stacks_of(model) for matrix in stacks._MATRICES[stack].each}


def rounded(model, like):
    """A plain model with the numbers that another's packed matrices stand for."""
    with torch.no_grad():
        for path, module in model.named_modules():
            other = like.get_submodule(path)
            if isinstance(other, NativeStacked):
                module.weight.copy_(torch.stack([matrix.unpack() for matrix in stacks._MATRICES[other].each]))
            elif other in _PACKED:
                module.weight = torch.nn.Parameter(_PACKED[other].matrix.unpack().float())
    return model


@pytest.mark.parametrize(("bits", "far"), [(8, 0.02), (4, 0.2)])
def test_experts_become_whole_numbers(bits, far, folder):
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype=f"int{bits}")
    found = scores(ours).double()
    assert stacks_of(ours) and kinds_of(ours) == {"I8" if bits == 8 else "N4"}
    plain = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    for stack, (path, like) in zip(stacks_of(ours), [*named_stacks(plain)], strict=True):
        whole = torch.stack([matrix.unpack() for matrix in stacks._MATRICES[stack].each])
        assert 1e-4 < float((whole - like.weight.detach()).norm() / like.weight.detach().norm()) < far, path
    exact = scores(rounded(plain, ours)).double()
    # Where two experts are as good as each other, rounding decides: then a token's numbers are quite others.
    off = (found - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert 1e-4 < float(off.median()) < 0.03
    lowered = [module for module in ours.modules() if isinstance(module, LoweredLayers)]
    assert lowered and not any(map(lowered_reason, lowered))
    kernels = {path: m.kernel for m in plan(folder, dtype=f"int{bits}").matmuls for path in m.layers}
    assert all(kernels[path].startswith(f"native int{bits}") for path, _ in named_stacks(ours))


@pytest.mark.parametrize("dtype", ["int8", "int4", "bfloat16"])
def test_a_token_is_the_same_in_every_batch(dtype, folder):
    model = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    luck = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 97, (length,), generator=luck).tolist() for length in (1, 4, 9, 17, 30, 5, 12)]
    told = [{"max_new_tokens": 6}] * len(rows)
    together = omniform.Engine(model, memory="64MB", max_tokens_per_step=23, block_size=4).generate_batch(rows, told)
    alone = omniform.Engine(model, memory="64MB", prefix_cache=False)
    assert [done.tokens for done in together] == [alone.generate_batch([row], told[:1])[0].tokens for row in rows]


def test_one_by_one_they_multiply_by_the_same(folder):
    """A hook has torch call the layers one by one: the matrices are those of programs, and none is made anew."""
    model = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="int8")
    by_program = scores(model)
    matrices = {stack: stacks._MATRICES[stack] for stack in stacks_of(model)}
    model.model.layers[0].register_forward_hook(lambda module, given, made: None)
    by_torch = scores(model)
    assert all(stacks._MATRICES[stack] is held for stack, held in matrices.items())
    off = (by_torch.float() - by_program.float()).norm(dim=-1) / by_program.float().norm(dim=-1)
    assert float(off.median()) < 0.05  # of a token that another expert was chosen for it may be more
    stack = stacks_of(model)[-1]
    _, outs, ins = stack.weight.shape
    x = torch.randn(5, ins).bfloat16()
    sent = [(1, 2), (4, 3)]
    with torch.no_grad():
        whole = stack(x, sent)
        assert torch.equal(torch.cat([stack(x[:2], [(1, 2)]), stack(x[2:3], [(4, 1)]), stack(x[3:], [(4, 2)])]), whole)
        exact = super(NativeStacked, stack).each(x, sent)
    assert whole.shape == (5, outs) and float((whole - exact).norm() / exact.norm()) < 0.02


def test_what_is_saved_is_what_was_loaded(folder, tmp_path):
    plain = omniform.AutoModelForCausalLM.from_pretrained(folder)
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="int4")
    scores(ours)
    ours.save_pretrained(tmp_path)
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("counted", [True, False])
def test_a_write_is_noticed(counted):
    config = omniform.AutoConfig.for_model("mixtral", **{**TEXT, **FAMILIES["Mixtral"]})
    model = omniform.AutoModelForCausalLM.from_config(config, dtype="bfloat16").eval()
    pack(model)
    before = scores(model)
    assert all(stack in stacks._MATRICES for stack in stacks_of(model))
    with torch.no_grad():
        weight = model.model.layers[1].mlp.experts.down_proj.weight
        (weight if counted else weight.data).mul_(-1.5)
    after = scores(model)
    assert not torch.equal(before, after)
    fresh = copy.deepcopy(model)
    assert not any(stack in stacks._MATRICES for stack in stacks_of(fresh))
    assert torch.equal(scores(fresh), after)


def test_gradients_are_torchs():
    config = omniform.AutoConfig.for_model("mixtral", **{**TEXT, **FAMILIES["Mixtral"]})
    model = omniform.AutoModelForCausalLM.from_config(config, dtype="bfloat16")
    pack(model)
    ids = torch.arange(8)[None]
    model(ids, labels=ids).loss.backward()
    assert all(stack.weight.grad is not None for stack in stacks_of(model))
    assert not any(stack in stacks._MATRICES for stack in stacks_of(model))


def test_numbers_and_bytes_are_counted_as_they_are(folder):
    plain = omniform.AutoModelForCausalLM.from_pretrained(folder)
    for dtype, bits in (("int8", 8.5), ("int4", 4.5)):
        ours = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        assert ours.num_parameters() == plain.num_parameters()
        before = ours.get_memory_footprint()
        scores(ours)
        assert before == ours.get_memory_footprint() == plan(folder, dtype=dtype).weights
        stack = stacks_of(ours)[0]
        experts, outs, ins = stack.weight.shape
        # 80 inputs are three groups of 32. What was put together from experts one by one stays in memory beside it.
        codes = experts * outs * ins * bits / 8
        assert codes <= stacks.packed_bytes(stack) < codes * 1.05 + 64 * experts
