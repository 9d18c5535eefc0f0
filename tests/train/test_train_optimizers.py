"""Optimizers by name, their arguments and steps, and which parameters decay, against the reference's."""

from __future__ import annotations

import copy
import importlib.machinery
import sys
import types

import pytest
import torch
from omniform.optimization import AdafactorSchedule
from torch import nn
from train_tiny import KINDS, arguments, curve, their_arguments

import omniform
from omniform import Adafactor, TrainingArguments
from omniform.core.errors import DependencyError, InputError, UnknownArgumentError
from omniform.train.decay import get_decay_parameter_names, get_parameter_names, parameter_groups
from omniform.train.intervals import OptimizerNames
from omniform.train.optimizers import MAKERS, get_optimizer_cls_and_kwargs, make_optimizer
from reference import saved_reference, transformers

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 50}
FAMILIES = [
    ("BertForSequenceClassification", transformers.BertConfig(**TEXT)),
    ("DistilBertForTokenClassification", transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=2, hidden_dim=48, vocab_size=50)),
    ("LlamaForCausalLM", transformers.LlamaConfig(**TEXT, num_key_value_heads=1)),
    ("Qwen3ForCausalLM", transformers.Qwen3Config(**TEXT, num_key_value_heads=1, head_dim=16)),
    ("GPT2LMHeadModel", transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=32)),
    ("T5ForConditionalGeneration", transformers.T5Config(
        d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, vocab_size=50)),
    ("ViTForImageClassification", transformers.ViTConfig(
        **{k: v for k, v in TEXT.items() if k != "vocab_size"}, image_size=16, patch_size=8)),
    ("WhisperForConditionalGeneration", transformers.WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=60, num_mel_bins=8, max_source_positions=20,
        max_target_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)),
]  # fmt: skip


class Reference:
    """The reference's Trainer, as far as its methods look at a model."""

    names = staticmethod(lambda model: transformers.Trainer.get_decay_parameter_names(None, model))


@pytest.mark.parametrize(("name", "config"), FAMILIES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_same_parameters_decay_as_in_the_reference(name, config, tmp_path):
    theirs = saved_reference(getattr(transformers, name), config, tmp_path)
    ours = getattr(omniform, name).from_pretrained(tmp_path)
    decayed = set(Reference.names(theirs))
    wanted = {True: 0.0, False: 0.0}
    counts = {True: 0, False: 0}
    for key, one in theirs.named_parameters():
        if not one.requires_grad:
            continue
        wanted[key in decayed] += one.double().abs().sum().item()
        counts[key in decayed] += one.numel()
    groups = parameter_groups(ours, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    for group, decays in zip(groups, (True, False), strict=True):
        assert sum(one.numel() for one in group["params"]) == counts[decays]
        found = sum(one.double().abs().sum().item() for one in group["params"])
        assert found == pytest.approx(wanted[decays], rel=1e-9)


def test_norms_are_known_by_what_they_are(tmp_path):
    config = transformers.MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, vocab_size=30)
    saved_reference(transformers.MambaForCausalLM, config, tmp_path)
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    decayed = get_decay_parameter_names(model)
    # The reference looks at names, and lets the last norm of Mamba ("norm_f") decay.
    assert not [name for name in decayed if "norm" in name]

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln = nn.LayerNorm(4)
            self.scale = nn.RMSNorm(4)
            self.linear = nn.Linear(4, 4)
            self.free = nn.Parameter(torch.ones(2))

    assert sorted(get_decay_parameter_names(Odd())) == ["free", "linear.weight"]
    theirs = transformers.trainer_pt_utils.get_parameter_names
    assert set(get_parameter_names(Odd(), [nn.LayerNorm], ["bias"])) == set(theirs(Odd(), [nn.LayerNorm], ["bias"]))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(40, 64), nn.LayerNorm(64), nn.Linear(64, 80), nn.Linear(80, 3))


# -- classes and arguments -------------------------------------------------------------------------------------------

PACKAGES = {
    "galore_torch": ["GaLoreAdafactor", "GaLoreAdamW", "GaLoreAdamW8bit"],
    "apollo_torch": ["APOLLOAdamW"],
    "lomo_optim": ["AdaLomo", "Lomo"],
    "grokadamw": ["GrokAdamW"],
    "torchao": [],
    "torchao.optim": ["AdamW4bit", "AdamW8bit"],
    "schedulefree": ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"],
    "optimi": ["StableAdamW"],
    "torchdistx": [],
    "torchdistx.optimizers": ["AnyPrecisionAdamW"],
}
ARGUMENTS = {
    "ademamix": "alpha=3, beta3=0.99, t_alpha=5",
    "sgd": "momentum=0.9, nesterov=true",
    "adagrad": "lr_decay=0.1",
    "rmsprop": "alpha=0.9, centered=true",
    "galore_adamw": "rank=4, scale=0.5, proj_type=reverse_std",
    "apollo_adamw": "rank=4, scale_type=tensor",
    "grokadamw": "lamb=3.0",
    "adamw_torch_4bit": "bf16_stochastic_round=True",
    "schedule_free_sgd": "r=1.0",
    "stable_adamw": "max_lr=0.5",
    "adamw_anyprecision": "use_kahan_summation=True, momentum_dtype=bfloat16",
}
ELSEWHERE = {OptimizerNames.ADAMW_TORCH_XLA, OptimizerNames.ADAMW_TORCH_NPU_FUSED}


@pytest.fixture
def stand_ins(monkeypatch):
    """Packages that are not installed, as modules with empty classes."""
    for package, names in PACKAGES.items():
        module = types.ModuleType(package)
        module.__spec__ = importlib.machinery.ModuleSpec(package, None)
        for name in names:
            setattr(module, name, type(name, (torch.optim.SGD,), {"__init__": lambda self, *a, **k: None}))
        monkeypatch.setitem(sys.modules, package, module)
    home = importlib.import_module("transformers.trainer_optimizer")
    for name in dir(home):
        if name.startswith("is_") and name.endswith("_available"):
            monkeypatch.setattr(home, name, lambda *args: True)
    monkeypatch.setattr(home.importlib.metadata, "version", lambda name: "9.0.0")


@pytest.mark.parametrize("name", [one.value for one in OptimizerNames if one not in ELSEWHERE])
def test_every_optimizer_is_the_references(name, stand_ins):
    given = {
        "output_dir": "x", "use_cpu": True, "optim": name, "optim_args": ARGUMENTS.get(name), "learning_rate": 0.01,
        "adam_beta1": 0.8,
        "weight_decay": 0.1, "warmup_steps": 3, "optim_target_modules": ["2"],
    }  # fmt: skip
    ours = get_optimizer_cls_and_kwargs(TrainingArguments(**given), model := small())
    theirs = transformers.Trainer.get_optimizer_cls_and_kwargs(transformers.TrainingArguments(**given), model)
    assert ours[0].__name__ == theirs[0].__name__
    found, wanted = dict(ours[1]), dict(theirs[1])
    for one in (found, wanted):
        if "optimizer_dict" in one:
            one["optimizer_dict"] = [type(inner).__name__ for inner in one["optimizer_dict"].values()]
        one["params"] = [
            {**group, "params": [id(parameter) for parameter in group["params"]]} for group in one.get("params", [])
        ]
    if name == "galore_adafactor_layerwise":  # there the reference forgets them, and Adafactor refuses the rate
        wanted |= {"scale_parameter": False, "relative_step": False}
    if "rmsprop_bnb" in name:
        assert found.pop("optim_bits") == wanted.pop("optim_bits")
    assert found == wanted


def test_all_names_have_a_maker():
    assert set(MAKERS) == set(OptimizerNames)


@pytest.mark.parametrize(
    "name",
    [
        "galore_adamw",
        "apollo_adamw",
        "lomo",
        "grokadamw",
        "schedule_free_adamw",
        "stable_adamw",
        "adamw_anyprecision",
        "adamw_torch_xla",
        "adamw_torch_npu_fused",
    ],
)
def test_a_missing_package_is_named(name, monkeypatch):
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=name):
        get_optimizer_cls_and_kwargs(TrainingArguments("x", optim=name, optim_target_modules="all-linear"), small())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"optim": "sgd", "optim_args": "momentun=0.9"}, ["sgd", "momentun", "momentum"]),
        ({"optim": "adafactor", "optim_args": "rank=3"}, ["adafactor", "rank"]),
        ({"optim": "sgd", "optim_args": "momentum=much"}, ["momentum", "much"]),
        ({"optim": "sgd", "optim_args": "momentum"}, ["optim_args", "name=value"]),
        ({"optim": "galore_adamw"}, ["galore_adamw", "optim_target_modules"]),
        ({"optim": "galore_adamw", "optim_target_modules": ["nothing"]}, ["optim_target_modules", "nothing"]),
        (
            {"optim": "galore_adamw_layerwise", "optim_target_modules": "all-linear", "gradient_accumulation_steps": 2},
            ["galore_adamw_layerwise", "gradient_accumulation_steps=2"],
        ),
        ({"optim": "schedule_free_adamw", "warmup_steps": 0.1}, ["warmup_steps", "schedule_free_adamw"]),
    ],
)
def test_what_an_optimizer_cannot_be_is_named(given, words, stand_ins):
    with pytest.raises((InputError, UnknownArgumentError)) as error:
        get_optimizer_cls_and_kwargs(TrainingArguments("x", **given), small())
    for word in words:
        assert word in str(error.value)


# -- steps -----------------------------------------------------------------------------------------------------------


def trained(model, optimizer, steps=4):
    torch.manual_seed(1)
    for _ in range(steps):
        ids = torch.randint(40, (6,))
        model(ids).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [one.detach().clone() for one in model.parameters()]


@pytest.mark.parametrize(
    "name",
    [
        "adamw_torch",
        "adamw_torch_fused",
        "sgd",
        "adagrad",
        "rmsprop",
        "adafactor",
        "adamw_8bit",
        "adamw_bnb_8bit",
        "lion_8bit",
        "lion_32bit",
        "ademamix",
        "ademamix_8bit",
        "rmsprop_bnb_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
    ],
)
@pytest.mark.filterwarnings("ignore:Paged optimizers")
def test_real_steps_are_those_of_the_references_optimizer(name):
    given = {"output_dir": "x", "use_cpu": True, "optim": name, "learning_rate": 0.01, "weight_decay": 0.1}
    ours, theirs = small(), small()
    start = [one.detach().clone() for one in ours.parameters()]
    mine = make_optimizer(ours, TrainingArguments(**given))
    maker, arguments = transformers.Trainer.get_optimizer_cls_and_kwargs(
        transformers.TrainingArguments(**given), theirs
    )
    decayed = Reference.names(theirs)
    groups = [
        {"params": [one for key, one in theirs.named_parameters() if (key in decayed) == decays], "weight_decay": decay}
        for decays, decay in ((True, 0.1), (False, 0.0))
    ]
    other = maker(groups, **arguments)
    if "8bit" in name:
        manager = sys.modules["bitsandbytes"].optim.GlobalOptimManager.get_instance()
        manager.register_module_override(theirs[0], "weight", {"optim_bits": 32})
    found, wanted = trained(ours, mine), trained(theirs, other)
    for one, two, before in zip(found, wanted, start, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
        assert not torch.equal(one, before)
    if "8bit" in name:
        held = {one.dtype for one in mine.state[ours[2].weight].values() if isinstance(one, torch.Tensor)}
        assert torch.uint8 in held
        kept = {one.dtype for one in mine.state[ours[0].weight].values() if isinstance(one, torch.Tensor)}
        assert torch.uint8 not in kept


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"warmup_init": True},
        {"lr": 0.01, "relative_step": False, "scale_parameter": False, "weight_decay": 0.1},
        {"lr": 0.01, "relative_step": False, "beta1": 0.9, "clip_threshold": 0.5, "decay_rate": -0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adafactor_is_the_references_and_goes_on_from_its_state(given, dtype):
    ours, theirs = small().to(dtype), small().to(dtype)
    mine = Adafactor(ours.parameters(), **given)
    other = transformers.Adafactor(theirs.parameters(), **given)
    for one, two in zip(trained(ours, mine), trained(theirs, other), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)
    again = Adafactor(ours.parameters(), **given)
    again.load_state_dict(copy.deepcopy(other.state_dict()))
    resumed = copy.deepcopy(trained(ours, again))
    for one, two in zip(resumed, trained(theirs, other), strict=True):
        # Not rounded to bfloat16 on the way, as the reference's state is.
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


def test_adafactors_rates_can_be_asked_for():
    model, other = small(), small()
    mine, theirs = Adafactor(model.parameters()), transformers.Adafactor(other.parameters())
    ours = AdafactorSchedule(mine, 0.5)
    yours = transformers.optimization.AdafactorSchedule(theirs, 0.5)
    assert ours.get_lr() == yours.get_lr() == [0.5]
    trained(model, mine, 1)
    trained(other, theirs, 1)
    model(torch.tensor([1])).sum().backward()
    other(torch.tensor([1])).sum().backward()
    assert float(ours.get_lr()[0]) == pytest.approx(float(yours.get_lr()[0]))


def test_adafactors_arguments_that_contradict_each_other():
    for given in ({"lr": 0.1}, {"warmup_init": True, "relative_step": False}):
        with pytest.raises(InputError, match="contradict"):
            Adafactor(small().parameters(), **given)


def test_layers_that_are_stepped_one_by_one(stand_ins, monkeypatch):
    class Projected(torch.optim.SGD):
        def __init__(self, groups, lr):
            super().__init__([{"params": group["params"]} for group in groups], lr=lr)

    sys.modules["galore_torch"].GaLoreAdamW = Projected
    args = TrainingArguments(
        "x", use_cpu=True, optim="galore_adamw_layerwise", optim_target_modules=["2"], learning_rate=0.1
    )
    model = small()
    before = model[2].weight.detach().clone()
    optimizer = make_optimizer(model, args)
    scheduler = omniform.get_scheduler("linear", optimizer, 0, 4)
    rates = []
    for _ in range(2):
        model(torch.tensor([1, 2])).sum().backward()
        optimizer.step()
        scheduler.step()
        rates.append(set(scheduler.get_last_lr()))
    assert not torch.equal(before, model[2].weight)
    assert model[2].weight.grad is None
    assert [sorted(told)[0] for told in rates] == [sorted(told)[-1] for told in rates] == pytest.approx([0.075, 0.05])


@pytest.mark.parametrize(
    "given",
    [
        {"optim": "adafactor", "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1}},
        {"optim": "adamw_8bit", "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}},
        {"optim": "sgd", "optim_args": "momentum=0.9", "lr_scheduler_type": "inverse_sqrt", "warmup_steps": 0.5},
        {"optim": "rmsprop", "lr_scheduler_type": "polynomial", "warmup_steps": 1},
    ],
    ids=lambda given: given["optim"],
)
def test_trainings_are_the_references(given, tmp_path):
    kind = KINDS["bert"]
    folder, rows = kind.save(tmp_path / "model"), kind.rows(8)
    settings = {"max_steps": 4, "weight_decay": 0.1, "learning_rate": 1e-2, **given}
    theirs = transformers.Trainer(kind.theirs(folder), their_arguments(tmp_path, **settings), train_dataset=rows)
    theirs.train()
    ours = omniform.Trainer(kind.ours(folder), arguments(tmp_path, **settings), train_dataset=rows)
    ours.train()
    for mine, other in zip(curve(ours), curve(theirs), strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-6)
