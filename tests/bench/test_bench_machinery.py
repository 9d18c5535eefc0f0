"""Contenders in processes of their own: planted differences, processes that die, commits, environments."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from omniform.bench.benchmark import Benchmark
from omniform.bench.commits import Commits
from omniform.bench.config import BenchmarkConfig
from omniform.bench.contender import ContenderError
from omniform.bench.results import Result
from omniform.bench.stats import difference
from omniform.bench.store.store import Store
from omniform.cli.main import main

HERE = Path(__file__).parent
OWN = HERE / "bench_scenarios.py"
QUICK = {"threads": 1, "roofline": False, "seconds": 0.02, "rounds": 8, "noise": {"repeats": 0},
         "again": 0, "warmup": {"limit": 1.0, "window": 2}, "timeout": 60.0}  # fmt: skip


def config(name: str, contenders: list[object], **changes: object) -> BenchmarkConfig:
    kind, _, rest = name.partition(" ")
    scenario = {"kind": f"{OWN}:{kind}", **(json.loads(rest) if rest else {})}
    return BenchmarkConfig.of(
        {
            "name": "test",
            "scenario": scenario,
            "backend": {"kind": "none"},
            "contenders": contenders,
            **QUICK,
            **changes,
        }
    )


def longer(name: str, times: float) -> dict[str, object]:
    return {"name": name, "env": {"SPIN_LONGER": str(times)}}


def by_name(results: list[Result]) -> dict[str, Result]:
    return {one.contender: one for one in results}


def test_a_planted_tenth_is_found_and_a_planted_nothing_is_not():
    heard: list[tuple[str, str]] = []
    run = Benchmark(
        config("Spin", [longer("base", 1), longer("same", 1), longer("slow", 1.1)]),
        on_result=[lambda one: heard.append((one.contender, one.status))],
    ).run()
    found = by_name(run)
    assert heard == [(name, status) for status in ("running", "done") for name in ("base", "same", "slow")]
    rounds = {name: one.measures["spin.latency"].rounds for name, one in found.items()}
    assert {len(one) for one in rounds.values()} == {8}
    slow, same = difference(rounds["base"], rounds["slow"]), difference(rounds["base"], rounds["same"])
    assert slow.verdict == "more" and 1.05 < slow.ratio < 1.15
    assert same.verdict == "same"
    faster = difference(*(found[name].measures["spin.throughput"].rounds for name in ("base", "slow")))
    assert faster.verdict == "less"
    base = found["base"]
    assert base.measures["memory.rss"].summary.max > 1e6 and base.measures["memory.peak"].unit == "B"
    assert base.measures["cpu.use"].summary.count and base.machine["cores"] and base.versions["python"]
    assert Result.of(json.loads(json.dumps(base.told()))) == base


def test_what_one_process_has_and_the_next_has_not_is_no_difference(tmp_path: Path):
    once = {"name": "once", "env": {"SPIN_ONCE": str(tmp_path / "mark")}}
    said: list[str] = []
    contenders = [longer("base", 1), longer("slow", 1.1), once]
    found = by_name(Benchmark(config("Spin", contenders, again=1), say=said.append).run())
    rounds = {name: one.measures["spin.latency"].rounds for name, one in found.items()}
    assert {len(one) for one in rounds.values()} == {16}
    assert difference(rounds["base"], rounds["slow"]).verdict == "more"
    assert difference(rounds["base"], rounds["once"]).verdict == "unclear"
    assert "measuring again, in new processes: slow differs, once differs" in said


def test_the_same_again_is_no_difference_and_measured_once():
    found = Benchmark(config("Spin", [longer("base", 1), longer("same", 1), longer("far", 2)], again=2)).run()
    assert {len(one.measures["spin.latency"].rounds) for one in found} == {8}


def test_those_who_die_hang_or_refuse_do_not_end_the_others():
    ways = {"killed": "kill", "ended": "exit", "hung": "hang", "raised": "raise", "broken": "begin", "talks": "print"}
    contenders = [{"name": name, "env": {"WRONG": way}} for name, way in ways.items()]
    contenders.append({"name": "nowhere", "python": "/nowhere/python"})
    contenders.append({"name": "wellbehaved"})
    found = by_name(Benchmark(config('Wrong {"after": 30}', contenders, rounds=3, timeout=8.0, seconds=0.1)).run())
    said = {name: one.error for name, one in found.items() if one.status == "failed"}
    assert said.keys() == {"killed", "ended", "hung", "raised", "broken", "nowhere"}
    assert "killed by SIGKILL" in said["killed"] and "these are my last words" in said["killed"]
    assert "status 3" in said["ended"]
    assert "no answer within 8 s" in said["hung"]
    assert said["raised"] == "ValueError: no more"
    assert said["broken"] == "RuntimeError: this library is broken"
    assert "no interpreter /nowhere/python" in said["nowhere"]
    for name in ("talks", "wellbehaved"):
        assert found[name].status == "done" and len(found[name].measures["wrong.latency"].rounds) == 3


def test_a_process_that_somebody_kills_from_outside():
    running = Benchmark(config("Spin", [longer("one", 1), longer("two", 1)], rounds=40, seconds=0.2))

    def kill() -> None:
        for _ in range(600):
            time.sleep(0.05)
            ours = [p for p in psutil.Process().children() if "child.py" in " ".join(p.cmdline())]
            if len(ours) == 2 and min(p.cpu_times().user for p in ours) > 0.5:
                ours[0].send_signal(signal.SIGKILL)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    found = running.run()
    thread.join()
    assert [one.status for one in found] == ["failed", "done"]
    assert "killed by SIGKILL" in str(found[0].error)
    assert len(found[1].measures["spin.latency"].rounds) == 40


def test_a_process_of_its_own_for_every_turn():
    found = Benchmark(config("Once", [{"name": "a"}, {"name": "b"}], rounds=3)).run()
    pids = [pid for one in found for pid in one.measures["once.latency"].samples]
    assert len(pids) == len(set(pids)) == 6


@pytest.mark.parametrize("scenario", ["Sum", "Again"])
def test_who_comes_to_something_else_is_out_where_the_config_says_so(scenario: str):
    told = {"first": "-100 1", "near": "-100 2", "far": "-97 1", "other": "-100", "nan": "nan 1"}
    contenders = [{"name": name, "env": {"SUM": numbers}} for name, numbers in told.items()]
    found = by_name(Benchmark(config(scenario, contenders, agree=0.02, rounds=1)).run())
    assert [name for name, one in found.items() if one.status == "done"] == ["first", "near"]
    assert found["far"].error == "its answer is 0.03 apart from that of first, and may be 0.02"
    found = by_name(Benchmark(config(scenario, contenders, rounds=1)).run())
    assert {one.status for one in found.values()} == {"done"}


def test_what_a_backend_cannot_do_is_refused_by_name_before_anything_runs(capsys: pytest.CaptureFixture[str]):
    code = main(["bench", "--config-name", "generate", "contenders=[omniform,none]"])
    said = capsys.readouterr().err
    assert code == 2 and "none does not write text, which scenario 'generate' asks for" in said


def git(folder: Path, *words: str) -> str:
    own = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(folder), *words]
    return subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """A repository of four commits: a base, the same in other words, a tenth slower, and one that does not build."""
    repo = tmp_path / "toy repo"
    (repo / "toy").mkdir(parents=True)
    git(repo, "init", "-q", "-b", "main")
    (repo / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "toy"\nversion = "1"\n'
    )
    text = "import time\ndef spin(seconds={}):\n    until = time.process_time() + seconds\n" \
           "    while time.process_time() < until: pass\n"  # fmt: skip
    for tag, seconds in (("base", "0.01"), ("same", "0.010"), ("slow", "0.011")):
        (repo / "toy" / "__init__.py").write_text(text.format(seconds))
        git(repo, "add", "-A")
        git(repo, "commit", "-q", "-m", tag)
        git(repo, "tag", tag)
    (repo / "pyproject.toml").write_text("[project]\nname = 3\n")
    git(repo, "commit", "-aqm", "broken")
    git(repo, "tag", "broken")
    return repo


def test_commits_side_by_side(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, cache, out = tmp_path / "configs", tmp_path / "cache", tmp_path / "out.json"
    folder.mkdir()
    plain = {"name": "toy", "scenario": {"kind": f"{OWN}:Toy"}, "backend": {"kind": "none"}, **QUICK, "seconds": 0.05}
    (folder / "toy.yaml").write_text(json.dumps(plain))
    revisions = [word for rev in ("base", "same", "slow", "broken", "gone") for word in ("--commit", rev)]
    kept = f"sqlite:///{tmp_path / 'bench.db'}"
    code = main(["bench", "--config-dir", str(folder), "--config-name", "toy", "--repo", str(toys), "--cache",
                 str(cache), "--json", str(out), "--db", kept, *revisions])  # fmt: skip
    said = capsys.readouterr()
    assert code == 1, said.err
    found = [Result.of(one) for one in json.loads(out.read_text())]
    assert [one.status for one in found] == ["done", "done", "done", "failed", "failed"], said.err
    assert "does not build" in str(found[3].error) and "there is no commit 'gone'" in str(found[4].error)
    assert [one.commit for one in found[:3]] == [git(toys, "rev-parse", tag) for tag in ("base", "same", "slow")]
    rounds = [one.measures["toy.latency"].rounds for one in found[:3]]
    assert difference(rounds[0], rounds[1]).verdict == "same"
    assert difference(rounds[0], rounds[2]).verdict == "more"
    assert "WORSE" in said.out
    failing = ["bench", "--config-dir", str(folder), "--config-name", "toy", "--repo", str(toys), "--cache",
               str(cache), "--fail-on-regression"]  # fmt: skip
    assert main([*failing, "--commit", "base", "--commit", "base"]) == 0
    assert main([*failing, "--commit", "base", "--commit", "slow"]) == 1
    assert "regression: toy.latency of none slow" in capsys.readouterr().err
    with Store.open(kept) as store:
        stored = {one.id: one for one in store.results()}
    assert {one.id: (one.status, one.commit, one.error) for one in found} == {
        key: (one.status, one.commit, one.error) for key, one in stored.items()
    }
    assert stored[found[0].id].measures["toy.latency"] == found[0].measures["toy.latency"]
    # Nothing is left in the repository, nor half of anything in the cache; and nothing is built twice.
    assert len(git(toys, "worktree", "list").splitlines()) == 1 and not git(toys, "status", "--porcelain")
    built = sorted((cache / "commits").glob("[0-9a-f]*"))
    assert len(built) == 3
    before = [one.stat().st_ctime_ns for one in built]
    Commits(toys, cache).environment("slow")
    assert [one.stat().st_ctime_ns for one in built] == before


def test_a_build_that_was_cut_off_is_not_used(toys: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    left = cache / "commits" / "0123.building-xyz"
    (left / "env" / "bin").mkdir(parents=True)
    built = Commits(toys, cache).environment("base")
    assert built.python.exists() and not left.exists()
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [built.python, "-c", "import toy, torch; print(toy.__file__)"]
    told = subprocess.run(command, capture_output=True, text=True, env=alone)
    assert str(cache.resolve()) in told.stdout, told.stderr
    shutil.rmtree(toys / ".git")
    with pytest.raises(ContenderError, match="no git repository"):
        Commits(toys, cache).environment("base")


def test_ctrl_c_ends_all_and_keeps_what_is_whole(tmp_path: Path):
    folder, out = tmp_path / "configs", tmp_path / "out.json"
    folder.mkdir()
    plain = {"name": "long", "scenario": {"kind": f"{OWN}:Spin"}, "backend": {"kind": "none"}, **QUICK,
             "contenders": [{"name": "a"}, {"name": "b"}], "rounds": 100000}  # fmt: skip
    (folder / "long.yaml").write_text(json.dumps(plain))
    command = [sys.executable, "-m", "omniform", "bench", "--config-dir", str(folder), "--config-name", "long",
               "--json", str(out)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watched, children = psutil.Process(process.pid), []
    for _ in range(1200):
        time.sleep(0.05)
        children = watched.children()
        if len(children) == 2 and min(sum(c.cpu_times()[:2]) for c in children) > 1.5:
            break
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = [Result.of(one) for one in json.loads(out.read_text())]
    assert [one.status for one in found] == ["done", "done"] and "interrupted after" in said
    assert len({len(one.measures["spin.latency"].rounds) for one in found}) == 1
    assert not any(child.is_running() for child in children)


def test_nobody_is_left_of_a_run_that_was_killed(tmp_path: Path):
    folder = tmp_path / "configs"
    folder.mkdir()
    plain = {"name": "long", "scenario": {"kind": f"{OWN}:Spin"}, "backend": {"kind": "none"}, **QUICK, "rounds": 10**6}
    (folder / "long.yaml").write_text(json.dumps(plain))
    kept = f"sqlite:///{tmp_path / 'bench.db'}"
    command = [sys.executable, "-m", "omniform", "bench", "--config-dir", str(folder), "--config-name", "long", "--db",
               kept]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watched, children = psutil.Process(process.pid), []
    for _ in range(1200):
        time.sleep(0.05)
        children = watched.children()
        if children and sum(children[0].cpu_times()[:2]) > 0.5:
            break
    process.kill()
    process.wait()
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    with Store.open(kept) as store:
        store.mark_broken()
        assert [one.status for one in store.runs()] == ["broken"]


def test_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "configs"
    folder.mkdir()
    plain = {"name": "spin", "scenario": {"kind": f"{OWN}:Spin"}, "backend": {"kind": "none"}, **QUICK, "rounds": 1}
    (folder / "spin.yaml").write_text(json.dumps(plain))
    asked = ["bench", "--config-dir", str(folder), "--config-name", "spin"]
    assert main([*asked, "--metrics", "spin.latency.p90,memory.peak"]) == 0
    told = capsys.readouterr().out
    assert "spin.latency.p90" in told and "memory.peak" in told and "spin.throughput" not in told
    assert main([*asked, "--metrics", "decode.latency"]) == 2
    said = capsys.readouterr().err
    assert "'decode.latency' was not measured" in said and "spin.latency" in said
    assert main(["bench", "--config-dir", str(folder), "--list"]) == 0
    assert capsys.readouterr().out == "spin\n"


LLAMA_SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port = int(sys.argv[sys.argv.index("--port") + 1])
class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        for k in range(asked["max_tokens"]):
            self.wfile.write(b"data: " + json.dumps({"choices": [{"delta": {"content": "x"}}]}).encode() + b"\\n\\n")
            self.wfile.flush()
            time.sleep(0.01)
    def log_message(self, *given):
        pass
ThreadingHTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""


def test_llama_cpp_s_server_is_asked_as_ours_is(tmp_path: Path):
    """By a program that speaks as it does: 4 requests of 5 tokens, 10 ms each, all at once."""
    program = tmp_path / "llama-server"
    program.write_text(f"#!{sys.executable}\n{LLAMA_SERVER}")
    program.chmod(0o755)
    (tmp_path / "model.gguf").touch()

    def measured(program: str) -> Result:
        (result,) = Benchmark(BenchmarkConfig.of({
            "name": "server", "scenario": {"kind": "server", "requests": 4, "rate": 0, "new_tokens": 5},
            "backend": {"kind": "llama_cpp", "options": {"program": program}}, "model": str(tmp_path / "model.gguf"),
            **QUICK, "rounds": 1,
        })).run()  # fmt: skip
        return result

    found = measured(str(program))
    assert found.status == "done", found.error
    assert found.value("requests.latency.min") >= 0.04 and found.measures["first_token.latency"].summary.count % 4 == 0
    assert "cannot be started: No such file" in str(measured(str(tmp_path / "nowhere")).error)
    program.write_text(f"#!{sys.executable}\nraise SystemExit(3)\n")
    assert "the server ended with status 3" in str(measured(str(program)).error)
