"""The recorder, noise, warming up, the roofline: against clocks and files of the tests' own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from omniform.bench.config import NoiseConfig
from omniform.bench.noise import Reading, judged, told
from omniform.bench.recorder import MetricsRecorder, Rapl
from omniform.bench.results import Measure
from omniform.bench.roofline import Peak
from omniform.bench.table import compared
from omniform.bench.warmup import warm_up
from omniform.core.errors import InputError


def test_memory_and_use_of_a_process_and_its_children():
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'x = bytearray(80 << 20); import time; time.sleep(60)'])\n"
        "y = bytearray(60 << 20)\n"
        "print('there', flush=True)\n"
        "while True: sum(range(1000))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    try:
        recorder = MetricsRecorder(process.pid, interval=0.02)
        until = time.monotonic() + 60
        while recorder.measures().get("memory.rss", Measure("", "", ())).samples[-1:] < [140 << 20]:
            with recorder.span():  # until the child has its memory, however busy the machine is
                time.sleep(0.3)
            assert time.monotonic() < until
    finally:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()
        process.wait()
    found = recorder.measures()
    assert 140 << 20 <= found["memory.rss"].samples[-1] < 250 << 20
    assert 0 < found["memory.pss"].samples[-1] <= found["memory.rss"].summary.max
    assert found["memory.peak"].summary.max >= 60 << 20
    assert found["cpu.use"].summary.max > 0
    assert all(len(measure.rounds) == len(recorder.spans) for measure in found.values())


def test_a_peak_between_samples_is_seen_and_is_of_its_span():
    recorder = MetricsRecorder(interval=60)
    with recorder.span():
        held = bytearray(200 << 20)
        del held
    with recorder.span():
        pass
    first, second = recorder.measures()["memory.peak"].samples
    assert first - second > 150 << 20


def test_sampling_is_held_to_its_share():
    recorder = MetricsRecorder(interval=1e-4)
    started = time.process_time()
    with recorder.span():
        time.sleep(1.0)
    samples = recorder.measures()["memory.rss"].summary.count
    assert samples >= 3

    assert samples < 2000, samples  # not the 10,000 that the interval asks for
    assert time.process_time() - started < 0.5


def test_a_recorder_may_be_read_from_other_threads_and_begins_only_once():
    recorder, wrong = MetricsRecorder(interval=0.001), []

    def read() -> None:
        try:
            for _ in range(200):
                recorder.measures()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    with recorder:
        for thread in threads:
            thread.start()
        with pytest.raises(InputError, match="is recording"):
            recorder.start()
        for thread in threads:
            thread.join()
    assert not wrong
    with pytest.raises(InputError, match="is not recording"):
        recorder.stop()
    with pytest.raises(InputError, match="more than 0"):
        MetricsRecorder(interval=0)
    with pytest.raises(InputError, match="no such process"):
        MetricsRecorder(2**22 + 5)


def test_energy_begins_again_at_its_range(tmp_path: Path):
    for zone, energy in (("intel-rapl:0", 900), ("intel-rapl:1", 50), ("intel-rapl:0:0", 7)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{energy}000000\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("1000000000\n")
    rapl = Rapl(tmp_path)
    assert rapl.joules() == 950
    recorder = MetricsRecorder(interval=60, rapl=tmp_path)
    with recorder.span():
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("20000000\n")
    assert rapl.joules() == 1070
    assert recorder.measures()["energy.cpu"].samples == [120]
    assert Rapl(tmp_path / "nowhere").joules() is None


def proc(folder: Path, *, user: int, steal: int, swapped: int, faults: int, waited: int, switches: int) -> None:
    (folder / "7" / "task" / "7").mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(f"cpu  {user} 0 0 500 0 0 0 {steal} 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    (folder / "vmstat").write_text(f"nr_free_pages 1\npswpin {swapped}\npswpout 0\n")
    (folder / "7" / "stat").write_text(f"7 (a) b) R 1 1 1 0 0 0 0 0 {faults} 0 10 10\n")
    (folder / "7" / "task" / "7" / "schedstat").write_text(f"1 {waited} 1\n")
    (folder / "7" / "task" / "7" / "status").write_text(f"Name: a\nnonvoluntary_ctxt_switches:\t{switches}\n")


def test_the_kernel_s_counters_are_read(tmp_path: Path):
    heat = tmp_path / "cpu" / "cpu3" / "thermal_throttle"
    heat.mkdir(parents=True)
    (heat / "core_throttle_count").write_text("5\n")
    proc(tmp_path, user=100, steal=10, swapped=3, faults=4, waited=10**9, switches=5)
    before = Reading.now(7, tmp_path, tmp_path / "cpu")
    proc(tmp_path, user=300, steal=50, swapped=9, faults=8, waited=3 * 10**9, switches=6)
    (heat / "core_throttle_count").write_text("6\n")
    grown = Reading.now(7, tmp_path, tmp_path / "cpu").since(before)
    assert grown == Reading(busy=2.0, steal=0.4, throttled=1, swapped=6, faults=4, switches=1, waited=2.0)
    assert Reading.now(7, tmp_path / "nowhere", tmp_path / "nowhere") == Reading()


LIMITS = NoiseConfig()


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        (Reading(busy=10.0), None),
        (Reading(busy=18.0), None),  # others work, on processors that the contender leaves
        (Reading(busy=26.0), "others used 80% of the processors"),
        (Reading(busy=10.0, waited=3.0), "waited 30% of the time"),
        (Reading(busy=10.0, steal=1.0), "the host took 5% of the processors"),
        (Reading(busy=10.0, faults=1000), "100 pages a second came from the disk"),
        (Reading(busy=10.0, swapped=500), "50 pages a second were swapped"),
        (Reading(busy=10.0, throttled=1), "heat"),
    ],
)
def test_what_disturbs_a_turn(grown: Reading, said: str | None):
    found = judged(grown, seconds=10.0, own=10.0, cores=2, threads=1, limits=LIMITS)
    if said is None:
        assert not found.reasons
    else:
        assert said in "; ".join(found.reasons)
        (sentence,) = told([found, found], [(1.0,), (1.0,), (1.0,)], LIMITS)
        assert sentence.startswith("2 of 2 turns were disturbed") and said in sentence


def test_on_the_processor_s_clock_others_disturb_nobody():
    assert not judged(Reading(busy=26.0, waited=3.0), 10.0, 10.0, 2, 1, LIMITS, "cpu").reasons


def test_turns_that_differ_are_told():
    assert told([], [(1.0,), (1.0, 1.1), (0.9,)], LIMITS) == []
    assert "differ by" in told([], [(1.0,), (2.0,), (1.5,), (0.5,)], LIMITS)[0]


def clocked(seconds: list[float]) -> tuple[object, object]:
    now, left = [0.0], iter(seconds)

    def sample() -> float:
        took = next(left)
        now[0] += took
        return took

    return sample, lambda: now[0]


def test_warming_up_ends_where_times_no_longer_change():
    falling = [5.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.2] + [1.0] * 40
    sample, now = clocked(falling)
    warmed = warm_up(sample, window=4, tolerance=0.05, limit=1e9, now=now)  # type: ignore[arg-type]
    assert warmed.settled and 11 <= len(warmed.samples) <= 15 and warmed.samples[-4:] == [1.0] * 4
    sample, now = clocked([1.0] * 8)
    assert len(warm_up(sample, window=4, limit=1e9, now=now).samples) == 8  # type: ignore[arg-type]
    # One that is late does not lengthen it; one that never ends to fall is given up.
    sample, now = clocked([1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0])
    assert warm_up(sample, window=4, limit=1e9, now=now).settled  # type: ignore[arg-type]
    sample, now = clocked([1000 * 0.8**k for k in range(1000)])
    warmed = warm_up(sample, window=4, limit=4000.0, now=now)  # type: ignore[arg-type]
    assert not warmed.settled and 4000 <= warmed.seconds < 5000


def test_the_least_that_work_can_take():
    peak = Peak(flops=100.0, bandwidth=10.0)
    assert peak.seconds(1000, 10) == 10 and peak.seconds(10, 1000) == 100


def test_verdicts():
    one = Measure("decode.latency", "s", tuple((1.0 + 0.001 * k,) for k in range(8)))
    slow = Measure("decode.latency", "s", tuple((1.1 + 0.001 * k,) for k in range(8)))
    assert compared(one, slow)[2] == "WORSE" and compared(slow, one)[2] == "better" and compared(one, one)[2] == "same"
    fast = Measure("x", "tokens/s", slow.rounds, "higher")
    assert compared(Measure("x", "tokens/s", one.rounds, "higher"), fast)[2] == "better"
    noisy = Measure("decode.latency", "s", tuple((1.0 + 0.3 * (k % 3),) for k in range(8)))
    assert compared(one, noisy)[2] == "unclear"
    few = [Measure("decode.latency", "s", measure.rounds[:3]) for measure in (one, slow)]
    assert compared(*few)[2] == "WORSE?"
