"""Code that is understood and not written: one literal each. CodeXGLUE's tasks, programs that pass or fail, search.

The files are those of CodeXGLUE (`codexglue` is a checkout of its repository with its data sets fetched), mxeval and
HumanEval-XL. Hyper-parameters are those of CodeXGLUE's own scripts where it has one, else those of `mbpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stilts_ds.tasks.programming import (
    HUMANEVAL_PROBLEMS,
    MBPP,
    MBPP_DEV,
    MBPP_TEST,
    MBPP_TRAIN,
    MBXP_FILES,
    NATURAL,
    file,
)
from stilts_ds.tasks.spec import Hub, Local, Task, packed_too

CODEXGLUE = "https://github.com/microsoft/CodeXGLUE"
# The last of its main branch, which made parquet of it.
DEVIGN_COMMIT = "69bd48c03223c2104342acd9a807caf61ac3efb8"
COSQA_COMMIT = "a5772f61e33ef938bcd28df338f2258558d53f22"
TEXT_TO_TEXT_COMMIT = "ae1a41ee2433091f40cf7e803e26170e3587836f"
CODE_TRANS = "google/code_x_glue_cc_code_to_code_trans"
CODE_TRANS_COMMIT = "c16948ddc82f70bbe3ca778dc91382d71b334cd7"
MBPP_COMMIT = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
HUMANEVAL_COMMIT = "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"
HUMANEVAL_XL_COMMIT = "d2b8e0089411c7970e26b681ef0f2797b8e9ec28"
BINARY = ("0", "1")
# A description chooses among the programs of its pool, 16 at a time.
SEARCH_TRAINING: Mapping[str, Any] = {
    "train_batch_size": 32,
    "max_seq_length": 256,
    "max_query_length": 128,
    "learning_rate": 2e-5,
    "num_train_epochs": 10,
    "pool_size": 16,
    "per_device_train_batch_size": 16,
}


# --- CodeXGLUE's classification --------------------------------------------------------------------------------------


def _cosqa(split: str) -> tuple[Local, ...]:
    # The folder is called NL-code-search-WebQuery in the repository, and WebQuery in copies of it.
    return file("cosqa_json", f"codexglue/Text-Code/*WebQuery/CoSQA/cosqa-{split}.json")


COSQA = Task(
    name="cosqa",
    title="CoSQA, searches for Python code and functions that may answer them",
    cites=("huang-2021-cosqa", "lu-2021-codexglue"),
    family="pair",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy", "f1"),
    main_score="accuracy",
    chance=50.0,
    labels=BINARY,
    folder="code",
    local={"train": _cosqa("train"), "dev": _cosqa("dev")},
    hub={
        "train": (Hub("hub_cosqa", "gonglinyuan/CoSQA", "default", "train", COSQA_COMMIT),),
        "dev": (Hub("hub_cosqa", "gonglinyuan/CoSQA", "default", "validation", COSQA_COMMIT),),
    },
    sizes={"train": 20_000, "dev": 604},
    training={"train_batch_size": 32, "max_seq_length": 200, "learning_rate": 1e-5, "num_train_epochs": 3},
    licence="C-UDA",
    note="Its test labels are kept back, so it trains and selects.",
    url=f"{CODEXGLUE}/tree/main/Text-Code/NL-code-search-WebQuery",
)


def _devign(split: str) -> tuple[Local, ...]:
    return file("devign_jsonl", f"codexglue/Code-Code/Defect-detection/dataset/{split}.jsonl")


def _devign_hub(split: str) -> tuple[Hub, ...]:
    return (Hub("hub_devign", "google/code_x_glue_cc_defect_detection", "default", split, DEVIGN_COMMIT),)


DEFECT = Task(
    name="defect",
    title="Devign, C functions with and without a vulnerability",
    cites=("zhou-2019-devign", "lu-2021-codexglue"),
    family="pair",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy", "f1"),
    main_score="accuracy",
    chance=50.0,
    labels=BINARY,
    folder="code",
    local={"train": _devign("train"), "dev": _devign("valid"), "test": _devign("test")},
    hub={"train": _devign_hub("train"), "dev": _devign_hub("validation"), "test": _devign_hub("test")},
    sizes={"train": 21_854, "dev": 2_732, "test": 2_732},
    training={"train_batch_size": 32, "max_seq_length": 400, "learning_rate": 2e-5, "num_train_epochs": 5},
    licence="C-UDA",
    note="The second text is empty. CodeXGLUE's preprocess.py makes the three files.",
    url=f"{CODEXGLUE}/tree/main/Code-Code/Defect-detection",
)


def _clones(split: str) -> tuple[Local, ...]:
    folder = "codexglue/Code-Code/Clone-detection-BigCloneBench/dataset"
    return (packed_too(Local("clone_tsv", f"{folder}/{split}.txt", pool=f"{folder}/data.jsonl")),)


def _clones_hub(split: str) -> tuple[Hub, ...]:
    return (Hub("hub_clones", "google/code_x_glue_cc_clone_detection_big_clone_bench", "default", split, "main"),)


CLONE = Task(
    name="clone",
    title="BigCloneBench, pairs of Java functions that do the same or not",
    cites=("svajlenko-2014-bigclonebench", "lu-2021-codexglue"),
    family="pair",
    role="intermediate",
    languages=("en",),
    metrics=("f1", "accuracy"),
    main_score="f1",
    labels=BINARY,
    folder="code",
    local={"train": _clones("train"), "dev": _clones("valid"), "test": _clones("test")},
    hub={"train": _clones_hub("train"), "dev": _clones_hub("validation"), "test": _clones_hub("test")},
    sizes={"train": 901_028, "dev": 415_416, "test": 415_416},
    training={"train_batch_size": 16, "max_seq_length": 400, "learning_rate": 5e-5, "num_train_epochs": 2},
    licence="C-UDA",
    note="Its labels are contested: the authors of BigCloneBench say that pairs which it does not name as clones may "
    "be clones, so that precision, and F1 with it, cannot be measured by it. Use it to train, and read its dev score "
    "as a sign of learning alone. CodeXGLUE's own script trains on a tenth of it (data.max_train_examples: 90000). "
    "The hub's main branch moves, so it is not pinned here: the commit that is read is kept in the cache.",
    url=f"{CODEXGLUE}/tree/main/Code-Code/Clone-detection-BigCloneBench",
)


# --- does a program pass its tests? ----------------------------------------------------------------------------------


def _attempts(language: str, only: bool = True) -> tuple[Local, ...]:
    """mxeval's programs of one language, its problems, and what executing them gave."""
    name = MBXP_FILES[language][0]
    local = Local(
        "mbxp_attempts",
        f"mbxp/examples/{name.split('_')[0]}_samples.jsonl",
        labels=f"mbxp_verdicts/{language}.jsonl",
        pool=f"mbxp/{name}.jsonl",
        languages=(language,) if only else (),
    )
    return (packed_too(local),)


NO_VERDICTS = (
    "The hub has MBXP's problems, and neither the programs nor what executing them gives: use mxeval's checkout, and "
    "execute its programs as docs/code.md says."
)
JUDGED = ("auc", "f1", "accuracy", "majority", "picked", "random_pick")
VERIFY_TRAINING: Mapping[str, Any] = {**MBPP.training, "max_seq_length": 384}
VERIFY_MBPP = Task(
    name="verify_mbpp",
    title="Does a Python program pass MBPP's tests?",
    cites=("athiwaratkun-2023-mbxp", "inala-2022-ranker"),
    family="pair",
    role="intermediate",
    languages=("en",),
    metrics=JUDGED,
    main_score="auc",
    chance=50.0,
    predictions="judgements",
    labels=("passes", "fails"),
    folder="code",
    head="verify",
    local={"train": _attempts("python", only=False), "dev": _attempts("python", only=False)},
    sizes={"train": 374, "dev": 90},
    training=VERIFY_TRAINING,
    problems={"train": MBPP_TRAIN, "dev": MBPP_DEV},
    licence="Apache-2.0; MBPP: CC BY 4.0",
    note="Description and program, labelled by executing it: mxeval's sample programs, and the verdicts of `stilts "
    f"execute` on them in mbxp_verdicts/python.jsonl (docs/code.md). Most pass, so AUC selects and not accuracy. "
    f"{NO_VERDICTS}",
    url="https://github.com/amazon-science/mxeval",
)
VERIFY_MBXP = Task(
    name="verify_mbxp",
    title="Does a program pass MBXP's tests? In thirteen programming languages",
    cites=("athiwaratkun-2023-mbxp", "inala-2022-ranker"),
    family="pair",
    role="target",
    chance=50.0,
    languages=tuple(MBXP_FILES),
    pivot="python",
    metrics=JUDGED,
    main_score="auc",
    predictions="judgements",
    labels=("passes", "fails"),
    folder="code",
    head="verify",
    train_on="verify_mbpp",
    local={"test": tuple(local for language in MBXP_FILES for local in _attempts(language))},
    sizes=VERIFY_MBPP.sizes,
    test_sizes={"python": 500, "javascript": 498, "typescript": 498, "php": 498, "java": 498, "go": 483},
    training=VERIFY_TRAINING,
    problems={"test": MBPP_TEST},
    licence="Apache-2.0; MBPP: CC BY 4.0",
    note=f"Trained on Python. Only programs for MBPP's test exercises 11-510 are judged. {NO_VERDICTS}",
    url="https://github.com/amazon-science/mxeval",
)


# --- search ----------------------------------------------------------------------------------------------------------


def _mbpp_hub(split: str) -> tuple[Hub, ...]:
    return (Hub("hub_mbpp_search", "google-research-datasets/mbpp", "full", split, MBPP_COMMIT),)


def _humaneval_xl_hub(schema: str) -> tuple[Hub, ...]:
    # The authors' data set is a script, which is not run; this copy has its rows but for the solutions.
    humaneval = Hub("", "openai/openai_humaneval", "openai_humaneval", "test", HUMANEVAL_COMMIT)
    return (Hub(schema, "iNeil77/HumanEval-XL", "python", "{lower_name}", HUMANEVAL_XL_COMMIT, pool=humaneval),)


MBPP_SEARCH = Task(
    name="mbpp_search",
    title="MBPP, descriptions that find their programs",
    cites=("austin-2021-mbpp",),
    family="ranking",
    role="intermediate",
    languages=("en",),
    metrics=("map_at_20", "map"),
    main_score="map_at_20",
    predictions="ranked",
    folder="code",
    head="code_search",
    local={"train": file("mbpp_search", "mbpp/mbpp.jsonl"), "dev": file("mbpp_search", "mbpp/mbpp.jsonl")},
    hub={"train": _mbpp_hub("train"), "dev": _mbpp_hub("validation")},
    sizes=MBPP.sizes,
    training=SEARCH_TRAINING,
    problems=MBPP.problems,
    licence=MBPP.licence,
    note="Dev descriptions search the programs of the dev exercises.",
    url=MBPP.url,
)
_XL = "humaneval_xl/python/{name}.jsonl"
CODE_RETRIEVAL = Task(
    name="code_retrieval",
    title="HumanEval-XL, descriptions in 23 natural languages that find their Python program",
    cites=("peng-2024-humanevalxl",),
    family="ranking",
    role="target",
    languages=NATURAL,
    metrics=("map_at_20", "map"),
    main_score="map_at_20",
    predictions="ranked",
    folder="code",
    head="code_search",
    train_on="mbpp_search",
    local={"test": file("humaneval_xl_search", _XL)},
    hub={"test": _humaneval_xl_hub("hub_humaneval_xl_search")},
    sizes=MBPP.sizes,
    test_sizes=dict.fromkeys(NATURAL, 80),
    training=SEARCH_TRAINING,
    problems={"test": HUMANEVAL_PROBLEMS},
    licence="MIT",
    note="Each description searches the 80 programs; their docstrings are taken out. Trained on MBPP, in English.",
    url="https://github.com/FloatAI/humaneval-xl",
)
CODE_BITEXT = Task(
    name="code_bitext",
    title="HumanEval-XL, the nearest description of each Python program, without training",
    cites=("peng-2024-humanevalxl",),
    family="bitext",
    role="target",
    chance=1.25,
    languages=NATURAL,
    metrics=("accuracy",),
    main_score="accuracy",
    predictions="nearest",
    folder="code",
    local={"test": file("humaneval_xl_bitext", _XL)},
    hub={"test": _humaneval_xl_hub("hub_humaneval_xl_bitext")},
    test_sizes=dict.fromkeys(NATURAL, 80),
    training={"max_seq_length": 512},
    problems={"test": HUMANEVAL_PROBLEMS},
    licence="MIT",
    note="The encoder is used as it is, as for Tatoeba: 1 of 80 by chance.",
    url=CODE_RETRIEVAL.url,
)


# --- documentation ---------------------------------------------------------------------------------------------------


def _documentation(schema: str, split: str) -> tuple[Local, ...]:
    name = f"codexglue/Text-Text/text-to-text/data/{split}/lv-en.{split}"
    return (packed_too(Local(schema, f"{name}.lv", pivot=f"{name}.en", languages=("lv",))),)


def _documentation_hub(schema: str, split: str) -> tuple[Hub, ...]:
    repository = "google/code_x_glue_tt_text_to_text"
    return (Hub(schema, repository, "{language}_en", split, TEXT_TO_TEXT_COMMIT),)


LV_EN_SEARCH = Task(
    name="lv_en_search",
    title="Latvian technical documentation that finds its English translation",
    cites=("lu-2021-codexglue",),
    family="ranking",
    role="intermediate",
    languages=("lv",),
    pivot="lv",
    metrics=("map_at_20", "map"),
    main_score="map_at_20",
    predictions="ranked",
    folder="code",
    local={"train": _documentation("translations", "train"), "dev": _documentation("translations", "dev")},
    hub={
        "train": _documentation_hub("hub_translations", "train"),
        "dev": _documentation_hub("hub_translations", "validation"),
    },
    sizes={"train": 18_749, "dev": 1_000},
    training={**SEARCH_TRAINING, "max_seq_length": 128, "num_train_epochs": 3},
    licence="C-UDA",
    note="A sentence chooses among the translations of its pool.",
    url=f"{CODEXGLUE}/tree/main/Text-Text/text-to-text",
)
LV_EN = Task(
    name="lv_en",
    title="Latvian and English technical documentation, nearest sentences without training",
    cites=("lu-2021-codexglue",),
    family="bitext",
    role="target",
    languages=("lv",),
    metrics=("accuracy",),
    main_score="accuracy",
    predictions="nearest",
    folder="code",
    local={"dev": _documentation("aligned_lines", "dev"), "test": _documentation("aligned_lines", "test")},
    hub={
        "dev": _documentation_hub("hub_parallel", "validation"),
        "test": _documentation_hub("hub_parallel", "test"),
    },
    test_sizes={"lv": 1_000},
    training={"max_seq_length": 128},
    licence="C-UDA",
    note="Low-resource bitext of another kind than Tatoeba's: sentences of Microsoft's documentation.",
    url=LV_EN_SEARCH.url,
)


# --- running text ----------------------------------------------------------------------------------------------------


def _methods(suffix: str, language: str) -> Local:
    name = f"codexglue/Code-Code/code-to-code-trans/data/train.java-cs.txt.{suffix}"
    return packed_too(Local("lines", name, language=language))


_METHODS = (_methods("java", "java"), _methods("cs", "csharp"))
_METHODS_HUB = tuple(
    Hub("hub_methods", CODE_TRANS, "default", "train", CODE_TRANS_COMMIT, languages=(language,))
    for language in ("java", "csharp")
)
CODE_MLM = Task(
    name="code_mlm",
    title="Masked language modelling of Java and C# methods",
    cites=("lu-2021-codexglue",),
    family="text",
    role="intermediate",
    languages=("java", "csharp"),
    pivot="java",
    metrics=("masked_accuracy",),
    main_score="masked_accuracy",
    folder="code",
    local={"train": _METHODS, "dev": _METHODS},
    hub={"train": _METHODS_HUB, "dev": _METHODS_HUB},
    training={"train_batch_size": 8, "max_seq_length": 256, "mlm_probability": 0.15},
    licence="C-UDA",
    note="CodeTrans's 10,295 methods in each language, one a line; every 50th line selects. None of them is of a "
    "benchmark here. Programs of your own go into data.text of `mlm` as python.txt, and those of the hub into "
    "data.text_hub (docs/code.md).",
    url=f"{CODEXGLUE}/tree/main/Code-Code/code-to-code-trans",
)

INTERMEDIATE = (COSQA, DEFECT, CLONE, VERIFY_MBPP, MBPP_SEARCH, LV_EN_SEARCH, CODE_MLM)
TARGETS = (VERIFY_MBXP, CODE_RETRIEVAL, CODE_BITEXT, LV_EN)
