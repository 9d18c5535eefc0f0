"""Assemblies that differ in a few lines from those of ``assemble``, or from one another."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from omniform.inputs.text.assemble import Vocabulary, byte_level, required, words_of_metaspace
from omniform.inputs.text.ranks import byte_order
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.special import HasTokens

_SPACE = "▁"
_MADE_UP = tuple(f"<madeupword{index}>" for index in range(7))
_INFILLING = {
    "prefix_token": "▁<PRE>", "middle_token": "▁<MID>", "suffix_token": "▁<SUF>", "eot_token": "▁<EOT>",
    "fill_token": "<FILL_ME>",
}  # fmt: skip


# ---- sentencepiece


def _unigram(vocabulary: Vocabulary, unk_id: int, steps: list[normalizers.Normalizer]) -> Tokenizer:
    tokenizer = Tokenizer(Unigram(vocabulary.scores, unk_id=unk_id, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _place(vocabulary: Vocabulary, settings: Settings, otherwise: int) -> int:
    """The number of the unknown piece."""
    unknown = (str(settings.named["unk_token"]), 0.0)
    return vocabulary.scores.index(unknown) if unknown in vocabulary.scores else otherwise


def _metaspace(tokenizer: Tokenizer, scheme: str) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)


def _prefixed(settings: Settings) -> str:
    return "always" if settings.flag("add_prefix_space", True) else "never"


def _quotes() -> list[normalizers.Normalizer]:
    return [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]


def _charsmap(vocabulary: Vocabulary) -> list[normalizers.Normalizer]:
    return [normalizers.Precompiled(vocabulary.charsmap)] if vocabulary.charsmap else []


def xlnet(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """XLNet's Unigram: straight quotes and no accents, whatever ``keep_accents`` says."""
    steps = [*_quotes(), normalizers.NFKD(), normalizers.StripAccents()]
    if settings.flag("do_lower_case", False):
        steps.append(normalizers.Lowercase())
    tokenizer = _unigram(vocabulary, settings.integer("unk_id") or 0, [*steps, *_charsmap(vocabulary)])
    scheme = "always"
    words_of_metaspace(tokenizer, scheme)
    return tokenizer


def xlnet_tokens(settings: Settings) -> None:
    """Ends of paragraphs and of documents, where the folder names none."""
    if settings.additional is None:
        settings.additional = ["<eop>", "<eod>"]


def xlnet_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``A <sep> B <sep> <cls>``, the last of a type of its own."""
    (sep, _), (cls, _) = tokens = [required(tokenizer, name, settings.where) for name in ("sep_token", "cls_token")]
    return processors.TemplateProcessing(
        single=f"$A:0 {sep}:0 {cls}:2", pair=f"$A:0 {sep}:0 $B:1 {sep}:1 {cls}:2", special_tokens=tokens
    )


def big_bird(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """BigBird's Unigram: runs of spaces as one."""
    tokenizer = _unigram(
        vocabulary,
        _place(vocabulary, settings, 100),
        [normalizers.Strip(left=False, right=False), normalizers.Replace(Regex(" {2,}"), _SPACE)],
    )
    _metaspace(tokenizer, _prefixed(settings))
    return tokenizer


def barthez(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """BARThez's Unigram: runs of spaces as one, none at the end; its unknown piece is always number 3."""
    spaces = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    tokenizer = _unigram(vocabulary, 3, [spaces, normalizers.NFC(), normalizers.Strip(left=False, right=True)])
    _metaspace(tokenizer, _prefixed(settings))
    return tokenizer


def rembert(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """RemBERT's Unigram: straight quotes, runs of spaces as one; its unknown piece is always number 2."""
    steps = [*_quotes(), normalizers.Replace(Regex(" {2,}"), " ")]
    if not settings.flag("keep_accents", True):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.flag("do_lower_case", False):
        steps.append(normalizers.Lowercase())
    tokenizer = _unigram(vocabulary, 2, [*steps, *_charsmap(vocabulary)])
    _metaspace(tokenizer, _prefixed(settings))
    return tokenizer


def xglm(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """XGLM's Unigram, numbered as fairseq did."""
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer = _unigram(vocabulary, 3, [*_charsmap(vocabulary), spaces])
    _metaspace(tokenizer, _prefixed(settings))
    return tokenizer


def xglm_tokens(settings: Settings) -> None:
    """Seven words that fill fairseq's vocabulary up to a round number."""
    known = settings.additional or []
    settings.additional = [*known, *(word for word in _MADE_UP if word not in map(str, known))]


def xglm_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``</s> A </s> </s> B``."""
    end, index = required(tokenizer, "eos_token", settings.where)
    return processors.TemplateProcessing(
        single=f"{end} $A", pair=f"{end} $A {end} {end} $B", special_tokens=[(end, index)]
    )


def reformer(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """Reformer's sentencepiece BPE."""
    unknown = str(settings.named["unk_token"])
    model = BPE(vocab=vocabulary.ids, merges=vocabulary.merges, unk_token=unknown, fuse_unk=True, byte_fallback=False)
    tokenizer = Tokenizer(model)
    if vocabulary.charsmap:
        spaces = normalizers.Replace(Regex(" {2,}"), " ")
        tokenizer.normalizer = normalizers.Sequence([*_charsmap(vocabulary), spaces])
    _metaspace(tokenizer, "always")
    return tokenizer


def code_llama(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """Llama's, whose decoder always takes one space off the beginning."""
    unknown = str(settings.named["unk_token"])
    model = BPE(vocab=vocabulary.ids, merges=vocabulary.merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    first = "first" if settings.flag("add_prefix_space", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=first, split=False)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def code_llama_tokens(settings: Settings) -> None:
    """The tokens of infilling, named and not; texts begin with ``<s>``."""
    settings.values.setdefault("add_bos_token", True)
    settings.specific = {**_INFILLING, **settings.specific}
    settings.additional = [*(settings.additional or []), *(settings.specific[name] for name in _INFILLING)]


# ---- merges


def gpt2_vocabulary(merges: list[tuple[str, str]], settings: Settings) -> Vocabulary:
    """GPT-2's numbers: the bytes, the results of the merges, the end of a text."""
    return _numbered([*byte_order(), *("".join(pair) for pair in merges), str(settings.named["eos_token"])], merges)


def clip_vocabulary(merges: list[tuple[str, str]], settings: Settings) -> Vocabulary:
    """CLIP's: the bytes, the bytes that end a word, the results of the merges, start and end of a text."""
    letters = byte_order()
    ends = [str(settings.named[name]) for name in ("bos_token", "eos_token")]
    joined = ["".join(pair) for pair in merges]
    return _numbered([*letters, *(letter + "</w>" for letter in letters), *joined, *ends], merges)


def _numbered(tokens: list[str], merges: list[tuple[str, str]]) -> Vocabulary:
    ids: dict[str, int] = {}
    for token in tokens:
        ids.setdefault(token, len(ids))
    return Vocabulary(ids=ids, merges=merges)


def blenderbot(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """GPT-2's with a space before each text."""
    tokenizer = byte_level(vocabulary, settings)
    prefix = settings.flag("add_prefix_space", True)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    return tokenizer


def cohere(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """GPT-2's over composed characters, digits one by one."""
    tokenizer = byte_level(vocabulary, settings)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False), trim_offsets=True),
        ]
    )
    return tokenizer


def _ended(vocabulary: Vocabulary, settings: Settings, normalizer: normalizers.Normalizer, **affix: str) -> Tokenizer:
    """A BPE over BERT's words, whose ends are marked by ``</w>``."""
    unknown = str(settings.named["unk_token"])
    model = BPE(vocab=vocabulary.ids, merges=vocabulary.merges, unk_token=unknown, end_of_word_suffix="</w>", **affix)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer


def herbert(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """HerBERT's BPE: words as they are written."""
    normalizer = normalizers.BertNormalizer(
        lowercase=False, strip_accents=False, clean_text=True, handle_chinese_chars=True
    )
    return _ended(vocabulary, settings, normalizer)


def herbert_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``<s> A </s> B </s>``; these have the numbers 0 and 2, whatever the vocabulary says."""
    (first, _), (last, _) = (required(tokenizer, name, settings.where) for name in ("cls_token", "sep_token"))
    return processors.BertProcessing((last, 2), (first, 0))


def openai_gpt(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """The first GPT's BPE: small letters."""
    return _ended(vocabulary, settings, normalizers.BertNormalizer(lowercase=True), continuing_subword_prefix="")


# ---- WordPiece


def funnel(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    """BERT's, with a prefix of pieces that may be another."""
    tokenizer = Tokenizer(WordPiece(vocabulary.ids, unk_token=str(settings.named["unk_token"])))
    strip_accents = None if settings.values.get("strip_accents") is None else settings.flag("strip_accents", False)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=settings.flag("clean_text", True),
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=strip_accents,
        lowercase=settings.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=settings.text("wordpieces_prefix") or "##")
    return tokenizer


def funnel_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``<cls> A <sep> B <sep>``, the first of a type of its own."""
    (cls, _), (sep, _) = tokens = [required(tokenizer, name, settings.where) for name in ("cls_token", "sep_token")]
    return processors.TemplateProcessing(
        single=f"{cls}:2 $A:0 {sep}:0", pair=f"{cls}:2 $A:0 {sep}:0 $B:1 {sep}:1", special_tokens=tokens
    )


def splinter_tokens(settings: Settings) -> None:
    """The token that stands for a question."""
    settings.specific.setdefault("question_token", "[QUESTION]")


def splinter_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``[CLS] A [QUESTION] . [SEP] B [SEP]``, the question's end on the side that is padded."""
    names = ("cls_token", "sep_token", "question_token")
    tokens = [required(tokenizer, name, settings.where) for name in names]
    (cls, _), (sep, _), (question, _) = tokens
    dot = tokenizer.token_id(".")
    tokens += [] if dot is None else [(".", dot)]
    pair = f"{cls}:0 $A:0 {question} . {sep}:0 $B:1 {sep}:1"
    if settings.side("padding_side", "right") == "left":
        pair = f"{cls}:0 $A:0 {sep}:0 $B:1 {question} . {sep}:1"
    return processors.TemplateProcessing(single=f"{cls}:0 $A:0 {sep}:0", pair=pair, special_tokens=tokens)


def left_stripped(content: str, **flags: bool) -> AddedToken:
    """A mask, which takes the space before it."""
    return AddedToken(content, lstrip=True, rstrip=False, **flags)
