"""A decoder compiled ahead of time: C++ takes half a minute and more, so that it stands here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import omniform
from omniform.cli.main import main
from omniform.core.errors import InputError
from omniform.export import exporting
from omniform.export.onnx.layout import CERTIFICATE

TINY = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.4,
}  # fmt: skip

ALONE = """
import sys
class No:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "omniform":
            raise ImportError(name)
sys.meta_path.insert(0, No())
import torch
program = torch._inductor.aoti_load_package(sys.argv[1])
with torch.no_grad():
    torch.save([program(**given) for given in torch.load(sys.argv[2])], sys.argv[3])
assert "omniform" not in sys.modules
"""


@pytest.mark.timeout(3600)
@torch.no_grad()
def test_a_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    model = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **TINY))
    model.save_pretrained(tmp_path / "model")
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    out = tmp_path / "out"
    done = exporting.export_checkpoint(tmp_path / "model", "aot", out)
    assert done.format == "aot" and done.cases == 36 and done.greatest < 1e-5
    told = json.loads((out / CERTIFICATE).read_text())
    assert told["compiler"].endswith("+") and told["machine"].startswith(os.uname().sysname)

    calls, expected = [], []
    generator = torch.Generator().manual_seed(3)
    for rows, new, past in ((1, 1, 0), (5, 1, 7), (2, 100, 0), (4, 37, 5)):
        ids = torch.randint(3, 61, (rows, past + new), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, : (past + new) // 2] = 0
        places = (mask.cumsum(1) - 1).clamp(min=0)
        state = None
        if past:
            begun = model(ids[:, :past], attention_mask=mask[:, :past], position_ids=places[:, :past], use_cache=True)
            state = begun.past_key_values
        held = (torch.zeros(rows, 2, 0, 4),) * 2 if state is None else tuple(x.contiguous() for x in state[0])
        given = {"input_ids": ids[:, past:], "attention_mask": mask, "position_ids": places[:, past:]}
        # In another order than the program's: keywords say which is which.
        calls.append({"past_key_values_0_value": held[1], "past_key_values_0_key": held[0], **given})
        expected.append(model(**given, past_key_values=state, use_cache=True).logits)
    torch.save(calls, tmp_path / "in.pt")
    files = [str(out / "model.pt2"), str(tmp_path / "in.pt"), str(tmp_path / "found.pt")]
    subprocess.run([sys.executable, "-c", ALONE, *files], check=True)
    for found, right in zip(torch.load(tmp_path / "found.pt"), expected, strict=True):
        torch.testing.assert_close(found["logits"], right, atol=2e-5, rtol=1e-4)

    assert main(["export", "--check", str(out)]) == 0
    assert "AOTInductor's program agrees with torch in 36 cases" in capsys.readouterr().out
    told["machine"] = "Linux x86_64 AVX512"
    (out / CERTIFICATE).write_text(json.dumps(told))
    with pytest.raises(InputError, match="compiled for another machine"):
        exporting.check(out)
