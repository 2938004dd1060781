"""`stilts submit`: hand a recipe's plan to Slurm, one job for each phase.

Phases that wait for the same thing form one array. Submitting again (or `stilts retry`) hands in only what is neither
done nor in the queue. Neither torch nor deepspeed is loaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from stilts_ds.config import Recipe, load_recipe
from stilts_ds.errors import UserError
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import COMMIT, RunDir, git_commit, hash_file, hash_json, read_json, write_atomically, write_json
from stilts_launcher import sbatch
from stilts_launcher.cluster import Kind, Profile
from stilts_launcher.sbatch import Job
from stilts_launcher.start import locked, prepare_run, run_of

REPORT = "report"
JOB_ID = re.compile(r"[0-9]{1,12}(_[0-9]{1,6})?")  # they become arguments of scancel


def submit_recipe(recipe: Recipe, profile: Profile, dry_run: bool = False) -> str:
    """Plan, write the run folder and submit. Returns what to print."""
    run = run_of(recipe)
    with locked(run):
        plan = prepare_run(recipe)
        if not dry_run:  # running jobs and `retry` read it
            write_atomically(run.profile, yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False))
        return submit_plan(run, plan, profile, dry_run)


def submit_plan(run: RunDir, plan: Plan, profile: Profile, dry_run: bool = False) -> str:
    """Submit every phase that is neither done nor queued, and the report behind them. The run must be locked."""
    phases = plan.phases
    recorded = jobs_of(run)
    live = {} if dry_run else {phase: job for phase, job in recorded.items() if job in sbatch.queue()}
    todo = [p for p in phases if run.phase(p.id).status() != "done" and p.id not in live]
    if not todo and (not phases or REPORT in live or run.results.exists()):
        return f"nothing to submit: all {len(phases)} phases of {run.root} are done or in the queue"
    if not dry_run:
        run.logs.mkdir(exist_ok=True)  # Slurm does not make it, and a job without its log file dies in silence
        write_atomically(run.jobs / "setup.sh", setup_text(run, profile))
    return _submit_all(run, todo, live, profile, dry_run)


def _submit_all(run: RunDir, todo: list[Phase], live: dict[str, str], profile: Profile, dry_run: bool) -> str:
    """Hand the arrays in, each after what it needs. When one is refused, those of this call are taken back."""
    ids, lines = dict(live), list[str]()
    new: list[str] = []
    try:
        for waiting in arrays(todo, run.root.name):
            needs = {p.init for p in todo if p.id in waiting.phases and p.init}
            job = Job(waiting.kind, waiting.name, waiting.phases, tuple(sorted(ids[n] for n in needs if n in ids)))
            found, line = _hand_in(job, run, profile, dry_run, len(new))
            new.append(found)
            ids |= {phase: f"{found}_{i}" for i, phase in enumerate(waiting.phases)}
            lines.append(line)
            _record(run, ids, dry_run)
        ended = tuple(sorted({job for phase, job in ids.items() if phase != REPORT}))
        if REPORT in live and not dry_run:
            sbatch.call(["scancel", live[REPORT]])
        found, line = _hand_in(
            Job("report", f"{run.root.name}-report", (), _whole_arrays(ended)), run, profile, dry_run, len(new)
        )
        _record(run, ids | {REPORT: found}, dry_run)
        lines.append(line)
    except UserError:
        if new and not dry_run:
            sbatch.call(["scancel", *new])
        raise
    if dry_run:
        return "\n".join(lines)
    return "\n".join([*lines, "", f"`stilts status {run.root}` shows how they are doing"])


def _hand_in(job: Job, run: RunDir, profile: Profile, dry_run: bool, number: int) -> tuple[str, str]:
    command = sbatch.sbatch_command(job, profile, run.root, sbatch.script(job.kind))
    if dry_run:
        return f"JOB{number + 1}", shlex.join(command)
    found = sbatch.submit(command)
    waits = f" after {', '.join(job.after)}" if job.after else ""
    return found, f"{found}  {job.name}: {len(job.phases) or 'the'} {'phases' if job.phases else 'report'}{waits}"


def arrays(todo: Iterable[Phase], name: str) -> list[Job]:
    """Phases grouped into arrays: the intermediate ones together, then those that start from one encoder together."""
    groups: dict[tuple[Kind, str], list[str]] = {}
    for phase in sorted(todo, key=lambda p: p.kind != "intermediate"):
        kind: Kind = "intermediate" if phase.kind == "intermediate" else "target"
        label = kind if kind == "intermediate" else f"{kind}-{phase.condition}"
        if phase.init:
            label += f"-seed{phase.seed}"  # without: the pretrained model, where all seeds wait for nothing
        groups.setdefault((kind, phase.init), [label]).append(phase.id)
    return [Job(kind, f"{name}-{label}", tuple(ids)) for (kind, _), (label, *ids) in groups.items()]


def _whole_arrays(jobs: Iterable[str]) -> tuple[str, ...]:
    """Ids of arrays in place of their elements': a dependency on the whole array is shorter."""
    return tuple(sorted({job.split("_")[0] for job in jobs}))


def jobs_of(run: RunDir) -> dict[str, str]:
    """The last Slurm job of each phase (and of the report), by phase id."""
    path = run.jobs / "jobs.json"
    noted = read_json(path) if path.exists() else {"jobs": {}}
    jobs = noted.get("jobs") if isinstance(noted, dict) else None
    if not isinstance(jobs, dict) or not all(isinstance(j, str) and JOB_ID.fullmatch(j) for j in jobs.values()):
        raise UserError(f"{path} holds no ids of Slurm jobs; delete it, look with squeue what runs, and submit again")
    return jobs


def _record(run: RunDir, ids: Mapping[str, str], dry_run: bool) -> None:
    if not dry_run:
        write_json(run.jobs / "jobs.json", {"submitted": round(time.time(), 1), "jobs": {**jobs_of(run), **ids}})


def setup_text(run: RunDir, profile: Profile) -> str:
    """The shell file that every batch script of this run reads first: the site's lines, then our Python and code."""
    code = shlex.quote(str(snapshot(run)))
    return "\n".join(
        [
            *profile.setup,
            f"export STILTS_COLLECTIVE_TIMEOUT={load_recipe(str(run.recipe)).engine.collective_timeout}",
            f"export STILTS_PYTHON={shlex.quote(profile.python or sys.executable)}",
            f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
            'export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"',
            "",
        ]
    )


def snapshot(run: RunDir) -> Path:
    """A copy of this project's code inside the run: jobs that start tomorrow run what was submitted today."""
    found = {name: _package(name) for name in ("stilts_ds", "stilts_launcher", "stilts_kernels")}
    configs = found["stilts_ds"].parent / "ds_configs"  # a checkout; an installed package has them inside
    sources = [(found[name], name) for name in found] + (
        [(configs, "stilts_ds/ds_configs")] if configs.is_dir() else []
    )
    fresh = Path(tempfile.mkdtemp(dir=run.jobs, prefix=".code."))
    try:
        for source, name in sources:
            shutil.copytree(source, fresh / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        (fresh / "stilts_ds" / COMMIT).write_text(git_commit(), encoding="utf-8")
        target = run.jobs / f"code-{_hash_tree(fresh)[:12]}"
        if not target.exists():
            fresh.chmod(0o755)
            os.rename(fresh, target)
        return target
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _package(name: str) -> Path:
    """Folder of an installed package, found without importing it (torch would come along)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(f"package {name} is not installed; see README")
    return Path(spec.origin).parent


def _hash_tree(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hash_json([[p.relative_to(folder).as_posix(), hash_file(p)] for p in files])
