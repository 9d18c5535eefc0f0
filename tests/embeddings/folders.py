"""Tiny seeded checkpoints in the layout of sentence-transformers, made by that package itself."""

from __future__ import annotations

from pathlib import Path

from reference import randomise, torch, transformers  # isort: skip  # makes torchvision importable

import sentence_transformers as st
from sentence_transformers import models
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel

WORDS = (
    "the", "a", "cat", "dog", "sat", "on", "mat", "query", "passage", ":", "what", "is", "not", "yes", "no", "very",
    "long", "text", "about", "birds", "and", "rain", "!", "?", ",",
)  # fmt: skip
TEXTS = [
    "the cat sat on the mat", "a dog", "", "what is the rain ?", "very " * 60 + "long text about birds", "the",
    "The Cat, and the DOG!", "yes no yes no", "unknown words here", "birds and rain and birds", "  ", "not",
]  # fmt: skip
SIZES = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERTLIKE = {**SIZES, "intermediate_size": 24}


def tokenizer(frame: str = "[CLS] $A [SEP]", pair: str = "[CLS] $A [SEP] $B:1 [SEP]:1", **given: object) -> object:
    """Whole words, framed as asked."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate((*specials, *WORDS))}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC()])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if frame:
        backend.post_processor = processors.TemplateProcessing(
            single=frame, pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    given.setdefault("model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=given.pop("model_max_length", 40), **given,
    )  # fmt: skip


def plain(folder: Path, kind: str, model: str = "", **given: object) -> Path:
    """A checkpoint of the reference, with a tokenizer; no layout."""
    torch.manual_seed(0)
    config_class = getattr(transformers, f"{kind}Config")
    tokens = given.pop("tokens", {})
    config = config_class(**given)
    made = getattr(transformers, model or f"{kind}Model")(config).float().eval()
    randomise(made, 0, 0.2)
    made.save_pretrained(folder)
    tokenizer(**tokens).save_pretrained(folder)
    return folder


LAST = {"frame": "$A [SEP]", "pair": "$A $B [SEP]", "padding_side": "left"}
T5 = {
    "vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
    "relative_attention_num_buckets": 8,
}  # fmt: skip
TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
ROBERTA = {**BERTLIKE, "max_position_embeddings": 44, "type_vocab_size": 1, "pad_token_id": 0}
PLAIN = {
    "bert": ("Bert", {**BERTLIKE, "max_position_embeddings": 40}),
    "roberta": ("Roberta", {**ROBERTA, "tokens": {"model_input_names": ["input_ids", "attention_mask"]}}),
    "mpnet": ("MPNet", {**ROBERTA, "tokens": {"model_input_names": ["input_ids", "attention_mask"]}}),
    "xlm_roberta": ("XLMRoberta", {**ROBERTA, "tokens": {"model_input_names": ["input_ids", "attention_mask"]}}),
    "distilbert": ("DistilBert", {
        "vocab_size": 48, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 40,
        "tokens": {"model_input_names": ["input_ids", "attention_mask"]},
    }),
    "albert": ("Albert", {**BERTLIKE, "embedding_size": 8, "max_position_embeddings": 40}),
    "modernbert": ("ModernBert", {
        **BERTLIKE, "max_position_embeddings": 128, "local_attention": 8, "global_attn_every_n_layers": 2,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
        "tokens": {"model_input_names": ["input_ids", "attention_mask"]},
    }),
    "qwen3": ("Qwen3", {
        **BERTLIKE, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, **TOKEN_IDS,
        "tokens": {**LAST, "model_input_names": ["input_ids", "attention_mask"]},
    }),
    "t5": ("T5", {**T5, **TOKEN_IDS, "tokens": {
        "frame": "$A [SEP]", "pair": "$A [SEP] $B [SEP]", "model_input_names": ["input_ids", "attention_mask"],
    }}),
    "pegasus": ("Pegasus", {
        "vocab_size": 48, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40,
        **TOKEN_IDS, "tokens": {"frame": "$A [SEP]", "model_input_names": ["input_ids", "attention_mask"]},
    }),
    "bart": ("Bart", {
        "vocab_size": 48, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40,
        **TOKEN_IDS, "decoder_start_token_id": 3, "tokens": {"model_input_names": ["input_ids", "attention_mask"]},
    }),
}  # fmt: skip


def checkpoint(folder: Path, name: str) -> Path:
    """One of :data:`PLAIN`."""
    kind, given = PLAIN[name]
    return plain(folder, kind, **{key: dict(v) if isinstance(v, dict) else v for key, v in given.items()})


def built(
    folder: Path, source: Path, *more: object, pooling: object = "mean", **given: object
) -> st.SentenceTransformer:
    """A model of the package over a plain checkpoint, saved to ``folder``."""
    torch.manual_seed(1)
    reader = models.Transformer(str(source), **given.pop("reader", {}))
    steps = [reader, models.Pooling(reader.get_embedding_dimension(), pooling, **given.pop("pool", {})), *more]
    for step in more:
        randomise(step, 3, 0.2)
    model = st.SentenceTransformer(modules=steps, device="cpu", **given)
    model.eval().save_pretrained(str(folder), create_model_card=False)
    return model
