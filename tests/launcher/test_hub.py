"""The real clients of the Hugging Face hub against a hub in a box: fetching, training from it, pushing to it, and what
is said where it refuses, fails or sends damage."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ranks
import yaml
from conftest import stilts
from hub_files import MODEL, STUDY, fill_hub, model_files
from hub_server import TOKEN, Fault, Hub, hub_in_a_box

pytestmark = pytest.mark.processes


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("calls")
    program = ranks.PROGRAMS / "hub_calls.py"
    done = subprocess.run(
        [sys.executable, str(program), str(folder)], env=ranks.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    shown: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return shown


def ranges(call: dict[str, Any]) -> list[str]:
    return [asked for _, path, asked, _ in call["requests"] if path.startswith("/storage/")]


def test_a_download_that_is_cut_goes_on_where_it_was(calls: dict[str, dict[str, Any]]) -> None:
    """Two cuts behind the first 10 MiB that the client keeps: the second and third request ask for the rest."""
    assert "result" in calls["cut"]
    assert ranges(calls["cut"]) == ["", f"bytes={10 << 20}-", f"bytes={20 << 20}-"]


@pytest.mark.parametrize(
    ("case", "waits"), [("busy", 7), ("failing", 1), ("short-once", 2), ("data-busy", 3), ("data-cut", 1)]
)
def test_a_passing_fault_is_waited_for(calls: dict[str, dict[str, Any]], case: str, waits: float) -> None:
    """At least as long as the hub asks for, where it names a time."""
    assert "result" in calls[case], calls[case].get("refused")
    assert max(calls[case]["slept"]) >= waits


def test_data_come_whole_after_a_cut(calls: dict[str, dict[str, Any]]) -> None:
    assert calls["data-cut"]["result"] == calls["data-busy"]["result"] == "4"


def test_a_configuration_that_is_a_folder_is_fetched_alone_and_found_again_without_network(
    calls: dict[str, dict[str, Any]],
) -> None:
    assert calls["folder"]["result"] == calls["folder-again"]["result"] == "3"
    assert calls["folder-again"]["requests"] == []
    assert not any("fr/test" in path for _, path, _, _ in calls["folder"]["requests"])


REFUSALS = [
    ("always-short", "a file arrived incomplete in 4 tries", "the same command goes on"),
    ("always-busy", "the hub answers 429 (too many requests)", "wait some minutes or log in with `hf auth login`"),
    ("always-failing", "the hub failed in 4 tries (HTTP 503)", "try later, and the same command goes on"),
    ("damaged", "(model.safetensors) does not have the SHA-256 of its name", "delete it, and the same command"),
    ("gated", "model someone/locked is gated", "/someone/locked, then log in with `hf auth login` or set HF_TOKEN"),
    ("private", "no model someone/hidden that you may read", "check the name, or log in"),
    ("no-such-model", "no model someone/nobody that you may read", "check the name, or log in"),
    ("no-such-revision", f"has no revision {'0' * 40}", f"/{MODEL}/commits/main lists"),
    ("bad-token", "does not know the token in HF_TOKEN", "log in again, or unset it"),
    ("data-failing", "the hub failed in 4 tries (HTTP 500)", "try later"),
    ("data-gated", "dataset someone/locked is gated", "/datasets/someone/locked, then log in"),
    ("folder-not-here", "the cache in HF_HOME=", "does not have it; run `stilts fetch`"),
    ("no-such-data", "no dataset someone/nothing that you may read", "check the name, or log in"),
    ("hub-gone", "no connection to http://127.0.0.1:", "check the network and HTTPS_PROXY"),
]


@pytest.mark.parametrize(("case", "problem", "remedy"), REFUSALS)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    calls: dict[str, dict[str, Any]], case: str, problem: str, remedy: str
) -> None:
    refused = calls[case]["refused"]
    assert problem in refused and remedy in refused and "hf_" not in refused


def test_what_no_second_try_mends_is_not_waited_for(calls: dict[str, dict[str, Any]]) -> None:
    for case in ("gated", "private", "no-such-model", "no-such-revision", "bad-token", "data-gated", "no-such-data"):
        assert calls[case]["slept"] == [], case


def test_a_login_opens_a_gated_model_and_stays_with_the_hub(calls: dict[str, dict[str, Any]]) -> None:
    asked = calls["gated-with-login"]["requests"]
    assert "result" in calls["gated-with-login"]
    assert all(login for _, path, _, login in asked if "someone/locked" in path)
    assert not any(login for _, path, _, login in asked if path.startswith("/storage/"))


# --- fetch, train, push ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with hub_in_a_box() as made:
        yield made


def settings(hub: Hub, home: Path, **extra: str) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **extra}


@pytest.fixture(scope="module")
def trained(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study fetched and trained from the hub; between the two, the model's main branch moved."""
    folder = tmp_path_factory.mktemp("study")
    fill_hub(hub)
    extra = settings(hub, folder / "hf")
    hub.faults += [Fault(f"GET /api/models/{MODEL}", status=500), Fault("GET /storage/", cut=300)]
    shown = stilts("fetch", *STUDY, cwd=folder, **extra)
    assert "checked: everything loads with HF_HUB_OFFLINE=1" in shown and "trying again in 2 s" in shown
    hub.put(f"models/{MODEL}", {"config.json": b"{}", "README.md": b"another model"})
    stilts("run", *STUDY, "launch.nproc=1", cwd=folder, **extra)
    return folder


def test_a_study_keeps_the_commit_that_it_began_with(hub: Hub, trained: Path) -> None:
    """The branch moved to something else: the run trains what was fetched, and its recipe says which commit that is."""
    run = trained / "runs" / "mini_xlmr"
    commit = hub.repos[f"models/{MODEL}"].commits[0][0]
    assert yaml.safe_load((run / "recipe.yaml").read_text())["model"]["revision"] == commit
    assert json.loads((run / "cache" / "hub_commits.json").read_text())[f"models/{MODEL}@main"] == commit
    [phase] = (run / "phases").iterdir()
    assert json.loads((phase / "status.json").read_text())["state"] == "done"
    config = json.loads((phase / "encoder" / "config.json").read_text())
    assert config["hidden_size"] == json.loads(model_files()["config.json"])["hidden_size"]
    assert str(trained) not in (phase / "encoder" / "config.json").read_text()
    assert str(trained) not in (phase / "encoder" / "tokenizer_config.json").read_text()


def test_a_pushed_phase_is_the_one_that_was_trained(hub: Hub, trained: Path) -> None:
    """Creation and commit fail once: they are tried again, and what arrived is one commit of the same bytes."""
    [phase] = (trained / "runs" / "mini_xlmr" / "phases").iterdir()
    hub.faults += [Fault("POST /api/repos/create", status=500), Fault("POST /api/models/me/model/commit", status=503)]
    extra = settings(hub, trained / "hf", HF_TOKEN=TOKEN)
    shown = stilts("push", phase, "--repo", "me/model", "--private", cwd=trained, **extra)
    assert f"{hub.url}/me/model now holds:" in shown
    repo = hub.repos["models/me/model"]
    assert repo.private and len(repo.commits) == 2  # the empty one, and this
    _, files = repo.commits[-1]
    for path in [*(phase / "encoder").iterdir(), phase / "heads.safetensors", phase / "heads.json"]:
        if path.name != "stilts.json":
            assert hashlib.sha256(files[path.name]).digest() == hashlib.sha256(path.read_bytes()).digest(), path.name
    assert "stilts.json" not in files and b'from_pretrained("me/model")' in files["README.md"]


@pytest.mark.parametrize(("repo", "token", "problem"), [
    ("else/model", TOKEN, "your login may not do this with model else/model; check the owner"),
    ("me/other", "hf_notatoken123", "the hub does not know the token in HF_TOKEN"),
])  # fmt: skip
def test_a_push_that_is_refused_says_why(hub: Hub, trained: Path, repo: str, token: str, problem: str) -> None:
    [phase] = (trained / "runs" / "mini_xlmr" / "phases").iterdir()
    extra = settings(hub, trained / "hf", HF_TOKEN=token)
    shown = stilts("push", phase, "--repo", repo, cwd=trained, status=2, **extra)
    assert f"the hub did not take the upload to {repo}: {problem}" in shown and token not in shown
    assert f"models/{repo}" not in hub.repos
