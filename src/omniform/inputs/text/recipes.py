"""How each kind of tokenizer is put together from a vocabulary.

Release 5 of the reference implementation takes only the vocabulary, the merges and the post-processor from
``tokenizer.json`` when it knows the tokenizer's class, and assembles the rest itself; a class that it does not know it
loads as the file stands. The recipes below are these assemblies, one per kind, and the table at the end says which
class and which family goes by which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from omniform.core.errors import ConfigError
from omniform.inputs.text.sentencepiece import SentencePieceModel
from omniform.inputs.text.settings import Settings, Side
from omniform.inputs.text.special import HasTokens, Token

Scores = list[tuple[str, float]]
Frame = Callable[[HasTokens, str], "processors.PostProcessor"]

_SPACE = "▁"
_END = "<|endoftext|>"
# https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py
_CLIP_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(slots=True, kw_only=True)
class Vocabulary:
    """What a recipe builds on.

    Attributes:
        ids: tokens and their ids (BPE, WordPiece).
        scores: pieces with their log-probabilities, in order of id (Unigram).
        merges: the pairs that BPE joins, first come first joined.
        charsmap: sentencepiece's table of character replacements.
    """

    ids: dict[str, int] = field(default_factory=dict)
    scores: Scores = field(default_factory=list)
    merges: list[tuple[str, str]] = field(default_factory=list)
    charsmap: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One kind of tokenizer.

    Attributes:
        name: the class name that ``tokenizer_config.json`` gives it.
        files: the vocabulary files it is read from when there is no ``tokenizer.json``, in order of preference.
        defaults: special tokens where the folder names none.
        build: makes the tokenizer from a vocabulary; absent where ``tokenizer.json`` is taken as it stands.
        tokens: completes the settings with the tokens that the kind implies.
        frame: the post-processor that it always has, whatever the file says.
        inputs: the model inputs it makes by default.
        padding_side: where it pads by default.
        joint: how a word's end is marked in the vocabulary, to be turned into a space on decoding.
    """

    name: str
    files: tuple[str, ...] = ("tokenizer.model",)
    defaults: Mapping[str, Token | None] = field(default_factory=dict)
    build: Callable[[Vocabulary, Settings], Tokenizer] | None = None
    tokens: Callable[[Settings], None] | None = None
    frame: Frame | None = None
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: Side = "right"
    joint: str | None = None


def _byte_level(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """GPT-2's BPE over bytes, each byte written as a printable character."""
    model = BPE(
        vocab=vocabulary.ids,
        merges=vocabulary.merges,
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _wordpiece(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """BERT's WordPiece: the longest piece first, ``##`` before all but a word's first."""
    tokenizer = Tokenizer(WordPiece(vocabulary.ids, unk_token=str(settings.named["unk_token"])))
    strip_accents = None if settings.values.get("strip_accents") is None else settings.flag("strip_accents", False)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=strip_accents,
        lowercase=settings.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _llama(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """Llama's sentencepiece BPE: ``▁`` for a space, unknown characters as bytes."""
    prefix = settings.flag("add_prefix_space", True)
    model = BPE(vocab=vocabulary.ids, merges=vocabulary.merges, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    first = "always" if settings.flag("legacy", False) else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=_SPACE, prepend_scheme=first if prefix else "never", split=False
    )
    steps: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _t5(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """T5's sentencepiece Unigram; its unknown piece is always number 2."""
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=2, byte_fallback=False))
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    metaspace = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    return tokenizer


def _clip(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """CLIP's BPE: lower case, single spaces, ``</w>`` at the end of each word."""
    model = BPE(
        vocab=vocabulary.ids,
        merges=vocabulary.merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
        unk_token=str(settings.named["unk_token"]),
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_CLIP_PATTERN), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def extra_ids(settings: Settings) -> list[str]:
    """T5's sentinels, ``<extra_id_0>`` and up; ``extra_ids`` says how many (100)."""
    count = settings.integer("extra_ids")
    return [f"<extra_id_{index}>" for index in range(100 if count is None else count)]


def _t5_tokens(settings: Settings) -> None:
    sentinels = extra_ids(settings)
    if settings.additional is None:
        settings.additional = list(sentinels)
        return
    given = [token for token in settings.additional if "<extra_id_" in str(token)]
    if not given:
        settings.additional = [*settings.additional, *sentinels]
    elif sentinels and len(given) != len(sentinels):
        raise ConfigError(
            "extra_ids and the additional special tokens disagree",
            where=f"{settings.where}: extra_ids",
            expected=f"{len(sentinels)} tokens <extra_id_…>",
            found=len(given),
        )


def _required(tokenizer: HasTokens, name: str, where: str) -> tuple[str, int]:
    token = tokenizer.named_token(name)
    index = None if token is None else tokenizer.token_id(token)
    if token is None or index is None:
        raise ConfigError("the tokenizer needs this special token in its vocabulary", where=f"{where}: {name}")
    return token, index


def _bert_frame(tokenizer: HasTokens, where: str) -> processors.PostProcessor:
    (first, _), (last, _) = tokens = [_required(tokenizer, name, where) for name in ("cls_token", "sep_token")]
    return processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0", pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1", special_tokens=tokens
    )


def _t5_frame(tokenizer: HasTokens, where: str) -> processors.PostProcessor:
    _, index = _required(tokenizer, "eos_token", where)
    return processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", index)]
    )


def _clip_frame(tokenizer: HasTokens, where: str) -> processors.PostProcessor:
    start, end = _required(tokenizer, "bos_token", where), _required(tokenizer, "eos_token", where)
    return processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)


def from_sentencepiece(model: SentencePieceModel, vocabulary: Vocabulary) -> Tokenizer:
    """A sentencepiece model of no known kind: its own normalization, and ``▁`` for spaces.

    Args:
        model: the file, for its settings.
        vocabulary: its pieces, with ids where it is BPE and scores where it is Unigram.
    """
    if vocabulary.ids:
        tokenizer = Tokenizer(
            BPE(
                vocab=vocabulary.ids,
                merges=vocabulary.merges,
                unk_token=model.unk_piece,
                fuse_unk=True,
                byte_fallback=model.byte_fallback,
            )
        )
    else:
        tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=model.unk_id, byte_fallback=model.byte_fallback))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    if model.charsmap:
        steps.insert(0, normalizers.Precompiled(model.charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    decoding: list[decoders.Decoder] = [decoders.Replace(_SPACE, " ")]
    if model.byte_fallback:
        decoding += [decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(decoding)
    return tokenizer


def _plain(content: str) -> AddedToken:
    return AddedToken(content, lstrip=False, rstrip=False, normalized=False, special=True)


GENERIC = Recipe(name="PreTrainedTokenizerFast")
"""Taken as ``tokenizer.json`` has it."""

BERT = Recipe(
    name="BertTokenizer",
    files=("vocab.txt",),
    defaults={
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    build=_wordpiece,
    frame=_bert_frame,
    inputs=("input_ids", "token_type_ids", "attention_mask"),
)
GPT2 = Recipe(
    name="GPT2Tokenizer",
    files=("vocab.json", "merges.txt"),
    defaults={"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": None},
    build=_byte_level,
)
LLAMA = Recipe(
    name="LlamaTokenizer",
    defaults={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    build=_llama,
    padding_side="left",
)
T5 = Recipe(
    name="T5Tokenizer",
    files=("spiece.model", "tokenizer.model"),
    defaults={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    build=_t5,
    tokens=_t5_tokens,
    frame=_t5_frame,
)
CLIP = Recipe(
    name="CLIPTokenizer",
    files=("vocab.json", "merges.txt"),
    defaults={"unk_token": _END, "bos_token": "<|startoftext|>", "eos_token": _END, "pad_token": _END},
    build=_clip,
    frame=_clip_frame,
    joint="</w>",
)
WHISPER = Recipe(
    name="WhisperTokenizer",
    files=("vocab.json", "merges.txt"),
    defaults={"unk_token": _plain(_END), "bos_token": _plain(_END), "eos_token": _plain(_END)},
    build=_byte_level,
)

_BY_CLASS = {recipe.name: recipe for recipe in (BERT, GPT2, LLAMA, T5, CLIP, WHISPER)} | {
    "DistilBertTokenizer": replace(BERT, name="DistilBertTokenizer", inputs=("input_ids", "attention_mask")),
    "ElectraTokenizer": BERT,
}

_BY_FAMILY: dict[str, Recipe] = {
    **dict.fromkeys(("bert", "distilbert", "electra", "blip", "vilt"), BERT),
    **dict.fromkeys(("gpt2", "blip-2"), GPT2),
    **dict.fromkeys(("t5",), T5),
    **dict.fromkeys(("clip",), CLIP),
    **dict.fromkeys(("whisper",), WHISPER),
    **dict.fromkeys(("llava", "llava_next"), GENERIC),
}

Layout = Literal["bytes", "other"]


def choose(config_class: str | None, model_class: str | None, family: str | None, layout: Layout) -> Recipe:
    """The recipe for a folder.

    Args:
        config_class: the class that ``tokenizer_config.json`` names.
        model_class: the class that ``config.json`` names.
        family: the ``model_type`` of ``config.json``.
        layout: ``"bytes"`` where ``tokenizer.json`` has a byte-level step. Such a file under Llama's class name is of
            the third generation of Llama, which shares nothing with the first two but the name.
    """
    named = (config_class or model_class or "").removesuffix("Fast")
    registered = None if family is None else _BY_FAMILY.get(family)
    if registered is GENERIC:
        return GENERIC
    if named == LLAMA.name and layout == "bytes":
        return GENERIC
    if named:
        return _BY_CLASS.get(named, GENERIC)
    return registered or GENERIC
