"""What each rank of a study opens and reads: `rank_reads.py FOLDER [--ranks 1 2 4 8] [--checkout PATH]`.

A study of the toy world is run in FOLDER (MNLI, then XNLI, clean and with noise from lists, mining, retrieval, ranked
retrieval and programs), which caches its rows; then again from the start by each number of ranks, under strace. Prints
a table of files opened, MB read and MB mapped by kind of file: for rank 0, and for that of the other ranks which has
most. `--checkout` is another checkout of the project, to compare with.

Left out is what the processes are made of: the interpreter, libraries, the checkout, and files of the system.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(HERE / "tests" / "helpers")]

import ranks  # noqa: E402

from stilts_ds.toy.languages import LANGUAGES, words  # noqa: E402

RECIPE = """
name: study
model: {name_or_path: toy}
data: {source: toy, noise: lists}
intermediate: {none: []}
targets: [xnli, xnli@natural-20, bucc2018, tatoeba, lareqa, humaneval_xl]
target_training: {max_steps: 2, train_batch_size: 32, save_steps: 1, eval_examples: 16, max_seq_length: 96,
                  max_query_length: 32}
launch: {nproc: 1}
evaluation: {max_examples: 12, generate: {max_new_tokens: 4}, retrieval_max_seq_length: 96,
             languages: {humaneval_xl: [qab], lareqa: [qab]}}
engine: {zero_stage: 2}
"""
# By what a path holds, the first that fits: the kinds that the table tells apart.
KINDS = {
    "sources": r"/runs/study/data/",
    "noise lists": r"/lists/",
    "rows": r"/cache/.*\.npy$",
    "row manifests": r"/cache/",
    "written by itself": r"/checkpoints/.*shard-",
    "weights": r"\.safetensors$",
    "tokenizer": r"/(tokenizer|special_tokens)[^/]*$",
    "run and settings": r"",
}
CALL = re.compile(r"^(openat|read|pread64|readv|preadv|mmap)\((.*)\)\s+= (\S+)")


class Use(NamedTuple):
    """Files opened and bytes, by kind."""

    opened: Counter[str]
    read: Counter[str]
    mapped: Counter[str]


def calls(trace: Path) -> Iterator[tuple[str, str, int]]:
    """Call, path and bytes of each line of a trace that opened, read or mapped a file."""
    for line in trace.read_text(errors="replace").splitlines():
        matched = CALL.match(line)
        if matched is None or matched[3].startswith("-"):
            continue
        call, arguments, result = matched.groups()
        if call == "openat":
            # What was opened stands behind the number of the descriptor.
            path = re.search(r"<(/[^>]*)>$", line)
            if path and "O_DIRECTORY" not in arguments and "O_WRONLY" not in arguments:
                yield call, path[1], 0
        elif call == "mmap":
            path = re.search(r", \d+<(/[^>]*)>", arguments)
            if path:
                yield call, path[1], int(arguments.split(",")[1])
        else:
            path = re.match(r"\d+<(/[^>]*)>", arguments)
            if path:
                yield "read", path[1], int(result)


def use_of(traces: list[Path], folder: Path, model: Path) -> Use:
    opened: dict[str, set[str]] = defaultdict(set)
    use = Use(Counter(), Counter(), Counter())
    for trace in traces:
        for call, path, size in calls(trace):
            if not path.startswith((str(folder), str(model))) or path.endswith((".log", ".trace")):
                continue
            kind = next(name for name, pattern in KINDS.items() if re.search(pattern, path))
            if call == "openat":
                opened[kind].add(path)
            else:
                (use.mapped if call == "mmap" else use.read)[kind] += size
    use.opened.update({kind: len(paths) for kind, paths in opened.items()})
    return use


def prepare(folder: Path, checkout: Path) -> Path:
    """The run in `folder`, whose rows are cached."""
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(RECIPE)
    lists = folder / "lists" / "misspellings"
    lists.mkdir(parents=True)
    for language in LANGUAGES:
        pairs = (f"{word}\t{word}{word[-1]}\n" for word in words(language).values())
        (lists / f"{language}.tsv").write_text("".join(pairs))
    # Not `stilts prepare`, which earlier versions have not got.
    command = [sys.executable, "-m", "stilts_launcher.cli", "run", "study.yaml"]
    environment = ranks.environment(PYTHONPATH=import_path(checkout))
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder / "runs" / "study"


def import_path(checkout: Path) -> str:
    return os.pathsep.join(str(checkout / part) for part in (".", "launcher", "kernels"))


def measure(run: Path, folder: Path, count: int, checkout: Path) -> list[Use]:
    """The use of each rank of a study that `count` ranks run from the start."""
    for made in ("phases", "labels"):
        shutil.rmtree(run / made, ignore_errors=True)
    folder.mkdir()
    processes = []
    for rank, place in enumerate(ranks.places(count, PYTHONPATH=import_path(checkout))):
        trace = ["strace", "--seccomp-bpf", "-ff", "-y", "-qq", "-o"]
        calls_of = ["-e", "trace=openat,read,pread64,readv,preadv,mmap"]
        command = [
            *trace,
            str(folder / f"rank{rank}.trace"),
            *calls_of,
            sys.executable,
            "-m",
            "stilts_ds.phases",
            str(run),
        ]
        log = (folder / f"rank{rank}.log").open("w")
        processes.append(subprocess.Popen(command, cwd=folder, env=place, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"exit codes {codes}; look into {folder}/rank0.log")
    model = checkout / "stilts_ds" / "toy" / "model"
    return [use_of(sorted(folder.glob(f"rank{rank}.trace*")), folder.parent, model) for rank in range(count)]


def row_of(use: Use, kind: str) -> str:
    return f"{use.opened[kind]}, {use.read[kind] / 1e6:.2f}, {use.mapped[kind] / 1e6:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--checkout", type=Path, default=HERE)
    given = parser.parse_args()
    print("| ranks | | " + " | ".join(KINDS) + " |\n|--:|---|" + "--:|" * len(KINDS), flush=True)
    folder, checkout = given.folder.resolve(), given.checkout.resolve()
    run = prepare(folder, checkout)
    for count in given.ranks:
        uses = measure(run, folder / f"ranks{count}", count, checkout)
        others = max(uses[1:], key=lambda use: use.read.total() + use.mapped.total(), default=None)
        for name, use in (("rank 0", uses[0]), ("another", others)):
            if use is not None:
                print(f"| {count} | {name} | " + " | ".join(row_of(use, kind) for kind in KINDS) + " |", flush=True)


if __name__ == "__main__":
    main()
