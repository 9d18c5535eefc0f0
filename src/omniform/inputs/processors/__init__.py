"""Processors: texts together with pictures or sounds, to everything a model takes."""

from typing import Final

from omniform.core.file_names import PROCESSOR_FILE
from omniform.inputs.processors.base import Parts, Processor
from omniform.inputs.processors.blip import Blip2Processor, BlipProcessor, InstructBlipProcessor
from omniform.inputs.processors.clap import ClapProcessor
from omniform.inputs.processors.clip import (
    AltCLIPProcessor,
    ChineseCLIPProcessor,
    CLIPProcessor,
    Siglip2Processor,
    SiglipProcessor,
)
from omniform.inputs.processors.clipseg import CLIPSegProcessor
from omniform.inputs.processors.donut import DonutProcessor
from omniform.inputs.processors.florence2 import Florence2Processor
from omniform.inputs.processors.gemma3 import Gemma3Processor
from omniform.inputs.processors.grounding_dino import GroundingDinoProcessor
from omniform.inputs.processors.idefics3 import Idefics3Processor
from omniform.inputs.processors.internvl import InternVLProcessor
from omniform.inputs.processors.kwargs import (
    AudioKwargs,
    CommonKwargs,
    ImagesKwargs,
    ProcessingKwargs,
    TextKwargs,
    VideosKwargs,
)
from omniform.inputs.processors.layoutlmv3 import LayoutLMv3Processor
from omniform.inputs.processors.llava import LlavaProcessor
from omniform.inputs.processors.llava_tiles import LlavaNextProcessor, LlavaOnevisionProcessor
from omniform.inputs.processors.musicgen import MusicgenProcessor
from omniform.inputs.processors.omni import Qwen2_5OmniProcessor, Qwen3OmniMoeProcessor
from omniform.inputs.processors.oneformer import OneFormerProcessor
from omniform.inputs.processors.owlvit import Owlv2Processor, OwlViTProcessor
from omniform.inputs.processors.own import ProcessorMixin
from omniform.inputs.processors.paligemma import PaliGemmaProcessor
from omniform.inputs.processors.phi4 import Phi4MultimodalProcessor
from omniform.inputs.processors.pix2struct import Pix2StructProcessor
from omniform.inputs.processors.pixtral import PixtralProcessor
from omniform.inputs.processors.qwen2_audio import Qwen2AudioProcessor
from omniform.inputs.processors.qwen_vl import Qwen2_5_VLProcessor, Qwen2VLProcessor, Qwen3VLProcessor
from omniform.inputs.processors.sam import Sam2Processor, SamProcessor
from omniform.inputs.processors.side import BridgeTowerProcessor, TrOCRProcessor, ViltProcessor
from omniform.inputs.processors.smolvlm import SmolVLMProcessor
from omniform.inputs.processors.speech import Wav2Vec2BertProcessor, Wav2Vec2Processor
from omniform.inputs.processors.speech_lm import Wav2Vec2ProcessorWithLM
from omniform.inputs.processors.speecht5 import SpeechT5Processor
from omniform.inputs.processors.voxtral import VoxtralProcessor
from omniform.inputs.processors.whisper import WhisperProcessor

PROCESSORS: Final[dict[str, type[Processor]]] = {
    kind.__name__: kind
    for kind in (
        Blip2Processor,
        BlipProcessor,
        InstructBlipProcessor,
        InternVLProcessor,
        BridgeTowerProcessor,
        CLIPProcessor,
        ChineseCLIPProcessor,
        AltCLIPProcessor,
        CLIPSegProcessor,
        ClapProcessor,
        DonutProcessor,
        Florence2Processor,
        Gemma3Processor,
        Idefics3Processor,
        GroundingDinoProcessor,
        LlavaNextProcessor,
        LlavaOnevisionProcessor,
        LayoutLMv3Processor,
        LlavaProcessor,
        OneFormerProcessor,
        OwlViTProcessor,
        Owlv2Processor,
        PaliGemmaProcessor,
        Phi4MultimodalProcessor,
        Qwen2AudioProcessor,
        PixtralProcessor,
        Pix2StructProcessor,
        Qwen2VLProcessor,
        Qwen2_5_VLProcessor,
        Qwen3VLProcessor,
        Qwen2_5OmniProcessor,
        Qwen3OmniMoeProcessor,
        Sam2Processor,
        SamProcessor,
        Siglip2Processor,
        SiglipProcessor,
        SmolVLMProcessor,
        MusicgenProcessor,
        SpeechT5Processor,
        TrOCRProcessor,
        ViltProcessor,
        VoxtralProcessor,
        Wav2Vec2BertProcessor,
        Wav2Vec2Processor,
        Wav2Vec2ProcessorWithLM,
        WhisperProcessor,
    )
}
"""Every processor, by the ``processor_class`` that files name."""

__all__ = [
    "PROCESSORS",
    "PROCESSOR_FILE",
    "AltCLIPProcessor",
    "AudioKwargs",
    "Blip2Processor",
    "BlipProcessor",
    "BridgeTowerProcessor",
    "CLIPProcessor",
    "CLIPSegProcessor",
    "ChineseCLIPProcessor",
    "ClapProcessor",
    "CommonKwargs",
    "DonutProcessor",
    "Florence2Processor",
    "Gemma3Processor",
    "GroundingDinoProcessor",
    "Idefics3Processor",
    "ImagesKwargs",
    "InstructBlipProcessor",
    "InternVLProcessor",
    "LayoutLMv3Processor",
    "LlavaNextProcessor",
    "LlavaOnevisionProcessor",
    "LlavaProcessor",
    "MusicgenProcessor",
    "OneFormerProcessor",
    "OwlViTProcessor",
    "Owlv2Processor",
    "PaliGemmaProcessor",
    "Parts",
    "Phi4MultimodalProcessor",
    "Pix2StructProcessor",
    "ProcessingKwargs",
    "Processor",
    "ProcessorMixin",
    "Qwen2AudioProcessor",
    "Sam2Processor",
    "SamProcessor",
    "Siglip2Processor",
    "SiglipProcessor",
    "SmolVLMProcessor",
    "SpeechT5Processor",
    "TextKwargs",
    "TrOCRProcessor",
    "VideosKwargs",
    "ViltProcessor",
    "VoxtralProcessor",
    "Wav2Vec2BertProcessor",
    "Wav2Vec2Processor",
    "Wav2Vec2ProcessorWithLM",
    "WhisperProcessor",
]  # fmt: skip
