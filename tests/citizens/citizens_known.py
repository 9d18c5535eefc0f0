"""What does not hold yet: by check, the models it fails for. A listed one that holds fails the test, so that the lists
stay true and only shrink."""

from __future__ import annotations

from collections.abc import Mapping

KNOWN: Mapping[str, frozenset[str]] = {
    "test_pickle": frozenset(
        {
            "gpt2, two heads",
        }
    ),
    "test_torch_save": frozenset(
        {
            "gpt2, two heads",
        }
    ),
    "test_hasattr_on_every_part": frozenset(
        {
            "clip",
            "detr, outlines",
            "t5",
            "t5, rows",
            "whisper",
        }
    ),
    "test_built_in_inference_mode_and_gradients": frozenset(
        {
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
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
        }
    ),
    "test_export": frozenset(
        {
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
        }
    ),
    "test_export, masked": frozenset(
        {
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
        }
    ),
    "test_compile": frozenset(
        {
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
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
            "whisper",
        }
    ),
    "test_compile, masked": frozenset(
        {
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
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
            "whisper",
        }
    ),
    "test_jit_trace": frozenset(
        {
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
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
        }
    ),
    "test_no_value_is_read": frozenset(
        {
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
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
            "whisper",
        }
    ),
    "test_no_value_is_read, masked": frozenset(
        {
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
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
            "whisper",
        }
    ),
    "test_meta, masked": frozenset(
        {
            "bert",
            "bert, choices",
            "bert, decoder",
            "bert, rows",
            "clip",
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
            "whisper",
        }
    ),
    "test_meta": frozenset({"detr", "detr, outlines", "llava", "t5, rows"}),
    "test_spawned_process": frozenset({"gpt2, two heads"}),
    "test_outputs_are_pytrees": frozenset(
        {
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
        }
    ),
}

INPUTS_KNOWN: Mapping[str, frozenset[str]] = {
    "test_fingerprint_is_stable": frozenset({"sounds"}),
}
