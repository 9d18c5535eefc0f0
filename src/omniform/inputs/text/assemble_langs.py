"""Assemblies of tokenizers that translate, and PEGASUS'."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram

from omniform.inputs.text import language_codes
from omniform.inputs.text.assemble import Scores, Vocabulary, required, words_of_metaspace
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.special import HasTokens

_SPACE = "▁"
_PEGASUS_OFFSET = 103


def _spaced(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    return tokenizer


def _normalized(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Sentencepiece's table of characters, and runs of spaces as one."""
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(" {2,}"), " ")]
    if vocabulary.charsmap:
        steps.insert(0, normalizers.Precompiled(vocabulary.charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)


def mbart(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """mBART's Unigram, numbered as fairseq did, which normalizes nothing."""
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=3, byte_fallback=False))
    words_of_metaspace(tokenizer, "always")
    return tokenizer


def mbart50(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """mBART-50's Unigram."""
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=3, byte_fallback=False))
    _normalized(tokenizer, vocabulary)
    return _spaced(tokenizer)


def nllb(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """NLLB's BPE, its special tokens first."""
    ids = vocabulary.ids
    if vocabulary.unk_id is not None:  # out of a sentencepiece file, whose order is another
        first = [str(settings.named[name]) for name in ("bos_token", "pad_token", "eos_token", "unk_token")]
        ids = {token: index for index, token in enumerate(dict.fromkeys([*first, *ids]))}
    unknown = str(settings.named["unk_token"])
    model = BPE(vocab=ids, merges=vocabulary.merges, unk_token=unknown, fuse_unk=True, byte_fallback=False)
    tokenizer = Tokenizer(model)
    if vocabulary.charsmap:
        _normalized(tokenizer, vocabulary)
    return _spaced(tokenizer)


def pegasus(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """PEGASUS' Unigram."""
    unknown = (str(settings.named["unk_token"]), 0.0)
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=vocabulary.scores.index(unknown), byte_fallback=False))
    if vocabulary.charsmap:
        _normalized(tokenizer, vocabulary)
    else:
        steps = [normalizers.Replace(Regex(r"\n"), " "), normalizers.Replace(Regex(" {2,}"), " ")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    return _spaced(tokenizer)


# ---- pieces and tokens besides a sentencepiece file's own


def mbart_pieces(scores: Scores, settings: Settings) -> Scores:
    """The file's pieces from the third on, behind fairseq's four; the languages and the mask."""
    return _coded(scores, settings, language_codes.MBART)


def mbart50_pieces(scores: Scores, settings: Settings) -> Scores:
    """The same with more languages."""
    return _coded(scores, settings, language_codes.MBART50)


def _coded(scores: Scores, settings: Settings, codes: list[str]) -> Scores:
    first = ("cls_token", "pad_token", "eos_token", "unk_token")
    named = [(str(settings.named[name]), 0.0) for name in first]
    mask = (str(settings.named["mask_token"]), 0.0)
    return [*named, *scores[3:], *((code, 0.0) for code in codes), mask]


def pegasus_pieces(scores: Scores, settings: Settings) -> Scores:
    """The file's pieces from the second on, behind ends, masks, and tokens that only training used.

    The mask of sentences comes first, as published models have it, whatever a folder names and in which order.
    """
    pad, end, mask = (str(settings.named[name]) for name in ("pad_token", "eos_token", "mask_token"))
    first = dict.fromkeys([pad, end, settings.text("mask_token_sent") or "<mask_1>", mask])
    unused = [(token, -100.0) for token in _unused(settings)]
    return [*((token, 0.0) for token in first), *unused, *scores[2:]]


def _unused(settings: Settings) -> list[str]:
    offset = settings.integer("offset")
    return [f"<unk_{index}>" for index in range(2, _PEGASUS_OFFSET if offset is None else offset)]


def mbart_tokens(settings: Settings) -> None:
    """Every language's code is a special token."""
    codes = language_codes.MBART
    settings.additional = [*codes, *(token for token in settings.additional or [] if str(token) not in codes)]


def mbart50_tokens(settings: Settings) -> None:
    """The same, behind the others."""
    settings.additional = [*(settings.additional or []), *language_codes.MBART50]


def nllb_tokens(settings: Settings) -> None:
    """NLLB's languages, where the folder names no special tokens."""
    settings.additional = [*(settings.additional or []), *language_codes.NLLB]


def pegasus_tokens(settings: Settings) -> None:
    """The mask of sentences, and tokens that only training used."""
    sent = settings.values.get("mask_token_sent", "<mask_1>")
    settings.additional = [*([str(sent)] if sent is not None else []), *_unused(settings)]


def eos_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``A B </s>``."""
    end, index = required(tokenizer, "eos_token", settings.where)
    return processors.TemplateProcessing(single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, index)])
