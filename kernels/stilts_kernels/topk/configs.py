"""Configurations of the fused kernel: defaults, the short list a tuner times, and the record of what it chose.

    stilts bench --tune                    on a GPU: times the candidates and writes the record
    STILTS_KERNELS_TUNED=other.json        another record than kernels/results/tuned.json

The record is a JSON object keyed by GPU, direction, dtype, D and k (as the groups kept: 8, 16, 32 or 64, which is what
the kernel is compiled for). A search takes the recorded configuration of exactly its key, else the default of its
architecture, and says in the log which. Every candidate passes the ahead-of-time gate of `compile_check` in
kernels/bench; a recorded configuration that is no candidate (any more) is refused with a warning.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from stilts_kernels.common.report import log
from stilts_kernels.topk.kernel import Config, interpreted

ENTRY = "config"
BLACKWELL = 100  # sm_100 and what came after it
LEAST_CAPABILITY = 80  # older tensor cores multiply no bfloat16 and add up with fewer bits
# maxnreg tells the assembler what to schedule for: left alone, it takes up to 193 registers for the two-way kernel with
# triton 3.6 and 3.7, none of them needed.
HOPPER = {"BM": 128, "BN": 128, "BK": 64, "STAGES": 3, "num_warps": 8, "ROW_GROUPS": 8, "USE_TMA": 1, "maxnreg": 168}
HOPPER |= {"SHARED_FLOOR": 0, "SPECIALIZED": 0}
# Candidates that no GPU has timed yet: one floor a query for all splits, and warps that only load or multiply.
SHARED, SPECIALIZED = {"SHARED_FLOOR": 1}, {"SPECIALIZED": 1}
AMPERE = {**HOPPER, "BK": 32, "USE_TMA": 0, "maxnreg": 255}
INTERPRETER = {**HOPPER, "BM": 64, "BN": 64, "BK": 16, "STAGES": 1, "num_warps": 4, "ROW_GROUPS": 4}


def candidates(capability: int, kept: int, two_way: bool) -> list[Config]:
    """Configurations worth timing on sm_<capability> (0: the interpreter); the first is the default."""
    if capability == 0:
        return [INTERPRETER, {**INTERPRETER, "ROW_GROUPS": 2}, {**INTERPRETER, **SHARED}]
    if capability >= BLACKWELL:
        return [{**HOPPER, "maxnreg": 255, **change} for change in blackwell_changes(capability, kept, two_way)]
    if capability >= 90:
        return [{**HOPPER, **change} for change in hopper_changes(kept, two_way)]
    return [{**AMPERE, **change} for change in ampere_changes(kept, two_way)]


def hopper_changes(kept: int, two_way: bool) -> list[Config]:
    """128 x 128 tiles with 8 warps leave room for two programs a multiprocessor, 128 x 256 tiles for one."""
    wide, narrow, free = {"BN": 256}, {"BN": 64}, {"maxnreg": 255}
    if kept > 16:
        return [free, {**free, **narrow}] if two_way else [free, {**free, "STAGES": 4}, {**free, **narrow}]
    if two_way:
        return [{}, {"STAGES": 4}, narrow, SHARED]
    # One wide tile fills a multiprocessor's shared memory, so more registers cost it nothing; 168 would spill.
    wide_shared = {**wide, **SHARED, **free}
    slim = {"num_warps": 4, "ROW_GROUPS": 4}  # at k = 16 it would need 186 registers
    return [wide, {**wide, "STAGES": 4}, {}, {"STAGES": 4}, wide_shared, SHARED, *([slim] if kept <= 8 else [])]


def blackwell_changes(capability: int, kept: int, two_way: bool) -> list[Config]:
    """Smaller tiles than Hopper's, whose accumulators spill here (`compile_check`). Warps of their own for loads and
    products are a candidate where they compile: Triton makes none for Hopper."""
    small = {"BM": 64, "BN": 64, "ROW_GROUPS": 4}
    # sm_120 has no memory of its own for accumulators: they share the registers with the lists.
    if capability >= 120:
        if kept > 16:
            return [small]
        narrow = {"BN": 64}
        shared, specialized = {**narrow, **SHARED}, {**narrow, **SPECIALIZED}
        return [narrow, shared] if two_way or kept > 8 else [{}, narrow, shared, specialized]
    if not two_way:
        return [{}, SHARED, SPECIALIZED]
    if kept > 16:
        return [{**small, "num_warps": 4}]
    return [{"BN": 64}, {"BN": 64, **SHARED}, {"BN": 64, **SPECIALIZED}]


def ampere_changes(kept: int, two_way: bool) -> list[Config]:
    if kept > 16:
        small = {"BM": 64, "BN": 64, "ROW_GROUPS": 4}  # with 4 warps it spills
        return [small] if two_way else [{"BN": 64}]
    return [{}, {"BN": 64}, {"STAGES": 4}, {"BN": 64, **SHARED}]


def record_path() -> Path:
    """STILTS_KERNELS_TUNED, else kernels/results/tuned.json of this checkout, else a file in the user's cache."""
    given = os.environ.get("STILTS_KERNELS_TUNED")
    if given:
        return Path(given)
    results = Path(__file__).resolve().parents[2] / "results"
    return (results if results.is_dir() else Path.home() / ".cache" / "stilts_kernels") / "tuned.json"


def record_key(gpu: str, dtype: torch.dtype, dim: int, kept: int, two_way: bool) -> str:
    """What a recorded configuration holds for."""
    direction = "two-way" if two_way else "one-way"
    return f"{gpu} / {direction} / {str(dtype).removeprefix('torch.')} / D {dim} / k {kept}"


def load_record(path: Path) -> dict[str, Any]:
    """All entries, {} where there is no file. Raises ValueError naming a file that is no such record."""
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a record of tuned configurations: {error}") from error
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) and ENTRY in entry for entry in entries.values()
    ):
        raise ValueError(f"{path} is not a record of tuned configurations: expected {{key: {{config: ...}}}}")
    return entries


def save_entry(path: Path, key: str, entry: dict[str, Any]) -> None:
    """Adds or replaces one entry; the file is written whole or not at all."""
    entries = {**load_record(path), key: entry}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, path)
    resolve.cache_clear()


def device_facts(device: torch.device) -> tuple[str, int]:
    """(name of the GPU, compute capability as in sm_<n>); the interpreter is capability 0."""
    if interpreted():
        return "interpreter", 0
    return torch.cuda.get_device_name(device), 10 * torch.cuda.get_device_capability(device)[0]


def choose_config(device: torch.device, dtype: torch.dtype, dim: int, kept: int, two_way: bool) -> Config:
    """The configuration of a search on `device`; says in the log where it comes from."""
    gpu, capability = device_facts(device)
    if 0 < capability < LEAST_CAPABILITY:
        raise ValueError(
            f"{gpu} has tensor cores of compute capability {capability / 10:.0f}, whose sums no bound here covers: "
            "move the rows to the CPU"
        )
    config, origin = resolve(record_path(), capability, record_key(gpu, dtype, dim, kept, two_way), kept, two_way)
    log.info("fused kernel: %s (%s)", describe(config), origin)
    return config


@lru_cache
def resolve(path: Path, capability: int, key: str, kept: int, two_way: bool) -> tuple[Config, str]:
    """(configuration, where it comes from) for a key of the record at `path`."""
    known = candidates(capability, kept, two_way)
    entry = load_record(path).get(key)
    if entry is None:
        return known[0], f"default: {path} has no entry for {key}"
    if entry[ENTRY] not in known:
        log.warning(
            "%s: the configuration of %s is not a candidate of this version; tune again. Taking the default", path, key
        )
        return known[0], "default: the recorded configuration is no candidate"
    return entry[ENTRY], f"tuned: {key} of {path}"


def describe(config: Config) -> str:
    return ", ".join(f"{name} {value}" for name, value in config.items())
