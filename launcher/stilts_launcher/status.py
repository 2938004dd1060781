"""`stilts status`, `logs`, `cancel` and `retry`: a submitted run as its launcher and the run's own files tell it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from stilts_ds.display import duration
from stilts_ds.errors import UserError, counted, printable
from stilts_ds.evaluate.result import scores_in_words
from stilts_ds.lineage import is_outdated
from stilts_ds.locks import run_lock
from stilts_ds.phase_queue import lease_path
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import PhaseDir, RunDir
from stilts_launcher.backends.base import QueuedJob
from stilts_launcher.backends.registry import launcher_of, load_profile, profile_of
from stilts_launcher.outlook import Outlook, PhaseState, outlook, seconds_left
from stilts_launcher.show.study_table import share, study_table
from stilts_launcher.submit import PREPARE, REPORT, jobs_of, submit_plan

NOT_WRITTEN = "(not written yet)"
CLEAR = "\x1b[H\x1b[2J"  # a terminal's screen, from its first line
SCREEN = 40  # rows beyond which the phases of a study are shown as a table
LOOK_AGAIN = 1.0  # seconds between two looks at logs that are followed
ASK_AGAIN = 10.0  # seconds between two questions to the launcher meanwhile


@dataclass(frozen=True)
class StatusRow:
    """What one phase does. `label` is its name for people, `phase` its id and folder, which the report has none of.
    `state` is a word, `text` what is known beyond it, `job` the launcher's id."""

    label: str
    phase: str
    state: str
    job: str
    text: str


@dataclass(frozen=True)
class RunStatus:
    """A run's rows, its plan, and what is left of it."""

    root: Path
    rows: tuple[StatusRow, ...]
    plan: Plan
    outlook: Outlook

    @property
    def done(self) -> int:
        """Phases that are done, also those whose start has other weights since."""
        return sum(row.state in ("done", "outdated") and bool(row.phase) for row in self.rows)

    @property
    def complete(self) -> bool:
        return all(row.state == "done" for row in self.rows)

    @property
    def moving(self) -> bool:
        """Whether anything waits or runs; what else is not done stays so until somebody does something."""
        return any(row.state in ("queued", "running") for row in self.rows)

    def text(self, by_phase: bool = False) -> str:
        """A line for each phase; of a large study a table of conditions and targets, and lines of what needs a look."""
        lines = [f"{self.root}: {self.done} of {counted(len(self.plan.phases), 'phase')} done"]
        if self.outlook.seconds_left:
            lines[0] += f", {duration(self.outlook.seconds_left)} left"
        lines += [self.outlook.text(), ""]
        rows = self.rows
        if len(rows) > SCREEN and not by_phase:
            lines += [*study_table(self.plan, self._cell, {}), ""]
            lines.append("cells: phases done of planned, all seeds together; --phases shows each phase")
            rows = tuple(row for row in rows if row.state not in ("done", "pending", "queued", "not run"))
        shown = rows if by_phase else rows[:SCREEN]
        lines += _lines(shown)
        if len(shown) < len(rows):
            lines.append(f"and {len(rows) - len(shown)} more")
        return printable("\n".join(lines).rstrip())

    def _cell(self, phases: Sequence[Phase]) -> str:
        states = {row.phase: row.state for row in self.rows}
        marks = {states[phase.id] for phase in phases} & {"running", "failed", "lost", "stopped", "outdated"}
        done = share(phases, lambda phase: states[phase.id] == "done")
        return " ".join([*sorted(marks), done])

    def to_json(self) -> dict[str, Any]:
        left = self.outlook.seconds_left
        eta = None if not left else datetime.fromtimestamp(time.time() + left).astimezone()
        return {
            "run": str(self.root), "done": self.done, "phases": len(self.plan.phases), "complete": self.complete,
            "moving": self.moving, "rank_hours": self.outlook.hours_so_far,
            "rank_hours_to_go": self.outlook.hours_to_go, "seconds_left": left,
            "eta": eta.isoformat(timespec="seconds") if eta is not None else None,
            "rows": [asdict(row) for row in self.rows],
        }  # fmt: skip


def _lines(rows: Sequence[StatusRow]) -> list[str]:
    widths = [max((len(getattr(row, name)) for row in rows), default=0) for name in ("label", "state", "job")]
    lines = [
        f"{row.label:<{widths[0]}}  {row.state:<{widths[1]}}  {row.job:<{widths[2]}}  {row.text}".rstrip()
        for row in rows
    ]
    return lines


def run_status(run: RunDir) -> RunStatus:
    """What each phase does, in which job, and what went wrong."""
    plan = _plan(run)
    jobs = jobs_of(run)
    # A run that was never submitted asks no launcher: there may be none on this machine.
    queued = launcher_of(profile_of(run)).queue() if jobs else {}
    rows = [_row(run, phase, jobs, queued, plan) for phase in plan.phases]
    states = [_phase_state(run.phase(phase.id), phase, row.state) for phase, row in zip(plan.phases, rows)]
    expected = outlook(states)
    now = time.time()
    for number, (row, state) in enumerate(zip(rows, states)):
        left = seconds_left(state, states, now) if state.running else None
        if left:
            rows[number] = replace(row, text=", ".join(filter(None, [row.text, f"{duration(left)} left"])))
    if PREPARE in jobs and jobs[PREPARE] in queued:
        waits = queued[jobs[PREPARE]].waiting
        rows.insert(0, StatusRow(PREPARE, "", "queued" if waits else "running", jobs[PREPARE], "rows of all phases"))
    if REPORT in jobs:
        job = jobs[REPORT]
        report_state, text = _report_state(run, job, queued)
        rows.append(StatusRow(REPORT, "", report_state, job, text))
    return RunStatus(run.root, tuple(rows), plan, expected)


def _phase_state(folder: PhaseDir, phase: Phase, state: str) -> PhaseState:
    return PhaseState(phase, folder.read_status(), _last_step(folder), state == "running")


def _plan(run: RunDir) -> Plan:
    if not run.plan.exists():
        raise UserError(f"{run.root} is no run folder: it has no plan.json; `stilts submit` or `stilts run` makes one")
    return Plan.load(run.plan)


def _row(run: RunDir, phase: Phase, jobs: dict[str, str], queued: dict[str, QueuedJob], plan: Plan) -> StatusRow:
    job = jobs.get(phase.id, "")
    queued = dict(queued)
    if job in queued and not queued[job].waiting and is_shared(job, jobs) and not lease_path(run, phase.id).exists():
        # The worlds of its job are at work on other phases, or have left this one.
        del queued[job]
        if run.phase(phase.id).status() not in ("done", "failed"):
            queued[job] = QueuedJob(True, "waits its turn in its job")
    start = next((planned.label for planned in plan.phases if planned.id == phase.init), "")
    state, text = _state(run.phase(phase.id), queued.get(job), job, phase, run, start)
    return StatusRow(phase.label, phase.id, state, job, text)


def is_shared(job: str, jobs: dict[str, str]) -> bool:
    """Whether a job works on several phases, by worlds."""
    return list(jobs.values()).count(job) > 1


def _state(
    folder: PhaseDir, queued: QueuedJob | None, job: str, phase: Phase, run: RunDir, start: str
) -> tuple[str, str]:
    """A word for the state and what is known beyond it. `start` is the name of the phase that it starts from."""
    status = folder.read_status()
    if status.state == "done":
        # A phase in the queue is about to be trained again, so it is not called outdated.
        return _done_state(folder, phase, start if queued is None and is_outdated(run, phase) else "")
    # The queue comes before the status file, which still says how the last start of the job ended.
    if queued is not None and queued.waiting:
        again = "" if status.pending else f", {_where(folder)}"
        return "queued", queued.reason + again
    if queued is not None:
        runs_on = f"{queued.elapsed} on {queued.nodes}" if queued.nodes else queued.elapsed
        return "running", ", ".join(filter(None, [_where(folder), runs_on]))
    if status.state == "failed":
        return "failed", status.error or ""
    if status.state.startswith("stopped:"):
        return "stopped", f"by {status.state.removeprefix('stopped:')}, {_where(folder)}"
    if not job:
        return status.state, "" if status.pending else _where(folder)
    # Its job is gone without a trace because the one that it waited for failed: that one needs attention.
    if status.pending and phase.init and run.phase(phase.init).status() != "done":
        return "not run", f"needs {start}"
    # The status says that it runs, the queue that it does not: the job died before it could write.
    return "lost", _last_words(run, job, phase.id)


def _done_state(folder: PhaseDir, phase: Phase, changed: str) -> tuple[str, str]:
    """`changed`: the name of its start, where that has other weights since."""
    if changed:
        return "outdated", f"{changed} has other weights since it started from it"
    seconds = folder.read_status().seconds
    spent = [f"{seconds:.0f} s"] if seconds is not None else []
    return "done", ", ".join([*scores_in_words(folder, phase), *spent])


def _last_words(run: RunDir, job: str, phase: str) -> str:
    """What a job's log ends with, where the phase's own files say nothing: a line of `setup` that failed, say."""
    lines = [line for path in _log_files(run, phase, None) for line in _tail(path, 3).splitlines() if line.strip()]
    if not lines or lines == [NOT_WRITTEN]:
        return "its job ended without a word (cancelled, or its node failed)"
    return f"its job ended: {lines[-1].strip()[:300]}"


def _where(folder: PhaseDir) -> str:
    """`step 40`, from the curve that rank 0 writes, or what is predicted so far."""
    if folder.status() == "trained":
        return counted(len(list(folder.predictions.glob("*/*"))), "prediction file")
    step = _last_step(folder)
    if not step:
        return "starting"
    steps = folder.read_status().steps
    if not step:
        return "starting"
    # Phases of earlier versions do not say how many steps they take.
    return f"step {step:,} of {steps:,}" if steps else f"step {step:,}"


def _last_step(folder: PhaseDir) -> int:
    """The last step of a phase's curve; 0 where there is none."""
    if not folder.metrics.exists():
        return 0
    with open(folder.metrics, "rb") as file:
        # Only its end: the curve of a long phase has megabytes, and a watch reads it again every few seconds.
        file.seek(max(0, folder.metrics.stat().st_size - 4096))
        steps = re.findall(rb'"step": (\d+)', file.read())
    return int(steps[-1]) if steps else 0


def _report_state(run: RunDir, job: str, queued: dict[str, QueuedJob]) -> tuple[str, str]:
    if job in queued:
        return ("queued", "waits for all phases") if queued[job].waiting else ("running", "")
    return ("done", str(run.report)) if run.report.exists() else ("lost", "its job ended without a report")


def run_logs(run: RunDir, phase: str | None, rank: int | None, lines: int) -> str:
    """The last lines of a phase's batch log, or of one rank; without a phase, of everything that runs or failed."""
    chosen = _chosen(run, phase)
    files = [path for p in chosen for path in _log_files(run, p, rank)]
    return printable("\n".join(f"==> {path} <==\n{_tail(path, lines)}" for path in files))


def _chosen(run: RunDir, phase: str | None) -> list[str]:
    """Ids of the phases whose id or label holds `phase`; None: of what runs or failed. Raises UserError for none."""
    phases = _plan(run).phases
    if phase is None:
        chosen = _interesting(run, [planned.id for planned in phases])
    else:
        chosen = [planned.id for planned in phases if _is_meant(planned, phase)]
    if not chosen:
        raise UserError(f"no phase of {run.root} is called {phase!r}" if phase else "nothing runs and nothing failed")
    return chosen


def _is_meant(phase: Phase, words: str) -> bool:
    """Whether some words of a command name a phase, by its id or by its label."""
    return words in phase.id or words in phase.label


def _interesting(run: RunDir, phases: list[str]) -> list[str]:
    """Phases that began and are not done, and those whose job has left a log and is not in the queue."""
    jobs = jobs_of(run)
    begun = [p for p in phases if run.phase(p).status() not in ("done", "pending")]
    # A job whose log is all there is died before its ranks began.
    submitted = [p for p in phases if p in jobs and run.phase(p).status() == "pending"]
    silent = [p for p in submitted if _log_files(run, p, None)]
    return [p for p in phases if p in begun or p in silent]


def watch_status(run: RunDir, seconds: float, by_phase: bool = False) -> RunStatus:
    """Print the status, look again every so many seconds, and print it where it has changed, until nothing waits or
    runs. Returns the last one."""
    on_terminal = sys.stdout.isatty()
    shown: list[tuple[str, str]] = []
    while True:
        now = run_status(run)
        states = [(row.label, row.state) for row in now.rows]
        # A terminal shows the clock go on. A file or pipe would fill with pages that differ in nothing else.
        if on_terminal or states != shown:
            print((CLEAR if on_terminal else "") + now.text(by_phase), flush=True)
            shown = states
        if not now.moving:
            return now
        time.sleep(seconds)


def follow_logs(run: RunDir, phase: str | None, rank: int | None, lines: int, say: Callable[[str], None]) -> None:
    """Say the last lines of the logs that `run_logs` shows, and what is added to them while anything waits or runs."""
    chosen = _chosen(run, phase)
    files = [path for p in chosen for path in _log_files(run, p, rank)]
    # Sizes are taken before the last lines are shown: a line written in between comes twice rather than never.
    read = {path: _size(path) for path in files}
    say(run_logs(run, phase, rank, lines))
    last = files[-1] if files else None
    asked = time.monotonic()
    while True:
        for path in files:
            added = _added(path, read)
            if added:
                # The name of the log again only where another one spoke before.
                say(printable(added if path == last else f"==> {path} <==\n{added}"))
                last = path
        # Looks at files cost nothing; the launcher is asked seldom, since thousands of users share its controller.
        if time.monotonic() - asked > ASK_AGAIN:
            if not run_status(run).moving:
                return
            asked = time.monotonic()
        time.sleep(LOOK_AGAIN)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _added(path: Path, read: dict[Path, int]) -> str:
    """Whole lines that a file has beyond what was read; a file that was begun anew is read from its start."""
    if not path.exists():
        return ""
    size = path.stat().st_size
    # A file shorter than before was begun anew by a restart.
    start = read[path] if read[path] <= size else 0
    with open(path, "rb") as file:
        file.seek(start)
        # The rest of a line is shown when its end is there: it may stop within a character.
        whole = file.read(size - start).rpartition(b"\n")[0]
    read[path] = start + len(whole) + (1 if whole else 0)
    return whole.decode("utf-8", errors="replace").expandtabs()


def _log_files(run: RunDir, phase: str, rank: int | None) -> list[Path]:
    jobs = jobs_of(run)
    job = jobs.get(phase)
    # Where several phases share a job, a phase's lines stand in the file of its rank 0.
    if rank is None and job and not (is_shared(job, jobs) and (run.logs / phase).exists()):
        return sorted(run.logs.glob(f"*-{job}.log"))
    # A phase that was not submitted ran on this machine, where rank 0's log says most: a file of its own where it ran
    # alone, else the run's.
    name = f"rank-{rank or 0}.log"
    alone = run.logs / phase / name
    return [alone if alone.exists() or job else run.logs / name]


def _tail(path: Path, lines: int) -> str:
    if not path.exists():
        return NOT_WRITTEN
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]).expandtabs()


def cancel_jobs(run: RunDir, phase: str | None) -> str:
    """Cancel a run's jobs (or one phase's). Running ones save first; nothing brings them back but `retry`."""
    recorded = jobs_of(run)
    launcher = launcher_of(profile_of(run))
    queued = launcher.queue() if recorded else {}
    meant = {planned.id for planned in _plan(run).phases if phase is None or _is_meant(planned, phase)}
    if phase is None:
        meant |= {PREPARE, REPORT}
    jobs = {p: j for p, j in recorded.items() if j in queued and p in meant}
    beside = sorted({job for p, job in recorded.items() if p not in jobs} & set(jobs.values()))
    if beside:
        raise UserError(
            f"{phase} is worked on in job {beside[0]} with other phases; cancel all of them, without a name"
        )
    if not jobs:
        return "no job of this run is in the queue" + (f" for {phase}" if phase else "")
    # Those that wait go first, so that none of them starts because another ends.
    waiting = {job for job, state in queued.items() if state.waiting}
    for group in (sorted(set(jobs.values()) & waiting), sorted(set(jobs.values()) - waiting)):
        if group:
            launcher.cancel(group)
    names = {planned.id: planned.label for planned in _plan(run).phases}
    return "cancelled: " + ", ".join(f"{names.get(p, p)} ({j})" for p, j in jobs.items())


def retry_run(run: RunDir) -> str:
    """Submit again what is neither done nor in the queue, with the profile of the first submission."""
    run.check_links()
    plan = _plan(run)
    if not run.profile.exists():
        raise UserError(f"{run.root} was not submitted; use `stilts submit RECIPE --cluster PROFILE`")
    # Two retries at once would submit each phase twice.
    with run_lock(run):
        return submit_plan(run, plan, load_profile(run.profile))
