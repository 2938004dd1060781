"""The fault campaign on a real two-node Slurm cluster: ranks, steps, batch scripts, jobs and nodes are struck."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import fire
import ranks
import slurm_cluster
from fire import Hang, Setting, Watch
from processes import runs
from slurm_cluster import Cluster
from study import rank_pids

from stilts_ds.run_dir import RunDir

PROFILE = 'nodes: 2\nntasks_per_node: 1\ntime: "00:30:00"\nstop_seconds: 60\nmax_restarts: 50\n'
KINDS = {
    "SIGKILL to a rank": 6,
    "SIGKILL to all ranks": 3,
    "scancel --signal=KILL": 2,
    "SIGTERM to a rank": 2,
    "preemption (SIGUSR1)": 3,
    "scancel": 2,
    "SIGKILL to the batch script": 2,
    "lost node": 1,
}
AIMS = {
    "intermediate": {"training": 4, "saving": 3, "exporting": 2},
    "target": {"training": 3, "saving": 3, "exporting": 2, "evaluating": 4},
    "retrieval": {"mining": 3},
}


class ClusterFight:
    """A submitted study, and what happens to its jobs."""

    def __init__(self, folder: Path, setting: Setting, cluster: Cluster, dice: random.Random) -> None:
        self.folder, self.setting, self.cluster, self.dice = folder, setting, cluster, dice
        self.run = folder / "runs" / "study"
        self.hits: list[dict[str, Any]] = []
        self.retries = 0
        self.begun: dict[str, int] = {}  # phase -> how long its log was at its last kill
        setting.write(folder)
        (folder / "profile.yaml").write_text(PROFILE)

    def stilts(self, *arguments: object) -> str:
        command = [sys.executable, "-m", "stilts_launcher.cli", *map(str, arguments)]
        environment = {**ranks.environment(), **self.cluster.environment}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            text=True,
            timeout=300,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout

    def phases(self) -> dict[str, str]:
        """Kind of each phase by id."""
        return {p["id"]: p["kind"] for p in json.loads((self.run / "plan.json").read_text())["phases"]}

    def done(self) -> bool:
        return all(RunDir(self.run).phase(phase).status() == "done" for phase in self.phases())

    def watch(self, phase: str, begun: int | None = None) -> Watch:
        log = self.run / "logs" / phase / "rank-0.log"
        found = Watch(self.run, log)
        found.begun = begun or 0
        return found

    def running(self) -> str | None:
        """A phase whose two ranks run. None when all is done. Submits again what was cancelled."""
        deadline = time.monotonic() + 3 * fire.LIMIT
        while time.monotonic() < deadline:
            found = [phase for phase in self.phases() if len(rank_pids(self.run, phase)) == 2]
            if found:
                return self.dice.choice(found)
            if not self.cluster.run("squeue", "-h"):
                if self.done() and (self.run / "results.json").exists():
                    return None
                self.stilts("retry", self.run)
                self.retries += 1
            time.sleep(0.3)
        raise Hang(f"no ranks: {self.cluster.run('squeue', '-r')}")

    def strike(self) -> bool:
        """Hit one running phase; False when all is done."""
        phase = self.running()
        if phase is None:
            return False
        log = self.run / "logs" / phase / "rank-0.log"
        watch = self.watch(phase, self.begun.get(phase, 0))
        aims = AIMS[self.phases()[phase]]
        aim = self.dice.choices(list(aims), list(aims.values()))[0]
        deadline = time.monotonic() + fire.LIMIT
        while rank_pids(self.run, phase) and watch.place()[1] != aim and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(self.dice.random() * (0.8 if aim == "training" else 0.05))
        victims = rank_pids(self.run, phase)
        if len(victims) < 2:
            return True  # the phase was quicker than the aim
        kind = self.dice.choices(list(KINDS), list(KINDS.values()))[0]
        doing = watch.place()[1]
        training = doing in ("training", "saving", "exporting")
        step, committed = (watch.last_step(phase), watch.committed(phase)) if training else (0, 0)
        offset, struck = log.stat().st_size if log.exists() else 0, time.monotonic()
        self.begun[phase] = offset
        self._send(kind, phase, victims)
        self._await_end(victims)
        self.hits.append(
            {
                "kind": kind,
                "activity": doing,
                "phase": phase,
                "step": step,
                "committed": committed,
                "status": 85 if "USR1" in kind or kind == "scancel" else 1,
                "aimed": aim,
                "offset": offset,
                "seconds_to_end": round(time.monotonic() - struck, 1),
                "aborted": False,
            }
        )
        return True

    def _send(self, kind: str, phase: str, victims: list[int]) -> None:
        job = json.loads((self.run / "jobs" / "jobs.json").read_text())["jobs"][phase]
        if kind == "lost node":
            self.cluster.kill_node("n1")
            self._until_requeued(job)
            self.cluster.start_node("n1")
        elif kind.startswith("scancel") or "USR1" in kind:
            number = {"scancel": [], "scancel --signal=KILL": ["--signal=KILL"]}.get(kind, ["--signal=USR1"])
            self.cluster.run("scancel", *number, job)
        else:
            number = signal.SIGTERM if "TERM" in kind else signal.SIGKILL
            hit = [self.dice.choice(victims)] if kind.endswith("a rank") else victims
            for pid in self._script(phase) if kind.endswith("script") else hit:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _script(self, phase: str) -> list[int]:
        pattern = f"stilts_launcher.supervise {self.run} {phase}"
        listing = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True)
        return [int(word) for word in listing.stdout.split()]

    def _until_requeued(self, job: str) -> None:
        deadline = time.monotonic() + fire.LIMIT
        while "PENDING" not in (seen := self.cluster.run("squeue", "-h", "-r", "-j", job, "-o", "%T")) and seen:
            if time.monotonic() > deadline:
                raise Hang("a lost node's job was not queued again")
            time.sleep(0.3)

    def _await_end(self, victims: list[int]) -> None:
        deadline = time.monotonic() + fire.LIMIT
        while any(map(runs, victims)):
            if time.monotonic() > deadline:
                raise Hang(f"ranks stayed: {self.cluster.run('squeue', '-r')}")
            time.sleep(0.02)


def fight_on_a_cluster(campaign: Any, kills: int, kills_per_study: int) -> None:
    """Studies on a cluster of their own, of each stage in turn, until there were `kills` kills."""
    struck, number = 0, 1000
    folder = campaign.folder / "cluster"
    folder.mkdir(exist_ok=True)
    with slurm_cluster.running(folder) as cluster:
        while struck < kills and not campaign.over():
            number += 1
            setting = Setting(campaign.stages[number % len(campaign.stages)], 2)
            struck += _study(campaign, cluster, number, setting, min(kills_per_study, kills - struck))


def _study(campaign: Any, cluster: Cluster, number: int, setting: Setting, kills: int) -> int:
    quiet, expected = campaign.undisturbed(setting)
    fight = ClusterFight(campaign.folder / f"study-{number}", setting, cluster, campaign.dice)
    told = {"study": number, "where": f"Slurm, two nodes, ZeRO {setting.stage}"}
    fire.copy_toy_world(quiet.run, fight.run)
    fight.stilts("submit", "study.yaml", "--cluster", "profile.yaml")
    try:
        while len(fight.hits) < kills and not campaign.over() and fight.strike():
            pass
        while fight.running():
            time.sleep(0.5)
    except Hang as hang:
        campaign.record.add(**told, hang=str(hang))
    for hit in fight.hits:
        found = fight.watch(hit["phase"], hit.pop("offset")).aftermath(hit) or {}
        at = found.pop("continued", None)
        saved = hit["step"] if hit["status"] == 85 else hit["committed"]
        campaign.record.add(**told, **hit, **found, lost_commit=at is not None and at < saved)
    found = fire.differences(fire.left_by(fight.run), expected)
    campaign.record.add(**told, end=0, kills=len(fight.hits), differences=found, retries=fight.retries)
    return max(1, len(fight.hits))
