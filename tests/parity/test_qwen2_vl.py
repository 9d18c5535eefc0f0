"""Qwen2-VL and Qwen2.5-VL against the reference: pictures and films of any sizes among the tokens."""

from __future__ import annotations

from askers import Given
from harness import Head, Parity, Table
from sighted import SPECIAL, TEXT, Sights

from reference import transformers

ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}}
VISION = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "mlp_ratio": 2}
WINDOWED = {
    "depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "intermediate_size": 24, "out_hidden_size": 16,
    "window_size": 8, "fullatt_block_indexes": [1], "tokens_per_second": 3,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "other sections": {"text": {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}},
    "tied": {"tie_word_embeddings": True},
    "windows": {"text": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}},
    "stretched": {
        "text": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "mrope_section": [1, 1, 2]}}
    },
    "dynamic": {
        "text": {
            "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "mrope_section": [1, 1, 2]},
            "max_position_embeddings": 12,
        }
    },
}  # fmt: skip


def table(model_type, prefix, vision, sights):
    def config(**changes):
        text, seen = changes.pop("text", {}), changes.pop("vision", {})
        return getattr(transformers, f"{prefix}Config")(
            text_config={**TEXT, **ROPE, **text}, vision_config={**vision, **seen}, **SPECIAL, **changes
        )

    return Table(
        model_type=model_type,
        config=config,
        config_class=getattr(transformers, f"{prefix}Config"),
        tiny={},
        heads={
            "Model": Head(f"{prefix}Model", "AutoModel", Given(lambda _: sights.read("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                f"{prefix}ForConditionalGeneration", "AutoModelForImageTextToText",
                Given(lambda _: sights.written_on(), lambda _: sights.lesson()), everywhere=True,
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", sights),
        writing=["plain", "windows"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"in memory": in_memory},
    )  # fmt: skip


def in_memory(key):
    """As today's modules are called."""
    if key.startswith("model.") and not key.startswith("model.language_model"):
        return key.replace("model.", "model.language_model.", 1)
    return f"model.{key}" if key.startswith("visual") else key


class TestQwen2VL(Parity):
    table = table("qwen2_vl", "Qwen2VL", VISION, Sights())


class TestQwen25VL(Parity):
    table = table("qwen2_5_vl", "Qwen2_5_VL", WINDOWED, Sights(timed=True))
