"""Where a run's numbers come from, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stilts_ds.data.data import hub_commits_path
from stilts_ds.display import duration, number
from stilts_ds.plan_file import Phase
from stilts_ds.report.load import RunData
from stilts_ds.report.table import Sheet
from stilts_ds.sources.hub import kept_commits, moving
from stilts_ds.tasks.registry import get_task


def provenance_lines(data: RunData) -> list[tuple[str, str]]:
    """What produced the run, as (what, value); several values where the phases differ."""
    planned = data.plan.provenance
    made = [run.provenance for tasks in data.results.values() for runs in tasks.values() for run in runs]
    # The results' own, since phases may have been run by other versions than the one that planned.
    commits = _distinct(result.git_commit for result in made) or [planned.git_commit]
    platforms = _distinct(result.platform for result in made) or _distinct([planned.platform])
    versions = [f"{name} {version}" for name, version in sorted(planned.versions.items())]
    lines = [
        ("Model", data.plan.model),
        ("Model files (SHA-256)", planned.model_hash),
        ("Data", data.plan.source),
        ("Seeds", ", ".join(map(str, data.plan.seeds))),
        ("Commit", ", ".join(commits)),
        ("Versions", ", ".join(versions)),
        ("Machine", ", ".join(platforms)),
        ("Number format (chosen by `auto`)", ", ".join(_distinct(s.dtype or "" for s in data.statuses.values()))),
        ("Moving hub revisions", ", ".join(f"{name}: {commit}" for name, commit in hub_commits(data).items())),
        ("Recipe", "recipe.yaml beside this file"),
        ("Reproduce", reproduce(data, commits)),
    ]
    return [(name, value) for name, value in lines if value]


def reproduce(data: RunData, commits: Sequence[str]) -> str:
    """The command that makes the run's numbers again, and on what: code, ranks and kind of device."""
    ranks = sorted({status.world_size for status in data.statuses.values() if status.world_size})
    # The recipe of a run is resolved: it names model, data and every setting. Another name, or it would find all done.
    command = f"stilts run recipe.yaml name={data.plan.name}-again"
    command += f" launch.nproc={ranks[-1]}" if ranks else ""
    devices = "GPUs" if _unit(data) == "GPU" else "CPUs"
    on = f", on {devices}" if ranks else ""
    several = f" (phases had {', '.join(map(str, ranks))} ranks)" if len(ranks) > 1 else ""
    return f"{command}{on}{several}, with the code of commit {', '.join(commits)} and the data files named by hash"


def hub_commits(data: RunData) -> dict[str, str]:
    """The commits that the run's hub data sets of moving revisions were read at, by `repository@revision`."""
    if data.plan.source != "hub":
        return {}
    used = {name for phase in data.phases.values() for task in phase.train for name in moving(get_task(task))}
    kept = kept_commits(hub_commits_path(data.recipe, data.run.root))
    return {name: kept[name] for name in sorted(used) if name in kept}


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def selection_sheet(data: RunData) -> Sheet:
    """English dev scores of the intermediate phases: of the kept model, and each task's own best with its step."""
    rows = []
    for phase in data.phases.values():
        best = data.statuses[phase.id].best
        if phase.kind != "intermediate" or best is None:
            continue
        trained = f"{phase.condition}, seed {phase.seed}"
        for task, scores in best.tasks.items():
            kept = (number(scores.score), f"{best.step:,}")
            peak = (number(scores.best), f"{scores.best_step:,}")
            rows.append((trained, task, *kept, *peak))
    columns = ("condition", "task", "kept model", "at step", "task's best", "at step")
    notes = (
        "The kept model is the one with the best mean over the phase's tasks; `mlm` beside other tasks is measured and "
        "does not count. Where a task's own best is higher, another step would have suited that task better.",
    )
    return Sheet("Selection on English dev", columns, tuple(rows), notes)


def dev_json(data: RunData) -> dict[str, dict[str, dict[str, float]]]:
    """condition -> task -> seed -> dev score of the model that its intermediate phase kept."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for phase in data.phases.values():
        best = data.statuses[phase.id].best
        if phase.kind != "intermediate" or best is None:
            continue
        for task, of_task in best.tasks.items():
            scores.setdefault(phase.condition, {}).setdefault(task, {})[str(phase.seed)] = of_task.score
    return scores


# --- cost ------------------------------------------------------------------------------------------------------------


def cost_sheet(data: RunData) -> Sheet:
    """One row for each condition and kind of phase, from status and metrics files; what they do not say is a dash."""
    groups: dict[tuple[str, str], list[Phase]] = {}
    for phase in data.phases.values():
        # A shared phase counts once, for the condition that planned it.
        groups.setdefault((phase.condition, phase.kind), []).append(phase)
    rows = [(f"{condition}: {kind}", *_cost(data, phases)) for (condition, kind), phases in groups.items()]
    columns = ["phases", "done", "steps", "time", f"{_unit(data)}-hours", "peak memory (GiB)"]
    if any(status.joules is not None for status in data.statuses.values()):
        columns.append("energy of GPUs (kWh)")
    notes = (
        "Time is the wall clock of training, prediction and scoring, where every phase's status says both its time and "
        "its ranks (a status without ranks may tell of a later start that found the work done). A phase that several "
        "conditions share stands with the first. Memory is the peak of one rank. The energy of GPUs stands here where "
        "their driver counts it.",
    )
    rows.append(("all", *_cost(data, data.phases.values())))
    return Sheet("Cost", ("condition and kind", *columns), tuple(row[: len(columns) + 1] for row in rows), notes)


def _cost(data: RunData, phases: Iterable[Phase]) -> tuple[str, ...]:
    """A sum over phases is given only if every one of them says its part."""
    chosen = list(phases)
    statuses, curves = [data.statuses[p.id] for p in chosen], [data.curves[p.id] for p in chosen]
    timed = [(s.seconds, s.world_size) for s in statuses if s.seconds is not None and s.world_size is not None]
    joules = [s.joules for s in statuses if s.joules is not None]
    done = sum(status.state == "done" for status in statuses)
    last_steps = [curve.loss[-1][0] for curve in curves if curve.loss]
    # The largest of all phases: what a machine must have.
    peaks = [v for c in curves for k, v in (c.peak or {}).items() if k.startswith(_memory(data))]
    wall_time = rank_hours = kilowatt_hours = "-"
    if chosen and len(timed) == len(chosen):
        wall_time = duration(sum(seconds for seconds, _ in timed))
        rank_hours = f"{sum(seconds * ranks for seconds, ranks in timed) / 3600:.2f}"
    # A sum that lacks phases would look like a cheap run.
    if chosen and len(joules) == len(chosen):
        kilowatt_hours = f"{sum(joules) / 3.6e6:.2f}"
    return (
        str(len(chosen)),
        str(done),
        f"{sum(last_steps):,}" if last_steps else "-",
        wall_time,
        rank_hours,
        number(max(peaks, default=None)),
        kilowatt_hours,
    )


def _memory(data: RunData) -> str:
    return "memory/device" if _unit(data) == "GPU" else "memory/host"


def _unit(data: RunData) -> str:
    """GPU where the metrics hold a device's memory; otherwise ranks are processes on CPUs."""
    on_gpu = any("memory/device_peak_gib" in (curve.peak or {}) for curve in data.curves.values())
    return "GPU" if on_gpu else "rank"
