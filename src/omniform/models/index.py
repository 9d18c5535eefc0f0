"""Which file holds which name. Written by tools/index.py from the families (`make index`): do not edit."""

from __future__ import annotations

FAMILIES: dict[str, str] = {
    "bert": "bert:FAMILY",
    "clip": "clip:FAMILY",
    "clip_text_model": "clip:TEXT",
    "clip_vision_model": "clip:VISION",
    "detr": "detr:FAMILY",
    "gpt2": "gpt2:FAMILY",
    "llama": "llama:FAMILY",
    "llava": "llava:FAMILY",
    "mistral": "mistral:FAMILY",
    "qwen3_next": "qwen3_next:FAMILY",
    "t5": "t5:FAMILY",
    "vit": "vit:FAMILY",
    "whisper": "whisper:FAMILY",
}
"""Module and name of every family, by ``model_type``."""

CLASSES: dict[str, str] = {
    "BertConfig": "bert",
    "BertForMaskedLM": "bert",
    "BertForMultipleChoice": "bert",
    "BertForNextSentencePrediction": "bert",
    "BertForPreTraining": "bert",
    "BertForQuestionAnswering": "bert",
    "BertForSequenceClassification": "bert",
    "BertForTokenClassification": "bert",
    "BertLMHeadModel": "bert",
    "BertModel": "bert",
    "BertPreTrainedModel": "bert",
    "CLIPConfig": "clip",
    "CLIPForImageClassification": "clip",
    "CLIPModel": "clip",
    "CLIPPreTrainedModel": "clip",
    "CLIPTextConfig": "clip",
    "CLIPTextModel": "clip",
    "CLIPTextModelWithProjection": "clip",
    "CLIPTextPreTrainedModel": "clip",
    "CLIPVisionConfig": "clip",
    "CLIPVisionModel": "clip",
    "CLIPVisionModelWithProjection": "clip",
    "CLIPVisionPreTrainedModel": "clip",
    "DetrConfig": "detr",
    "DetrForObjectDetection": "detr",
    "DetrForSegmentation": "detr",
    "DetrModel": "detr",
    "DetrPreTrainedModel": "detr",
    "GPT2Config": "gpt2",
    "GPT2DoubleHeadsModel": "gpt2",
    "GPT2ForQuestionAnswering": "gpt2",
    "GPT2ForSequenceClassification": "gpt2",
    "GPT2ForTokenClassification": "gpt2",
    "GPT2LMHeadModel": "gpt2",
    "GPT2Model": "gpt2",
    "GPT2PreTrainedModel": "gpt2",
    "LlamaConfig": "llama",
    "LlamaForCausalLM": "llama",
    "LlamaForQuestionAnswering": "llama",
    "LlamaForSequenceClassification": "llama",
    "LlamaForTokenClassification": "llama",
    "LlamaModel": "llama",
    "LlamaPreTrainedModel": "llama",
    "LlavaConfig": "llava",
    "LlavaForConditionalGeneration": "llava",
    "LlavaModel": "llava",
    "LlavaPreTrainedModel": "llava",
    "MistralConfig": "mistral",
    "MistralForCausalLM": "mistral",
    "MistralForQuestionAnswering": "mistral",
    "MistralForSequenceClassification": "mistral",
    "MistralForTokenClassification": "mistral",
    "MistralModel": "mistral",
    "MistralPreTrainedModel": "mistral",
    "Qwen3NextConfig": "qwen3_next",
    "Qwen3NextForCausalLM": "qwen3_next",
    "Qwen3NextForQuestionAnswering": "qwen3_next",
    "Qwen3NextForSequenceClassification": "qwen3_next",
    "Qwen3NextForTokenClassification": "qwen3_next",
    "Qwen3NextModel": "qwen3_next",
    "Qwen3NextPreTrainedModel": "qwen3_next",
    "T5Config": "t5",
    "T5EncoderModel": "t5",
    "T5ForConditionalGeneration": "t5",
    "T5ForQuestionAnswering": "t5",
    "T5ForSequenceClassification": "t5",
    "T5ForTokenClassification": "t5",
    "T5Model": "t5",
    "T5PreTrainedModel": "t5",
    "ViTConfig": "vit",
    "ViTForImageClassification": "vit",
    "ViTForMaskedImageModeling": "vit",
    "ViTModel": "vit",
    "ViTPreTrainedModel": "vit",
    "WhisperConfig": "whisper",
    "WhisperForAudioClassification": "whisper",
    "WhisperForCausalLM": "whisper",
    "WhisperForConditionalGeneration": "whisper",
    "WhisperModel": "whisper",
    "WhisperPreTrainedModel": "whisper",
}
"""The file that holds a class, by its name."""

TOKENIZERS: dict[str, str] = {
    "bert": "BertTokenizer",
    "clip": "CLIPTokenizer",
    "clip_text_model": "CLIPTokenizer",
    "gpt2": "GPT2Tokenizer",
    "llama": "LlamaTokenizer",
    "llava": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "qwen3_next": "LlamaTokenizer",
    "t5": "T5Tokenizer",
    "whisper": "WhisperTokenizer",
}
"""Class name of the tokenizer, by ``model_type``."""

IMAGE_PROCESSORS: dict[str, str] = {
    "clip": "CLIPImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "detr": "DetrImageProcessor",
    "llava": "LlavaImageProcessor",
    "vit": "ViTImageProcessor",
}
"""Class name of the image processor, by ``model_type``."""

FEATURE_EXTRACTORS: dict[str, str] = {
    "whisper": "WhisperFeatureExtractor",
}
"""Class name of the feature extractor, by ``model_type``."""

PROCESSORS: dict[str, str] = {
    "clip": "CLIPProcessor",
    "llava": "LlavaProcessor",
    "whisper": "WhisperProcessor",
}
"""Class name of the processor, by ``model_type``."""
