"""Keys and values in few bits: alike in every company, near the model's own, and as small as they say."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import equal_rows
from engines import MAKERS, TEXT, roomy, rope
from omniform.core.coded import BITS, Floats, coding_of
from omniform.core.errors import InputError
from omniform.engine.engine import Engine
from omniform.native.library import library
from omniform.transforms.lower import lower
from reference import omniform, saved_reference, transformers

GEMMA2 = {**TEXT, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "num_hidden_layers": 2}
GPT_OSS = {
    **TEXT, "head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9,
    **rope("default"),
    "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
LATENT = {
    **TEXT, "q_lora_rank": 20, "kv_lora_rank": 40, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10, "v_head_dim": 9,
    "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
DELTA = {
    **TEXT, "head_dim": 40, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "mlp_only_layers": [], "linear_key_head_dim": 12, "linear_value_head_dim": 20, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "shared_expert_intermediate_size": 20, "num_hidden_layers": 4,
}  # fmt: skip


def plain(name, config):
    made_by = getattr(transformers, f"{name}ForCausalLM"), getattr(transformers, f"{name}Config")
    return made_by[0], made_by[1](**config), omniform.AutoModelForCausalLM


MADE = {
    "llama": MAKERS["llama"],
    "gemma2": lambda: plain("Gemma2", GEMMA2),
    "gpt_oss": lambda: plain("GptOss", GPT_OSS),
    "deepseek_v3": lambda: plain("DeepseekV3", LATENT),
    "qwen3_next": lambda: plain("Qwen3Next", DELTA),
}
LOWERED = [True, False] if library() is not None else [False]


@cache
def made(name, folder, dtype=torch.float32, *, lowered=True):
    model_class, config, auto = MADE[name]()
    if not (folder / "config.json").exists():
        folder.mkdir()
        saved_reference(model_class, config, folder, scale=0.4).save_pretrained(folder)
    model = auto.from_pretrained(folder, dtype=dtype)
    if lowered:
        lower(model)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


# ---------------------------------------------------------------- alike in every company


@pytest.mark.parametrize("lowered", LOWERED)
@pytest.mark.parametrize("kept", BITS)
@pytest.mark.parametrize("name", MADE)
def test_rows_are_alike_in_every_company(name, kept, lowered, folders, monkeypatch):
    """Alone, together, in pieces, after giving way, with known beginnings and with guesses."""
    model = made(name, folders / name, lowered=lowered)
    used = []
    roomy, small = equal_rows.roomy, Engine

    def engine(model, **how):
        used.append(roomy(model, cache_dtype=kept, **how))
        return used[-1]

    monkeypatch.setattr(equal_rows, "roomy", engine)
    monkeypatch.setattr(equal_rows, "Engine", lambda model, **how: small(model, cache_dtype=kept, **how))
    prompts = equal_rows.requests(5, 3, TEXT["vocab_size"], longest=80)
    found = equal_rows.answered(model, prompts, seed=1)
    assert not found.unequal
    assert not lowered or (found.bits == 0 and not found.reasons)
    assert all(one.stats().cache_dtype.split(",")[0] == kept for one in used)


# ---------------------------------------------------------------- as small as it says


def test_blocks_hold_as_many_more_tokens(folders):
    """A head of 64 numbers takes 128 bytes in bfloat16, 68 in int8; the arrays are as large as is said."""
    config = transformers.LlamaConfig(**{**TEXT, "head_dim": 64})
    folder = folders / "wide"
    saved_reference(transformers.LlamaForCausalLM, config, folder, scale=0.4)
    model = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    each = {kept: Engine(model, memory="4MB", block_size=8, cache_dtype=kept) for kept in (None, *BITS)}
    for kept, nbytes in {None: 128, "int8": 68, "int4": 40}.items():
        engine, stats = each[kept], each[kept].stats()
        assert stats.blocks_total == 4_000_000 // (2 * 2 * 2 * 8 * nbytes)
        views = engine._state._kv.values()
        assert sum(x.nbytes for v in views for part in v.parts for x in part) == stats.memory.taken <= 4_000_000
        assert stats.cache_dtype == (kept or "bfloat16")
    assert each["int8"].stats().blocks_total > 1.85 * each[None].stats().blocks_total
    assert each["int4"].stats().blocks_total > 3.15 * each[None].stats().blocks_total


@pytest.mark.parametrize(("kept", "most"), [("int8", 0.3), ("int4", 3.0)])
@pytest.mark.parametrize("lowered", LOWERED)
def test_answers_are_near_the_models_own(lowered, kept, most, folders):
    """Scores of continuations differ a little, and less than a wrong scale would make them differ."""
    model = made("llama", folders / "llama", lowered=lowered)
    pairs = [(row[:-4], row[-4:]) for row in equal_rows.requests(6, 5, TEXT["vocab_size"], longest=80) if len(row) > 8]
    right, found = (
        torch.tensor([score.total for score in roomy(model, cache_dtype=how).score(pairs)]) for how in (None, kept)
    )
    apart = (right - found).abs()
    assert 0 < apart.max() < most, apart


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("int7", "Did you mean 'int8'"), ("bf16", "float16"), (torch.float8_e4m3fn, "int8"), ("fp8_e4m3", "int8"),
        (torch.int32, "cache_dtype"), (8, "cache_dtype"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(asked, words, folders):
    model = made("llama", folders / "llama")
    with pytest.raises(InputError, match=words):
        Engine(model, cache_dtype=asked)


def test_other_floats_and_what_has_a_form_of_its_own(folders):
    model = made("llama", folders / "llama")
    assert coding_of("auto") is None and coding_of(torch.bfloat16) == coding_of("bfloat16") == Floats(torch.bfloat16)
    prompt = [5, 6, 7, 8, 9]
    own = roomy(model).generate(prompt, max_new_tokens=8).tokens
    assert roomy(model, cache_dtype="float32").generate(prompt, max_new_tokens=8).tokens == own
    less = roomy(model, cache_dtype=torch.bfloat16)
    assert less.stats().cache_dtype == "bfloat16" and 1 < len(less.generate(prompt, max_new_tokens=8).tokens) < 9
    hybrid = roomy(made("qwen3_next", folders / "qwen3_next"), cache_dtype="int8")
    assert hybrid.stats().cache_dtype == "int8, states of fixed size in their own dtypes"


@pytest.mark.parametrize("kept", BITS)
@pytest.mark.parametrize("width", [1, 8, 31, 32, 40, 64, 80])
def test_vectors_come_back_within_half_a_step(kept, width):
    """Whatever their size, of constants too; what is no number comes back as none, and touches no neighbour."""
    coding = BITS[kept]
    x = torch.randn(3, 5, width) * torch.logspace(-20, 20, 15).view(3, 5, 1)
    x[1, 1], x[2, 0] = 0.0, 3.0
    parts = coding.encode(x)
    assert sum(part[0, 0].nbytes for part in parts) == coding.nbytes(width)
    back = coding.decode(parts, width, torch.float32)
    group = width if kept == "int8" else 32
    for at in range(0, width, group):
        some, found = x[..., at : at + group], back[..., at : at + group]
        most, least = some.amax(-1, keepdim=True), some.amin(-1, keepdim=True)
        # In int4 the least number and the step are rounded to 8 bits themselves.
        bound = (
            some.abs().amax(-1, keepdim=True) / 253
            if kept == "int8"
            else ((most - least) * (0.5 / 15 + 2 / 256) + least.abs() / 250)
        )
        assert ((some - found).abs() <= bound).all()
    odd = x.clone()
    odd[0, 0, 0], odd[1, 2, -1] = torch.nan, torch.inf
    again = coding.decode(coding.encode(odd), width, torch.float32)
    assert again[0, 0, 0].isnan() and again[1, 2, -1].isnan()
    touched = torch.zeros(3, 5, dtype=torch.bool)
    touched[0, 0] = touched[1, 2] = True
    assert torch.equal(again[~touched], back[~touched])


@pytest.mark.parametrize(("bits", "kept"), [({}, "int4"), ({"nbits": 4}, "int4"), ({"nbits": 8}, "int8")])
def test_a_quantized_cache_in_generate(bits, kept, folders):
    """The call computes with keys of so many bits, as an engine that is asked for them does."""
    model = made("llama", folders / "llama")
    ids = torch.tensor([[5, 6, 7, 8, 9, 11, 13, 17] * 4])
    call = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    own = model.generate(ids, **call)
    found = model.generate(ids, cache_implementation="quantized", cache_config=bits or None, **call)
    answer = roomy(model, cache_dtype=kept).generate(ids[0].tolist(), max_new_tokens=12, do_sample=False)
    assert found.sequences[0, ids.shape[1] :].tolist() == answer.tokens
    assert not torch.equal(found.logits[0], own.logits[0]), "keys as they are"
    assert type(found.past_key_values).__name__ == "QuantizedCache"
