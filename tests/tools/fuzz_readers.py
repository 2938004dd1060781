"""Targets: every reader of examples, by file schema, through the same door as training and evaluation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fuzz_mutate import Dice, damage_json, damage_json_lines, damage_text, damage_value
from fuzz_target import Once, Target
from reader_files import COSMOS_HEADER

from stilts_ds.data.reader import read_examples
from stilts_ds.families.base import Record
from stilts_ds.families.bitext.record import Bitext
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.generate.record import Exercise
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.ranking.record import Query
from stilts_ds.families.registry import family_of
from stilts_ds.families.span.record import Span
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.text.record import Text
from stilts_ds.sources import hub
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task

SQUAD = {"version": "1.1", "data": [{"title": "Ada", "paragraphs": [
    {"context": "Ada wrote it in 1843.\nIt ran — later.", "qas": [
        {"id": "q1", "question": "When?", "answers": [{"text": "1843", "answer_start": 16}]},
        {"id": "q2", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}], "is_impossible": False},
    ]},
    {"context": "Ein Haus.", "qas": [{"id": "q3", "question": "Was?", "answers": [], "is_impossible": True}]},
]}]}  # fmt: skip
ANSWERED = SQUAD["data"][0]["paragraphs"][0]  # type: ignore[index]
SQUAD_V1 = {"version": "1.1", "data": [{"title": "Ada", "paragraphs": [ANSWERED]}]}
NLI = [
    {"gold_label": label, "sentence1": "It rains.", "sentence2": "It is\twet — ü.", "pairID": str(i)}
    for i, label in enumerate(("entailment", "neutral", "-", "contradiction"))
]
ANLI = [{"uid": f"u{i}", "context": "It rains.", "hypothesis": "Wet.", "label": c} for i, c in enumerate("enc")]
QQP = (
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow?\t0\n"
    '4\t5\t6\t"Say ""x""?"\tSo?\t1\n7\t8\t9\tcut\n'
)
SWAG = [{"ind": i, "ctx_a": "She", "ctx_b": "then", "endings": ["runs", "eats", "", "x"], "label": i} for i in range(3)]
CSQA = [{"id": f"c{i}", "answerKey": "B", "question": {"stem": "Where?", "choices": [
    {"label": c, "text": c.lower()} for c in "ABCDE"]}} for i in range(3)]  # fmt: skip
COSMOS = COSMOS_HEADER + 'i1,"A, b\nc",Why?,a,"b ""q""",c,d,1\ni2,x,y,a,b,c,d,3\n'
COPA = [
    {"premise": "It fell.", "choice1": "a", "choice2": "b", "question": q, "label": i, "idx": i}
    for i, q in enumerate(("cause", "effect"))
]
SIQA = [
    {"context": "Ann fell.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "correct": key}
    for key in "AC"
]
XQUAD_R = {"data": [{"paragraphs": [
    {"context": "One. Two.", "sentence_breaks": [[0, 4], [5, 9]], "qas": [
        {"id": "q1", "question": "Which?", "answers": [{"text": "Two", "answer_start": 5}]}]},
]}]}  # fmt: skip
CHECKLIST = {"data": [{"title": "animal 0", "paragraphs": [
    {"context": "Ann has a dog.", "qas": [
        {"id": "animal.0.0", "question": "What animal?", "answers": [{"text": "a dog", "answer_start": 8}]}]},
]}]}  # fmt: skip
ENTITIES = [
    {"entity_id": id, "description": "A judge. Of Leeds.",
     "sentence_spans": [{"start": 0, "end": 8}, {"start": 9, "end": 18}]}
    for id in ("Q1", "Q2")
]  # fmt: skip
SMITH = {"example_id": "m1", "entity_id": "Q2", "mention_span": {"start": 5, "end": 10, "text": "Smith"}}
NEWS = {"document_id": "d1", "language": "de", "text": "Then Smith left.", "sentence_spans": [{"start": 0, "end": 16}]}
MENTIONS = [{"context": NEWS, "mentions": [SMITH]}]
MENTION_PAIRS = [{"contextual_mention": {"context": NEWS, "mention": SMITH}, "entity": ENTITIES[1]}]
TAGS = "Ann\tB-PER\nwent\tO\n\nto\tO\nRome\tB-LOC\n"
POS = "Sie\tPRON\ngeht\tVERB\n\nRom\tPROPN\n"
CONLLU = "# sent_id = 1\n" + "".join(
    "\t".join([*line.split(), *"_" * 6]) + "\n"
    for line in ("1-2 Im _ _", "1 In in ADP", "2 dem der DET", "3 Haus Haus NOUN", "3.1 _ _ _")
)
CONLLU += "\n1\tRom\tRom\tPROPN" + "\t_" * 6 + "\n"
PAIRS = 'A man.\tA person.\tentailment\n"He"\tHe.\tneutral\n'
TEST = "Ein Mann.\tEin Mensch.\nEr.\tSie.\n"
SIDES = ("de-1\tEin Haus.\nde-2\tRegen.\n", "en-1\tA house.\nen-2\tRain.\n", "de-1\ten-1\n")
MBPP = [
    {"task_id": number, "text": "Add one.", "code": "def add(n):\n    return n + 1", "test_setup_code": "",
     "test_list": ["assert add(1) == 2"], "challenge_test_list": []}
    for number in (511, 601, 602)
]  # fmt: skip
HUMANEVAL = [
    {"task_id": f"HumanEval/{number}", "prompt": "def add(n):\n", "entry_point": "add",
     "canonical_solution": "    return n + 1\n", "test": "def check(candidate):\n    assert candidate(1) == 2\n"}
    for number in (0, 1)
]  # fmt: skip
MBXP = [
    {"task_id": f"MBJSP/{number}", "language": "javascript", "prompt": "function add(n) {\n", "entry_point": "add",
     "canonical_solution": "    return n + 1;\n}", "description": "Add one.",
     "test": "if (add(1) !== 2) {\n    throw 'Error'\n}\n"}
    for number in (11, 12)
]  # fmt: skip
COSQA = [{"idx": f"q{i}", "doc": "sort a list", "code": "def f(x):\n    return sorted(x)", "label": i} for i in (0, 1)]
DEVIGN = [{"project": "p", "commit_id": "c", "target": i, "func": "int f() { return 1; }", "idx": i} for i in (0, 1)]
FUNCTIONS = [{"func": "int f() { return 1; }", "idx": str(i)} for i in (7, 8)]
SAMPLES = [
    {"task_id": f"MBJSP/{number}", "completion": "    return 2;\n}", "language": "javascript"} for number in (11, 12)
]
VERDICTS = [
    {"id": f"MBJSP/{number}", "sample": 0, "language": "javascript", "verdict": verdict}
    for number, verdict in ((11, "passed"), (12, "failed"))
]
CODEXGLUE = "codexglue/Code-Code"
DOCUMENTS = "codexglue/Text-Text/text-to-text/data/dev/lv-en.dev"
FILES: dict[str, Any] = {
    "mnli/multinli_1.0_dev_matched.jsonl": NLI, "anli_v1.0/R1/dev.jsonl": ANLI, "anli_v1.0/R2/dev.jsonl": ANLI,
    "anli_v1.0/R3/dev.jsonl": ANLI, "snli/snli_1.0_dev.jsonl": NLI, "qqp/dev.tsv": QQP, "squad_v2/dev-v2.0.json": SQUAD,
    "hellaswag/hellaswag_val.jsonl": SWAG, "commonsenseqa/dev_rand_split.jsonl": CSQA, "cosmosqa/valid.csv": COSMOS,
    "de/mnli/multinli_1.0_train.jsonl": [row for row in NLI if row["gold_label"] != "-"],
    "ccg/dev.tsv": TAGS, "text/de.txt": "Ein Satz.\n\nNoch — einer.\n", "xnli/dev-de.tsv": PAIRS,
    "xnli/test-de.tsv": TEST, "xnli/test-labels.txt": "neutral\nentailment\n", "pawsx/test-de.tsv": TEST,
    "pawsx/test-labels.tsv": "id\tde\ten\n1\t0\t1\n2\t?\t1\n", "panx/dev-de.tsv": TAGS, "udpos/test-te.tsv": POS,
    "ud-treebanks-v2.5/UD_X/de_x-ud-test.conllu": CONLLU, "xquad/xquad.de.json": SQUAD,
    "bucc2018/de-en.dev.de": SIDES[0], "bucc2018/de-en.dev.en": SIDES[1], "bucc2018/de-en.dev.gold": SIDES[2],
    "tatoeba/tatoeba.deu-eng.deu": "Haus\nRegen\n", "tatoeba/tatoeba.deu-eng.eng": "house\nrain\n",
    "xcopa/et/test.et.jsonl": COPA, "siqa/socialIQa_v1.4_dev.jsonl": SIQA,
    **{f"lareqa/xquad-r/{code}.json": XQUAD_R for code in get_task("lareqa").languages},
    "multichecklist/test-de.json": CHECKLIST, "squad_v1/dev-v1.1.json": SQUAD_V1,
    "mewslix/wikipedia_pairs-dev.jsonl": MENTION_PAIRS,
    "mewslix/wikinews_mentions-dev.jsonl": MENTIONS, "mewslix/candidate_set_entities.jsonl": ENTITIES,
    "mbpp/mbpp.jsonl": MBPP, "humaneval/HumanEval.jsonl": HUMANEVAL, "mbxp/mbjsp_release_v1.2.jsonl": MBXP,
    "multilingual_humaneval/HumanEval_javascript_v1.1.jsonl": [
        {**row, "task_id": f"HumanEval/{number}"} for number, row in enumerate(MBXP)
    ],
    "codexglue/Text-Code/NL-code-search-WebQuery/CoSQA/cosqa-dev.json": json.dumps(COSQA, indent=1),
    f"{CODEXGLUE}/Defect-detection/dataset/valid.jsonl": DEVIGN,
    f"{CODEXGLUE}/Clone-detection-BigCloneBench/dataset/data.jsonl": FUNCTIONS,
    f"{CODEXGLUE}/Clone-detection-BigCloneBench/dataset/valid.txt": "7\t8\t1\n8\t7\t0\n",
    "mbxp/examples/mbjsp_samples.jsonl": SAMPLES, "mbxp_verdicts/javascript.jsonl": VERDICTS,
    f"{DOCUMENTS}.lv": "Viens.\nDivi.\n", f"{DOCUMENTS}.en": "One.\nTwo.\n",
    "humaneval_xl/python/German.jsonl": [
        {**row, "task_id": f"python/{number}", "language": "python", "description": "Addiere eins."}
        for number, row in enumerate(HUMANEVAL)
    ],
}  # fmt: skip
# (task, split, language, the files that are damaged)
SPLITS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("mnli", "dev", "en", ("mnli/multinli_1.0_dev_matched.jsonl",)),
    ("anli_plus", "dev", "en", ("anli_v1.0/R1/dev.jsonl", "anli_v1.0/R3/dev.jsonl", "snli/snli_1.0_dev.jsonl")),
    ("mnli.de", "train", "de", ("de/mnli/multinli_1.0_train.jsonl",)),
    ("qqp", "dev", "en", ("qqp/dev.tsv",)),
    ("squad_v2", "dev", "en", ("squad_v2/dev-v2.0.json",)),
    ("hellaswag", "dev", "en", ("hellaswag/hellaswag_val.jsonl",)),
    ("commonsenseqa", "dev", "en", ("commonsenseqa/dev_rand_split.jsonl",)),
    ("cosmosqa", "dev", "en", ("cosmosqa/valid.csv",)),
    ("ccg", "dev", "en", ("ccg/dev.tsv",)),
    ("mlm", "train", "en", ("text/de.txt",)),
    ("xnli", "dev", "de", ("xnli/dev-de.tsv",)),
    ("xnli", "test", "de", ("xnli/test-de.tsv", "xnli/test-labels.txt")),
    ("pawsx", "test", "de", ("pawsx/test-de.tsv", "pawsx/test-labels.tsv")),
    ("panx", "dev", "de", ("panx/dev-de.tsv",)),
    ("udpos", "test", "te", ("udpos/test-te.tsv",)),
    ("udpos", "test", "de", ("ud-treebanks-v2.5/UD_X/de_x-ud-test.conllu",)),
    ("xquad", "test", "de", ("xquad/xquad.de.json",)),
    ("multichecklist", "test", "de", ("multichecklist/test-de.json",)),
    ("bucc2018", "dev", "de", ("bucc2018/de-en.dev.de", "bucc2018/de-en.dev.en", "bucc2018/de-en.dev.gold")),
    ("tatoeba", "test", "de", ("tatoeba/tatoeba.deu-eng.deu", "tatoeba/tatoeba.deu-eng.eng")),
    ("xcopa", "test", "et", ("xcopa/et/test.et.jsonl",)),
    ("siqa", "dev", "en", ("siqa/socialIQa_v1.4_dev.jsonl",)),
    ("reqa_squad", "dev", "en", ("squad_v1/dev-v1.1.json",)),
    ("lareqa", "test", "de", ("lareqa/xquad-r/de.json", "lareqa/xquad-r/ar.json")),
    ("wikipedia_links", "dev", "en", ("mewslix/wikipedia_pairs-dev.jsonl",)),
    ("mewslix", "dev", "de", ("mewslix/wikinews_mentions-dev.jsonl", "mewslix/candidate_set_entities.jsonl")),
    ("mbpp", "train", "en", ("mbpp/mbpp.jsonl",)),
    ("humaneval", "test", "en", ("humaneval/HumanEval.jsonl",)),
    ("mbxp", "test", "javascript", ("mbxp/mbjsp_release_v1.2.jsonl",)),
    ("multi_humaneval", "test", "javascript", ("multilingual_humaneval/HumanEval_javascript_v1.1.jsonl",)),
    ("humaneval_xl", "test", "de", ("humaneval_xl/python/German.jsonl",)),
    ("cosqa", "dev", "en", ("codexglue/Text-Code/NL-code-search-WebQuery/CoSQA/cosqa-dev.json",)),
    ("defect", "dev", "en", (f"{CODEXGLUE}/Defect-detection/dataset/valid.jsonl",)),
    ("clone", "dev", "en", tuple(f"{CODEXGLUE}/Clone-detection-BigCloneBench/dataset/{name}"
                                 for name in ("valid.txt", "data.jsonl"))),
    ("verify_mbxp", "test", "javascript", ("mbxp/examples/mbjsp_samples.jsonl", "mbxp_verdicts/javascript.jsonl",
                                           "mbxp/mbjsp_release_v1.2.jsonl")),
    ("mbpp_search", "train", "en", ("mbpp/mbpp.jsonl",)),
    ("code_retrieval", "test", "de", ("humaneval_xl/python/German.jsonl",)),
    ("code_bitext", "test", "de", ("humaneval_xl/python/German.jsonl",)),
    ("lv_en_search", "dev", "lv", (f"{DOCUMENTS}.lv", f"{DOCUMENTS}.en")),
)  # fmt: skip


def written(content: Any) -> bytes:
    if isinstance(content, list):
        return b"".join(json.dumps(row).encode() + b"\n" for row in content)
    return json.dumps(content).encode() if isinstance(content, dict) else content.encode()


def damaged(dice: Dice, content: Any) -> bytes:
    if isinstance(content, list):
        return damage_json_lines(dice, content)
    return damage_json(dice, content) if isinstance(content, dict) else damage_text(dice, content.encode())


def make_reader(task_name: str, split: str, language: str, files: Sequence[str], folder: Path) -> Once:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written(content))
    source = DataSource("local", folder, folder, folder / "text", folder, code=folder)
    task = get_task(task_name)
    read(task, split, language, source)

    def once(dice: Dice) -> None:
        name = dice.choice(files)
        path = folder / name
        path.write_bytes(damaged(dice, FILES[name]))
        try:
            read(task, split, language, source)
        finally:
            path.write_bytes(written(FILES[name]))

    return once


def read(task: Task, split: str, language: str, source: DataSource) -> None:
    """Read a split to its end and check what came out."""
    for record in read_examples(task, split, language, source):
        check_record(record, task, split)


def check_bitext(bitext: Bitext) -> None:
    ids = [{sentence.id for sentence in side} for side in (bitext.source, bitext.pivot)]
    assert len(ids[0]) == len(bitext.source) > 0 and len(ids[1]) == len(bitext.pivot) > 0
    assert bitext.gold is None or all(a in ids[0] and b in ids[1] for a, b in bitext.gold)
    for sentence in (*bitext.source, *bitext.pivot):
        sentence.text.encode()


def check_record(record: Record, task: Task, split: str) -> None:
    """What encoding, heads and metrics rely on."""
    assert split != "train" or family_of(task).is_labelled(record)
    assert isinstance(record.id, str)
    texts: list[str] = [record.id]
    if isinstance(record, Bitext):
        check_bitext(record)
    elif isinstance(record, Pair):
        texts += [record.text_a, record.text_b]
        assert record.label is None or record.label in task.labels
    elif isinstance(record, Choice):
        texts += [record.prompt, *record.choices]
        assert len(record.choices) >= 2
        assert record.label is None or (type(record.label) is int and 0 <= record.label < len(record.choices))
    elif isinstance(record, Span):
        texts += [record.question, record.context]
        assert type(record.impossible) is bool and not (record.impossible and record.answers)
        assert all(answer.text for answer in record.answers)
        # MultiCheckList's table gives some answers in a form that its texts lack; they are only compared.
        stand_in_context = task.name != "multichecklist"
        for a in record.answers if stand_in_context else ():
            assert record.context[a.start : a.start + len(a.text)] == a.text
    elif isinstance(record, Query):
        texts += [record.text, *record.right, *(candidate.text for candidate in record.pool)]
        assert set(record.right) <= {candidate.id for candidate in record.pool} and record.text
    elif isinstance(record, Tagged):
        texts += record.words
        assert record.words and (record.tags is None or len(record.tags) == len(record.words))
        assert not task.labels or set(record.tags or ()) <= set(task.labels)
        texts += record.tags or ()
    elif isinstance(record, Exercise):
        program = record.problem.program("")
        texts += [record.prompt, record.solution, program.tests, program.entry]
        # Of what has a solution, models learn; and a program without a name to call cannot be tested.
        assert record.prompt.strip() and program.entry and (split == "test" or record.solution.strip())
    else:
        assert isinstance(record, Text) and record.text.strip()
        texts += [record.text, record.language]
    for text in texts:
        assert isinstance(text, str)
        text.encode()


# --- rows of the hub -------------------------------------------------------------------------------------------------

SPAN_ROW = {
    "id": "english-1",
    "question": "When?",
    "context": "Ada in 1843.",
    "title": "",
    "answers": {"text": ["1843"], "answer_start": [7]},
}
PROBLEM = {
    "task_id": "python/0", "language": "python", "natural_language": "English", "description": "Double it.",
    "prompt": 'def f(x):\n    """Double it."""\n', "entry_point": "f",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
}  # fmt: skip
HUB_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "hub_nli": ("mnli", {"premise": "It rains.", "hypothesis": "Wet.", "label": 0, "idx": 3}),
    "hub_qqp": ("qqp", {"question1": "Why?", "question2": "How?", "label": 1, "idx": 3}),
    "hub_paws": ("pawsx", {"sentence1": "a", "sentence2": "b", "label": "1", "id": 3}),
    "hub_squad": ("xquad", SPAN_ROW), "hub_squad_v2": ("squad_v2", SPAN_ROW), "hub_tydiqa": ("tydiqa", SPAN_ROW),
    "hub_hellaswag": ("hellaswag", SWAG[0] | {"label": "1"}),
    "hub_cosmosqa": ("cosmosqa", {"id": "x", "context": "c", "question": "q", "label": 1,
                                  **{f"answer{i}": str(i) for i in range(4)}}),
    "hub_commonsenseqa": ("commonsenseqa", {"id": "x", "question": "Where?", "answerKey": "B", "choices": {
        "label": list("ABCDE"), "text": list("abcde")}}),
    "hub_copa": ("xcopa", COPA[0]),
    "hub_cosqa": ("cosqa", COSQA[1]), "hub_devign": ("defect", DEVIGN[1] | {"id": 1, "target": True}),
    "hub_clones": ("clone", {"id": 1, "func1": "a", "func2": "b", "label": False}),
    "hub_translations": ("lv_en_search", {"id": 1, "source": "Viens.", "target": "One."}),
    "hub_mbpp_search": ("mbpp_search", {"task_id": 601, "text": "Double it.", "code": "def f(x):\r\n    return 2 * x",
                                        "test_list": ["assert f(1) == 2"], "test_setup_code": ""}),
    "hub_humaneval_xl_search": ("code_retrieval", PROBLEM), "hub_humaneval_xl_bitext": ("code_bitext", PROBLEM),
    "hub_methods": ("code_mlm", {"id": 1, "java": "int f();", "cs": "int F();"}),
    "hub_tags": ("panx", {"tokens": ["Ann", "went"], "ner_tags": [3, 0], "langs": ["en", "en"]}),
    "hub_treebank": ("udpos", {"text": "ab c", "tokens": ["ab", "a", "b", "c"], "upos": ["_", "ADP", "DET", "NOUN"],
                               "head": ["None", "3", "3", "0"], "deps": ["None", "None", "[('det', 3)]", "None"]}),
}  # fmt: skip


def make_hub(folder: Path) -> Once:
    names = ["O", "B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER"]
    features = {"ner_tags": SimpleNamespace(feature=SimpleNamespace(names=names)), "pos_tags": None, "upos": None}

    def convert(schema: str, row: dict[str, Any]) -> None:
        task = get_task(HUB_ROWS[schema][0])
        pool = [PROBLEM | {"canonical_solution": "    return 2 * x\n"}]
        language = task.pivot if task.family == "text" else "en"
        context = hub.RowContext(task, language, Counter(), features, pool, "train")
        for record in family_of(task).converters[schema]([row], "hub/data", context):
            check_record(record, task, "dev")

    for schema, (_, row) in HUB_ROWS.items():
        convert(schema, row)

    def once(dice: Dice) -> None:
        schema = dice.choice(list(HUB_ROWS))
        row = damage_value(dice, HUB_ROWS[schema][1], 2)
        convert(schema, row if isinstance(row, dict) else {"a": row})

    return once


def _target(task: str, split: str, language: str, files: tuple[str, ...]) -> Target:
    make: Callable[[Path], Once] = partial(make_reader, task, split, language, files)
    return Target(f"reader {task} {split} {language}", 20, make, (f"{task} {split} {language}:",))


TARGETS = (*(_target(*one) for one in SPLITS), Target("rows of the hub", 30, make_hub, ("hub/data[0]",)))
