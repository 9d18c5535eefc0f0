"""The ecosystem's manager of requests: names, results, streams, pauses, ends; generate_batch by its arguments."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time

import pytest
import torch
from omniform.generation.continuous_batching import RequestStatus

from engines import NEW, VOCABULARY, family
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.engine.batching_config import WHY
from reference import omniform, ragged, transformers

GREEDY = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def f():
    return family("llama")


@pytest.fixture
def rows():
    return [row.tolist() for row in ragged(VOCABULARY - 2, [9, 4, 17, 1, 12], seed=3)]


@pytest.fixture
def manager(f):
    with f.ours.continuous_batching_context_manager(omniform.GenerationConfig(**GREEDY)) as running:
        yield running


def expected(f, rows):
    return [f.expected(row, eos_token_id=None) for row in rows]


def test_names_and_arguments_are_the_reference_s():
    from transformers.generation.continuous_batching import ContinuousBatchingManager, ContinuousMixin
    from transformers.generation.continuous_batching.requests import GenerationOutput

    ours, theirs = omniform.ContinuousBatchingManager, ContinuousBatchingManager
    names = [name for name in vars(theirs) if not name.startswith("_") and name != "switch_to_cb_friendly_attn"]
    for name in names:
        assert set(inspect.signature(vars(theirs)[name]).parameters) <= {
            *inspect.signature(vars(ours)[name]).parameters, "logit_processor_kwargs",
        }, name  # fmt: skip
    from omniform.engine import generate, manager

    for name, own in (
        ("init_continuous_batching", manager.init_continuous_batching),
        ("continuous_batching_context_manager", manager.continuous_batching_context_manager),
        ("generate_batch", generate.generate_batch),
    ):
        positional = [
            p for p in inspect.signature(getattr(ContinuousMixin, name)).parameters if p not in ("self", "kwargs")
        ]
        assert list(inspect.signature(own).parameters)[1 : len(positional) + 1] == positional, name
    fields = {name: field.default for name, field in transformers.ContinuousBatchingConfig.__dataclass_fields__.items()}
    ours = {n: v.default for n, v in omniform.ContinuousBatchingConfig.__dataclass_fields__.items()}
    assert ours == {**fields, "cache_dtype": None}  # of ours alone
    assert set(GenerationOutput.__dataclass_fields__) <= set(omniform.GenerationOutput.__dataclass_fields__)
    theirs_status = {
        one.name: int(one) for one in __import__("transformers").generation.continuous_batching.RequestStatus
    }
    assert {one.name: int(one) for one in omniform.RequestStatus} == theirs_status


def test_requests_are_answered_as_each_alone(f, rows, manager):
    names = manager.add_requests(rows)
    assert names == [f"req_{n}" for n in range(len(rows))] and manager.is_running()
    found = {}
    for output in manager:
        assert output.is_finished() and output.status == RequestStatus.FINISHED and output.error is None
        assert 0 < output.created_time <= output.lifespan[0] <= output.lifespan[1] and output.timestamps is None
        found[output.request_id] = output
        if len(found) == len(rows):
            break
    assert [found[name].generated_tokens for name in names] == expected(f, rows)
    assert [found[name].prompt_ids for name in names] == rows
    assert manager.get_result(timeout=0.01) is None


def test_one_may_ask_before_the_start_and_after_the_end(f, rows):
    manager = f.ours.init_continuous_batching(omniform.GenerationConfig(**GREEDY))
    assert not manager.is_running() and manager.get_result() is None
    manager.add_requests(rows[:2])
    manager.add_request(rows[2], request_id="mine", max_new_tokens=2, record_timestamps=True)
    manager.start()
    manager.stop(block=True)
    assert not manager.is_running() and manager.add_request(rows[3]) is None  # it takes no more
    mine = manager.get_result("mine")
    assert mine.generated_tokens == expected(f, rows)[2][:2] and len(mine.timestamps) == 2
    assert [one.generated_tokens for one in manager] == expected(f, rows)[:2]
    manager.start()
    again = manager.add_request(rows[3])
    assert manager.get_result(again, timeout=60).generated_tokens == expected(f, rows)[3]
    manager.destroy()
    manager.destroy()


def test_streams_grow_token_by_token(f, rows, manager):
    other = manager.add_request(rows[1])
    name = manager.add_request(rows[0], streaming=True)
    parts = list(manager.request_id_iter(name))
    whole = expected(f, rows)[0]
    assert [part.generated_tokens for part in parts] == [whole[: n + 1] for n in range(NEW)]
    assert [part.status for part in parts] == [RequestStatus.DECODING] * (NEW - 1) + [RequestStatus.FINISHED]
    assert [part.generated_tokens for part in manager.request_id_iter(other)] == [expected(f, rows)[1]]


def test_results_come_to_whoever_registered(f, rows, manager):
    async def asked():
        heard, loop = asyncio.Queue(), asyncio.get_running_loop()
        manager.register_result_handler("loud", heard.put_nowait)
        await loop.run_in_executor(None, lambda: manager.add_request(rows[0], request_id="loud", streaming=True))
        outputs = [await heard.get()]
        while not outputs[-1].is_finished():
            outputs.append(await heard.get())
        return outputs

    outputs = asyncio.run(asked())
    assert outputs[-1].generated_tokens == expected(f, rows)[0] and len(outputs) == NEW
    assert manager.get_result("loud", timeout=0.01) is None and not manager._handlers


def test_requests_are_given_up_and_fail_alone(f, rows):
    manager = f.ours.init_continuous_batching(omniform.GenerationConfig(**GREEDY))
    names = manager.add_requests(rows[:3], max_new_tokens=60)
    manager.cancel_request(names[1])
    manager.cancel_request("nobody's")
    manager.start()
    gone = manager.get_result(names[1], timeout=60)
    assert gone.is_finished() and gone.status == RequestStatus.FAILED and "cancelled" in gone.error
    assert gone.finish_reason == "cancelled"
    for name, whole in ((names[0], expected(f, rows)[0]), (names[2], expected(f, rows)[2])):
        assert manager.get_result(name, timeout=60).generated_tokens[:NEW] == whole
    with pytest.raises(InputError, match="name"), manager.pause():
        manager.add_request(rows[0], request_id="twice")
        manager.add_request(rows[0], request_id="twice")
    with pytest.raises(UnknownArgumentError, match="temperature"):
        manager.add_request(rows[0], temprature=2.0)
    with pytest.raises(InputError):
        manager.add_request([VOCABULARY + 5])
    manager.stop(hard_stop=True)


def test_a_hard_stop_fails_who_waits(f, rows):
    manager = f.ours.init_continuous_batching(omniform.GenerationConfig(**GREEDY))
    manager.start()
    with manager.pause():
        names = manager.add_requests(rows)
        with pytest.raises(InputError, match="paused"):
            manager.stop()
        threading.Thread(target=lambda: manager.stop(hard_stop=True)).start()
        while manager.is_running():
            time.sleep(0.01)
    found = list(manager)
    assert [one.request_id for one in found] == names
    assert all(one.status == RequestStatus.FAILED and "stopped" in one.error for one in found)
    with pytest.raises(InputError), manager.pause():
        pass


def test_nothing_is_computed_in_a_pause_and_all_goes_on_behind_it(f, rows, manager):
    manager.add_requests(rows)
    with manager.pause():
        steps = manager.engine.stats().steps
        time.sleep(0.05)
        assert manager.engine.stats().steps == steps
    found = {one.request_id: one.generated_tokens for one in (manager.get_result(timeout=60) for _ in rows)}
    assert [found[f"req_{n}"] for n in range(len(rows))] == expected(f, rows)


def test_threads_may_all_ask_one_manager(f, rows, manager):
    found = {}

    def ask(number):
        for place, row in enumerate(rows):
            name = manager.add_request(row, request_id=f"{number}-{place}")
            found[name] = manager.get_result(name, timeout=60).generated_tokens

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {f"{n}-{place}": tokens for n in range(3) for place, tokens in enumerate(expected(f, rows))}


def test_several_answers_have_the_reference_s_names(f, rows):
    asked = {"max_new_tokens": 4, "num_return_sequences": 3, "do_sample": True, "seed": 5, "eos_token_id": None}
    found = f.ours.generate_batch(rows[:2], **asked)
    assert list(found) == [f"req_{n}{end}" for n in range(2) for end in ("__child#0", "__child#1", "")]
    assert len({tuple(one.generated_tokens) for one in found.values()}) > 2
    with f.ours.continuous_batching_context_manager(asked) as manager:
        name = manager.add_request(rows[0])
        assert {manager.get_result(timeout=60).request_id for _ in range(3)} == {
            name,
            f"{name}__child#0",
            f"{name}__child#1",
        }


def test_a_config_of_batching_is_kept_to(f, rows, caplog):
    config = omniform.ContinuousBatchingConfig(
        page_size=4, num_blocks=40, max_batch_tokens=6, max_requests_per_batch=2, allow_block_sharing=False,
        return_logprobs=True, seed=7, max_queue_size=3,
    )  # fmt: skip
    assert not caplog.records
    with f.ours.continuous_batching_context_manager(GREEDY, continuous_batching_config=config) as manager:
        stats = manager.engine.stats()
        assert stats.memory.tokens == 160 and stats.memory.why == "as asked" and stats.prefix_cache == "off"
        names = manager.add_requests(rows)
        found = {one.request_id: one for one in (manager.get_result(timeout=60) for _ in rows)}
    assert [found[name].generated_tokens for name in names] == expected(f, rows)
    ids = torch.tensor([rows[0] + found[names[0]].generated_tokens])
    logprobs = f.theirs(ids).logits[0].log_softmax(-1)[len(rows[0]) - 1 : -1]
    told = logprobs.gather(-1, ids[0, len(rows[0]) :, None])[:, 0]
    assert found[names[0]].logprobs == pytest.approx(told.tolist(), abs=1e-4)
    batch = f.ours.generate_batch(rows, GREEDY, config, True, progress_bar=True, persistent_manager=True)
    assert [one.generated_tokens for one in batch.values()] == expected(f, rows)
    assert all(len(one.timestamps) == len(one.logprobs) == NEW for one in batch.values())
    older = f.ours.generate_batch(rows, omniform.GenerationConfig(**GREEDY, continuous_batching_config=config))
    assert [one.logprobs for one in older.values()] == [one.logprobs for one in batch.values()]
    warm = {"do_sample": True, "temperature": 3.0, "top_k": 5, "max_new_tokens": 5, "eos_token_id": None}
    first, second = (f.ours.generate_batch([rows[0]] * 2, warm, config) for _ in range(2))
    assert [o.generated_tokens for o in first.values()] == [o.generated_tokens for o in second.values()]
    assert len({tuple(o.generated_tokens) for o in first.values()}) == 2
    assert all(logprob > -2.5 for one in first.values() for logprob in one.logprobs)  # among five, and hot


def test_what_changes_nothing_is_named_with_the_reason(caplog):
    fields = omniform.ContinuousBatchingConfig.__dataclass_fields__
    used = {
        "page_size", "num_blocks", "max_batch_tokens", "max_memory_percent", "max_requests_per_batch",
        "allow_block_sharing", "return_logprobs", "seed", "max_queue_size", "block_size", "use_cuda_graph",
        "max_cached_graphs", "cache_dtype",
    }  # fmt: skip
    assert set(fields) == used | set(WHY) and not used & set(WHY)
    caplog.set_level("WARNING", logger="omniform")
    omniform.ContinuousBatchingConfig(use_async_batching=False, safety_margin=0.2)
    assert "use_async_batching changes nothing here: a step is planned while nothing waits for it" in caplog.text
    assert "safety_margin" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page_size", 0), ("num_blocks", True), ("max_memory_percent", 0), ("max_memory_percent", 1.5), ("seed", -1),
        ("cache_dtype", "int7"), ("max_batch_tokens", 2.5), ("return_logprobs", 1), ("max_requests_per_batch", 0),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(name, value):
    with pytest.raises(InputError) as caught:
        omniform.ContinuousBatchingConfig(**{name: value})
    assert caught.value.where == name


def test_configs_and_memory_that_cannot_be_are_refused(f):
    with pytest.raises(InputError, match="settings of batching"):
        f.ours.init_continuous_batching(continuous_batching_config={"page_size": 4})
    config = omniform.ContinuousBatchingConfig(max_memory_percent=1e-12)
    with pytest.raises(InputError, match="no room for a single block"):
        f.ours.init_continuous_batching(continuous_batching_config=config)


@pytest.mark.parametrize("kept", ["int8", "int4"])
def test_keys_in_few_bits(f, rows, kept):
    """A manager keeps them so, and as many blocks of them as it is told take as little as that."""
    config = omniform.ContinuousBatchingConfig(page_size=8, num_blocks=40, cache_dtype=kept)
    with f.ours.continuous_batching_context_manager(GREEDY, continuous_batching_config=config) as manager:
        stats = manager.engine.stats()
        assert stats.cache_dtype == kept and stats.blocks_total == 40
        manager.add_requests(rows)
        assert all(0 < len(manager.get_result(timeout=60).generated_tokens) <= NEW for _ in rows)
