"""`stilts submit`: hand a recipe's plan to the cluster's launcher, one job for each phase.

Phases that wait for the same thing are handed in together. Submitting again (or `stilts retry`) hands in only what is
neither done nor in the queue. Neither torch nor deepspeed is loaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from stilts_ds.config import Recipe, load_recipe
from stilts_ds.errors import UserError, counted
from stilts_ds.lineage import unfinished
from stilts_ds.locks import run_lock
from stilts_ds.phase_names import left_alone
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import (
    COMMIT,
    RunDir,
    fresh_folder,
    git_commit,
    hash_file,
    hash_json,
    read_json,
    write_atomically,
    write_json,
)
from stilts_launcher.backends.base import Job, Submitted
from stilts_launcher.backends.registry import launcher_of, profile_of
from stilts_launcher.cluster import JobKind, Profile
from stilts_launcher.start import prepare_run, run_of

PREPARE, REPORT = "prepare", "report"  # keys of jobs that are no phase's
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # they become arguments of commands: no option, no path


def submit_recipe(recipe: Recipe, profile: Profile, dry_run: bool = False) -> str:
    """Plan, write the run folder and submit. Returns what to print."""
    run = run_of(recipe)
    # Two submissions at once would each hand in every phase.
    with run_lock(run):
        plan = prepare_run(recipe)
        if not dry_run:  # running jobs and `retry` read it
            check_backend(run, profile)
            write_atomically(run.profile, yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False))
        return submit_plan(run, plan, profile, dry_run)


def check_backend(run: RunDir, profile: Profile) -> None:
    """Raise UserError where jobs of the run are still with another launcher, whose queue nobody would look at then."""
    earlier = profile_of(run)
    if earlier.backend == profile.backend or not (recorded := jobs_of(run)):
        return
    if set(recorded.values()) & set(launcher_of(earlier).queue()):
        raise UserError(
            f"backend: jobs of {run.root} are still in the queue of {earlier.backend!r}; "
            f"`stilts cancel {run.root}` takes them back"
        )


def submit_plan(run: RunDir, plan: Plan, profile: Profile, dry_run: bool = False) -> str:
    """Submit every phase that is neither done nor queued, and the report behind them. The run must be locked."""
    phases = plan.phases
    recorded = jobs_of(run)
    queued = {} if dry_run or not recorded else launcher_of(profile).queue()
    # What an earlier submission noted counts only while its job waits or runs; an ended one is submitted anew.
    live = {phase: job for phase, job in recorded.items() if job in queued}
    todo = [phase for phase in unfinished(run, phases) if phase.id not in live]
    if not todo and (not phases or REPORT in live or run.results.exists()):
        return f"nothing to submit: all {counted(len(phases), 'phase')} of {run.root} are done or in the queue"
    if not dry_run:
        run.logs.mkdir(exist_ok=True)  # launchers do not make it, and a job without its log file dies in silence
        write_atomically(run.jobs / "setup.sh", setup_text(run, profile))
    return _submit_all(run, plan, todo, live, profile, dry_run)


def _submit_all(
    run: RunDir, plan: Plan, todo: list[Phase], live: dict[str, str], profile: Profile, dry_run: bool
) -> str:
    """Hand the jobs in, each after what it needs. When one is refused, those of this call are taken back."""
    launcher, wanted = launcher_of(profile), todo
    ids = dict(live)  # by phase, as far as they are handed in
    new: list[str] = []
    lines: list[str] = []

    def hand_in(job: Job) -> Submitted:
        submitted = launcher.submit(job, profile, f"JOB{len(new) + 1}" if dry_run else None)
        new.append(submitted.id)
        lines.append(shlex.join(submitted.command) if dry_run else _line(job, submitted))
        return submitted

    try:
        if todo and profile.prepares and PREPARE not in ids:
            ids[PREPARE] = hand_in(Job("prepare", f"{run.root.name}-prepare", run.root)).id
            _record(run, ids, dry_run)
        if todo and profile.worlds is not None:
            before = (ids[PREPARE],) if PREPARE in ids else ()
            submitted = hand_in(Job("phases", f"{run.root.name}-phases", run.root, after=before))
            ids |= dict.fromkeys((phase.id for phase in todo), submitted.id)
            _record(run, ids, dry_run)
            todo = []
        for kind, name, phases in grouped(todo, run.root.name):
            parents = {phase.init for phase in todo if phase.id in phases}
            after = tuple(sorted(ids[parent] for parent in parents if parent in ids))
            if not after and PREPARE in ids:
                after = (ids[PREPARE],)
            submitted = hand_in(Job(kind, name, run.root, phases, after))
            ids |= dict(zip(phases, submitted.phase_ids))
            # After each group: if this process is killed, the jobs that it has handed in are known.
            _record(run, ids, dry_run)
        all_phases = tuple(sorted({job for phase, job in ids.items() if phase not in (PREPARE, REPORT)}))
        if REPORT in live and not dry_run:
            launcher.cancel([live[REPORT]])  # it waits for the phases of an earlier submission only
        submitted = hand_in(Job("report", f"{run.root.name}-report", run.root, after=all_phases))
        _record(run, ids | {REPORT: submitted.id}, dry_run)
    except UserError:
        # Half a study would wait for jobs that never come.
        if new and not dry_run:
            launcher.cancel(new)
        raise
    if dry_run:
        return "\n".join(lines)
    notes = left_alone(run, plan, wanted)
    return "\n".join([*lines, "", *notes, f"`stilts status {run.root}` shows how they are doing"])


def _line(job: Job, submitted: Submitted) -> str:
    if job.kind == "prepare":
        return f"{submitted.id}  {job.name}: the rows of all phases, on CPUs"
    if job.kind == "phases":
        return f"{submitted.id}  {job.name}: all phases, side by side"
    if not job.phases:
        return f"{submitted.id}  {job.name}: the report, when all of them have ended"
    waits = f" after {', '.join(job.after)}" if job.after else ""
    return f"{submitted.id}  {job.name}: {counted(len(job.phases), 'phase')}{waits}"


def grouped(todo: Iterable[Phase], name: str) -> list[tuple[JobKind, str, tuple[str, ...]]]:
    """Phases that are handed in together, each group with its kind and name: the intermediate ones, then those that
    start from one encoder."""
    groups: dict[tuple[JobKind, str], list[str]] = {}
    # Those that others wait for go first, since a dependency names the id of a job that exists.
    for phase in sorted(todo, key=lambda p: p.kind != "intermediate"):
        kind: JobKind = "intermediate" if phase.kind == "intermediate" else "target"
        label = kind if kind == "intermediate" else f"{kind}-{phase.condition}"
        if phase.init:
            label += f"-seed{phase.seed}"  # without: the pretrained model, where all seeds wait for nothing
        groups.setdefault((kind, phase.init), [label]).append(phase.id)
    grouped_phases = []
    for (kind, _), (label, *ids) in groups.items():
        grouped_phases.append((kind, f"{name}-{label}", tuple(ids)))
    return grouped_phases


def jobs_of(run: RunDir) -> dict[str, str]:
    """The last job of each phase (and of `prepare` and the report), by phase id. A copy of a run folder has none: they
    are the original's."""
    path = run.jobs / "jobs.json"
    noted = read_json(path) if path.exists() else {"jobs": {}}
    jobs = noted.get("jobs") if isinstance(noted, dict) else None
    if jobs and not _is_where_it_was_submitted(run, noted):
        # The launcher's jobs would save into the original's folder, so cancelling them is not the copy's business.
        return {}
    if not isinstance(jobs, dict) or not all(isinstance(j, str) and JOB_ID.fullmatch(j) for j in jobs.values()):
        raise UserError(f"{path} holds no ids of jobs; delete it, look into the queue what runs, and submit again")
    return jobs


def _record(run: RunDir, ids: Mapping[str, str], dry_run: bool) -> None:
    if not dry_run:
        # What is known is added to, not replaced: the jobs of phases that are done still have logs to show.
        noted = {"submitted": round(time.time(), 1), "folder": identity(run), "jobs": {**jobs_of(run), **ids}}
        write_json(run.jobs / "jobs.json", noted)


def identity(run: RunDir) -> dict[str, Any]:
    """What tells a run folder from its copies: its path, and its number in its file system, which moves with it."""
    status = run.root.stat()
    return {"path": str(run.root.resolve()), "inode": [status.st_dev, status.st_ino]}


def _is_where_it_was_submitted(run: RunDir, noted: Mapping[str, Any]) -> bool:
    """Whether this is the folder whose jobs are noted there: at its path, or moved within its file system."""
    here, folder = identity(run), noted.get("folder")
    if isinstance(folder, dict):
        return any(here[key] == folder.get(key) for key in here)
    # Earlier versions noted no folder; the jobs' setup names the code that was copied into it.
    setup = run.jobs / "setup.sh"
    return not setup.exists() or f"{here['path']}/jobs/code-" in setup.read_text(encoding="utf-8", errors="replace")


def setup_text(run: RunDir, profile: Profile) -> str:
    """The shell file that every batch script of this run reads first: the site's lines, then our Python and code."""
    code = shlex.quote(str(snapshot(run)))
    return "\n".join(
        [
            *profile.setup,
            f"export STILTS_COLLECTIVE_TIMEOUT={load_recipe(str(run.recipe)).engine.collective_timeout}",
            f"export STILTS_PYTHON={shlex.quote(profile.python or sys.executable)}",
            f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
            # Nodes of a cluster often have no network; whoever wants it sets 0 in `setup`.
            'export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"',
            "",
        ]
    )


def snapshot(run: RunDir) -> Path:
    """A copy of this project's code inside the run: jobs that start tomorrow run what was submitted today."""
    packages = {name: _package(name) for name in ("stilts_ds", "stilts_launcher", "stilts_kernels")}
    configs = packages["stilts_ds"].parent / "ds_configs"  # a checkout; an installed package has them inside
    sources = [(packages[name], name) for name in packages] + (
        [(configs, "stilts_ds/ds_configs")] if configs.is_dir() else []
    )
    fresh = fresh_folder(run.jobs / "code")
    try:
        for source, name in sources:
            shutil.copytree(source, fresh / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        (fresh / "stilts_ds" / COMMIT).write_text(git_commit(), encoding="utf-8")
        target = run.jobs / f"code-{_hash_tree(fresh)[:12]}"
        # Named by its content: the same code is kept once, and jobs of an earlier submission keep theirs.
        if not target.exists():
            os.rename(fresh, target)
        return target
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _package(name: str) -> Path:
    """Folder of an installed package, found without importing it (torch would come along)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(f"package {name} is not installed; see README")
    # find_spec reads where the package lies and runs none of it.
    return Path(spec.origin).parent


def _hash_tree(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hash_json([[p.relative_to(folder).as_posix(), hash_file(p)] for p in files])
