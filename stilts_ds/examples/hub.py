"""Rows of Hugging Face hub data sets (parquet or JSON; no script runs) as the same records that local files give.

`datasets` is imported when rows are asked for. A revision that is no commit is resolved first, and logged.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stilts_ds.config import TextHubPart
from stilts_ds.errors import UserError, redacted
from stilts_ds.examples.bitext import Pairs
from stilts_ds.examples.choice import commonsenseqa_row, copa_row, cosmosqa_row, hellaswag_row
from stilts_ds.examples.files import check_text, list_field, shorten, text_field, texts_field
from stilts_ds.examples.pair import NO_LABEL, check_label
from stilts_ds.examples.records import Bitext, Choice, Pair, Record, Span, Tagged
from stilts_ds.examples.span import question_of
from stilts_ds.tasks.languages import iso3_of, name_of
from stilts_ds.tasks.spec import Hub, Task

log = logging.getLogger(__name__)
HUB_NLI_LABELS = ("entailment", "neutral", "contradiction")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Job:
    """What a converter knows besides the row; `features` are the data set's column types."""

    task: Task
    language: str
    tally: Counter[str]
    features: Mapping[str, Any]


Converter = Callable[[Mapping[str, Any], str, Job], Record | None]


def offers(task: Task, split: str, language: str) -> bool:
    """Whether the literal names hub data for the split in this language."""
    return bool(task.hub.get(split)) and all(
        language == task.pivot or "{" in one.config or one.schema == "hub_tydiqa" for one in task.hub[split]
    )


def streams(task: Task, split: str, language: str, tally: Counter[str]) -> list[Iterator[Record]]:
    """One stream of records for each hub data set of the split. Raises UserError if the literal names none."""
    _check_offer(task, split, language)
    return [_records(hub, task, language, tally) for hub in task.hub[split]]


def _check_offer(task: Task, split: str, language: str) -> None:
    if not offers(task, split, language):
        problem = f"{task.name} {split} {language} is not on the hub; set data.source=local and use the official files"
        raise UserError(f"{problem} ({task.url}). {task.note}".rstrip())


def _records(hub: Hub, task: Task, language: str, tally: Counter[str]) -> Iterator[Record]:
    config = _config(hub, language)
    rows = load_rows(hub, config)
    convert = CONVERTERS[hub.schema]
    job = Job(task, language, tally, rows.features)
    for index, row in enumerate(rows):
        record = convert(row, f"{hub.repo} {config} {hub.split}[{index}]", job)
        if record is not None:
            yield record


def fetch(task: Task, split: str, language: str) -> list[str]:
    """Bring the hub data sets of a split into the cache, where they are not yet; returns their names.

    Raises UserError for the first that cannot be loaded.
    """
    _check_offer(task, split, language)
    for hub in task.hub[split]:
        load_rows(hub, _config(hub, language))
    return [f"{hub.repo} {_config(hub, language)} {hub.split}" for hub in task.hub[split]]


def _config(hub: Hub, language: str) -> str:
    return hub.config.format(language=language, iso3=iso3_of(language), name=name_of(language))


def load_text(corpus: TextHubPart, language: str, streaming: bool) -> Any:
    """The rows of one language of a text corpus; `streaming` fetches no more of it than is read."""
    hub = Hub("hub_text", corpus.repo, corpus.config, corpus.split, corpus.revision)
    return load_rows(hub, _config(hub, language), **({"streaming": True} if streaming else {}))


def load_rows(hub: Hub, config: str, **options: bool) -> Any:
    """The `datasets.Dataset` of one configuration and split. Raises UserError with the library's own reason."""
    try:
        import datasets

        rows = datasets.load_dataset(hub.repo, config, split=hub.split, revision=resolve(hub), **options)
    except ImportError:
        raise UserError("data.source=hub needs the package `datasets`; install it, or use local files") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = redacted(str(error) or type(error).__name__).split("\n")[0][:200]
        where = f"{hub.repo} (configuration {config}, split {hub.split}, revision {hub.revision})"
        remedy = "fill the cache (HF_HOME) on a machine with network, or set data.source=local"
        raise UserError(f"cannot load {where} from the hub: {reason}; {remedy}") from None
    _check_revision(rows, hub, config)
    return rows


def _check_revision(rows: Any, hub: Hub, config: str) -> None:
    """Without network `datasets` takes the newest copy in its cache, whatever revision was asked for."""
    folders = [Path(file["filename"]).parent for file in getattr(rows, "cache_files", [])]
    others = [one for one in folders if COMMIT.fullmatch(one.name) and one.name != hub.revision]
    if others and COMMIT.fullmatch(hub.revision):
        raise UserError(
            f"{hub.repo} {config}: the cache has revision {others[0].name}, but {hub.revision} is wanted; remove "
            f"{others[0]} and run `stilts fetch` on a machine with network"
        )


def resolve(hub: Hub) -> str:
    """The commit behind a revision; without network the revision itself, so that a filled cache still serves."""
    if COMMIT.fullmatch(hub.revision):
        return hub.revision
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(hub.repo, revision=hub.revision).sha
    except Exception as error:  # the hub client raises many kinds; loading reports what matters
        log.warning("%s %s: commit unknown (%s)", hub.repo, hub.revision, type(error).__name__)
        return hub.revision
    log.info("%s %s: commit %s", hub.repo, hub.revision, commit)
    return commit or hub.revision


def _id(row: Mapping[str, Any], where: str, *keys: str) -> str:
    """The first of the row's id columns, or the row's place."""
    known = (key for key in keys if row.get(key) not in (None, ""))
    return next((check_text(str(row[key]), f"{where}: `{key}`") for key in known), where)


def _label(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str | None:
    """The name of an integer label; -1 stands for no label. Digits in quotes are accepted."""
    value = row.get("label")
    index = int(value) if isinstance(value, str) and re.fullmatch("-?[0-9]{1,3}", value) else value
    if index == -1:
        return None
    if not isinstance(index, int) or not 0 <= index < len(names):
        problem = f"{where}: label {shorten(value)} is none of 0 to {len(names) - 1}"
        raise UserError(f"{problem}; check the data set's revision")
    return names[index]


def nli(row: Mapping[str, Any], where: str, job: Job) -> Pair | None:
    label = _label(row, HUB_NLI_LABELS, where)
    if label is None:
        job.tally[NO_LABEL] += 1
        return None
    texts = text_field(row, "premise", where), text_field(row, "hypothesis", where)
    return Pair(_id(row, where, "uid", "idx"), *texts, label)


def _plain_pair(row: Mapping[str, Any], where: str, job: Job, first: str, second: str) -> Pair:
    texts = text_field(row, first, where), text_field(row, second, where)
    return Pair(_id(row, where, "id", "idx"), *texts, _label(row, job.task.labels, where))


def qqp(row: Mapping[str, Any], where: str, job: Job) -> Pair:
    return _plain_pair(row, where, job, "question1", "question2")


def paws(row: Mapping[str, Any], where: str, job: Job) -> Pair:
    return _plain_pair(row, where, job, "sentence1", "sentence2")


def squad(row: Mapping[str, Any], where: str, job: Job) -> Span:
    return question_of({**row, "answers": _answers(row, where)}, text_field(row, "context", where), where)


def squad_v2(row: Mapping[str, Any], where: str, job: Job) -> Span:
    answers = _answers(row, where)
    filled = {**row, "answers": answers, "is_impossible": not answers}
    return question_of(filled, text_field(row, "context", where), where)


def tydiqa(row: Mapping[str, Any], where: str, job: Job) -> Span | None:
    """Ids begin with the language's name; rows of other languages are passed over."""
    mine = text_field(row, "id", where).startswith(f"{name_of(job.language).lower()}-")
    return squad(row, where, job) if mine else None


def _answers(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    answers = row.get("answers")
    texts, starts = list_field(answers, "text", where), list_field(answers, "answer_start", where)
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]


def hellaswag(row: Mapping[str, Any], where: str, job: Job) -> Choice:
    return hellaswag_row(dict(row), where)


def cosmosqa(row: Mapping[str, Any], where: str, job: Job) -> Choice:
    return cosmosqa_row({**row, "label": None if row.get("label") == -1 else row.get("label")}, where)


def commonsenseqa(row: Mapping[str, Any], where: str, job: Job) -> Choice:
    choices = row.get("choices")
    options = list(zip(texts_field(choices, "label", where), texts_field(choices, "text", where)))
    key = text_field(row, "answerKey", where)
    return commonsenseqa_row(text_field(row, "id", where), text_field(row, "question", where), options, key, where)


def copa(row: Mapping[str, Any], where: str, job: Job) -> Choice:
    return copa_row(dict(row), where)


def tags(row: Mapping[str, Any], where: str, job: Job) -> Tagged:
    column = "ner_tags" if "ner_tags" in row else "pos_tags"
    words, values = texts_field(row, "tokens", where), list_field(row, column, where)
    names = getattr(getattr(job.features[column], "feature", None), "names", None)
    found = [_tag(value, names, where) for value in values] if names else texts_field(row, column, where)
    if not words or len(words) != len(found):
        raise UserError(f"{where}: {len(words)} tokens but {len(found)} tags; check the data set's revision")
    return Tagged(where, tuple(words), tuple(check_label(one, job.task.labels, where) for one in found))


def _tag(value: Any, names: list[str], where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(names):
        problem = f"{where}: tag {shorten(value)} is none of 0 to {len(names) - 1}"
        raise UserError(f"{problem}; check the data set's revision")
    return names[value]


CONVERTERS: dict[str, Converter] = {
    "hub_nli": nli,
    "hub_qqp": qqp,
    "hub_paws": paws,
    "hub_squad": squad,
    "hub_squad_v2": squad_v2,
    "hub_tydiqa": tydiqa,
    "hub_hellaswag": hellaswag,
    "hub_cosmosqa": cosmosqa,
    "hub_commonsenseqa": commonsenseqa,
    "hub_copa": copa,
    "hub_tags": tags,
}


def read_bitext(task: Task, split: str, language: str) -> tuple[list[Bitext], list[Bitext], Pairs]:
    """Both sides of parallel rows; row i translates row i. Raises UserError if the hub has none."""
    _check_offer(task, split, language)
    [hub] = task.hub[split]
    columns = ("source_sentence", "target_sentence")
    sides: tuple[list[Bitext], list[Bitext]] = ([], [])
    for index, row in enumerate(load_rows(hub, _config(hub, language))):
        where = f"{hub.repo} {language} {hub.split}[{index}]"
        swapped = row.get("source_lang") in (task.pivot, iso3_of(task.pivot))
        for side, column in zip(sides, reversed(columns) if swapped else columns):
            side.append(Bitext(str(index), text_field(row, column, where)))
    if not sides[0]:
        raise UserError(f"{hub.repo} {language} {hub.split} has no rows; check the data set's revision")
    return (*sides, frozenset((one.id, one.id) for one in sides[0]))
