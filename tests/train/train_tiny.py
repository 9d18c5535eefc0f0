"""Tiny models and rows to train on, the same for both libraries: six kinds, without dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reference import omniform, saved_reference, transformers

Row = dict[str, Tensor]

TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
T5 = {
    "vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0, "dropout_rate": 0.0,
}  # fmt: skip
WHISPER = {
    "vocab_size": 40, "d_model": 16, "num_mel_bins": 6, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "max_source_positions": 10, "max_target_positions": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3, "suppress_tokens": [], "begin_suppress_tokens": [2, 5], "dropout": 0.0,
}  # fmt: skip
IMAGE = 39


def _generator(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + index)


def tokens(index: int, length: int = 10, first: int = 4, last: int = 39) -> Tensor:
    """Token ids that only the row's number decides. Shape: [length]."""
    return torch.randint(first, last, (length,), generator=_generator(index))


def _unscored(ids: Tensor, count: int) -> Tensor:
    labels = ids.clone()
    labels[:count] = -100
    return labels


def _class_row(index: int) -> Row:
    ids = tokens(index)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor(int(ids[0]) % 3)}


def _next_row(index: int) -> Row:
    ids = tokens(index)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": _unscored(ids, index % 6)}


def _masked_row(index: int) -> Row:
    return {**_next_row(index), "labels": _unscored(tokens(index), 9 - index % 6)}


def _pair_row(index: int) -> Row:
    answer = tokens(index + 500, 6)
    answer[6 - index % 4 :] = -100
    return {"input_ids": tokens(index), "attention_mask": torch.ones(10, dtype=torch.long), "labels": answer}


def _picture_row(index: int) -> Row:
    pixels = torch.randn(3, 8, 8, generator=_generator(index))
    return {"pixel_values": pixels, "labels": torch.tensor(index % 3)}


def _speech_row(index: int) -> Row:
    return {"input_features": torch.randn(6, 20, generator=_generator(index)), "labels": _pair_row(index)["labels"]}


def _picture_text_row(index: int) -> Row:
    ids = torch.cat([torch.tensor([1]), torch.full((4,), IMAGE), tokens(index, 6)])
    return {
        **_picture_row(index),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": _unscored(ids, 5),
    }


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model: how the reference builds it, how either library loads it, and a row of data by its number."""

    config: Callable[[], object]
    reference: str
    auto: str
    row: Callable[[int], Row]

    def save(self, folder: Path) -> Path:
        """A random checkpoint, written by the reference."""
        saved_reference(getattr(transformers, self.reference), self.config(), folder)
        return folder

    def theirs(self, folder: Path) -> nn.Module:
        model = getattr(transformers, self.reference).from_pretrained(folder)
        if self.auto == "AutoModelForSpeechSeq2Seq":
            # Whisper's sines do not learn; the reference says so when it makes a model, and forgets it when it loads.
            model.model.encoder.embed_positions.requires_grad_(False)
        return model

    def ours(self, folder: Path) -> nn.Module:
        return getattr(omniform, self.auto).from_pretrained(folder)

    def rows(self, count: int) -> Sequence[Row]:
        return [self.row(index) for index in range(count)]


def _bert() -> object:
    return transformers.BertConfig(**TEXT, **NO_DROPOUT, num_labels=3)


KINDS = {
    "bert": Kind(_bert, "BertForSequenceClassification", "AutoModelForSequenceClassification", _class_row),
    "bert-mlm": Kind(_bert, "BertForMaskedLM", "AutoModelForMaskedLM", _masked_row),
    "llama": Kind(lambda: transformers.LlamaConfig(**TEXT), "LlamaForCausalLM", "AutoModelForCausalLM", _next_row),
    "t5": Kind(
        lambda: transformers.T5Config(**T5), "T5ForConditionalGeneration", "AutoModelForSeq2SeqLM", _pair_row
    ),
    "vit": Kind(
        lambda: transformers.ViTConfig(**VISION, **NO_DROPOUT, num_labels=3),
        "ViTForImageClassification",
        "AutoModelForImageClassification",
        _picture_row,
    ),
    "whisper": Kind(
        lambda: transformers.WhisperConfig(**WHISPER),
        "WhisperForConditionalGeneration",
        "AutoModelForSpeechSeq2Seq",
        _speech_row,
    ),
    "llava": Kind(
        lambda: transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**TEXT),
            vision_config=transformers.CLIPVisionConfig(**VISION),
            image_token_index=IMAGE,
        ),
        "LlavaForConditionalGeneration",
        "AutoModelForImageTextToText",
        _picture_text_row,
    ),
}  # fmt: skip

ARGUMENTS: dict[str, object] = {
    "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-2, "report_to": "none",
    "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "seed": 3,
}  # fmt: skip
"""What most tests train with; ``output_dir`` and what they are about come to it."""


def arguments(folder: Path, **changes: object) -> omniform.TrainingArguments:
    return omniform.TrainingArguments(**{"output_dir": str(folder / "out"), **ARGUMENTS, **changes})


def their_arguments(folder: Path, **changes: object) -> object:
    return transformers.TrainingArguments(**{"output_dir": str(folder / "out"), **ARGUMENTS, **changes})


def curve(trainer: object, names: Iterable[str] = ("loss", "grad_norm", "learning_rate", "epoch")) -> list[list[float]]:
    """What was reported after every step, one list for each of the names."""
    told = [one for one in trainer.state.log_history if "loss" in one]
    return [[one[name] for one in told] for name in names]
