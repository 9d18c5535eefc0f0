"""Tiny models of every family that writes, and what the reference answers with each, for tests of the engine."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from omniform.core.errors import InputError
from omniform.engine.engine import Engine
from omniform.engine.paged_state import MEMORY
from omniform.engine.request import Completion
from reference import omniform, ragged, saved_reference, transformers

VOCABULARY = 61
IMAGE = 60
NEW = 10

TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip


def rope(kind: str, **settings: object) -> dict[str, object]:
    """Rotary settings of a config."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


def _llama(**changes: object) -> tuple[type, object, type]:
    config = transformers.LlamaConfig(**{**TEXT, **changes})
    return transformers.LlamaForCausalLM, config, omniform.AutoModelForCausalLM


def _mistral(**changes: object) -> tuple[type, object, type]:
    config = transformers.MistralConfig(**{**TEXT, "sliding_window": 7, **changes})
    return transformers.MistralForCausalLM, config, omniform.AutoModelForCausalLM


def _gpt2() -> tuple[type, object, type]:
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=96, **SPECIAL)
    return transformers.GPT2LMHeadModel, config, omniform.AutoModelForCausalLM


def _bert() -> tuple[type, object, type]:
    text = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
    return (
        transformers.BertLMHeadModel,
        transformers.BertConfig(**text, is_decoder=True),
        omniform.AutoModelForCausalLM,
    )


def _t5(**changes: object) -> tuple[type, object, type]:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, num_decoder_layers=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, pad_token_id=0, eos_token_id=2,
        decoder_start_token_id=0, **changes,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration, config, omniform.AutoModelForSeq2SeqLM


def _whisper() -> tuple[type, object, type]:
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=8, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_source_positions=20, max_target_positions=96, decoder_start_token_id=3, suppress_tokens=None,
        begin_suppress_tokens=None, **SPECIAL,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration, config, omniform.AutoModelForSpeechSeq2Seq


def _llava(**text: object) -> tuple[type, object, type]:
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**{**TEXT, **text}),
        vision_config=transformers.CLIPVisionConfig(**VISION),
        image_token_index=IMAGE,
    )
    return transformers.LlavaForConditionalGeneration, config, omniform.AutoModelForImageTextToText


LONGROPE = {
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0], "factor": 2.0,
    "original_max_position_embeddings": 18,
}  # fmt: skip
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}

MAKERS = {
    "llama": _llama,
    "llama ungrouped": lambda: _llama(num_key_value_heads=4),
    "llama one key head": lambda: _llama(num_key_value_heads=1, head_dim=6),
    "llama dynamic": lambda: _llama(**rope("dynamic", factor=4.0), max_position_embeddings=18),
    "llama longrope": lambda: _llama(**rope("longrope", **LONGROPE)),
    "llama yarn": lambda: _llama(**rope("yarn", factor=4.0, original_max_position_embeddings=24)),
    "llama llama3": lambda: _llama(**rope("llama3", **LLAMA3)),
    "mistral": _mistral,
    "mistral mixed": lambda: _mistral(num_hidden_layers=3),
    "gpt2": _gpt2,
    "bert": _bert,
    "t5": _t5,
    "t5 gated": lambda: _t5(feed_forward_proj="gated-gelu"),
    "whisper": _whisper,
    "llava": _llava,
}
SCALES = {"t5": 1.2, "t5 gated": 1.2, "whisper": 0.8, "gpt2": 0.8, "bert": 0.3}


@dataclass(eq=False)
class Family:
    """A tiny model, the reference's twin, and how to ask them.

    Attributes:
        kind: what stands beside the tokens: ``"text"``, ``"picture"``, ``"sound"`` or ``"encoded"`` (a text).
    """

    name: str
    ours: omniform.Model
    theirs: nn.Module
    kind: str
    known: dict[str, list[int]] = field(default_factory=dict)

    @property
    def has_items(self) -> bool:
        """Whether an encoder reads something beside the tokens."""
        return self.kind != "text"

    def prompt(self, tokens: Sequence[int], item: int = 0) -> object:
        """Tokens with one of many pictures, sounds or texts."""
        tokens = [int(t) for t in tokens]
        match self.kind:
            case "text":
                return tokens
            case "picture":
                ids = [*tokens[:1], *[IMAGE] * 4, *tokens[1:]]
                return {
                    "input_ids": torch.tensor([ids]),
                    "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
                    "pixel_values": picture(item),
                }
            case "sound":
                return {"input_features": sound(item), "decoder_input_ids": torch.tensor([[3, *tokens]])}
            case _:
                ids = torch.stack(ragged(VOCABULARY - 1, [3 + 4 * item % 21], seed=100 + item))
                return {"input_ids": ids, "decoder_input_ids": torch.tensor([[0, *tokens]])}

    def continued(self, prompt: object, tokens: Sequence[int]) -> object:
        """A prompt and what is said after it."""
        if isinstance(prompt, list):
            return [*prompt, *tokens]
        assert isinstance(prompt, dict)
        name = "input_ids" if self.kind == "picture" else "decoder_input_ids"
        grown = torch.cat([prompt[name], torch.tensor([list(tokens)], dtype=torch.long)], 1)
        mask = {"attention_mask": torch.ones_like(grown)} if self.kind == "picture" else {}
        return {**prompt, name: grown, **mask}

    def expected(self, prompt: object, **settings: object) -> list[int]:
        """What the reference writes after a prompt, the row alone."""
        key = repr((prompt, sorted(settings.items())))
        if key not in self.known:
            self.known[key] = self._generated(prompt, settings)
        return self.known[key]

    def _generated(self, prompt: object, settings: dict[str, object]) -> list[int]:
        inputs = {"input_ids": torch.tensor([prompt])} if isinstance(prompt, list) else dict(prompt)  # type: ignore[call-overload]
        before = inputs.get("decoder_input_ids", inputs.get("input_ids")).shape[1]
        if "input_ids" in inputs:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        # Dynamic rotary scaling remembers the longest row that it has seen.
        model = copy.deepcopy(self.theirs) if "dynamic" in self.name else self.theirs
        asked = {"max_new_tokens": NEW, "do_sample": False, **settings}
        out = transformers.GenerationMixin.generate(model, **inputs, **asked)
        found: list[int] = out[0, before:].tolist()
        return found


def picture(number: int) -> Tensor:
    """One of many pictures."""
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(number))


def sound(number: int) -> Tensor:
    """One of many sounds."""
    return torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(number))


@cache
def family(name: str, backend: str = "sdpa") -> Family:
    """A family's tiny model, made once."""
    if backend != "sdpa":
        twin = family(name)
        ours = _loaded(name, backend)[0]
        return Family(name, ours, twin.theirs, twin.kind, twin.known)
    ours, theirs = _loaded(name, backend)
    kind = {"t5": "encoded", "whisper": "sound", "llava": "picture"}.get(name.split()[0], "text")
    return Family(name, ours, theirs, kind)


def _loaded(name: str, backend: str) -> tuple[omniform.Model, nn.Module]:
    model_class, config, auto = MAKERS[name]()
    with tempfile.TemporaryDirectory() as folder:
        theirs = saved_reference(model_class, config, Path(folder), scale=SCALES.get(name, 0.4))
        if name == "mistral mixed":
            # To the reference's Auto classes, a config that tells layers apart is a Ministral.
            path = Path(folder) / "config.json"
            kinds = ["sliding_attention", "full_attention", "sliding_attention"]
            path.write_text(json.dumps({**json.loads(path.read_text()), "layer_types": kinds}))
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        # Loaded tensors are views into mapped files, which live on when the folder is gone.
        ours = auto.from_pretrained(folder, attn_implementation=backend)
    return ours, theirs


def roomy(model: omniform.Model, **options: object) -> Engine:
    """An engine that never has to make anybody give way."""
    return Engine(model, **{"memory": "8MB", **options})


def tight(
    model: omniform.Model,
    prompts: Sequence[object],
    settings: Sequence[dict[str, object]],
    *,
    preempts: bool = True,
    **options: object,
) -> tuple[Engine, list[Completion]]:
    """The smallest engine in which all prompts are answered, and somebody has to give way; and its answers."""
    smallest, memory = 0, 1024
    while not smallest or memory < 4 * smallest:
        try:
            engine = Engine(model, memory=memory, **options)
            found = engine.generate_batch(list(prompts), list(settings))
        except InputError as error:
            assert error.where == "memory", error
        else:
            smallest = smallest or memory
            if engine.stats().preemptions or not preempts:
                return engine, found
            idle(engine)
        memory = int(memory * 1.1)
    raise AssertionError(f"nobody had to give way between {smallest} and {memory} bytes")


def idle(engine: Engine, total: int | None = None) -> None:
    """Fail unless an engine holds nothing for anybody."""
    stats = engine.stats()
    assert (stats.blocks_used, stats.waiting, stats.running) == (0, 0, 0), stats
    assert engine._encoders.features.held == engine._encoders.memories.held == 0
    for key, pool in engine._pools.items():
        known = engine._encoders.idle_blocks if key == MEMORY else 0
        assert pool.available + known == pool.blocks, "a block was lost"
        assert sorted(pool._found.values()) == [b for b, c in enumerate(pool._content) if c is not None]
    kept = sum(f.nbytes for f in engine._encoders.features.idle())
    assert kept == engine._encoders.features_bytes
    if total is not None:
        assert stats.blocks_total == total


def t5_pair(folder, vocabulary):
    """A tiny T5 of ours and of the reference."""
    config = transformers.T5Config(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, num_decoder_layers=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    theirs = saved_reference(transformers.T5ForConditionalGeneration, config, folder, scale=0.4)
    return omniform.AutoModelForSeq2SeqLM.from_pretrained(folder), theirs
