"""GGUF files through every door: beside the reference, packed and plain, saved again, damaged, named wrongly."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch

import omniform
from omniform.core.errors import (
    ConfigError,
    InputError,
    RepoError,
    UnknownArgumentError,
    UnknownNameError,
    WeightsError,
)
from omniform.hub.inspect import inspect
from omniform.transforms.packed import Packed, PackedLinear
from reference import randomise, transformers

gguf = pytest.importorskip("gguf")
import gguf_written  # noqa: E402

T = transformers
TYPES = gguf.GGMLQuantizationType
TINY = {
    "vocab_size": 288, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": None, "bos_token_id": 0,
    "eos_token_id": 1, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}  # fmt: skip
TOLD = {
    ".context_length": 128, ".embedding_length": 64, ".feed_forward_length": 96, ".block_count": 2,
    ".attention.head_count": 4, ".attention.head_count_kv": 2, ".attention.layer_norm_rms_epsilon": 1e-6,
    ".rope.freq_base": 5000.0, ".rope.dimension_count": 16,
}  # fmt: skip
MIXED = {"ffn_down.weight": TYPES.Q8_0, "token_embd.weight": TYPES.Q5_1, "norm.weight": TYPES.F32, "weight": TYPES.Q4_0}
IDS = torch.randint(5, 288, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    model = randomise(T.LlamaForCausalLM(T.LlamaConfig(**TINY)).eval(), seed=1, scale=0.1)
    model.save_pretrained(folder)
    return folder, model


def llama(plain, path, kinds=None, told=None, without=(), words=None):
    metadata = {**TOLD, **(gguf_written.vocabulary(288) if words is None else words), **(told or {})}
    metadata = {key: value for key, value in metadata.items() if key not in without}
    tensors = {k: v for k, v in gguf_written.converted("llama", plain[0]).items() if k not in without}
    return gguf_written.written(path, "llama", metadata, tensors, kinds)


@pytest.fixture(scope="module")
def mixed(plain, tmp_path_factory):
    return llama(plain, tmp_path_factory.mktemp("mixed") / "model.gguf", MIXED)


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


# -- beside the reference


def test_plain_weights_are_the_references(mixed):
    asked = {"gguf_file": mixed.name, "dtype": torch.float32}
    ours = omniform.AutoModelForCausalLM.from_pretrained(mixed.parent, dequantize=True, **asked)
    theirs = T.AutoModelForCausalLM.from_pretrained(
        mixed.parent, **asked, quantization_config=T.GgufConfig(dequantize=True)
    )
    expected = theirs.state_dict()
    found = ours.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0, msg=key)
    torch.testing.assert_close(logits(ours), logits(theirs.eval()), rtol=1e-5, atol=1e-5)


def test_a_config_is_the_references(mixed):
    ours = omniform.AutoConfig.from_pretrained(mixed.parent, gguf_file=mixed.name)
    theirs = T.AutoConfig.from_pretrained(mixed.parent, gguf_file=mixed.name)
    for key in (
        "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "tie_word_embeddings", "bos_token_id",
        "eos_token_id", "hidden_act", "attention_bias", "mlp_bias",
    ):  # fmt: skip
        assert getattr(ours, key) == getattr(theirs, key), key
    assert ours.rms_norm_eps == pytest.approx(theirs.rms_norm_eps)
    assert ours.rope_parameters["rope_theta"] == theirs.rope_parameters["rope_theta"]


TEXTS = [
    "hello world", "  two  spaces", "1234567 12", "Ärger, naïve — café!", "日本語 and 한국어", "a\n\n\tb\r\n", "",
    "<|im_start|>user\nhi<|im_end|>", "think <think>hard</think>", "I'm WE'LL don't", "x" * 50, "\U0001f600 \x00",
]  # fmt: skip


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2", "tekken", "gpt-4o", "smollm"])
def test_a_byte_level_tokenizer_is_the_references(plain, tmp_path, pre):
    path = llama(
        plain, tmp_path / "model.gguf", told={"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
    )
    ours = omniform.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    theirs = T.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in TEXTS:
        if pre == "smollm" and any(sign.isdigit() for sign in text):
            continue  # the reference knows no such name, and cuts no digits
        expected = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == expected, text
        assert ours.decode(expected) == theirs.decode(expected)
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")


def pieces(size):
    """Sentencepiece's tokens: bytes, letters, a few longer ones in the order of their merging."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [2, 3, 3, *([6] * 256)]
    longer = ["he", "ll", "hell", "hello", "▁w", "or", "▁wor", "▁world", "▁▁", "▁hello"]
    letters = [*"▁helowrdabc123"]
    tokens += longer + letters
    kinds += [1] * (len(longer) + len(letters))
    scores = [0.0] * 259 + [-float(i) for i in range(len(longer) + len(letters))]
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens[:size], "tokenizer.ggml.scores": scores[:size],
        "tokenizer.ggml.token_type": kinds[:size], "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip


def test_a_sentencepiece_tokenizer_is_the_references(plain, tmp_path):
    path = llama(plain, tmp_path / "model.gguf", words=pieces(288))
    ours = omniform.AutoTokenizer.from_pretrained(path)
    theirs = T.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in ["hello world", "hello  world", " hello", "abc 123", "日本", "a\nb", "wor</s>ld"]:
        expected = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == expected, text
        assert ours.decode(expected, skip_special_tokens=True) == theirs.decode(expected, skip_special_tokens=True)
    assert ours("hello world")["input_ids"][0] == 1
    ending = llama(plain, tmp_path / "e.gguf", words=pieces(288), told={
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True})  # fmt: skip
    assert omniform.AutoTokenizer.from_pretrained(ending)("hello")["input_ids"][-1] == 2


def test_chat_templates_and_ends(plain, tmp_path):
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    told = {"tokenizer.chat_template": template, "tokenizer.chat_template.tool_use": "tools"}
    path = llama(plain, tmp_path / "model.gguf", told=told)
    tokenizer = omniform.AutoTokenizer.from_pretrained(path)
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False, chat_template="tool_use") == "tools"
    model = omniform.AutoModelForCausalLM.from_pretrained(path)
    assert model.generation_config.eos_token_id == [1, 3]  # </s>, and <|im_end|>, which ends an answer too


# -- packed


def test_matrices_stay_packed(mixed):
    model = omniform.AutoModelForCausalLM.from_pretrained(mixed)
    kinds = {path: module.kind.name for path, module in model.named_modules() if isinstance(module, Packed)}
    assert len(kinds) == 2 * 7 + 2
    assert kinds["model.layers.0.mlp.down_proj"] == "Q8_0"
    assert kinds["model.layers.1.self_attn.q_proj"] == "Q4_0"
    assert kinds["model.embed_tokens"] == "Q5_1"
    assert model.dtype is torch.float32
    plain = omniform.AutoModelForCausalLM.from_pretrained(mixed, dequantize=True)
    assert not any(isinstance(module, Packed) for module in plain.modules())
    expected = logits(plain)
    # Without kernels both compute the same; with them a row's numbers are rounded to twelve bits.
    assert float((logits(model) - expected).abs().max() / expected.abs().max()) < 0.02
    for path, module in model.named_modules():
        if isinstance(module, Packed):
            assert torch.equal(module.weight, plain.get_submodule(path).weight), path


def test_a_packed_model_writes_as_a_plain_one(mixed):
    texts = []
    for how in ({}, {"dequantize": True}):
        model = omniform.AutoModelForCausalLM.from_pretrained(mixed, **how)
        texts.append(model.generate(IDS, max_new_tokens=12, do_sample=False)[:, 12:])
    assert float((texts[0] == texts[1]).float().mean()) > 0.5  # scores of random weights lie close together


def test_ties_are_kept(tmp_path):
    model = randomise(T.LlamaForCausalLM(T.LlamaConfig(**{**TINY, "tie_word_embeddings": True})).eval(), seed=1)
    model.save_pretrained(tmp_path / "plain")
    path = llama((tmp_path / "plain", model), tmp_path / "model.gguf", MIXED)
    ours = omniform.AutoModelForCausalLM.from_pretrained(path)
    assert ours.lm_head.packed is ours.model.embed_tokens.packed
    assert isinstance(ours.lm_head, PackedLinear)


def test_a_packed_model_in_other_hands(mixed):
    model = omniform.AutoModelForCausalLM.from_pretrained(mixed)
    expected = logits(model)
    model.tie_weights()
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    with pytest.raises(InputError, match="dequantize=True"):
        model.resize_token_embeddings(300)
    half = logits(model.to(torch.bfloat16))
    assert half.dtype is torch.bfloat16
    assert float((half.float() - expected).abs().max() / expected.abs().max()) < 0.05
    plain = omniform.AutoModelForCausalLM.from_pretrained(mixed, dequantize=True)
    plain.resize_token_embeddings(300)
    assert logits(plain).shape[-1] == 300


@pytest.mark.parametrize("how", [{}, {"dequantize": True}])
def test_what_is_saved_is_plain_and_the_same(mixed, tmp_path, how):
    model = omniform.AutoModelForCausalLM.from_pretrained(mixed, **how)
    model.save_pretrained(tmp_path)
    omniform.AutoTokenizer.from_pretrained(mixed).save_pretrained(tmp_path)
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    plain = omniform.AutoModelForCausalLM.from_pretrained(mixed, dequantize=True)
    assert torch.equal(logits(again), logits(plain))
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    theirs = T.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(theirs), logits(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [TYPES.F16, TYPES.BF16])
def test_halves_are_mapped(plain, tmp_path, kind):
    path = llama(plain, tmp_path / "model.gguf", {"norm.weight": TYPES.F32, "weight": kind})
    model = omniform.AutoModelForCausalLM.from_pretrained(path)
    assert model.dtype is {TYPES.F16: torch.float16, TYPES.BF16: torch.bfloat16}[kind]
    assert not any(isinstance(module, Packed) for module in model.modules())
    wide = omniform.AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    assert torch.equal(wide.lm_head.weight, model.lm_head.weight.float())


def test_a_model_in_parts(plain, tmp_path):
    tensors = gguf_written.converted("llama", plain[0])
    names = list(tensors)
    whole = llama(plain, tmp_path / "whole.gguf")
    for number, part in enumerate((names[:7], names[7:])):
        told = {**TOLD, **gguf_written.vocabulary(288)} if number == 0 else {}
        gguf_written.written(
            tmp_path / f"m-0000{number + 1}-of-00002.gguf", "llama", {**told, "split.no": number, "split.count": 2},
            {name: tensors[name] for name in part},
        )  # fmt: skip
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m-00001-of-00002.gguf")
    assert torch.equal(logits(model), logits(omniform.AutoModelForCausalLM.from_pretrained(whole)))
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(RepoError, match=r"m-00002-of-00002.gguf"):
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m-00001-of-00002.gguf")
    shutil.copy(tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf")
    with pytest.raises(WeightsError, match="part 1 of 2"):
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m-00001-of-00002.gguf")


# -- rotary frequencies that a file keeps as divisors


def test_llama3_frequencies_are_recognised(plain, tmp_path):
    settings = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5000.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = T.LlamaConfig(**{**TINY, "rope_parameters": settings, "max_position_embeddings": 32768})
    model = randomise(T.LlamaForCausalLM(config).eval(), seed=1, scale=0.1)
    model.save_pretrained(tmp_path / "plain")
    tensors = gguf_written.converted("llama", tmp_path / "plain")
    plain_turns = 1 / 5000.0 ** (np.arange(0, 16, 2) / 16)
    tensors["rope_freqs.weight"] = plain_turns / model.model.rotary_emb.inv_freq.numpy()
    told = {**TOLD, **gguf_written.vocabulary(288), ".context_length": 32768}
    path = gguf_written.written(tmp_path / "model.gguf", "llama", told, tensors)
    ours = omniform.AutoModelForCausalLM.from_pretrained(path)
    assert ours.config.rope_parameters == settings
    torch.testing.assert_close(logits(ours), logits(model), rtol=1e-4, atol=1e-5)
    tensors["rope_freqs.weight"] = np.linspace(1.0, 3.0, 8)
    odd = omniform.AutoConfig.from_pretrained(gguf_written.written(tmp_path / "odd.gguf", "llama", told, tensors))
    assert odd.rope_parameters["rope_type"] == "longrope"
    assert odd.rope_parameters["short_factor"] == pytest.approx(np.linspace(1.0, 3.0, 8).tolist())
    tensors["rope_freqs.weight"] = np.ones(5)
    with pytest.raises(ConfigError, match=r"rope_freqs.weight has a wrong size; expected 8; found 5"):
        omniform.AutoConfig.from_pretrained(gguf_written.written(tmp_path / "bad.gguf", "llama", told, tensors))


# -- what is said of a file


def test_inspect(mixed):
    found = inspect(mixed)
    assert found.architecture == "LlamaForCausalLM"
    assert found.parameters == sum(p.numel() for p in T.LlamaForCausalLM(T.LlamaConfig(**TINY)).parameters())
    assert set(found.dtypes) == {"Q4_0", "Q8_0", "Q5_1", "F32"}
    reader = gguf.GGUFReader(mixed)
    assert found.nbytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert found.files == ("model.gguf",)


def test_doors(mixed):
    assert omniform.AutoConfig.from_pretrained(mixed).name_or_path == str(mixed)
    assert (
        type(omniform.AutoProcessor.from_pretrained(mixed)).__name__
        == type(omniform.AutoTokenizer.from_pretrained(mixed)).__name__
    )
    base = omniform.AutoModel.from_pretrained(mixed.parent, gguf_file=mixed.name)
    assert base(IDS).last_hidden_state.shape == (2, 12, 64)
    writer = omniform.pipeline("text-generation", str(mixed))
    assert writer("hello", max_new_tokens=4)[0]["generated_text"].startswith("hello")


# -- files that cannot be


UNKNOWN = {
    "no such architecture": ({"general.architecture": "mamba7"}, (), UnknownNameError, "mamba7.*llama"),
    "no size": ({}, (".embedding_length",), ConfigError, "lacks a key.*llama.embedding_length"),
    "a text for a size": ({".block_count": "two"}, (), ConfigError, "a whole number.*'two'"),
    "heads that turn in part": ({".rope.dimension_count": 8}, (), ConfigError, "the 16 numbers of a head; found 8"),
    "layers without end": ({".block_count": 2**31}, (), ConfigError, "at most 10000"),
    "heads without end": ({".attention.head_count": 2**31}, (), ConfigError, "head"),
    "no numbers": ({".feed_forward_length": 0}, (), ConfigError, "an integer >= 1; found 0"),
    "scaling that nobody knows": ({".rope.scaling.type": "warp"}, (), ConfigError, "none, linear, yarn.*warp"),
    "no tensor": ({}, ("blk.1.ffn_up.weight",), WeightsError, "missing model.layers.1.mlp.up_proj.weight"),
    "no vectors": ({}, ("token_embd.weight",), ConfigError, "lacks a tensor.*token_embd.weight"),
    "more tokens than vectors": (
        {"tokenizer.ggml.tokens": [f"t{i}" for i in range(300)]}, (), ConfigError, "at most 288 tokens; found 300",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_file_that_does_not_fit(plain, tmp_path, name):
    told, without, kind, words = UNKNOWN[name]
    tensors = {k: v for k, v in gguf_written.converted("llama", plain[0]).items() if k not in without}
    metadata = {**TOLD, **gguf_written.vocabulary(288), **told}
    metadata = {key: value for key, value in metadata.items() if key not in without}
    arch = metadata.pop("general.architecture", "llama")
    path = gguf_written.written(tmp_path / "model.gguf", arch, metadata, tensors)
    with pytest.raises(kind, match=f"(?s){words}"):
        omniform.AutoModelForCausalLM.from_pretrained(path)


MISSHAPEN = {
    "narrow rows": ("blk.1.ffn_up.weight", (96, 32), "up_proj.*expected.*found"),
    "few rows": ("blk.1.attn_q.weight", (32, 64), "q_proj.*expected.*found"),
    "no whole heads": ("blk.1.attn_k.weight", (31, 64), "attn_k.weight.*no whole heads.*31 rows|k_proj.*31, 64"),
    "rows of too many blocks": ("blk.1.ffn_down.weight", (64, 192), "down_proj.*expected.*found"),
}  # fmt: skip


@pytest.mark.parametrize("how", [{}, {"dequantize": True}])
@pytest.mark.parametrize("name", MISSHAPEN)
def test_a_tensor_of_another_shape(plain, tmp_path, name, how):
    key, shape, words = MISSHAPEN[name]
    tensors = {**gguf_written.converted("llama", plain[0]), key: np.ones(shape)}
    metadata = {**TOLD, **gguf_written.vocabulary(288)}
    path = gguf_written.written(tmp_path / "model.gguf", "llama", metadata, tensors, MIXED)
    with pytest.raises(WeightsError, match=f"(?s)model.gguf.*({words})"):
        omniform.AutoModelForCausalLM.from_pretrained(path, **how)


def test_a_tensor_without_a_place_and_a_type_that_is_not_read(plain, tmp_path):
    tensors = {**gguf_written.converted("llama", plain[0]), "blk.0.ssm_in.weight": np.zeros((4, 4))}
    path = gguf_written.written(tmp_path / "more.gguf", "llama", {**TOLD, **gguf_written.vocabulary(288)}, tensors)
    with pytest.raises(WeightsError, match=r"no place in this architecture.*blk.0.ssm_in.weight"):
        omniform.AutoModelForCausalLM.from_pretrained(path)
    path = llama(plain, tmp_path / "odd.gguf", {"ffn_up.weight": TYPES.Q8_0})
    raw = path.read_bytes()
    name = b"blk.0.ffn_up.weight"
    at = raw.index(name) + len(name) + 4 + 16
    assert raw[at] == TYPES.Q8_0
    path.write_bytes(raw[:at] + bytes([TYPES.IQ4_NL + 200]) + raw[at + 1 :])
    with pytest.raises(WeightsError, match="unknown type"):
        omniform.AutoConfig.from_pretrained(path)
    path.write_bytes(raw[:at] + bytes([TYPES.Q1_0]) + raw[at + 1 :])
    with pytest.raises(WeightsError, match=r"whole blocks of 128|not read.*found Q1_0"):
        omniform.AutoModelForCausalLM.from_pretrained(path)


WORDS = {
    "another kind of tokenizer": ({"tokenizer.ggml.model": "rwkv"}, "gpt2 or llama; found rwkv"),
    "another way of cutting": ({"tokenizer.ggml.pre": "qwen22"}, "qwen22.*qwen2"),
    "half a merge": ({"tokenizer.ggml.merges": ["he", "l l"]}, "a merge is a pair of tokens"),
    "a merge of nothing": ({"tokenizer.ggml.merges": ["zz zz"]}, "do not make a tokenizer"),
    "fewer types than tokens": ({"tokenizer.ggml.token_type": [1, 1]}, "288 numbers"),
    "no tokens": ({"tokenizer.ggml.tokens": [1, 2]}, "the file holds no tokens"),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_tokenizer_that_cannot_be(plain, tmp_path, name):
    told, words = WORDS[name]
    path = llama(plain, tmp_path / "model.gguf", told=told)
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        omniform.AutoTokenizer.from_pretrained(path)


def test_names_that_are_none(mixed, tmp_path):
    with pytest.raises(RepoError, match=r"there is no other.gguf; found .*model.gguf"):
        omniform.AutoConfig.from_pretrained(mixed.parent, gguf_file="other.gguf")
    with pytest.raises(RepoError, match="there is no such file"):
        omniform.AutoConfig.from_pretrained("nowhere.gguf")
    for name in ("../x.gguf", "/etc/x.gguf", 3, ""):
        with pytest.raises(InputError):
            omniform.AutoConfig.from_pretrained(mixed.parent, gguf_file=name)
    with pytest.raises(UnknownArgumentError, match="gguf_fil"):
        omniform.AutoModelForCausalLM.from_pretrained(mixed, gguf_fil="x.gguf")
    with pytest.raises(InputError, match="dequantize"):
        omniform.AutoModelForCausalLM.from_pretrained(mixed, dequantize="yes")


def test_the_ecosystems_settings(mixed, plain):
    packed = omniform.AutoModelForCausalLM.from_pretrained(
        mixed.parent, gguf_file=mixed.name, quantization_config=omniform.GgufConfig()
    )
    assert any(isinstance(module, Packed) for module in packed.modules())
    for settings in (omniform.GgufConfig(dequantize=True), {"quant_method": "gguf", "dequantize": True}):
        dense = omniform.AutoModelForCausalLM.from_pretrained(
            mixed.parent, gguf_file=mixed.name, quantization_config=settings
        )
        assert not any(isinstance(module, Packed) for module in dense.modules())
    assert vars(omniform.GgufConfig()).items() <= vars(T.GgufConfig()).items() | {("quant_method", "gguf")}
    with pytest.raises(InputError, match="gguf_file"):
        omniform.AutoModelForCausalLM.from_pretrained(plain[0], quantization_config=omniform.GgufConfig())
