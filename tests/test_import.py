"""What importing omniform loads, and what it never does."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "omniform"
HEAVY = {
    "transformers", "torchvision", "jinja2", "PIL", "soundfile", "soxr", "scipy", "tokenizers", "typer", "rich",
    "click", "huggingface_hub", "safetensors", "sentencepiece", "timm", "httpx", "pydantic", "yaml", "av",
}  # fmt: skip

LATER = (
    "omniform.native", "omniform.weights.gguf", "omniform.hub.gguf.", "omniform.transforms.lower",
    "omniform.blocks.builder", "omniform.blocks.operations",
)  # fmt: skip
"""What only a model that is loaded or run has use for."""

EVER = {"omniform", "omniform.core", "omniform.core.collector", "omniform.names"}

CODE = """
import json, os, sys, time, traceback
import torch
jobs = json.load(sys.stdin)
for job in jobs:
    if len(jobs) > 1 and os.fork():
        os.wait()
        continue
    before, start = set(sys.modules), time.process_time()
    try:
        exec(job, {"__name__": "__main__"})
        said = {"new": sorted(set(sys.modules) - before), "seconds": time.process_time() - start}
    except BaseException:
        said = {"error": traceback.format_exc()}
    print(json.dumps(said), flush=True)
    os._exit(0)
"""
"""Each job in a process of its own, in which torch is imported, which takes longer than the jobs, and nothing else. A
lone one is not forked: pages that a fork copies would count."""


def after(*jobs: str) -> list[dict[str, object]]:
    """What is imported and how long it takes, or an error, for each job."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=json.dumps(jobs), capture_output=True, text=True, check=True, timeout=300
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(jobs), done.stderr
    return found


JOBS = (
    "import omniform",
    "from omniform import AutoModelForCausalLM",
    "from omniform import AutoConfig; AutoConfig.for_model('llama')",
    "from omniform import *",
)


def test_what_importing_loads():
    for job, found in zip(JOBS, after(*JOBS), strict=True):
        tops = {name.split(".")[0] for name in found["new"]}
        if job != "from omniform import *":
            assert not tops & HEAVY, job
            assert not [name for name in found["new"] if name.startswith(LATER)], job
        assert not tops & {"transformers", "torchvision", "sympy"}, job
        if job == "import omniform":
            assert {name for name in found["new"] if name.startswith("omniform")} == EVER


def test_importing_takes_no_time():
    # The best of five, in the processor's time: the machine may be busy.
    job = "from omniform import AutoModelForCausalLM"
    assert any(after(job)[0]["seconds"] < 0.3 for _ in range(5))


def test_building_a_model_loads_no_symbolic_algebra():
    job = (
        "from omniform import AutoConfig, AutoModelForCausalLM as A\n"
        "sizes = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=9, intermediate_size=8)\n"
        "A.from_config(AutoConfig.for_model('llama', **sizes))"
    )
    (found,) = after(job)
    assert not {"sympy", "mpmath", "torch._dynamo", "transformers"} & set(found["new"])


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """What a test looks at of a file: its imports and its calls."""
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.Import, ast.ImportFrom, ast.Call))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_the_source_never_imports_the_reference():
    files = list(SOURCE.rglob("*.py"))
    assert len(files) > 50
    for path in files:
        assert not imported(path) & {"transformers", "torchvision", "timm", "diffusers", "marshal"}, path


def test_nothing_is_unpickled():
    # What one process tells those that it leads, which can make nothing but values.
    users = [path for path in SOURCE.rglob("*.py") if "pickle" in imported(path)]
    assert [str(path.relative_to(SOURCE)) for path in users] == ["engine/channel.py"]


def test_the_source_runs_no_code_of_others():
    # But for two places: the loader of code that the user has let run, and the check of a file that eject has written.
    found = {
        (str(path.relative_to(SOURCE)), node.func.id)
        for path in SOURCE.rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        and node.func.id in ("eval", "exec", "compile", "__import__")
    }  # fmt: skip
    homes = ("hub/code/importer.py", "export/eject/whole.py")
    assert found == {(home, name) for home in homes for name in ("exec", "compile")}


def test_modules_are_imported_by_a_table_of_our_own_only():
    # By the registry's own table, by omniform's own table of doors, and packages of Japanese words and of attention by
    # names that stand in the source: never by what a file says. Code that the user has let run is imported by hub/code
    # alone, from bytes that were digested; names.py asks it for "omniform.modules", and has the ecosystem's paths.
    users = set()
    for path in SOURCE.rglob("*.py"):
        for node in nodes(path):
            called = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
            if called and not isinstance(node.args[0], ast.Constant):
                users.add(str(path.relative_to(SOURCE)))
    own = {"__init__.py", "models/registry.py", "core/upstairs.py", "inputs/text/japanese.py", "blocks/flash.py"}
    # A training's task is one of our files; packages of optimizers stand in the source.
    own |= {"pipelines/registry.py", "train/tasks/base.py", "train/optimizer_packages.py"}
    # The formats of quantized weights that we know, by a table of files beside it.
    own |= {"transforms/quantize/config.py"}
    # Backends and scenarios by tables beside them, and what the config of a benchmark, which is its user's, names.
    own |= {"bench/child.py", "bench/backends/__init__.py", "bench/backends/on_torch.py"}
    own |= {"bench/backends/transformers.py", "bench/scenarios/__init__.py", "bench/scenarios/fresh.py"}
    own |= {"bench/scenarios/training.py"}
    assert users == own | {"hub/code/importer.py", "names.py", "hub/refusals.py"}


def test_every_public_name_is_there():
    import omniform

    for name in omniform.__all__:
        assert getattr(omniform, name) is not None
    assert set(omniform.__all__) <= set(dir(omniform))
    with pytest.raises(AttributeError, match="Nonsense"):
        omniform.Nonsense  # noqa: B018


LINES = (
    "from omniform.modeling_utils import PreTrainedModel",
    "from omniform.configuration_utils import PretrainedConfig",
    "from omniform.tokenization_utils_base import BatchEncoding, PreTrainedTokenizerBase",
    "from omniform.processing_utils import ProcessorMixin",
    "from omniform.feature_extraction_utils import BatchFeature",
    "from omniform.cache_utils import DynamicCache, StaticCache, Cache",
    "from omniform.generation import GenerationConfig, LogitsProcessor, StoppingCriteriaList",
    "from omniform.generation.utils import GenerationConfig",
    "from omniform.generation.logits_process import LogitsProcessorList",
    "from omniform.trainer_utils import set_seed; set_seed(3)",
    "from omniform.utils import logging; logging.set_verbosity_error(); logging.get_logger('x')",
    "import omniform.utils.logging; omniform.logging.get_verbosity()",
    "from omniform.models.auto import AutoModelForCausalLM, AutoTokenizer",
    "from omniform.models.auto.modeling_auto import AutoModel",
    "from omniform.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel",
    "from omniform.models.llama.configuration_llama import LlamaConfig",
    "from omniform.models.llama import LlamaForCausalLM, LlamaConfig",
    "from omniform.models.bert.tokenization_bert import BertTokenizer",
    "from omniform.models.clip.processing_clip import CLIPProcessor",
    "from omniform.modeling_outputs import CausalLMOutput, BaseModelOutput",
    "from omniform import DynamicCache, LogitsProcessorList, set_seed, logging, PreTrainedConfig",
)


def test_paths_that_scripts_import():
    for line, found in zip(LINES, after(*LINES), strict=True):
        assert "error" not in found, (line, found)
        families = {name for name in found["new"] if name.startswith("omniform.models.")}
        assert not {"transformers"} & set(found["new"]), line
        assert len({name.split(".")[2] for name in families} - {"index", "registry", "auto"}) <= 1, line  # one family's


def test_paths_that_are_not_there():
    wrong = ("import omniform.modelling", "import omniform.models.llama.modeling_bert", "import omniform.models.nope")
    for line, found in zip(wrong, after(*wrong), strict=True):
        assert "ModuleNotFoundError" in found.get("error", ""), line
    from omniform import modeling_utils

    with pytest.raises(AttributeError, match="PretrainedModel"):
        modeling_utils.PretrainedModel  # noqa: B018
