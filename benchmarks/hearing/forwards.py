"""Forwards of models of sound of the usual sizes: both libraries on the same random weights, turn by turn."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from turns import OURS, THEIRS, Contest, in_turns

SMALL: Mapping[str, object] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
SPOKEN: Mapping[str, object] = {
    **SMALL, "conv_dim": [8] * 7, "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 16, "vocab_size": 12,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearer:
    """A model whose forward is measured.

    Attributes:
        head: its class.
        config: what its config says beside the defaults.
        tiny: what it says where only the benchmark is tested.
        reads: the name of its input.
        shape: of one sound.
        batches: how many sounds at a time.
        more: its other inputs, as rows of so many zeros.
    """

    head: str
    config: Mapping[str, object]
    tiny: Mapping[str, object]
    reads: str
    shape: tuple[int, ...]
    batches: tuple[int, ...] = (1, 4)
    more: Mapping[str, int] | None = None


TEN_SECONDS = (160_000,)

HEARERS: Mapping[str, Hearer] = {
    "wav2vec 2.0 base": Hearer(
        head="Wav2Vec2ForCTC", config={"vocab_size": 32}, tiny=SPOKEN, reads="input_values", shape=TEN_SECONDS
    ),
    "HuBERT base": Hearer(head="HubertModel", config={}, tiny=SPOKEN, reads="input_values", shape=TEN_SECONDS),
    "WavLM base": Hearer(
        head="WavLMModel", config={}, tiny={**SPOKEN, "vocab_size": 12}, reads="input_values", shape=TEN_SECONDS
    ),
    "w2v-BERT": Hearer(
        head="Wav2Vec2BertModel", config={"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8,
        "intermediate_size": 2048}, tiny=SMALL, reads="input_features", shape=(500, 160),
    ),
    "AST": Hearer(
        head="ASTForAudioClassification", config={"num_labels": 527}, tiny=SMALL, reads="input_values",
        shape=(1024, 128), batches=(1,),
    ),
    "Whisper tiny": Hearer(
        head="WhisperForConditionalGeneration", config={},
        tiny={
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 64,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
            "suppress_tokens": None, "begin_suppress_tokens": None,
        },
        reads="input_features", shape=(80, 3000), batches=(1, 4), more={"decoder_input_ids": 8},
    ),
    "EnCodec": Hearer(
        head="EncodecModel", config={}, tiny={"hidden_size": 8, "num_filters": 4, "codebook_size": 16},
        reads="input_values", shape=(1, 48_000), batches=(1,),
    ),
}  # fmt: skip


def pair(hearer: Hearer, folder: Path, tiny: bool) -> dict[str, nn.Module]:
    """The model in both libraries, with the same random weights."""
    import transformers

    import omniform

    torch.manual_seed(0)
    head = getattr(transformers, hearer.head)
    head(head.config_class(**(hearer.tiny if tiny else hearer.config))).save_pretrained(folder)
    named = {OURS: omniform, THEIRS: transformers}
    return {who: getattr(library, hearer.head).from_pretrained(folder).eval() for who, library in named.items()}


def first(output: object) -> Tensor:
    """The first tensor of numbers of an output."""
    tensors = output.to_tuple()  # type: ignore[attr-defined]
    return next(t for t in tensors if isinstance(t, Tensor) and t.is_floating_point())


def forwards(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """All models, or some, with each number of sounds."""
    found: dict[str, Contest] = {}
    for name in only or HEARERS:
        hearer = HEARERS[name]
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            models = pair(hearer, Path(folder), tiny)
            for batch in hearer.batches:
                shape = (4_000,) if tiny and hearer.shape == TEN_SECONDS else hearer.shape
                given = {hearer.reads: torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))}
                given |= {key: torch.zeros(batch, n, dtype=torch.long) for key, n in (hearer.more or {}).items()}
                ours, theirs = (first(model(**given)) for model in models.values())
                off = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
                ways = {who: lambda model=model, x=given: model(**x) for who, model in models.items()}
                title = f"{name}, {batch} of {' x '.join(map(str, shape))}"
                found[title] = Contest(in_turns(ways, runs), {THEIRS: 1.0}, {"apart": off})
                print(title, found[title].medians, found[title].ratios, file=sys.stderr, flush=True)
            del models, ways
        gc.collect()
    return found
