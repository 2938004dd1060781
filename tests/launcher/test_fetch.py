"""`stilts fetch`, all without a network: local files, and a Hugging Face cache laid out by hand as the libraries do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import ranks
from conftest import stilts

from stilts_ds.errors import UserError, redacted
from stilts_ds.model_files import TOY
from stilts_ds.model_hub import model_files_of
from stilts_ds.tasks.registry import get_task
from stilts_ds.weight_files import check_weights

pytestmark = pytest.mark.processes

STUDY = [
    "intermediate={none: [], nli: [mnli]}",
    "targets=[xnli, udpos, tatoeba, bucc2018]",
    "evaluation.max_examples=20",
]
NLI = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
HUB_STUDY = [
    "data.source=hub",
    "intermediate={none: []}",
    "targets=[xnli]",
    "data.train_split={}",
    "evaluation.languages={xnli: [en, sw]}",
    "target_training.max_seq_length=64",
]
MODEL = "someone/tiny-xlmr"


def test_fetch_needs_no_torch_and_leaves_rows_that_a_plan_counts(tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules['torch'] = sys.modules['deepspeed'] = None\n"
        f"from stilts_launcher.cli import main\nsys.exit(main({['fetch', 'quickstart', *STUDY]}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=ranks.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checked: everything loads with HF_HUB_OFFLINE=1" in done.stdout and "HF_HOME" not in done.stdout
    cache = tmp_path / "runs" / "quickstart" / "cache"
    keys = [json.loads(file.read_text())["key"] for file in cache.glob("*/manifest.json")]
    # xnli and udpos in four languages; train and dev of mnli (twice: two lengths of dev selection) and of udpos.
    assert {(k["task"], k["split"], k["language"]) for k in keys if "task" in k} >= {
        ("mnli", "train", "qaa"),
        ("udpos", "dev", "qaa"),
        ("xnli", "test", "qad"),
        ("udpos", "test", "qab"),
    }
    assert sum("bitext" in key for key in keys) > 6
    shown = stilts("plan", "quickstart", *STUDY, "--phases", cwd=tmp_path)
    assert "unknown until" not in shown and "tokens " in shown


def test_every_missing_file_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "data" / "mnli").mkdir(parents=True)
    (tmp_path / "data" / "mnli" / "multinli_1.0_train.jsonl").write_text("version https://git-lfs.github.com/spec/v1")
    shown = stilts(
        "fetch",
        "mini_xlmr",
        "model.name_or_path=toy",
        f"data.intermediate={tmp_path / 'data'}",
        f"data.xtreme={tmp_path / 'data'}",
        "intermediate={none: [], a: [anli_plus]}",
        "targets=[xquad]",
        "data.train_split={}",
        "evaluation.languages=all",
        cwd=tmp_path,
        status=2,
    )
    for name in ("R1/train", "R2/train", "R3/train", "R1/dev", "multinli_1.0_dev_matched", "snli_1.0_train"):
        assert f"{name}.jsonl; get it from http" in shown
    assert "multinli_1.0_train.jsonl: is a Git LFS pointer, not the data; run `git lfs pull`" in shown
    assert all(f"xquad: no test file for '{code}'" in shown for code in get_task("xquad").languages)
    assert shown.startswith("error: ") and "HF_HOME" not in shown and not (tmp_path / "runs").exists()


def test_real_data_are_all_there(shared_data: Path, tmp_path: Path) -> None:
    shown = stilts(
        "fetch",
        "mini_xlmr",
        "model.name_or_path=toy",
        *(f"data.{n}={shared_data / n}" for n in ("intermediate", "xtreme")),
        "intermediate={none: [], csqa: [commonsenseqa]}",
        "targets=[xnli, panx, tydiqa]",
        "data.max_train_examples=200",
        cwd=tmp_path,
    )
    assert "checked: everything loads" in shown


def test_an_empty_cache_without_network_is_told_by_name(tmp_path: Path) -> None:
    study = ["mini_xlmr", f"model.name_or_path={MODEL}", *HUB_STUDY]
    extra = {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_abcdefghijklmnop"}
    shown = stilts("fetch", *study, cwd=tmp_path, status=2, **extra)
    assert f"model {MODEL} is not in the Hugging Face cache" in shown
    for what in ("nyu-mll/glue (configuration mnli, split train", "facebook/xnli (configuration sw, split test"):
        assert f"cannot load {what}" in shown
    assert "HF_HUB_OFFLINE is set (unset it to use the network), so only the cache in" in shown
    assert f"HF_HOME={tmp_path / 'hf'}" in shown
    shown += stilts(
        "fetch", *study, cwd=tmp_path, status=2, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9", **extra
    )
    assert "http://127.0.0.1:9 cannot be reached" in shown
    assert "Retrying" not in shown  # one question for all files, not five at each
    assert "hf_abcdefghijklmnop" not in shown


def cached_data_set(home: Path, repo: str, config: str, split: str, revision: str, rows: list[dict[str, Any]]) -> None:
    """Put rows where `datasets` keeps those of a hub data set."""
    file, scratch = home / "rows.parquet", home / "scratch"
    datasets.Dataset.from_list(rows).cast_column("label", NLI).to_parquet(str(file))
    datasets.load_dataset("parquet", data_files={split: str(file)}, cache_dir=str(scratch))
    [made] = [path.parent for path in scratch.rglob("dataset_info.json")]
    name = repo.split("/")[1]
    info = {**json.loads((made / "dataset_info.json").read_text()), "dataset_name": name, "config_name": config}
    folder = home / "datasets" / repo.replace("/", "___") / config / "0.0.0" / revision
    if (folder / "dataset_info.json").exists():
        info["splits"] |= json.loads((folder / "dataset_info.json").read_text())["splits"]
    for one in info["splits"].values():
        one["dataset_name"] = name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    shutil.copy(made / f"parquet-{split}.arrow", folder / f"{name}-{split}.arrow")
    shutil.rmtree(scratch)


@pytest.fixture
def filled_home(tmp_path: Path) -> Path:
    """A Hugging Face cache with the toy model under a hub name, MNLI and two languages of XNLI."""
    home = tmp_path / "hf"
    snapshot = home / "hub" / f"models--{MODEL.replace('/', '--')}" / "snapshots" / ("c" * 40)
    shutil.copytree(TOY, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("c" * 40)
    rows = [{"premise": "a b", "hypothesis": "c", "label": i % 3} for i in range(150)]
    [train], [dev] = get_task("mnli").hub["train"], get_task("mnli").hub["dev"]
    for one in (train, dev):
        cached_data_set(home, one.repo, one.config, one.split, one.revision, rows)
    [test] = get_task("xnli").hub["test"]
    for language in ("en", "sw"):
        cached_data_set(home, test.repo, language, test.split, test.revision, rows)
    return home


def test_a_filled_cache_serves_without_network(filled_home: Path, tmp_path: Path) -> None:
    study = ["mini_xlmr", f"model.name_or_path={MODEL}", *HUB_STUDY]
    shown = stilts("fetch", *study, cwd=tmp_path, HF_HOME=str(filled_home))
    assert "checked: everything loads" in shown and f"jobs must see HF_HOME={filled_home}" in shown
    planned = stilts("plan", *study, "--phases", cwd=tmp_path, HF_HOME=str(filled_home))
    vocabulary = json.loads((TOY / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    assert f"of {vocabulary} vocabulary rows" in planned and "tokens unknown" not in planned


def test_another_revision_in_the_cache_is_refused(filled_home: Path, tmp_path: Path) -> None:
    [folder] = (filled_home / "datasets" / "facebook___xnli" / "sw" / "0.0.0").iterdir()
    folder.rename(folder.with_name("d" * 40))
    shown = stilts(
        "fetch",
        "mini_xlmr",
        f"model.name_or_path={MODEL}",
        *HUB_STUDY,
        cwd=tmp_path,
        status=2,
        HF_HOME=str(filled_home),
    )
    assert f"facebook/xnli sw: the cache has revision {'d' * 40}, but b8dd5d7af51114dbda02c0e3f6133f332186418e" in shown


def test_one_format_of_the_weights_is_fetched() -> None:
    files = [
        "config.json",
        "tokenizer.json",
        "sentencepiece.bpe.model",
        "model.safetensors",
        "pytorch_model.bin",
        "flax_model.msgpack",
        "onnx/model.onnx",
        "onnx/config.json",
        "README.md",
        "training_args.bin",
    ]
    chosen = ["config.json", "tokenizer.json", "sentencepiece.bpe.model"]
    assert model_files_of(files) == [*chosen, "model.safetensors"]
    files.remove("model.safetensors")
    assert model_files_of(files) == [*chosen, "pytorch_model.bin"]
    assert model_files_of(["model-00001-of-00002.safetensors", "model.safetensors.index.json"]) == [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_cut_and_missing_weights_are_found(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copy(TOY / "model.safetensors", file)
    check_weights(tmp_path)
    whole = file.stat().st_size
    os.truncate(file, whole - 1)
    with pytest.raises(UserError, match=f"has {whole - 1} of {whole} bytes"):
        check_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(UserError, match="lacks model-2.safetensors"):
        check_weights(tmp_path)


def test_tokens_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-of-a-mirror")
    text = "Bearer hf_AbCdEfGhIjKl refused secret-of-a-mirror for user"
    assert redacted(text) == "Bearer (token) refused (token) for user"
