"""Where a run's numbers come from, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable

from stilts_ds.plan import Phase
from stilts_ds.report.load import RunData
from stilts_ds.report.table import Sheet


def provenance_lines(data: RunData) -> list[tuple[str, str]]:
    """What produced the run, as (what, value); several values where the phases differ."""
    plan = data.planned["provenance"]
    made = [run["provenance"] for tasks in data.results.values() for runs in tasks.values() for run in runs]
    commits = _distinct(one.get("git_commit") for one in made) or [plan["git_commit"]]
    platforms = _distinct(one.get("platform") for one in made) or _distinct([plan.get("platform")])
    versions = [f"{name} {version}" for name, version in sorted(plan["versions"].items())]
    lines = [
        ("Model", data.planned["model"]),
        ("Model files (SHA-256)", str(plan.get("model_hash", ""))),
        ("Data", data.planned["source"]),
        ("Seeds", ", ".join(map(str, data.planned["seeds"]))),
        ("Commit", ", ".join(commits)),
        ("Versions", ", ".join(versions)),
        ("Machine", ", ".join(platforms)),
        ("Recipe", "recipe.yaml beside this file"),
    ]
    return [(what, value) for what, value in lines if value]


def _distinct(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value))


# --- cost ------------------------------------------------------------------------------------------------------------


def cost_sheet(data: RunData) -> Sheet:
    """One row a phase, from its status and metrics; what a file does not say is a dash."""
    rows = [_cost_row(data, phase) for phase in data.phases.values()]
    known = [float(s["seconds"]) for s in data.statuses.values() if "seconds" in s]
    total = ("all phases", f"{len(known)} of {len(rows)} timed", "", duration(sum(known)) if known else "-", "",
             _hours(sum(found) if (found := _rank_seconds(data)) else None), "")
    notes = ["Time is the wall clock of a phase's last start, training, prediction and scoring together; what an "
             "interrupted start had spent before is not in it. Memory is the peak of one rank."]
    columns = ("phase", "state", "steps", "time", "ranks", f"{_unit(data)}-hours", "peak memory (GiB)")
    return Sheet("Cost", columns, (*rows, total), tuple(notes))


def _cost_row(data: RunData, phase: Phase) -> tuple[str, ...]:
    status, curve = data.statuses[phase.id], data.curves[phase.id]
    seconds, ranks = status.get("seconds"), status.get("world_size")
    steps = str(curve.loss[-1][0]) if curve.loss else "-"
    peak = curve.peak or {}
    memory = peak.get("memory/device_peak_gib", peak.get("memory/host_peak_gib"))
    return (
        phase.title, str(status["state"]), steps, duration(seconds) if seconds is not None else "-",
        str(ranks) if ranks else "-", _hours(seconds * ranks if seconds is not None and ranks else None),
        f"{memory:.1f}" if memory else "-",
    )


def _rank_seconds(data: RunData) -> list[float]:
    """Seconds times ranks of every phase, or nothing if one of them does not say."""
    found = [s["seconds"] * s["world_size"] for s in data.statuses.values() if "seconds" in s and "world_size" in s]
    return found if len(found) == len(data.statuses) else []


def _unit(data: RunData) -> str:
    on_gpu = any("memory/device_peak_gib" in (curve.peak or {}) for curve in data.curves.values())
    return "GPU" if on_gpu else "rank"


def _hours(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 3600:.2f}"


def duration(seconds: float) -> str:
    """`41 s`, `12 min 30 s` or `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
