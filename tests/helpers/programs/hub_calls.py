"""Calls to a hub in which one thing at a time goes wrong; prints as JSON what each came to.

    hub_calls.py FOLDER

The real clients talk to the server of this process. Waiting is written down and not done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hub_server import TOKEN, Fault, Hub, hub_in_a_box

Case = Callable[[], Any]
FOREVER = 1000


def clients_for(hub: Hub, home: Path) -> None:
    """Point the clients at the box; they read the environment when they are first imported."""
    os.environ |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
    }
    os.environ.pop("HF_TOKEN", None)


def outcome(hub: Hub, slept: list[float], call: Case, *faults: Fault, token: str = "") -> dict[str, Any]:
    """What a call returned or refused, how long it would have waited, and what it asked for."""
    from stilts_ds.errors import UserError

    hub.faults[:] = faults
    hub.requests.clear()
    slept.clear()
    os.environ["HF_TOKEN"] = token
    shown: dict[str, Any] = {}
    try:
        shown["result"] = str(call())
    except UserError as problem:
        shown["refused"] = str(problem)
    return {**shown, "slept": list(slept), "requests": list(hub.requests)}


def main(folder: Path) -> None:
    slept: list[float] = []
    with hub_in_a_box() as hub:
        clients_for(hub, folder / "hf")
        time.sleep = slept.append
        from hub_files import MODEL, data_set_files, fill_hub, model_files, parquet
        from huggingface_hub import constants

        from stilts_ds.model_hub import download_model
        from stilts_ds.sources.hub import rows_of
        from stilts_ds.tasks.spec import Hub as Source

        commit = fill_hub(hub)
        small = {name: data for name, data in model_files().items() if name != "tokenizer.json"}
        cases: dict[str, dict[str, Any]] = {}

        def fetch(case: str, *faults: Fault, name: str = "", revision: str | None = None, token: str = "") -> None:
            """A model of its own for each case, so that nothing is in the cache yet."""
            if not name:
                hub.put(f"models/someone/{case}", small)
            cases[case] = outcome(
                hub, slept, lambda: download_model(name or f"someone/{case}", revision), *faults, token=token
            )

        def rows(case: str, *faults: Fault, repo: str = "", token: str = "") -> None:
            if not repo:
                hub.put(f"datasets/someone/{case}", data_set_files({"en": ["test"]}, rows=4))
            source = Source("", repo or f"someone/{case}", "en", "test", "main")
            cases[case] = outcome(hub, slept, lambda: len(rows_of(source, "en")[0]), *faults, token=token)

        # The client keeps what arrived in pieces of 10 MiB.
        hub.put("models/someone/large", {**small, "model.safetensors": bytes(25 << 20)})
        fetch("cut", Fault("GET /storage/", times=2, cut=11 << 20), name="someone/large")
        fetch("busy", Fault("GET /api/models", status=429, headers={"Retry-After": "7"}))
        fetch("failing", Fault("GET /api/models", times=2, status=500))
        fetch("short-once", Fault("GET /storage/", short=1000))
        fetch("always-short", Fault("GET /storage/", times=FOREVER, short=1000))
        fetch("always-busy", Fault("GET /api/models", times=FOREVER, status=429))
        fetch("always-failing", Fault("GET /api/models", times=FOREVER, status=503))
        fetch("damaged", Fault("GET /storage/", flip=True))
        hub.put("models/someone/locked", small, gated=True)
        fetch("gated", name="someone/locked")
        fetch("gated-with-login", name="someone/locked", token=TOKEN)
        hub.put("models/someone/hidden", small, private=True)
        fetch("private", name="someone/hidden")
        fetch("no-such-model", name="someone/nobody")
        fetch("no-such-revision", name=MODEL, revision="0" * 40)
        fetch("bad-token", Fault("GET /api/models", times=FOREVER, status=401,
              headers={"X-Error-Message": "Invalid credentials in Authorization header"}), name=MODEL,
              revision=commit, token="hf_wrongwrong")  # fmt: skip
        rows("data-busy", Fault("HEAD /datasets", times=2, status=429, headers={"Retry-After": "3"}))
        rows("data-cut", Fault("GET /storage/", cut=500))
        rows("data-failing", Fault("/datasets", times=FOREVER, status=500))
        hub.put("datasets/someone/locked", data_set_files({"en": ["test"]}, rows=4), gated=True)
        rows("data-gated", repo="someone/locked")
        rows("no-such-data", repo="someone/nothing")
        # A configuration that is a folder; then again without network, beside one that was never fetched.
        folders = {f"{config}/test/0000.parquet": parquet(config, rows=3) for config in ("en", "fr")}
        commit = hub.put("datasets/someone/folders", folders)
        source = Source("", "someone/folders", "{language}", "test", commit, in_folder=True)
        cases["folder"] = outcome(hub, slept, lambda: len(rows_of(source, "en")[0]))
        hub.closed = True
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        cases["folder-again"] = outcome(hub, slept, lambda: len(rows_of(source, "en")[0]))
        cases["folder-not-here"] = outcome(hub, slept, lambda: len(rows_of(source, "fr")[0]))
        os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "0", False
    fetch("hub-gone")
    print(json.dumps(cases))


main(Path(sys.argv[1]))
