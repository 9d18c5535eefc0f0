"""The command line: answers on stdout, mistakes in one line on stderr with code 2."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from checkpoints import picture_checkpoint, text_checkpoint
from omniform.cli.main import main
from reference import omniform


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return str(text_checkpoint(tmp_path_factory.mktemp("text")))


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return str(text_checkpoint(tmp_path_factory.mktemp("chat"), chat=True))


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return str(picture_checkpoint(tmp_path_factory.mktemp("seeing")))


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (13, 9), (200, 40, 10)).save(tmp_path / "p.png")
    return str(tmp_path / "p.png")


def omni(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def shell(*arguments: str, stdin: str | bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "omniform", *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=300,
    )


def expected(folder: str, prompt: str, new: int = 8) -> str:
    tokenizer = omniform.AutoTokenizer.from_pretrained(folder)
    model = omniform.AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(text=prompt, return_tensors="pt")["input_ids"]
    answer = model.generate(input_ids=ids, max_new_tokens=new)[0, ids.shape[1] :]
    return tokenizer.decode(answer, skip_special_tokens=True).strip()


# -- run -------------------------------------------------------------------------------------------------------------


def test_an_answer(capsys, text):
    code, out, err = omni(capsys, "run", "--model", text, "--text", "hello", "--max-new-tokens", "8")
    assert (code, err) == (0, "")
    assert out.strip() == expected(text, "hello") and out.endswith("\n") and out.strip()


def test_an_answer_through_the_chat_template(capsys, chat):
    code, out, _ = omni(capsys, "run", "-m", chat, "-t", "hello", "--max-new-tokens", "8")
    assert code == 0 and out.strip() == expected(chat, "user: hello answer:")


def test_json(capsys, text):
    code, out, err = omni(capsys, "run", "-m", text, "-t", "hello", "--json", "--max-new-tokens", "8")
    record = json.loads(out)
    assert (code, err) == (0, "") and out.count("\n") == 1
    assert record["answer"] == expected(text, "hello")
    assert record["model"] == text and record["architecture"] == "LlamaForCausalLM"
    assert record["tokens"]["prompt"] == 5 and 1 <= record["tokens"]["answer"] <= 8
    timings = record["timings"]
    assert set(timings) == {"load_s", "prepare_s", "first_token_s", "total_s", "tokens_per_s"}
    assert 0 < timings["prepare_s"] <= timings["first_token_s"] <= timings["total_s"] < 30


def test_drawing_with_a_seed(capsys, text):
    def draw(seed: str) -> str:
        options = (
            "--temperature",
            "1.5",
            "--top-p",
            "0.95",
            "--top-k",
            "100",
            "--seed",
            seed,
            "--max-new-tokens",
            "12",
        )
        code, out, err = omni(capsys, "run", "-m", text, "-t", "hello", *options)
        assert (code, err) == (0, "")
        return out

    assert draw("3") == draw("3") != draw("4")


GUIDES = {
    "schema.json": ("--schema", '{"enum": ["yes", "no"]}', {'"yes"', '"no"'}),
    "same.json": ("--guide", '\n {"enum": ["yes", "no"]}\n', {'"yes"', '"no"'}),
    "words.txt": ("--guide", "(yes|no)!\n", {"yes!", "no!"}),
    "words.lark": ("--guide", 'start: "yes" | "no"\n', {"yes", "no"}),
}


@pytest.mark.parametrize("name", GUIDES)
def test_answers_of_a_form(capsys, text, tmp_path, name):
    option, content, answers = GUIDES[name]
    (tmp_path / name).write_text(content)
    code, out, err = omni(capsys, "run", "-m", text, "-t", "hello", option, str(tmp_path / name))
    assert (code, err) == (0, "") and out.strip() in answers


def test_forms_that_are_none(capsys, text, tmp_path):
    (tmp_path / "a").write_text("(a")
    run = ["run", "-m", text, "-t", "hello"]
    check_complaint(*omni(capsys, *run, "--guide", str(tmp_path / "a")), "unclosed group")
    check_complaint(*omni(capsys, *run, "--schema", str(tmp_path / "a")), "JSON")
    check_complaint(*omni(capsys, *run, "--schema", "/no/such.json"), "/no/such.json")
    check_complaint(*omni(capsys, *run, "--schema", "a", "--guide", "a"), "--schema and --guide")


def test_pictures(capsys, seeing, picture):
    ask = ("run", "-m", seeing, "-t", "what?", "--max-new-tokens", "4", "--json")
    answers = []
    for pictures in ((picture,), (picture, picture)):
        code, out, err = omni(capsys, *ask, *(a for p in pictures for a in ("--image", p)))
        assert (code, err) == (0, ""), err
        answers.append(json.loads(out)["tokens"]["prompt"])
    assert answers[1] - answers[0] == 4  # as many placeholders as a picture has patches
    code, out, err = omni(capsys, *ask)  # no picture at all
    assert (code, err) == (0, ""), err


@pytest.mark.parametrize("arguments", [[], ["--text", "-"]])
def test_standard_input(capsys, monkeypatch, text, arguments):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    code, out, err = omni(capsys, "run", "-m", text, "--max-new-tokens", "8", *arguments)
    assert (code, err) == (0, "") and out.strip() == expected(text, "hello")


def test_as_a_command(text):
    done = shell("run", "-m", text, "--max-new-tokens", "8", stdin="hello")
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.decode().strip() == expected(text, "hello")


def test_dtypes(capsys, text):
    code, out, _ = omni(capsys, "run", "-m", text, "-t", "a", "--dtype", "bfloat16", "--json", "--max-new-tokens", "2")
    assert code == 0 and json.loads(out)["tokens"]["answer"] <= 2


def damaged(folder: str, tmp_path: Path, name: str, content: bytes) -> str:
    for path in Path(folder).iterdir():
        (tmp_path / path.name).write_bytes(content if path.name == name else path.read_bytes())
    return str(tmp_path)


BAD_MODELS = {
    "not JSON": ("config.json", b"{"),
    "unknown family": ("config.json", b'{"model_type": "lama"}'),
    "no family": ("config.json", b"{}"),
    "unsupported": ("config.json", b'{"model_type": "llama", "hidden_act": "gelo"}'),
    "cut weights": ("model.safetensors", b"\x08\0\0\0"),
    "absurd header": ("model.safetensors", b"\xff" * 40),
    "tokenizer": ("tokenizer.json", b'{"version": '),
    "tokenizer settings": ("tokenizer_config.json", b"[]"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models(capsys, text, tmp_path, kind):
    folder = damaged(text, tmp_path, *BAD_MODELS[kind])
    check_complaint(*omni(capsys, "run", "-m", folder, "-t", "hello"))


def check_complaint(code: int, out: str, err: str, says: str = "") -> None:
    assert code == 2 and out == ""
    assert err.startswith("omniform: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "Traceback" not in err and says in err, err


MISTAKES = {
    "unknown option": (["run", "--txet", "hi"], "--txet"),
    "unknown command": (["rnu"], "rnu"),
    "no such picture": (["run", "-t", "hi", "--image", "/no/such.png"], "/no/such.png"),
    "no such sound": (["run", "--audio", "/no/such.wav"], "/no/such.wav"),
    "a sound that is a folder": (["run", "--audio", "."], "no file; found a folder"),
    "a picture's name that is too long": (["run", "-t", "hi", "--image", "x" * 5000], "no such file"),
    "somebody else's home": (["run", "-t", "hi", "--image", "~nobody-at-all/a.png"], "~nobody-at-all/a.png"),
    "no such model": (["run", "-t", "hi", "-m", "/no/such/model"], "/no/such/model"),
    "not cached": (["run", "-t", "hi", "-m", "nobody/nothing"], "nobody/nothing"),
    "a number that is none": (["run", "-t", "hi", "--max-new-tokens", "many"], "many"),
    "inspect nothing": (["inspect"], "required"),
    "inspect no model": (["inspect", "/no/such/model"], "/no/such/model"),
    "plan no model": (["inspect", "/no/such/model", "--plan"], "/no/such/model"),
    "a plan's option without a plan": (["inspect", "x", "--tokens", "5"], "--plan"),
    "no bound": (["inspect", "x", "--plan", "--max-memory", "4GB"], "DEVICE=SIZE"),
    "a bound twice": (["inspect", "x", "--plan", "--max-memory", "0=1GB", "--max-memory", "0=2GB"], "twice"),
    "a count that is none": (["inspect", "x", "--plan", "--tokens", "many"], "many"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(capsys, name):
    arguments, says = MISTAKES[name]
    check_complaint(*omni(capsys, *arguments), says)


QUESTIONS = {
    "no question": ([], "no question"),
    "an empty question": (["-t", ""], "question"),
    "blank": (["-t", "  "], "question"),
    "a picture for a model that reads none": (["-t", "hi", "-i", "PICTURE"], "no pictures"),
    "no picture in the file": (["-t", "hi", "-i", "TEXT"], ""),
    "too long": (["-t", "hello " * 50], "64"),
    "no tokens": (["-t", "hi", "--max-new-tokens", "0"], "max_new_tokens"),
    "no temperature": (["-t", "hi", "--temperature", "-1"], "temperature"),
    "no probability": (["-t", "hi", "--top-p", "1.5"], "top_p"),
    "no seed": (["-t", "hi", "--seed", "-1"], "seed"),
    "no dtype": (["-t", "hi", "--dtype", "float61"], "float61"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_that_cannot_be_answered(capsys, monkeypatch, tmp_path, text, picture, name):
    arguments, says = QUESTIONS[name]
    (tmp_path / "t.png").write_text("no picture")
    arguments = [{"PICTURE": picture, "TEXT": str(tmp_path / "t.png")}.get(a, a) for a in arguments]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    check_complaint(*omni(capsys, "run", "-m", text, *arguments), says)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_pictures_that_are_none(capsys, seeing, tmp_path, content):
    (tmp_path / "p.png").write_bytes(content)
    check_complaint(*omni(capsys, "run", "-m", seeing, "-t", "hi", "-i", str(tmp_path / "p.png")), "p.png")


def test_mistakes_as_a_command(text):
    for arguments in (("run", "-m", "/no/such/model", "-t", "hi"), ("run", "--wrong"), ("run", "-m", text)):
        done = shell(*arguments)
        check_complaint(done.returncode, done.stdout.decode(), done.stderr.decode())
    done = shell("run", "-m", text, stdin=b"\xff\xfe\xff")
    check_complaint(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_reader_that_stops_reading(text):
    command = f"{sys.executable} -m omniform run -m {text} -t hello --max-new-tokens 40 | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=300)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr, done.stderr


def test_a_terminal_that_cannot_show_the_answer(text):
    done = subprocess.run(
        [sys.executable, "-m", "omniform", "run", "-m", text, "-t", "hello", "--max-new-tokens", "8"],
        capture_output=True, env={"PYTHONIOENCODING": "ascii", "HF_HUB_OFFLINE": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


def test_help(capsys):
    for arguments in (["--help"], ["run", "--help"], ["inspect", "--help"]):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 0 and "usage: omniform" in capsys.readouterr().out


# -- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect(capsys, text):
    code, out, err = omni(capsys, "inspect", text)
    model = omniform.AutoModelForCausalLM.from_pretrained(text)
    assert (code, err) == (0, "")
    for part in (
        "llama",
        "LlamaForCausalLM",
        f"{model.num_parameters():,}",
        "float32",
        "model.safetensors",
        "model.layers",
    ):
        assert part in out, out


def test_inspect_json(capsys, text):
    code, out, err = omni(capsys, "inspect", text, "--json")
    record, model = json.loads(out), omniform.AutoModelForCausalLM.from_pretrained(text)
    assert (code, err) == (0, "")
    assert record["parameters"] == model.num_parameters() and record["nbytes"] == model.get_memory_footprint()
    assert record["family"] == "llama" and record["dtypes"] == {"float32": record["nbytes"]}
    assert sum(part["parameters"] for part in record["parts"]) == record["parameters"]


def test_inspect_loads_nothing(capsys, text, monkeypatch):
    monkeypatch.setattr("omniform.hub.weights.map_tensors", lambda *_: pytest.fail("data was mapped"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("data was read"))
    assert omni(capsys, "inspect", text)[0] == 0


def test_inspect_a_picture_model(capsys, seeing):
    code, out, _ = omni(capsys, "inspect", seeing, "--json")
    record, model = json.loads(out), omniform.AutoModelForImageTextToText.from_pretrained(seeing)
    assert code == 0 and record["parameters"] == model.num_parameters()
    paths = {part["path"] for part in record["parts"]}
    assert any("vision_tower" in p for p in paths) and any("language_model" in p for p in paths), paths


def test_plan(capsys, text):
    model = omniform.AutoModelForCausalLM.from_pretrained(text)
    size = model.get_memory_footprint()
    bounds = ["--max-memory", f"cpu={size // 2}"]
    code, out, err = omni(capsys, "inspect", text, "--plan", *bounds, "--tokens", "100")
    assert (code, err) == (0, "")
    for part in ("LlamaForCausalLM", "100 tokens", "model.layers.", "disk", "causal flag", "Causal()", "room"):
        assert part in out, out
    code, out, _ = omni(capsys, "inspect", text, "--plan", *bounds, "--tokens", "100", "--json")
    record = json.loads(out)
    loaded = omniform.AutoModelForCausalLM.from_pretrained(text, device_map="auto", max_memory={"cpu": size // 2})
    assert code == 0 and record["device_map"] == dict(loaded.hf_device_map) and record["tokens"] == 100
    assert record["weights"] == size == sum(use["weights"] for use in record["uses"])


def test_plan_for_other_machines(capsys, text):
    code, out, _ = omni(
        capsys, "inspect", text, "--plan", "--max-memory", "7=1GiB", "--dtype", "bfloat16", "--rows", "3"
    )
    assert code == 0 and "not on this machine" in out and "3 rows" in out and "bfloat16" in out
    code, out, _ = omni(capsys, "inspect", text, "--plan", "--device-map", "cpu", "--json")
    assert code == 0 and json.loads(out)["device_map"] == {"": "cpu"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--dtype", "float33"], "float33"), (["--tokens", "0"], "tokens"), (["--device-map", "autos"], "autos"),
        (["--max-memory", "cpu=lots"], "lots"), (["--max-memory", "gpu=1GB"], "gpu"),
        (["--device-map", "cpu", "--max-memory", "cpu=1GB"], "max_memory"),
        (["--max-memory", "cpu=1000", "--dtype", "float16"], "offload_folder"),
    ],
)  # fmt: skip
def test_plans_that_are_none(capsys, text, options, says):
    check_complaint(*omni(capsys, "inspect", text, "--plan", *options), says)


# -- the options of writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--temprature", "1"], "Did you mean --temperature?"),
        (["run", "--max-new-token=3"], "Did you mean --max-new-tokens?"),
        (["run", "--modle", "x"], "Did you mean --model?"),
        (["inspect", "x", "--jsn"], "Did you mean --json?"),
        (["run", "--zzzz"], "no option '--zzzz'"),
        (["--versoin"], "Did you mean --version?"),
        (["run", "hello"], "unexpected argument 'hello'"),
        (["run", "--top-k", "many"], "expected a whole number from 0"),
        (["run", "-t", "hi", "--set", "top_k"], "NAME=VALUE"),
    ],
)
def test_options_that_are_none(capsys, arguments, says):
    check_complaint(*omni(capsys, *arguments), says)


def test_no_command_lists_all(capsys):
    status, out, err = omni(capsys)
    check_complaint(status, out, err, "there is no command")
    named = err.partition("expected ")[2].partition(".")[0].split(", ")
    assert {"run", "chat", "serve", "quantize"} <= set(named)
    for name in named:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0 and f"omniform {name}" in capsys.readouterr().out


def test_settings_come_from_the_table(capsys, text):
    plain = omni(capsys, "run", "-m", text, "-t", "hello", "--max-new-tokens", "8")
    for same in (
        ["--temperature", "0"], ["--set", "top_k=1", "--set", "do_sample=true"],
        ["--set", "cache_implementation=static"], ["--num-beams", "1"], ["--do-sample", "--top-k", "1"],
        ["--temperature", "0", "--top-p", "0.5"], ["--set", "do_sample=False"], ["--set", "top_k=None"],
        ["--top-k", "None", "--temperature", "null"], ["--set", "max_length=500"],
    ):  # fmt: skip
        assert omni(capsys, "run", "-m", text, "-t", "hello", "--max-new-tokens", "8", *same) == plain
    for wrong in ("--set=tmperature=1", "--set=language=de", "--set=dola_layers=middle"):
        check_complaint(*omni(capsys, "run", "-m", text, "-t", "hello", wrong), wrong.split("=")[1])


def test_lengths_are_the_user_s_or_the_checkpoint_s(capsys, text, tmp_path):
    for path in Path(text).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "generation_config.json"
    said = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**said, "max_new_tokens": 3, "eos_token_id": -1, "do_sample": True, "top_k": 1}))

    def written(*more: str) -> int:
        code, out, _ = omni(capsys, "run", "-m", str(tmp_path), "-t", "hello", "--json", *more)
        assert code == 0
        return int(json.loads(out)["tokens"]["answer"])

    prompt = json.loads(omni(capsys, "run", "-m", text, "-t", "hello", "--json")[1])["tokens"]["prompt"]
    assert written() == 3 and written("--max-new-tokens", "5") == 5
    assert written("--set", f"max_length={prompt + 4}") == 4


def test_who_answers_is_said_where_no_model_is_named(capsys):
    code, out, err = omni(
        capsys, "run", "-t", "What is this?", "-i", "examples/pictures/scene.png", "--max-new-tokens", "2"
    )
    assert (
        code == 0 and out.strip() and err == "omniform: no --model: scenes-llava answers, which comes with omniform\n"
    )


@pytest.mark.parametrize("to", ("int4", "nf4", "hqq-4"))
def test_weights_in_fewer_bits(capsys, text, to):
    code, out, err = omni(capsys, "run", "-m", text, "-t", "hello", "--quantize", to, "--max-new-tokens", "3", "--json")
    assert code == 0, err
    assert 0 < json.loads(out)["tokens"]["answer"] <= 3


@pytest.mark.parametrize(
    ("to", "said"), (("nf5", "--quantize: no such target"), ("gptq-4", "omniform quantize --data"))
)
def test_fewer_bits_that_cannot_be_had(capsys, text, to, said):
    code, out, err = omni(capsys, "run", "-m", text, "-t", "hello", "--quantize", to)
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1
