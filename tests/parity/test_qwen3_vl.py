"""Qwen3-VL against the reference: films with the time between their frames, and what is told to the first layers."""

from __future__ import annotations

from askers import Given
from harness import Head, Parity, Table
from sighted import SPECIAL, TEXT, Sights

from reference import transformers

ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]}, "head_dim": 8}
VISION = {
    "depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "intermediate_size": 24, "out_hidden_size": 16,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
SIGHTS = Sights(stamped=True)
VARIANTS = {
    "plain": {},
    "other sections": {"text": {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2, 1]}}},
    "tied": {"tie_word_embeddings": True, "text": {"attention_bias": True}},
    "told to the last layer": {"vision": {"deepstack_visual_indexes": [1, 0]}},
    "not told": {"vision": {"deepstack_visual_indexes": []}},
    "one layer": {"text": {"num_hidden_layers": 1}, "vision": {"deepstack_visual_indexes": [0, 1]}},
}


def config(**changes):
    text, seen = changes.pop("text", {}), changes.pop("vision", {})
    return transformers.Qwen3VLConfig(
        text_config={**TEXT, **ROPE, **text}, vision_config={**VISION, **seen}, **SPECIAL, **changes
    )


class TestQwen3VL(Parity):
    table = Table(
        model_type="qwen3_vl",
        config=config,
        config_class=transformers.Qwen3VLConfig,
        tiny={},
        heads={
            "Model": Head("Qwen3VLModel", "AutoModel", Given(lambda _: SIGHTS.read("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                "Qwen3VLForConditionalGeneration", "AutoModelForImageTextToText",
                Given(lambda _: SIGHTS.written_on(), lambda _: SIGHTS.lesson()), everywhere=True,
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", SIGHTS),
        writing=["plain", "told to the last layer"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
    )  # fmt: skip
