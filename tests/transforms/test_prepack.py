"""Prepacked matrices give what plain ones give, notice every change, and leave files and copies alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import omniform
from omniform.transforms.prepack import PrepackedLinear, prepack

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 instructions"
)

CONFIG = {
    "vocab_size": 97, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def model(**changes):
    torch.manual_seed(0)
    config = omniform.AutoConfig.for_model("llama", **{**CONFIG, **changes})
    return omniform.AutoModelForCausalLM.from_config(config, dtype="bfloat16").eval()


def scores(of, rows=3):
    ids = torch.arange(7 * rows).view(rows, 7) % 97
    with torch.no_grad():
        return of(ids).logits


@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": True}])
def test_the_same_numbers_before_and_after(changes):
    ours = model(**changes)
    before = scores(ours)
    names = {name for name, _ in ours.named_parameters()}
    assert prepack(ours) == sum(isinstance(m, nn.Linear) for m in ours.modules()) == 15
    assert all(
        m.prepacked is not None for n, m in ours.named_modules() if n.endswith(("q_proj", "gate_proj", "lm_head"))
    )
    after = scores(ours)
    # One rounding of bfloat16 apart at most: joined or not, the sums run in the kernel's own order.
    assert torch.allclose(before.float(), after.float(), atol=2e-2 * float(before.abs().max()))
    assert {name for name, _ in ours.named_parameters()} == names


def test_what_reads_different_inputs_is_packed_apart():
    """Cross-attention's queries are made of other vectors than its keys: joined, no copy of them would ever be used."""
    config = omniform.AutoConfig.for_model(
        "t5", vocab_size=97, d_model=128, d_kv=32, d_ff=192, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    ours = omniform.AutoModelForSeq2SeqLM.from_config(config, dtype="bfloat16").eval()
    prepack(ours)
    layers = {n: m.prepacked for n, m in ours.named_modules() if isinstance(m, PrepackedLinear)}
    widths = {n: None if p is None else len(p.widths) for n, p in layers.items() if n.endswith(("q_proj", "k_proj"))}
    assert sorted(str(w) for n, w in widths.items() if "encoder_attn" in n or "cross" in n.lower()) == ["1", "1"]
    assert sorted(str(w) for n, w in widths.items() if "self_attn" in n) == ["3", "3", "None", "None"]


def test_every_change_is_noticed():
    ours = model()
    prepack(ours)
    for path in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj", "lm_head"):
        with torch.no_grad():
            ours.get_submodule(path).weight.mul_(-1.5)
        plain = model()
        plain.load_state_dict(ours.state_dict())
        assert torch.allclose(scores(ours).float(), scores(plain).float(), atol=1e-2)
        prepack(ours)
        assert torch.allclose(scores(ours).float(), scores(plain).float(), atol=1e-2)
    wide = ours.float()
    assert torch.equal(scores(wide), scores(plain.float()))


@pytest.mark.parametrize("path", ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj", "lm_head"])
def test_a_merged_adapter_is_noticed(path):
    # As adapters are merged: through .data, which torch keeps no count of.
    ours = model()
    prepack(ours)
    weight = ours.get_submodule(path).weight
    version = weight._version
    weight.data += torch.randn(weight.shape[0], 4).bfloat16() @ torch.randn(4, weight.shape[1]).bfloat16() * 0.02
    assert weight._version == version
    plain = model()
    before = scores(plain)
    plain.load_state_dict(ours.state_dict())
    assert torch.allclose(scores(ours).float(), scores(plain).float(), atol=1e-2)
    assert not torch.allclose(before.float(), scores(plain).float(), atol=1e-2)
    prepack(ours)
    assert ours.get_submodule(path).prepacked is not None or "k_proj" in path
    assert torch.allclose(scores(ours).float(), scores(plain).float(), atol=1e-2)


def test_a_replaced_sibling_is_called():
    ours = model()
    prepack(ours)
    before = scores(ours)
    attention = ours.model.layers[0].self_attn
    attention.k_proj = nn.Sequential(attention.k_proj, nn.Identity())  # an adapter wraps layers so
    assert torch.allclose(scores(ours).float(), before.float(), atol=1e-2)
    attention.v_proj = nn.Linear(128, 64, bias=False, dtype=torch.bfloat16)
    assert not torch.allclose(scores(ours).float(), before.float(), atol=1e-2)


def test_training_goes_on_and_is_seen():
    ours = model()
    prepack(ours)
    before = scores(ours)
    ids = torch.arange(14).view(2, 7)
    optimizer = torch.optim.SGD(ours.parameters(), lr=1.0)
    ours(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in ours.parameters())
    optimizer.step()
    assert not torch.equal(scores(ours), before)


def test_copies_and_pickles():
    ours = model()
    prepack(ours)
    for other in (copy.deepcopy(ours.lm_head), pickle.loads(pickle.dumps(ours.lm_head))):
        assert isinstance(other, PrepackedLinear) and other.prepacked is None
        x = torch.randn(2, 128, dtype=torch.bfloat16)
        with torch.no_grad():
            assert torch.allclose(other(x).float(), ours.lm_head(x).float(), atol=1e-2)


def test_float32_and_small_matrices_are_left_alone():
    assert prepack(nn.Sequential(nn.Linear(128, 128), nn.Linear(8, 128, dtype=torch.bfloat16))) == 0


def test_an_engine_packs_what_is_mapped_and_nothing_else(tmp_path):
    """After the first step, and only where the original's pages can be let go."""
    model().save_pretrained(tmp_path)
    mapped = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    mapped.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=1)
    assert not any(isinstance(m, PrepackedLinear) for m in mapped.modules())
    mapped.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=3)
    fresh = model()
    fresh.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=3)
    assert not any(isinstance(m, PrepackedLinear) for m in fresh.modules())
    mapped.save_pretrained(tmp_path / "again")
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    for (name, a), b in zip(model().named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("how", ["engine", "forward"])
def test_an_adapter_merged_into_a_mapped_matrix_is_noticed(tmp_path, how):
    model(hidden_size=256).save_pretrained(tmp_path)
    ours, plain = (omniform.AutoModelForCausalLM.from_pretrained(tmp_path) for _ in range(2))
    ids = torch.tensor([[3, 4, 5]])
    ours.generate(ids, max_new_tokens=3)
    path = "model.layers.1.mlp.down_proj"
    assert ours.get_submodule(path).prepacked is not None
    merged = torch.randn(256, 4).bfloat16() @ torch.randn(4, 192).bfloat16() * 0.05
    before = scores(plain)
    for each in (ours, plain):
        each.get_submodule(path).weight.data += merged
    assert not torch.allclose(before.float(), scores(plain).float(), atol=1e-2)
    if how == "forward":
        assert torch.allclose(scores(ours).float(), scores(plain).float(), atol=1e-2)
    asked = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    found, expected = (torch.cat(each.generate(ids, **asked).logits).float() for each in (ours, plain))
    assert torch.allclose(found, expected, atol=1e-2)
    assert ours.get_submodule("model.layers.0.mlp.down_proj").prepacked is not None
