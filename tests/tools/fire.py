"""A small study under fire: start it, see what it is doing, strike it, and compare what it left with a quiet run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ranks
import warm
from disk import fill
from processes import runs
from warm import Forked

from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import hash_file

LIMIT = 300.0  # seconds that anything may take; more is a hang (`campaign.py --limit`, for a busy machine)
STEPS = {"intermediate": 90, "target": 30}
RECIPE = """
name: study
model: {{name_or_path: toy, dropout: 0.1}}
data: {{source: toy, max_train_examples: 100}}
intermediate: {{none: [], mnli: [mnli]}}
targets: [xnli, bucc2018, tatoeba]
intermediate_training: {{max_steps: {intermediate}, train_batch_size: 8, save_steps: 3, logging_steps: 1,
                         eval_steps: 5, eval_examples: 20}}
target_training: {{max_steps: {target}, train_batch_size: 8, save_steps: 3, logging_steps: 1, eval_steps: 5,
                   eval_examples: 20}}
evaluation: {{max_examples: 30}}
launch: {{nproc: {ranks}, omp_num_threads: 1}}
engine: {{zero_stage: {stage}{more}}}
"""
KILLS: dict[str, tuple[int, str]] = {  # name -> signal, and who gets it
    "SIGKILL to all": (signal.SIGKILL, "all"),
    "SIGKILL to a rank": (signal.SIGKILL, "rank"),
    "SIGTERM to a rank": (signal.SIGTERM, "rank"),
    "SIGKILL to the launcher": (signal.SIGKILL, "launcher"),
    "SIGTERM to the launcher": (signal.SIGTERM, "launcher"),
    "SIGINT to the launcher": (signal.SIGINT, "launcher"),
    "full disk": (0, "disk"),
}


@dataclass(frozen=True)
class Setting:
    """ZeRO stage and ranks of a study."""

    stage: int
    ranks: int

    def __str__(self) -> str:
        return f"ZeRO {self.stage}, {self.ranks} rank{'s' * (self.ranks > 1)}"

    def write(self, folder: Path) -> None:
        """study.yaml in `folder`; at stage 3 even the smallest parameter is partitioned."""
        folder.mkdir(parents=True, exist_ok=True)
        more = ""
        if self.stage == 3:
            config = json.loads((ranks.ROOT / "ds_configs" / "zero3.json").read_text())
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
            (folder / "zero3.json").write_text(json.dumps(config))
            more = f", ds_config: {folder / 'zero3.json'}"
        text = RECIPE.format(stage=self.stage, ranks=self.ranks, more=more, **STEPS)
        (folder / "study.yaml").write_text(text)


class Hang(Exception):
    """Something did not end within LIMIT."""


@dataclass
class Watch:
    """What a start of the ranks is doing, from its log (as far as this start wrote it) and the files of its phase."""

    run: Path
    log: Path
    begun: int = 0
    plan: list[Phase] = field(default_factory=list)

    def begin(self) -> None:
        self.begun = self.log.stat().st_size if self.log.exists() else 0

    def said(self) -> str:
        if not self.log.exists():
            return ""
        with open(self.log, "rb") as file:
            file.seek(self.begun)
            return file.read().decode(errors="replace")

    def phases(self) -> list[Phase]:
        if not self.plan and (self.run / "plan.json").exists():
            self.plan = list(Plan.load(self.run / "plan.json").phases)
        return self.plan

    def place(self) -> tuple[str, str]:
        """(phase id or "", activity)."""
        said = self.said()
        begun = re.findall(r"phase \d+/\d+: (.*)\n", said)
        if not begun:
            return "", "starting"
        phase = next(p for p in self.phases() if p.title == begun[-1])
        return phase.id, self._doing(phase, said[said.rindex(begun[-1]) :])

    def _doing(self, phase: Phase, said: str) -> str:
        folder = self.run / "phases" / phase.id
        if phase.train and not status(folder).get("trained"):
            if " steps of " not in said:  # what lies in the folder is of an earlier start
                return "starting"
            if any(not (best / "heads.json").exists() for best in folder.glob("checkpoints/best-*")):
                return "exporting"
            if any(not (tag / "manifest.json").exists() for tag in folder.glob("checkpoints/step-*")):
                return "saving"
            return "training"
        if phase.kind == "retrieval" and len(list(folder.glob("predictions/bucc2018/.*.inputs.json"))) < 6:
            return "mining"
        return "evaluating"

    def last_step(self, phase: str) -> int:
        records = curve(self.run / "phases" / phase / "metrics.jsonl") if phase else []
        return max((record["step"] for record in records), default=0)

    def committed(self, phase: str) -> int:
        """Step of the newest whole checkpoint."""
        tags = (self.run / "phases" / phase).glob("checkpoints/step-*/manifest.json") if phase else ()
        return max((int(tag.parent.name[5:]) for tag in tags), default=0)

    def aftermath(self, killed: dict[str, Any]) -> dict[str, int] | None:
        """What this start found after a kill: torn checkpoints that it passed over, the step at which it continued and
        how many it did again. None where it did not come so far."""
        if not killed["step"]:
            return {}
        said = self.said()
        label = next(phase.label for phase in self.phases() if phase.id == killed["phase"])  # the log's name of it
        started = re.search(rf"{re.escape(label)}: \d+ steps of .*", said)
        if started is None:  # the phase's training was over, or this start did not come so far
            return {} if self.place()[0] == killed["phase"] and "evaluating" in self.place() else None
        at = re.search(r"continuing after step (\d+)", started[0])
        step = int(at[1]) if at else 0
        torn = said[: started.start()].count("is not used: it was never committed")
        return {"torn": torn, "continued": step, "repeated": max(0, killed["step"] - step)}


def status(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}


def curve(path: Path) -> list[dict[str, Any]]:
    """Whole records of a metrics.jsonl, without what depends on the machine's speed."""
    speed = ("train/tokens_per_second", "train/mfu", "time/", "memory/")
    found = []
    for line in path.read_text(errors="replace").split("\n") if path.exists() else []:
        with suppress(ValueError):
            record = json.loads(line)
            found.append({k: v for k, v in record.items() if not k.startswith(speed)})
    return found


class Fight:
    """A study that is started again and again in one folder."""

    def __init__(self, folder: Path, setting: Setting, overrides: Sequence[str] = ()) -> None:
        self.folder, self.setting = folder, setting
        self.command = ["run", "study.yaml", *overrides]
        self.run = folder / "runs" / "study"
        self.watch = Watch(self.run, self.run / "logs" / "rank-0.log")
        self.process: subprocess.Popen[bytes] | Forked | None = None
        setting.write(folder)

    def start(self, forked: bool = False, count: int = 0) -> None:
        """Start the study as a user would, or `forked` from this process, which has loaded everything; with `count`
        ranks in place of the setting's."""
        self.watch.begin()
        command = [*self.command, *([f"launch.nproc={count}", "launch.oversubscribe=true"] if count else [])]
        with open(self.folder / "output.log", "ab") as log:
            self.output_begun = log.tell()
            if forked:
                self.process = warm.start(self.folder, command, log.fileno(), ranks.environment())
                return
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stilts_launcher.cli", *command],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=ranks.environment(),
                start_new_session=True,
            )

    def output(self) -> str:
        with open(self.folder / "output.log", "rb") as file:
            file.seek(self.output_begun)
            return file.read().decode(errors="replace")

    def ranks(self) -> list[int]:
        assert self.process is not None
        own = command_line(os.getpid())
        found = {pid: command_line(pid) for pid in children(self.process.pid)}
        return [pid for pid, line in found.items() if "stilts_launcher.rank" in line or line == own]

    def place(self) -> tuple[str, str]:
        """(phase, activity), also of the launcher before and after its ranks."""
        phase, doing = self.watch.place()
        if doing != "starting" and not self.ranks():
            return "", "reporting"
        return phase, doing

    def await_aim(self, choose: Callable[[str], str], skip: int) -> str | None:
        """Let `skip` phases begin, choose an aim in each that has work left and wait until one is met. Returns it; None
        where the start ended before."""
        assert self.process is not None
        deadline, current, begun, aim = time.monotonic() + LIMIT, "", 0, "starting" if skip < 0 else ""
        while self.process.poll() is None:
            phase, doing = self.place()
            if doing in (aim, "reporting") or (aim == "any" and phase):
                return doing if doing == "reporting" else aim
            if phase != current:
                current, begun = phase, begun + 1
                aim = choose(self._kind(phase)) if begun > skip and not self._done(phase) else ""
            if time.monotonic() > deadline:
                raise Hang(f"waited for {aim or 'a phase'}")
            time.sleep(0.004)
        return None

    def _done(self, phase: str) -> bool:
        return bool(status(self.run / "phases" / phase).get("state") == "done")

    def _kind(self, phase: str) -> str:
        """What a phase that begins has to do: retrieval, training, or evaluating what is trained."""
        kind = next(p.kind for p in self.watch.phases() if p.id == phase)
        return (
            kind
            if kind == "retrieval"
            else ("evaluating" if status(self.run / "phases" / phase).get("trained") else "training")
        )

    def strike(self, kind: str, dice: random.Random) -> dict[str, Any]:
        """Send the kind's signal, or have the disk full until all has ended; returns what was hit and how it ended."""
        assert self.process is not None
        number, whom = KILLS[kind]
        victims = self.ranks()
        phase, doing = self.place()
        training = doing in ("training", "saving", "exporting")
        step, committed = (self.watch.last_step(phase), self.watch.committed(phase)) if training else (0, 0)
        junk = fill(self.run.parent) if whom == "disk" else None
        if whom == "all":
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        elif junk is None:
            hit = dice.choice(victims) if whom == "rank" and victims else self.process.pid
            with suppress(ProcessLookupError):
                os.kill(hit, number)
        struck = time.monotonic()
        code = self.wait(victims)
        if junk is not None:
            junk.unlink()
        return {
            "kind": kind,
            "activity": doing,
            "phase": phase,
            "step": step,
            "committed": committed,
            "status": code,
            "seconds_to_end": round(time.monotonic() - struck, 1),
            "aborted": self.aborted(),
        }

    def wait(self, victims: Sequence[int] = ()) -> int:
        """Exit status of the launcher, when it and its ranks are gone. Raises Hang, with everything ended."""
        assert self.process is not None
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None or any(map(runs, victims)):
            if time.monotonic() > deadline:
                for pid in [*victims, *self.ranks()]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGUSR2 if runs(pid) else 0)
                time.sleep(1)
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise Hang("ranks or launcher stayed")
            time.sleep(0.01)
        return self.process.returncode

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def end(self) -> None:
        """Whatever still runs of this start is killed."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def aborted(self) -> bool:
        """Whether a process of this start ended in SIGABRT."""
        return "terminate called" in self.output() or "Aborted" in self.watch.said()


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def left_by(run: Path) -> dict[str, Any]:
    """Every number and file of a finished run that must not depend on what happened to it, by name."""
    found: dict[str, Any] = {}
    for folder in sorted((run / "phases").iterdir()):
        found[f"{folder.name}/curve"] = curve(folder / "metrics.jsonl")
        found[f"{folder.name}/best"] = status(folder).get("best")
        for path in sorted(folder.glob("results/*.json")):
            found[f"{folder.name}/results/{path.name}"] = without_provenance(path)
        weights = ["encoder/model.safetensors", "heads.safetensors", "heads.json"]
        files = [*map(folder.joinpath, weights), *folder.glob("predictions/*/[!.]*")]
        found |= {str(path.relative_to(run)): hash_file(path) for path in sorted(files) if path.exists()}
    found |= {str(path.relative_to(run)): hash_file(path) for path in sorted(run.glob("labels/*/[!.]*"))}
    found["results.json"] = without_provenance(run / "results.json")
    return found


def without_provenance(path: Path) -> Any:
    value = json.loads(path.read_text()) if path.exists() else {}
    return {k: v for k, v in value.items() if k != "provenance"}


def differences(ours: dict[str, Any], quiet: dict[str, Any]) -> list[str]:
    return sorted(name for name in {*ours, *quiet} if ours.get(name) != quiet.get(name))


def leftovers(run: Path) -> list[str]:
    """Files that a finished run should not keep: what kills left half-written. Damaged caches stay on purpose."""
    names: Iterator[Path] = (
        p
        for p in run.rglob("*")
        if p.name == "checkpoints"
        or p.name.startswith(".preflight-")
        or (re.search(r"^\..*\.[a-z0-9_]{8}$", p.name) and ".damaged." not in p.name)
    )
    return sorted(str(path.relative_to(run)) for path in names)


def quiet_run(folder: Path, setting: Setting, world: Path | None) -> tuple[Fight, dict[str, Any]]:
    """An undisturbed run of a setting, and everything that it left."""
    fight = Fight(folder, setting)
    if (fight.run / "results.json").exists():  # of a campaign that was stopped
        return fight, left_by(fight.run)
    if world is not None:
        copy_toy_world(world, fight.run)
    fight.start()
    if fight.wait() != 0:
        raise RuntimeError(f"the undisturbed run failed: {fight.output()[-3000:]}")
    return fight, left_by(fight.run)


def copy_toy_world(source: Path, run: Path) -> None:
    """Give a new run the toy world of another one: generating it takes longer than everything else."""
    shutil.copytree(source / "data", run / "data", dirs_exist_ok=True)
