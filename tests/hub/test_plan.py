"""``plan``: what it says equals what loading with the same arguments then does, and it reads headers only."""

from __future__ import annotations

import json
import struct
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from omniform.core.context import Computed
from omniform.core.errors import InputError, RepoError, UnknownArgumentError, WeightsError
from omniform.core.state import KV, StatefulModule
from omniform.engine.memory import decoder_bytes
from omniform.engine.paged_state import MEMORY, ROWS
from omniform.hub.checkpoint import load_as_saved
from omniform.hub.kernels import Kernel, kernels_of
from omniform.hub.plan import plan
from reference import omniform, saved_reference, transformers

SMALL = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
LLAMA = {**SMALL, "num_hidden_layers": 4, "num_key_value_heads": 2}
FAMILIES = {
    "llama": lambda: (transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA)),
    "tied": lambda: (transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "mistral": lambda: (transformers.MistralForCausalLM, transformers.MistralConfig(**LLAMA, sliding_window=6)),
    "gpt2": lambda: (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(vocab_size=60, n_positions=64, n_embd=32, n_layer=3, n_head=2),
    ),
    "t5": lambda: (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    ),
    "whisper": lambda: (
        transformers.WhisperForConditionalGeneration,
        transformers.WhisperConfig(
            vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=20,
            max_target_positions=30, num_mel_bins=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=3, suppress_tokens=[], begin_suppress_tokens=[],
        ),
    ),
    "gemma2": lambda: (
        transformers.Gemma2ForCausalLM,
        transformers.Gemma2Config(**LLAMA, head_dim=8, sliding_window=6, attn_logit_softcapping=2.0),
    ),
    "bert": lambda: (transformers.BertForMaskedLM, transformers.BertConfig(**SMALL, num_hidden_layers=3)),
    "vit": lambda: (
        transformers.ViTForImageClassification,
        transformers.ViTConfig(
            hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=2, image_size=8, patch_size=4
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    cache = {}

    def make(family: str):
        if family not in cache:
            folder = tmp_path_factory.mktemp(family)
            kind, config = FAMILIES[family]()
            cache[family] = folder, saved_reference(kind, config, folder)
        return cache[family]

    return make


def held(model, planned) -> dict[str | int, int]:
    """Bytes by place, as the loaded model's tensors and its own map say; a tied tensor counts once."""
    places = {path: part.place for part in planned.parts for path in [part.path]}
    sizes: Counter[str | int] = Counter()
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            owner = max((path for path in places if not path or f"{name}.".startswith(f"{path}.")), key=len)
            sizes[places[owner]] += tensor.nbytes
    return dict(sizes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [2.0, 0.7, 0.4, 0.00001])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_plan_is_what_loading_does(made, tmp_path, family, share, dtype):
    folder, theirs = made(family)
    bound = int(share * sum(p.nbytes for p in theirs.parameters()) / (2 if dtype else 1))
    arguments = {"device_map": "auto", "max_memory": {"cpu": bound}, "dtype": dtype, "offload_folder": tmp_path}
    planned = plan(folder, **arguments)
    model = load_as_saved(folder, **arguments)
    assert dict(planned.device_map) == dict(model.hf_device_map)
    uses = {use.place: use.weights for use in planned.uses if use.weights}
    assert uses == held(model, planned) and planned.weights == sum(uses.values()) == model.get_memory_footprint()
    assert planned.dtype == str(model.dtype).removeprefix("torch.")
    assert uses.get("cpu", 0) <= bound and ("disk" in uses) == (share < 1)


@pytest.mark.parametrize(
    "mapping", ["cpu", "disk", {"": "disk", "lm_head": "cpu"}, {"": "cpu", "model.layers.1": "disk"}]
)
def test_plan_of_a_given_map(made, mapping):
    folder, _ = made("llama")
    planned = plan(folder, device_map=mapping)
    model = load_as_saved(folder, device_map=mapping)
    assert dict(planned.device_map) == dict(model.hf_device_map)
    assert {use.place: use.weights for use in planned.uses if use.weights} == held(model, planned)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "t5", "whisper"])
def test_a_token_takes_what_the_engine_keeps_of_it(made, family):
    folder, _ = made(family)
    kept = decoder_bytes(load_as_saved(folder))
    assert plan(folder).per_token == sum(n for pool, n in kept.items() if pool not in (MEMORY, ROWS)) > 0


@pytest.mark.parametrize("family", ["llama", "tied", "gpt2"])
def test_state_is_what_a_forward_keeps(made, family):
    folder, _ = made(family)
    model = load_as_saved(folder)
    with torch.no_grad():
        kept = model(torch.randint(3, 60, (3, 17))).past_key_values.nbytes()
    planned = plan(folder, tokens=17, rows=3)
    assert planned.state == kept == sum(part.state for part in planned.parts) and planned.per_token == kept // 51
    assert all((part.state > 0) == (".layers." in part.path) for part in planned.parts)


def test_state_of_encoder_decoders(made):
    folder, _ = made("t5")
    with torch.no_grad():
        ids = torch.randint(3, 60, (2, 9))
        kept = load_as_saved(folder)(input_ids=ids, decoder_input_ids=ids).past_key_values.nbytes()
    assert plan(folder, tokens=9, rows=2).state == kept
    folder, _ = made("whisper")
    with torch.no_grad():
        out = load_as_saved(folder)(input_features=torch.randn(1, 8, 40), decoder_input_ids=ids[:1])
    assert plan(folder, tokens=9).state == out.past_key_values.nbytes()


def test_a_window_keeps_its_window(made):
    folder, _ = made("mistral")
    one = 4 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width, bytes
    for tokens in (1, 5, 6, 7, 1000):
        assert plan(folder, tokens=tokens).state == one * min(tokens, 6)
    assert plan(folder, tokens=1000, rows=7).state == one * 6 * 7 and plan(folder).per_token == one


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_what_writes_nothing_keeps_nothing(made, family):
    planned = plan(made(family)[0])
    assert planned.state == planned.per_token == 0 and planned.fits and planned.kernels


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "t5", "bert", "gemma2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_kernels_are_those_that_run(made, monkeypatch, family, attention):
    folder, _ = made(family)
    planned = plan(folder, attn_implementation=attention)
    calls: list[str] = []
    real = F.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **rest):
        additive = attn_mask is not None and attn_mask.dtype != torch.bool
        kind = "additive mask" if additive else "no mask" if attn_mask is None else "boolean mask"
        calls.append(f"sdpa, {'causal flag' if is_causal else kind}")
        return real(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    model = load_as_saved(folder, attn_implementation=attention)
    inputs = {"input_ids": torch.randint(3, 60, (1, 8))}
    if family == "t5":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        model(**inputs)
    expected = Counter({})
    for kernel in planned.kernels:
        expected[kernel.prompt] += len(kernel.attentions)
    if attention == "eager" or family == "gemma2":  # no fused kernel bounds scores
        assert not calls and set(expected) == {"eager: scores, softmax and sum, written out"}
        assert attention == "eager" or "bounds scores" in planned.kernels[0].why
    else:
        assert Counter(calls) == expected
    assert all(kernel.why for kernel in planned.kernels)


def test_any_mixer_says_how_it_is_computed(made):
    class Mine(StatefulModule):
        def state_spec(self):
            return KV(1, 4, 4)

        def computed(self, backend):
            return Computed("a loop", f"{backend}, one step", "it is mine")

    model = load_as_saved(made("llama")[0])
    model.model.layers[2].self_attn = Mine()
    mine, others = sorted(kernels_of(model), key=lambda kernel: len(kernel.attentions))
    assert mine == Kernel(("model.layers.2.self_attn",), "a loop", "sdpa, one step", "it is mine")
    assert len(others.attentions) == 3


def test_only_headers_are_read(tmp_path, monkeypatch):
    # Seventeen gigabytes that no disk here holds: a hole in a sparse file.
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    header, end = {}, 0
    for name, tensor in model.state_dict().items():
        header[name] = {"dtype": "BF16", "shape": tuple(tensor.shape), "data_offsets": [end, end + 2 * tensor.numel()]}
        end += 2 * tensor.numel()
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    with monkeypatch.context() as patch:
        patch.setattr("omniform.hub.weights.map_tensors", lambda *_: pytest.fail("data was mapped"))
        planned = plan(tmp_path, max_memory={0: "8GB", 1: "8GB", "cpu": "16GB"}, tokens=8192)
        assert planned.weights == end and planned.state == 32 * 2 * 8 * 128 * 2 * 8192
        assert {use.place for use in planned.uses} == {0, 1, "cpu"}
        assert [use.fits for use in planned.uses if use.place == "cpu"] == [True]
        with pytest.raises(InputError, match=r"bytes more.*offload_folder"):
            plan(tmp_path, max_memory={"cpu": "8GB"}, dtype="float32")
        bounded = {"max_memory": {"cpu": "8GB"}, "device_map": "auto"}
        planned = plan(tmp_path, **bounded)
    # Loaded with the same arguments, nothing is read either.
    model = load_as_saved(tmp_path, **bounded)
    assert dict(model.hf_device_map) == dict(planned.device_map) and "disk" in planned.device_map.values()
    assert (tmp_path / "model.safetensors").stat().st_blocks * 512 < 2**20  # still a hole


def test_tied_weights_that_differ_are_seen(tmp_path):
    config = transformers.T5Config(
        vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, tie_word_embeddings=True
    )
    saved_reference(transformers.T5ForConditionalGeneration, config, tmp_path)
    tensors = {k: t.clone() for k, t in load_file(tmp_path / "model.safetensors").items()}
    tied = plan(tmp_path).weights
    save_file({**tensors, "lm_head.weight": tensors["shared.weight"].clone()}, tmp_path / "model.safetensors")
    assert plan(tmp_path).weights == tied == load_as_saved(tmp_path).get_memory_footprint()
    save_file({**tensors, "lm_head.weight": 2 * tensors["shared.weight"]}, tmp_path / "model.safetensors")
    assert plan(tmp_path).weights == tied + 60 * 32 * 4 == load_as_saved(tmp_path).get_memory_footprint()


def test_what_does_not_fit_is_told(made):
    folder, _ = made("llama")
    planned = plan(folder, device_map="cpu", tokens=10**9)
    assert not planned.fits and [use.fits for use in planned.uses] == [False]
    assert plan(folder, max_memory={"cpu": 1000}, tokens=1).fits is False  # what visits has no room


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tokens": 0}, "tokens"), ({"tokens": -5}, "tokens"), ({"tokens": 2.5}, "tokens"), ({"rows": 0}, "rows"),
        ({"tokens": True}, "tokens"), ({"rows": 10**30}, "rows"), ({"dtype": "float33"}, "float33"),
        ({"device_map": "autos"}, "autos"), ({"max_memory": {"cpu": "many"}}, "many"),
        ({"device_map": {"model": "cpu"}}, "lm_head"), ({"load_in_8bit": "yes"}, "load_in_8bit"),
        ({"attn_implementation": "eagre"}, "eagre"),
    ],
)  # fmt: skip
def test_mistakes(made, given, says):
    with pytest.raises(InputError, match=says):
        plan(made("llama")[0], **given)


def test_other_mistakes(made, tmp_path):
    with pytest.raises(UnknownArgumentError, match="max_memory"):
        plan(made("llama")[0], max_memori={})
    with pytest.raises(RepoError):
        plan(tmp_path / "nowhere")
    folder, _ = made("llama")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-7])
    with pytest.raises(WeightsError, match="damaged"):
        plan(tmp_path)


def test_it_is_a_name_of_the_package():
    assert omniform.plan is plan
