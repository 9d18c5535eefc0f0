"""A folder of a tiny Whisper of windows of two seconds, with tokenizer, features and settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from reference import saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parent / "inputs"))
from test_tokenizers_folders import whisper

SECONDS = 2
RATE = 16000


def listening(folder: Path) -> object:
    """The reference's model, saved into a folder that is made."""
    path = whisper(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    index = tokenizer.convert_tokens_to_ids
    off, end = index("<|notimestamps|>"), tokenizer.eos_token_id
    ids = {"eos_token_id": end, "bos_token_id": end, "pad_token_id": end}
    ids["decoder_start_token_id"] = index("<|startoftranscript|>")
    config = transformers.WhisperConfig(
        vocab_size=off + 2 + 50 * SECONDS, num_mel_bins=8, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_source_positions=50 * SECONDS, max_target_positions=60, suppress_tokens=[], begin_suppress_tokens=[], **ids,
    )  # fmt: skip
    theirs = saved_reference(transformers.WhisperForConditionalGeneration, config, path, scale=0.4)
    theirs.generation_config = transformers.GenerationConfig(
        **ids, is_multilingual=True, no_timestamps_token_id=off, max_length=60, alignment_heads=[[1, 0], [1, 2]],
        lang_to_id={name: index(name) for name in ("<|en|>", "<|de|>", "<|zh|>")}, return_timestamps=False,
        task_to_id={name: index(f"<|{name}|>") for name in ("transcribe", "translate")},
        suppress_tokens=list(range(end + 1, off)), begin_suppress_tokens=[end],
    )  # fmt: skip
    theirs.generation_config.save_pretrained(path)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=SECONDS, sampling_rate=RATE).save_pretrained(path)
    settings = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps({**settings, "processor_class": "WhisperProcessor"}))
    return theirs
