"""What a paper says about a run, as LaTeX: a paragraph on what was trained, scored and tested, and the references that
it cites. Whatever the run's files do not say is not said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

from stilts_ds.errors import counted
from stilts_ds.plan_file import Phase
from stilts_ds.report.latex import display_name
from stilts_ds.report.latex_text import breakable, latex_escape, needed_for_letters
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.tasks.registry import get_task

METHOD = ("phang-2020-english", "phang-2018-stilts")
BENCHMARKS = {"xtreme": ("XTREME", "hu-2020-xtreme"), "xtreme-r": ("XTREME-R", "ruder-2021-xtremer")}
# By what a model's name holds. A model that is not here is named, and its paper left to the author.
MODELS = {"xlm-roberta": "conneau-2020-xlmr", "xlm-r": "conneau-2020-xlmr"}
WORD = 80  # points, some 16 letters: TeX hyphenates what is shorter
ZERO, BOOTSTRAP, HOLM = "rajbhandari-2020-zero", "koehn-2004-statistical", "holm-1979-simple"


def methods_tex(data: RunData, settings: ComparisonSettings) -> str:
    """The paragraph. It cites keys of `references_bib`."""
    sentences = [_conditions(data), _targets(data), _training(data), _tests(data, settings), _software(data)]
    said = "\n".join(filter(None, sentences))
    head = f"% {latex_escape(data.plan.name)}: what was done; needs report.bib\n% {needed_for_letters(said)}"
    # In a narrow column, names and lists of citations leave TeX few places where a line may end.
    return f"{head}\n\\begin{{sloppypar}}\n{said}\n\\end{{sloppypar}}\n"


def references_bib(data: RunData, settings: ComparisonSettings) -> str:
    """The BibTeX entries that the paragraph cites, in the order of the alphabet."""
    groups = re.findall(r"\\cite{(.*?)}", methods_tex(data, settings))
    keys = {key for group in groups for key in group.split(", ")}
    entries = bibliography()
    return "\n\n".join(entries[key] for key in sorted(keys)) + "\n"


def bibliography() -> dict[str, str]:
    """Every entry of references.bib by its key."""
    text = (files("stilts_ds.report") / "references.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in re.split(r"\n(?=@)", text)]
    return {re.match(r"@\w+{([^,]+),", entry)[1]: entry for entry in entries}  # type: ignore[index]


def _conditions(data: RunData) -> str:
    model = rf"\texttt{{{breakable(data.plan.model, WORD)}}}"
    cited = next((_cite(key) for name, key in MODELS.items() if name in data.plan.model.lower()), "")
    trained = {name: _intermediate(data, name) for name in data.conditions}
    start = f"We start from {model}{cited} and follow the protocol of intermediate-task training{_cite(*METHOD)}. "
    if len(trained) == 1:
        return f"{start}The encoder is first trained on {trained[data.baseline]}."
    listing = "; ".join(f"{breakable(name, WORD)}: {tasks}" for name, tasks in trained.items())
    return f"{start}The conditions differ in what the encoder is trained on first ({listing})."


def _intermediate(data: RunData, condition: str) -> str:
    """The tasks that a condition trains before its targets, each with its papers."""
    # A condition uses the phases that are scored; what they start from is its intermediate training.
    starts = [data.phases[phase_id].init for phase_id in data.plan.use[condition]]
    tasks = dict.fromkeys(task for start in starts if start for task in data.phases[start].train)
    return _listed(map(_task, tasks)) if tasks else "no other task"


def _targets(data: RunData) -> str:
    benchmark, key = BENCHMARKS[data.recipe.benchmark]
    targets = [name for name in data.plan.targets if not get_task(name).is_variant]
    trained = [name for name in targets if get_task(name).trains]
    untrained = [name for name in targets if not get_task(name).trains]
    said = [f"Languages and metrics of the targets that are part of {benchmark}{_cite(key)} are the benchmark's."]
    if trained:
        said.append(
            f"After fine-tuning on the training data of one language, {_listed(map(_task, trained))} "
            "are scored in all of their languages."
        )
    if untrained:
        said.append(f"{_listed(map(_task, untrained))} compare sentence vectors without any training.")
    return " ".join(said)


def _task(name: str) -> str:
    task = get_task(name)
    shown = display_name(name) if task.role == "target" else task.title or name
    return breakable(shown, WORD) + _cite(*task.cites)


def _training(data: RunData) -> str:
    said = [
        f"{kind} phases take a peak learning rate of {_values(phases, 'learning_rate')}, batches of "
        f"{_values(phases, 'train_batch_size')} examples and rows of at most {_values(phases, 'max_seq_length')} tokens"
        for kind, phases in (
            ("intermediate", _of_kind(data, "intermediate")),
            ("target", _of_kind(data, "target")),
        )
        if phases
    ]
    if not said:
        return ""
    stage = data.recipe.engine.zero_stage
    sharded = f", sharded by ZeRO stage {stage}{_cite(ZERO)}" if stage else ""
    sentence = "; ".join(said)
    return f"We optimise with AdamW{sharded}: {sentence}."


def _of_kind(data: RunData, kind: str) -> list[Phase]:
    return [phase for phase in data.plan.phases if phase.kind == kind]


def _values(phases: Iterable[Phase], setting: str) -> str:
    """The value of a setting in all phases, or the least and the greatest."""
    values = sorted({getattr(phase.setting(), setting) for phase in phases})
    ends = [_number(value) for value in (values[0], values[-1])]
    return ends[0] if len(values) == 1 else " to ".join(ends)


def _number(value: float) -> str:
    """`32`, or `1e-05` as papers write it."""
    digits, _, exponent = f"{value:g}".partition("e")
    if not exponent:
        return digits
    factor = "" if digits == "1" else rf"{digits} \cdot "
    return f"${factor}10^{{{int(exponent)}}}$"


def _tests(data: RunData, settings: ComparisonSettings) -> str:
    seeds = counted(len(data.plan.seeds), "seed")
    scores = f"Scores are {'medians over' if len(data.plan.seeds) > 1 else 'of'} {seeds}"
    if len(data.conditions) == 1:
        return f"{scores}."
    baseline = breakable(data.baseline, WORD)
    return (
        f"{scores}; gains over {baseline} are tested by a paired bootstrap{_cite(BOOTSTRAP)} with "
        f"{settings.resamples:,} resamples at the {settings.level * 100:g}\\% level, corrected by Holm's "
        f"method{_cite(HOLM)}."
    )


def _software(data: RunData) -> str:
    versions = data.plan.provenance.versions
    shown = _listed(latex_escape(f"{name} {version}") for name, version in sorted(versions.items()))
    return f"Software: {shown}." if versions else ""


def _listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _cite(*keys: str) -> str:
    return rf"~\cite{{{', '.join(keys)}}}" if keys else ""
