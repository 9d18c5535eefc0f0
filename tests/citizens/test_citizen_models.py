"""A good torch citizen: what users do to a model with the ecosystem's own tools works, for every family."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping
from itertools import combinations

import pytest
import torch
from citizens_known import KNOWN
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode

from citizens import CITIZENS, Captioned, Citizen, Inputs, classes, covering, registered, shared
from in_float64 import exactly, gradients_of
from omniform.architectures.model import Model
from omniform.core.outputs import ModelOutput

REFUSED = {
    "aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::equal", "aten::is_nonzero",
    "aten::masked_select", "aten::unique", "aten::_unique2", "aten::bincount", "aten::allclose",
}  # fmt: skip


WAYS = {"test_export": (True,), "test_compile": (False,)}
"""What takes a second each is tried with a mask or without; `make exhaustive` tries both."""

COSTLY = {"test_export", "test_compile", "test_jit_trace"}
"""What takes a second each is tried on as many models as it takes to hold every class of module."""

TURNS = {"test_export": 0, "test_compile": 1}
"""Of those, after the first few with most classes, these take turns: torch's compiler and its exporter stumble over the
same things, the values and the lengths that a forward asks for, and take longest. `make exhaustive` tries both."""

BOTH = 12
"""Models that both are tried on."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every check for every model, with a mask and without where it asks for that."""
    check, wanted = metafunc.function.__name__, metafunc.fixturenames
    if "name" not in wanted:
        return
    found = []
    for name in costly(check) if check in COSTLY else registered():
        for masked in WAYS.get(check, (False, True)) if "masked" in wanted else (False,):
            if not applies(check, CITIZENS[name]):
                continue
            known = name in KNOWN.get(check + ", masked" * masked, ())
            marks = [pytest.mark.xfail(strict=True)] if known else []
            values = (name, masked) if "masked" in wanted else (name,)
            found.append(pytest.param(*values, id=name + ", masked" * masked, marks=marks))
    metafunc.parametrize("name, masked" if "masked" in wanted else "name", found)


def costly(check: str) -> tuple[str, ...]:
    """The models that a check is tried on which takes long."""
    names, turn = covering(), TURNS.get(check)
    return names if turn is None else (*names[:BOTH], *names[BOTH + turn :: 2])


def applies(check: str, citizen: Citizen) -> bool:
    """Whether a check says something about a model."""
    if "cache" in check and isinstance(citizen.asks, Captioned):
        return False  # what is told of pictures is told without a state
    if "generate" in check or "cache" in check:
        return citizen.architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    return citizen.asks.labels != "" or "gradient" not in check


@torch.no_grad()
def first(model: nn.Module, inputs: Mapping[str, object]) -> Tensor:
    """The first tensor of an answer that is no loss."""
    return first_of(model(**inputs).to_tuple())


def first_of(answer: tuple[object, ...]) -> Tensor:
    """The first tensor that is no loss, of a tuple of tensors and of tuples (feature maps)."""
    held = [t for one in answer for t in (one if isinstance(one, tuple) else (one,))]
    return next(t for t in held if isinstance(t, Tensor) and t.dim())


def same(name: str, model: Model) -> None:
    """Fail unless a model answers as the shared one."""
    inputs = CITIZENS[name].asks.inputs()
    assert torch.equal(first(model, inputs), first(shared(name), inputs))


def test_the_models_that_stand_for_all_hold_every_class() -> None:
    """Otherwise a model that holds it belongs into ``COVERING``; ``citizens.chosen()`` chooses anew."""
    held = set().union(*map(classes, covering()))
    assert not {(kind.__name__, name) for name in registered() for kind in classes(name) - held}


def test_pickle(name: str) -> None:
    same(name, pickle.loads(pickle.dumps(shared(name))))


def test_torch_save(name: str) -> None:
    file = io.BytesIO()
    torch.save(shared(name), file)
    file.seek(0)
    same(name, torch.load(file, weights_only=False))


def test_deepcopy(name: str) -> None:
    made = copy.deepcopy(shared(name))
    same(name, made)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert any(parameter.any() for parameter in shared(name).parameters())


def test_deepcopy_after_generate(name: str) -> None:
    model = CITIZENS[name].build()
    inputs = CITIZENS[name].asks.inputs()
    expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    made = copy.deepcopy(model)
    assert torch.equal(made.generate(**inputs, max_new_tokens=3, do_sample=False), expected)
    pickle.loads(pickle.dumps(model))


@torch.no_grad()
def test_deepcopy_of_a_cache(name: str) -> None:
    """Two rows go on from one beginning; the one does not see what the other says."""
    model, inputs = shared(name), CITIZENS[name].asks.inputs()
    main = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    past = model(**inputs).past_key_values
    kept = copy.deepcopy(past)
    more = inputs[main][:, -2:]
    given = {} if main == "input_ids" else {k: v for k, v in inputs.items() if k != main}
    expected = model(**{**given, main: more}, past_key_values=past).logits
    assert torch.equal(model(**{**given, main: more}, past_key_values=copy.deepcopy(kept)).logits, expected)
    pickle.loads(pickle.dumps(kept))


def test_hasattr_on_every_part(name: str) -> None:
    for path, module in shared(name).named_modules():
        for attribute in ("weight", "bias", "config", "dtype", "device", "nope", "hf_device_map", "generation_config"):
            assert isinstance(hasattr(module, attribute), bool), path
        repr(module)


def test_built_in_inference_mode_and_gradients(name: str) -> None:
    citizen = CITIZENS[name]
    with torch.inference_mode():
        model = citizen.build()
        first(model, citizen.asks.inputs())
    model.train()
    model.requires_grad_(True)
    model(**citizen.asks.taught(citizen.asks.inputs())).loss.backward()
    with torch.no_grad():
        next(model.parameters()).add_(1)


def test_export(name: str, masked: bool) -> None:
    """Of any number of rows of any length; then the model itself works as before."""
    citizen, model = CITIZENS[name], CITIZENS[name].build()
    asks = citizen.asks
    inputs, other = asks.inputs(2, 6), asks.inputs(3, 9)
    if masked:
        inputs, other = asks.mask(inputs), asks.mask(other)
    expected = first(model, other)
    shapes = torch.export.ShapesCollection()  # by tensor: which argument is a keyword's and which a mapping's is ours
    for key, value in inputs.items():
        shapes[value] = dict.fromkeys(asks.axes.get(key, {}), Dim.DYNAMIC)
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    torch.testing.assert_close(first(program, other), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(first(model, other), expected)
    assert torch.equal(first(CITIZENS[name].build(), other), expected)


def test_compile(name: str, masked: bool) -> None:
    """In one graph."""
    torch._dynamo.reset()
    citizen, model = CITIZENS[name], CITIZENS[name].build()
    inputs = citizen.asks.inputs()
    inputs = citizen.asks.mask(inputs) if masked else inputs
    expected = first(model, inputs)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(first(compiled, inputs), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(first(model, inputs), expected)


class Traceable(nn.Module):
    """A model whose answer is a plain tuple of tensors."""

    def __init__(self, model: Model, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Tensor:
        out = self.model(**dict(zip(self.names, values, strict=True)), return_dict=False)
        return first_of(out)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace(name: str) -> None:
    citizen, model = CITIZENS[name], shared(name)
    inputs, other = citizen.asks.inputs(2, 6), citizen.asks.inputs(3, 6)
    with torch.no_grad():
        traced = torch.jit.trace(Traceable(model, tuple(inputs)), tuple(inputs.values()), check_trace=False)
        torch.testing.assert_close(traced(*other.values()), first(model, other), atol=1e-5, rtol=1e-4)


class NoReading(TorchDispatchMode):
    """Refuses operations after which the host waits for a device's values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in REFUSED:
            raise AssertionError(f"{func._schema.name} reads a tensor's values")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_no_value_is_read(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a forward; and in the next step, for a model with a cache."""
    # As on an accelerator: on the host's own memory experts count their tokens, which waits for nothing.
    monkeypatch.setattr("omniform.blocks.moe.is_readable", lambda x: False)
    citizen, model = CITIZENS[name], CITIZENS[name].build()
    inputs = citizen.asks.inputs()
    inputs = citizen.asks.mask(inputs) if masked else inputs
    with NoReading():
        past = getattr(model(**inputs), "past_key_values", None)
        if past is not None:
            model(**citizen.asks.later(inputs), past_key_values=past)


@torch.no_grad()
def test_meta(name: str, masked: bool) -> None:
    """Shapes without numbers."""
    citizen = CITIZENS[name]
    inputs = citizen.asks.inputs()
    inputs = citizen.asks.mask(inputs) if masked else inputs
    expected = first(shared(name), inputs)
    model = copy.deepcopy(shared(name)).to("meta")
    found = first(model, {k: v.to("meta") for k, v in inputs.items()})
    assert found.is_meta and found.shape == expected.shape and found.dtype == expected.dtype


def test_functional_call_and_gradients(name: str) -> None:
    """Weights handed in, as ``torch.func`` does it; what float32 alone parts agrees in float64."""
    citizen = CITIZENS[name]
    inputs = citizen.asks.taught(citizen.asks.inputs())
    found, expected = gradients_by_function(shared(name), inputs), gradients_of(citizen.build(), inputs)
    try:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    except AssertionError:
        found = exactly(shared(name), gradients_by_function, inputs)
        torch.testing.assert_close(found, exactly(citizen.build(), gradients_of, inputs), atol=1e-9, rtol=1e-9)


def gradients_by_function(model: Model, inputs: Mapping[str, object]) -> dict[str, Tensor]:
    weights = {k: v.detach() for k, v in model.named_parameters()}

    def loss(weights: Mapping[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, dict(weights), (), inputs).loss.sum()

    torch.manual_seed(7)
    return torch.func.grad(loss)(weights)


def test_other_weights_by_functional_call(name: str) -> None:
    """What is computed with them is not remembered afterwards."""
    citizen, model, inputs = CITIZENS[name], CITIZENS[name].build(), CITIZENS[name].asks.inputs()
    expected = first(model, inputs)
    changed = {k: (v * 1.5).detach() for k, v in model.named_parameters()}
    with torch.no_grad():
        found = torch.func.functional_call(model, changed, (), inputs)
        other = citizen.build()
        for path, parameter in other.named_parameters():
            parameter.copy_(changed[path])
        expected_other = first(other, inputs)
        # Where weights lie in memory is seen in the last digits.
        torch.testing.assert_close(first_of(found.to_tuple()), expected_other, rtol=1e-5, atol=1e-4)
    assert torch.equal(first(model, inputs), expected)


def test_autocast(name: str, masked: bool) -> None:
    citizen, model = CITIZENS[name], shared(name)
    inputs = citizen.asks.inputs()
    inputs = citizen.asks.mask(inputs) if masked else inputs
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = first(model, inputs)
    plain = first(model, inputs)
    # What is infinite as it is, the score of a word that is padding, is so in other numbers too.
    assert found.shape == plain.shape and torch.isfinite(found[torch.isfinite(plain)]).all()


def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    citizen, model = CITIZENS[name], CITIZENS[name].build()
    inputs = citizen.asks.taught(citizen.asks.inputs())
    model.requires_grad_(True)
    model.train()
    expected = gradients_of(model, inputs)
    model.gradient_checkpointing_enable()
    found = gradients_of(model, inputs)
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        torch.testing.assert_close(found[path], gradient, atol=1e-6, rtol=1e-5)
    model.gradient_checkpointing_disable()


def test_state_dict_into_another(name: str) -> None:
    """Written and read by torch's own means, strictly."""
    file = io.BytesIO()
    torch.save(shared(name).state_dict(), file)
    file.seek(0)
    torch.manual_seed(9)
    made = CITIZENS[name].build()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
    made.load_state_dict(torch.load(file))
    same(name, made)


def test_hooks_and_parametrisations(name: str) -> None:
    """A hook on a layer is called once for each of its inputs; a layer may be replaced, its answer changed."""
    model, inputs = CITIZENS[name].build(), CITIZENS[name].asks.inputs()
    for parameter in model.parameters():
        if parameter.dim() == 2 and not parameter.any():  # pictures that say nothing at first
            nn.init.constant_(parameter, 0.1)
    expected, seen, called = first(model, inputs), [], []
    layers = [m for m in model.modules() if type(m) is nn.Linear]
    layers = layers or [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    handles = [layer.register_forward_hook(lambda module, given, out: called.append(module)) for layer in layers]
    first(model, inputs)
    for handle in handles:
        handle.remove()
    # The first that the inputs reach: where a text comes alone, a tower of pictures is not asked.
    chosen = next(layer for layer in layers if any(layer is one for one in called))
    handle = chosen.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    first(model, inputs)
    assert seen and not any(torch.equal(x, y) for x, y in combinations(seen, 2))
    handle.remove()
    chosen.register_forward_hook(lambda module, given, out: out * 2 + 1)
    assert not torch.equal(first(model, inputs), expected)


def answer(models: Mapping[str, bytes], inputs: Mapping[str, Inputs], queue: object) -> None:
    """In another process: what every model says, or why it does not."""
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    for name, data in models.items():
        try:
            found[name] = first(pickle.loads(data), inputs[name]).numpy()
        except Exception as error:
            found[name] = repr(error)
    queue.put(found)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def elsewhere(request: pytest.FixtureRequest) -> Mapping[str, object]:
    """What the models say in a process that was spawned: one for all that are asked."""
    asked = [item for item in request.session.items if "elsewhere" in getattr(item, "fixturenames", ())]
    models, failed = {}, {}
    for name in [item.callspec.params["name"] for item in asked]:
        try:
            models[name] = pickle.dumps(shared(name))
        except Exception as error:
            failed[name] = repr(error)
    if not models:
        return failed
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    inputs = {name: CITIZENS[name].asks.inputs() for name in models}
    process = context.Process(target=answer, args=(models, inputs, queue))
    process.start()
    found = queue.get()
    process.join()
    return {**found, **failed}


def test_spawned_process(name: str, elsewhere: Mapping[str, object]) -> None:
    found = elsewhere[name]
    assert not isinstance(found, str), found
    expected = first(shared(name), CITIZENS[name].asks.inputs())
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)  # other threads round otherwise


def test_outputs_are_pytrees(name: str) -> None:
    """``torch.utils._pytree`` takes them apart, as export and DDP do; they can be pickled and copied."""
    out = shared(name)(**CITIZENS[name].asks.inputs())
    leaves, spec = torch.utils._pytree.tree_flatten(out)
    assert any(isinstance(leaf, Tensor) for leaf in leaves)
    again = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert isinstance(again, ModelOutput) and list(again.keys()) == list(out.keys())
    copy.deepcopy(out.__class__(**{k: v.detach() for k, v in out.items() if isinstance(v, Tensor)}))
