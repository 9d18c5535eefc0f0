"""Every family has a table, and the families that are due are there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from askers import Nothing, Text
from harness import TABLES, Head, Table, build, transformers

from omniform.models.registry import known_families

DUE = {
    "albert",
    "bamba",
    "bart",
    "bert",
    "blenderbot",
    "blenderbot-small",
    "bloom",
    "bridgetower",
    "camembert",
    "clip",
    "clip_text_model",
    "clip_vision_model",
    "codegen",
    "cohere",
    "cohere2",
    "conditional_detr",
    "convnext",
    "convnextv2",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "deepseek_v2",
    "deepseek_v3",
    "deformable_detr",
    "detr",
    "dinov3_convnext",
    "distilbert",
    "electra",
    "esm",
    "falcon",
    "falcon_h1",
    "falcon_mamba",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granitemoe",
    "granitemoeshared",
    "layoutlmv3",
    "llama",
    "llava",
    "lxmert",
    "m2m_100",
    "mamba",
    "mamba2",
    "marian",
    "mbart",
    "mistral",
    "mixtral",
    "mobilenet_v2",
    "modernbert",
    "modernbert-decoder",
    "mpnet",
    "mt5",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "openai-gpt",
    "opt",
    "pegasus",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "resnet",
    "roberta",
    "roberta-prelayernorm",
    "rt_detr",
    "sam",
    "sam2",
    "sam2_hiera_det_model",
    "sam2_vision_model",
    "sam_vision_model",
    "rt_detr_resnet",
    "rt_detr_v2",
    "smollm3",
    "stablelm",
    "starcoder2",
    "t5",
    "table-transformer",
    "timm_backbone",
    "timm_wrapper",
    "umt5",
    "vilt",
    "vit",
    "whisper",
    "xlm-roberta",
    "xlm-roberta-xl",
}
"""Families that must be registered, one a line, sorted.

One that is in a table and not here is collected when it is registered.
"""


def test_families_that_are_due_are_registered() -> None:
    assert set(known_families()) >= DUE


def test_every_family_has_a_table() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        import_module(path.stem)
    assert set(known_families()) >= DUE
    assert {table.model_type for table in TABLES} >= DUE


def test_a_case_of_another_content_is_built_anew() -> None:
    """Two tables may call their cases by the same names."""
    heads = {"Model": Head("LlamaModel", "AutoModel", Text(Nothing()))}
    tiny = {
        "vocab_size": 11,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    one, wide = (
        Table(model_type="llama", config=transformers.LlamaConfig, tiny={**tiny, **more}, heads=heads)
        for more in ({}, {"hidden_size": 12})
    )
    assert build(one.case("Model")).ours.config.hidden_size == 8
    assert build(wide.case("Model")).ours.config.hidden_size == 12
    assert build(one.case("Model")) is build(one.case("Model"))
