"""Tiny checkpoints with tokenizers, made by the reference library, for tests of pipelines."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from reference import saved_reference, transformers

TEXT = """the a cat dog bird sat ran flew on over under mat hill sea is was very good bad nice blue red old new and
but not i you we like hate love this that film book song berlin london anna bob in lives works at home with ##s ##ed
##ing ##er . , ! ? : ; ' - to translate english german summarize"""
WORDS = [*dict.fromkeys(TEXT.split())]
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = (*"bcdefghjklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"))
VOCABULARY = tuple(dict.fromkeys((*SPECIALS, *WORDS, *LETTERS)))
SIZES = {
    "vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def word_pieces() -> object:
    """BERT's tokenizer over a hundred words and letters."""
    vocab = {word: index for index, word in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def bert(folder: Path, kind: str, **changes: object) -> Path:
    """A BERT with one of its heads (``"SequenceClassification"``) and its tokenizer."""
    config = transformers.BertConfig(**{**SIZES, **changes})
    saved_reference(getattr(transformers, f"BertFor{kind}"), config, folder)
    word_pieces().save_pretrained(folder)
    return folder
