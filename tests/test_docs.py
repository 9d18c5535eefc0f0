"""The examples in README and CONTRIBUTING run as they stand.

The Hub ids in them are tiny checkpoints of the reference library here, laid into a cache folder as huggingface_hub
would have left them, so that the way through the cache is tested too.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reference import omniform, saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parent / "inputs"))

import test_tokenizers_folders as folders

ROOT = Path(__file__).parent.parent
REVISION = "0123456789abcdef0123456789abcdef01234567"

CHATML = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}"


def llama(folder: Path) -> None:
    size = len(folders.ours(folders.llama3(folder, chat_template=CHATML)))
    config = transformers.LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=2048,
    )  # fmt: skip
    saved_reference(transformers.LlamaForCausalLM, config, folder)


def detr(folder: Path) -> None:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone, d_model=32,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=5, num_labels=3,
    )  # fmt: skip
    saved_reference(transformers.DetrForObjectDetection, config, folder)
    transformers.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)


def clip(folder: Path) -> None:
    size = len(folders.ours(folders.clip(folder)))
    text = {"vocab_size": size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 4, "projection_dim": 16}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
              "image_size": 32, "patch_size": 8, "projection_dim": 16}  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    saved_reference(transformers.CLIPModel, config, folder)
    size_32 = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size_32).save_pretrained(folder)


def whisper(folder: Path) -> None:
    size = len(folders.ours(folders.whisper(folder)))
    config = transformers.WhisperConfig(
        vocab_size=size, num_mel_bins=80, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, decoder_start_token_id=1, pad_token_id=0,
        bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    saved_reference(transformers.WhisperForConditionalGeneration, config, folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)


def bert(folder: Path) -> None:
    size = len(folders.ours(folders.bert(folder)))
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    saved_reference(transformers.BertForMaskedLM, config, folder)


def seed_oss(folder: Path) -> None:
    config = transformers.SeedOssConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, attention_out_bias=True,
    )  # fmt: skip
    saved_reference(transformers.SeedOssForCausalLM, config, folder, scale=0.3)


TUTORIALS = (
    "own_config_and_model.md", "own_family.md", "own_feature_extractor.md", "own_image_processor.md", "own_pipeline.md",
    "own_processor.md",
)  # fmt: skip

HUB: dict[str, Callable[[Path], None]] = {
    "meta-llama/Llama-3.2-1B-Instruct": llama,
    "facebook/detr-resnet-50": detr,
    "openai/clip-vit-base-patch32": clip,
    "openai/whisper-tiny": whisper,
    "google-bert/bert-base-uncased": bert,
    "ByteDance-Seed/Seed-OSS-36B-Instruct": seed_oss,
}


def blocks(page: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


def place(cache: Path, repo: str) -> Path:
    """A tiny checkpoint in the cache, under the name of a published one."""
    repository = cache / f"models--{repo.replace('/', '--')}"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    HUB[repo](snapshot)
    return snapshot


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder to work in that holds what the examples read, and an empty cache of the Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("pictures", "sounds"):
        if (ROOT / "examples" / name).is_dir():
            shutil.copytree(ROOT / "examples" / name, tmp_path / "work" / "examples" / name)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


@pytest.mark.parametrize("number", range(len(blocks("README.md"))))
def test_readme(number, hub, capsys):
    code = blocks("README.md")[number]
    for repo in HUB:
        if f'name = "{repo}"' in code:
            place(hub, repo)
    exec(compile(code, f"README.md, example {number}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_contributing(hub, capsys, monkeypatch):
    from omniform.models import registry

    monkeypatch.setattr(registry, "_REGISTERED", {})
    snapshot = place(hub, "ByteDance-Seed/Seed-OSS-36B-Instruct")
    names: dict[str, object] = {"__name__": "seed_oss"}
    monkeypatch.setitem(sys.modules, "seed_oss", type(sys)("seed_oss"))
    for code in blocks("CONTRIBUTING.md"):
        exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    theirs = transformers.SeedOssForCausalLM.from_pretrained(snapshot)
    ids = torch.tensor([[3, 5, 9], [4, 7, 3]])
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, pad_token_id=0)
    assert names["model"].generate(ids, max_new_tokens=8).tolist() == expected.tolist()
    with torch.no_grad():
        torch.testing.assert_close(names["model"](ids).logits, theirs(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("page", TUTORIALS)
def test_tutorials_of_own_code(page, hub, capsys, monkeypatch):
    from omniform import PIPELINE_REGISTRY
    from omniform.hub import own
    from omniform.models import registry

    assert len((ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()) <= 60
    for home, name in ((registry, "_REGISTERED"), (registry, "_CONFIGS"), (own, "_REGISTERED")):
        monkeypatch.setattr(home, name, {})
    monkeypatch.setattr(PIPELINE_REGISTRY, "_tasks", dict(PIPELINE_REGISTRY.supported_tasks))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for number, code in enumerate(blocks(f"docs/{page}")):
        module = type(sys)(f"own_page_{number}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, f"docs/{page}, example {number}", "exec"), vars(module))
    assert capsys.readouterr().out.strip()


def test_every_shell_command_of_the_readme_is_one_that_exists():
    commands = re.findall(r"omniform (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(commands) & {"run", "inspect"} == {"run", "inspect"}
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert targets
    for target in targets:
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_paths_named_in_the_architecture_page_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    homes = "cli|hub|inputs|engine|architectures|blocks|core|models|weights|tests"
    paths = re.findall(rf"`((?:{homes})/[\w/.]*)", page)
    assert len(paths) > 30
    for path in paths:
        base = ROOT if path.startswith("tests/") else ROOT / "src" / "omniform"
        assert (base / path).exists(), path


@pytest.mark.slow
def test_the_command_line_answers_about_the_example_picture():
    python = [sys.executable, "-m", "omniform", "run", "--image", "examples/pictures/scene.png"]
    found = subprocess.run(
        [*python, "--text", "Describe the picture."], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )
    assert found.returncode == 0 and found.stdout.strip(), found.stderr
    assert found.stderr.splitlines() == ["omniform: no --model: scenes-llava answers, which comes with omniform"]


__all__ = ["omniform"]


def test_the_page_on_pictures(hub, capsys):
    for repo in ("facebook/detr-resnet-50", "openai/clip-vit-base-patch32"):
        place(hub, repo)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks("docs/vision.md")):
        exec(compile(code, f"docs/vision.md, example {number}", "exec"), names)
    assert capsys.readouterr().out.strip() and Path("looked.png").is_file()


def test_every_shell_command_of_the_page_on_pictures_is_one_that_is_understood():
    from omniform.cli.main import parser
    from omniform.pipelines import check_task

    page = (ROOT / "docs" / "vision.md").read_text(encoding="utf-8")
    commands = re.findall(r"^omniform (run .*)$", page, re.M)
    assert len(commands) > 3
    for command in commands:
        given, rest = parser().parse_known_args(shlex.split(command))
        assert not rest and check_task(given.task)[0] == given.task
    searches = re.findall(r"^omniform (search .*)$", page, re.M)
    assert len(searches) > 2 and not any(parser().parse_known_args(shlex.split(one))[1] for one in searches)
    tasks = re.findall(r"^\| `([a-z-]+)` \|", page, re.M)
    assert tasks and all(check_task(task)[0] == task for task in tasks)


def test_the_page_on_sounds(hub, capsys):
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks("docs/audio.md")):
        exec(compile(code, f"docs/audio.md, example {number}", "exec"), names)
    assert "(after" in capsys.readouterr().out and Path("heard.flac").is_file()


def test_every_shell_command_of_the_page_on_sounds_is_one_that_is_understood():
    from omniform.cli.main import parser

    page = (ROOT / "docs" / "audio.md").read_text(encoding="utf-8")
    commands = re.findall(r"^omniform ((?:run|say) [^#\n]*)", page, re.M)
    assert len(commands) > 4
    for command in commands:
        _, rest = parser().parse_known_args(shlex.split(command))
        assert not rest


def test_the_page_on_gguf_files(tmp_path, capsys, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.syspath_prepend(ROOT / "tests" / "hub")
    from gguf_written import tiny

    from omniform.cli.main import parser

    tiny(tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks("docs/gguf.md")):
        exec(compile(code, f"docs/gguf.md, example {number}", "exec"), names)
    assert "hello world" in capsys.readouterr().out
    assert (tmp_path / "plain" / "model.safetensors").is_file()
    page = (ROOT / "docs" / "gguf.md").read_text(encoding="utf-8")
    for command in re.findall(r"^omniform ([^#\n]*)", page, re.M):
        _, rest = parser().parse_known_args(shlex.split(command))
        assert not rest
    from omniform.hub.gguf.architectures import ARCHITECTURES
    from omniform.weights.gguf.types import READ

    assert all(f"`{name}`" in page for name in ARCHITECTURES)
    assert all(name in page for name in READ if not name.startswith("I") or name.startswith("IQ"))


def test_the_page_on_what_is_together(hub, capsys):
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks("docs/multimodal.md")):
        exec(compile(code, f"docs/multimodal.md, example {number}", "exec"), names)
    said = capsys.readouterr().out
    assert "orange square" in said and "placeholder" in said and "1 picture encoded" in said


def test_every_shell_command_of_the_page_on_what_is_together_is_one_that_is_understood():
    from omniform.cli.main import parser
    from omniform.pipelines.factory import check_task

    page = (ROOT / "docs" / "multimodal.md").read_text(encoding="utf-8")
    commands = re.findall(r"^omniform ((?:run|chat|search) [^#\n]*)", page, re.M)
    assert len(commands) > 4
    for command in commands:
        _, rest = parser().parse_known_args(shlex.split(command))
        assert not rest
    told = "".join(re.findall(r"^\| (`[^|]+`) \|", page, re.M))
    tasks = re.findall(r"`([a-z-]+)`", told)
    assert len(tasks) > 6 and all(check_task(task)[0] == task for task in tasks)


def test_the_page_on_training():
    module = type(sys)("training_page")
    sys.modules[module.__name__] = module  # dataclasses look for their module
    try:
        for number, code in enumerate(blocks("docs/training.md")):
            exec(compile(code, f"docs/training.md, example {number}", "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]


def test_the_page_of_the_kernels(capsys):
    from omniform.native.library import library

    if library() is None:
        pytest.skip("no native kernels here")
    for number, code in enumerate(blocks("docs/native.md")):
        exec(compile(code, f"docs/native.md, example {number}", "exec"), {"__name__": "__main__"})
    told = capsys.readouterr().out
    assert "native int4" in told and "native int8" in told and "[[" in told


def test_the_page_of_fewer_bits(capsys):
    for number, code in enumerate(blocks("docs/quantization.md")):
        exec(compile(code, f"docs/quantization.md, example {number}", "exec"), {"__name__": "__main__"})
    assert "int4" in capsys.readouterr().out


def test_the_page_on_the_server(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks("docs/serve.md")):
        exec(compile(code, f"docs/serve.md, example {number}", "exec"), names)
    said = capsys.readouterr().out
    assert "circle" in said and len(said.splitlines()) >= 7
