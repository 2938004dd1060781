"""Print docs/data_files.md: sizes of the test sets and hashes of the official files, as the literals know them.

python tests/tools/data_files.py > docs/data_files.md
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from stilts_ds.sources.local import fill
from stilts_ds.tasks import intermediate, retrieval, targets
from stilts_ds.tasks.archives import ARCHIVES
from stilts_ds.tasks.benchmarks import XTREME_R
from stilts_ds.tasks.file_hashes import EXAMPLES, SHA256
from stilts_ds.tasks.spec import Local, Task

INTRODUCTION = """\
# Data files: sizes and hashes

Made by `python tests/tools/data_files.py` from `stilts_ds/tasks`; a test holds the two equal. This prints the same
for your own folders, and compares:

```sh
stilts tasks --files --intermediate data/intermediate --xtreme data/xtreme
stilts tasks tatoeba --files --xtreme data/xtreme --language sw
```

## Sizes

How many examples the benchmark's test sets have: pairs, questions, tagged sentences, English sentences (Tatoeba),
gold pairs (BUCC). Results, reports and submissions are compared with these numbers ([scoring.md](scoring.md)).
"""
SOURCES = """
Where the numbers are from:

- XNLI, PAWS-X, XQuAD, MLQA, PAN-X, Tatoeba, BUCC's gold pairs and XCOPA: `num_examples` in the metadata of the data
  sets `xtreme`, `xnli`, `paws-x` and `xcopa` of Hugging Face (`dataset_infos.json` in the history of the repository
  `huggingface/datasets`, before commit 8803c182e6). Tatoeba's were counted in LASER's files as well (commit 74bc6ae),
  BUCC's stand in mteb's statistics, too. For Korean PAWS-X the metadata of `xtreme` say 1,999 and those of `paws-x`
  2,000, which is the number of lines that XTREME's script writes.
- TyDiQA-GoldP: the page of `tydi_qa` in TensorFlow Datasets' catalogue; the sum, 5,077, stands in Hugging Face's
  metadata.
- POS: sentences of the test files of Universal Dependencies 2.5 whose names begin with the language's code, as
  XTREME's scripts take them. For 28 languages it is the number in Hugging Face's metadata. In the other five the
  hub's rows hold other languages, too, because they were chosen by the language's name in a folder's: Ancient Greek
  in `el` (2,353 of 2,809), Swiss German in `de`, Old French in `fr`, Old Russian in `ru`, Classical Chinese in `zh`.
  There the number is the sum over `stats.xml` of the treebanks at their tag r2.5. Of French FTB, whose words are
  withheld, XTREME's converter and preparation keep 12 of 2,541 sentences (run on the file); the hub keeps all.
- Of XTREME-R's languages, NER's are `num_examples` in the metadata of `wikiann`, POS's the sums over the test files of
  Universal Dependencies 2.7 that are listed below, Tatoeba's were counted in LASER's files.
- Mewsli-X: mentions, and pairs for training, in the statistics of its release (`mewsli-x.md` in the repository
  `google-research/google-research`).

Not known: how many sentences BUCC's files have (only their gold pairs), and with it whether a submission's mined
pairs come from whole files; the papers of the shared task count them, but no text of theirs could be had. Train and
dev sizes are those of English.

## Files

SHA-256 of the files as their authors publish them. A dash stands where no hash was found that could be trusted: the
files come in an archive ([below](#archives)), are made by XTREME's scripts, or have to be licensed.
"""
HASH_SOURCES = """
Where the hashes are from: `download_checksums` in the metadata of `squad`, `squad_v2`, `hellaswag`, `cosmos_qa`,
`commonsense_qa`, `xquad` and `xcopa` (same place as above); XQuAD's and XCOPA's were compared with the files in their
authors' repositories (commits 60cac41 and e2e9d7f) and are the same. Tatoeba's were computed from LASER's repository
(commit 74bc6ae). XTREME's script takes the answers out of its copies of XQuAD's files, which then have other hashes.
Those of POS, and the sentences of each file, were computed from the treebanks' own repositories at their tags r2.5 and
r2.7; the files of Arabic NYUAD and PADT, German HDT, Hindi HDTB and Russian SynTagRus could not be had so. Those of
r2.7 but Lithuanian HSE stand in the metadata of `universal_dependencies` as well, and are the same. LAReQA's were
computed from its repository (commit 9bc8c7f). Rows of ANLI and SNLI are `num_examples` in the metadata.
"""


ARCHIVE_INTRODUCTION = """
## Archives

What most of the others come in. SHA-256 and bytes are `download_checksums` in the same metadata, for `xtreme`, `snli`,
`multi_nli`, `glue`, `social_i_qa` and `super_glue`. The metadata have ANLI 0.1; the hash of 1.0 is the one that two
public programs check their download with. That of Universal Dependencies 2.7 is from the tests of pyconll, whose hash
of 2.5 is the one in the metadata.

Not here, and why:

- CCGbank (LDC2005T13) has to be licensed, and `ccg/train.tsv` and `ccg/dev.tsv` are made of your own copy.
- Mewsli-X is put together on the user's machine from dumps of Wikinews and `mewsli-x_20220518_6.zip`. Its release gives
  that archive's MD5 alone (6d3f137027c7e0146c7aa0b3c21e90f4).
"""


def page() -> str:
    return "".join([
        INTRODUCTION, "\n", _table(["task", "test examples", "languages"], _sizes()), SOURCES, "\n",
        _table(["task", "split", "file", "examples", "SHA-256"], _files()), HASH_SOURCES,
        ARCHIVE_INTRODUCTION, "\n", _table(["tasks", "archive", "bytes", "SHA-256"], _archives()),
    ])  # fmt: skip


def _sizes() -> Iterator[list[str]]:
    """Of XTREME's languages and those that XTREME-R adds."""
    for task in map(XTREME_R.fitted, (*targets.TASKS, *retrieval.TARGETS)):
        for size in dict.fromkeys(task.test_sizes.values()):
            codes = [code for code, own in task.test_sizes.items() if own == size]
            yield [f"`{task.name}`", f"{size:,}", " ".join(codes)]


def _files() -> Iterator[list[str]]:
    """A row for each file with a known hash; otherwise one for each entry of a literal."""
    for task in (*intermediate.TASKS, *retrieval.INTERMEDIATE, *targets.TASKS, *retrieval.TARGETS):
        if task.name == "mlm":
            continue
        for split, entries in task.local.items():
            for entry in entries:
                yield from _rows(task, split, entry, alone=len(entries) == 1)


def _rows(task: Task, split: str, entry: Local, alone: bool) -> Iterator[list[str]]:
    known = []
    for code in entry.languages or task.languages:
        size = _size(task, split, code) if alone else None
        for path in (entry.path, entry.pivot):
            for file in fnmatch.filter(SHA256, fill(path, task, code)) if path else ():
                known.append(_row(task, split, file, EXAMPLES.get(file, size), f"`{SHA256[file]}`"))
    if known:
        yield from known
        return
    sizes = {_size(task, split, code) for code in task.languages} if alone else {None}
    if len(sizes) == 1:
        yield _row(task, split, entry.path, EXAMPLES.get(entry.path, sizes.pop()), "-")
    else:  # one entry stands for the files of all languages
        yield _row(task, split, entry.path, _size(task, split, task.pivot), "-", " (English)")


def _archives() -> Iterator[list[str]]:
    for one in ARCHIVES:
        size = "-" if one.size is None else f"{one.size:,}"
        yield [" ".join(f"`{name}`" for name in one.tasks.split()), one.url, size, f"`{one.sha256}`"]


def _row(task: Task, split: str, path: str, size: int | None, digest: str, of: str = "") -> list[str]:
    return [f"`{task.name}`", split, f"`{path}`", "-" if size is None else f"{size:,}{of}", digest]


def _size(task: Task, split: str, language: str) -> int | None:
    if split == "test":
        return task.test_sizes.get(language)
    return task.sizes.get(split) if language == task.pivot else None


def _table(header: list[str], rows: Iterator[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    print(page(), end="")
