"""Every path inside a run, writes that cannot be torn, and the provenance that goes into each result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stilts_ds.errors import UnreadableError, UserError
from stilts_ds.phase_status import PhaseStatus
from stilts_ds.values import Value, ValueT, check_value
from stilts_ds.versions import versions

VISIBLE_SECONDS = 20.0  # what a network file system may take to show a new file on other nodes
COMMIT = "COMMIT"
HEADS_JSON = "heads.json"
LINEAGE = "stilts.json"  # beside the encoder: what it was made from


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` so that a reader sees the old file or the whole new one, also after a power cut. Who may read it
    follows the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    # Beside the file: a rename is atomic only within one file system.
    temporary = _fresh_name(path)
    try:
        with open(temporary, "xb") as file:  # not mkstemp: what it makes is its user's alone, whatever the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def fresh_folder(path: Path) -> Path:
    """Make a folder beside `path`, for what will be renamed to it. Who may read it follows the umask, as with mkdir and
    unlike mkdtemp."""
    folder = _fresh_name(path)
    folder.mkdir()
    return folder


def _fresh_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def open_to_others(path: Path) -> None:
    """Give a file, which a library made for its user alone, to whom the umask gives new files (safetensors: 0600)."""
    probe = _fresh_name(path)
    probe.touch(exist_ok=False)
    try:
        path.chmod(probe.stat().st_mode & 0o777)
    finally:
        probe.unlink()


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read `path` inside: FileNotFoundError passes, any other OSError is an UnreadableError that names the file.

    Such an error (EIO, ESTALE, EMFILE, EACCES ...) is about the way to the bytes and says nothing about the bytes.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(
            f"{path} cannot be read ({error.strerror}); it was left as it is: check its permissions and the file "
            "system, then run the same command again"
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file; raises UserError naming the file where it is missing or broken, UnreadableError where reading
    failed."""
    try:
        with reading(path):
            text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\ud" in text.lower():  # an escape can name half a surrogate pair, which no file and no report can hold
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the folder that you gave") from error
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, numbers without end, endless nesting
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run the same command again") from error


def load_value(kind: type[ValueT], path: Path, remedy: str) -> ValueT:
    """The value in a JSON file. Raises UserError with the file, the key at fault and the remedy."""
    return check_value(kind, read_json(path), path, remedy)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote. Raises UserError where the file is broken, or changed since."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("seal", None) != hash_json(value):
        raise UserError(f"{path} changed since it was written; delete it and run the same command again")
    return value


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object with a hash of itself, so that a damaged number is noticed."""
    write_json(path, {**value, "seal": hash_json(value)})


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value's canonical form, in hex."""
    # Sorted and without spaces: equal values hash alike, however their file was written.
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return _digest(path, hashlib.sha256())


def checksum(path: Path) -> str:
    """XXH3-128 of a file's bytes, in hex: finds accidents, not forgery, five times as fast as SHA-256. For the large
    files that this program writes for itself and looks at again, checkpoints and caches."""
    import xxhash  # a batch script outside the ranks' container does without

    return _digest(path, xxhash.xxh3_128())


def _digest(path: Path, digest: Any) -> str:
    # One buffer, read into again and again: a weight file must not pass through memory as a whole.
    block = memoryview(bytearray(1 << 18))
    with reading(path), open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """One hash over the contents of several files, in the given order; their names do not matter."""
    return hash_json([hash_file(path) for path in paths])


def await_visible(path: Path, seconds: float = VISIBLE_SECONDS) -> bool:
    """Whether a file is there, at last: a network file system may take its time to show it on another node."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        with suppress(OSError):
            if path.name in os.listdir(path.parent):  # that a name is missing may be cached, and a listing is not
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def best_model(checkpoints: Path, step: int) -> Path:
    """Where the best model of a phase that trains lies, beside the checkpoints that name its step."""
    return checkpoints / f"best-{step:06d}"


def model_damage(folder: Path) -> str | None:
    """What is wrong with an exported model (`encoder/`, `heads.safetensors`, and `heads.json`, which is written last),
    or None. Raises UnreadableError where a file cannot be read."""
    try:
        described = read_sealed(folder / HEADS_JSON).get("files", {})
    except UnreadableError:
        raise
    except UserError as error:
        return str(error)
    for name, digest in described.items():
        try:
            if hash_file(folder / name) != digest:
                return f"{folder / name} changed since it was written"
        except FileNotFoundError:
            return f"{folder / name} is missing"
    return None


@dataclass(frozen=True)
class PhaseDir:
    """The files of one phase: `runs/<name>/phases/<phase-id>/`."""

    root: Path

    @property
    def phase_json(self) -> Path:
        return self.root / "phase.json"

    @property
    def status_json(self) -> Path:
        return self.root / "status.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def duplicates(self) -> Path:
        """Which scored examples its training data hold (stilts_ds.data.duplicates.Overlaps)."""
        return self.root / "duplicates.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def best(self, step: int) -> Path:
        """The best model on dev that training had after `step` steps; the checkpoints that know of it name it."""
        return best_model(self.checkpoints, step)

    @property
    def encoder(self) -> Path:
        return self.root / "encoder"

    @property
    def heads(self) -> Path:
        return self.root / "heads.safetensors"

    @property
    def heads_json(self) -> Path:
        return self.root / HEADS_JSON

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    @property
    def results(self) -> Path:
        return self.root / "results"

    def result(self, task: str) -> Path:
        """The scores of one task."""
        return self.results / f"{task}.json"

    def status(self) -> str:
        """`running`, `trained`, `done`, `stopped:<signal>`, `failed`, or `pending` when nothing ran yet."""
        return self.read_status().state

    def read_status(self) -> PhaseStatus:
        """All that the status file tells; `pending` when nothing ran yet. Raises UserError where it is damaged."""
        if not self.status_json.exists():
            return PhaseStatus()
        raw = read_sealed(self.status_json)
        return check_value(PhaseStatus, raw, self.status_json, "delete it and run the same command again")

    def is_trained(self) -> bool:
        """Whether the phase's model is exported; also when the evaluation behind it was stopped or failed."""
        return self.read_status().trained

    def model_is_gone(self) -> bool:
        """Whether the phase was trained and its encoder is not here any more (stilts_ds.disk)."""
        return self.is_trained() and not self.encoder.is_dir()

    def set_status(self, state: str, **known: Any) -> None:
        """Write the phase's state. `known`: fields of `PhaseStatus`; what is not given or None stays as it was, but for
        joules and the error."""
        before = self.read_status()
        unknown = sorted(set(known) - set(PhaseStatus.model_fields))
        assert not unknown, unknown
        now = {
            "state": state,
            "trained": before.trained or state in ("trained", "done"),
            "token": os.environ.get("STILTS_RUN_TOKEN", ""),
            "at": round(time.time(), 1),
            # Not kept from before: see phase_status.KEPT.
            "joules": None,
            "error": None,
            **{name: value for name, value in known.items() if value is not None},
        }
        status = PhaseStatus(**{**dict(before), **now})
        write_sealed(self.status_json, status.to_json(before))


@dataclass(frozen=True)
class RunDir:
    """The files of one run: `runs/<name>/`."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def trial(self) -> Path:
        """What a trial measured, in the temporary run folder of a trial."""
        return self.root / "trial.json"

    @property
    def jobs(self) -> Path:
        """What was submitted to a cluster, and what its jobs noted."""
        return self.root / "jobs"

    @property
    def profile(self) -> Path:
        return self.jobs / "profile.yaml"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def labels(self) -> Path:
        return self.root / "labels"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def report(self) -> Path:
        return self.root / "report.md"

    def check_links(self, subfolder: str = "") -> None:
        """Raise UserError where a link leads out of the run at any depth, or below its `subfolder`: what is written
        must stay in the folder that was named."""
        inside = self.root.resolve()
        top = self.root / subfolder
        within = (Path(folder, name) for folder, folders, files in os.walk(top) for name in (*folders, *files))
        for path in within if top == self.root else (top, *within):
            if path.is_symlink() and not _lies_in(path, inside):
                remedy = "put a copy in its place, or link the whole run folder"
                raise UserError(f"{path} is a link out of the run folder; {remedy}")

    def phase(self, phase_id: str) -> PhaseDir:
        return PhaseDir(self.root / "phases" / phase_id)


def _lies_in(link: Path, folder: Path) -> bool:
    try:
        return link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # links in a circle
        return False


@cache
def git_commit() -> str:
    """The commit this code was run from, `-dirty` where files differ from it, `unknown` outside a checkout.

    Once in a process: a rank runs for days, and what is checked out meanwhile is not what it runs.
    """
    here = Path(__file__).resolve().parent
    if (here / COMMIT).exists():  # a copy of the code, made when a run was submitted
        return (here / COMMIT).read_text(encoding="utf-8")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Provenance(Value):
    """What produced a plan or a result. `platform` and `model_hash` (SHA-256) are empty where they are not known."""

    git_commit: str
    versions: dict[str, str]
    platform: str = ""
    model_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not known is left out."""
        return self.model_dump(exclude_defaults=True)


def provenance(model_hash: str = "") -> Provenance:
    """What produces a result now: git commit, versions and machine kind; for a plan also the hash of its model."""
    return Provenance(git_commit=git_commit(), versions=versions(), platform=platform.platform(), model_hash=model_hash)
