"""`stilts embed`, `mine` and `search` as users run them: on ranks, killed and continued, against plain computations."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import forked
import numpy as np
import pytest
import ranks
from conftest import stilts
from mpi import ON_ANY_MACHINE, mpiexec
from processes import all_end

from stilts_ds.mining.vectors import note_of
from stilts_ds.model_files import TOY

pytestmark = pytest.mark.processes
PROGRAM = ranks.PROGRAMS / "mining_ranks.py"
run = partial(ranks.run, start=forked.start)
RESULTS = (".npy", ".npy.json", ".tsv", "-search.tsv", "-evaluate.json")
SOURCES, TARGETS = 180, 290  # several chunks of sentences and blocks of targets, as the program cuts them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short texts, some of them equal, and what one process makes of them, under the name `alone`."""
    folder = tmp_path_factory.mktemp("texts")
    dice = random.Random(3)
    for name, count in (("x", SOURCES), ("y", TARGETS)):
        words = [" ".join(dice.choice("abcdefghij") for _ in range(dice.randint(1, 6))) for _ in range(count)]
        (folder / f"{name}.txt").write_text("".join(f"{text}\n" for text in words))
        (folder / "few.txt").write_text("".join(f"{text}\n" for text in words[:20]))
    run(PROGRAM, "alone", folder, "alone", timeout=600)
    return folder


def check_equal(folder: Path, name: str, *suffixes: str) -> None:
    for suffix in suffixes or RESULTS:
        made, expected = ((folder / f"{which}{suffix}").read_bytes() for which in (name, "alone"))
        assert made == expected, f"{name}{suffix}"
    assert not list(folder.glob(f"{name}*.work"))


@pytest.mark.parametrize("kind, count", [pytest.param("gloo", 3, marks=pytest.mark.long), ("mpi", 2)])
def test_ranks_write_the_same_bytes_as_one_process(kind: str, count: int, folder: Path) -> None:
    name = f"{kind}{count}"
    if kind == "gloo":
        run(PROGRAM, kind, folder, name, ranks=count, timeout=600)
    else:
        python = [sys.executable, "-m", "mpi4py", str(PROGRAM), kind, str(folder), name]
        command = [mpiexec(), *ON_ANY_MACHINE, "-n", str(count), *python]
        done = subprocess.run(command, env=ranks.environment(), text=True, capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    check_equal(folder, name)


def killed(folder: Path, step: str, count: int = 1) -> Path:
    """Do a step until every rank is killed; the folder that holds what they finished. The next start takes `name`."""
    name = f"killed{count}"
    processes = forked.start(PROGRAM, "alone" if count == 1 else "gloo", folder, name, step, "kill", ranks=count)
    while all(process.poll() is None for process in processes):
        time.sleep(0.05)
    # As a launcher does when a rank is gone; those that wait for it would wait for long.
    for process in processes:
        process.kill()
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    # A rank may see that another is gone before it is killed itself.
    codes = [process.returncode for process in processes]
    assert -signal.SIGKILL in codes and all(codes), outputs
    [work] = folder.glob(f"{name}*.work")
    return work


def go_on(folder: Path, step: str, count: int, *suffixes: str) -> None:
    """Do the killed step again, on as many ranks, and compare its files."""
    run(PROGRAM, "alone" if count == 1 else "gloo", folder, f"killed{count}", step, ranks=count, timeout=600)
    check_equal(folder, f"killed{count}", *suffixes)


def test_killed_embedding_is_continued_bit_for_bit(folder: Path) -> None:
    """The first chunk is noted and stays; the second was written and not noted, and its bytes are spoiled here."""
    work = killed(folder, "embed")
    assert len((work / "done-00000.jsonl").read_text().split("\n")) == 3  # an empty line, a chunk, its end
    with open(work / "vectors.npy", "r+b") as file:
        file.seek(-100, 2)
        file.write(b"spoiled")
    go_on(folder, "embed", 1, ".npy", ".npy.json")


def test_killed_mining_is_continued_bit_for_bit(folder: Path) -> None:
    work = killed(folder, "mine")
    assert [path.name for path in work.glob("search-*.pt")] == ["search-0-of-1-00000001.pt"]
    vectors = {path: path.stat().st_mtime_ns for path in work.glob("*.npy")}
    assert {path.name for path in vectors} == {"source.npy", "target.npy"}
    go_on(folder, "mine", 1, ".tsv")


@pytest.mark.long
def test_two_killed_ranks_are_continued_bit_for_bit(folder: Path) -> None:
    """Embedding, then mining; what the ranks finished before is taken over."""
    work = killed(folder, "embed", 2)
    noted = "".join(path.read_text() for path in work.glob("done-*.jsonl"))
    assert 1 <= noted.count('"chunk"') < 3  # of three
    go_on(folder, "embed", 2, ".npy", ".npy.json")
    work = killed(folder, "mine", 2)
    kept = {path.name for path in work.glob("search-*.pt")}
    assert kept == {f"search-{rank}-of-2-00000001.pt" for rank in (0, 1)}
    go_on(folder, "mine", 2, ".tsv")


@pytest.mark.long
def test_vectors_are_the_models_own(tmp_path: Path) -> None:
    """Against AutoModel, a text at a time: prefix, layer, pooling; then in half precision in the file."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    lines = ["qaa is a", "b", "a longer text than these", "b"]
    (tmp_path / "x.tsv").write_text("".join(f"id-{i}\t{line}\n" for i, line in enumerate(lines)))
    options = ["--ids", "--prefix", "query: ", "--layer", "1", "--pooling", "first", "--batch-size", "3"]
    stilts("embed", TOY, "x.tsv", "-o", "x.npy", *options, cwd=tmp_path)
    stilts("embed", TOY, "x.tsv", "-o", "half.npy", *options, "--stored", "fp16", cwd=tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(TOY)
    model = AutoModel.from_pretrained(TOY, dtype=torch.float32, add_pooling_layer=False).eval()
    with torch.no_grad():
        encoded = [tokenizer(f"query: {line}", return_tensors="pt", return_token_type_ids=False) for line in lines]
        expected = [model(**text, output_hidden_states=True).hidden_states[1][0, 0].numpy() for text in encoded]
    made = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_allclose(made, np.stack(expected), atol=1e-5)
    assert np.array_equal(np.load(tmp_path / "half.npy"), made.astype(np.float16))
    noted = json.loads(note_of(tmp_path / "x.npy").read_text())
    assert noted["lines"] == 4 and noted["settings"]["prefix"] == "query: " and noted["settings"]["layer"] == 1
    shown = stilts("embed", TOY, "x.tsv", "-o", "x.npy", cwd=tmp_path, status=2)
    assert "x.npy.json exists; nothing is overwritten" in shown
    shown = stilts("embed", TOY, "x.tsv", "-o", "y.npy", "--layer", "9", cwd=tmp_path, status=2)
    assert "layer=9, but the model has" in shown and not list(tmp_path.glob("y.npy*"))
    np.save(tmp_path / "x.npy", made + 1)
    shown = stilts("search", "x.npy", "half.npy", "-k", "1", "-o", "n.tsv", cwd=tmp_path, status=2)
    assert "x.npy changed since `stilts embed` wrote it" in shown


@pytest.mark.long
def test_launchers_start_the_ranks(tmp_path: Path) -> None:
    """mpirun's ranks, and those that `--ranks` starts, mine what one process mines; a bad file ends all of them."""
    generator = np.random.default_rng(1)
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", generator.normal(size=(200, 16)).astype(np.float32))
    stilts("mine", "x.npy", "y.npy", "-o", "one.tsv", cwd=tmp_path)
    stilts("mine", "x.npy", "y.npy", "-o", "two.tsv", "--ranks", "2", cwd=tmp_path, warm=False)
    command = [mpiexec(), *ON_ANY_MACHINE, "-n", "2", sys.executable, "-m", "stilts_launcher.cli", "mine", "x.npy"]

    def mine(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=ranks.environment(), text=True, capture_output=True, timeout=600
        )

    done = mine("y.npy", "-o", "mpi.tsv")
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("two.tsv", "mpi.tsv"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "one.tsv").read_bytes()
    before = sorted(tmp_path.iterdir())
    done = mine("gone.npy", "-o", "bad.tsv")
    assert done.returncode != 0 and "error: gone.npy: cannot be opened (No such file" in done.stderr
    # Refused before a rank has opened its log there.
    for output, message in (("none/bad.tsv", "none is no folder"), ("taken.tsv", "taken.tsv.work is no work folder")):
        (tmp_path / "taken.tsv.work").write_text("somebody's")
        done = mine("y.npy", "-o", output)
        assert done.returncode != 0 and message in done.stderr
        (tmp_path / "taken.tsv.work").unlink()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ranks_of_mpirun_are_killed_and_go_on_bit_for_bit(count: int, tmp_path: Path) -> None:
    """The command itself: a rank is killed while it embeds, one while it searches; each time mpirun ends the others."""
    dice = random.Random(count)
    for name in ("x", "y"):
        words = [" ".join(dice.choice("abcdefghij") for _ in range(dice.randint(1, 6))) for _ in range(300)]
        (tmp_path / f"{name}.txt").write_text("".join(f"{text}\n" for text in words))
    python = [sys.executable, str(ranks.PROGRAMS / "mining_command.py")]
    on_ranks = [mpiexec(), *ON_ANY_MACHINE, "-n", str(count), *python]

    def mine(command: list[str], output: str) -> subprocess.Popen[str]:
        arguments = ["mine", "x.txt", "y.txt", "--model", TOY, "-o", output]
        return subprocess.Popen(
            [*command, *arguments], cwd=tmp_path, env=ranks.environment(), text=True, stderr=subprocess.PIPE
        )

    assert mine(python, "alone.tsv").wait(timeout=600) == 0
    for finished in ("source.npy.work/done-*.jsonl", "search-*.pt"):
        process = mine(on_ranks, "pairs.tsv")
        while not any(path.stat().st_size > 1 for path in (tmp_path / "pairs.tsv.work").glob(finished)):
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.01)
        of_ranks = pids_with(tmp_path, "mining_command.py")
        assert len(of_ranks) == count
        os.kill(dice.choice(of_ranks), signal.SIGKILL)
        assert process.wait(timeout=600) != 0 and all_end(of_ranks)
        assert (tmp_path / "pairs.tsv.work").is_dir() and not (tmp_path / "pairs.tsv").exists()
    process = mine(on_ranks, "pairs.tsv")
    told = process.communicate(timeout=600)[1]
    assert process.returncode == 0 and "going on with the work in pairs.tsv.work" in told, told[-3000:]
    assert (tmp_path / "pairs.tsv").read_bytes() == (tmp_path / "alone.tsv").read_bytes()
    assert not list(tmp_path.glob("*.work"))


def pids_with(folder: Path, program: str) -> list[int]:
    """Processes that run a Python program in a folder."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if Path(words[1].decode()).name == program and (process / "cwd").readlink() == folder:
                pids.append(int(process.name))
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    return pids


@pytest.mark.long
def test_the_real_bucc_dev_gives_evaluates_numbers(shared_data: Path, mini_xlmr: Path, tmp_path: Path) -> None:
    """Chinese-English BUCC, as many sentences as a test can pay for: the pairs, their order, threshold and F1."""
    real, data = shared_data / "xtreme/bucc2018", tmp_path / "xtreme/bucc2018"
    data.mkdir(parents=True)
    gold = (real / "zh-en.dev.gold").read_text(encoding="utf-8").splitlines()[:40]
    (data / "zh-en.dev.gold").write_text("".join(f"{line}\n" for line in gold))
    for side, code in enumerate(("zh", "en")):
        wanted = {line.split("\t")[side] for line in gold}
        lines = (real / f"zh-en.dev.{code}").read_text(encoding="utf-8").splitlines()
        chosen = [line for number, line in enumerate(lines) if number < 60 or line.split("\t")[0] in wanted]
        (data / f"zh-en.dev.{code}").write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
    stilts(
        "run", "mini_xlmr", f"model.name_or_path={mini_xlmr}", f"data.xtreme={data.parent}",
        f"data.intermediate={shared_data / 'intermediate'}", "intermediate={none: []}", "targets=[bucc2018]",
        "evaluation.max_bitext=null", "launch.nproc=1", cwd=tmp_path,
    )  # fmt: skip
    [phase] = tmp_path.glob("runs/mini_xlmr/phases/*")
    f1 = json.loads((phase / "results/bucc2018.json").read_text())["main"]["zh"]
    threshold = json.loads((phase / "predictions/bucc2018/threshold-zh.json").read_text())["threshold"]
    files = [f"xtreme/bucc2018/zh-en.dev.{part}" for part in ("zh", "en", "gold")]
    shown = stilts(
        "mine", files[0], files[1], "--gold", files[2], "--dev-part", "1", "--ids", "--unify", "--drop-repeated",
        "--model", mini_xlmr, "--max-length", "128", "-o", "pairs.tsv", cwd=tmp_path,
    )  # fmt: skip
    pairs = [line.split("\t")[1:3] for line in (tmp_path / "pairs.tsv").read_text(encoding="utf-8").splitlines()]
    predicted = (phase / "predictions/bucc2018/dev-zh.tsv").read_text().splitlines()
    assert ["\t".join(pair) for pair in pairs] == predicted and len(pairs) > 20
    assert f"F1 {f1:.2f}" in shown and f"threshold {threshold:.6f}" in shown and f1 > 50
