"""Loading from the Hub: which files are asked for, how often, from which commit, and what a second load needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save

import omniform
from checkpoints import text_checkpoint
from omniform.core.errors import InputError, OfflineError, RepoError, UnknownArgumentError
from omniform.hub import used
from omniform.hub.files import locate
from reference import saved_reference, transformers

TINY = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
Llama = omniform.AutoModelForCausalLM


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder)
    return folder


@pytest.fixture
def tiny(hub, made, tmp_path):
    """``ann/tiny`` on a Hub that this process uses: two branches, a tag, a pull request, a subfolder, a variant."""
    config = json.loads((made / "config.json").read_text())

    def with_eps(eps: float) -> str:
        return json.dumps({**config, "rms_norm_eps": eps})

    hub.upload("ann/tiny", made)
    hub.upload("ann/tiny", {"README.md": "# tiny", "unasked.bin": b"x" * 50_000, "tf_model.h5": b"y" * 50_000})
    hub.tag("ann/tiny", "v1")
    hub.upload("ann/tiny", {"config.json": with_eps(0.5)}, revision="dev/next")
    hub.upload("ann/tiny", {"config.json": with_eps(0.25)}, revision="refs/pr/1")
    files = {f"part/{path.name}": path for path in made.iterdir()}
    hub.upload("ann/tiny", {**files, "part/config.json": with_eps(0.125)}, revision="more")
    # Of another size, so that no content of the same digest is at hand.
    half = {key: tensor.half() for key, tensor in load_file(made / "model.safetensors").items()}
    hub.upload("ann/tiny", {"model.fp16.safetensors": save(half, {"format": "pt"})}, revision="more")
    with hub.connected(cache=tmp_path / "home"):
        yield hub


def eps(**where: object) -> float:
    return Llama.from_pretrained("ann/tiny", **where).config.rms_norm_eps


def test_only_what_is_needed_is_fetched(tiny, made):
    with tiny.watch() as log:
        model = Llama.from_pretrained("ann/tiny")
    fetched = {
        Path(asked.path).name for asked in log.of("GET *") if asked.status in (200, 206) and "/api/" not in asked.path
    }
    assert fetched == {"config.json", "model.safetensors", "generation_config.json"}
    sizes = sum((made / name).stat().st_size for name in fetched)
    assert sizes <= log.sent() < sizes + 5000 and len(log) <= 9
    here = Llama.from_pretrained(made)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), here.parameters(), strict=True))


def test_a_second_load_asks_once_for_a_branch_and_never_for_a_commit(tiny):
    commit = tiny.repo("ann/tiny").head("main")
    for revision, requests in ((None, 1), ("main", 1), ("v1", 1), ("dev/next", 1), ("refs/pr/1", 1), (commit, 0)):
        Llama.from_pretrained("ann/tiny", revision=revision)
        with tiny.watch() as log:
            Llama.from_pretrained("ann/tiny", revision=revision)
        assert len(log) == requests, f"{revision}:\n{log}"


@pytest.mark.parametrize(("revision", "found"), [(None, 1e-6), ("v1", 1e-6), ("dev/next", 0.5), ("refs/pr/1", 0.25)])
def test_revisions(tiny, revision, found):
    assert eps(revision=revision) == found
    commit = tiny.repo("ann/tiny").head(revision or "main")
    assert eps(revision=commit) == found
    source = locate("ann/tiny", revision=revision)
    assert source.commit == commit and {"config.json", "model.safetensors"} <= source.listing()


def test_short_commits(tiny):
    short = tiny.repo("ann/tiny").head("dev/next")[:8]
    assert eps(revision=short) == 0.5
    with tiny.watch() as log:
        assert eps(revision=short) == 0.5
    assert len(log) == 1


def test_subfolders_and_variants(tiny):
    assert eps(revision="more", subfolder="part") == 0.125
    assert eps(revision="more", subfolder="./part/") == 0.125
    with tiny.watch() as log:
        assert eps(revision="more", variant="fp16") == 1e-6
    assert log.count("GET /cdn/*/model.fp16.safetensors") == 1 and not log.count("GET */model.safetensors")
    for where, asked in (({"subfolder": "part"}, 1), ({"variant": "fp16"}, 1)):
        with tiny.watch() as log:
            eps(revision="more", **where)
        assert len(log) == asked, str(log)


def test_another_cache(tiny, tmp_path):
    assert eps(cache_dir=tmp_path / "other") == 1e-6
    assert (tmp_path / "other" / "models--ann--tiny").is_dir() and not (
        tmp_path / "home" / "hub" / "models--ann--tiny"
    ).exists()
    with tiny.quiet():
        assert eps(cache_dir=str(tmp_path / "other"), local_files_only=True) == 1e-6


def test_offline_after_the_first_load(tiny, tmp_path):
    commit = tiny.repo("ann/tiny").head("main")
    with pytest.raises(OfflineError):
        eps(local_files_only=True)
    eps()
    with tiny.quiet():
        assert eps(local_files_only=True) == eps(local_files_only=True, revision=commit) == 1e-6
        with tiny.connected(cache=tmp_path / "home", offline=True):
            assert eps() == eps(revision=commit) == 1e-6
            with pytest.raises(OfflineError, match="nothing is fetched again"):
                eps(force_download=True)
    program = (
        "from omniform.hub.files import locate\n"
        "source = locate('ann/tiny')\n"
        "source.fetch(['config.json', 'model.safetensors', 'generation_config.json'])\n"
        "print(source.commit)"
    )
    with tiny.quiet():  # in another process too, and told by the environment
        told = tiny.environment(tmp_path / "home", HF_HUB_OFFLINE="1", PYTHONPATH=":".join(sys.path))
        done = subprocess.run([sys.executable, "-c", program], env=told, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == commit


def test_forced_files_are_fetched_again_once_each(tiny):
    eps()
    with tiny.watch() as log:
        eps(force_download=True)
    for name in ("config.json", "generation_config.json"):
        assert log.count(f"GET */{name}") == 1
    assert log.count("GET /cdn/*/model.safetensors") == 1
    with tiny.watch() as log:
        eps()
    assert len(log) == 1


def test_one_load_is_one_commit_though_the_branch_moves(tiny, made):
    other = json.loads((made / "generation_config.json").read_text())
    commit = tiny.repo("ann/tiny").head("main")

    def move() -> None:
        tiny.upload("ann/tiny", {"generation_config.json": json.dumps({**other, "max_new_tokens": 77})})

    tiny.faults.add("GET */config.json", times=1, after=move)
    model = Llama.from_pretrained("ann/tiny")
    assert tiny.repo("ann/tiny").head("main") != commit
    assert model.generation_config.max_new_tokens != 77
    assert Llama.from_pretrained("ann/tiny").generation_config.max_new_tokens == 77


def test_shards_come_side_by_side(hub, tmp_path):
    config = transformers.LlamaConfig(**{**TINY, "num_hidden_layers": 4})
    saved_reference(transformers.LlamaForCausalLM, config, tmp_path / "whole")
    here = Llama.from_pretrained(tmp_path / "whole")
    here.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    shards = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    hub.upload("ann/shards", tmp_path / "shards")
    hub.faults.add("GET /cdn/*", delay=0.3)
    with hub.connected(cache=tmp_path / "home"):
        from time import monotonic

        started = monotonic()
        model = Llama.from_pretrained("ann/shards")
        assert monotonic() - started < 0.3 * len(shards) / 2 and len(shards) > 4
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), here.parameters(), strict=True))
        with hub.watch() as log:
            Llama.from_pretrained("ann/shards")
        assert len(log) == 1


def test_a_pipeline_asks_once(hub, made, tmp_path):
    scenes = omniform.bundled_checkpoint()
    hub.upload("ann/scenes", scenes)
    hub.upload("ann/words", {path.name: path for path in scenes.glob("tokenizer*.json")})
    hub.upload("ann/words", made)
    with hub.connected(cache=tmp_path / "home"):
        omniform.pipeline("text-generation", "ann/words")
        with hub.watch() as log:
            omniform.pipeline("text-generation", "ann/words")
        assert len(log) == 1, str(log)
        for part in (omniform.AutoProcessor, omniform.AutoTokenizer, omniform.AutoConfig, omniform.GenerationConfig):
            part.from_pretrained("ann/scenes")
            with hub.watch() as log:
                part.from_pretrained("ann/scenes")
            assert len(log) == 1, f"{part}:\n{log}"


def test_whatever_reads_inputs_asks_once(hub, tmp_path):
    hub.upload("ann/text", text_checkpoint(tmp_path / "made"))
    old = {"resume_download": True, "mirror": "x", "proxies": None, "_from_auto": True, "_commit_hash": None}
    kinds = (omniform.AutoTokenizer, omniform.AutoProcessor, omniform.AutoConfig, omniform.GenerationConfig)
    with hub.connected(cache=tmp_path / "home"):
        for kind in kinds:
            kind.from_pretrained("ann/text")
            with hub.watch() as log:
                kind.from_pretrained("ann/text", use_auth_token=None, **old)
            assert len(log) == 1 and log.count("HEAD") == 1, str(log)
        for kind, words in (
            (omniform.AutoImageProcessor, "image processor"),
            (omniform.AutoFeatureExtractor, "feature ext"),
        ):
            for most in (2, 1):
                with hub.watch() as log, pytest.raises(RepoError, match=f"there is no {words}"):
                    kind.from_pretrained("ann/text")
                assert len(log) <= most, str(log)
        for kind in kinds[:3]:
            with pytest.raises(UnknownArgumentError, match="Did you mean 'revision'"):
                kind.from_pretrained("ann/text", revison="main")
            with pytest.raises(InputError, match="proxies"):
                kind.from_pretrained("ann/text", proxies={"https": "x"})


def test_further_chat_templates_come_too(hub, tmp_path):
    hub.upload("ann/scenes", omniform.bundled_checkpoint())
    hub.upload("ann/scenes", {"additional_chat_templates/tool_use.jinja": "{{ messages[0].content }}!"})
    with hub.connected(cache=tmp_path / "home"):
        for _ in range(2):
            tokenizer = omniform.AutoTokenizer.from_pretrained("ann/scenes")
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": "hi"}], chat_template="tool_use", tokenize=False
            )
            assert text == "hi!"
        with hub.watch() as log:
            omniform.AutoTokenizer.from_pretrained("ann/scenes")
        assert len(log) == 1, str(log)


def test_what_the_client_fetched_is_used_and_the_other_way_round(tiny, tmp_path):
    folder = Path(snapshot_download("ann/tiny", allow_patterns=["*.json", "model.safetensors"]))
    with tiny.watch() as log:
        assert eps() == 1e-6
    assert not log.count("GET */resolve/*")
    assert locate("ann/tiny").find("config.json") == folder / "config.json"


def test_every_file_is_told_to_who_watches(tiny):
    seen: list[tuple[str, str | None, bool]] = []
    with used.watched(lambda source, name, path: seen.append((name, source.commit, path is not None))):
        Llama.from_pretrained("ann/tiny")
        omniform.plan("ann/tiny")
    commit = tiny.repo("ann/tiny").head("main")
    assert {(name, at) for name, at, _ in seen} == {
        (name, commit) for name in ("config.json", "model.safetensors", "generation_config.json")
    }
    before = len(seen)
    Llama.from_pretrained("ann/tiny")
    assert len(seen) == before


def test_a_folder_of_the_same_name_comes_first(tiny, made, tmp_path, monkeypatch):
    (tmp_path / "here" / "ann").mkdir(parents=True)
    (tmp_path / "here" / "ann" / "tiny").symlink_to(made)
    monkeypatch.chdir(tmp_path / "here")
    with tiny.quiet():
        assert eps() == 1e-6
