"""Which tokenizer class is put together how.

Release 5 of the reference implementation takes only the vocabulary, the merges and the post-processor from
``tokenizer.json`` when it knows the tokenizer's class, and assembles the rest itself; a class that it does not know it
loads as the file stands. The table at the end names the assembly of each class that has one here; the facts of all
classes, those without an assembly too, are in ``names``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from tokenizers import AddedToken

from omniform.inputs.text import (
    assemble,
    assemble_kin,
    assemble_langs,
    japanese,
    phone_script,
    pieces,
    scripts,
    siglip,
    spoken_scripts,
)
from omniform.inputs.text.assemble import Assembly, Frame, Scores, Vocabulary
from omniform.inputs.text.names import CLASSES, GENERIC, Kind
from omniform.inputs.text.scripted import Script, Scripted
from omniform.inputs.text.settings import Settings, Side
from omniform.inputs.text.special import Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a class's tokenizers are made by, where they are not taken as ``tokenizer.json`` has them.

    Attributes:
        build: makes the tokenizer from a vocabulary.
        tokens: completes the settings with the tokens that the class implies.
        pieces: the pieces of a vocabulary from those of a sentencepiece file; absent where BPE is read from one.
        frame: the post-processor that it always has, whatever the file says.
        yields: whether the frame gives way to that by ``bos_token`` and ``eos_token``, where that is asked for or
            no ``tokenizer.json`` frames texts.
        reframed: whether its texts are framed by ``bos_token`` and ``eos_token`` alone, whatever the file says.
        keeps_file: whether a ``tokenizer.json`` is taken as it stands all the same, but for the frame.
        joint: how a word's end is marked in the vocabulary, to be turned into a space on decoding.
        files: vocabulary files that are read too, or instead.
        from_merges: the vocabulary that follows from the merges alone, where it does.
        defaults: special tokens with flags of their own, where the folder names none or gives its text alone.
    """

    build: Assembly
    tokens: Callable[[Settings], None] | None = None
    pieces: Callable[[Scores, Settings], Scores] | None = None
    frame: Frame | None = None
    yields: bool = False
    reframed: bool = False
    keeps_file: bool = False
    joint: str | None = None
    from_merges: Callable[[list[tuple[str, str]], Settings], Vocabulary] | None = None
    files: tuple[str, ...] = ()
    defaults: Mapping[str, Token] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripting:
    """What a class's tokenizers are made by, where ``tokenizers`` has no steps for them.

    Attributes:
        make: makes the script from the vocabulary's files and the settings.
        added: the tokens whose ids are fixed, in the order of these.
        tokens: completes the settings with the tokens that the class implies.
        frame: the post-processor that it always has.
        defaults: special tokens with flags of their own.
        backend: what goes by the script.
    """

    make: Callable[[Mapping[str, Path], Settings], Script]
    added: tuple[str, ...] = ()
    tokens: Callable[[Settings], None] | None = None
    frame: Frame | None = None
    defaults: Mapping[str, Token] = field(default_factory=dict)
    backend: type[Scripted] = Scripted


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One class of tokenizers.

    Attributes:
        name: the name that ``tokenizer_config.json`` gives it.
        kind: what is known of it.
        steps: how it is assembled; absent where ``tokenizer.json`` is taken as it stands.
        script: how it is made where there are no steps for it.
        files: the vocabulary files it is read from when there is no ``tokenizer.json``, in order of preference.
        defaults: special tokens where the folder names none.
    """

    name: str
    kind: Kind
    steps: Steps | None
    files: tuple[str, ...]
    defaults: Mapping[str, Token | None]
    script: Scripting | None = None

    @property
    def frame(self) -> Frame | None:
        """The post-processor that it always has."""
        if self.steps is not None:
            return self.steps.frame
        return None if self.script is None else self.script.frame

    @property
    def inputs(self) -> tuple[str, ...]:
        """The model inputs that it makes by default."""
        return tuple(self.kind.inputs.split())

    def named(self, found: Mapping[str, Token | None]) -> dict[str, Token | None]:
        """The special tokens of a folder, completed by its own; texts get the flags that the class gives them."""
        made_by = self.steps or self.script
        flagged = {} if made_by is None else made_by.defaults
        made = {**self.defaults, **found}
        for name, default in flagged.items():
            token = made.get(name)
            if isinstance(token, str) and isinstance(default, AddedToken):
                made[name] = AddedToken(
                    token,
                    single_word=default.single_word,
                    lstrip=default.lstrip,
                    rstrip=default.rstrip,
                    normalized=default.normalized,
                    special=default.special,
                )
        return made

    @property
    def padding_side(self) -> Side:
        """Where it pads by default."""
        return self.kind.side

    @property
    def is_generic(self) -> bool:
        """Whether it is made of whatever files there are, without any knowledge of its kind."""
        return self.name in _AS_FILES


@cache
def recipe_of(name: str) -> Recipe:
    """The recipe of a class, by the name that :func:`~omniform.inputs.text.names.class_of` gives."""
    if name == GENERIC:
        return Recipe(name=name, kind=_UNKNOWN, steps=None, files=("tokenizer.model",), defaults={})
    kind, steps, script = CLASSES[name], _STEPS.get(name), _SCRIPTS.get(name)
    files, defaults = kind.files, dict[str, Token | None](kind.tokens)
    if steps is not None:
        files = steps.files or files
        if files and files[0].endswith(".model"):
            # Under this name the vocabulary of any class may lie.
            files = tuple(dict.fromkeys([*files, "tokenizer.model"]))
        defaults.update(steps.defaults)
    if script is not None:
        defaults.update(script.defaults)
    return Recipe(name=name, kind=kind, steps=steps, files=files, defaults=defaults, script=script)


def _as_they_are(scores: Scores, settings: Settings) -> Scores:
    return scores


def _plain(content: str) -> AddedToken:
    return AddedToken(content, lstrip=False, rstrip=False, normalized=False, special=True)


def _wide(content: str) -> AddedToken:
    return AddedToken(content, lstrip=True, rstrip=True)


def _flagged(content: str, lstrip: bool = False) -> AddedToken:
    return AddedToken(content, lstrip=lstrip, rstrip=False)


_UNKNOWN = Kind("- - - - - - -", "tokenizer.model")
# The reference gives these no assembly of their own.
_AS_FILES = (GENERIC, "FNetTokenizer", "ParakeetTokenizer")
_END = "<|endoftext|>"
_BERT = Steps(build=assemble.wordpiece, frame=assemble.bert_frame)
_GEMMA_FILES = ("tokenizer.model",)

_STEPS: dict[str, Steps] = {
    "AlbertTokenizer": Steps(build=assemble.albert, pieces=_as_they_are),
    "BertTokenizer": _BERT,
    "CLIPTokenizer": Steps(
        build=assemble.clip, frame=assemble.clip_frame, joint="</w>", from_merges=assemble_kin.clip_vocabulary
    ),
    "CamembertTokenizer": Steps(
        build=assemble.camembert,
        tokens=assemble.camembert_tokens,
        pieces=assemble.camembert_pieces,
        frame=assemble.xlm_roberta_frame,
        defaults={"mask_token": AddedToken("<mask>", lstrip=True, special=True)},
    ),
    "CodeGenTokenizer": Steps(build=assemble.codegen),
    "ConvBertTokenizer": replace(_BERT, keeps_file=True),
    "DPRContextEncoderTokenizer": _BERT,
    "DPRQuestionEncoderTokenizer": _BERT,
    "DPRReaderTokenizer": _BERT,
    "DebertaTokenizer": Steps(build=assemble.byte_level, frame=assemble.deberta_frame),
    "DebertaV2Tokenizer": Steps(build=assemble.deberta_v2, pieces=_as_they_are, frame=assemble.bert_frame),
    "DistilBertTokenizer": _BERT,
    "GPT2Tokenizer": Steps(build=assemble.byte_level, from_merges=assemble_kin.gpt2_vocabulary),
    "GPTNeoXTokenizer": Steps(build=assemble.neox, reframed=True),
    "GemmaTokenizer": Steps(build=assemble.gemma, files=_GEMMA_FILES),
    "LlamaTokenizer": Steps(build=assemble.llama),
    "MBart50Tokenizer": Steps(
        build=assemble_langs.mbart50,
        tokens=assemble_langs.mbart50_tokens,
        pieces=assemble_langs.mbart50_pieces,
        defaults={"mask_token": _flagged("<mask>", lstrip=True)},
    ),
    "MBartTokenizer": Steps(
        build=assemble_langs.mbart,
        tokens=assemble_langs.mbart_tokens,
        pieces=assemble_langs.mbart_pieces,
        defaults={"mask_token": _flagged("<mask>", lstrip=True)},
    ),
    "LayoutLMv3Tokenizer": Steps(build=assemble.prefixed_byte_level, frame=assemble.prefixed_roberta_frame),
    "MPNetTokenizer": Steps(
        build=assemble.wordpiece,
        frame=assemble.mpnet_frame,
        defaults={
            **{name: _flagged(text) for name, text in CLASSES["MPNetTokenizer"].tokens.items() if text is not None},
            "mask_token": _flagged("<mask>", lstrip=True),
        },
    ),
    "NllbTokenizer": Steps(
        build=assemble_langs.nllb,
        tokens=assemble_langs.nllb_tokens,
        defaults={"mask_token": AddedToken("<mask>", lstrip=True, normalized=True, special=True)},
    ),
    "PegasusTokenizer": Steps(
        build=assemble_langs.pegasus,
        tokens=assemble_langs.pegasus_tokens,
        pieces=assemble_langs.pegasus_pieces,
        frame=assemble_langs.eos_frame,
    ),
    "Qwen2Tokenizer": Steps(build=assemble.qwen2),
    "Qwen3_5Tokenizer": Steps(build=assemble.qwen3_5, files=("vocab.json", "merges.txt")),
    "RobertaTokenizer": Steps(build=assemble.byte_level, frame=assemble.roberta_frame),
    "Siglip2Tokenizer": Steps(build=assemble.siglip2, files=_GEMMA_FILES),
    "T5Tokenizer": Steps(
        build=assemble.t5,
        tokens=assemble.t5_tokens,
        pieces=assemble.t5_pieces,
        frame=assemble.t5_frame,
        files=("spiece.model", "tokenizer.model"),
    ),
    "WhisperTokenizer": Steps(
        build=assemble.byte_level,
        defaults={name: _plain(_END) for name in ("unk_token", "bos_token", "eos_token")},
    ),
    "XLMRobertaTokenizer": Steps(
        build=assemble.xlm_roberta, pieces=assemble.xlm_roberta_pieces, frame=assemble.xlm_roberta_frame
    ),
    "BarthezTokenizer": Steps(
        build=assemble_kin.barthez,
        pieces=_as_they_are,
        defaults={"mask_token": assemble_kin.left_stripped("<mask>")},
    ),
    "BigBirdTokenizer": Steps(
        build=assemble_kin.big_bird,
        pieces=_as_they_are,
        frame=assemble.bert_frame,
        defaults={"mask_token": assemble_kin.left_stripped("[MASK]")},
    ),
    "BlenderbotTokenizer": Steps(
        build=assemble_kin.blenderbot,
        defaults={"mask_token": assemble_kin.left_stripped("<mask>", normalized=False)},
    ),
    "CodeLlamaTokenizer": Steps(build=assemble_kin.code_llama, tokens=assemble_kin.code_llama_tokens),
    "CohereTokenizer": Steps(build=assemble_kin.cohere),
    "FunnelTokenizer": Steps(build=assemble_kin.funnel, frame=assemble_kin.funnel_frame),
    "HerbertTokenizer": Steps(build=assemble_kin.herbert, frame=assemble_kin.herbert_frame),
    "OpenAIGPTTokenizer": Steps(build=assemble_kin.openai_gpt),
    "ReformerTokenizer": Steps(build=assemble_kin.reformer),
    "RemBertTokenizer": Steps(build=assemble_kin.rembert, pieces=_as_they_are, frame=assemble.bert_frame, yields=True),
    "SplinterTokenizer": Steps(
        build=assemble.wordpiece, tokens=assemble_kin.splinter_tokens, frame=assemble_kin.splinter_frame
    ),
    "XGLMTokenizer": Steps(
        build=assemble_kin.xglm,
        tokens=assemble_kin.xglm_tokens,
        pieces=_as_they_are,
        frame=assemble_kin.xglm_frame,
    ),
    "XLNetTokenizer": Steps(
        build=assemble_kin.xlnet,
        tokens=assemble_kin.xlnet_tokens,
        pieces=_as_they_are,
        frame=assemble_kin.xlnet_frame,
        defaults={"mask_token": assemble_kin.left_stripped("<mask>")},
    ),
}

_SCRIPTS: dict[str, Scripting] = {
    "BertGenerationTokenizer": Scripting(make=siglip.bert_generation),
    "BertJapaneseTokenizer": Scripting(make=japanese.japanese, frame=scripts.typed_cls_frame),
    "ByT5Tokenizer": Scripting(
        make=scripts.byt5,
        added=("pad_token", "eos_token", "unk_token"),
        tokens=scripts.byt5_tokens,
        frame=scripts.eos_frame,
        defaults={"pad_token": _wide("<pad>"), "eos_token": _wide("</s>"), "unk_token": _wide("<unk>")},
    ),
    "CanineTokenizer": Scripting(make=scripts.canine, tokens=scripts.of_2048, frame=scripts.cls_frame),
    "EsmTokenizer": Scripting(make=scripts.esm, frame=scripts.esm_frame),
    "PerceiverTokenizer": Scripting(
        make=scripts.perceiver,
        added=("pad_token", "bos_token", "eos_token", "mask_token", "cls_token", "sep_token"),
        tokens=scripts.of_2048,
        frame=scripts.typed_cls_frame,
    ),
    "M2M100Tokenizer": Scripting(make=pieces.m2m100),
    "MarianTokenizer": Scripting(make=pieces.marian, tokens=pieces.of_512, frame=assemble_langs.eos_frame),
    "SiglipTokenizer": Scripting(
        make=siglip.siglip, tokens=siglip.siglip_tokens, frame=scripts.eos_frame, backend=siglip.SiglipScripted
    ),
    "SpeechT5Tokenizer": Scripting(
        make=spoken_scripts.speecht5, frame=assemble_langs.eos_frame, backend=spoken_scripts.SpelledScripted
    ),
    "VitsTokenizer": Scripting(make=spoken_scripts.vits, backend=spoken_scripts.VitsScripted),
    "Wav2Vec2CTCTokenizer": Scripting(make=scripts.ctc, tokens=scripts.ctc_tokens),
    "Wav2Vec2PhonemeCTCTokenizer": Scripting(make=phone_script.phone_script, tokens=phone_script.phone_tokens),
}
