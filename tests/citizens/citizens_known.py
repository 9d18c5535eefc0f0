"""What does not hold yet: by check, the models it fails for. A listed one that holds fails the test, so that the lists
stay true and only shrink."""

from __future__ import annotations

from collections.abc import Mapping

KNOWN: Mapping[str, frozenset[str]] = {
    "test_built_in_inference_mode_and_gradients": frozenset(
        [
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
            "gpt2",
            "gpt2, two heads",
            "llava",
            "t5",
            "t5, rows",
            "vit",
            "whisper",
        ]
    ),
    "test_compile": frozenset(["detr", "detr, outlines", "llava"]),
    "test_compile, masked": frozenset(["detr", "detr, outlines", "llava"]),
    "test_export": frozenset(
        [
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
            "clip, pictures",
            "clip, text",
            "detr",
            "detr, outlines",
            "gpt2",
            "gpt2, two heads",
            "llama",
            "llama, dynamic",
            "llama, rows",
            "llava",
            "mistral",
            "t5",
            "t5, rows",
            "vit",
            "whisper",
        ]
    ),
    "test_export, masked": frozenset(
        [
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
            "clip, pictures",
            "clip, text",
            "detr",
            "detr, outlines",
            "gpt2",
            "gpt2, two heads",
            "llama",
            "llama, dynamic",
            "llama, rows",
            "llava",
            "mistral",
            "t5",
            "t5, rows",
            "vit",
            "whisper",
        ]
    ),
    "test_jit_trace": frozenset(["clip", "detr, outlines", "llava", "t5", "t5, rows", "whisper"]),
    "test_meta": frozenset(["llava"]),
    "test_meta, masked": frozenset(["llava"]),
    "test_no_value_is_read": frozenset(["llava", "t5, rows"]),
    "test_no_value_is_read, masked": frozenset(["llava", "t5, rows"]),
    "test_outputs_are_pytrees": frozenset(
        [
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
            "clip, pictures",
            "clip, text",
            "detr",
            "detr, outlines",
            "gpt2",
            "gpt2, two heads",
            "llama",
            "llama, dynamic",
            "llama, rows",
            "llava",
            "mistral",
            "t5",
            "t5, rows",
            "vit",
            "whisper",
        ]
    ),
}

INPUTS_KNOWN: Mapping[str, frozenset[str]] = {
    "test_fingerprint_is_stable": frozenset({"sounds"}),
}
