"""Payloads of people who mean harm: no code of theirs runs, and nothing is written outside the named folder."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import fuzz_tensors
import numpy as np
import pytest
import ranks
import small
import torch
from report_runs import build_run
from stilts_kernels.mining.files import topk_files
from stilts_launcher import status
from stilts_launcher.backends.registry import load_profile

from stilts_ds.config import ModelPart, load_recipe, written_recipe
from stilts_ds.data.cache import cached_rows
from stilts_ds.engine import checkpoint
from stilts_ds.errors import UserError
from stilts_ds.locks import folder_lock
from stilts_ds.model.encoder import load_encoder, read_language_head
from stilts_ds.model_files import check_folder, model_folder
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.write import write_report
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import (
    RunDir,
    hash_file,
    read_json,
    read_sealed,
    write_atomically,
    write_json,
    write_sealed,
)
from stilts_ds.sources.files import read_lines
from stilts_ds.weight_files import check_weights

PACKAGES = ("stilts_ds", "launcher", "kernels")
SOURCES = [path for folder in PACKAGES for path in sorted((ranks.ROOT / folder).rglob("*.py"))]


class Evil:
    """Runs a shell command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.mark.processes
def test_the_payload_works(canary: Path) -> None:
    """Otherwise no other test of this file would show anything."""
    pickle.loads(pickle.dumps(Evil(canary)))
    assert canary.exists()


# --- pickles ---------------------------------------------------------------------------------------------------------


def evil_pickle(path: Path, canary: Path, how: str) -> None:
    """The same payload as a bare pickle, as torch's zip format and as its older format."""
    value = {"lm_head.bias": Evil(canary), "embeddings.word_embeddings.weight": Evil(canary)}
    if how == "bare":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how == "zip")


def model_with(folder: Path, name: str, canary: Path, how: str) -> Path:
    """A model whose weights are the payload."""
    encoder: Any = small.model(hidden=8, layers=1).encoder
    encoder.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    evil_pickle(folder / name, canary, how)
    return folder


@pytest.mark.parametrize("how", ["bare", "zip", "old"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_for_weights_is_refused(name: str, how: str, tmp_path: Path, canary: Path) -> None:
    folder = model_with(tmp_path / "model", name, canary, how)
    for load in (lambda: load_encoder(folder, ModelPart()), lambda: read_language_head(folder)):
        with pytest.raises(UserError, match="cannot (load a model from|read the weights in)|header is damaged|no saf"):
            load()
    assert not canary.exists()


def test_a_split_model_reads_only_files_beside_its_index(tmp_path: Path, canary: Path) -> None:
    folder = model_with(tmp_path / "model", "pytorch_model.bin", canary, "zip")
    (folder / "pytorch_model.bin").rename(tmp_path / "outside.bin")
    evil_pickle(folder / "pytorch_model-1.bin", canary, "zip")
    index = {"weight_map": {"lm_head.bias": "../outside.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for look in (check_folder, read_language_head, lambda path: load_encoder(path, ModelPart())):
        with pytest.raises(UserError, match="is no index of weight files"):
            look(folder)
    assert not canary.exists()


def test_a_pickle_in_a_checkpoint_is_passed_over(tmp_path: Path, canary: Path) -> None:
    """DeepSpeed's own checkpoint files are never read, whatever lies there; a shard that is a pickle has changed."""
    folder = tmp_path / "checkpoints"
    for step in (7, 12):
        fuzz_tensors.write_tag(folder, step)
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt", "shard-00009.safetensors"):
        evil_pickle(folder / "step-000012" / name, canary, "zip")
    found, _ = checkpoint.find(folder, fuzz_tensors.LONE)
    assert found is not None and found.folder.name == "step-000012"
    fuzz_tensors.check_checkpoint(found, folder)
    evil_pickle(folder / "step-000012" / "shard-00000.safetensors", canary, "zip")
    found, _ = checkpoint.find(folder, fuzz_tensors.LONE)
    assert found is not None and found.folder.name == "step-000007"
    assert not canary.exists()


@pytest.mark.parametrize("sized", [False, True])
def test_a_pickle_in_a_cache_of_rows_is_made_again(sized: bool, tmp_path: Path, canary: Path) -> None:
    """Also where the manifest was forged to fit."""
    rows = Rows(*(np.array([0, 1, 2], np.int32) for _ in range(5)))
    cached_rows(tmp_path, {"a": 1}, lambda _: rows)
    [manifest] = tmp_path.glob("*/manifest.json")
    path = manifest.with_name("starts.npy")
    np.save(path, np.array([Evil(canary)], dtype=object), allow_pickle=True)
    if sized:
        described = read_sealed(manifest)
        described["sizes"]["starts"], described["hashes"]["starts"] = path.stat().st_size, hash_file(path)
        write_sealed(manifest, described)
    found = cached_rows(tmp_path, {"a": 1}, lambda _: rows, verify=True)
    assert np.array_equal(found.starts, rows.starts) and not canary.exists()


def test_a_pickle_among_retrieval_shards_is_refused_and_a_part_is_made_again(tmp_path: Path, canary: Path) -> None:
    queries, bank = torch.randn(3, 4), tmp_path / "bank.npy"
    np.save(bank, np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32))
    whole = topk_files(queries, [bank], 2, tmp_path / "parts")
    [part] = (tmp_path / "parts").glob("part-00000-*.pt")
    evil_pickle(part, canary, "zip")
    assert torch.equal(topk_files(queries, [bank], 2, tmp_path / "parts").values, whole.values)
    np.save(bank, np.array([[Evil(canary)]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="bank.npy"):
        topk_files(queries, [bank], 2, tmp_path / "parts")
    assert not canary.exists()


COMMANDS = (
    "stilts_launcher.cli",
    "stilts_launcher.rank",
    "stilts_launcher.supervise",
    "stilts_launcher.fetch",
    "stilts_ds.phases",
    "stilts_ds.trial",
)


@pytest.mark.processes
@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_forbids_torch_to_unpickle_code(module: str, tmp_path: Path, canary: Path) -> None:
    """Even a library that asks for it by `weights_only=False`, as DeepSpeed does, and a user's shell that allows it."""
    evil_pickle(tmp_path / "x.pt", canary, "zip")
    program = (
        f"import {module}, torch\ntry:\n    torch.load({str(tmp_path / 'x.pt')!r}, weights_only=False)\n"
        "except Exception as error:\n    print(type(error).__name__)"
    )
    extra = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "0"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=ranks.environment(**extra), capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1:] == ["UnpicklingError"], done.stderr[-2000:]
    assert not canary.exists()


# --- the source itself -----------------------------------------------------------------------------------------------

FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "dill.load",
    "tempfile.mktemp",
    "shutil.unpack_archive",
    "subprocess.getoutput",
    "pandas.read_pickle",
}
ARCHIVES = {"tarfile", "pickle", "marshal", "shelve", "dill", "joblib", "telnetlib", "ftplib"}
KEYWORDS = {"shell": False, "trust_remote_code": False, "allow_pickle": False, "weights_only": True}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(tree: ast.AST) -> list[str]:
    """What may not stand in this project's source."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            found += sorted(ARCHIVES & {name.split(".")[0] for name in names})
            found += ["ZipFile"] if "ZipFile" in names else []
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        found += [name] if name in FORBIDDEN or name.endswith((".extractall", ".ZipFile")) else []
        given = {word.arg: word.value for word in node.keywords}
        for key, allowed in KEYWORDS.items():
            value = given.get(key)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is allowed):
                found.append(f"{name}({key}=)")
        found += [f"{name} without weights_only"] if name == "torch.load" and "weights_only" not in given else []
        asks = name.endswith(".from_pretrained") and "trust_remote_code" not in given  # left out, it means to ask
        found += [f"{name} without trust_remote_code"] if asks else []
    return found


def test_the_source_runs_no_text_and_opens_no_archive() -> None:
    """No eval, no shell, no pickle, no code of a model's repository; no archive is read anywhere, so none can lead out
    of a folder. Programs of `stilts execute` are run in one module, which runs in the sandbox alone."""
    assert len(SOURCES) > 200
    for path in SOURCES:
        found = faults(ast.parse(path.read_text(encoding="utf-8")))
        runs_programs = path.parts[-2:] == ("execute", "python_sides.py")
        assert set(found) <= ({"exec", "compile"} if runs_programs else set()), path


@pytest.mark.parametrize("line", [
    "eval(x)", "import pickle", "from tarfile import open", "os.system('x')", "subprocess.run(x, shell=True)",
    "torch.load(x)", "torch.load(x, weights_only=False)", "np.load(x, allow_pickle=True)", "a.extractall()",
    "AutoModel.from_pretrained(x, trust_remote_code=flag)", "yaml.load(x, Loader)", "from zipfile import ZipFile",
    "AutoTokenizer.from_pretrained(x)",
])  # fmt: skip
def test_the_rule_sees(line: str) -> None:
    assert len(faults(ast.parse(line))) == 1


# --- YAML, archives, links, ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [
    "!!python/object/apply:os.system ['touch {}']", "!!python/object/new:os.system ['touch {}']",
    "!!python/name:os.system", "!!python/module:os", "!!python/tuple [1]", "!local x",
    '!!python/object/apply:subprocess.check_output [["touch", "{}"]]',
])  # fmt: skip
def test_a_yaml_tag_runs_nothing(tag: str, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: study\ntargets: [xnli]\nmodel: {tag.format(canary)}\n")
    for read in (lambda: load_recipe(str(path)), lambda: load_profile(path), lambda: written_recipe(path),
                 lambda: load_recipe("quickstart", [f"model={tag.format(canary)}"])):  # fmt: skip
        with pytest.raises(UserError, match="is not valid YAML"):
            read()
    assert not canary.exists()


def test_an_archive_in_place_of_data_is_refused_and_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped", "x")
    with pytest.raises(UserError, match="is a zip archive; unpack it"):
        list(read_lines(path))
    assert not list(tmp_path.parent.glob("**/escaped"))


@pytest.mark.parametrize("place", ["predictions", "labels", "status.json", "logs", "jobs", "encoder", "tensorboard"])
def test_a_link_out_of_a_run_is_refused(place: str, tmp_path: Path) -> None:
    """The report writes into every phase's folder; nothing of it may land behind a link."""
    run = build_run(tmp_path / "run", intermediate={"none": []}, targets=["tatoeba"], languages={"tatoeba": ["de"]},
                    examples=5)  # fmt: skip
    phase = run.phase(read_json(run.plan)["phases"][0]["id"]).root
    outside = tmp_path / "outside"
    link = run.root / place if place in ("labels", "logs", "jobs", "tensorboard") else phase / place
    if link.exists():
        shutil.move(str(link), outside)
    else:
        outside.mkdir()
    before = sorted(outside.rglob("*")) if outside.is_dir() else outside.read_bytes()
    link.symlink_to(outside)
    with pytest.raises(UserError, match=f"{place} is a link out of the run folder"):
        write_report(run, ComparisonSettings(resamples=20))
    assert (sorted(outside.rglob("*")) if outside.is_dir() else outside.read_bytes()) == before


def test_writing_replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in ("report.md", ".lock"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    write_atomically(tmp_path / "report.md", "new")
    with pytest.raises(UserError, match="delete it if it is a link"), folder_lock(tmp_path, "busy"):
        pass
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "report.md").is_symlink()


@pytest.mark.parametrize("name", [
    "../../etc/passwd", "a/../../b", "-x", "owner/name\n", "owner/na me", "owner/name;touch x", "http://x/y", "a//b",
    "owner/$(touch x)", "%2e%2e/x", "owner/name@main", "\x1b[31m", "", "~root/x",
])  # fmt: skip
def test_an_odd_model_name_is_no_path_to_anything(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError):
        load_encoder(name, ModelPart())
    folder = model_folder(name, None)
    if folder is not None:
        with pytest.raises(UserError):
            check_weights(folder)
    assert not list(tmp_path.iterdir())


# --- what is shown ---------------------------------------------------------------------------------------------------

HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg onload=x>"
MARKDOWN = "![x](http://evil/x.png) [y](javascript:x) `</code><b>"
LATEX = r"\input{/etc/passwd}\write18{touch x} $x^2$ %"
CSV = '=cmd|"/c calc"!A1'
ANSI = "\x1b]0;owned\x07\x1b[2J\x1b[31m\u202e"


def hostile_run(folder: Path) -> RunDir:
    """Conditions, model and run carry payloads, as a stranger's run folder could."""
    run = build_run(folder, intermediate={"none": [], HTML: ["mnli"], MARKDOWN: ["qqp"], LATEX: ["squad_v1"],
                                          CSV: ["ccg"], ANSI: ["hellaswag"]},
                    targets=["tatoeba"], languages={"tatoeba": ["de"]}, examples=5, model=HTML + MARKDOWN)  # fmt: skip
    planned = read_json(run.plan)
    planned |= {"name": HTML + MARKDOWN + LATEX, "source": HTML}
    planned["provenance"] |= {"git_commit": HTML + "`", "platform": ANSI}
    write_json(run.plan, planned)
    return run


def test_a_report_shows_names_as_text(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run")
    write_report(run, ComparisonSettings(resamples=20))
    page = run.report.with_suffix(".html").read_text(encoding="utf-8")
    # The page's own script is its last word; a browser runs no other, since the policy has its hash.
    names, scripts = page.split("</main>")
    assert scripts.count("<script") == 1 and "'unsafe-inline'; script-src 'sha256-" in page
    for live in ("<script", "<img", "<svg onload", "</code><b>"):
        assert live not in names, live
    assert "default-src 'none'" in page and "&lt;script&gt;" in page
    plain = "\n".join(line for line in run.report.read_text(encoding="utf-8").splitlines())
    cells = [part for line in plain.splitlines() for i, part in enumerate(line.split("`")) if i % 2 == 0]
    assert not any("<script" in cell or "<img" in cell or "](http" in cell for cell in cells)
    latex = run.report.with_suffix(".tex").read_text(encoding="utf-8")
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    assert r"\input" not in body and r"\write18" not in body
    rows = run.report.with_suffix(".csv").read_text(encoding="utf-8").splitlines()
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.replace('"', "").split(",")[:3])


def test_the_terminal_is_not_steered(tmp_path: Path) -> None:
    """Errors, states and logs may quote a stranger's file."""
    run = hostile_run(tmp_path / "run")
    phase = read_json(run.plan)["phases"][0]["id"]
    run.phase(phase).set_status("failed", error=f"it broke {ANSI}")
    (run.logs / phase).mkdir(parents=True)
    (run.logs / phase / "rank-0.log").write_text(f"a line {ANSI}\n", encoding="utf-8")
    shown = [status.run_status(run).text(), status.run_logs(run, phase, None, 5), str(UserError(f"{ANSI}; give text"))]
    assert all("\x1b" not in text and "\u202e" not in text and "\\x1b" in text for text in shown)
