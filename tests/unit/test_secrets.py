"""Tokens stay where they are: in no file of a run, no message, no script. Canaries in the environment of a real run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import ranks
import study
from conftest import SMALL, stilts
from stilts_launcher.backends.registry import load_profile

from stilts_ds.config import load_recipe
from stilts_ds.engine.logs import Redacting
from stilts_ds.errors import UserError, redacted

# Made up; each is long enough that no other text holds it by chance.
TOKEN, KEY = "hf_CanaryCanaryCanaryCanaryCanary42", "canary/secret+access/key0123456789abcdef"
SECRETS = {"HF_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_SESSION_TOKEN": "canarySession9",
           "WANDB_API_KEY": "canaryWandb77"}  # fmt: skip


def hits(folder: Path, texts: list[str]) -> list[str]:
    """Files under the folder, in whatever format, whose bytes hold one of the texts."""
    wanted = [text.encode() for text in texts]
    return [str(path) for path in folder.rglob("*") if path.is_file() and any(w in path.read_bytes() for w in wanted)]


@pytest.mark.long
@pytest.mark.processes
def test_a_run_writes_no_secret_of_its_environment(tmp_path: Path) -> None:
    """Logs, TensorBoard events, statuses, provenance, reports, caches, models, and what was printed."""
    few = [*SMALL, "targets=[tatoeba, udpos]", "intermediate={none: []}", "target_training.max_steps=2",
           "evaluation.max_examples=5"]  # fmt: skip
    shown = stilts("run", "quickstart", *few, cwd=tmp_path, **SECRETS)
    run = tmp_path / "runs" / "quickstart"
    kinds = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert {".log", ".json", ".jsonl", ".html", ".csv", ".tex", ".md", ".yaml", ".safetensors", ".npy"} <= kinds
    assert list(run.rglob("events.out.tfevents*"))
    assert hits(tmp_path, list(SECRETS.values())) == []
    assert not any(secret in shown for secret in SECRETS.values())


@pytest.mark.processes
def test_what_is_handed_to_slurm_holds_no_secret(tmp_path: Path) -> None:
    """The commands of a dry run, and the files that a submission makes before Slurm is asked."""
    profile = tmp_path / "cluster.yaml"
    profile.write_text("partition: gpu\n")
    shown = study.stilts(tmp_path, "submit", "study.yaml", "--cluster", profile, "--dry-run", environment=SECRETS)
    assert "sbatch" in shown and not any(secret in shown for secret in SECRETS.values())
    if not any((Path(part) / "sbatch").exists() for part in ("/usr/bin", "/usr/local/bin", "/bin")):
        study.stilts(tmp_path, "submit", "study.yaml", "--cluster", profile, fails=True, environment=SECRETS)
        assert (tmp_path / "runs" / "study" / "jobs" / "setup.sh").exists()
    assert hits(tmp_path, list(SECRETS.values())) == []


@pytest.mark.parametrize("override", [
    f"model.name_or_path={TOKEN}", f"model.name_or_path=https://user:{TOKEN}@huggingface.co/x/y",
    "model.name_or_path=https://me:secretpass@host/x", f"data.cache=/tmp/{TOKEN}", f"name={TOKEN}",
    f"targets=[{TOKEN}]", f"{TOKEN}=1", "data.cache=s3://AKIAABCDEFGHIJKLMNOP/x", f"nosuch.key={TOKEN}",
    f"seeds={TOKEN}: [",
])  # fmt: skip
def test_a_token_in_a_setting_is_refused_and_not_repeated(override: str) -> None:
    """A recipe is copied into the run folder, which is shared."""
    with pytest.raises(UserError) as refusal:
        load_recipe("quickstart", [override])
    for secret in (TOKEN, "secretpass", "AKIAABCDEFGHIJKLMNOP"):
        assert secret not in str(refusal.value)


@pytest.mark.parametrize("line", [
    f"setup: ['export HF_TOKEN={TOKEN}']", f"extra: ['--export=HF_TOKEN={TOKEN}']", f"account: {TOKEN}",
    f"container: {{runtime: pyxis, image: 'https://u:{TOKEN}@registry/x'}}",
])  # fmt: skip
def test_a_token_in_a_cluster_profile_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(line)
    with pytest.raises(UserError, match="looks like a token or a password; set HF_TOKEN in the environment") as refusal:
        load_profile(path)
    assert TOKEN not in str(refusal.value)


@pytest.mark.processes
def test_logs_hold_neither_tokens_nor_tracebacks_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    try:
        raise OSError(f"403 for https://user:pass@hub/x with {TOKEN} and {KEY}")
    except OSError:
        given = (f"https://me:pass@h?t={TOKEN}",)
        record = logging.LogRecord("x", logging.ERROR, "", 0, "GET %s", given, sys.exc_info())
    line = Redacting("%(message)s").format(record)
    assert "OSError" in line and not any(secret in line for secret in (TOKEN, KEY, "pass@"))


def test_plain_text_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redaction that takes too much would make messages useless; one word of the environment may be short."""
    monkeypatch.setenv("HF_TOKEN", "x")
    for text in ("hf_model at https://huggingface.co/a/b@main", "/data/hf_cache/x", "max_seq_length=8, line 3", "xlmr"):
        assert redacted(text) == text


def test_no_file_of_this_project_holds_a_token() -> None:
    folders = ("stilts_ds", "launcher", "kernels", "slurm", "ds_configs", "docs")
    for path in [p for name in folders for p in (ranks.ROOT / name).rglob("*") if p.suffix in (".py", ".yaml", ".md")]:
        text = path.read_text(encoding="utf-8")
        assert redacted(text) == text, path
