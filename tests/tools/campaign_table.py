"""What a campaign found, as Markdown: kills by activity and kind, by place, and damaged files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def table(lines: Sequence[Line]) -> str:
    """All tables; numbers are counts unless they say otherwise."""
    kills = [line for line in lines if "kind" in line]
    ends = [line for line in lines if "end" in line]
    starts = [line for line in lines if "ended" in line]
    parts = [
        sentence(kills, ends, lines),
        _kills("what was hit", lambda k: k["activity"], kills, lines),
        _kills("kill", lambda k: k["kind"], kills, lines),
        _kills("where", lambda k: k["where"], kills, lines),
        _pairs(kills),
        _elastic([line for line in ends if "apart" in line]),
        _damage(lines),
        _clean_ends([line["left"] for line in lines if "left" in line]),
        f"{sum(s['ended'] == 0 for s in starts)} starts ran to their end with status 0 and "
        f"{sum(k['status'] == 85 for k in kills)} were stopped with status 85; "
        f"{sum(bool(line.get('aborted')) for line in lines)} of all starts showed a SIGABRT.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sentence(kills: Sequence[Line], ends: Sequence[Line], lines: Sequence[Line]) -> str:
    return (
        f"{len(kills)} kills in {len(ends)} studies: {sum('hang' in line for line in lines)} hangs, "
        f"{sum(bool(e['differences']) for e in ends)} studies with a difference, "
        f"{sum(bool(k.get('lost_commit')) for k in kills)} committed checkpoints lost, "
        f"{sum('failure' in line for line in lines)} starts that failed without a damaged file, "
        f"{sum(k.get('torn', 0) for k in kills)} torn checkpoints passed over, "
        f"{sum(k.get('repeated', 0) for k in kills)} steps repeated; "
        f"slowest end after a kill: {max((k['seconds_to_end'] for k in kills), default=0)} s."
    )


def is_bad(lines: Sequence[Line]) -> bool:
    """Whether a campaign found anything that must not be."""
    return any(
        "hang" in line or "failure" in line or line.get("differences") or line.get("lost_commit") or line.get("aborted")
        for line in lines
    )


def _kills(title: str, by: Callable[[Line], str], kills: Sequence[Line], lines: Sequence[Line]) -> str:
    rows = [
        f"| {title} | kills | torn checkpoints passed over | steps repeated | most at once |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, count in Counter(map(by, kills)).most_common():
        mine = [kill for kill in kills if by(kill) == name]
        torn, repeated = (sum(kill.get(what, 0) for kill in mine) for what in ("torn", "repeated"))
        rows.append(f"| {name} | {count} | {torn} | {repeated} | {max(k.get('repeated', 0) for k in mine)} |")
    return "\n".join(rows)


def _pairs(kills: Sequence[Line]) -> str:
    counts = Counter((kill["activity"], kill["kind"]) for kill in kills)
    kinds = sorted({kind for _, kind in counts})
    rows = [f"| | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    for activity in sorted({activity for activity, _ in counts}):
        rows.append(f"| {activity} | {' | '.join(str(counts[activity, kind]) for kind in kinds)} |")
    return "\n".join(rows)


def _elastic(ends: Sequence[Line]) -> str:
    """How far studies whose starts had other numbers of ranks ended from undisturbed ones, and who trained in them."""
    if not ends:
        return ""
    distances = [end["apart"] for end in ends]
    loss, weight = (max(distance[name] for distance in distances) for name in ("loss", "weight"))
    # Keys are strings once they were in a file. Campaigns of earlier versions did not count.
    steps = Counter[int]()
    for end in ends:
        steps.update({int(count): taken for count, taken in end.get("steps", {}).items()})
    trained = ", ".join(f"{count}: {taken}" for count, taken in sorted(steps.items()))
    return (
        f"{len(distances)} studies had 1, 2 or 4 ranks in each start: losses within {loss:.1e} (relative) of an "
        f"undisturbed run's, weights within {weight:.1e}; {sum(distance['other_best'] for distance in distances)} of "
        f"their phases chose another step. Steps taken by number of ranks: {trained or 'not counted'}."
    )


def _damage(lines: Sequence[Line]) -> str:
    counts = Counter((line["damaged"], line["how"], line["answer"]) for line in lines if "damaged" in line)
    if not counts:
        return ""
    rows = ["| damaged file | how | answer | times |", "|---|---|---|---:|"]
    rows += [f"| {' | '.join(key)} | {count} |" for key, count in sorted(counts.items())]
    return "\n".join(rows)


def _clean_ends(codes: Sequence[int]) -> str:
    told = f"{codes.count(0)} of {len(codes)} undisturbed starts of whole processes ended with status 0."
    return told if codes else ""


def main(paths: Sequence[str]) -> int:
    """The table of several campaigns' kills.jsonl together, without the last study of one that was cut off."""
    lines: list[Line] = []
    for path in paths:
        mine = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        ended = {line["study"] for line in mine if line.keys() & {"end", "hang", "left"}}
        lines += [line for line in mine if line["study"] in ended]
    print(table(lines))
    return int(is_bad(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
