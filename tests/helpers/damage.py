"""Files of a stopped run that are truncated or have a bit flipped, and what a message asks a user to do then."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path


def newest_checkpoint(run: Path, pattern: str) -> list[Path]:
    committed = sorted(run.glob("phases/*/checkpoints/step-*/manifest.json"))
    return sorted(committed[-1].parent.glob(pattern)) if committed else []


FILES: dict[str, Callable[[Path], list[Path]]] = {  # class of files -> those of a run
    "checkpoint shard": lambda run: newest_checkpoint(run, "*.safetensors"),
    "checkpoint manifest": lambda run: newest_checkpoint(run, "manifest.json"),
    "token cache": lambda run: sorted(run.glob("cache/*/*.npy")),
    "cache manifest": lambda run: sorted(run.glob("cache/*/manifest.json")),
    "best model": lambda run: sorted(run.glob("phases/*/checkpoints/best-*/*/model.safetensors")),
    "phase status": lambda run: sorted(run.glob("phases/*/status.json")),
    "exported encoder": lambda run: sorted(run.glob("phases/*/encoder/model.safetensors")),
    "exported heads": lambda run: sorted(run.glob("phases/*/heads.safetensors")),
    "predictions": lambda run: sorted(run.glob("phases/*/predictions/*/[!.t]*.*")),
    "mining threshold": lambda run: sorted(run.glob("phases/*/predictions/*/threshold-*.json")),
    "prediction stamp": lambda run: sorted(run.glob("phases/*/predictions/*/.*.inputs.json")),
    "labels": lambda run: sorted(run.glob("labels/*/*")),
    "results": lambda run: sorted(run.glob("phases/*/results/*.json")),
    "curve": lambda run: sorted(run.glob("phases/*/metrics.jsonl")),
    "plan": lambda run: sorted(run.glob("plan.json")),
}
HOW = ("flipped", "truncated")


def damage(run: Path, dice: random.Random, kind: str, how: str) -> Path | None:
    """Damage one file of the kind; None where there is none, or none with bytes in it."""
    candidates = [path for path in FILES[kind](run) if path.stat().st_size > 1]
    if not candidates:
        return None
    path = dice.choice(candidates)
    data = bytearray(path.read_bytes())
    place = dice.randrange(len(data))
    if how == "flipped":
        data[place] ^= 1 << dice.randrange(8)
    path.write_bytes(data if how == "flipped" else data[:place])
    return path


def mend(run: Path, path: Path) -> None:
    """What the message of a refused start asks for: delete the file, or have its phase trained or predicted again."""
    parts = path.relative_to(run).parts
    if "checkpoints" in parts:
        shutil.rmtree(run.joinpath(*parts[:3]))
    elif parts[0] == "phases" and (parts[2] == "encoder" or parts[2].startswith("heads")):
        (run / "phases" / parts[1] / "status.json").unlink()
    else:
        path.unlink()
