"""The model card of a phase's encoder: `README.md` beside `encoder/`, made to stand on a model hub."""

from __future__ import annotations

import re
from typing import Any

from stilts_ds.data.data import fitted_task
from stilts_ds.display import number
from stilts_ds.escape import markdown_code, markdown_escape
from stilts_ds.evaluate.result import Result
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.families.standard import Standard
from stilts_ds.plan_file import Phase
from stilts_ds.report.load import RunData
from stilts_ds.run_dir import write_atomically
from stilts_ds.sources.hub import data_sets
from stilts_ds.tasks.languages import LANGUAGES, name_of
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task
from stilts_ds.toy import LANGUAGES as TOY_LANGUAGES

CARD = "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
REPOSITORY = "YOUR-NAME/YOUR-MODEL"
UNKNOWN = "unknown"  # the hub's word for a licence that nobody has named: that is the publisher's to do


def write_cards(data: RunData) -> list[str]:
    """Write a card beside every encoder that there is; returns the phase ids."""
    written = [phase for phase in data.phases.values() if data.run.phase(phase.id).encoder.is_dir()]
    for phase in written:
        write_atomically(data.run.phase(phase.id).root / CARD, card(data, phase))
    return [phase.id for phase in written]


def card(data: RunData, phase: Phase, licence: str = UNKNOWN) -> str:
    """The card of a phase's encoder and heads."""
    return _card(data, phase, _loading(phase), "feature-extraction", licence)


def standard_card(data: RunData, phase: Phase, task: Task, standard: Standard, class_name: str, licence: str) -> str:
    """The card of one head as a model of transformers."""
    loading = f"""```python
from transformers import {standard.auto_class}, AutoTokenizer

model = {standard.auto_class}.from_pretrained("{REPOSITORY}")  # {class_name}
tokenizer = AutoTokenizer.from_pretrained("{REPOSITORY}")
```
"""
    if standard.pipeline:
        loading = f"""```python
from transformers import pipeline

model = pipeline("{standard.pipeline}", "{REPOSITORY}")
```
"""
    return _card(data, phase, f"The head is that of `{task.name}`.\n\n{loading}", standard.tag, licence)


def _card(data: RunData, phase: Phase, loading: str, tag: str, licence: str) -> str:
    """The card's text: metadata for the hub, lineage, data, scores, how to load."""
    sections = [
        f"---\n{_metadata(data, phase, tag, licence)}\n---\n",
        f"# {markdown_escape(data.plan.name)}: {markdown_escape(phase.title)}\n",
        _what(data, phase),
        "## Lineage\n", "\n".join(_lineage(data, phase)) + "\n",
        "## Training data\n", "\n".join([*_data_remark(data, phase), *map(_data_line, phase.train)]) + "\n",
        "## Scores\n", _scores(data, phase),
        "## How to load it\n", loading,
        "## Limits\n",
        "Trained on examples in one language only (masked language modelling excepted); every other one is zero-shot. "
        "The licences of the training data stand above, that of the starting model with that model; check both before "
        "you pass this one on.\n",
    ]  # fmt: skip
    return "\n".join(sections)


def _metadata(data: RunData, phase: Phase, tag: str = "feature-extraction", licence: str = UNKNOWN) -> str:
    """The hub's metadata as YAML, made by its own types. A base model is named only where it is a hub id."""
    from huggingface_hub import ModelCardData

    model = data.plan.model
    # The toy world's codes are no languages, and would be wrong metadata.
    scored = {code for _, result in _results(data, phase) for code in result.main}
    languages = sorted(code for code in scored if re.fullmatch("[a-z]{2,3}", code) and code not in TOY_LANGUAGES)
    metrics = {main_metric(fitted_task(name, data.recipe)).name for name, _ in _results(data, phase)}
    values = ModelCardData(
        license=licence,
        language=languages or None,
        library_name="transformers",
        pipeline_tag=tag,
        # A local path would be shown to the world, and leads nowhere there.
        base_model=model if is_hub_id(model) else None,
        datasets=_data_sets(data, phase) or None,
        metrics=sorted(metrics) or None,
        tags=["stilts", "cross-lingual", phase.kind, *phase.train],
        model_name=_plain(f"{data.plan.name} {phase.label}"),
        eval_results=_eval_results(data, phase) or None,
    )
    return str(values.to_yaml())


def _plain(name: str) -> str:
    """A name for the metadata, where nothing is escaped: what is no letter, digit or common sign becomes a `?`."""
    return re.sub(r"[^\w .,:+@~/()-]", "?", name)


def _data_sets(data: RunData, phase: Phase) -> list[str]:
    """The hub's names of the data sets in the lineage's training, whichever copies were read; none of the toy world."""
    if data.plan.source == "toy":
        return []
    trained = [task for link in _chain(data, phase) for task in map(get_task, link.train) if not task.directory]
    return sorted({entry.repo for task in trained for entry in data_sets(task, ["train"])})


def _eval_results(data: RunData, phase: Phase) -> list[Any]:
    """A score for each target and language, as the hub's model index holds them."""
    from huggingface_hub import EvalResult

    scores = []
    for name, result in _results(data, phase):
        task = fitted_task(name, data.recipe)
        # Data sets that are nowhere on the hub (the toy world's, a user's) go by the task's name.
        repos = [] if data.plan.source == "toy" else [entry.repo for entry in data_sets(task, [result.split])]
        standard = family_of(task).standard.get("both")
        scores += [
            EvalResult(
                task_type=standard.tag if standard is not None else "sentence-similarity",
                dataset_type=repos[0] if repos else name,
                dataset_name=task.title or name,
                dataset_config=_plain(language),
                dataset_split=result.split,
                metric_type=main_metric(task).name,
                metric_value=round(score, 4),
            )
            for language, score in result.main.items()
        ]
    return scores


def is_hub_id(model: str) -> bool:
    """Whether a model name is `owner/name`, and no path of this machine."""
    owner, _, _ = model.partition("/")
    return HUB_ID.fullmatch(model) is not None and owner.strip(".") != ""


def public_name(model: str) -> str:
    """The model's name without a machine's folders."""
    return model if is_hub_id(model) else model.rstrip("/").rsplit("/", 1)[-1]


def _what(data: RunData, phase: Phase) -> str:
    purpose = (
        (
            "An encoder after English intermediate training, to be fine-tuned on a target task or used as it is for "
            "sentence retrieval."
        )
        if phase.kind == "intermediate"
        else (
            "An encoder fine-tuned on a target task's English examples, with its heads, for zero-shot use in other "
            "languages."
        )
    )
    return (
        f'{purpose} Made by stilts-ds, which rebuilds Phang et al. 2020, "English Intermediate-Task Training '
        'Improves Zero-Shot Cross-Lingual Transfer Too" (arXiv 2005.13013).\n'
    )


def _chain(data: RunData, phase: Phase) -> list[Phase]:
    chain = [phase]
    while chain[0].init:
        chain.insert(0, data.phases[chain[0].init])
    return chain


def _lineage(data: RunData, phase: Phase) -> list[str]:
    """The chain of phases, oldest first."""
    # Weights have a history: the card of a target's encoder must name its intermediate training, too.
    lines = [
        f"1. {markdown_code(public_name(data.plan.model))}, the pretrained encoder "
        f"(files' SHA-256 {markdown_code(data.plan.provenance.model_hash or 'unknown')})"
    ]
    for place, link in enumerate(_chain(data, phase), start=2):
        setting = link.setting()
        longest = max(link.setting(name).max_seq_length for name in link.train)
        dev = data.curves[link.id].best_dev
        said = f"; best English dev score {number(dev)}" if dev is not None else ""
        lines.append(
            f"{place}. {link.kind} training on {', '.join(f'`{name}`' for name in link.train)}: seed {link.seed}, "
            f"learning rate {setting.learning_rate:g}, batch {setting.train_batch_size}, up to "
            f"{longest} tokens{said} (phase `{link.id}`)"
        )
    made = data.plan.provenance
    version = markdown_escape(made.versions.get("stilts-ds", "unknown"))
    return [*lines, f"\nCode: commit {markdown_code(made.git_commit)}, stilts-ds {version}."]


def _data_remark(data: RunData, phase: Phase) -> list[str]:
    """What keeps the data from being the full data sets that the list names."""
    # A task of a user is no miniature, whichever world the others are of.
    if data.plan.source == "toy" and not all(get_task(name).directory for name in phase.train):
        return ["Miniatures of these data sets in artificial languages, generated by stilts-ds; not the originals:\n"]
    limit = data.recipe.data.max_train_examples
    return [f"At most {limit:,} examples of each, drawn from all its files:\n"] if limit else []


def _data_line(name: str) -> str:
    task = get_task(name)
    licence = f"; licence: {task.licence}" if task.licence else ""
    size = f"; {task.sizes['train']:,} examples in the full English train split" if "train" in task.sizes else ""
    return f"- `{name}`{f' ({task.title})' if task.title else ''}{size}{licence}"


def _results(data: RunData, phase: Phase) -> list[tuple[str, Result]]:
    """task -> its result: of this phase, or of the phases that start from its encoder."""
    # An intermediate phase scores nothing itself: its scores are those of the phases that start from it.
    successors = {later.id for later in data.phases.values() if later.init == phase.id}
    scored_by = {phase.id} if phase.evaluate else successors
    results: dict[str, Result] = {}
    for tasks in data.results.values():
        for task, runs in tasks.items():
            for result in runs:
                if result.phase in scored_by:
                    results[task] = result
    return [(task, results[task]) for task in data.targets if task in results]


def _scores(data: RunData, phase: Phase) -> str:
    scored = [(task, result.main) for task, result in _results(data, phase)]
    if not scored:
        return "None: no target is scored with this encoder yet.\n"
    how = "" if phase.evaluate else "After fine-tuning on each target's English data (retrieval: as it is). "
    lines = ["| target | language | score |", "| --- | --- | ---: |"]
    for task, scores in scored:
        pivot = fitted_task(task, data.recipe).pivot
        named = {markdown_escape(_language(code, pivot)): value for code, value in scores.items()}
        lines += [f"| {task} | {name} | {number(value)} |" for name, value in named.items()]
    said = f"{how}In percent, XTREME's metric of each target; `*` marks the language of training.\n"
    return "\n".join([said, *lines]) + "\n"


def _language(code: str, pivot: str) -> str:
    # Codes of the toy world have no name.
    star = "*" if code == pivot else ""
    return f"{name_of(code)} ({code}{star})" if code in LANGUAGES else f"{code}{star}"


def _loading(phase: Phase) -> str:
    heads = (
        ""
        if phase.kind == "retrieval"
        else (
            "\nThe task heads lie beside the encoder in `heads.safetensors`, described by `heads.json` (name, family, "
            "labels, width); their keys begin with the head's name.\n"
        )
    )
    return (
        "```python\nfrom transformers import AutoModel, AutoTokenizer\n\n"
        f'encoder = AutoModel.from_pretrained("{REPOSITORY}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{REPOSITORY}")\n```\n'
        "\nOn the machine that trained it, the folder `encoder/` beside this file takes that name's place.\n" + heads
    )
