"""What is measured is kept, on SQLite and on a real PostgreSQL, whatever happens meanwhile."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from postgres_server import PASSWORD, WHY_NOT, Server, postgres

from omniform.bench.results import Measure, Result
from omniform.bench.store import schema
from omniform.bench.store.store import Store
from omniform.bench.store.urls import engine_of, read_url
from omniform.core.errors import InputError, OmniformError, StoreError

LATENCIES = ((0.1, 1 / 3, 2.5e-9), (), (math.pi, 5e-324, 1.7976931348623157e308), (math.inf,), ())
"""Numbers that a text of fewer digits would change; turns that left nothing, one of them the last."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with postgres() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bench.db'}"
    return str(request.getfixturevalue("server").database())


def result(name: str = "generate", **given: object) -> Result:
    measures = {
        "decode.latency": Measure("decode.latency", "s", LATENCIES),
        "per_token.throughput": Measure("per_token.throughput", "tokens/s", ((12.5,), (13.0,)), "higher"),
        "decode.memory.rss": Measure("decode.memory.rss", "B", ((2.0**53 - 1, 2.0**60),)),
        "nothing": Measure("nothing", "s", ()),
    }
    settings: dict[str, object] = {
        "name": name, "scenario": "generate", "contender": "omniform", "status": "done",
        "config": {"model": "tiny", "batch": [1, 2], "nested": {"π": None, "\0": "\ud800"}}, "commit": "0123abcd",
        "machine": {"cpu": "EPYC", "host": "here", "cores": 2}, "versions": {"torch": "2.13.0"},
        "started": 1.7e9 + 1 / 3,
        "seconds": 12.345678901234567, "noise": ["another process used a core"], "measures": measures,
    }  # fmt: skip
    return Result(**{**settings, **given})  # type: ignore[arg-type]


def counts(url: str) -> dict[str, int]:
    import sqlalchemy

    names = ("machines", "versions", "configs", "runs", "model_measurements", "device_measurements")
    with engine_of(read_url(url)).connect() as connection:
        return {
            name: connection.execute(sqlalchemy.text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names
        }


def test_what_is_stored_comes_back_exactly(url: str) -> None:
    given = result()
    with Store.open(url) as store:
        store.begin(given)
        assert [run.status for run in store.runs()] == ["running"]
        assert store.results()[0].measures == {}
        store.finish(given)
        [found] = store.results()
        assert found == given
        assert list(found.measures) == list(given.measures)
        assert [run.told() for run in store.runs()] == [{**given.told(), "measures": {}}]
    with Store.open(url) as again:
        assert again.results() == [given]


def test_nan_is_kept(url: str) -> None:
    given = result(measures={"a": Measure("a", "s", ((math.nan, 1.0),))})
    with Store.open(url) as store:
        store.finish(given)
        [(first, second)] = store.results()[0].measures["a"].rounds
    assert math.isnan(first) and second == 1.0


def test_what_no_database_can_hold_as_text_is_written_out(url: str) -> None:
    with Store.open(url) as store:
        store.finish(result(error="before\0after \ud800", status="failed"))
        assert store.results()[0].error == "before\\x00after \\ud800"


def test_equal_facts_are_stored_once(url: str) -> None:
    with Store.open(url) as store:
        for _ in range(3):
            store.finish(result())
        store.finish(result(machine={"cores": 2, "host": "here", "cpu": "EPYC"}))  # in another order
        store.finish(result(versions={"torch": "2.14.0"}))
    found = counts(url)
    assert found == {
        "machines": 1, "versions": 2, "configs": 1, "runs": 5, "model_measurements": 15, "device_measurements": 5,
    }  # fmt: skip


def test_a_run_is_finished_again_by_what_it_came_to_last(url: str) -> None:
    given = result()
    with Store.open(url) as store:
        store.finish(given)
        given.measures = {"forward.latency": Measure("forward.latency", "s", ((1.0,),))}
        store.finish(given)
        assert store.results() == [given]


def test_begun_twice_or_finished_unfinished(url: str) -> None:
    given = result(status="running")
    with Store.open(url) as store:
        store.begin(given)
        with pytest.raises(StoreError, match="there is such a run already"):
            store.begin(given)
        with pytest.raises(InputError, match="is not finished"):
            store.finish(given)


def test_results_are_found_by_what_they_are(url: str) -> None:
    one = result(started=1000.0, commit="aaa1")
    two = result("train", scenario="train_step", started=2000.0, commit="aab2", contender="transformers")
    three = result(started=3000.0, commit=None, machine={"host": "there"}, status="failed", error="no room")
    odd = result("100%_x", started=4000.0, commit="a%")
    with Store.open(url) as store:
        for each in (three, odd, two, one):
            store.finish(each)

        def found(**given: object) -> list[str]:
            return [each.id for each in store.results(**given)]  # type: ignore[arg-type]

        assert found() == [one.id, two.id, three.id, odd.id]
        assert found(name="train") == found(scenario="train_step") == found(contender="transformers") == [two.id]
        assert found(commit="aa") == [one.id, two.id]
        assert found(commit="aab") == [two.id]
        assert found(commit="a%") == [odd.id]
        assert found(machine="there") == [three.id]
        assert found(status="failed") == [three.id]
        assert found(since=2500.0) == found(since=datetime.fromtimestamp(2500)) == [three.id, odd.id]
        assert found(since="2026-01-01") == []
        assert found(ids=[two.id[:12], one.id]) == [one.id, two.id]
        assert found(ids=[]) == []
        assert found(name="train", commit="aaa") == []
        with pytest.raises(InputError, match="is no date"):
            store.results(since="yesterday")


def _process(code: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


WRITER = """
import sys
from omniform.bench.results import Measure, Result
from omniform.bench.store.store import Store

url, who = sys.argv[1:]
with Store.open(url) as store:  # all make the tables at once
    for turn in range(8):
        shared = {"machine": {"host": "h"}, "versions": {"v": str(turn)}, "config": {"turn": turn}}
        one = Result(name="n", scenario="s", contender=f"{who}.{turn}", **shared)
        store.begin(one)
        one.status = "done"
        one.measures = {"m": Measure("m", "s", tuple((float(turn), i / 7) for i in range(20)))}
        store.finish(one)
"""


def test_several_processes_write_at_once_and_nothing_is_lost(url: str) -> None:
    writers = [_process(WRITER, url, str(who)) for who in range(4)]
    for writer in writers:
        _, said = writer.communicate(timeout=300)
        assert writer.returncode == 0, said
    with Store.open(url) as store:
        found = store.results(status="done")
    assert {one.contender for one in found} == {f"{who}.{turn}" for who in range(4) for turn in range(8)}
    for one in found:
        turn = float(one.versions["v"])
        assert one.measures["m"].rounds == tuple((turn, i / 7) for i in range(20))
    kept = counts(url)
    assert (kept["machines"], kept["versions"], kept["configs"], kept["runs"]) == (1, 8, 8, 32)


KILLED = """
import os, signal, sys
from omniform.bench.results import Measure, Result
from omniform.bench.store import store as module
from omniform.bench.store.store import Store

url, when = sys.argv[1:]
store = Store.open(url)
one = Result(name="killed", scenario="s", contender="c")
store.begin(one)
one.status = "done"
one.measures = {name: Measure(name, "s", ((1.0,) * 1000,)) for name in ("a", "b")}
if when == "while writing":
    whole = module._insert_measure

    def cut(connection, run, place, measure):
        if measure.name == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        whole(connection, run, place, measure)

    module._insert_measure = cut
    store.finish(one)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["while measuring", "while writing"])
def test_a_killed_run_is_broken_and_nothing_is_half_written(url: str, when: str) -> None:
    killed = _process(KILLED, url, when)
    pid = killed.pid
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has asked how: its number is still taken
    with Store.open(url) as store:
        [found] = store.results()
        assert (found.name, found.status, found.measures) == ("killed", "broken", {})
        assert f"its process ({pid} on" in str(found.error)
    _, said = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, said
    assert counts(url)["model_measurements"] == 0


def test_a_run_that_goes_on_is_not_broken(url: str) -> None:
    with Store.open(url) as store:
        store.begin(result(status="running"))
        with Store.open(url) as other:
            assert other.mark_broken() == 0
            assert [run.status for run in other.runs()] == ["running"]


def _change(url: str, statement: str, **values: object) -> None:
    import sqlalchemy

    with engine_of(read_url(url)).begin() as connection:
        connection.execute(sqlalchemy.text(statement), values)


def test_a_process_number_that_is_anothers_now(url: str) -> None:
    with Store.open(url) as store:
        store.begin(result(status="running"))
        _change(url, "UPDATE runs SET born = 'another boot:1'")
        assert store.mark_broken() == 1
        assert store.mark_broken() == 0
        assert store.runs()[0].status == "broken"


def test_a_run_on_another_host_is_broken_once_it_is_silent(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from omniform.bench.store import store as module

    monkeypatch.setattr(module, "BEAT", 0.05)
    given = result(status="running")
    with Store.open(url) as store:
        store.begin(given)
        _change(url, "UPDATE runs SET space = 'elsewhere', pid = 999999, heartbeat = 1")
        end = time.monotonic() + 60
        while _heartbeat(url) == 1:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert store.mark_broken() == 0
    _change(url, "UPDATE runs SET heartbeat = heartbeat - 301")
    with Store.open(url) as store:
        [found] = store.runs()
        assert found.status == "broken" and "nothing was heard" in str(found.error)
        given.status = "done"  # it was only cut off
        store.finish(given)
        assert store.results() == [given]


def _heartbeat(url: str) -> float:
    import sqlalchemy

    with engine_of(read_url(url)).connect() as connection:
        return float(connection.execute(sqlalchemy.text("SELECT heartbeat FROM runs")).scalar_one())


def test_the_tables_are_what_the_migrations_make(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from omniform.bench.store.tables import Base

    Store.open(url).close()
    with engine_of(read_url(url)).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": schema.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_an_older_schema_is_upgraded_with_what_it_holds(url: str) -> None:
    schema.upgrade(engine_of(read_url(url)), url, "0001")
    for shared in ("machines", "versions", "configs"):
        _change(url, f"INSERT INTO {shared} (id, digest, text) VALUES (1, 'd', '{{}}')")
    _change(
        url,
        "INSERT INTO runs VALUES"
        " (1, 'k', 'n', 's', 'c', NULL, 'done', NULL, 1.5, 2.5, '[]', 1, 1, 1, 'h', 's', 1, 'b', 0)",
    )
    _change(url, "INSERT INTO model_measurements VALUES (1, 'm', 0, 's', 'lower', 1, 1)")
    for place, value in enumerate((3.0, 0.1, 9.0)):
        _change(url, "INSERT INTO model_samples VALUES (1, 0, :place, :value)", place=place, value=value)
    with Store.open(url) as store:
        [found] = store.results()
    assert found.measures["m"].rounds == ((3.0, 0.1, 9.0),)
    import sqlalchemy

    with engine_of(read_url(url)).connect() as connection:
        assert schema.revision(connection) == "0002"
        assert connection.execute(sqlalchemy.text("SELECT median FROM model_measurements")).scalar_one() == 3.0


def test_a_step_that_fails_leaves_the_older_schema_whole(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    engine = engine_of(read_url(url))
    schema.upgrade(engine, url, "0001")
    with monkeypatch.context() as changed:
        changed.setattr(op, "add_column", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Store.open(url)
    with engine.connect() as connection:
        assert schema.revision(connection) == "0001"
    Store.open(url).close()


def test_a_newer_schema_is_refused(url: str) -> None:
    Store.open(url).close()
    _change(url, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"newer omniform.*schema 0002 or older.*schema 9999"):
        Store.open(url)


def test_tables_of_another_program_are_left_alone(url: str) -> None:
    _change(url, "CREATE TABLE runs (theirs INTEGER)")
    with pytest.raises(StoreError, match=r"tables that another program made.*runs"):
        Store.open(url)
    _change(url, "ALTER TABLE runs RENAME TO others")
    Store.open(url).close()


def test_servers_that_cannot_be_used(server: Server) -> None:
    good = server.database()
    cases = {
        good.replace(PASSWORD, "wr0ng-w0rd"): "password authentication failed.*Check the user and the password",
        server.url("nowhere"): '"nowhere" does not exist.*Make it first',
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/x": "refused.*Is the server running",
        f"postgresql://u:{PASSWORD}@/x?host=/nowhere": "Is the server running, and is its socket there",
        f"postgres://u:{PASSWORD}@no.such.host.invalid/x": "cannot open it",
    }
    for url, said in cases.items():
        with pytest.raises(StoreError, match=f"(?s)^postgres.*{said}") as error:
            Store.open(url)
        assert PASSWORD not in str(error.value) and "wr0ng" not in str(error.value), url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bench.db", "is not the URL of a database.*sqlite:///bench.db"),
        ("mysql://u:s3cret-w0rd@h/x", "kind that is not supported: mysql"),
        ("postgresql://u:s3cret-w0rd@h:port/x", "is not the URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("", "is not the URL"),
    ],
)
def test_urls_that_are_none(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        Store.open(url)
    assert PASSWORD not in str(error.value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but a text of some length\n" * 100)
    with pytest.raises(StoreError, match=r"not a database.*Name a new file"):
        Store.open(f"sqlite:///{tmp_path / 'text.db'}")
    assert (tmp_path / "text.db").read_text().startswith("no database")
    with pytest.raises(StoreError, match=r"unable to open.*Is there such a folder"):
        Store.open(f"sqlite:///{tmp_path / 'no' / 'folder' / 'bench.db'}")
    with pytest.raises(StoreError, match="unable to open"):
        Store.open(f"sqlite:///{tmp_path}")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # Root may write anywhere but where there is nothing to write into.
        with pytest.raises(StoreError, match="unable to open"):
            Store.open("sqlite:////proc/bench.db")
        return
    tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match=r"unable to open|readonly"):
        Store.open(f"sqlite:///{tmp_path / 'bench.db'}")


FULL = """
import resource, signal, sys
from omniform.bench.results import Measure, Result
from omniform.bench.store.store import Store
from omniform.core.errors import StoreError

one = Result(name="full", scenario="s", contender="c")
with Store.open(sys.argv[1]) as store:
    store.begin(one)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # no file may grow beyond
    one.status, one.measures = "done", {"m": Measure("m", "s", tuple((i / 7,) for i in range(50_000)))}
    try:
        store.finish(one)
    except StoreError as error:
        print(error)
        print(len(one.measures["m"].samples))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bench.db'}"
    full = _process(FULL, url)
    said, wrong = full.communicate()
    assert full.returncode == 0, wrong
    assert "cannot keep full: " in said and said.endswith("50000\n")
    with Store.open(url) as store:
        [found] = store.results()
        assert (found.status, found.measures) == ("broken", {})
    assert sqlite3.connect(tmp_path / "bench.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_errors_are_omniforms(url: str) -> None:
    with Store.open(url) as store:
        _change(url, "DROP TABLE device_samples")
        with pytest.raises(OmniformError, match=r"cannot keep generate: .*device_samples"):
            store.finish(result())


def test_forked_writers_share_no_connection(url: str) -> None:
    with Store.open(url) as store:
        store.finish(result("before"))
        child = os.fork()
        if child == 0:
            try:
                store.finish(result("child"))
                os._exit(0)
            except BaseException:
                os._exit(1)
        store.finish(result("parent"))
        assert os.waitpid(child, 0)[1] == 0
        assert sorted(run.name for run in store.runs()) == ["before", "child", "parent"]


def test_many_samples_are_read_quickly_enough(url: str) -> None:
    series = tuple(tuple(float(i + turn) for i in range(1000)) for turn in range(10))
    given = result(measures={"energy.cpu": Measure("energy.cpu", "J", series)})
    with Store.open(url) as store:
        store.finish(given)
        assert store.results(name="generate") == [given]
    assert json.loads(json.dumps(given.told())) == given.told()
