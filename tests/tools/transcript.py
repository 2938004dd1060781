"""A study from its recipe to its results as a person types it, on real data and a real two-node Slurm on this machine.

`python tests/tools/transcript.py DATA > docs/transcript.md` writes the page; `tests/launcher/test_transcript.py` runs
the same commands and looks at what they say. DATA holds `intermediate/mnli` and `xtreme/xnli` as their authors ship
them.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import slurm_cluster  # noqa: E402
from slurm_cluster import Cluster  # noqa: E402

PROFILE = """nodes: 2
ntasks_per_node: 1
time: "00:30:00"
"""
BROKEN = PROFILE + "setup:\n  - module load cuda/12.4\n"
# The toy model and few examples and steps keep it small: what is shown is the way, not a score.
INIT = "stilts init my-study --model toy --data 'data/intermediate data/xtreme' --targets xnli --seeds 1,2 --yes"
QUICK = "limit=60 evaluation.languages=present intermediate_training.max_steps=20 target_training.max_steps=10"
SUBMIT = f"stilts submit my-study.yaml {QUICK} --cluster"
PYTHON = """python - <<'END'
import stilts_ds
scores = stilts_ds.load("runs/my-study").scores()
main = scores[scores.main & (scores.task == "xnli")]
print(main.pivot_table(index="language", columns="condition", values="score").round(1))
END"""
COMMANDS = (
    INIT,
    "cat my-study.yaml",
    "stilts plan my-study.yaml limit=60",
    f"stilts plan my-study.yaml {QUICK}",
    "cat broken.yaml",
    f"{SUBMIT} broken.yaml --watch 2",
    f"{SUBMIT} my-cluster.yaml --watch 5",
    "stilts status my-study --json | head -9",
    "stilts logs my-study mnli/seed2/xnli --rank 1 --lines 3",
    "stilts compare my-study:none my-study:mnli --targets xnli",
    "stilts export runs/my-study/mnli/seed1/xnli --task xnli --to nli",
    PYTHON,
)


@dataclass(frozen=True)
class Command:
    """A command as it was typed, all that it printed, its exit status, and CPU seconds of it and its children (jobs are
    children of the cluster, not of the command)."""

    typed: str
    output: str
    status: int
    cpu_seconds: float


def type_all(folder: Path, cluster: Cluster, data: Path) -> list[Command]:
    """Type the commands in `folder`, which gets two profiles and a link to the data."""
    (folder / "data").symlink_to(data)
    (folder / "my-cluster.yaml").write_text(PROFILE)
    (folder / "broken.yaml").write_text(BROKEN)
    programs = folder / "bin"
    programs.mkdir()
    (programs / "stilts").write_text(f'#!/bin/sh\nexec {sys.executable} -m stilts_launcher.cli "$@"\n')
    (programs / "stilts").chmod(0o755)
    paths = [str(ROOT / part) for part in ("", "launcher", "kernels")]
    environment = {
        **cluster.environment,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }
    return [_type(command, folder, environment) for command in COMMANDS]


def _type(command: str, folder: Path, environment: dict[str, str]) -> Command:
    before = _cpu_seconds()
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    return Command(command, done.stdout.rstrip("\n"), done.returncode, _cpu_seconds() - before)


def _cpu_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def page(commands: list[Command], hidden: dict[str, str]) -> str:
    """The page as Markdown. `hidden` words of this machine are written as others."""
    lines = [
        "# A study, as it is typed",
        "",
        "Written by `python tests/tools/transcript.py DATA > docs/transcript.md`: real MNLI and XNLI, a real Slurm of",
        "two nodes (on one machine), and the toy model, so that it takes minutes; its scores are those of a model that",
        "knows none of these languages. Where a watch printed several states, the first and the last one stand here.",
        "",
    ]
    for command in commands:
        shown = f"$ {command.typed}\n{_first_and_last(command)}".rstrip()
        for word, instead in hidden.items():
            shown = shown.replace(word, instead)
        lines += ["```console", *(line.rstrip() for line in shown.splitlines()), "```", ""]
        if command.status:
            lines += [f"Exit status {command.status}.", ""]
    lines += ["| command | lines | CPU seconds |", "| --- | ---: | ---: |"]
    lines += [f"| `{_name(c)}` | {len(c.output.splitlines()):,} | {c.cpu_seconds:.1f} |" for c in commands if _name(c)]
    return "\n".join(lines) + "\n"


def _name(command: Command) -> str:
    first = command.typed.splitlines()[0]
    return "" if first.startswith("cat ") else first.replace("|", "\\|")


def _first_and_last(command: Command) -> str:
    """Of a watch, what was printed before its first state, and the first and the last state."""
    parts = re.split(r"(?m)^(?=\S*runs/my-study: \d)", command.output)
    if "--watch" not in command.typed or len(parts) < 4:
        return command.output
    return f"{parts[0]}{parts[1].rstrip()}\n...\n{parts[-1]}"


def main() -> int:
    data = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as slurm, tempfile.TemporaryDirectory() as folder:
        with slurm_cluster.running(Path(slurm)) as cluster:
            commands = type_all(Path(folder), cluster, data)
        print(page(commands, {f"{Path(folder).resolve()}/": "", str(data): "data"}), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
