"""Damaged files of every kind: typed errors or a valid result, quickly, and nothing that the data names is run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file

import fuzz
from checkpoints import CHAT, TEXT, picture_checkpoint, text_checkpoint
from reference import omniform, transformers

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
FAMILIES = {
    "bert": transformers.BertConfig(**SMALL, vocab_size=50),
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50),
    "t5": transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=50),
    "vit": transformers.ViTConfig(**SMALL, image_size=8, patch_size=4),
    "clip": transformers.CLIPConfig(
        text_config={**SMALL, "vocab_size": 50}, vision_config={**SMALL, "image_size": 8, "patch_size": 4}
    ),
    "whisper": transformers.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    ),
    "detr": transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, num_queries=3,
    ),
    "llama": transformers.LlamaConfig(**TEXT),
    "llava": transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config=transformers.CLIPVisionConfig(**SMALL, image_size=8, patch_size=4),
    ),
}  # fmt: skip


def pictures(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 17, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        Image.fromarray(pixels).save(folder / f"media.{kind.lower()}", kind)


def sounds(folder: Path) -> None:
    wave = np.sin(np.arange(4000) / 9).astype(np.float32) * 0.5
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("AIFF", "PCM_16"),
        ("AU", "FLOAT"),
    ):
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, 8000, format=kind, subtype=subtype)
        (folder / f"media.{kind.lower()}").write_bytes(buffer.getvalue())


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    text = text_checkpoint(root / "text", chat=True)
    (text / "chat_template.jinja").write_text(CHAT)
    (text / "generation_config.json").write_text(
        json.dumps({"max_new_tokens": 2, "do_sample": True, "top_k": 3, "eos_token_id": [2], "suppress_tokens": [5]})
    )
    omniform.AutoModelForCausalLM.from_pretrained(text).save_pretrained(root / "shards", max_shard_size="4KB")
    (root / "bin").mkdir()
    (root / "bin" / "config.json").write_bytes((text / "config.json").read_bytes())
    torch.save(load_file(text / "model.safetensors"), root / "bin" / "pytorch_model.bin")
    pictures(picture_checkpoint(root / "seeing"))
    transformers.WhisperFeatureExtractor(chunk_length=1).save_pretrained(root / "listening")
    sounds(root / "listening")
    for name, config in FAMILIES.items():
        config.save_pretrained(root / "families" / name)
    command = [sys.executable, str(Path(fuzz.__file__)), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_files(report, kind):
    outcomes = report[kind]
    wrong = [outcome for outcome in outcomes if outcome.startswith("WRONG")]
    assert not wrong, "\n".join(wrong)
    assert sum(outcomes.values()) >= fuzz.KINDS[kind][3]
    refused = sum(number for outcome, number in outcomes.items() if outcome != "fine")
    assert refused >= 3, outcomes  # the damage is real


def test_there_are_hundreds(report):
    assert sum(sum(outcomes.values()) for outcomes in report.values()) >= 300


HARMS = {
    "import": "__import__(fuzz.MARKER)",
    "shell": "__import__('os').system('true')",
    "process": "__import__('subprocess').run(['true'])",
    "network": "__import__('socket').create_connection(('127.0.0.1', 9), 1)",
    "kernels of others": "__import__('ctypes').CDLL(str(root / 'good' / 'omniform_v3.so'))",
    "kernels by a way around": "__import__('ctypes').CDLL(str(fuzz.PACKAGE / 'native/../native/lib/omniform_v3.so'))",
    "read outside": "open('/etc/passwd').close()",
    "write outside": "open(sys.argv[1] + '-outside', 'w').close()",
    "another error": "[][1]",
    "exit": "sys.exit(0)",
    "memory": "bytearray(2**40)",
}


@pytest.mark.parametrize("harm", HARMS)
def test_the_watch_sees(tmp_path, harm):
    code = f"""
import sys, pathlib
sys.path.insert(0, {str(Path(fuzz.__file__).parent)!r})
import fuzz
root = pathlib.Path(sys.argv[1])
(root / "good").mkdir()
sys.path.insert(0, str(root / "case"))
watch = fuzz.Watch(root / "case")
print(fuzz.run_case(lambda rng, path: None, lambda path: {HARMS[harm]}, root / "good", root / "case", "0", watch))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("WRONG"), done
