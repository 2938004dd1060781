"""Rows of Hugging Face hub data sets (parquet or JSON; no script runs). What a row means is a family's to say.

`datasets` is imported when rows are asked for. A revision that is no commit is resolved first, and kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stilts_ds.config import TextHubPart
from stilts_ds.errors import UserError
from stilts_ds.hub_client import Repository, ask_hub, go_offline_without_network
from stilts_ds.run_dir import read_json, write_json
from stilts_ds.sources.files import check_text, shorten
from stilts_ds.tasks.languages import iso3_of, name_of
from stilts_ds.tasks.spec import Hub, Task, serves

log = logging.getLogger(__name__)
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_SECONDS = 10.0  # for the answer to which commit a branch is at


@dataclass(frozen=True)
class RowContext:
    """What a converter knows besides the row; `features` are the data set's column types, `pool` the rows of the data
    set that it names as its pool, `split` the task's."""

    task: Task
    language: str
    tally: Counter[str]
    features: Mapping[str, Any]
    pool: Iterable[Mapping[str, Any]] = ()
    split: str = ""


# The rows of one data set, what they are called, and their context, to records.
Converter = Callable[[Iterable[Mapping[str, Any]], str, RowContext], Iterator[Any]]


def row_by_row(convert: Callable[[Mapping[str, Any], str, RowContext], Any]) -> Converter:
    """A converter that makes one record of each row; None leaves the row out."""

    def records(rows: Iterable[Mapping[str, Any]], name: str, context: RowContext) -> Iterator[Any]:
        for index, row in enumerate(rows):
            record = convert(row, f"{name}[{index}]", context)
            if record is not None:
                yield record

    return records


def offers(task: Task, split: str, language: str) -> bool:
    """Whether the literal names hub data for the split in this language."""
    entries = [hub for hub in task.hub.get(split, ()) if serves(hub, language)]
    return bool(entries) and all(language == task.pivot or _holds_all(hub, language) for hub in entries)


def _holds_all(hub: Hub, language: str) -> bool:
    """Whether a data set has rows of more languages than the pivot, or is meant for this one."""
    return "{" in hub.config + hub.split or hub.names_language or language in hub.languages


def check_offer(task: Task, split: str, language: str) -> None:
    if not offers(task, split, language):
        problem = f"{task.name} {split} {language} is not on the hub; set data.source=local and use the official files"
        raise UserError(f"{problem} ({task.url}). {task.note}".rstrip())


def rows_of(hub: Hub, language: str) -> tuple[Any, str]:
    """The rows of one hub data set in one language, and what they are called in messages."""
    of_language = _in_language(hub, language)
    return load_rows(of_language), f"{hub.repo} {of_language.config} {of_language.split}"


def pool_of(hub: Hub) -> Any:
    """The rows of the data set's pool; none where it has none."""
    return () if hub.pool is None else load_rows(hub.pool)


def fetch(hubs: Iterable[Hub], language: str) -> None:
    """Bring data sets into the cache, where they are not yet. Raises UserError for the first that cannot be loaded."""
    for hub in hubs:
        load_rows(_in_language(hub, language))
        pool_of(hub)


def _in_language(hub: Hub, language: str) -> Hub:
    """The data set with its configuration and split in one language."""
    name = name_of(language)
    words = {"language": language, "iso3": iso3_of(language), "name": name, "lower_name": name.lower()}
    return dataclasses.replace(hub, config=hub.config.format(**words), split=hub.split.format(**words))


def load_text(corpus: TextHubPart, language: str, streaming: bool) -> Any:
    """The rows of one language of a text corpus; `streaming` fetches no more of it than is read."""
    hub = Hub("hub_text", corpus.repo, corpus.config, corpus.split, corpus.revision)
    return load_rows(_in_language(hub, language), **({"streaming": True} if streaming else {}))


def load_rows(hub: Hub, **options: bool) -> Any:
    """The `datasets.Dataset` of its configuration and split. Raises UserError with what the hub refused."""
    try:
        import datasets
    except ImportError:
        raise UserError("data.source=hub needs the package `datasets`; install it, or use local files") from None

    def load() -> Any:
        if hub.in_folder:
            return datasets.load_dataset("parquet", data_files=_parquet_files(hub), split="train", **options)
        return datasets.load_dataset(hub.repo, hub.config, split=hub.split, revision=hub.revision, **options)

    where = f"{hub.repo} (configuration {hub.config}, split {hub.split}, revision {hub.revision})"
    rows = ask_hub(load, Repository(hub.repo, "dataset", hub.revision), f"cannot load {where} from the hub")
    _check_revision(rows, hub)
    return rows


def _parquet_files(hub: Hub) -> list[str]:
    """The files of a configuration that is a folder, in the cache; fetched where they are not there yet.

    `datasets` could load such a folder as well, but would not find it in its cache again without network.
    """
    from huggingface_hub import snapshot_download

    pattern = f"{hub.config}/{hub.split}/*.parquet"
    folder = snapshot_download(hub.repo, repo_type="dataset", revision=hub.revision, allow_patterns=pattern)
    files = sorted(str(path) for path in Path(folder).glob(pattern))
    if not files:
        raise FileNotFoundError(f"there are no files {pattern}")
    return files


def _check_revision(rows: Any, hub: Hub) -> None:
    """Without network `datasets` takes the newest copy in its cache, whatever revision was asked for."""
    # A stream has no cache files, and comes from the network.
    folders = [Path(file["filename"]).parent for file in getattr(rows, "cache_files", [])]
    others = [folder for folder in folders if COMMIT.fullmatch(folder.name) and folder.name != hub.revision]
    if others and COMMIT.fullmatch(hub.revision):
        raise UserError(
            f"{hub.repo} {hub.config}: the cache has revision {others[0].name}, but {hub.revision} is wanted; remove "
            f"{others[0]} and run `stilts fetch` on a machine with network"
        )


# --- moving revisions ------------------------------------------------------------------------------------------------


def pin(hub: Hub, kept: Path | None) -> Hub:
    """The data set at a commit, so that names of phases and rows say what was read.

    A revision that is no commit (a branch moves) is resolved once and kept in the file `kept`: by what stands there,
    by the hub, or, where that is out of reach, by the copy in the cache of `datasets`. Raises UserError where nobody
    knows: then the data set is not here either.
    """
    if hub.pool is not None:
        hub = dataclasses.replace(hub, pool=pin(hub.pool, kept))
    if COMMIT.fullmatch(hub.revision):
        return hub
    # What is kept comes first: a branch that has moved since must not change a study that has begun.
    commits = kept_commits(kept)
    commit = commits.get(moving_name(hub)) or _newest_commit(hub.repo, hub.revision) or _cached_commit(hub)
    if commit is None:
        where = f"{hub.repo}: the revision {hub.revision} moves, and its commit is not known"
        remedy = "fill the cache (HF_HOME) on a machine with network, or set data.source=local"
        raise UserError(f"{where}: the hub is out of reach and the cache has no copy; {remedy}")
    if kept is not None and moving_name(hub) not in commits:
        log.info("%s: commit %s, kept in %s", moving_name(hub), commit, kept)
        with contextlib.suppress(OSError):  # a cache that is only read
            write_json(kept, {**commits, moving_name(hub): commit})
    return dataclasses.replace(hub, revision=commit)


def moving_name(hub: Hub) -> str:
    """What a data set at a moving revision is kept as."""
    return f"{hub.repo}@{hub.revision}"


def moving(task: Task) -> set[str]:
    """The names of a task's data sets whose revision is no commit."""
    return {moving_name(hub) for hub in data_sets(task) if not COMMIT.fullmatch(hub.revision)}


def data_sets(task: Task, splits: Collection[str] = ()) -> Iterator[Hub]:
    """The hub data sets of a task, or of some of its splits, pools among them."""
    for split, entries in task.hub.items():
        for hub in entries:
            if not splits or split in splits:
                yield hub
                if hub.pool is not None:
                    yield hub.pool


def kept_commits(kept: Path | None) -> dict[str, str]:
    """Resolved commits by `repository@revision`; {} before. Raises UserError naming the file where it is damaged."""
    if kept is None or not kept.exists():
        return {}
    commits = read_json(kept)
    whole = isinstance(commits, dict) and all(COMMIT.fullmatch(str(commit)) for commit in commits.values())
    if not whole:
        raise UserError(f"{kept} holds no commits; delete it, and the same command asks the hub again")
    return {str(name): str(commit) for name, commit in commits.items()}


@functools.lru_cache
def _newest_commit(repo: str, revision: str) -> str | None:
    """The commit behind a branch now; None where the hub does not answer. Asked once in the life of the process."""
    if go_offline_without_network():
        return None
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(repo, revision=revision, timeout=HUB_SECONDS).sha
    except Exception as error:  # the hub client raises many kinds; `pin` says what to do
        log.info("%s %s: the hub does not tell the commit (%s)", repo, revision, type(error).__name__)
        return None
    return commit


def _cached_commit(hub: Hub) -> str | None:
    """The commit of the copy that is taken without network: of several the newest."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    if hub.in_folder:
        folders = Path(HF_HUB_CACHE, f"datasets--{hub.repo.replace('/', '--')}").glob("snapshots/*")
    else:
        # `datasets` writes <owner>___<name>/<configuration>/<version>/<commit>.
        folders = Path(datasets.config.HF_DATASETS_CACHE, hub.repo.replace("/", "___")).glob("*/*/*")
    copies = [path for path in folders if COMMIT.fullmatch(path.name)]
    newest = max(copies, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else newest.name


def row_id(row: Mapping[str, Any], where: str, *keys: str) -> str:
    """The first of the row's id columns, or the row's place."""
    known = (key for key in keys if row.get(key) not in (None, ""))
    return next((check_text(str(row[key]), f"{where}: `{key}`") for key in known), where)


def row_label(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str | None:
    """The name of an integer label; -1 stands for no label. Digits in quotes are accepted."""
    value = row.get("label")
    index = int(value) if isinstance(value, str) and re.fullmatch("-?[0-9]{1,3}", value) else value
    if index == -1:
        return None
    if not isinstance(index, int) or not 0 <= index < len(names):
        problem = f"{where}: label {shorten(value)} is none of 0 to {len(names) - 1}"
        raise UserError(f"{problem}; check the data set's revision")
    return names[index]
