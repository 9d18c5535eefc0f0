"""Which tokenizer class a folder's names lead to, and what each class is like: facts, one row each.

They are those of release 5.23 of the reference implementation, for all of its text families and tokenizer classes; a
test walks its tables and compares. A class without an assembly of its own in ``recipes`` is taken as ``tokenizer.json``
has it, with the tokens, inputs and padding side of its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from omniform.inputs.text.settings import Side
from omniform.inputs.text.special import NAMES

GENERIC = "PreTrainedTokenizerFast"
"""The class of a tokenizer that is taken as its ``tokenizer.json`` stands."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a tokenizer class.

    Attributes:
        words: its special tokens, in the order of ``NAMES``; ``-`` where it has none.
        vocabulary: the files that it reads without a ``tokenizer.json``.
        inputs: the model inputs that it makes by default.
        side: where it pads.
        runs: what the reference runs it on; of the others than ``tokenizers`` no vocabulary files are read here.
    """

    words: str
    vocabulary: str
    inputs: str = "input_ids attention_mask"
    side: Side = "right"
    runs: Literal["tokenizers", "sentencepiece", "python"] = "tokenizers"

    @property
    def files(self) -> tuple[str, ...]:
        """The vocabulary's files."""
        return tuple(self.vocabulary.split())

    @property
    def tokens(self) -> Mapping[str, str | None]:
        """Its special tokens by name."""
        return {n: None if t == "-" else t for n, t in zip(NAMES, self.words.split(" "), strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a checkpoint says of itself, of which the class of its tokenizer follows.

    Attributes:
        family: the ``model_type`` of ``config.json``.
        config_class: the ``tokenizer_class`` of ``tokenizer_config.json``.
        model_class: the ``tokenizer_class`` of ``config.json``.
        model_name: the ``model_name`` of ``config.json``, which a few families tell their versions by.
        repository: the folder or repository.
        in_bytes: whether ``tokenizer.json`` has a byte-level step.
    """

    family: str | None = None
    config_class: str | None = None
    model_class: str | None = None
    model_name: str | None = None
    repository: str = ""
    in_bytes: bool = False


def class_of(origin: Origin) -> str:
    """The name of the class of a checkpoint's tokenizer; :data:`GENERIC` where it is taken as the file stands."""
    named = origin.config_class or origin.model_class
    registered = FAMILIES.get(origin.family or "")
    if any(fnmatchcase(origin.repository.lower(), pattern) for pattern in AS_THEY_STAND):
        return GENERIC
    misnamed = not MISNAMED.isdisjoint({origin.family, origin.model_name})
    # Llama's third generation is in bytes and shares nothing with the first two but the name of the class.
    if named and named.removesuffix("Fast") == "LlamaTokenizer" and origin.in_bytes and not misnamed:
        return GENERIC
    if named and registered and registered != named.removesuffix("Fast"):
        return GENERIC if registered == GENERIC else known_class(registered if misnamed else named)
    return known_class(named or registered)


def known_class(name: str | None) -> str:
    """A class by the name that a file gives it: without ``Fast``, under its own name; else :data:`GENERIC`."""
    bare = (name or GENERIC).removesuffix("Fast")
    bare = ALIASES.get(bare, bare)
    return bare if bare in CLASSES else GENERIC


AS_THEY_STAND = (
    *("deepseek-ai/deepseek-r1-distill-llama-*", "deepseek-ai/deepseek-coder-*", "allenai/dolma2-tokenizer"),
    *("google/umt5-small", "naver-clova-ix/donut-*", "salesforce/blip2-opt-*", "salesforce/blip2-flan-t5-*"),
    *("salesforce/instructblip-flan-t5-*", "stepfun-ai/step-3.7-*"),
)
"""Repositories, in small letters, whose files name a wrong class and whose family is shared with others."""

MISNAMED = frozenset({
    "arctic", "camembertv2-base", "chatlm", "cohere_asr", "ernie4_5", "ernie4_5_moe", "fuyu", "h2ovl_chat",
    "hyperclovax", "hyperclovax_vision_v2", "hyperclovax_vlm", "internlm2", "internlm3", "iquestcoder", "jamba",
    "llava", "llava_next", "minicpm3", "minicpmv", "minimax_m2", "modernbert", "modernbert-decoder", "molmo",
    "molmo2", "nemotron", "nvfp4", "opencua", "openvla", "paddleocr_vl", "phi3", "phi3_v", "phimoe", "qwen2",
    "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "siglip2", "smolvlm", "step3_vl", "vipllava",
})  # fmt: skip
"""Families whose folders name a wrong class: there the family's is believed."""

_CLASS_OF: dict[str, str] = {
    "AlbertTokenizer": "albert yoso",
    "BartTokenizer": "florence2",
    "BarthezTokenizer": "barthez",
    "BartphoTokenizer": "bartpho",
    "BertGenerationTokenizer": "bert-generation",
    "BertJapaneseTokenizer": "bert-japanese",
    "BertTokenizer": (
        "align bark bert blip bros chinese_clip convbert distilbert electra ernie flava git grounding-dino "
        "layoutlm megatron-bert mm-grounding-dino nezha nomic_bert qdqbert realm retribert squeezebert tvp vilt "
        "visual_bert"
    ),
    "BertweetTokenizer": "bertweet",
    "BigBirdTokenizer": "big_bird",
    "BioGptTokenizer": "biogpt",
    "BlenderbotSmallTokenizer": "blenderbot-small",
    "BlenderbotTokenizer": "blenderbot",
    "ByT5Tokenizer": "byt5",
    "CLIPTokenizer": "aimv2 clip clipseg groupvit omdet-turbo oneformer owlv2 owlvit sam3 sam3_video xclip",
    "CTRLTokenizer": "ctrl",
    "CamembertTokenizer": "camembert",
    "CanineTokenizer": "canine",
    "ClvpTokenizer": "clvp",
    "CodeLlamaTokenizer": "code_llama",
    "CohereTokenizer": "aya_vision cohere cohere2",
    "CpmAntTokenizer": "cpmant",
    "CpmTokenizer": "cpm",
    "DPRQuestionEncoderTokenizer": "dpr",
    "DebertaTokenizer": "deberta",
    "DebertaV2Tokenizer": "deberta-v2",
    "DiaTokenizer": "dia",
    "EsmTokenizer": "esm",
    "EsmcTokenizer": "esmc esmfold2",
    "FNetTokenizer": "fnet",
    "FSMTTokenizer": "fsmt",
    "FastSpeech2ConformerTokenizer": "fastspeech2_conformer",
    "FlaubertTokenizer": "flaubert",
    "FunnelTokenizer": "funnel",
    "GPT2Tokenizer": (
        "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip instructblipvideo jais2 "
        "opt phi starcoder2"
    ),
    "GPTNeoXJapaneseTokenizer": "gpt_neox_japanese",
    "GPTNeoXTokenizer": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm",
    "GPTSw3Tokenizer": "gpt-sw3",
    "GemmaTokenizer": (
        "diffusion_gemma gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 t5gemma zaya"
    ),
    "HerbertTokenizer": "herbert",
    "LEDTokenizer": "led",
    "LasrTokenizer": "lasr_ctc lasr_encoder",
    "LayoutLMv2Tokenizer": "layoutlmv2",
    "LayoutLMv3Tokenizer": "layoutlmv3",
    "LayoutXLMTokenizer": "layoutxlm",
    "LlamaTokenizer": "idefics idefics2",
    "LukeTokenizer": "luke",
    "LxmertTokenizer": "lxmert",
    "M2M100Tokenizer": "m2m_100",
    "MBart50Tokenizer": "mbart50",
    "MBartTokenizer": "mbart",
    "MLukeTokenizer": "mluke",
    "MPNetTokenizer": "mpnet",
    "MarianTokenizer": "marian",
    "MarkupLMTokenizer": "markuplm",
    "MgpstrTokenizer": "mgp-str",
    "MobileBertTokenizer": "mobilebert",
    "MvpTokenizer": "mvp",
    "MyT5Tokenizer": "myt5",
    "NllbTokenizer": "nllb nllb-moe",
    "NougatTokenizer": "nougat pp_formulanet",
    "OpenAIGPTTokenizer": "openai-gpt",
    "PLBartTokenizer": "plbart",
    "ParakeetTokenizer": (
        "granite_speech5_ctc nemotron3_5_asr nemotron_asr_streaming parakeet_ctc parakeet_rnnt parakeet_tdt"
    ),
    "PegasusTokenizer": "pegasus",
    "PerceiverTokenizer": "perceiver",
    "PhobertTokenizer": "phobert",
    "ProphetNetTokenizer": "prophetnet",
    "Qwen2Tokenizer": (
        "audioflamingo3 colqwen2 cosmos3_omni dots3_note fun_asr_nano hunyuan_vl internvl lighton_ocr "
        "moss_transcribe_diarize ovis2 qianfan_ocr qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl "
        "qwen3 qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vibevoice"
    ),
    "Qwen3_5Tokenizer": "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp",
    "RagTokenizer": "rag",
    "ReformerTokenizer": "reformer",
    "RemBertTokenizer": "rembert",
    "RoCBertTokenizer": "roc_bert",
    "RoFormerTokenizer": "roformer",
    "RobertaTokenizer": (
        "bart bridgetower clap data2vec-text ibert lilt longformer mega mra roberta roberta-prelayernorm"
    ),
    "SeamlessM4TTokenizer": "seamless_m4t seamless_m4t_v2",
    "Siglip2Tokenizer": "siglip2",
    "SiglipTokenizer": "siglip",
    "Speech2TextTokenizer": "speech_to_text",
    "SpeechT5Tokenizer": "speecht5",
    "SplinterTokenizer": "splinter",
    "T5Tokenizer": "mt5 musicgen musicgen_melody switch_transformers t5",
    "TapasTokenizer": "tapas",
    "Tipsv2Tokenizer": "tipsv2",
    GENERIC: (
        "EvollaModel aria beam bigbird_pegasus canary flex_olmo glm glm4 glm4_moe glm4_moe_lite glm4v glm4v_moe "
        "glm_image glmasr got_ocr2 gpt_bigcode gradium_phonon_tts granite granitemoe granitemoehybrid "
        "granitemoeshared kimi_k25 kimi_linear kosmos-2 mimo_v2_flash minicpm_ocr minicpmv4_6 minicpmv4_7 "
        "ministral ministral3 mistral mistral3 mistral_large4 mixtral nemo_speechlm nystromformer olmo2 olmo3 "
        "olmo_hybrid pegasus_x persimmon pix2struct pixtral pocket_tts stablelm umt5 voxtral voxtral_realtime "
        "xlm-roberta-xl jamba molmo llava llava_next minicpm3 iquestcoder vipllava phimoe smolvlm step3_vl "
        "minicpmv cohere_asr minimax_m2 paddleocr_vl modernbert-decoder modernbert fuyu phi3 openvla ernie4_5_moe "
        "nvfp4 phi3_v molmo2 ernie4_5 internlm2 camembertv2-base internlm3 arctic nemotron chatlm hyperclovax "
        "hyperclovax_vlm h2ovl_chat opencua"
    ),
    "UdopTokenizer": "udop",
    "VideoPrismTokenizer": "videoprism",
    "VitsTokenizer": "vits",
    "Wav2Vec2CTCTokenizer": "data2vec-audio hubert unispeech unispeech-sat wav2vec2 wav2vec2-bert wav2vec2-conformer",
    "Wav2Vec2PhonemeCTCTokenizer": "wav2vec2_phoneme",
    "WhisperTokenizer": "whisper",
    "XGLMTokenizer": "xglm",
    "XLMRobertaTokenizer": "gte jina_embeddings_v3 metaclip_2 trocr xlm-roberta xmod",
    "XLMTokenizer": "xlm",
    "XLNetTokenizer": "xlnet",
}
FAMILIES = {family: name for name, families in _CLASS_OF.items() for family in families.split()}
"""The class of each family's tokenizers, by ``model_type``."""

ALIASES = {
    **dict.fromkeys(
        ("ElectraTokenizer", "LayoutLMTokenizer", "LxmertTokenizer", "MobileBertTokenizer"), "BertTokenizer"
    ),
    "SqueezeBertTokenizer": "BertTokenizer",
    **dict.fromkeys(("BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"), "RobertaTokenizer"),
    "Phi3Tokenizer": "LlamaTokenizer",
}
"""Second names of classes."""

CLASSES: dict[str, Kind] = {
    "AlbertTokenizer": Kind("[CLS] [SEP] <unk> [SEP] <pad> [CLS] [MASK]", "spiece.model"),
    "BarthezTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model"),
    "BartphoTokenizer": Kind(
        "<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model dict.txt", runs="sentencepiece"
    ),
    "BertGenerationTokenizer": Kind("<s> </s> <unk> <::::> <pad> - -", "spiece.model", runs="sentencepiece"),
    "BertJapaneseTokenizer": Kind("- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt spiece.model", runs="python"),
    "BertTokenizer": Kind(
        "- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt", inputs="input_ids token_type_ids attention_mask"
    ),
    "BertTokenizerLegacy": Kind("- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt", runs="python"),
    "BertweetTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "vocab.txt bpe.codes", runs="python"),
    "BigBirdTokenizer": Kind("<s> </s> <unk> [SEP] <pad> [CLS] [MASK]", "spiece.model"),
    "BioGptTokenizer": Kind("<s> </s> <unk> </s> <pad> - -", "vocab.json merges.txt", runs="python"),
    "BlenderbotSmallTokenizer": Kind(
        "__start__ __end__ __unk__ - __null__ - -", "vocab.json merges.txt", runs="python"
    ),
    "BlenderbotTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "vocab.json merges.txt"),
    "ByT5Tokenizer": Kind("- </s> <unk> - <pad> - -", "", runs="python"),
    "CLIPTokenizer": Kind("<|startoftext|> <|endoftext|> <|endoftext|> - <|endoftext|> - -", "vocab.json merges.txt"),
    "CTRLTokenizer": Kind("- - <unk> - - - -", "vocab.json merges.txt", runs="python"),
    "CamembertTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model"),
    "CanineTokenizer": Kind(
        "\ue000 \ue001 - \ue001 \x00 \ue000 \ue003", "", inputs="input_ids attention_mask token_type_ids", runs="python"
    ),
    "ClvpTokenizer": Kind("<|endoftext|> [STOP] [UNK] - [STOP] - -", "vocab.json merges.txt", runs="python"),
    "CodeGenTokenizer": Kind("<|endoftext|> <|endoftext|> <|endoftext|> - - - -", "vocab.json merges.txt"),
    "CodeLlamaTokenizer": Kind("<s> </s> <unk> - - - -", "tokenizer.model", side="left"),
    "CohereTokenizer": Kind(
        "<BOS_TOKEN> <|END_OF_TURN_TOKEN|> <UNK> <SEP> <PAD> <CLS> <MASK_TOKEN>", "vocab.json merges.txt", side="left"
    ),
    "ConvBertTokenizer": Kind(
        "- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt", inputs="input_ids token_type_ids attention_mask"
    ),
    "CpmAntTokenizer": Kind("<s> </s> <unk> - <pad> - -", "vocab.txt", runs="python"),
    "CpmTokenizer": Kind("<s> </s> <unk> <sep> <pad> <cls> <mask>", "spiece.model", runs="python"),
    "DPRContextEncoderTokenizer": Kind(
        "- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt", inputs="input_ids token_type_ids attention_mask"
    ),
    "DPRQuestionEncoderTokenizer": Kind(
        "- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt", inputs="input_ids token_type_ids attention_mask"
    ),
    "DPRReaderTokenizer": Kind("- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt"),
    "DebertaTokenizer": Kind(
        "[CLS] [SEP] [UNK] [SEP] [PAD] [CLS] [MASK]",
        "vocab.json merges.txt",
        inputs="input_ids attention_mask token_type_ids",
    ),
    "DebertaV2Tokenizer": Kind(
        "[CLS] [SEP] [UNK] [SEP] [PAD] [CLS] [MASK]", "spm.model", inputs="input_ids attention_mask token_type_ids"
    ),
    "DiaTokenizer": Kind("- - <pad> - <pad> - -", "", runs="python"),
    "DistilBertTokenizer": Kind("- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt"),
    "EsmTokenizer": Kind("- <eos> <unk> - <pad> <cls> <mask>", "vocab.txt", runs="python"),
    "EsmcTokenizer": Kind("- <eos> <unk> - <pad> <cls> <mask>", ""),
    "FNetTokenizer": Kind(
        "[CLS] [SEP] <unk> [SEP] <pad> [CLS] [MASK]", "spiece.model", inputs="input_ids token_type_ids"
    ),
    "FSMTTokenizer": Kind("<s> - <unk> </s> <pad> - -", "vocab-src.json vocab-tgt.json merges.txt", runs="python"),
    "FastSpeech2ConformerTokenizer": Kind("<sos/eos> <sos/eos> <unk> - <blank> - -", "vocab.json", runs="python"),
    "FlaubertTokenizer": Kind("<s> - <unk> </s> <pad> </s> <special1>", "vocab.json merges.txt", runs="python"),
    "FunnelTokenizer": Kind("<s> </s> <unk> <sep> <pad> <cls> <mask>", "vocab.txt"),
    "GPT2Tokenizer": Kind("<|endoftext|> <|endoftext|> <|endoftext|> - - - -", "vocab.json merges.txt"),
    "GPTNeoXJapaneseTokenizer": Kind(
        "<|startoftext|> <|endoftext|> <|endoftext|> - <|endoftext|> - -", "vocab.txt emoji.json", runs="python"
    ),
    "GPTNeoXTokenizer": Kind("<|endoftext|> <|endoftext|> <|endoftext|> - <|padding|> - -", "vocab.json merges.txt"),
    "GPTSw3Tokenizer": Kind("- - - - - - -", "spiece.model", runs="sentencepiece"),
    "GemmaTokenizer": Kind("<bos> <eos> <unk> - <pad> - <mask>", "", side="left"),
    "HerbertTokenizer": Kind("- - <unk> </s> <pad> <s> <mask>", "vocab.json merges.txt"),
    "LasrTokenizer": Kind("- </s> <unk> - <pad> - -", "spiece.model"),
    "LayoutLMv2Tokenizer": Kind(
        "- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt", inputs="input_ids attention_mask token_type_ids"
    ),
    "LayoutLMv3Tokenizer": Kind(
        "<s> </s> <unk> </s> <pad> <s> <mask>", "vocab.json merges.txt", inputs="input_ids attention_mask bbox"
    ),
    "LayoutXLMTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model"),
    "LlamaTokenizer": Kind("<s> </s> <unk> - - - -", "tokenizer.model", side="left"),
    "LukeTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "vocab.json merges.txt entity_vocab.json"),
    "M2M100Tokenizer": Kind("<s> </s> <unk> </s> <pad> - -", "vocab.json sentencepiece.bpe.model", runs="python"),
    "MBart50Tokenizer": Kind("- </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model"),
    "MBartTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model"),
    "MLukeTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model entity_vocab.json"),
    "MPNetTokenizer": Kind("<s> </s> [UNK] </s> <pad> <s> <mask>", "vocab.txt"),
    "MarianTokenizer": Kind(
        "- </s> <unk> - <pad> - -", "source.spm target.spm vocab.json target_vocab.json", runs="python"
    ),
    "MarkupLMTokenizer": Kind(
        "<s> </s> <unk> </s> <pad> <s> <mask>",
        "vocab.json merges.txt",
        inputs="input_ids token_type_ids attention_mask",
    ),
    "MgpstrTokenizer": Kind("[GO] [s] [GO] - [GO] - -", "vocab.json", runs="python"),
    "MyT5Tokenizer": Kind("- </s> <unk> - <pad> - -", "byte_maps.json", runs="python"),
    "NllbTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model"),
    "NougatTokenizer": Kind("<s> </s> <unk> - <pad> - -", "vocab.json merges.txt"),
    "OpenAIGPTTokenizer": Kind("- - <unk> - - - -", "vocab.json merges.txt"),
    "PLBartTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model", runs="sentencepiece"),
    "ParakeetTokenizer": Kind("- - - - - - -", "tokenizer.model"),
    "PegasusTokenizer": Kind("- </s> <unk> - <pad> - <mask_2>", "spiece.model"),
    "PerceiverTokenizer": Kind("[BOS] [EOS] - [SEP] [PAD] [CLS] [MASK]", "", runs="python"),
    "PhobertTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "vocab.txt bpe.codes", runs="python"),
    "ProphetNetTokenizer": Kind("- - [UNK] [SEP] [PAD] - [MASK]", "prophetnet.tokenizer", runs="python"),
    "Qwen2Tokenizer": Kind("- <|endoftext|> <|endoftext|> - <|endoftext|> - -", "vocab.json merges.txt"),
    "Qwen3_5Tokenizer": Kind("- <|endoftext|> <|endoftext|> - <|endoftext|> - -", "tokenizer.model"),
    "ReformerTokenizer": Kind("- </s> <unk> - - - -", "spiece.model"),
    "RemBertTokenizer": Kind("[CLS] [SEP] <unk> [SEP] <pad> [CLS] [MASK]", "sentencepiece.model"),
    "RoCBertTokenizer": Kind(
        "- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt word_shape.json word_pronunciation.json", runs="python"
    ),
    "RoFormerTokenizer": Kind("- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt"),
    "RobertaTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "vocab.json merges.txt"),
    "SeamlessM4TTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> -", "sentencepiece.bpe.model"),
    "Siglip2Tokenizer": Kind("<bos> <eos> <unk> - <pad> - <mask>", "", side="left"),
    "SiglipTokenizer": Kind("- </s> <unk> - </s> - -", "spiece.model", runs="sentencepiece"),
    "Speech2TextTokenizer": Kind("<s> </s> <unk> - <pad> - -", "vocab.json sentencepiece.bpe.model", runs="python"),
    "SpeechT5Tokenizer": Kind("<s> </s> <unk> - <pad> - -", "spm_char.model", runs="sentencepiece"),
    "SplinterTokenizer": Kind("- - [UNK] [SEP] [PAD] [CLS] [MASK]", "vocab.txt"),
    "T5Tokenizer": Kind("- </s> <unk> - <pad> - -", "spiece.model"),
    "TapasTokenizer": Kind(
        "- - [UNK] [SEP] [PAD] [CLS] [MASK]",
        "vocab.txt",
        inputs="input_ids attention_mask token_type_ids",
        runs="python",
    ),
    "Tipsv2Tokenizer": Kind("- - <unk> - <pad> - -", "tokenizer.model"),
    "UdopTokenizer": Kind("- </s> <unk> </s> <pad> - -", "spiece.model"),
    "VideoPrismTokenizer": Kind("- </s> <unk> - <pad> - -", "spiece.model"),
    "VitsTokenizer": Kind("- - <unk> - <pad> - -", "vocab.json", runs="python"),
    "Wav2Vec2CTCTokenizer": Kind("<s> </s> <unk> - <pad> - -", "vocab.json", runs="python"),
    "Wav2Vec2PhonemeCTCTokenizer": Kind("<s> </s> <unk> - <pad> - -", "vocab.json", runs="python"),
    "WhisperTokenizer": Kind("<|endoftext|> <|endoftext|> <|endoftext|> - - - -", "vocab.json merges.txt"),
    "XGLMTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> -", ""),
    "XLMRobertaTokenizer": Kind("<s> </s> <unk> </s> <pad> <s> <mask>", "sentencepiece.bpe.model"),
    "XLMTokenizer": Kind("<s> - <unk> </s> <pad> </s> <special1>", "vocab.json merges.txt", runs="python"),
    "XLNetTokenizer": Kind("<s> </s> <unk> <sep> <pad> <cls> <mask>", "spiece.model", side="left"),
}
"""Every tokenizer class of the reference, by the name that ``tokenizer_class`` gives it."""
