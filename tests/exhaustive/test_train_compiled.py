"""Training a compiled encoder-decoder, whose graphs take long: the suite compiles a decoder and an encoder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

import test_train_memory

saved = test_train_memory.saved


def test_an_encoder_decoder(saved, tmp_path):
    test_train_memory.compiled("t5", saved, tmp_path, "aot_eager")
