"""Who may see, read and change what on the loopback Hub, in the errors of the real client."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, errors, hf_hub_download

from loopback import Hub


def api(hub: Hub, token: str | None) -> HfApi:
    return HfApi(endpoint=hub.address, token=token or False)


@pytest.fixture
def home(hub: Hub, tmp_path: Path):
    with hub.connected(cache=tmp_path / "home"):
        yield hub


def test_private_and_absent_look_the_same(home: Hub) -> None:
    home.upload("ann/secret", {"config.json": "{}"}, private=True)
    ben = home.people.token("ben")
    for name in ("ann/secret", "ann/absent"):
        for token in (None, ben):
            with pytest.raises(errors.RepositoryNotFoundError) as caught:
                hf_hub_download(name, "config.json", token=token or False)
            assert caught.value.response.status_code == (404 if token else 401)
            with pytest.raises(errors.RepositoryNotFoundError):
                api(home, token).model_info(name)
    assert hf_hub_download("ann/secret", "config.json", token=home.read_token)
    assert [model.id for model in api(home, home.token).list_models()] == ["ann/secret"]
    assert list(api(home, ben).list_models()) == []


def test_gated(home: Hub) -> None:
    home.upload("ann/gated", {"config.json": "{}"}, gated="manual")
    ben = home.people.token("ben", "read")
    assert api(home, None).model_info("ann/gated").gated == "manual"
    for token, status in ((False, 401), (ben, 403)):
        with pytest.raises(errors.GatedRepoError) as caught:
            hf_hub_download("ann/gated", "config.json", token=token)
        assert caught.value.response.status_code == status
    with pytest.raises(errors.GatedRepoError):
        api(home, ben).auth_check("ann/gated")
    api(home, home.token).grant_access("ann/gated", "ben")
    assert hf_hub_download("ann/gated", "config.json", token=ben)
    assert [request.username for request in api(home, home.token).list_accepted_access_requests("ann/gated")] == ["ben"]


def test_tokens(home: Hub) -> None:
    home.upload("ann/tiny", {"config.json": "{}"})
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials"):
        api(home, "hf_nobody").model_info("ann/tiny")
    with pytest.raises(errors.HfHubHTTPError, match="Invalid user token"):
        api(home, "hf_nobody").whoami()
    home.people.token("ben")
    tries = {home.read_token: "write token", "hf_ben_write": "required permissions"}
    for token, words in tries.items():
        with pytest.raises(errors.HfHubHTTPError, match=words) as caught:
            api(home, token).upload_file(repo_id="ann/tiny", path_or_fileobj=b"x", path_in_repo="x")
        assert caught.value.response.status_code == 403
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        api(home, None).upload_file(repo_id="ann/tiny", path_or_fileobj=b"x", path_in_repo="x")
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api(home, "hf_ben_write").create_repo("ann/other")
    assert home.titles("ann/tiny") == ["files", "initial commit"]


def test_a_login_is_remembered_in_the_home_folder(home: Hub, tmp_path: Path) -> None:
    home.upload("ann/secret", {"config.json": "{}"}, private=True)
    huggingface_hub.login(home.read_token)
    assert huggingface_hub.whoami()["name"] == "ann" and (tmp_path / "home/token").read_text() == home.read_token
    assert hf_hub_download("ann/secret", "config.json")
    home.people.revoke(home.read_token)
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        huggingface_hub.model_info("ann/secret")
    huggingface_hub.logout()
    with pytest.raises(errors.RepositoryNotFoundError):
        huggingface_hub.model_info("ann/secret")


def test_organisations(home: Hub) -> None:
    cal = home.people.token("cal")
    home.people.organisation("lab", ann="admin", cal="read")
    assert api(home, home.token).whoami()["orgs"][0]["roleInOrg"] == "admin"
    api(home, home.token).create_repo("lab/model", private=True)
    assert api(home, cal).model_info("lab/model").private
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api(home, cal).upload_file(repo_id="lab/model", path_or_fileobj=b"x", path_in_repo="x")
    home.people.organisation("lab", ann="admin", cal="write")
    api(home, cal).upload_file(repo_id="lab/model", path_or_fileobj=b"x", path_in_repo="x")


def test_what_is_missing_is_told_apart(home: Hub) -> None:
    commit = home.upload("ann/tiny", {"config.json": "{}"})
    with pytest.raises(errors.RemoteEntryNotFoundError) as caught:
        hf_hub_download("ann/tiny", "absent.json")
    assert caught.value.response.headers["X-Repo-Commit"] == commit
    with pytest.raises(errors.RevisionNotFoundError):
        hf_hub_download("ann/tiny", "config.json", revision="gone")
    marker = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--ann--tiny/.no_exist" / commit / "absent.json"
    assert marker.is_file()


def test_moved_set_and_deleted(home: Hub) -> None:
    home.upload("ann/old", {"config.json": "{}", "model.safetensors": b"w" * 100})
    owner = api(home, home.token)
    owner.move_repo("ann/old", "ann/new")
    assert api(home, None).model_info("ann/old").id == "ann/new"
    with home.watch() as log:
        assert Path(hf_hub_download("ann/old", "model.safetensors")).read_bytes() == b"w" * 100
    assert [asked.status for asked in log] == [307, 302, 200]
    owner.update_repo_settings("ann/new", private=True, gated="auto")
    assert owner.model_info("ann/new").private and owner.model_info("ann/new").gated == "auto"
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        owner.create_repo("ann/new")
    assert owner.create_repo("ann/new", exist_ok=True).repo_id == "ann/new"
    owner.delete_repo("ann/new")
    owner.delete_repo("ann/new", missing_ok=True)
    with pytest.raises(errors.RepositoryNotFoundError):
        owner.model_info("ann/new")


def test_kinds_and_names_of_one_part(home: Hub) -> None:
    home.upload("gpt2", {"config.json": "{}"})
    home.upload("ann/data", {"rows.csv": "a,b"}, kind="dataset")
    home.upload("ann/app", {"app.py": ""}, kind="space")
    assert Path(hf_hub_download("gpt2", "config.json")).read_text() == "{}"
    assert Path(hf_hub_download("ann/data", "rows.csv", repo_type="dataset")).read_text() == "a,b"
    anybody = api(home, None)
    assert anybody.dataset_info("ann/data").id == "ann/data"
    assert anybody.list_repo_files("ann/app", repo_type="space") == [".gitattributes", "app.py"]
    assert [dataset.id for dataset in anybody.list_datasets()] == ["ann/data"]
    with pytest.raises(errors.RepositoryNotFoundError):
        anybody.model_info("ann/data")
    made = api(home, home.token).create_repo("made", repo_type="space", space_sdk="gradio")
    assert made.repo_id == "ann/made" and anybody.space_info("ann/made").sdk == "gradio"


def test_lists_come_in_pages(home: Hub) -> None:
    home.page = 3
    home.upload("ann/tiny", {f"part{number}.txt": "x" for number in range(5)} | {"sub/deep/a.txt": "x"})
    anybody = api(home, None)
    with home.watch() as log:
        found = [entry.path for entry in anybody.list_repo_tree("ann/tiny", recursive=True)]
    assert found == [".gitattributes", *(f"part{n}.txt" for n in range(5)), "sub", "sub/deep", "sub/deep/a.txt"]
    assert len(log) == 3
    assert [entry.path for entry in anybody.list_repo_tree("ann/tiny", "sub", expand=True)] == ["sub/deep"]
    info = anybody.get_paths_info("ann/tiny", ["part1.txt", "sub", "absent"], expand=True)
    assert [entry.path for entry in info] == ["part1.txt", "sub"] and info[0].last_commit.title == "files"


def test_what_is_told_of_a_model(home: Hub) -> None:
    card = "---\nlicense: mit\npipeline_tag: text-generation\nlanguage: [en, de]\ntags: [small]\ndatasets: a/b\n---\n"
    home.upload("ann/tiny", {"README.md": card, "config.json": '{"model_type": "llama"}', "w.safetensors": b"\0" * 20})
    anybody = api(home, None)
    info = anybody.model_info("ann/tiny", files_metadata=True)
    assert info.pipeline_tag == "text-generation" and info.card_data["license"] == "mit"
    assert {"llama", "safetensors", "small", "en", "license:mit", "dataset:a/b"} <= set(info.tags)
    weights = next(sibling for sibling in info.siblings if sibling.rfilename == "w.safetensors")
    assert weights.size == 20 and weights.lfs.size == 20 and len(weights.lfs.sha256) == 64
    assert anybody.model_info("ann/tiny", expand=["config"]).config == {"model_type": "llama"}
    for given in ({"search": "tin"}, {"filter": "small"}, {"pipeline_tag": "text-generation"}, {"author": "ann"}):
        assert [model.id for model in anybody.list_models(**given)] == ["ann/tiny"]
    assert list(anybody.list_models(filter="large")) == []
