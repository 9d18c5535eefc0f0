"""Tiny checkpoints that hear, and sounds."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import torch
from seen import folders, new_folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from inputs.speech import LETTERS, arpa
from reference import saved_reference, transformers

RATE = 16000
LABELS = {"id2label": {0: "dog", 1: "rain", 2: "bell", 3: "car horn", 4: "sea", 5: "wind", 6: "cat"}}


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """A tone that glides, in noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * (200 + 150 * seed + 400 * time) * time)
    return (0.4 * tone + 0.1 * generator.standard_normal(len(time))).astype(np.float32)


def sounds() -> list[np.ndarray]:
    """Short, odd and longer ones."""
    return [sound(0.5, 1), sound(0.31, 2), sound(0.92, 3)]


WHISPER = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_mel_bins": 8,
    "max_source_positions": 50,
}  # fmt: skip


@cache
def whisper_classifier(*changes: tuple[str, object]) -> Path:
    """A Whisper encoder that tells classes, with an extractor that hears one second."""
    folder, told = new_folder(), dict(changes)
    labels = {} if {"num_labels", "problem_type"} & told.keys() else LABELS
    config = transformers.WhisperConfig(
        **WHISPER, vocab_size=60, max_target_positions=20, classifier_proj_size=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=3, **labels, **told,
    )  # fmt: skip
    saved_reference(transformers.WhisperForAudioClassification, config, folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return folder


WAVES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": [8, 8, 8], "conv_stride": [5, 4, 4], "conv_kernel": [10, 8, 4], "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "vocab_size": len(LETTERS), "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
"""A wav2vec 2.0 of 80 samples a frame."""


@cache
def wav2vec2(*changes: tuple[str, object]) -> Path:
    """A wav2vec 2.0 that tells letters."""
    folder, told = new_folder(), dict(changes)
    config = transformers.Wav2Vec2Config(**{**WAVES, **told})
    model = saved_reference(transformers.Wav2Vec2ForCTC, config, folder)
    torch.nn.init.zeros_(model.lm_head.bias)  # so that it says more than one letter
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


@cache
def wav2vec2_with_words() -> Path:
    """The same with a model of words."""
    import pyctcdecode

    folder = new_folder()
    shutil.copytree(wav2vec2(), folder, dirs_exist_ok=True)
    decoder = pyctcdecode.build_ctcdecoder(["", "<s>", "</s>", "⁇", " ", *LETTERS[5:]], str(arpa(folder / "w.arpa")))
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    transformers.Wav2Vec2ProcessorWithLM(extractor, tokenizer, decoder).save_pretrained(folder)
    return folder


@cache
def whisper(*changes: tuple[str, object]) -> Path:
    """A Whisper that hears a second at a time, and writes letters."""
    folder = new_folder()
    folders.whisper(folder, pad_token="<|endoftext|>")
    reader = transformers.WhisperTokenizer.from_pretrained(folder)
    named = {name: reader.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "startoftranscript")}
    end, start = named["endoftext"], named["startoftranscript"]
    languages = {token: reader.convert_tokens_to_ids(token) for token in ("<|en|>", "<|de|>")}
    tasks = {name: reader.convert_tokens_to_ids(f"<|{name}|>") for name in ("transcribe", "translate")}
    config = transformers.WhisperConfig(
        **WHISPER, vocab_size=len(reader), max_target_positions=40, pad_token_id=end, bos_token_id=end,
        eos_token_id=end, decoder_start_token_id=start,
    )  # fmt: skip
    model = saved_reference(transformers.WhisperForConditionalGeneration, config, folder)
    with torch.no_grad():  # letters are likelier than the many times
        model.model.decoder.embed_tokens.weight[end:] *= 0.2
    told = {
        "lang_to_id": languages, "task_to_id": tasks, "is_multilingual": True, "max_length": 30,
        "alignment_heads": [[0, 1]], "no_timestamps_token_id": reader.convert_tokens_to_ids("<|notimestamps|>"),
        "prev_sot_token_id": reader.convert_tokens_to_ids("<|startofprev|>"), **dict(changes),
    }  # fmt: skip
    model.save_pretrained(folder)
    file = folder / "generation_config.json"
    usual = {name: value for name, value in json.loads(file.read_text()).items() if name != "_from_model_config"}
    file.write_text(json.dumps({**usual, **told}))
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    transformers.WhisperProcessor(extractor, reader).save_pretrained(folder)
    return folder


@cache
def vits(*changes: tuple[str, object]) -> Path:
    """A VITS that speaks letters; nothing of it is drawn where noise is 0."""
    folder = new_folder()
    table = {token: index for index, token in enumerate(["<pad>", "<unk>", *"abcdefgh "])}
    backend = Tokenizer(models.WordLevel(table, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = transformers.VitsConfig(
        vocab_size=len(table), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=24, flow_size=8,
        spectrogram_bins=9, upsample_initial_channel=16, upsample_rates=[2, 3], upsample_kernel_sizes=[4, 5],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], duration_predictor_filter_channels=12,
        posterior_encoder_num_wavenet_layers=1, prior_encoder_num_flows=1, prior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1, depth_separable_num_layers=1, sampling_rate=8000, **dict(changes),
    )  # fmt: skip
    saved_reference(transformers.VitsModel, config, folder)
    return folder


@cache
def moonshine() -> Path:
    """A Moonshine, which reads waves and writes letters."""
    folder = new_folder()
    table = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *"abcdefgh "])}
    backend = Tokenizer(models.WordLevel(table, "<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
    config = transformers.MoonshineConfig(
        vocab_size=len(table), hidden_size=32, intermediate_size=32, encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1, encoder_num_attention_heads=2, decoder_num_attention_heads=2, bos_token_id=1,
        decoder_start_token_id=1, eos_token_id=2, max_position_embeddings=40,
    )  # fmt: skip
    saved_reference(transformers.MoonshineForConditionalGeneration, config, folder, scale=0.4)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    return folder


@cache
def speecht5() -> tuple[Path, Path]:
    """A SpeechT5 that draws spectra of texts, and a vocoder."""
    folder, vocoder = new_folder(), new_folder()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(vits() / name, folder)
    config = transformers.SpeechT5Config(
        vocab_size=11, hidden_size=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        speech_decoder_prenet_units=8, speech_decoder_postnet_units=8, speech_decoder_postnet_layers=2,
        speaker_embedding_dim=6, max_text_positions=60, max_speech_positions=60,
    )  # fmt: skip
    saved_reference(transformers.SpeechT5ForTextToSpeech, config, folder)
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=8, upsample_initial_channel=16, upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], sampling_rate=4000,
    )  # fmt: skip
    saved_reference(transformers.SpeechT5HifiGan, config, vocoder, scale=0.05)
    return folder, vocoder
