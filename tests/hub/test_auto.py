"""The Auto classes: from a config, from an architecture's name, and the questions a model answers about itself."""

from __future__ import annotations

import pytest
import torch

from omniform import AutoConfig, AutoModel, AutoModelForCausalLM
from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError, OmniformError, UnknownArgumentError, UnknownNameError
from omniform.models import registry
from reference import omniform, randomise, transformers

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 3]])


def llama(**changes: object) -> ModelConfig:
    return AutoConfig.for_model("llama", **{**SIZES, **changes})


def test_the_same_seed_gives_the_same_weights():
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(AutoModelForCausalLM.from_config(llama()).state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert not torch.equal(models[0]["lm_head.weight"], models[2]["lm_head.weight"])


@pytest.mark.parametrize("std", [0.02, 0.5])
def test_fresh_weights(std):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(llama(initializer_range=std, attention_bias=True))
    for name, tensor in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (tensor == 1).all(), name
        elif name.endswith("bias"):
            assert not tensor.any(), name
        else:
            assert abs(tensor.std() / std - 1) < 0.1 and abs(tensor.mean()) < 0.1 * std, name
    assert torch.isfinite(model(IDS).logits).all()


def test_fresh_models():
    model = AutoModelForCausalLM.from_config(llama(), dtype="bfloat16", attn_implementation="eager")
    assert model.dtype == torch.bfloat16 and model.attn_backend == "eager" and model.device.type == "cpu"
    assert AutoModelForCausalLM.from_config(llama(), torch_dtype=torch.float16).dtype == torch.float16
    assert AutoModelForCausalLM.from_config(llama(dtype="float16"), dtype="auto").dtype == torch.float16
    assert AutoModelForCausalLM.from_config(llama()).dtype == torch.float32
    tied = AutoModelForCausalLM.from_config(llama(tie_word_embeddings=True))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    sample = omniform.AutoModelForSequenceClassification.from_config(llama(num_labels=3))
    assert sample(torch.tensor([[5, 6]])).logits.shape == (1, 3)


def test_from_config_refuses():
    with pytest.raises(UnknownArgumentError, match="Did you mean 'dtype'"):
        AutoModelForCausalLM.from_config(llama(), dtipe="float32")
    for wrong in ({"model_type": "llama"}, "llama", None, transformers.LlamaConfig()):
        with pytest.raises(InputError, match="ModelConfig"):
            AutoModelForCausalLM.from_config(wrong)
    AutoModelForCausalLM.from_config(llama(), trust_remote_code=True)  # there is no code, so there is none to trust
    with pytest.raises(ConfigError, match=r"num_hidden_layers.*10000"):
        llama(num_hidden_layers=10**7)
    with pytest.raises(ConfigError, match="num_labels"):
        llama(num_labels=10**9)
    with pytest.raises(ConfigError, match="sizes"):
        AutoModel.from_config(llama(vocab_size=2**50, hidden_size=2**50))


@pytest.mark.parametrize("tie", [False, True])
def test_numbers_equal_the_references(tie):
    ours = AutoModelForCausalLM.from_config(llama(tie_word_embeddings=tie))
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=tie))
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)
    assert ours.get_memory_footprint() == 4 * ours.num_parameters()
    for model in (ours, theirs):
        model.get_input_embeddings().weight.requires_grad = False
    assert ours.num_parameters(only_trainable=True) == theirs.num_parameters(only_trainable=True)


def test_parts():
    model = AutoModelForCausalLM.from_config(llama())
    assert model.base_model is model.model and model.base_model.base_model is model.model
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    assert AutoModel.from_config(llama()).get_output_embeddings() is None
    assert model.config.hidden_size == 64 and model.can_generate()
    assert model.model.config is model.config and type(model.model) is omniform.LlamaModel
    assert not hasattr(Model(), "config")  # a part of a model has none of its own


def test_a_model_prints_as_a_diagram():
    text = str(AutoModelForCausalLM.from_config(llama()))
    for line in (
        "(model): LlamaModel(", "(embed_tokens): Embedding(300, 64)", "(self_attn): Attention(",
        "(q_proj): Linear(in_features=64, out_features=64, bias=False)", "(lm_head): Linear(in_features=64",
    ):  # fmt: skip
        assert line in text, text
    assert "(0-1): 2 x PreNorm(" in text and max(map(len, text.splitlines())) < 120


def test_unknown_inputs_of_forward():
    model = AutoModelForCausalLM.from_config(llama())
    with pytest.raises(UnknownArgumentError, match=r"forward has no argument 'attention_maks'.*'attention_mask'"):
        model(IDS, attention_maks=None)
    assert isinstance(model(IDS, return_dict=False), tuple)


@pytest.mark.parametrize("auto", [n for n in omniform.__all__ if n.startswith("AutoModelFor")])
def test_every_auto_class_finds_a_head_or_says_which_there_are(auto):
    loader = getattr(omniform, auto)
    built = 0
    for model_type in registry.known_families():
        config = AutoConfig.for_model(model_type)
        try:
            _, kind = loader.choose(config)
        except UnknownNameError as error:
            assert model_type in str(error) and auto in str(error) and "Another Auto class" in str(error)
        else:
            assert set(loader.tasks) & set(kind.place.architecture.tasks)
            assert registry.family(model_type).classes[kind.__name__] is kind
            built += 1
    assert built, "no family does this"


def test_a_family_without_that_head():
    with pytest.raises(UnknownNameError, match=r"llama models have no head for AutoModelForObjectDetection.*causal-lm"):
        omniform.AutoModelForObjectDetection.from_config(llama())


def test_the_class_of_one_architecture():
    assert isinstance(omniform.LlamaForCausalLM.from_config(llama()), type(AutoModelForCausalLM.from_config(llama())))
    with pytest.raises(AttributeError):
        omniform.LlamaForNothing  # noqa: B018
    with pytest.raises(UnknownNameError, match="no LlamaForCausalLM"):
        omniform.LlamaForCausalLM.from_config(AutoConfig.for_model("gpt2"))


def test_auto_classes_are_not_built():
    with pytest.raises(OmniformError, match=r"AutoModelForCausalLM.from_pretrained"):
        AutoModelForCausalLM()


def test_a_family_of_ones_own(monkeypatch, tmp_path):
    from dataclasses import replace

    monkeypatch.setattr(registry, "_REGISTERED", {})
    with pytest.raises(ConfigError, match="taken"):
        AutoConfig.register(registry.family("llama"))
    AutoConfig.register(replace(registry.family("llama"), model_type="my-llama"))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("my-llama", **SIZES))
    model.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.model_type == "my-llama"


def test_gradients_and_half_precision_of_a_fresh_model():
    model = AutoModelForCausalLM.from_config(llama(), dtype="bfloat16")
    randomise(model)
    model(IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
