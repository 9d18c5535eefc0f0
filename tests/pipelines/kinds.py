"""Tiny checkpoints for the pipelines that understand texts: three kinds of tokenizer, and one that is a script."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tiny import SIZES, word_pieces
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import omniform
from reference import saved_reference, transformers

TEXTS = (
    "Anna lives in Berlin and works at home.",
    "the cat sat on the red mat, but Bob ran over the hill to the blue sea !",
    "Ein sehr schönes Buch: naïve façade 😀 and 日本語 in London",
    "I love this film. I hate that song; it's a good-bad book.",
)

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TAGS = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}


def byte_pairs() -> object:
    """RoBERTa's tokenizer, over a few words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=sorted(alphabet))
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=48,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def unigrams() -> object:
    """XLM-RoBERTa's tokenizer, over a few words."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator([text for text in TEXTS if text.isascii()] * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=48,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


TOKENIZERS = {"bert": word_pieces, "roberta": byte_pairs, "xlm-roberta": unigrams}
PREFIXES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "esm": "Esm", "gpt2": "GPT2"}


_FOLDERS: list[TemporaryDirectory[str]] = []


@cache
def checkpoint(model_type: str, kind: str, changes: str = "{}") -> Path:
    """A model of a family with one of its heads, and its tokenizer.

    Args:
        kind: ``"ForTokenClassification"``, ``"Model"``.
        changes: what the config says besides, as JSON.
    """
    _FOLDERS.append(TemporaryDirectory(prefix="omniform-pipelines-"))
    folder = Path(_FOLDERS[-1].name)
    prefix = PREFIXES[model_type]
    told = json.loads(changes)
    if "id2label" in told:
        told["id2label"] = {int(index): label for index, label in told["id2label"].items()}
    if model_type == "esm":
        tokenizer: object = _protein(folder)
    elif model_type == "gpt2":
        tokenizer = byte_pairs()
    else:
        tokenizer = TOKENIZERS[model_type]()
    vocabulary, pad = max(tokenizer.get_vocab().values()) + 1, tokenizer.pad_token_id
    sizes = {**SIZES, "max_position_embeddings": 140, "vocab_size": vocabulary, "pad_token_id": pad}
    if model_type == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 140, "vocab_size": vocabulary}
    config = getattr(transformers, f"{prefix}Config")(**sizes, **told)
    saved_reference(getattr(transformers, prefix + kind), config, folder, scale=0.4)
    tokenizer.save_pretrained(folder)
    return folder


def _protein(folder: Path) -> object:
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    return transformers.EsmTokenizer(str(folder / "vocab.txt"), model_max_length=48)


def both(task: str, model_type: str, kind: str, changes: object = None, **given: object) -> tuple[object, object]:
    """Our pipeline and the reference's, of the same checkpoint."""
    folder = checkpoint(model_type, kind, json.dumps(changes or {}))
    ours = omniform.pipeline(task, str(folder), device="cpu", **given)
    return ours, transformers.pipeline(task, str(folder), device="cpu", **given)


def same(ours: object, theirs: object, where: str = "answer") -> None:
    """Fail unless two answers have the same structure, the same words, and numbers within 1e-4."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict) and list(ours) == list(theirs), f"{where}: {ours} against {theirs}"
        for name in theirs:
            same(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs) and len(ours) == len(theirs), f"{where}: {ours} against {theirs}"
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            same(mine, other, f"{where}[{index}]")
    elif isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor) and ours.shape == theirs.shape, where
        assert torch.allclose(ours.float(), theirs.float(), atol=1e-4), where
    elif isinstance(theirs, (str, int, bool)) or theirs is None:
        assert ours == theirs and type(ours) is type(theirs), f"{where}: {ours!r} against {theirs!r}"
    else:  # a number: Python's own, where the reference sometimes gives numpy's
        assert type(ours) is float and abs(ours - float(theirs)) <= 1e-4, f"{where}: {ours!r} against {theirs!r}"


logging.getLogger("omniform").setLevel(logging.ERROR)
