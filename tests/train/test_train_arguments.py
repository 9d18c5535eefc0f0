"""The arguments of a training: those of the reference, its earlier releases', and what cannot be."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import logging
import pickle
import subprocess
import sys
from typing import ClassVar, get_type_hints

import pytest
import torch

import omniform
from omniform import Seq2SeqTrainingArguments, TrainingArguments
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.train.argument_table import TABLE
from omniform.train.former import FORMER
from omniform.train.intervals import OptimizerNames
from reference import transformers

PAIRS = [
    (TrainingArguments, transformers.TrainingArguments),
    (Seq2SeqTrainingArguments, transformers.Seq2SeqTrainingArguments),
]


def plain(value):
    return value.value if isinstance(value, transformers.utils.ExplicitEnum) else value


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_argument_of_the_reference_is_here_with_its_place_and_default(ours, theirs):
    mine, yours = dataclasses.fields(ours), dataclasses.fields(theirs)
    assert [one.name for one in mine] == [one.name for one in yours]
    for one, other in zip(mine, yours, strict=True):
        assert plain(other.default) == one.default or one.default is other.default, one.name
        assert one.default_factory is other.default_factory
        assert one.metadata["help"]
        assert set(one.metadata.get("choices", ())) == set(other.metadata.get("choices", ())), one.name
        assert one.metadata.get("nargs") == other.metadata.get("nargs"), one.name
    assert set(TABLE) >= {one.name for one in mine}
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    get_type_hints(ours)  # HfArgumentParser reads them


def test_values_after_construction_are_the_references(tmp_path):
    given = {
        "output_dir": str(tmp_path), "use_cpu": True, "eval_strategy": "steps", "logging_steps": 10, "save_steps": 20,
        "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "optim": "sgd", "gradient_checkpointing": True, "hub_token": "secret", "include_num_input_tokens_seen": True,
        "accelerator_config": {"split_batches": True}, "lr_scheduler_kwargs": '{"num_cycles": "2"}',
        "torch_compile_mode": "default", "log_level": "info",
    }  # fmt: skip
    for mine, yours in PAIRS:
        ours, theirs = mine(**given), yours(**given)
        found, wanted = ours.to_dict(), theirs.to_dict()
        assert found == wanted
        assert json.loads(ours.to_json_string()) == json.loads(theirs.to_json_string())
        assert ours.to_sanitized_dict() == theirs.to_sanitized_dict()
        for name in (
            "device", "n_gpu", "world_size", "process_index", "local_process_index", "train_batch_size",
            "eval_batch_size", "should_save", "should_log", "place_model_on_device", "ddp_timeout_delta",
            "mixed_precision", "fsdp_plugin_args",
        ):  # fmt: skip
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.parallel_mode.value == theirs.parallel_mode.value
        assert ours.get_warmup_steps(25) == theirs.get_warmup_steps(25) == 3
        assert ours.get_process_log_level() == logging.INFO
        assert "secret" not in repr(ours) + str(ours) + ours.to_json_string()


def test_sections_set_what_the_references_do():
    calls = [
        ("set_training", {"learning_rate": 1e-4, "batch_size": 32, "gradient_checkpointing": True}),
        ("set_evaluate", {"strategy": "steps", "steps": 100, "delay": 2}),
        ("set_testing", {"batch_size": 3, "loss_only": True}),
        ("set_save", {"strategy": "epoch", "total_limit": 3}),
        ("set_logging", {"strategy": "steps", "steps": 7, "level": "info"}),
        ("set_push_to_hub", {"model_id": "me/it", "private_repo": True}),
        ("set_optimizer", {"name": "adamw_torch", "beta1": 0.8}),
        ("set_lr_scheduler", {"name": "cosine", "warmup_steps": 0.05}),
        ("set_dataloader", {"train_batch_size": 16, "num_workers": 2, "sampler_seed": 1}),
    ]
    ours, theirs = TrainingArguments("x", use_cpu=True), transformers.TrainingArguments("x", use_cpu=True)
    for name, given in calls:
        assert getattr(ours, name)(**given) is ours
        getattr(theirs, name)(**given)
    wanted = theirs.to_dict()
    wanted["report_to"] = []  # the reference leaves the word "none" there
    assert ours.to_dict() == wanted


@pytest.mark.parametrize(
    ("given", "attribute", "value"),
    [
        ({"evaluation_strategy": "epoch"}, "eval_strategy", "epoch"),
        ({"no_cuda": True}, "use_cpu", True),
        ({"per_gpu_train_batch_size": 3}, "per_device_train_batch_size", 3),
        ({"per_gpu_eval_batch_size": 3}, "per_device_eval_batch_size", 3),
        ({"warmup_ratio": 0.25}, "warmup_steps", 0.25),
        ({"warmup_ratio": 0.25, "warmup_steps": 5}, "warmup_steps", 5),
        ({"group_by_length": True}, "train_sampling_strategy", "group_by_length"),
        ({"group_by_length": False}, "train_sampling_strategy", "random"),
        ({"adafactor": True}, "optim", "adafactor"),
        ({"include_inputs_for_metrics": True}, "include_for_metrics", ["inputs"]),
        ({"include_tokens_per_second": True}, "include_num_input_tokens_seen", "all"),
        ({"push_to_hub_model_id": "it"}, "hub_model_id", "it"),
        ({"logging_dir": "logs"}, "logging_dir", "logs"),
        ({"overwrite_output_dir": True}, "overwrite_output_dir", True),
        ({}, "overwrite_output_dir", False),
        ({"save_safetensors": True}, "seed", 42),
        ({"half_precision_backend": "auto"}, "seed", 42),
        ({"fsdp": "full_shard auto_wrap", "fsdp_transformer_layer_cls_to_wrap": "Layer"}, "fsdp", True),
    ],
)
def test_arguments_of_earlier_releases_are_taken(given, attribute, value):
    found = TrainingArguments("x", **given)
    assert getattr(found, attribute) == value
    assert getattr(pickle.loads(pickle.dumps(found)), attribute) == value


def test_older_names_can_be_read_and_are_said_once(caplog):
    args = TrainingArguments("x", evaluation_strategy="epoch")
    assert args.evaluation_strategy == "epoch"
    with pytest.raises(AttributeError, match="no_such"):
        _ = args.no_such
    assert not hasattr(args, "save_safetensors")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"save_safetensors": False}, ["save_safetensors", "safetensors"]),
        ({"tpu_num_cores": 8}, ["tpu_num_cores", "TPU"]),
        ({"use_ipex": True}, ["use_ipex", "torch_compile"]),
        ({"sharded_ddp": "simple"}, ["sharded_ddp", "fsdp"]),
        ({"push_to_hub_organization": "us"}, ["push_to_hub_organization", "hub_model_id"]),
        ({"optim": "adamw_hf"}, ["optim", "adamw_torch"]),
        ({"debug": "tpu_metrics_debug"}, ["debug", "TPU"]),
        ({"debug": "underflow_overflow"}, ["debug", "anomaly"]),
        ({"ddp_backend": "hccl"}, ["ddp_backend", "gloo"]),
        ({"fsdp": True, "fsdp_config": {"xla": True}}, ["xla"]),
        ({"fsdp": True, "fsdp_config": {"min_params": 1}}, ["min_params", "min_num_params"]),
        ({"fsdp": "hybrid_shard"}, ["fsdp", "version"]),
        ({"learning_rate": "fast"}, ["learning_rate", "fast"]),
        ({"learning_rate": float("nan")}, ["learning_rate"]),
        ({"learning_rate": -1}, ["learning_rate", "at least 0"]),
        ({"per_device_train_batch_size": 0}, ["per_device_train_batch_size", "at least 1"]),
        ({"per_device_train_batch_size": 1.5}, ["per_device_train_batch_size", "whole"]),
        ({"gradient_accumulation_steps": 0}, ["gradient_accumulation_steps"]),
        ({"seed": -1}, ["seed"]),
        ({"bf16": "maybe"}, ["bf16", "True or False"]),
        ({"lr_scheduler_type": "cosin"}, ["lr_scheduler_type", "cosine"]),
        ({"eval_strategy": "step"}, ["eval_strategy", "steps"]),
        ({"report_to": "tensorbord"}, ["report_to", "tensorboard"]),
        ({"log_level": "loud"}, ["log_level"]),
        ({"torch_empty_cache_steps": 0}, ["torch_empty_cache_steps"]),
        ({"warmup_steps": 1.5}, ["warmup_steps"]),
        ({"accelerator_config": {"split_batch": 1}}, ["split_batch", "split_batches"]),
        ({"lr_scheduler_kwargs": "{1"}, ["lr_scheduler_kwargs", "JSON"]),
        ({"fp16": True, "bf16": True}, ["fp16=True", "bf16=True"]),
        ({"fp16_full_eval": True, "bf16_full_eval": True}, ["fp16_full_eval", "bf16_full_eval"]),
        ({"load_best_model_at_end": True}, ["eval_strategy='no'", "save_strategy='steps'"]),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 10},
            ["save_steps=10", "eval_steps=3"],
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 10},
            ["save_steps=10", "eval_steps=0.1"],
        ),
        ({"logging_steps": 0}, ["logging_strategy='steps'", "logging_steps=0"]),
        ({"eval_strategy": "steps", "logging_strategy": "no", "logging_steps": 0}, ["eval_steps", "logging_steps"]),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, ["reduce_lr_on_plateau", "eval_strategy='no'"]),
        ({"lr_scheduler_type": "greedy"}, ["greedy", "eval_strategy='no'"]),
        ({"dataloader_prefetch_factor": 2}, ["dataloader_prefetch_factor", "dataloader_num_workers"]),
        ({"dataloader_persistent_workers": True}, ["dataloader_persistent_workers", "dataloader_num_workers"]),
        ({"num_train_epochs": -1}, ["num_train_epochs", "max_steps"]),
        ({"no_cuda": True, "use_cpu": False}, ["use_cpu", "older"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(given, words):
    with pytest.raises((InputError, UnknownArgumentError)) as error:
        TrainingArguments("x", **given)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(TypeError, match="learning_rate") as error:
        TrainingArguments("x", leraning_rate=1)
    assert isinstance(error.value, UnknownArgumentError)
    with pytest.raises(TypeError, match="evaluation_strategy"):
        TrainingArguments("x", evaluation_strateg="no")


def test_texts_are_read_as_what_they_stand_for():
    args = TrainingArguments("x", learning_rate="5e-5", max_steps="1e2", bf16="no", eval_strategy=False, seed="7")
    assert (args.learning_rate, args.max_steps, args.bf16, args.eval_strategy, args.seed) == (5e-5, 100, False, "no", 7)
    assert type(args.max_steps) is int


def test_reporters_are_those_that_are_named():
    assert TrainingArguments("x").report_to == TrainingArguments("x", report_to=None).report_to == []
    assert TrainingArguments("x", report_to="wandb").report_to == ["wandb"]
    assert TrainingArguments("x", report_to=["tensorboard", "mlflow"]).report_to == ["tensorboard", "mlflow"]
    assert "accelerate" not in TrainingArguments("x", report_to="all").report_to


def test_copies_keep_everything_and_objects_can_be_changed():
    args = Seq2SeqTrainingArguments("x", learning_rate=1e-3, report_to="wandb", eval_strategy="steps", fsdp=True)
    for other in (copy.copy(args), copy.deepcopy(args), pickle.loads(pickle.dumps(args)), dataclasses.replace(args)):
        assert other == args
        assert other.device == args.device
    assert dataclasses.replace(args, seed=3).seed == 3
    args.learning_rate = 1.0
    args.lr_scheduler_type = "cosine"
    args._n_gpu = 4
    assert args.train_batch_size == 32


def test_a_copy_leaves_what_accelerate_is_set_up_with():
    from accelerate import Accelerator

    args = TrainingArguments("x", use_cpu=True)
    assert args.device == torch.device("cpu")
    accelerator = Accelerator(cpu=True)
    assert copy.deepcopy(args).world_size == 1
    assert accelerator.state.num_processes == 1
    assert TrainingArguments("x", use_cpu=True, accelerator_config={"use_configured_state": True}).world_size == 1


@dataclasses.dataclass
class Mine(TrainingArguments):
    _VALID_DICT_FIELDS: ClassVar = [*TrainingArguments._VALID_DICT_FIELDS, "extra"]
    extra: dict | str | None = None
    bf16: bool | None = None
    logging_steps: float = 10

    def __post_init__(self):
        self.seen = self.learning_rate
        super().__post_init__()


class Plain(TrainingArguments):
    def __init__(self, mine, **given):
        self.mine = mine
        super().__init__(**given)


def test_classes_of_users_take_the_same():
    args = Mine("x", extra='{"a": "1"}', evaluation_strategy="epoch")
    assert (args.extra, args.bf16, args.logging_steps, args.seen) == ({"a": 1}, None, 10, 5e-5)
    with pytest.raises(TypeError, match="extra"):
        Mine("x", extr=1)
    assert Plain(3, output_dir="x", no_cuda=True).use_cpu is True


def test_nothing_is_imported_before_a_device_is_asked_for():
    code = (
        "import sys, omniform\nargs = omniform.TrainingArguments('x')\nassert 'accelerate' not in sys.modules\n"
        "args.to_json_string, args.device\nassert 'accelerate' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_names_are_where_scripts_look_for_them():
    from omniform.trainer_pt_utils import AcceleratorConfig
    from omniform.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
    from omniform.training_args import OptimizerNames as Names
    from omniform.training_args import ParallelMode
    from omniform.training_args_seq2seq import Seq2SeqTrainingArguments as Seq2Seq

    assert omniform.IntervalStrategy is IntervalStrategy
    assert omniform.SchedulerType is SchedulerType
    assert Names is OptimizerNames
    assert Seq2Seq is Seq2SeqTrainingArguments
    for ours, theirs in (
        (IntervalStrategy, transformers.IntervalStrategy),
        (SaveStrategy, transformers.trainer_utils.SaveStrategy),
        (HubStrategy, transformers.trainer_utils.HubStrategy),
        (SchedulerType, transformers.SchedulerType),
        (Names, transformers.training_args.OptimizerNames),
        (ParallelMode, transformers.training_args.ParallelMode),
    ):
        assert {one.name: one.value for one in ours} == {one.name: one.value for one in theirs}
    theirs = transformers.trainer_pt_utils.AcceleratorConfig()
    assert AcceleratorConfig().to_dict() == theirs.to_dict()


def test_every_older_argument_has_words():
    assert all(former.heir for former in FORMER.values())
    assert not set(FORMER) & set(TABLE)


def test_small_questions():
    import functools

    from omniform.trainer_utils import is_main_process, number_of_arguments, total_processes_number

    assert [is_main_process(rank) for rank in (-1, 0, 1)] == [True, True, False]
    assert total_processes_number(-1) == 1
    assert number_of_arguments(functools.partial(lambda a, b, c: None, 1, c=2)) == 1
