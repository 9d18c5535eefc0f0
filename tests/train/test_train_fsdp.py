"""FSDP2 on our models without a Trainer: real gloo processes against one process that has it all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "citizens"))

from reference import omniform

# isort: split
import accelerate
from accelerate.utils import FullyShardedDataParallelPlugin
from omniform.integrations import fsdp
from torch import distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from citizens import CITIZENS
from omniform.core.errors import InputError
from omniform.train.parallel.fsdp import layers_of, shared_by, take_part, units_of
from train_proc_fork import all_of

pytestmark = pytest.mark.filterwarnings("ignore")

MODELS = ["llama", "gpt2", "bert", "t5", "clip"]
"""Plain; tied tables; a shared bias; a table that layers share; a parameter without an axis."""


def share(batch: dict[str, object], rank: int, world: int) -> dict[str, object]:
    rows = next(t for t in batch.values() if isinstance(t, Tensor)).shape[0] // world
    return {k: v[rank * rows : (rank + 1) * rows] if isinstance(v, Tensor) else v for k, v in batch.items()}


def batch_of(name: str) -> dict[str, object]:
    asks = CITIZENS[name].asks
    return asks.taught(asks.inputs(4, 6))


def alone(name: str, steps: int = 2, frozen: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The weights after the same steps of one process, over all rows."""
    model = freeze(CITIZENS[name].build().eval(), frozen)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, eps=1e-3)
    for _ in range(steps):
        for rank in range(2):
            (model(**share(batch_of(name), rank, 2)).loss / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def freeze(model: nn.Module, names: tuple[str, ...]) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(one in name for one in names))
    return model


def accelerated(**options: object) -> accelerate.Accelerator:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False, **options
    )
    made = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    take_part(made, plugin)
    assert made.is_fsdp2
    return made


def steps(accelerator: accelerate.Accelerator, name: str, frozen: tuple[str, ...] = ()) -> nn.Module:
    accelerator._models.clear()
    model = freeze(CITIZENS[name].build().eval(), frozen)
    if accelerator.process_index == 1:  # it is to get the first one's weights
        with torch.no_grad():
            next(model.parameters()).zero_()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, eps=1e-3)
    model, optimizer = fsdp.prepare(accelerator, model, optimizer)
    for _ in range(2):
        accelerator.backward(model(**share(batch_of(name), accelerator.process_index, 2)).loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        assert torch.allclose(found[name].float(), tensor.float(), atol=tolerance), name


def trained(rank: int, world: int, folder: Path) -> None:
    accelerator = accelerated(reshard_after_forward=True)
    for name in MODELS:
        model = steps(accelerator, name)
        assert fsdp.is_fsdp_managed_module(model) and sum(isinstance(m, FSDPModule) for m in model.modules()) > 2
        whole = fsdp.full_state_dict(model)
        if rank == 0:
            same(whole, alone(name))
            model.save_pretrained(folder / name, state_dict=whole)
        else:
            assert not whole
        with pytest.raises(InputError, match="only a part"):
            model.save_pretrained(folder / "part")
        if rank == 0:
            again = getattr(omniform, CITIZENS[name].architecture).from_pretrained(folder / name)
            assert all(torch.equal(tensor, whole[key]) for key, tensor in again.state_dict().items())
    kept(accelerator, folder)
    frozen(rank)
    in_sixteen_bits(rank)
    from_nothing(rank, folder)


def kept(accelerator: accelerate.Accelerator, folder: Path) -> None:
    """Parts on disk, for processes in other numbers."""
    model = steps(accelerator, "llama")
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=str(folder / "parts"))


def frozen(rank: int) -> None:
    AcceleratorState = accelerate.state.AcceleratorState
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerated(activation_checkpointing=True)
    still = ("embed_tokens", "layers.0")
    model = steps(accelerator, "llama", still)
    assert model.is_gradient_checkpointing
    whole = fsdp.full_state_dict(model)
    if rank == 0:
        same(whole, alone("llama", frozen=still))


def in_sixteen_bits(rank: int) -> None:
    model = CITIZENS["llama"].build().eval()
    fsdp.shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    output = model(**share(batch_of("llama"), rank, 2))
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}


def from_nothing(rank: int, folder: Path) -> None:
    """Built without memory, split, and filled from a whole state that the first process has."""
    citizen = CITIZENS["llama"]
    with torch.device("meta"):
        model = getattr(omniform, citizen.architecture)(citizen.config_of)
    fsdp.shard(model)
    model.to_empty(device="cpu")
    source = citizen.build()
    fsdp.load_full_state_dict(model, source.state_dict() if rank == 0 else {})
    batch = batch_of("llama")
    assert torch.allclose(model.eval()(**batch).logits, source.eval()(**batch).logits, atol=1e-6)


def test_two_processes_hold_parts(tmp_path):
    all_of(trained, 2, tmp_path / "two", tmp_path)
    # Another number of processes reads the same parts: four, and one without any splitting.
    all_of(read_by_four, 4, tmp_path / "four", tmp_path)
    state = {"model": CITIZENS["llama"].build().state_dict()}
    dcp.load(state, checkpoint_id=str(tmp_path / "parts"), no_dist=True)
    same(state["model"], alone("llama"))


def read_by_four(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo")
    model = fsdp.shard(CITIZENS["llama"].build())
    state = {"model": get_model_state_dict(model)}
    dcp.load(state, checkpoint_id=str(folder / "parts"))
    set_model_state_dict(model, state["model"])
    whole = fsdp.full_state_dict(model)
    if rank == 0:
        same(whole, alone("llama"))


@pytest.mark.parametrize("name", sorted(CITIZENS))
def test_layers_are_found_by_structure(name):
    model = CITIZENS[name].build()
    layers = layers_of(model)
    assert len(layers) == len(set(layers)) and not any(isinstance(m, (nn.ModuleList, nn.Linear)) for m in layers)
    # Torch demands that each parameter is brought together in one place.
    together = [m for group in shared_by(model, layers) for m in group]
    rest = {id(p) for m in together for p in m._parameters.values()}
    seen: set[int] = set()
    for layer in layers:
        own = {id(p) for m in layer.modules() if m not in together for p in m._parameters.values() if p is not None}
        assert not own & seen or any(other in layer.modules() for other in layers if other is not layer), name
        seen |= own
    assert not rest & seen


def test_which_modules_are_split_can_be_named():
    model = CITIZENS["llama"].build()
    given = {"fsdp_version": 2, "cpu_ram_efficient_loading": False}
    for asked, found in (("GatedMLP", "GatedMLP"), ("LlamaDecoderLayer", "PreNorm")):
        named = FullyShardedDataParallelPlugin(
            **given, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=[asked]
        )
        assert {type(unit).__name__ for unit in units_of(model, named)} == {found}
    wrong = FullyShardedDataParallelPlugin(
        **given, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["PreNrm"]
    )
    with pytest.raises(InputError, match="PreNorm"):
        units_of(model, wrong)
    large = FullyShardedDataParallelPlugin(**given, auto_wrap_policy="size_based_wrap", min_num_params=10**9)
    assert units_of(model, large) == []
    assert units_of(model, FullyShardedDataParallelPlugin(**given, auto_wrap_policy="no_wrap")) == []


def test_names_of_the_ecosystem():
    from omniform.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled
    from omniform.integrations.fsdp import is_fsdp_enabled, is_fsdp_managed_module

    assert not is_fsdp_enabled() and not is_fsdp_managed_module(nn.Linear(1, 1))
    assert not is_deepspeed_zero3_enabled() and deepspeed_config() is None
