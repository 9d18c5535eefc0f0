"""Models saved as GGUF: the tensors and the metadata that the ecosystem's converter would write, and what is read back
is the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import omniform
from omniform.weights.gguf.reader import read_gguf
from reference import randomise

pytest.importorskip("gguf")
import gguf_written
from test_gguf_families import CASES, SIZE

IDS = torch.randint(5, SIZE, (2, 24), generator=torch.Generator().manual_seed(0))


def plain(folder, name):
    """A model of the reference's numbers, loaded here."""
    _, kind, settings, _ = CASES[name]
    model = randomise(kind(kind.config_class(**settings)).eval(), seed=1, scale=0.1)
    model.save_pretrained(folder / "plain")
    return omniform.AutoModelForCausalLM.from_pretrained(folder / "plain")


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_files_are_the_converters(name, tmp_path):
    arch, _, _, told = CASES[name]
    model = plain(tmp_path, name)
    model.save_gguf(tmp_path / "model.gguf", type="F32")
    file = read_gguf(tmp_path / "model.gguf")
    expected = gguf_written.converted(arch, tmp_path / "plain")
    assert set(file.tensors) == set(expected)
    for full, tensor in expected.items():
        assert file.tensors[full].shape == tensor.shape, full
        assert np.array_equal(file.raw(full).view(torch.float32).numpy(), tensor), full
    for key, value in told.items():
        if (name, key) != ("bloom", ".context_length"):  # which no config of that family says
            expected_value = value if isinstance(value, str) else pytest.approx(value, rel=1e-6)
            assert file.metadata[arch + key] == expected_value, key
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "model.gguf")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
