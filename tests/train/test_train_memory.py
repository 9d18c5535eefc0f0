"""Memory and precision: layers computed once more, 16 bits, compiled models, batches that fit."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from reference import omniform, transformers

# isort: split
import accelerate  # after the reference, whose torchvision is made importable there
from train_tiny import KINDS, TEXT, arguments, curve, their_arguments

from omniform.core import recompute
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.train.batch_size import MemorySpentError, find_executable_batch_size
from omniform.train.dry import kept_for_backward
from omniform.train.guard import LossError


@pytest.fixture(autouse=True)
def _no_state_of_accelerates():
    accelerate.state.AcceleratorState._reset_state(True)
    yield
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of each kind, made once."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = KINDS[kind].save(tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


def trained(kind, saved, tmp_path, steps=3, model=None, callbacks=None, **changes):
    model = KINDS[kind].ours(saved(kind)) if model is None else model
    args = arguments(tmp_path, max_steps=steps, **changes)
    data = {"train_dataset": KINDS[kind].rows(16), "eval_dataset": KINDS[kind].rows(4)}
    trainer = omniform.Trainer(model=model, args=args, callbacks=callbacks, **data)
    trainer.train()
    return trainer


def batch_of(kind, count=2):
    rows = KINDS[kind].rows(count)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


# -- layers computed once more -----------------------------------------------------------------------------------------

WAYS = [
    {}, {"use_reentrant": True}, {"use_reentrant": False, "preserve_rng_state": False}, {"every_n_layers": 2},
    {"offload": True}, {"determinism_check": "none", "early_stop": False},
]  # fmt: skip


class Deep(dict):
    """Settings of a Llama of eight layers."""

    def __init__(self, **changes):
        super().__init__({**TEXT, "num_hidden_layers": 8, "attention_dropout": 0.1, **changes})


def llama(**changes):
    torch.manual_seed(0)
    return omniform.LlamaForCausalLM(omniform.LlamaConfig(**Deep(**changes))).train()


def gradients(model, batch):
    model.zero_grad()
    torch.manual_seed(5)
    model(**batch).loss.backward()
    drawn = torch.rand(1)  # whatever draws next draws the same
    return {"drawn": drawn, **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_gradients_are_the_same_whatever_is_asked(way):
    model, batch, calls = llama(), batch_of("llama"), []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    expected = gradients(model, batch)
    more = {name: way[name] for name in ("every_n_layers", "offload") if name in way}
    model.activation_checkpointing_enable({n: v for n, v in way.items() if n not in more} or None, **more)
    calls.clear()
    found = gradients(model, batch)
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)
    assert len(calls) == 8 + (4 if "every_n_layers" in way else 8)
    model.gradient_checkpointing_disable()
    calls.clear()
    gradients(model, batch)
    assert len(calls) == 8 and not model.is_gradient_checkpointing


def test_arguments_ask_for_it(saved, tmp_path):
    plain = trained("llama", saved, tmp_path)
    ways = {
        "gradient_checkpointing": {"use_reentrant": True},
        "activation_checkpointing": {"every_n_layers": 2, "offload": True, "use_reentrant": False},
    }
    for name, way in ways.items():
        trainer = trained("llama", saved, tmp_path, **{name: True, f"{name}_kwargs": dict(way)})
        assert trainer.model.is_gradient_checkpointing and curve(trainer) == curve(plain)
        how = trainer.model.recompute
        assert (how.every, how.offload) == (way.get("every_n_layers", 1), way.get("offload", False))
        assert getattr(trainer.args, f"{name}_kwargs") == way  # which stay as they were given


def test_what_cannot_be_asked():
    model = llama()
    for bad, error in (
        ({"offload": "disk"}, InputError), ({"every_n_layers": 0}, InputError), ({"every_n_layers": True}, InputError),
        ({"gradient_checkpointing_kwargs": {"use_reentrnt": 1}}, UnknownArgumentError),
    ):  # fmt: skip
        with pytest.raises(error):
            model.gradient_checkpointing_enable(**bad)
    assert not model.is_gradient_checkpointing


def test_less_is_kept():
    """Of eight layers: their inputs, and of every second the rest."""
    model, batch = llama(), batch_of("llama")
    whole = kept_for_backward(model, batch)
    model.gradient_checkpointing_enable(every_n_layers=2)
    half = kept_for_backward(model, batch)
    model.gradient_checkpointing_enable()
    least = kept_for_backward(model, batch)
    assert least < 0.12 * whole and 0.45 * whole < half < 0.6 * whole


@pytest.mark.parametrize("kind", ["t5", "whisper", "vit", "llava", "bert"])
def test_less_is_kept_by_all_kinds(kind, saved):
    model, batch = KINDS[kind].ours(saved(kind)).train(), batch_of(kind)
    whole, expected = kept_for_backward(model, batch), gradients(model, batch)
    model.gradient_checkpointing_enable(offload=True)
    found = gradients(model, batch)
    assert kept_for_backward(model, batch) < 0.4 * whole and found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)


def test_a_detector_of_which_less_is_kept():
    """Its decoder keeps what each layer gives, for the losses of them all."""
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1],
                "out_features": ["stage1"]}  # fmt: skip
    config = omniform.DetrConfig(
        d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=20, decoder_ffn_dim=20, num_queries=4, use_timm_backbone=False, backbone_config=backbone,
        auxiliary_loss=True,
    )  # fmt: skip
    model, calls = omniform.DetrForObjectDetection(config).train(), []
    for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * 2
    batch = {"pixel_values": torch.randn(2, 3, 16, 16), "labels": labels}
    expected = gradients(model, batch)
    assert len(calls) == 5
    model.gradient_checkpointing_enable()
    found = gradients(model, batch)
    assert len(calls) == 15
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)


def test_routers_and_their_loss():
    torch.manual_seed(0)
    config = omniform.MixtralConfig(
        **{**TEXT, "num_key_value_heads": 2, "num_local_experts": 4, "output_router_logits": True}
    )
    model, batch = omniform.MixtralForCausalLM(config).train(), batch_of("llama")
    expected = gradients(model, batch)
    model.gradient_checkpointing_enable()
    found = gradients(model, batch)
    assert all(torch.equal(found[n], expected[n]) for n in expected) and len(model(**batch).router_logits) == 2


def test_adapters_over_frozen_tables(saved, tmp_path):
    import peft

    folder = saved("llama")  # which draws, the first time

    def adapted():
        torch.manual_seed(0)
        model = KINDS["llama"].ours(folder)
        return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.1))

    plain = trained("llama", saved, tmp_path, model=adapted())
    for options in (None, {"use_reentrant": True, "offload": True}):
        model = adapted()
        model.enable_input_require_grads()
        more = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": options}
        trainer = trained("llama", saved, tmp_path, model=model, **more)
        assert trainer.model.base_model.model.is_gradient_checkpointing
        assert curve(trainer) == curve(plain) and curve(plain)[1][0] > 0


def test_no_state_is_made_where_layers_run_twice():
    model, batch = llama(), batch_of("llama")
    model.gradient_checkpointing_enable()
    assert model(**batch, use_cache=True).past_key_values is None and model.eval()(**batch).past_key_values is not None


def test_layers_of_a_users_own():
    from omniform.modeling_layers import GradientCheckpointingLayer

    class Own(GradientCheckpointingLayer):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x).tanh()

    model = llama(num_hidden_layers=2)
    model.more = nn.ModuleList(Own() for _ in range(4))
    model.gradient_checkpointing_enable(every_n_layers=2, offload=True)
    assert [one.gradient_checkpointing for one in model.more] == [True, False, True, False]
    out = model.more[0](torch.ones(2, 4, requires_grad=True))
    out.sum().backward()
    assert model.more[0].inner.weight.grad is not None


# -- what waits in the host's memory -----------------------------------------------------------------------------------


def test_inputs_wait_on_the_host(monkeypatch):
    """With every device foreign to the host: inputs of layers go there and come back, nothing else of the layers."""
    sent, back = [], []

    def away(tensor):
        sent.append(tuple(tensor.shape))
        return recompute.Waiting(tensor.clone(), tensor.device)

    def again(kept):
        back.append(tuple(kept.tensor.shape))
        return kept.tensor

    monkeypatch.setattr(recompute, "to_host", away)
    monkeypatch.setattr(recompute, "from_host", again)
    model, batch = llama(), batch_of("llama")
    expected = gradients(model, batch)
    assert not sent
    model.gradient_checkpointing_enable(offload=True)
    found = gradients(model, batch)
    assert sent == back == [(2, 10, 16)] * 8
    assert all(torch.equal(found[n], expected[n]) for n in found)
    monkeypatch.undo()
    here = torch.ones(2)
    assert recompute.to_host(here) is here and recompute.from_host(here) is here
    assert recompute.from_host(recompute.Waiting(here, torch.device("meta"))).device.type == "meta"


def test_everything_that_is_kept_may_wait():
    model, batch = llama(), batch_of("llama")
    expected = gradients(model, batch)
    torch.manual_seed(5)
    model.zero_grad()
    with recompute.Offload():
        loss = model(**batch).loss
    loss.backward()
    assert all(torch.equal(p.grad, expected[n]) for n, p in model.named_parameters())


# -- 16 bits -----------------------------------------------------------------------------------------------------------


class Types(omniform.TrainerCallback):
    """Notes what a linear layer gives, and what learns."""

    def __init__(self):
        self.inside, self.weights, self.norms = set(), set(), []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        linear = [module for module in model.modules() if type(module) is nn.Linear][1]
        linear.register_forward_hook(lambda module, given, out: self.inside.add(out.dtype))
        self.weights = {p.dtype for p in model.parameters()}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        squares = [p.grad.double().pow(2).sum() for p in model.parameters() if p.grad is not None]
        self.norms.append(float(sum(squares)) ** 0.5)


def their_curve(kind, saved, tmp_path, steps, **changes):
    accelerate.state.AcceleratorState._reset_state(True)
    args = their_arguments(tmp_path, max_steps=steps, **changes)
    trainer = transformers.Trainer(model=KINDS[kind].theirs(saved(kind)), args=args, train_dataset=KINDS[kind].rows(16))
    trainer.train()
    accelerate.state.AcceleratorState._reset_state(True)
    return curve(trainer)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("vit", "whisper")]


@pytest.mark.parametrize("kind", ["bert", "llama", "t5", "llava", *SLOW])
def test_bfloat16_as_the_reference(kind, saved, tmp_path):
    theirs = their_curve(kind, saved, tmp_path, 3, bf16=True)
    seen = Types()
    ours = curve(trained(kind, saved, tmp_path, bf16=True, callbacks=[seen]))
    assert seen.inside == {torch.bfloat16} and seen.weights == {torch.float32}
    exact = None
    for name, (mine, others) in enumerate(zip(map(torch.tensor, ours), map(torch.tensor, theirs), strict=True)):
        # The first step of equal weights rounds alike; then what the order of sums leaves grows with every step.
        torch.testing.assert_close(mine[0], others[0], rtol=2e-3, atol=1e-6)
        if not torch.allclose(mine, others, rtol=2e-2, atol=1e-6):
            exact = curve(trained(kind, saved, tmp_path)) if exact is None else exact
            whole = torch.tensor(exact[name])
            off, theirs_off = (((one - whole) / whole).abs().max() for one in (mine, others))
            assert off <= theirs_off, f"{kind}: {off:.2g} from float32's curve, the reference {theirs_off:.2g}"


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_float16_with_scaled_losses(optim, saved, tmp_path):
    """On the CPU too, where accelerate computes in float32 without a word."""
    whole = curve(trained("llama", saved, tmp_path, optim=optim, max_grad_norm=0.5))
    seen = Types()
    more = {"fp16": True, "optim": optim, "max_grad_norm": 0.5}
    trainer = trained("llama", saved, tmp_path, callbacks=[seen], save_strategy="steps", save_steps=3, **more)
    assert seen.inside == {torch.float16} and seen.weights == {torch.float32}
    assert all(norm < 0.501 for norm in seen.norms)  # of gradients, not of scaled ones
    for mine, exact in zip(curve(trainer), whole, strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(exact), rtol=2e-2, atol=1e-6)
    state = torch.load(tmp_path / "out" / "checkpoint-3" / "scaler.pt", weights_only=True)
    assert state["scale"] == 65536.0 and state["_growth_tracker"] == 3


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_steps_with_infinite_gradients_do_not_count_for_the_schedule(optim, saved, tmp_path):
    class Spoils(omniform.TrainerCallback):
        rates, weights = [], []

        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                weight = model.lm_head.weight
                self.hook = weight.register_hook(lambda gradient: gradient * math.inf)

        def on_step_end(self, args, state, control, model=None, lr_scheduler=None, **kwargs):
            self.rates.append(lr_scheduler.get_last_lr()[0])
            self.weights.append(model.lm_head.weight.detach().clone())
            if state.global_step == 2:
                self.hook.remove()

    seen = Spoils()
    seen.rates, seen.weights = [], []
    trainer = trained("llama", saved, tmp_path, 4, callbacks=[seen], fp16=True, optim=optim)
    first, spoilt, third, _ = seen.weights
    assert torch.equal(first, spoilt) and not torch.equal(spoilt, third)
    assert seen.rates[0] == seen.rates[1] > seen.rates[2] and trainer.state.global_step == 4
    assert trainer.accelerator.scaler.get_scale() == 32768.0


def test_evaluating_wholly_in_16_bits(saved, tmp_path):
    model = KINDS["bert"].ours(saved("bert"))
    whole = omniform.Trainer(model=copy.deepcopy(model), args=arguments(tmp_path), eval_dataset=KINDS["bert"].rows(4))
    expected = whole.evaluate()["eval_loss"]
    for name, dtype in (("bf16_full_eval", torch.bfloat16), ("fp16_full_eval", torch.float16)):
        args = arguments(tmp_path, **{name: True})
        trainer = omniform.Trainer(model=copy.deepcopy(model), args=args, eval_dataset=KINDS["bert"].rows(4))
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=2e-2)
        assert trainer.model.dtype == dtype


# -- compiled ----------------------------------------------------------------------------------------------------------


def compiled(kind, saved, tmp_path, backend, **more):
    torch._dynamo.reset()
    plain = trained(kind, saved, tmp_path, **more)
    expected = plain.evaluate()["eval_loss"]
    accelerate.state.AcceleratorState._reset_state(True)
    trainer = trained(kind, saved, tmp_path, torch_compile_backend=backend, **more)
    assert trainer.args.torch_compile and type(trainer.model_wrapped).__name__ == "OptimizedModule"
    close = 2e-2 if more.get("bf16") else 1e-4
    for mine, others in zip(curve(trainer), curve(plain), strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(others), rtol=close, atol=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=close)
    trainer.save_model(str(tmp_path / "m"))
    again = getattr(omniform, KINDS[kind].auto).from_pretrained(tmp_path / "m")
    weights = trainer.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())


def test_compiled_models_train(saved, tmp_path):
    compiled("bert", saved, tmp_path, "eager")


MORE = [("llama", {"gradient_checkpointing": True}), ("vit", {"bf16": True})]
"""`make exhaustive` compiles an encoder-decoder too, whose three graphs take twenty seconds."""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "more"), MORE, ids=str)
def test_compiled_models_of_more_kinds_train(kind, more, saved, tmp_path):
    compiled(kind, saved, tmp_path, "aot_eager", **more)


# -- batches that fit --------------------------------------------------------------------------------------------------

ERRORS = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_smaller_batches_are_tried(error):
    tried = []

    @find_executable_batch_size(starting_batch_size=16, auto_find_batch_size=True)
    def run(batch_size, word):
        tried.append(batch_size)
        if batch_size > 10:
            raise error
        return word * batch_size

    assert run("a") == "a" * 10 and tried == [16, 14, 12, 10]


def test_other_errors_pass_and_nothing_is_smaller_than_one():
    def run(batch_size):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        find_executable_batch_size(run, 8, True)()

    def never(batch_size):
        raise MemoryError("all of it")

    with pytest.raises(MemorySpentError, match=r"(?s)all of it.*gradient_checkpointing") as caught:
        find_executable_batch_size(never, 2, True)()
    assert isinstance(caught.value, RuntimeError)


class Full(nn.Module):
    """Runs out of memory with batches above ``most``, from its third call on; has a buffer that training changes."""

    def __init__(self, most=4):
        super().__init__()
        torch.manual_seed(0)
        self.most, self.calls, self.sizes = most, 0, []
        self.norm, self.inner, self.drop = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Dropout(0.5)

    def forward(self, x, labels=None):
        self.calls += 1
        self.sizes.append(len(x))
        if len(x) > self.most and self.calls > 2:
            raise RuntimeError("CUDA out of memory. (as it were)")
        scores = self.inner(self.drop(self.norm(x)))
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


class Counts(omniform.TrainerCallback, omniform.trainer_callback.ExportableState):
    begun = 0

    def __init__(self):
        self.steps = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun += 1
        assert state.global_step == 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def state(self):
        return {"args": {}, "attributes": {"steps": self.steps}}


@pytest.mark.parametrize("own", [False, True], ids=["its optimizer", "the user's"])
def test_nothing_of_an_attempt_is_left(own, tmp_path):
    """The weights, the buffers and the losses are those of a training that had the smaller batches from its start."""
    rows = [{"x": torch.randn(3, generator=torch.Generator().manual_seed(i)), "labels": i % 2} for i in range(30)]

    def run(size, most, **more):
        model, counts = Full(most), Counts()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01) if own else None
        args = arguments(tmp_path, per_device_train_batch_size=size, num_train_epochs=2, **more)
        trainer = omniform.Trainer(
            model=model, args=args, train_dataset=rows, callbacks=[counts], optimizers=(optimizer, None)
        )
        trainer.train()
        return trainer, counts

    plain, _ = run(4, 99)
    found, counts = run(6, 4, auto_find_batch_size=True)
    assert found.model.sizes[:3] == [6, 6, 6] and found._train_batch_size == 4 and counts.begun == 3
    assert counts.steps == found.state.global_step == plain.state.global_step
    assert curve(found) == curve(plain) and found.state.train_batch_size == 4
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name


@pytest.mark.parametrize("error", ERRORS[:2], ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_in_an_evaluation(error, tmp_path):
    class Evaluated(Full):
        def forward(self, x, labels=None):
            if not self.training:
                raise error
            return super().forward(x, labels)

    rows = [{"x": torch.ones(3), "labels": 0}] * 8
    args = arguments(tmp_path, auto_find_batch_size=True, eval_strategy="steps", eval_steps=1)
    trainer = omniform.Trainer(model=Evaluated(99), args=args, train_dataset=rows, eval_dataset=rows)
    with pytest.raises(InputError, match="per_device_eval_batch_size"):
        trainer.train()
    assert trainer._train_batch_size == 2


# -- the guard ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_step", [1, 2])
def test_the_state_before_a_loss_that_is_no_number_is_kept(per_step, saved, tmp_path):
    """Whoever goes on from it leaves out the batches of the step that was not taken, or would be stopped again."""
    spoilt, weights, read = [True], {}, []

    def loss(outputs, labels, num_items_in_batch):
        bad = spoilt[0] and outputs.logits.requires_grad and weights.get("steps") == 2
        total = nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return total * (math.nan if bad else 1)

    class Watches(omniform.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights["steps"] = state.global_step
            weights[state.global_step] = {n: p.detach().clone() for n, p in model.named_parameters()}

    def collate(rows):
        read.append([row["number"] for row in rows])
        return {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels")}

    def trainer_of():
        saves = {"save_strategy": "steps", "save_steps": 50, "gradient_accumulation_steps": per_step}
        args = arguments(tmp_path, max_steps=5, remove_unused_columns=False, **saves)
        rows = [{**row, "number": number} for number, row in enumerate(KINDS["llama"].rows(24))]
        given = {"train_dataset": rows, "data_collator": collate, "callbacks": [Watches]}
        return omniform.Trainer(model=KINDS["llama"].ours(saved("llama")), args=args, compute_loss_func=loss, **given)

    with pytest.raises(LossError) as caught:
        trainer_of().train()
    error = caught.value
    bad = list(itertools.chain(*read[2 * per_step : 3 * per_step]))
    assert error.step == 3 and list(error.examples) == bad
    assert error.checkpoint == str(tmp_path / "out" / "checkpoint-2") and error.checkpoint in str(error)
    kept = omniform.AutoModelForCausalLM.from_pretrained(error.checkpoint)
    assert all(torch.equal(tensor, weights[2][name]) for name, tensor in kept.named_parameters())
    spoilt[0] = False
    read.clear()
    again = trainer_of()
    again.train(resume_from_checkpoint=error.checkpoint)
    assert again.state.global_step == 5 and not set(bad) & set(itertools.chain(*read[: 3 * per_step]))


# -- small things ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, None])
def test_gradients_that_are_not_cut(most, saved, tmp_path):
    trainer = trained("llama", saved, tmp_path, max_grad_norm=most, torch_empty_cache_steps=1, optim="sgd")
    assert all(norm > 1 for norm in curve(trainer)[1])


def test_a_config_says_whether_state_is_kept(saved, tmp_path):
    for wanted in (False, True):
        model = KINDS["llama"].ours(saved("llama"))
        omniform.Trainer(model=model, args=arguments(tmp_path, use_cache=wanted))
        assert model.config.use_cache is wanted
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False).shape == (1, 5)
