"""What PEFT, accelerate and the reference's Trainer ask of a model: embeddings, resizing, checkpointing, names."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import omniform
from omniform import AutoModel
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.models import registry
from reference import close, saved_reference, transformers

SIZES = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {
    "vocab_size": 60,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
T5 = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "num_decoder_layers": 2,
      "decoder_start_token_id": 0}  # fmt: skip
IDS = torch.tensor([[1, 5, 9, 33], [7, 8, 2, 3]])

WRITERS = {
    "tied": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "untied": ("LlamaForCausalLM", "LlamaConfig", SIZES),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "bert": ("BertForMaskedLM", "BertConfig", SIZES),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5 untied": ("T5ForConditionalGeneration", "T5Config", {**T5, "tie_word_embeddings": False}),
}  # fmt: skip


def pair(name: str, folder: Path):
    kind, config, sizes = WRITERS[name]
    theirs = saved_reference(getattr(transformers, kind), getattr(transformers, config)(**sizes), folder)
    return getattr(omniform, kind).from_pretrained(folder), theirs


def inputs(name: str) -> dict[str, torch.Tensor]:
    return {"input_ids": IDS, "labels": IDS} if "t5" in name else {"input_ids": IDS}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("tokens", "multiple"), [(70, None), (50, None), (None, 64), (61, 16)])
def test_resizing_as_the_reference(name, tokens, multiple, tmp_path):
    ours, theirs = pair(name, tmp_path / "a")
    torch.manual_seed(0)
    theirs.resize_token_embeddings(tokens, multiple)
    table = ours.resize_token_embeddings(tokens, multiple)
    rows = theirs.get_input_embeddings().weight.shape[0]
    assert table is ours.get_input_embeddings() and table.weight.shape[0] == table.num_embeddings == rows
    assert ours.config.vocab_size == theirs.config.vocab_size == rows
    head, other = ours.get_output_embeddings(), theirs.get_output_embeddings()
    assert (head.weight is table.weight) == (other.weight is theirs.get_input_embeddings().weight)
    close(table.weight.detach(), theirs.get_input_embeddings().weight.detach(), "table", 1e-3)  # a few draws aside
    ids = IDS % rows
    given = dict.fromkeys(inputs(name), ids)
    close(ours(**given).logits.detach(), theirs(**given).logits.detach(), "logits", 5e-3)
    ours.save_pretrained(tmp_path / "b")
    again = type(ours).from_pretrained(tmp_path / "b")
    assert torch.equal(again(**given).logits, ours(**given).logits)


def test_resizing_a_model_of_two(tmp_path):
    text = omniform.LlamaConfig(**SIZES)
    vision = omniform.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = omniform.LlavaConfig(text_config=text, vision_config=vision, image_token_index=59)
    model = omniform.LlavaForConditionalGeneration(config).eval()
    model.resize_token_embeddings(70)
    assert model.config.text_config.vocab_size == 70 and model.lm_head.out_features == 70
    model.save_pretrained(tmp_path)
    again = omniform.LlavaForConditionalGeneration.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 69, 5]])
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("wrong", [0, -3, 2.5, "70", torch.tensor(70), True, [70]])
def test_no_number_of_tokens(wrong):
    model = omniform.LlamaForCausalLM(omniform.LlamaConfig(**SIZES))
    with pytest.raises(InputError, match="no number of tokens"):
        model.resize_token_embeddings(wrong)
    with pytest.raises(InputError, match="no number of tokens"):
        model.resize_token_embeddings(70, pad_to_multiple_of=wrong)


@pytest.mark.parametrize("name", ["tied", "untied", "bert", "t5"])
def test_other_embeddings(name, tmp_path):
    ours, theirs = pair(name, tmp_path)
    torch.manual_seed(1)
    table = nn.Embedding(60, 16)
    ours.set_input_embeddings(copy.deepcopy(table))
    theirs.set_input_embeddings(copy.deepcopy(table))
    theirs.tie_weights()
    close(ours(**inputs(name)).logits.detach(), theirs(**inputs(name)).logits.detach())
    head = nn.Linear(16, 60, bias=name == "bert")
    ours.set_output_embeddings(head)
    assert ours.get_output_embeddings() is head and ours(**inputs(name)).logits.shape[-1] == 60


@pytest.mark.parametrize("model_type", registry.known_families())
def test_gradient_checkpointing_gives_equal_gradients(model_type):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16}
    seen = {**sizes, "image_size": 8, "patch_size": 4}
    many = {
        "t5": T5, "gpt2": GPT2,
        "whisper": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
                    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 60,
                    "max_source_positions": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                    "decoder_start_token_id": 1},
        "clip": {"text_config": sizes, "vision_config": seen}, "clip_vision_model": seen, "vit": seen,
        "llama": SIZES, "mistral": {**SIZES, "num_key_value_heads": 1}, "bert": SIZES, "clip_text_model": SIZES,
    }  # fmt: skip
    if model_type not in many:
        pytest.skip("built of the others' layers")
    pixels = {"pixel_values": torch.randn(2, 3, 8, 8)}
    given = {
        "t5": {"input_ids": IDS, "decoder_input_ids": IDS}, "clip": {**pixels, "input_ids": IDS}, "vit": pixels,
        "clip_vision_model": pixels, "whisper": {"input_features": torch.randn(2, 80, 40), "decoder_input_ids": IDS},
    }.get(model_type, {"input_ids": IDS})  # fmt: skip
    torch.manual_seed(0)
    model = AutoModel.from_config(omniform.AutoConfig.for_model(model_type, **many[model_type]))
    calls = []
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and hasattr(m[0], "mlp")]
    for stack in stacks:
        for layer in stack:
            layer.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        calls.clear()
        torch.manual_seed(3)  # dropout
        out = model(**given)
        (out[0] if not hasattr(out, "logits_per_image") else out.logits_per_image).float().pow(2).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain, once = gradients(), len(calls)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.is_gradient_checkpointing
    again = gradients()
    assert len(calls) == 2 * once and once == sum(map(len, stacks))
    assert len(plain) == len(again) and all(
        # What layers share (T5's bias) is made once for each of them, so that its gradient is summed in another order.
        torch.allclose(a, b, rtol=1e-4, atol=1e-4) if model_type == "t5" else torch.equal(a, b)
        for a, b in zip(plain, again, strict=True)
    )
    model.eval()
    gradients()
    assert len(calls) == once  # in training only
    model.train().gradient_checkpointing_disable()
    gradients()
    assert len(calls) == once and not model.is_gradient_checkpointing
    with pytest.raises(UnknownArgumentError, match="use_reentrant"):
        model.gradient_checkpointing_enable({"use_reentrnt": False})


def test_adapters_need_gradients_of_inputs():
    model = omniform.LlamaForCausalLM(omniform.LlamaConfig(**SIZES)).requires_grad_(False)
    model.enable_input_require_grads()
    assert pickle.loads(pickle.dumps(model))(IDS).logits.requires_grad and model(IDS).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(IDS).logits.requires_grad


def test_the_next_inputs_as_the_reference(tmp_path):
    ours, theirs = pair("untied", tmp_path)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    first = ours.prepare_inputs_for_generation(IDS[:, :3], attention_mask=mask[:, :3])
    state = ours(**first).past_key_values
    given = ours.prepare_inputs_for_generation(IDS, past_key_values=state, attention_mask=mask, use_cache=True)
    assert torch.equal(given["input_ids"], IDS[:, 3:]) and given["position_ids"].tolist() == [[2], [3]]
    right = theirs(IDS, attention_mask=mask, position_ids=torch.tensor([[0, 0, 1, 2], [0, 1, 2, 3]])).logits[:, -1]
    close(ours(**given).logits[:, -1].detach(), right.detach())


def test_the_loss_is_divided_by_the_items_of_all_batches(tmp_path):
    for name in ("untied", "gpt2"):
        ours, theirs = pair(name, tmp_path / name)
        labels = IDS.masked_fill(IDS == 9, -100)
        for items in (17, torch.tensor(5)):
            close(
                ours(IDS, labels=labels, num_items_in_batch=items).loss.detach(),
                theirs(IDS, labels=labels, num_items_in_batch=items).loss.detach(),
            )


@pytest.mark.parametrize("model_type", ["llama", "bert", "gpt2"])
def test_inert_inputs(model_type):
    sizes = GPT2 if model_type == "gpt2" else SIZES
    model = AutoModel.from_config(omniform.AutoConfig.for_model(model_type, **sizes)).eval()
    plain = model(IDS, use_cache=False)[0]
    given = {"cache_position": torch.arange(4), "num_items_in_batch": 3, "synced_gpus": False, "use_cache": False}
    assert torch.equal(model(IDS, return_dict=True, **given)[0], plain)


def test_names_that_tools_read():
    model = omniform.LlamaForCausalLM(omniform.LlamaConfig(**SIZES, tie_word_embeddings=True))
    assert model._no_split_modules == ["PreNorm"] and model._tied_weights_keys == {
        "lm_head.weight": "model.embed_tokens.weight"
    }
    assert (
        omniform.LlamaForCausalLM.base_model_prefix == "model" and omniform.BertForMaskedLM.base_model_prefix == "bert"
    )
    assert model.main_input_name == omniform.LlamaForCausalLM.main_input_name == "input_ids"
    assert omniform.ViTModel.main_input_name == "pixel_values" and model.framework == "pt"
    assert omniform.LlamaForCausalLM.config_class is omniform.LlamaConfig
    assert model.supports_gradient_checkpointing and model._supports_sdpa and not model.is_parallelizable
    model.warnings_issued["estimate_tokens"] = True
    model.add_model_tags("mine")
    model.add_model_tags(["mine", "yours"])
    assert model.warnings_issued == {"estimate_tokens": True} and model.model_tags == ["mine", "yours"]
    assert hasattr(model, "_hf_peft_config_loaded") and not hasattr(model, "nothing_of_the_kind")


@pytest.mark.parametrize("name", WRITERS)
def test_state_dicts_in_either_spelling(name, tmp_path):
    ours, theirs = pair(name, tmp_path)
    right = ours(**inputs(name)).logits
    for spelled in (theirs.state_dict(), ours.state_dict(), {f"module.{k}": v for k, v in theirs.state_dict().items()}):
        fresh = type(ours)(ours.config).eval()
        result = fresh.load_state_dict(spelled)
        assert not result.missing_keys and not result.unexpected_keys
        assert torch.equal(fresh(**inputs(name)).logits, right)
    some = dict(list(theirs.state_dict().items())[:2])
    with pytest.raises(RuntimeError, match="Missing"):
        fresh.load_state_dict(some)
    with pytest.raises(RuntimeError, match="nonsense"):
        fresh.load_state_dict({**theirs.state_dict(), "nonsense": torch.zeros(1)})
    assert "nonsense" in fresh.load_state_dict({**theirs.state_dict(), "nonsense": torch.zeros(1)}, strict=False)[1]
    with pytest.raises(InputError, match="state_dict"):
        fresh.load_state_dict([1])


def test_modules_by_the_names_that_adapters_use():
    bert = omniform.BertForMaskedLM(omniform.BertConfig(**SIZES))
    assert bert.target_modules("query") == [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
    gpt2 = omniform.GPT2LMHeadModel(omniform.GPT2Config(**GPT2))
    parts = [f"model.layers.{i}.self_attn.{n}_proj" for i in range(2) for n in "qkv"]
    assert gpt2.target_modules("c_attn") == parts
    t5 = omniform.T5ForConditionalGeneration(omniform.T5Config(**T5))
    assert len(t5.target_modules("q", "v")) == 12
    with pytest.raises(InputError, match="'querry'"):
        bert.target_modules("querry")


def test_parts_by_name(tmp_path):
    for name, encoder, decoder in (("t5", "encoder", "decoder"), ("tied", "", "model"), ("bert", "", "bert")):
        ours, theirs = pair(name, tmp_path / name)
        found = {id(module): path for path, module in ours.named_modules()}
        assert found[id(ours.get_encoder())] == ("model.encoder" if encoder else "")
        assert found[id(ours.get_decoder())] == ("model.decoder" if decoder == "decoder" else "model")
        assert theirs.get_decoder() is theirs.get_submodule(decoder)
