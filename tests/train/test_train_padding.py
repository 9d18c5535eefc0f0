"""The padding token's vector while a model is trained: as the reference's tables with a ``padding_idx`` keep it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import omniform
from omniform.models import registry
from omniform.models.index import FAMILIES
from reference import transformers

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
SETTINGS = {
    "detr": {"use_timm_backbone": False, "backbone": None}, "esm": {"vocab_size": 33},
    "gemma3": {"mm_tokens_per_image": 49},  # as its vision's own defaults have patches for
    # Pictures as wide as the text: their configs alone do not fit together.
    "qwen2_vl": {"vision_config": {"hidden_size": 8192}}, "qwen2_5_vl": {"vision_config": {"out_hidden_size": 8192}},
    "qwen3_vl": {"vision_config": {"out_hidden_size": 4096}},
    "qwen3_vl_moe": {"vision_config": {"out_hidden_size": 2048}},
    "qwen3_omni_moe_thinker": {
        "vision_config": {"out_hidden_size": 2048}, "audio_config": {"output_dim": 2048},
    },
}  # fmt: skip


def padding_of(model: nn.Module) -> set[int | None]:
    words = ("embed_tokens", "word_embeddings", "tok_embeddings", "shared", "wte", "embeddings", "embed_in",
             "tokens_embed", "token_embedding")  # fmt: skip
    tables = [m for n, m in model.named_modules() if isinstance(m, nn.Embedding) and n.rpartition(".")[2] in words]
    return {table.padding_idx for table in tables}


# The reference names no such class, or cannot make it of its own defaults (a talker has experts of no size).
UNKNOWN = {"qwen3_omni_moe", "qwen3_omni_moe_talker", "qwen3_omni_moe_talker_text", "qwen3_omni_moe_code2wav"}
PICTURES_AND_SOUNDS = ("pixel_values", "input_features", "hidden_states")
READS_TEXTS = [
    name
    for name in FAMILIES
    if name not in UNKNOWN
    and not name.endswith(("_vision", "_vision_encoder", "_audio_encoder"))
    and registry.family(name).base.skeleton.main_input not in PICTURES_AND_SOUNDS
]


@pytest.mark.parametrize("model_type", READS_TEXTS)
def test_every_family_keeps_the_padding_token_as_the_reference_does(model_type: str) -> None:
    family = registry.family(model_type)
    config = getattr(
        transformers, family.config_class.__name__
    )  # fmt: skip
    theirs = config(**SETTINGS.get(model_type, {}))
    inner = theirs.get_text_config() if model_type == "llava" else theirs
    inner.pad_token_id = 1
    if model_type == "clip":
        theirs.text_config.pad_token_id = 1
    written = {key: value for key, value in theirs.to_dict().items() if not key.startswith("_")}
    with torch.device("meta"):
        expected = padding_of(getattr(transformers, family.base.name)(copy.deepcopy(theirs)))
        ours = family.classes[family.base.name](omniform.AutoConfig.for_model(**written))
    assert padding_of(ours) == expected


@pytest.mark.parametrize("name", ["Bert", "Roberta", "MPNet"])
def test_gradients_of_padded_rows_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{name}Config")(**SIZES, max_position_embeddings=40, pad_token_id=1)
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{name}ForQuestionAnswering")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    theirs.save_pretrained(tmp_path)
    ours = omniform.AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    ids = torch.randint(4, 50, (3, 9))
    ids[1, 5:] = ids[2, 7:] = 1
    batch = {"input_ids": ids, "attention_mask": (ids != 1).long(),
             "start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([4, 3, 5])}  # fmt: skip
    norms = []
    for model in (theirs, ours):
        model(**batch).loss.backward()
        grads: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(sorted(float(g.norm()) for g in grads))
    torch.testing.assert_close(torch.tensor(norms[1]), torch.tensor(norms[0]), rtol=1e-4, atol=1e-5)
    assert not ours.get_input_embeddings().weight.grad[1].any()


def test_a_table_of_another_size_keeps_its_padding() -> None:
    model = omniform.BertForMaskedLM(omniform.BertConfig(**SIZES, max_position_embeddings=40, pad_token_id=3))
    model.resize_token_embeddings(60)
    assert model.get_input_embeddings().padding_idx == 3
    model.resize_token_embeddings(3)
    assert model(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, 3)
