"""Pipelines of exported folders, beside those of the checkpoints that they were made from: the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import omniform
from omniform.core.config import ModelConfig
from omniform.export.exporting import export_checkpoint
from omniform.hub.checkpoint import saved_class

TINY = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
VIT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
WAV = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "pad_token_id": 0,
}  # fmt: skip
NLI = {"id2label": {0: "contradiction", 1: "entailment"}, "label2id": {"contradiction": 0, "entailment": 1}}
TEXT = "a b c d"
LOOKS = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
HEARS = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True}
SOUND = (np.sin(np.arange(4000) / 9) * 0.3).astype(np.float32)

ROWS: dict[str, tuple[str, str, dict[str, object], object, dict[str, object]]] = {
    "text-classification": ("bert", "BertForSequenceClassification", TINY, TEXT, {"top_k": None}),
    "token-classification": ("bert", "BertForTokenClassification", TINY, TEXT, {}),
    "question-answering": ("bert", "BertForQuestionAnswering", TINY, {"question": "a b", "context": "c d e a"}, {}),
    "fill-mask": ("bert", "BertForMaskedLM", TINY, "a [MASK] c", {}),
    "feature-extraction": ("bert", "BertModel", TINY, TEXT, {}),
    "zero-shot-classification": (
        "bert", "BertForSequenceClassification", {**TINY, **NLI}, TEXT, {"candidate_labels": ["a", "b c"]}
    ),
    "image-classification": ("vit", "ViTForImageClassification", VIT, "picture", {}),
    "audio-classification": ("wav2vec2", "Wav2Vec2ForSequenceClassification", WAV, SOUND, {}),
    "automatic-speech-recognition": ("wav2vec2", "Wav2Vec2ForCTC", WAV, SOUND, {}),
}  # fmt: skip


def checkpoint(folder: Path, family: str, name: str, config: dict[str, object]) -> None:
    """A model of random numbers, with what reads for it."""
    made: ModelConfig = omniform.AutoConfig.for_model(family, architectures=[name], **config)
    torch.manual_seed(3)
    model = saved_class(made)(made).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "|"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    reads = LOOKS if family == "vit" else HEARS if family == "wav2vec2" else None
    if reads is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(reads))


def alike(one: object, other: object) -> bool:
    """Whether two answers are the same, numbers nearly."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, (float, np.floating)):
        return bool(one == pytest.approx(other, abs=2e-4))
    return bool(one == other)


@pytest.mark.parametrize("task", ROWS)
def test_a_pipeline_answers_as_with_torch(task: str, tmp_path: Path) -> None:
    family, name, config, given, how = ROWS[task]
    checkpoint(tmp_path / "own", family, name, config)
    wanted = "auto" if task == "zero-shot-classification" else task
    export_checkpoint(tmp_path / "own", "onnx", tmp_path / "exported", task=wanted)
    if isinstance(given, str) and given == "picture":
        given = Image.fromarray((np.arange(16 * 16 * 3) % 251).astype(np.uint8).reshape(16, 16, 3))
    pipes: list[Callable[..., object]] = [
        omniform.pipeline(task, str(tmp_path / folder)) for folder in ("own", "exported")
    ]
    answers = [pipe(given, **how) for pipe in pipes]
    assert answers[0] and alike(*answers), answers
