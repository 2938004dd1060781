"""Files that strangers made or put in the way: they run nothing, and nothing leaves the named folder through them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import conftest
import pytest
import ranks
from report_runs import build_run

from stilts_ds.config import ModelPart
from stilts_ds.engine.logs import Redacting
from stilts_ds.errors import UserError
from stilts_ds.model.encoder import load_encoder
from stilts_ds.model_files import TOY
from stilts_ds.report.push import push
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.write import write_report
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import PhaseDir, RunDir, read_json, write_json

pytestmark = pytest.mark.processes

TINY = ["output_dir=runs", "name=r", "targets=[xnli]", "intermediate={none: []}", "launch.nproc=1",
        "target_training.max_steps=2", "target_training.train_batch_size=4", "target_training.max_seq_length=40",
        "target_training.eval_examples=8", "data.max_train_examples=20", "evaluation.max_examples=4"]  # fmt: skip


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def stilts(folder: Path, *words: object, answer: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
    """One command in `folder`, with `answer` on its standard input."""
    command = [sys.executable, "-m", "stilts_launcher.cli", *map(str, words)]
    environment = ranks.environment(HF_MODULES_CACHE=str(folder / "modules"), PYTHONSAFEPATH="", **extra)
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=answer,
        text=True,
        timeout=240,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


# --- a model with code of its own ------------------------------------------------------------------------------------


def model_with_code(folder: Path, canary: Path) -> Path:
    """The toy model under a type of its own, whose configuration, model and tokenizer are code beside it."""
    shutil.copytree(TOY, folder)
    for name, classes in (
        ("config.json", {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Words", "evil.Words"]}),
    ):
        described = json.loads((folder / name).read_text())
        described |= {"auto_map": classes}
        described |= {"model_type": "evil"} if name == "config.json" else {"tokenizer_class": "EvilWords"}
        (folder / name).write_text(json.dumps(described))
    (folder / "evil.py").write_text(
        f"open({str(canary)!r}, 'w').write('ran')\nfrom transformers import PreTrainedTokenizerFast as Words\n"
        "from transformers import XLMRobertaConfig, XLMRobertaModel as Model\n"
        "class Config(XLMRobertaConfig):\n    model_type = 'evil'\n"
    )
    return folder


def test_the_models_code_would_run_if_it_were_allowed_to(tmp_path: Path, canary: Path) -> None:
    """Otherwise the next tests would show nothing: transformers asks, and takes the answer."""
    folder = model_with_code(tmp_path / "model", canary)
    program = f"from transformers import AutoConfig; AutoConfig.from_pretrained({str(folder)!r})"
    environment = ranks.environment(HF_MODULES_CACHE=str(tmp_path / "modules"))
    subprocess.run([sys.executable, "-c", program], env=environment, input="y\n", text=True, capture_output=True)
    assert canary.exists()


def test_a_models_own_code_is_refused_by_name(tmp_path: Path, canary: Path) -> None:
    folder = model_with_code(tmp_path / "model", canary)
    for load in (lambda: load_encoder(folder, ModelPart()), lambda: Tokenizer.load(folder)):
        with pytest.raises(UserError, match=r"needs Python code of its own \(auto_map\), which is never run here"):
            load()
    assert not canary.exists()


@pytest.mark.parametrize("verb", ["run", "plan", "fetch", "tasks"])
def test_no_command_runs_a_models_code_whatever_stands_on_standard_input(
    verb: str, tmp_path: Path, canary: Path
) -> None:
    model = model_with_code(tmp_path / "model", canary)
    if verb == "tasks":
        (tmp_path / "text").mkdir()
        (tmp_path / "text" / "en.txt").write_text("a sentence of some words\n" * 40)
        words: list[object] = ["tasks", "mlm", "--show", 1, "--text", tmp_path / "text", "--model", model]
    else:
        words = [verb, "quickstart", *TINY, f"model.name_or_path={model}"]
    done = stilts(tmp_path, *words, answer="y\n" * 20)
    assert not canary.exists() and "custom code?" not in done.stdout, done.stdout[-2000:]
    if verb != "plan":  # which loads no model
        assert done.returncode == 2 and "needs Python code of its own" in done.stdout, done.stdout[-2000:]


# --- links and damage ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = build_run(tmp_path / "run", intermediate={"none": []}, targets=["xnli"], languages={"xnli": ["de"]},
                     examples=5)  # fmt: skip
    write_report(made, ComparisonSettings(resamples=20))
    return made


def trained(run: RunDir) -> PhaseDir:
    return run.phase(read_json(run.plan)["phases"][0]["id"])


@pytest.mark.parametrize(
    "place", ["predictions/xnli", "encoder/config.json", "checkpoints/step-000002/shard", "results/xnli.json"]
)
def test_a_link_out_of_a_phase_is_refused_at_any_depth(place: str, run: RunDir, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = trained(run).root / place
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    for words in (("report", run.root), ("score", run.root), ("evaluate", run.root), ("submission", run.root)):
        said = conftest.stilts(*words, cwd=tmp_path, status=2)
        assert f"{link} is a link out of the run folder" in said, said[-2000:]
    assert not list(outside.iterdir())


def test_a_link_inside_the_run_is_no_fault_and_one_in_a_circle_is(run: RunDir) -> None:
    inside = run.labels / "again"
    inside.symlink_to(run.labels / "xnli")
    run.check_links()
    (run.labels / "circle").symlink_to(run.labels / "circle")
    with pytest.raises(UserError, match="circle is a link out of the run folder"):
        run.check_links()


@pytest.mark.parametrize("logs", ["logs", "logs/phase", "logs/phase/rank-0.log"])
def test_a_rank_writes_no_log_through_a_link(logs: str, tmp_path: Path) -> None:
    """As a job starts it: no command has looked at the run folder before."""
    run, victim = RunDir(tmp_path / "run"), tmp_path / "victim"
    (run.root / logs).parent.mkdir(parents=True)
    victim.write_text("mine\n") if logs.endswith(".log") else victim.mkdir()
    (run.root / logs).symlink_to(victim)
    [place] = ranks.places(1)
    done = subprocess.run(
        [sys.executable, "-m", "stilts_launcher.rank", str(run.root), "phase"],
        env=place,
        text=True,
        cwd=tmp_path,
        capture_output=True,
        timeout=400,
    )
    assert done.returncode == 2 and "is a link out of the run folder" in done.stderr, done.stderr[-2000:]
    assert victim.read_text() == "mine\n" if victim.is_file() else not list(victim.iterdir())


@pytest.mark.parametrize(
    "place",
    [
        "encoder/notes.txt",
        "encoder/config.json",
        "heads.safetensors",
        "heads.json",
        "README.md",
        "encoder",
        "encoder/folder",
    ],
)
def test_push_uploads_nothing_through_a_link(place: str, run: RunDir, tmp_path: Path) -> None:
    folder = trained(run)
    secret = tmp_path / "secret"
    if (folder.root / place).exists():
        shutil.move(str(folder.root / place), secret)
    elif place.endswith("folder"):
        secret.mkdir()
        (secret / "id_rsa").write_text("PRIVATE KEY")
    else:
        secret.write_text("PRIVATE KEY")
    (folder.root / place).symlink_to(secret)
    holder = (folder.root / place).parent
    with pytest.raises(UserError, match=f"{holder} holds a link to {secret}, which would be published"):
        push(folder, "me/model", dry_run=True)


def test_push_refuses_what_is_not_what_training_wrote(run: RunDir) -> None:
    folder = trained(run)
    assert "config.json" in push(folder, "me/model", dry_run=True)
    (folder.encoder / "modeling.py").write_text("import os\n")
    with pytest.raises(UserError, match="modeling.py is not among the files that training wrote"):
        push(folder, "me/model", dry_run=True)
    (folder.encoder / "modeling.py").unlink()
    (folder.encoder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="config.json changed since it was written; nothing is uploaded"):
        push(folder, "me/model", dry_run=True)
    (folder.encoder / "config.json").unlink()
    with pytest.raises(UserError, match="config.json is missing; nothing is uploaded"):
        push(folder, "me/model", dry_run=True)


# --- names -----------------------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>\x1b[31m\u202e\n## [x](javascript:y)\r| `"


def test_names_out_of_files_stand_escaped_in_everything_that_is_written(run: RunDir, tmp_path: Path) -> None:
    planned = read_json(run.plan)
    planned["name"] = EVIL
    planned["provenance"] |= {"git_commit": EVIL, "platform": EVIL, "model_hash": EVIL, "versions": {"stilts-ds": EVIL}}
    planned["model"] = f"owner/{EVIL}"
    write_json(run.plan, planned)
    path = trained(run).result("xnli")
    result = read_json(path)
    result["main"][EVIL] = result["main"]["de"]
    write_json(path, result)
    said = conftest.stilts("report", run.root, cwd=tmp_path)
    card = (trained(run).root / "README.md").read_text(encoding="utf-8")
    shown = {".out": said, ".card": card}
    for end in (".md", ".tex", ".csv", ".html"):
        # Behind the page's content stands its own script, which a browser runs by its hash alone.
        shown[end] = run.report.with_suffix(end).read_text(encoding="utf-8").partition("</main>")[0]
    for name, text in shown.items():
        assert not set(text) & set("\x1b\u202e\r"), name
        outside_code = "".join(text.replace("\\`", "").split("`")[::2])
        assert name in (".csv", ".tex") or "<script>" not in outside_code, name
        assert name in (".csv", ".html") or not any(line.startswith("## [x]") for line in text.splitlines()), name
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\\\x1b[31m" in card


@pytest.mark.parametrize("text, told", [("a\x1b[2J", r"a\x1b[2J"), ("\u202eb", r"\u202eb"), ("a\tb", r"a\tb")])
def test_a_log_does_not_steer_the_terminal(text: str, told: str) -> None:
    record = logging.LogRecord("stilts_ds", logging.INFO, "x.py", 1, "%s", (text,), None)
    assert Redacting("%(message)s").format(record) == told


# --- the working directory -------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always imports from the working directory")
def test_ranks_import_nothing_from_the_working_directory(tmp_path: Path, canary: Path) -> None:
    """The command itself is started as its installed script is: that one does not look there either."""
    for name in ("torch", "random", "tokenizers", "stilts_ds", "pkgutil", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write('{name} ')\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stilts_launcher.cli", "run", "quickstart", *TINY],
        cwd=tmp_path,
        env=ranks.environment(),
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not canary.exists(), canary.read_text()


@pytest.mark.parametrize("script", sorted((ranks.ROOT / "slurm").glob("*.sbatch")), ids=lambda path: path.stem)
def test_a_job_imports_nothing_from_the_folder_where_it_was_submitted(script: Path, tmp_path: Path) -> None:
    """The script's last command is Python or srun; what stands in its place tells its environment."""
    tool = tmp_path / "tool"
    tool.write_text(f'#!/bin/sh\necho "$PYTHONSAFEPATH" > {tmp_path}/told\n')
    tool.chmod(0o755)
    (tmp_path / "srun").symlink_to(tool)
    environment = {**os.environ, "STILTS_PYTHON": str(tool), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("PYTHONSAFEPATH", None)
    words = ["mine", "de.txt", "en.txt"] if script.stem == "mine" else [str(tmp_path), "phase"]
    subprocess.run(["bash", str(script), *words], env=environment, check=True, cwd=tmp_path)
    assert (tmp_path / "told").read_text() == "1\n"


# --- processes of strangers ------------------------------------------------------------------------------------------

JOIN = ranks.PROGRAMS / "join_ranks.py"
# Joins as rank 1 without a word in the store, as any program of torch.distributed does, and sends its pickle.
STRANGER = """
import datetime, os, sys
import torch.distributed as dist
class Evil:
    def __reduce__(self): return os.system, (f"touch {sys.argv[1]}",)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=10))
objects = dist.new_group(backend="gloo")
dist.new_group(backend="gloo")
dist.all_gather_object([None, None], Evil(), group=objects)
"""


LOOK = """
import os, sys
sys.path[:0] = sys.argv[2:]
from listening import listening
from stilts_ds.engine.world import joined
with joined(sys.argv[1], 60) as world:
    print(sorted(world.gather(sorted(listening(os.getpid())))))
"""


def test_ranks_on_one_machine_listen_on_loopback_only(tmp_path: Path) -> None:
    program = tmp_path / "look.py"
    program.write_text(LOOK)
    said = ranks.run(program, "token", ranks.PROGRAMS.parent, ranks=2, GLOO_SOCKET_IFNAME="nothere0")
    assert said.strip().splitlines()[-1] == "[['0100007F'], ['0100007F']]"


def test_a_stranger_that_joins_first_has_its_pickle_not_read(tmp_path: Path, canary: Path) -> None:
    first, second = ranks.places(2)
    rank = subprocess.Popen(
        [sys.executable, str(JOIN), "token"], env=first, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, str(canary)], env=second, text=True, capture_output=True, timeout=400
    )
    assert stranger.returncode != 0 and rank.poll() is None
    rank.kill()
    assert "sum" not in rank.communicate()[0] and not canary.exists()


def test_who_does_not_know_the_token_cannot_say_that_they_do(tmp_path: Path) -> None:
    """The marks of other ranks stand in the store; said again by another rank they are worth nothing."""
    from datetime import timedelta

    from torch.distributed import HashStore

    from stilts_ds.engine.world import _check_token

    store = HashStore()
    store.set_timeout(timedelta(seconds=5))
    store.set("compared/1", "")
    store.set("mark/1", "")
    with pytest.raises(UserError, match="ranks of different runs met"):
        _check_token(store, "token", 0, 2)
    store.set("mark/1", store.get("mark/0").decode())
    with pytest.raises(UserError, match="ranks of different runs met"):
        _check_token(store, "token", 0, 2)
    known = HashStore()
    known.set("mark/0", store.get("mark/0").decode())
    _check_token(known, "token", 1, 2)  # who knows it
    store.set("mark/1", known.get("mark/1").decode())
    _check_token(store, "token", 0, 2)


@pytest.mark.parametrize("path", sorted((ranks.ROOT / "stilts_ds").rglob("*.py")), ids=lambda path: path.stem)
def test_ranks_exchange_no_pickles(path: Path) -> None:
    assert not re.search(r"_object(_list)?\(", path.read_text(encoding="utf-8"))
