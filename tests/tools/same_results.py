"""Whether two checkouts compute the same, to the byte: record what a run computed or what is planned, and compare.

    same_results.py record RUN_DIR OUT.json     what a finished run computed, in a file that can be kept
    same_results.py plans OUT.json              how a checkout plans the shipped recipes; needs no data and no torch
    same_results.py compare A B                 A and B each a record, or a run folder

`compare` tells for each kind of result how many values it looked at and the first place that differs. Exit status: 0
all equal, 1 something differs or nothing was compared, 2 something cannot be read.

Losses and weights depend on the instructions that a processor has and on the libraries: compare runs that were made on
one machine, in one environment. What names the code, the machine, the time or a folder is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPES = ("quickstart", "xstilts", "xstilts_single_gpu", "xlmr_xl_zero3", "mini_xlmr", "xtreme_r")
# Of provenance, only the hash of the pretrained model's files decides a result; the rest tells what made it, and where.
MAKERS = ("git_commit", "versions", "platform")
# Metrics of the machine and not of data and seed.
MEASURED = ("time/", "memory/", "train/tokens_per_second", "train/mfu")
# A status tells times and a token of this start. `curve` is the hash of metrics.jsonl, which holds measured speeds.
OF_ONE_START = ("seconds", "joules", "at", "token", "curve", "seal")
ABSENT = "absent"
LONGEST_SHOWN = 160  # characters of a value in a message


class CannotRecord(Exception):
    """A run folder or record that tells too little to be compared; the message names the file."""


# --- reading ---------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CannotRecord(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CannotRecord(f"{path} is not UTF-8 ({error})") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise CannotRecord(f"{path} is not valid JSON ({error})") from error


def as_written(value: Any) -> str:
    """The text that stilts writes for a JSON value."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def read_written(path: Path) -> Any:
    """A JSON file that stilts wrote. Raises CannotRecord for another indent or ending.

    Values and the order of keys are compared, not text. Since the form is checked here, equal values in equal order
    are equal bytes.
    """
    value = read_json(path)
    if read_text(path) != as_written(value):
        raise CannotRecord(f"{path} is not in the form in which stilts writes JSON (indent 1, UTF-8, one newline)")
    return value


def without(value: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: part for key, part in value.items() if key not in keys}


def without_makers(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object whose `provenance` keeps nothing of commit, versions and platform."""
    if "provenance" not in value:
        return value
    return {**value, "provenance": without(value["provenance"], MAKERS)}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):  # arrays of a cache may not fit into memory
            digest.update(block)
    return digest.hexdigest()


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def hashes_below(folder: Path, hidden: bool) -> dict[str, str]:
    """SHA-256 of the files below a folder, by their path in it: either those whose name starts with a dot, or the
    others."""
    chosen = [path for path in files_below(folder) if path.name.startswith(".") == hidden]
    return {path.relative_to(folder).as_posix(): hash_of(path) for path in chosen}


# --- a run -----------------------------------------------------------------------------------------------------------


def record_run(run: Path) -> dict[str, Any]:
    """What a finished run computed: {kind: nested values}. Raises CannotRecord where a phase is not done."""
    plan = read_written(run / "plan.json")
    folders = {phase["id"]: run / "phases" / phase["id"] for phase in plan["phases"]}
    for folder in folders.values():
        state = read_json(folder / "status.json")["state"] if (folder / "status.json").exists() else "pending"
        if state != "done":
            raise CannotRecord(f"{folder} is {state}; record a run when all its phases are done")
    trained = {phase["id"]: folders[phase["id"]] for phase in plan["phases"] if phase["train"]}
    kinds = {
        "plan": plan_by_phase(plan),
        "phase files": {name: without_makers(read_written(path / "phase.json")) for name, path in folders.items()},
        "statuses": {name: status_of(path / "status.json") for name, path in folders.items()},
        "cache": cache_of(run / "cache"),
        "curves": {name: curves_of(path / "metrics.jsonl") for name, path in trained.items()},
        "weights": {name: weights_of(path) for name, path in trained.items()},
        "models": {name: model_of(path) for name, path in trained.items()},
        "model cards": {name: card_of(path / "README.md") for name, path in trained.items()},
        "predictions": {name: hashes_below(path / "predictions", hidden=False) for name, path in folders.items()},
        # Which inputs a prediction was made from: a later start finds it again by them.
        "stamps": {name: hashes_below(path / "predictions", hidden=True) for name, path in folders.items()},
        "labels": hashes_below(run / "labels", hidden=False),
        "results": {name: results_of(path / "results") for name, path in folders.items()},
        "report": report_of(run),
    }
    return {"of": "run", "commit": plan["provenance"]["git_commit"], "kinds": kinds}


def status_of(path: Path) -> dict[str, Any]:
    """What a phase's status says of its result, by name: a second start that looks at a finished phase writes the same
    keys in another order, and a continued run must equal an undisturbed one."""
    status = without(read_written(path), OF_ONE_START)
    return dict(sorted(status.items()))


def plan_by_phase(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan with its phases by id, so that a difference names the phase; a JSON object keeps their order."""
    return {**without_makers(plan), "phases": {phase["id"]: phase for phase in plan["phases"]}}


def cache_of(folder: Path) -> dict[str, Any]:
    """Tokenised rows by what they are and by the folder's name, which is the hash of their key.

    Folders that start with a dot were left by a killed process that was filling them.
    """
    rows: dict[str, Any] = {}
    for manifest in sorted(folder.glob("[!.]*/manifest.json")):
        content = read_written(manifest)
        key = content.get("key", {})
        title = " ".join(str(key.get(part)) for part in ("task", "split", "language"))
        arrays = {path.name: hash_of(path) for path in sorted(manifest.parent.glob("*.npy"))}
        rows[f"{title} {manifest.parent.name}"] = {"manifest": content, "arrays": arrays}
    notes = {path.name: read_written(path) for path in sorted(folder.glob("[!.]*.json"))}
    return {"rows": dict(sorted(rows.items())), "notes": notes}


def curves_of(metrics: Path) -> dict[str, dict[str, Any]]:
    """Losses, learning rates, gradient norms and dev scores of a phase: {quantity: {step: value}}."""
    curves: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(read_text(metrics).splitlines(), start=1):
        try:
            values = json.loads(line)
            step = str(values.pop("step"))
        except (ValueError, KeyError, AttributeError) as error:
            raise CannotRecord(f"{metrics}:{number} is no record of a step ({error})") from error
        for name, value in values.items():
            if not name.startswith(MEASURED):
                curves.setdefault(name, {})[step] = value
    return curves


def weights_of(phase: Path) -> dict[str, dict[str, Any]]:
    """Type, shape and hash of each tensor that a phase exported, by file."""
    files = [*sorted((phase / "encoder").glob("*.safetensors")), phase / "heads.safetensors"]
    return {path.relative_to(phase).as_posix(): tensors_in(path) for path in files}


def tensors_in(path: Path) -> dict[str, Any]:
    """{name: [type, shape, SHA-256 of its bytes]} of a safetensors file, in the order of the file.

    The format is read here since numpy has no bfloat16: 8 bytes with the header's length (little endian), the header
    as JSON, then the tensors' bytes.
    """
    tensors = {}
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for name, tensor in without(header, ("__metadata__",)).items():
                first, last = tensor["data_offsets"]
                file.seek(8 + length + first)
                tensors[name] = [tensor["dtype"], tensor["shape"], sha256(file.read(last - first))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotRecord(f"{path} is no safetensors file ({error})") from error
    return tensors


def model_of(phase: Path) -> dict[str, Any]:
    """What describes an exported model: heads, configuration, tokenizer files, lineage."""
    heads = without(read_written(phase / "heads.json"), ("seal",))
    # config.json holds transformers' version, and so do its hash and the seal over it; its content is compared below.
    heads["files"] = without(heads["files"], ("encoder/config.json",))
    config = without(read_json(phase / "encoder" / "config.json"), ("transformers_version",))
    lineage = without(without_makers(read_written(phase / "encoder" / "stilts.json")), ("init",))  # init is a folder
    compared_above = ("config.json", "stilts.json")
    others = [path for path in files_below(phase / "encoder") if path.suffix != ".safetensors"]
    hashes = {path.name: hash_of(path) for path in others if path.name not in compared_above}
    return {"heads": heads, "config": config, "lineage": lineage, "files": hashes}


def card_of(path: Path) -> list[str]:
    """The lines of a model card, but for the one that names the code."""
    return [line for line in read_text(path).split("\n") if not line.startswith("Code: ")]


def results_of(folder: Path) -> dict[str, Any]:
    return {path.name: without_makers(read_written(path)) for path in sorted(folder.glob("*.json"))}


def report_of(run: Path) -> dict[str, Any]:
    """The report's numbers. The pages for readers (report.md, .tex, .html) tell times and the commit beside them."""
    return {"results.json": read_written(run / "results.json"), "report.csv": read_text(run / "report.csv").split("\n")}


# --- plans -----------------------------------------------------------------------------------------------------------


def record_plans(checkout: Path) -> dict[str, Any]:
    """How the code of a checkout plans the shipped recipes on a machine without data or downloaded models.

    A phase's id is the hash of all that its result depends on. Kept are ids, a hash of each phase's text, and each
    training's settings once, so that a difference can be named.
    """
    # Neither the hub nor this machine's cache of it may say which commit a branch is at. Read when it is imported.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(tempfile.gettempdir()) / "no-hub-cache-is-here")}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        os.environ.pop(name, None)
    sys.path[:0] = [str(checkout), str(checkout / "launcher")]
    sys.dont_write_bytecode = True
    from stilts_launcher.start import prepare_run

    from stilts_ds.config import load_recipe
    from stilts_ds.run_dir import git_commit

    kinds = {}
    # Plans look at folders beside them (a model's, the toy world's): in an empty one, they see nothing of this machine.
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name in RECIPES:
                lacking: dict[str, str] = {}
                plan = prepare_run(load_recipe(name), lacking)
                value = plan if isinstance(plan, dict) else plan.to_json()  # in 68bd3a7, a plan was its JSON object
                written = json.loads(as_written(value))  # lists, where the code has tuples
                kinds[name] = {**short_plan(written), "lacking": sorted(lacking)}
        finally:
            os.chdir(before)
    return {"of": "plans", "commit": git_commit(), "kinds": kinds}


def short_plan(plan: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for phase in plan["phases"]:
        if phase["train"]:
            title = f"{phase['kind']} {'+'.join(phase['train'])}"
            settings.setdefault(title, {"training": phase["training"], "lengths": phase["lengths"]})
    phases = {phase["id"]: sha256(as_written(phase).encode()) for phase in plan["phases"]}
    whole = sha256(as_written(without_makers(plan)).encode())
    use = {condition: sha256(as_written(ids).encode()) for condition, ids in plan["use"].items()}
    return {**without_makers(plan), "phases": phases, "use": use, "settings": settings, "plan.json": whole}


# --- comparing -------------------------------------------------------------------------------------------------------


def load(path: Path) -> dict[str, Any]:
    """The record in a file, or of the run in a folder."""
    if path.is_dir():
        return record_run(path)
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("kinds"), dict):
        raise CannotRecord(f"{path} is no record; `record` and `plans` write one")
    return record


def count_values(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(count_values, value.values()))
    if isinstance(value, list):
        return sum(map(count_values, value))
    return 1


def differences(left: Any, right: Any, place: str = "") -> Iterator[str]:
    """Each place where two JSON values differ, with both values. Of objects the order of keys counts, too."""
    if isinstance(left, dict) and isinstance(right, dict):
        yield from differing_keys(left, right, place)
    elif isinstance(left, list) and isinstance(right, list):
        numbered = [{str(number): part for number, part in enumerate(value)} for value in (left, right)]
        yield from differing_keys(*numbered, place)
    elif json.dumps(left) != json.dumps(right):  # as text: 1, 1.0 and true are equal in Python, and NaN is not NaN
        yield f"{place}: {shown(left)} | {shown(right)}"


def differing_keys(left: dict[str, Any], right: dict[str, Any], place: str) -> Iterator[str]:
    inside = f"{place}/" if place else ""
    for key in left:
        if key in right:
            yield from differences(left[key], right[key], f"{inside}{key}")
        else:
            yield f"{inside}{key}: {shown(left[key])} | {ABSENT}"
    for key in right:
        if key not in left:
            yield f"{inside}{key}: {ABSENT} | {shown(right[key])}"
    common = [key for key in left if key in right], [key for key in right if key in left]
    for first, second in zip(*common, strict=True):
        if first != second:
            yield f"{place or 'top'} (order of keys): {first} | {second}"
            return


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({count_values(value)} values)"


def compare(left: dict[str, Any], right: dict[str, Any], tell: Callable[[str], None]) -> bool:
    """Whether two records are equal in every kind, and hold something of every kind."""
    equal = bool(left["kinds"])
    if not left["kinds"]:
        tell("nothing was compared: the first record is empty")
    for kind in dict.fromkeys([*left["kinds"], *right["kinds"]]):
        before, after = left["kinds"].get(kind, {}), right["kinds"].get(kind, {})
        places = list(differences(before, after))
        count = min(count_values(before), count_values(after))
        if places:
            tell(f"{kind}: {count} compared, {len(places)} differ, first {places[0]}")
        elif count == 0:
            tell(f"{kind}: nothing was compared")
        else:
            tell(f"{kind}: {count} compared, equal")
        equal = equal and count > 0 and not places
    return equal


def write_record(record: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(as_written(record), encoding="utf-8", newline="\n")
    counts = ", ".join(f"{kind} {count_values(values)}" for kind, values in record["kinds"].items())
    print(f"{out}: {counts}")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = described.add_subparsers(dest="verb", required=True)
    record = verbs.add_parser("record", help="write what a finished run computed")
    record.add_argument("run_dir", type=Path)
    record.add_argument("out", type=Path)
    plans = verbs.add_parser("plans", help="write how a checkout plans the shipped recipes")
    plans.add_argument("out", type=Path)
    checkout_help = "whose code plans, also one without this tool; default: the checkout of this file"
    plans.add_argument("--checkout", type=Path, default=CHECKOUT, help=checkout_help)
    both = verbs.add_parser("compare", help="compare two records or run folders")
    both.add_argument("left", type=Path, metavar="A")
    both.add_argument("right", type=Path, metavar="B")
    return described


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    try:
        if given.verb == "compare":
            return 0 if compare(load(given.left), load(given.right), print) else 1
        record = record_run(given.run_dir) if given.verb == "record" else record_plans(given.checkout.resolve())
    except CannotRecord as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    write_record(record, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
