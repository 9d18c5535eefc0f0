"""Reports to other tools: what they read back is what the reference's callbacks write, and none stops a training."""

from __future__ import annotations

import http.server
import json
import logging
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from decimal import Decimal
from fractions import Fraction
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from train_reports import HISTORY, FakeTool, Noted, Plain, Played, begun, tiny
from train_tiny import KINDS
from train_tiny import arguments as tiny_arguments

import omniform
from omniform import integrations
from omniform.core.errors import InputError, MissingToolError
from omniform.train.reporting import available, values
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.table import named_tools
from reference import transformers

THEIRS = transformers.integrations.integration_utils

needs = {name: pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")
         for name in ("tensorboard", "mlflow", "wandb", "comet_ml", "codecarbon")}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """A folder of its own, no settings of the machine's, and no network."""
    real = socket.socket.connect

    def connect(self, address):
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1"):
            return real(self, address)
        raise OSError("tests have no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "MLFLOW_", "COMET_", "HF_MLFLOW", "TENSORBOARD_", "CODECARBON_", "KUBEFLOW_")):
            monkeypatch.delenv(name)
    # Comet would note what MLflow and TensorBoard are told, too.
    monkeypatch.setenv("COMET_DISABLE_AUTO_LOGGING", "1")
    monkeypatch.chdir(tmp_path)
    # What the reference does in the child processes of these tools is not ours to test.
    monkeypatch.setenv("CODECARBON_LOG_LEVEL", "critical")


class Said(logging.Handler):
    """What omniform has said; tools have their own loggers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def said(monkeypatch):
    log, handler = logging.getLogger("omniform"), Said()
    monkeypatch.setattr(log, "level", logging.WARNING)
    monkeypatch.setattr(log, "_cache", {})
    log.addHandler(handler)
    yield handler.messages
    log.removeHandler(handler)


def both(name: str) -> tuple[type, type]:
    return integrations.INTEGRATION_TO_CALLBACK[name], THEIRS.INTEGRATION_TO_CALLBACK[name]


# -- names -------------------------------------------------------------------------------------------------------------


def test_every_name_of_the_ecosystems():
    theirs = {name for name in dir(THEIRS) if name.startswith("is_") and name.endswith("_available")}
    theirs -= {"is_datasets_available", "is_pandas_available", "is_torch_available", "is_torch_xla_available"}
    theirs |= {"INTEGRATION_TO_CALLBACK", "rewrite_logs", "hp_params", "NeptuneMissingConfiguration", "WandbLogModel"}
    theirs |= {name for name in dir(THEIRS) if name.endswith("Callback")} - {"TrainerCallback", "ProgressCallback"}
    for name in sorted(theirs):
        assert getattr(integrations, name) is getattr(integrations.integration_utils, name)
    told = {name: one.__name__ for name, one in integrations.INTEGRATION_TO_CALLBACK.items()}
    assert told == {name: one.__name__ for name, one in THEIRS.INTEGRATION_TO_CALLBACK.items()}
    for name in dir(transformers):
        if name in theirs:
            assert getattr(omniform, name) is getattr(integrations, name)


@pytest.mark.parametrize("name", sorted(name for name in dir(available) if name.startswith("is_")))
def test_what_is_there_is_what_the_reference_finds(name):
    if name != "is_comet_available":  # without a key it warns, in either
        assert getattr(integrations, name)() is getattr(THEIRS, name)()


def test_a_folder_that_a_tool_wrote_is_no_tool(tmp_path, monkeypatch):
    for name in ("swanlab", "trackio"):
        (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not integrations.is_swanlab_available()
    assert not integrations.is_trackio_available()


def test_switched_off_and_comets_key(tmp_path, monkeypatch):
    monkeypatch.setattr(available, "installed", lambda name: True)
    monkeypatch.setattr(available.metadata, "version", lambda name: "3.50.1")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert integrations.is_mlflow_available()
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "true")
    assert not integrations.is_mlflow_available()
    assert not integrations.is_comet_available()
    (tmp_path / ".comet.config").write_text("[comet]\napi_key = abc\n")
    assert integrations.is_comet_available()
    monkeypatch.setattr(available.metadata, "version", lambda name: "3.20.0")
    assert not integrations.is_comet_available()

    def missing(name):
        raise PackageNotFoundError

    monkeypatch.setattr(available.metadata, "version", missing)
    assert not integrations.is_comet_available()
    assert not integrations.is_kubeflow_available()
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://localhost:1")
    assert integrations.is_kubeflow_available()


def test_rewrite_logs():
    logs = {
        "loss": 1,
        "eval_loss": 2,
        "test_f1": 3,
        "evaluation": 4,
        "eval_": 5,
        "train_loss": 6,
        "eval_test_x": 7,
        "": 8,
    }
    assert integrations.rewrite_logs(logs) == THEIRS.rewrite_logs(logs)


def test_report_to(monkeypatch):
    find = integrations.get_reporting_integration_callbacks
    assert find(None) == find("none") == find(["none"]) == find([]) == []
    assert find("tensorboard") == find(["tensorboard", "tensorboard"]) == [integrations.TensorBoardCallback]
    assert find(("wandb", "mlflow")) == [integrations.WandbCallback, integrations.MLflowCallback]
    monkeypatch.setattr(available, "installed", lambda name: name in ("tensorboard", "wandb", "neptune"))
    monkeypatch.setattr(available, "comet_is_installed", lambda: False)
    assert integrations.get_available_reporting_integrations() == ["tensorboard", "wandb"]
    assert named_tools("all") == named_tools(["all"]) == ["tensorboard", "wandb"]
    with pytest.raises(InputError, match=r"report_to.*'tensorbord'.*Did you mean 'tensorboard'"):
        find("tensorbord")
    with pytest.raises(ValueError, match="3"):  # as the reference raises
        find(["wandb", 3])


@pytest.mark.parametrize("name", sorted(THEIRS.INTEGRATION_TO_CALLBACK))
def test_a_tool_that_is_missing_is_named(name, monkeypatch):
    monkeypatch.setattr(available, "installed", lambda name: False)
    monkeypatch.setattr(available.metadata, "version", lambda name: "1.0")
    one = integrations.INTEGRATION_TO_CALLBACK[name]
    with pytest.raises(MissingToolError) as caught:
        one()
    assert isinstance(caught.value, (ImportError, RuntimeError))  # both: scripts catch either
    assert one.title in str(caught.value)
    if name not in ("neptune", "kubeflow"):
        assert f"pip install {one.package}" in str(caught.value)


def test_nothing_is_imported_before_training_begins():
    job = (
        "import sys\nfrom omniform.integrations.integration_utils import INTEGRATION_TO_CALLBACK as all\n"
        "made = []\n"
        "for one in all.values():\n"
        "    try: made.append(one())\n"
        "    except RuntimeError: pass\n"
        "bad = {n.split('.')[0] for n in sys.modules} & {'tensorboard', 'wandb', 'mlflow', 'comet_ml', 'codecarbon', "
        "'rich', 'IPython', 'transformers', 'accelerate', 'optuna', 'ray'}\n"
        "assert not bad, bad\nassert made"
    )
    subprocess.run([sys.executable, "-c", job], check=True, timeout=300)


def test_hp_params():
    assert integrations.hp_params({"lr": 1}) == {"lr": 1}
    with pytest.raises(InputError, match="list"):
        integrations.hp_params([1])


@pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed")
def test_hp_params_of_optuna():
    import optuna

    trial = optuna.trial.FixedTrial({"lr": 0.5})
    trial.suggest_float("lr", 0, 1)
    assert integrations.hp_params(trial) == THEIRS.hp_params(trial) == {"lr": 0.5}


# -- values ------------------------------------------------------------------------------------------------------------

NUMBERS = [
    (torch.tensor(1.5), 1.5), (torch.tensor([[2]]), 2), (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    (torch.tensor(1.0, requires_grad=True), 1.0), (np.float32(0.25), 0.25), (np.int64(3), 3), (np.array([4.0]), 4.0),
    (np.float64(0.5), 0.5), (np.bool_(True), True), (True, True), (Fraction(1, 4), 0.25), (Decimal("0.5"), 0.5), (7, 7),
]  # fmt: skip


@pytest.mark.parametrize(("given", "found"), NUMBERS)
def test_numbers_in_disguise(given, found):
    number = values.number(given)
    assert number == found
    assert type(number) in (int, float, bool)


@pytest.mark.parametrize(
    "given",
    [None, "0.5", [1], (1,), {"a": 1}, torch.zeros(2), torch.zeros(0), torch.tensor(1j), torch.zeros(1, device="meta"),
     np.zeros(2), np.array("x"), np.array([None]), 1j, object()],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_number(given):
    assert values.number(given) is None


def test_what_is_not_a_number_is_one():
    assert np.isnan(values.number(torch.tensor(float("nan"))))
    assert values.number(np.float32("inf")) == float("inf")


def test_mappings_in_logs():
    logs = {"f1": {"cat": np.float32(1), 2: {"deep": torch.tensor(3)}}, "empty": {}, "note": "x", "matrix": [[1]]}
    found = values.sort(logs)
    assert found.numbers == {"f1/cat": 1, "f1/2/deep": 3}
    assert found.texts == {"note": "x"}
    assert found.others == {"matrix": [[1]]}


# -- trouble -----------------------------------------------------------------------------------------------------------


class Failing(Reporter):
    title, package = "Brittle", "brittle"

    def __init__(self, fails: tuple[str, ...], error: BaseException | None = None, slow: float = 0) -> None:
        super().__init__()
        self.fails, self.error, self.slow = fails, error or OSError("disk full"), slow
        self.asked: list[str] = []

    @classmethod
    def available(cls) -> bool:
        return True

    def _do(self, what: str) -> None:
        self.asked.append(what)
        if what in self.fails:
            time.sleep(self.slow)
            raise self.error

    def setup(self, args, state, model, **kw):
        self._do("setup")

    def report(self, args, state, logs):
        self._do("report")

    def report_prediction(self, args, state, metrics):
        self._do("predict")

    def keep(self, args, state):
        self._do("keep")

    def finish(self, args, state, model, processing_class):
        self._do("finish")


@pytest.mark.parametrize("error", [OSError("disk full"), ConnectionError("no network"), SystemExit(1), KeyError("bug")])
@pytest.mark.parametrize("what", ["setup", "report", "keep", "finish", "predict"])
def test_what_fails_is_said_once_and_stops_nothing(what, error, tmp_path, said):
    callback = Failing((what,), error)
    Played(callback, tmp_path).everything()
    (message,) = said
    assert "Brittle" in message
    assert type(error).__name__ in message
    if what == "setup":
        assert callback.asked == ["setup"]  # and not again in this training
    else:
        assert callback.asked == ["setup", "report", "report", "keep", "report", "report", "finish", "predict"]
    said.clear()
    Played(callback, tmp_path).training()
    assert callback.asked.count("setup") == (2 if what == "setup" else 1)
    assert len(said) == (what != "predict")


def test_a_tool_that_fails_slowly_costs_a_twentieth(tmp_path, said):
    callback = Failing(("report",), slow=0.05)
    played = Played(callback, tmp_path)
    played.tell("on_train_begin")
    began = time.monotonic()
    for step in range(1000):
        played.log(step, {"loss": 1.0})
    assert callback.asked.count("report") <= 1 + (time.monotonic() - began) / (20 * 0.05)
    assert len(said) == 1
    played.tell("on_train_end")
    assert callback.asked[-1] == "finish"  # what was written before is kept


def test_interrupting_a_training_is_no_trouble(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Played(Failing(("report",), KeyboardInterrupt()), tmp_path).training()


def test_only_the_main_process_reports(tmp_path):
    callback = Failing(())
    Played(callback, tmp_path, state=begun(is_world_process_zero=False)).everything()
    assert not callback.asked


def test_a_training_that_breaks_off_lets_go(tmp_path):
    from omniform.train.callbacks import CallbackHandler, DefaultFlowCallback

    class Closing(Failing):
        def break_off(self) -> None:
            self._do("break_off")

    for fails in ((), ("break_off",)):
        callback = Closing(fails)
        Played(callback, tmp_path).tell("on_train_begin")
        CallbackHandler([DefaultFlowCallback(), callback], None, None, None, None).abandon()
        assert callback.asked == ["setup", "break_off"]


def test_a_subclass_may_change_the_beginning(tmp_path):
    class Mine(Failing):
        def setup(self, args, state, model):
            super().setup(args, state, model)
            self.model = model

    callback = Mine(())
    played = Played(callback, tmp_path)
    played.tell("on_log", logs={"loss": 1.0})  # a lone evaluation begins a run, too
    assert callback.model is played.model
    assert callback.asked == ["setup", "report"]


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def events(folder: Path) -> tuple[dict, dict]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    tags = read.Tags()
    curves = {tag: [(point.step, point.value) for point in read.Scalars(tag)] for tag in tags["scalars"]}
    texts = {tag: [b"".join(one.tensor_proto.string_val) for one in read.Tensors(tag)] for tag in tags["tensors"]}
    return curves, texts


@needs["tensorboard"]
def test_tensorboard_reads_what_the_reference_writes(tmp_path):
    model, found = tiny(), []
    for one in both("tensorboard"):
        Played(one(), tmp_path, model).training()
        (folder,) = (tmp_path / "run" / "runs").iterdir()
        found.append(events(folder))
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert found[0] == found[1]
    curves, texts = found[0]
    assert curves["train/loss"] == [(2, 0.5), (4, 0.25)]
    assert {"eval/accuracy", "train/epoch", "train/train_loss"} <= curves.keys()
    assert {"args/text_summary", "model_config/text_summary"} == texts.keys()


@needs["tensorboard"]
def test_tensorboard_takes_what_users_log(tmp_path, monkeypatch, said):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "here"))
    logs = {"loss": torch.tensor(0.5), "eval_f1": {"cat": np.float32(0.25)}, "note": "text", "nan": float("nan"),
            "matrix": [[1]], "none": None}  # fmt: skip
    played = Played(integrations.TensorBoardCallback(), tmp_path, Plain())
    played.training([(1, logs), (2, logs)])
    curves, texts = events(tmp_path / "here")
    assert curves["train/loss"] == [(1, 0.5), (2, 0.5)]
    assert curves["eval/f1/cat"] == [(1, 0.25), (2, 0.25)]
    assert np.isnan(curves["train/nan"][0][1])
    assert texts["train/note/text_summary"] == [b"text", b"text"]
    assert "model_config/text_summary" not in texts
    (message,) = said  # once, and both in it
    assert "'train/matrix' (list)" in message
    assert "'train/none' (NoneType)" in message


@needs["tensorboard"]
def test_tensorboard_after_training_and_in_a_search(tmp_path):
    callback = integrations.TensorBoardCallback()
    played = Played(callback, tmp_path)
    played.training()
    assert callback.tb_writer is None
    played.log(4, {"eval_loss": 0.125})  # trainer.evaluate() afterwards
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    assert events(folder)[0]["eval/loss"] == [(2, pytest.approx(0.4)), (4, 0.125)]
    Played(callback, tmp_path, state=begun(is_hyper_param_search=True, trial_name="trial-7")).training()
    assert Path(callback.logging_dir).name == "trial-7"
    assert events(Path(callback.logging_dir))[0]["train/loss"]


@needs["tensorboard"]
def test_tensorboard_with_a_writer_of_ones_own_and_pickled(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    callback = integrations.TensorBoardCallback(SummaryWriter(tmp_path / "own"))
    played = Played(callback, tmp_path)
    played.tell("on_train_begin")
    copy = pickle.loads(pickle.dumps(callback))
    assert copy.tb_writer is None
    played.tell("on_train_end")
    assert "args/text_summary" in events(tmp_path / "own")[1]


@needs["tensorboard"]
def test_tensorboard_on_a_full_disk(tmp_path, monkeypatch, said):
    from torch.utils.tensorboard import SummaryWriter

    def full(*args, **kw):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "flush", full)
    Played(integrations.TensorBoardCallback(), tmp_path).training()
    (message,) = said
    assert "TensorBoard" in message
    assert "No space left" in message


# -- MLflow ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    found = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    found.set_tracking_uri(f"file:{tmp_path / 'store'}")
    yield found
    while found.active_run() is not None:
        found.end_run()
    found.set_experiment("Default")
    found.set_tracking_uri(None)


def runs(mlflow, experiment="0"):
    mlflow.flush_async_logging()
    client = mlflow.MlflowClient()
    told = []
    for run in client.search_runs([experiment], order_by=["attributes.start_time"]):
        names = sorted(run.data.metrics)
        metrics = {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in names
        }
        told.append((run.info.run_name, run.info.status, metrics, run.data.params))
    return told


@needs["mlflow"]
@pytest.mark.parametrize(
    "env", [{}, {"MLFLOW_FLATTEN_PARAMS": "1", "MLFLOW_MAX_LOG_PARAMS": "120", "MLFLOW_TAGS": '{"a": "b"}'}]
)
def test_mlflow_reads_what_the_reference_writes(mlflow, tmp_path, monkeypatch, env):
    model = tiny()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mlflow, "__version__", "2.7.0")  # the reference's own writes in the background race with reads
    for one in both("mlflow"):
        Played(one(), tmp_path, model).training()
    ours, theirs = runs(mlflow)
    assert ours == theirs
    assert ours[:2] == ("mine", "FINISHED")
    assert ours[2]["loss"] == [(2, 0.5), (4, 0.25)]
    assert ours[3]["hidden_size"] == "8"
    if env:
        assert len(ours[3]) == 120
        assert "id2label.0" in ours[3]
        assert {run.data.tags.get("a") for run in mlflow.MlflowClient().search_runs(["0"])} == {"b"}


@needs["mlflow"]
def test_mlflow_runs(mlflow, tmp_path, monkeypatch, said):
    callback = integrations.MLflowCallback()
    played = Played(callback, tmp_path)
    played.training()
    played.log(4, {"eval_loss": 0.125})  # into the run that has ended, not into a new one
    mlflow.flush_async_logging()
    assert len(runs(mlflow)) == 1
    assert runs(mlflow)[0][2]["eval_loss"] == [(2, 0.4), (4, 0.125)]
    Played(callback, tmp_path, learning_rate=1.0).training()
    assert [run[3]["learning_rate"] for run in runs(mlflow)] == ["5e-05", "1.0"]
    # A run of the user's is used and left open; a nested one is begun if that is asked for.
    with mlflow.start_run(run_name="outer") as outer:
        Played(integrations.MLflowCallback(), tmp_path).training()
        assert mlflow.active_run().info.run_id == outer.info.run_id
        monkeypatch.setenv("MLFLOW_NESTED_RUN", "TRUE")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
        Played(integrations.MLflowCallback(), tmp_path).training()
        assert mlflow.active_run().info.run_id == outer.info.run_id
    elsewhere = mlflow.get_experiment_by_name("elsewhere").experiment_id
    assert runs(mlflow)[2][0] == "outer"
    assert len(runs(mlflow)) == 3
    assert len(runs(mlflow, elsewhere)) == 1
    assert not said


@needs["mlflow"]
def test_mlflow_goes_on_with_a_run_and_keeps_checkpoints(mlflow, tmp_path, monkeypatch, said):
    with mlflow.start_run() as old:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", old.info.run_id)
    monkeypatch.setenv("HF_MLFLOW_LOG_ARTIFACTS", "1")
    model = tiny()
    model.config.long = "x" * 7000
    logs = {"loss": torch.tensor(0.5), "f1(x)": 1, "eval_f1": {"cat": np.float32(0.5)}, "note": "text"}
    Played(integrations.MLflowCallback(), tmp_path, model).training([(1, logs), (2, {**logs, "eval_loss": 1.0})])
    (run,) = runs(mlflow)
    assert run[2] == {"loss": [(1, 0.5), (2, 0.5)], "f1_x_": [(1, 1), (2, 1)], "eval_f1/cat": [(1, 0.5), (2, 0.5)],
                      "eval_loss": [(2, 1.0)]}  # fmt: skip
    assert "long" not in run[3]
    kept = mlflow.artifacts.list_artifacts(run_id=old.info.run_id, artifact_path="checkpoint-2")
    assert [one.path for one in kept] == ["checkpoint-2/weights"]
    assert ["'long' (str)" in message for message in said] == [True, False]
    assert "'note' (str)" in said[1]


@needs["mlflow"]
def test_mlflow_after_a_training_that_broke_off(mlflow, tmp_path):
    callback = integrations.MLflowCallback()
    played = Played(callback, tmp_path)
    for _ in range(2):
        played.tell("on_train_begin")
        assert mlflow.active_run().info.run_id == callback._run
        callback.abandon()
        assert mlflow.active_run() is None
    assert [run[1] for run in runs(mlflow)] == ["FAILED", "FAILED"]
    played.tell("on_train_begin")
    callback.__del__()  # by name: Comet, where it is installed, holds on to what MLflow is told
    assert mlflow.active_run() is None


# -- Weights & Biases --------------------------------------------------------------------------------------------------


def records(file: Path):
    """W&B's offline file: records in blocks of 32768 bytes, as LevelDB's logs are."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record.WhichOneof("record_type"), record


def items(found) -> dict:
    told = {"/".join(one.nested_key) or one.key: json.loads(one.value_json or "null") for one in found}
    return {name: value for name, value in told.items() if not name.startswith("_")}


def told_to_wandb(folder: Path) -> list[dict]:
    """All runs, in the order in which they ended."""
    import wandb

    wandb.teardown()  # only then is all of it on the disk
    files = sorted(folder.glob("wandb/offline-run*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    return [told_of(file) for file in files]


def told_of(file: Path) -> dict:
    found = {"curves": [], "config": {}, "summary": {}, "run": None, "kept": [], "axes": []}
    for kind, record in records(file):
        if kind == "history":
            found["curves"].append(items(record.history.item))
        elif kind == "config":
            found["config"] |= items(record.config.update)
        elif kind == "summary":
            found["summary"] |= items(record.summary.update)
        elif kind == "run":
            found["run"] = record.run.project, record.run.display_name, record.run.run_group
        elif kind == "metric":
            found["axes"].append((record.metric.name, record.metric.glob_name, record.metric.step_metric))
        elif kind == "artifact":
            files = {one.path for one in record.artifact.manifest.contents}
            facts = sorted(json.loads(record.artifact.metadata or "{}"))
            found["kept"].append((sorted(record.artifact.aliases), files, facts))
    return found


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    found = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off", "DISABLE_GIT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")
    yield found
    found.finish()
    found.teardown()


@needs["wandb"]
def test_wandb_reads_what_the_reference_writes(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    for one in both("wandb"):
        Played(one(), tmp_path, tiny()).everything()
        wandb.finish()
    ours, theirs = told_to_wandb(tmp_path)
    assert ours == theirs
    assert ours["run"] == ("huggingface", "mine", "")
    assert ours["curves"][0] == {**{f"train/{k}": v for k, v in HISTORY[0][1].items()}, "train/global_step": 2}
    assert ours["summary"]["train_loss"] == 0.375
    assert ours["config"]["hidden_size"] == 8
    assert [sorted(files) for _, files, _ in ours["kept"]] == [
        ["model_architecture.txt"], ["weights"],
        ["config.json", "model.safetensors", "model_architecture.txt", "training_args.bin"],
    ]  # fmt: skip


@needs["wandb"]
def test_wandb_trials_and_what_users_log(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "own")
    monkeypatch.setenv("WANDB_WATCH", "gradients")
    callback = integrations.WandbCallback()
    for trial in ("a", "b"):
        table = wandb.Table(["a"], [[1]])
        logs = {"loss": torch.tensor(0.5), "eval_f1": {"cat": np.float32(0.25)}, "note": "x", "table": table}
        state = begun(is_hyper_param_search=True, trial_name=trial)
        Played(callback, tmp_path, Plain(), state=state).training([(1, logs)])
    wandb.finish()
    for trial, found in zip(("a", "b"), told_to_wandb(tmp_path), strict=True):
        assert found["run"] == ("own", trial, "mine")
        (curves,) = found["curves"]
        assert (curves["train/loss"], curves["train/note"]) == (0.5, "x")
        assert curves.get("eval/f1", {}).get("cat", curves.get("eval/f1/cat")) == 0.25
        assert found["config"]["model/num_parameters"] == 3


@needs["wandb"]
def test_wandb_with_a_run_of_ones_own(wandb, tmp_path):
    class Mine(integrations.WandbCallback):
        def setup(self, args, state, model, **kw):
            super().setup(args, state, model, **kw)
            self._wandb.config.update({"mine": 1})

    run = wandb.init(project="before")
    Played(Mine(), tmp_path).training()
    assert wandb.run is run
    wandb.finish()
    (found,) = told_to_wandb(tmp_path)
    assert found["run"][0] == "before"
    assert found["config"]["mine"] == 1
    assert len(found["curves"]) == 4


def test_wandb_log_model(said):
    kinds = integrations.WandbLogModel
    for value in ("checkpoint", "end", "false"):
        assert kinds(value).value == THEIRS.WandbLogModel(value).value
        assert kinds(value).is_enabled == THEIRS.WandbLogModel(value).is_enabled
    assert kinds("whatever") is kinds.FALSE
    assert "'whatever'" in str(said)
    with pytest.raises(TypeError):
        kinds(1)


# -- Comet and CodeCarbon ----------------------------------------------------------------------------------------------


def told_to_comet(folder: Path) -> list[dict]:
    (file,) = folder.glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        lines = archive.read("messages.json").decode().splitlines()
    found = []
    for message in map(json.loads, lines):
        payload = message["payload"]
        if message["type"] in ("metric_msg", "parameter_msg", "graph"):
            # Lists are ``params``, the model's diagram is ``graph``.
            (key,) = payload.keys() & {"metric", "param", "params", "graph"}
            told = payload[key] if isinstance(payload[key], dict) else {"graph": payload[key]}
            name = str(told.get("metricName") or told.get("paramName") or "graph")
            if not name.startswith(("sys.", "run_arg", "process")) and "output_dir" not in name:
                found.append(told)
    return sorted(found, key=repr)


@needs["comet_ml"]
def test_comet_reads_what_the_reference_writes(tmp_path, monkeypatch):
    for name, value in {"START_ONLINE": "0", "OFFLINE_DIRECTORY": ".", "LOGGING_CONSOLE": "ERROR"}.items():
        monkeypatch.setenv(f"COMET_{name}", value)
    model, found = tiny(), []
    for one in both("comet_ml"):
        (tmp_path / one.__module__).mkdir()
        monkeypatch.chdir(tmp_path / one.__module__)
        callback = one()
        Played(callback, tmp_path, model).everything()
        callback._experiment.end()
        found.append(told_to_comet(Path.cwd()))
    assert found[0] == found[1]
    told = {one.get("metricName"): one for one in found[0]}
    assert told["eval/loss"]["metricValue"] == 0.4
    assert told["test/f1"]["metricValue"] == 0.9


@needs["comet_ml"]
def test_comet_in_a_mode_that_is_none(tmp_path, monkeypatch, said):
    monkeypatch.setenv("COMET_MODE", "creat")
    Played(integrations.CometCallback(), tmp_path).training()
    (message,) = said
    assert "COMET_MODE" in message
    assert "create" in message


@needs["codecarbon"]
def test_codecarbon_writes_its_file(tmp_path, monkeypatch):
    import codecarbon

    # The tool asks the network where it is; its offline twin is told.
    monkeypatch.setattr(
        codecarbon, "EmissionsTracker", lambda output_dir: codecarbon.OfflineEmissionsTracker(
            output_dir=output_dir, country_iso_code="FRA", measure_power_secs=60, force_mode_cpu_load=False,
            allow_multiple_runs=True, force_cpu_power=10, force_ram_power=5,
        )
    )  # fmt: skip
    callback = integrations.CodeCarbonCallback()
    state = begun(is_world_process_zero=False)  # the first process of another machine
    Played(callback, tmp_path, state=state).training()
    Played(callback, tmp_path, state=state).training()
    head, *rows = (tmp_path / "run" / "emissions.csv").read_text().splitlines()
    assert "emissions" in head
    assert len(rows) == 2
    assert callback.tracker.final_emissions > 0


# -- tools that are not installed here: the same calls as the reference's ----------------------------------------------


def calls(name: str, which: int, monkeypatch, tmp_path, packages=(), gives=None, **args) -> list:
    noted: list = []
    for package in (name, *packages):
        monkeypatch.setitem(sys.modules, package, FakeTool(package, noted, gives or {}))
    if name == "dvclive":  # users' own are told by their class
        live = type("Live", (Noted,), {"__init__": lambda self: Noted.__init__(self, "dvclive.Live", noted, {})})
        sys.modules[name].Live = live
    key = {"azureml": "azure_ml", "flytekit": "flyte"}.get(name, name)
    callback = both(key)[which]()
    noted.clear()
    Played(callback, tmp_path, MODEL, **args).everything()
    return noted


MODEL = tiny()


@pytest.mark.parametrize("env", [{}, {"SWANLAB_PROJECT": "p", "SWANLAB_RUN_ID": "7", "SWANLAB_RESUME": "must"}])
def test_swanlab_is_called_as_the_reference_does(env, monkeypatch, tmp_path):
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    ours, theirs = (calls("swanlab", which, monkeypatch, tmp_path, gives={"swanlab.get_run": None}) for which in (0, 1))
    assert [one for one in ours if one[0] == "swanlab.init"] == [one for one in theirs if one[0] == "swanlab.init"]
    assert logged(ours, "swanlab.log") == logged(theirs, "swanlab.log")
    assert logged(ours, "swanlab.config.update") == logged(theirs, "swanlab.config.update")


def logged(noted: list, name: str) -> dict:
    """All that a function was told, whether at once or one by one, by step."""
    found: dict = {}
    for _, (told, *_), kw in (one for one in noted if one[0] == name):
        found.setdefault(kw.get("step"), {}).update(told)
    return found


def test_trackio_is_called_as_the_reference_does(monkeypatch, tmp_path):
    gives = {"trackio.context_vars.current_space_id.get": None}
    ours, theirs = (calls("trackio", which, monkeypatch, tmp_path, gives=gives, project="p") for which in (0, 1))
    assert ours == theirs
    assert [one[0] for one in ours][:2] == ["trackio.init", "trackio.context_vars.current_space_id.get"]


def test_trackio_makes_a_space_that_stands_still(monkeypatch, tmp_path):
    gives = {"trackio.context_vars.current_space_id.get": "me/space", "trackio.freeze": "me/still"}
    found = [
        [one for one in calls("trackio", which, monkeypatch, tmp_path, gives=gives, trackio_static_space_id="me/still")
         if one[0] == "trackio.freeze"] for which in (0, 1)
    ]  # fmt: skip
    assert found[0] == found[1] != []


@pytest.mark.parametrize("keeps", ["", "all"])
def test_dvclive_is_called_as_the_reference_does(keeps, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DVCLIVE_LOG_MODEL", keeps)
    gives = {"dvclive.utils.standardize_metric_name": lambda name, framework: f"{framework}/{name}",
             "dvclive.plots.Metric.could_log": True}  # fmt: skip
    packages = ("dvclive.utils", "dvclive.plots")
    found = [calls("dvclive", which, monkeypatch, tmp_path, packages, gives) for which in (0, 1)]
    ours, theirs = ([one for one in noted if one[0].startswith("dvclive.Live")] for noted in found)
    assert ours == theirs
    assert ("dvclive.Live.log_metric", ("dvclive.huggingface/loss", 0.5), {}) in ours


def test_clearml_is_called_as_the_reference_does(monkeypatch, tmp_path):
    gives = {"clearml.Task.current_task": None, "clearml.Task.running_locally": True,
             "clearml.utilities.proxy_object.flatten_dictionary": {"a": 1}}  # fmt: skip
    monkeypatch.setenv("CLEARML_LOG_MODEL", "TRUE")
    found = [calls("clearml", which, monkeypatch, tmp_path, gives=gives) for which in (0, 1)]
    kinds = (
        "report_scalar",
        "report_single_value",
        "set_configuration_object",
        "Task.init",
        "weights_package",
        "close",
    )
    ours, theirs = ([one for one in noted if one[0].endswith(kinds)] for noted in found)
    assert ours == theirs
    assert len(ours) > 15


def test_azure_and_flyte_are_called_as_the_reference_does(monkeypatch, tmp_path):
    packages = ("azureml.core", "azureml.core.run")
    ours, theirs = (calls("azureml", which, monkeypatch, tmp_path, packages) for which in (0, 1))
    assert ours == theirs
    assert ours[1][1:] == (("loss", 0.5), {"description": "loss"})
    packages = ("flytekitplugins", "flytekitplugins.deck", "flytekitplugins.deck.renderer")
    found = [calls("flytekit", which, monkeypatch, tmp_path, packages) for which in (0, 1)]
    ours, theirs = ([one for one in noted if "save" in one[0]] for noted in found)
    assert [one[1] for one in ours] == [one[1] for one in theirs] == [(str(tmp_path / "run" / "checkpoint-2"),)]


def test_dagshub_needs_an_address(monkeypatch, tmp_path, said):
    noted: list = []
    for package in ("dagshub", "dagshub.upload", "mlflow", "mlflow.utils", "mlflow.utils.validation"):
        monkeypatch.setitem(sys.modules, package, FakeTool(package, noted, {}))
    monkeypatch.setitem(sys.modules["mlflow.utils.validation"].__dict__, "MAX_PARAM_VAL_LENGTH", 500)
    monkeypatch.setitem(sys.modules["mlflow.utils.validation"].__dict__, "MAX_PARAMS_TAGS_PER_BATCH", 100)
    Played(integrations.DagsHubCallback(), tmp_path).training()
    assert "MLFLOW_TRACKING_URI" in str(said)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://dagshub.com/me/repo.mlflow")
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    Played(integrations.DagsHubCallback(), tmp_path).training()
    assert ("dagshub.upload.Repo", (), {"owner": "me", "name": "repo", "branch": "main"}) in noted
    assert noted[-1][1] == (str(tmp_path / "run"),)


def test_kubeflow_tells_the_controller(monkeypatch, tmp_path):
    told: list = []

    class Controller(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["trainerStatus"]
            told.append((self.headers["Authorization"], {k: v for k, v in body.items() if k != "lastUpdatedTime"}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Controller) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "token").write_text("secret\n")
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
        for one in both("kubeflow"):
            Played(one(), tmp_path, MODEL).training()
        ours, theirs = told[: len(told) // 2], told[len(told) // 2 :]
        assert ours == theirs
        assert [message["progressPercentage"] for _, message in ours] == [0, 100]
        assert ours[0][0] == "Bearer secret"
        told.clear()
        monkeypatch.setattr(integrations.KubeflowCallback, "EVERY", 0)
        played = Played(integrations.KubeflowCallback(), tmp_path, MODEL)
        played.tell("on_train_begin")
        played.state.global_step = 2
        played.tell("on_step_end")
        assert told[1][1]["progressPercentage"] == 50
        assert {"name": "current_step", "value": "2"} in told[1][1]["metrics"]
        server.shutdown()


# -- with a trainer ----------------------------------------------------------------------------------------------------


@needs["tensorboard"]
def test_the_trainer_reports_to_what_is_named(tmp_path, capsys, monkeypatch):
    kind = KINDS["bert"]
    folder, rows = kind.save(tmp_path / "model"), kind.rows(8)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    args = tiny_arguments(tmp_path, max_steps=4, report_to="tensorboard", disable_tqdm=False)
    trainer = omniform.Trainer(kind.ours(folder), args, train_dataset=rows)
    first, second, *_, last = [type(one) for one in trainer.callback_handler.callbacks]
    assert (first, second) == (omniform.DefaultFlowCallback, integrations.TensorBoardCallback)
    assert last is omniform.ProgressCallback
    trainer.train()
    curves, texts = events(tmp_path / "logs")
    losses = [(one["step"], pytest.approx(one["loss"])) for one in trainer.state.log_history if "loss" in one]
    assert curves["train/loss"] == losses
    assert json.loads(texts["args/text_summary"][0])["max_steps"] == 4
    assert json.loads(texts["model_config/text_summary"][0])["model_type"] == "bert"
    assert trainer.state.tokens_read == 4 * 2 * 10
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) == 5  # four steps and the whole
    trainer.remove_callback(omniform.ProgressCallback)
    assert omniform.ProgressCallback not in map(type, trainer.callback_handler.callbacks)


def test_a_trainer_names_a_tool_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(available, "installed", lambda name: False)
    kind = KINDS["bert"]
    model = kind.ours(kind.save(tmp_path / "model"))
    with pytest.raises(MissingToolError, match="pip install swanlab"):
        omniform.Trainer(model, tiny_arguments(tmp_path, report_to=["swanlab"]), train_dataset=kind.rows(2))
    quiet = omniform.Trainer(model, tiny_arguments(tmp_path), train_dataset=kind.rows(2))
    assert type(quiet.callback_handler.callbacks[-1]) is omniform.PrinterCallback
    assert not any(isinstance(one, Reporter) for one in quiet.callback_handler.callbacks)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://localhost:1")
    assert tiny_arguments(tmp_path).report_to == ["kubeflow"]


def test_a_trainer_that_breaks_off_tells_its_callbacks(tmp_path):
    class Letting(omniform.TrainerCallback):
        gone = 0

        def on_step_end(self, args, state, control, **kw):
            raise RuntimeError("broke off")

        def abandon(self):
            self.gone += 1

    kind, callback = KINDS["bert"], Letting()
    trainer = omniform.Trainer(
        kind.ours(kind.save(tmp_path / "model")), tiny_arguments(tmp_path, max_steps=2), train_dataset=kind.rows(2),
        callbacks=[callback],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="broke off"):
        trainer.train()
    assert callback.gone == 1
