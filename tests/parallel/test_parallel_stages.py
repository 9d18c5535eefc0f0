"""Models whose layers lie in processes one after another: scores and tokens are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parallel_families import all_of, differences, each, loaded, made
from test_parallel_loading import touched

import omniform
from omniform.core.errors import InputError
from omniform.transforms.stage import split
from reference import saved_reference, transformers

WRITING = ["llama tied", "gpt2", "mixtral", "deepseek_v3", "gpt_oss", "bart", "llava"]
"""Layers are whole: each way of handing something on once; all families are in tests/exhaustive."""

IDS = torch.tensor([[5, 9, 17, 30, 4, 22, 41]])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.mark.parametrize(
    ("world", "names", "given"),
    [
        (2, WRITING, {"pp_plan": "auto"}),
        (4, ["gemma3 deep"], {"distributed_config": transformers.DistributedConfig(pp_size=4)}),
        (4, ["llama tied", "qwen3_moe deep"], {
            "tp_plan": "auto", "pp_plan": "auto", "tp_size": 2,
        }),
    ],
    ids=["2", "4", "2x2"],
)  # fmt: skip
def test_scores_and_tokens_are_those_of_one_process(
    checkpoints: Path, world: int, names: list[str], given: dict[str, object]
) -> None:
    run = checkpoints / f"of{world}{len(given)}"
    wrong = differences(checkpoints, run, world, names, given)
    assert not wrong, "\n".join(wrong)


WIDE = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def seen(rank: int, world: int, folder: Path) -> dict[str, object]:
    model = omniform.AutoModelForCausalLM.from_pretrained(folder, pp_plan="auto")
    with torch.inference_mode():
        out = model(IDS, output_hidden_states=True)
        with pytest.raises(InputError, match="attention weights lie in the process"):
            model(IDS, output_attentions=True)
        on = model(IDS[:, -1:], past_key_values=model(IDS[:, :-1]).past_key_values).logits
    with pytest.raises(InputError, match="a part of the model"):
        model.save_pretrained(folder.parent / f"saved{rank}")
    with pytest.raises(InputError, match="no adapters of a model in several processes"):
        model.add_adapter({"r": 2, "target_modules": ["q_proj"]})
    with pytest.raises(InputError, match="gradients"):
        model(inputs_embeds=torch.randn(1, 3, 256, requires_grad=True))
    return {"bytes": touched(folder), "states": out.hidden_states, "on": on, "told": str(model)}


def test_each_process_reads_its_layers(tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**WIDE), folder, scale=0.05)
    model = omniform.AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        out = model(IDS, output_hidden_states=True)
    whole = (folder / "model.safetensors").stat().st_size
    for rank, found in enumerate(all_of(seen, 2, tmp_path / "run", folder)):
        assert 0 < found["bytes"] < 0.55 * whole, f"{found['bytes']} of {whole} bytes"
        for mine, theirs in zip(out.hidden_states, found["states"], strict=True):
            torch.testing.assert_close(theirs, mine)
        torch.testing.assert_close(found["on"], out.logits[:, -1:])
        assert f"in process {1 - rank}" in found["told"]


def asked(rank: int, world: int, checkpoints: Path, name: str, given: dict[str, object]) -> None:
    loaded(made(name, checkpoints), **given)


@pytest.mark.parametrize(
    ("world", "name", "given", "said"),
    [
        (3, "llama", {"pp_plan": "auto"}, "not enough layers .*expected at least 3 layers.* found 2"),
        (2, "bert", {"pp_plan": "auto"}, "no layers of a decoder"),
        (2, "llama", {"pp_plan": "auto", "pp_size": 3}, "not so many processes; expected 2; found 3"),
        (2, "llama", {"pp_plan": "auto", "tp_plan": "auto"}, "tp_size: nobody says how many"),
        (2, "llama", {"pp_plan": "auto", "tp_plan": "auto", "tp_size": 3}, "product is 2"),
        (2, "llama", {"pp_plan": "auto", "device_map": "cpu"}, "its own device with a pp_plan"),
        (2, "llama", {"pp_plan": {"layers": 0}}, "pp_plan: .*expected 'auto'"),
        (2, "llama", {"pp_size": 2}, "Pass pp_plan='auto' too"),
        (2, "llama", {"distributed_config": {"fsdp_size": 2}}, "distributed_config: fsdp_size"),
        (2, "llama", {"distributed_config": {"pp_size": 2}, "pp_plan": "auto"}, "said twice"),
    ],
)
def test_refused(checkpoints: Path, tmp_path: Path, world: int, name: str, given: dict[str, object], said: str) -> None:
    made(name, checkpoints)
    for error in each(asked, world, tmp_path / "run", checkpoints, name, given, timeout=60):
        with pytest.raises(InputError, match=said):
            raise error  # type: ignore[misc]


@pytest.mark.parametrize(
    ("costs", "count", "dearest"),
    [
        ([1] * 8, 4, 2),
        ([5, 1, 1, 1], 2, 5),
        ([1, 1, 1, 5], 2, 5),
        ([3, 3, 3], 2, 6),
        ([9, 1], 2, 9),
        ([2, 1, 1, 2], 3, 2),
    ],
)
def test_stretches_are_as_even_as_can_be(costs: list[int], count: int, dearest: int) -> None:
    found = split(costs, count)
    assert found == sorted(found) and {*found} == {*range(count)}
    assert max(sum(c for c, part in zip(costs, found, strict=True) if part == n) for n in range(count)) == dearest
