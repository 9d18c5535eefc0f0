"""How tokenizers are assembled from their vocabularies: normalizers, splitters, models, decoders and framings.

Each function here is one kind of assembly, made of the vocabulary and the folder's settings alone; ``recipes`` says
which class goes by which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from omniform.core.errors import ConfigError
from omniform.inputs.text.sentencepiece import SentencePieceModel
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.special import HasTokens

Scores = list[tuple[str, float]]
Assembly = Callable[["Vocabulary", Settings], Tokenizer]
Frame = Callable[[HasTokens, Settings], processors.PostProcessor]

_SPACE = "▁"
# https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py
_CLIP_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# https://github.com/QwenLM/Qwen/blob/main/tokenization_note.md; the later one keeps combining marks with their letters.
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_MARKS_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(slots=True, kw_only=True)
class Vocabulary:
    """What a recipe builds on.

    Attributes:
        ids: tokens and their ids (BPE, WordPiece).
        scores: pieces with their log-probabilities, in order of id (Unigram).
        merges: the pairs that BPE joins, first come first joined.
        charsmap: sentencepiece's table of character replacements.
        unk_id: the id of the unknown piece, where a sentencepiece file says it.
    """

    ids: dict[str, int] = field(default_factory=dict)
    scores: Scores = field(default_factory=list)
    merges: list[tuple[str, str]] = field(default_factory=list)
    charsmap: bytes | None = None
    unk_id: int | None = None


def byte_level(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
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


def prefixed_byte_level(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """The same with a space before the first word, unless a file says otherwise (LayoutLMv3)."""
    settings.values.setdefault("add_prefix_space", True)
    return byte_level(vocabulary, settings)


def wordpiece(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
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


def llama(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
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


def t5(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """T5's sentencepiece Unigram; its unknown piece is always number 2."""
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=2, byte_fallback=False))
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    metaspace = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    return tokenizer


def clip(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
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


def codegen(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """GPT-2's, whose offsets keep the space before a word."""
    tokenizer = byte_level(vocabulary, settings)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False)
    return tokenizer


def neox(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """GPT-2's over composed characters."""
    tokenizer = byte_level(vocabulary, settings)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=settings.flag("add_prefix_space", False), trim_offsets=settings.flag("trim_offsets", True)
    )
    return tokenizer


def qwen2(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """Qwen's BPE over bytes: single digits, and line ends with the punctuation before them."""
    return _qwen(vocabulary, settings, _QWEN_PATTERN)


def qwen3_5(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """Qwen's since release 3.5: combining marks belong to words."""
    return _qwen(vocabulary, settings, _QWEN_MARKS_PATTERN)


def _qwen(vocabulary: Vocabulary, settings: Settings, pattern: str) -> Tokenizer:
    tokenizer = neox(vocabulary, settings)
    prefix = settings.flag("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    return tokenizer


def gemma(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """Gemma's sentencepiece BPE: ``▁`` for each space, none before the first word, unknown characters as bytes."""
    model = BPE(
        vocab=vocabulary.ids,
        merges=vocabulary.merges,
        fuse_unk=True,
        unk_token=str(settings.named["unk_token"]),
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def siglip2(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """Gemma's in small letters."""
    tokenizer = gemma(vocabulary, settings)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", _SPACE)])
    return tokenizer


def xlm_roberta(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """XLM-RoBERTa's sentencepiece Unigram, numbered as fairseq did; its unknown piece is always number 3."""
    return _unigram(vocabulary, settings, 3)


def camembert(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """CamemBERT's: XLM-RoBERTa's with pieces that nothing uses before it."""
    unknown = str(settings.named["unk_token"])
    places = (index for index, (piece, _) in enumerate(vocabulary.scores) if piece == unknown)
    return _unigram(vocabulary, settings, next(places, 0))


def _unigram(vocabulary: Vocabulary, settings: Settings, unk_id: int) -> Tokenizer:
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=unk_id, byte_fallback=False))
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    words_of_metaspace(tokenizer, "always" if settings.flag("add_prefix_space", True) else "never")
    return tokenizer


def words_of_metaspace(tokenizer: Tokenizer, scheme: str) -> None:
    """Split at white space, and mark the beginnings of words by ``▁``."""
    metaspace = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)


def albert(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """ALBERT's sentencepiece Unigram: straight quotes, no accents, small letters; its unknown piece is number 1."""
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=1, byte_fallback=False))
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.flag("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.flag("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if vocabulary.charsmap:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    words_of_metaspace(tokenizer, "always" if settings.flag("add_prefix_space", True) else "never")
    ends = []
    for written, name in (("[CLS]", "cls_token"), ("[SEP]", "sep_token")):
        index = tokenizer.token_to_id(str(settings.named[name]))
        if index is None:
            raise ConfigError("the tokenizer needs this special token in its vocabulary", where=name)
        ends.append((written, index))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ends
    )
    return tokenizer


def deberta_v2(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """DeBERTa-v2's sentencepiece Unigram: runs of spaces as one, and a space before each text."""
    asked = settings.integer("unk_id")
    unk_id = next(found for found in (vocabulary.unk_id, asked, 1) if found is not None)
    unknown = (str(settings.named["unk_token"]), 0.0)
    if unknown in vocabulary.scores:
        unk_id = vocabulary.scores.index(unknown)
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=unk_id, byte_fallback=False))
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if settings.flag("do_lower_case", False) else []
    steps += [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if settings.flag("add_prefix_space", True) else "first"
    splits: list[pre_tokenizers.PreTokenizer] = []
    if settings.flag("split_by_punct", False):
        splits.append(pre_tokenizers.Punctuation(behavior="isolated"))
    splits.append(pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return tokenizer


# ---- pieces and tokens besides a sentencepiece file's own


def t5_pieces(scores: Scores, settings: Settings) -> Scores:
    """The file's pieces, and the sentinels behind them, last first."""
    return [*scores, *((sentinel, 0.0) for sentinel in reversed(extra_ids(settings)))]


def xlm_roberta_pieces(scores: Scores, settings: Settings) -> Scores:
    """The file's pieces from the third on, behind fairseq's four, and the mask."""
    first = (str(settings.named[name]) for name in ("bos_token", "pad_token", "eos_token", "unk_token"))
    return [*((token, 0.0) for token in first), *scores[3:], (str(settings.named["mask_token"]), 0.0)]


def camembert_pieces(scores: Scores, settings: Settings) -> Scores:
    """The file's pieces from the first on, behind five of which three are unused, and the mask."""
    pad, unknown, mask = (str(settings.named[name]) for name in ("pad_token", "unk_token", "mask_token"))
    first = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unknown, 0.0), ("<unk>NOTUSED", -100.0)]
    return [*first, *scores[1:], (mask, 0.0)]


def camembert_tokens(settings: Settings) -> None:
    """Name the unused pieces as special, where the folder names none."""
    if settings.additional is None:
        settings.additional = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]


def extra_ids(settings: Settings) -> list[str]:
    """T5's sentinels, ``<extra_id_0>`` and up; ``extra_ids`` says how many (100)."""
    count = settings.integer("extra_ids")
    return [f"<extra_id_{index}>" for index in range(100 if count is None else count)]


def t5_tokens(settings: Settings) -> None:
    """Complete the special tokens by the sentinels."""
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


def required(tokenizer: HasTokens, name: str, where: str) -> tuple[str, int]:
    """A special token and its id.

    Raises:
        ConfigError: there is none.
    """
    token = tokenizer.named_token(name)
    index = None if token is None else tokenizer.token_id(token)
    if token is None or index is None:
        raise ConfigError("the tokenizer needs this special token in its vocabulary", where=f"{where}: {name}")
    return token, index


def bert_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``[CLS] A [SEP] B [SEP]``, the second text as type 1."""
    (first, _), (last, _) = tokens = [required(tokenizer, name, settings.where) for name in ("cls_token", "sep_token")]
    return processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0", pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1", special_tokens=tokens
    )


def t5_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``A </s> B </s>``."""
    _, index = required(tokenizer, "eos_token", settings.where)
    return processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", index)]
    )


def clip_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``<start> A <end> <end> B <end>``."""
    start, end = required(tokenizer, "bos_token", settings.where), required(tokenizer, "eos_token", settings.where)
    return processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)


def deberta_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``[CLS] A [SEP] [SEP] B [SEP]``, all of one type."""
    return _doubled(tokenizer, settings, "cls_token", "sep_token")


def xlm_roberta_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``<s> A </s> </s> B </s>``, all of one type."""
    return _doubled(tokenizer, settings, "bos_token", "eos_token")


def _doubled(tokenizer: HasTokens, settings: Settings, *names: str) -> processors.PostProcessor:
    (first, _), (last, _) = tokens = [required(tokenizer, name, settings.where) for name in names]
    return processors.TemplateProcessing(
        single=[first, "$A", last], pair=[first, "$A", last, last, "$B", last], special_tokens=tokens
    )


def roberta_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``<s> A </s> </s> B </s>``, and offsets without the space before a word."""
    first, last = (required(tokenizer, name, settings.where) for name in ("cls_token", "sep_token"))
    trim, prefix = settings.flag("trim_offsets", True), settings.flag("add_prefix_space", False)
    return processors.RobertaProcessing(last, first, trim_offsets=trim, add_prefix_space=prefix)


def prefixed_roberta_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """The same for texts that begin with a space, unless a file says otherwise."""
    settings.values.setdefault("add_prefix_space", True)
    return roberta_frame(tokenizer, settings)


def mpnet_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``<s> A </s> </s> B </s>``."""
    first, last = (required(tokenizer, name, settings.where) for name in ("cls_token", "sep_token"))
    return processors.RobertaProcessing(last, first, trim_offsets=True, add_prefix_space=False)


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
