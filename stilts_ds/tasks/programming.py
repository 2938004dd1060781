"""Programs to write and programs to judge: code benchmarks, one literal each, read from their authors' files.

They are in no benchmark's average. Who trains on MBPP's exercises 601-974 is scored on others: HumanEval's, in any
natural or programming language, and MBPP's 11-510, which MBXP has in thirteen of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stilts_ds.tasks.spec import Local, Task, packed_too
from stilts_ds.tasks.targets import words

# By the numbers in their ids. MBPP's are the last of MBXP's ids, and HumanEval's 0-163 are in all of its family.
MBPP_TRAIN, MBPP_DEV, MBPP_TEST = "MBPP (601-974)", "MBPP (511-600)", "MBPP (11-510)"
HUMANEVAL_PROBLEMS = "HumanEval (0-163)"
# What follows a function that the prompt began (Chen et al. 2021, arXiv 2107.03374, section 2.3).
AFTER_PYTHON = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
PROGRAM_METRICS = (
    "pass@1", "pass@10", "pass@100", "floor_constant", "floor_empty", "floor_shuffled",
    "parses", "solution_tokens", "solution_first", "solution_mrr", "same_program",
)  # fmt: skip
TRAINING = {"train_batch_size": 16, "max_seq_length": 512, "learning_rate": 3e-5, "num_train_epochs": 10}


def file(schema: str, path: str, languages: Sequence[str] = ()) -> tuple[Local]:
    """A benchmark's file, plain or as some authors pack it."""
    return (packed_too(Local(schema, path, languages=tuple(languages))),)


_MBPP_FILE = file("mbpp", "mbpp/mbpp.jsonl")
MBPP = Task(
    name="mbpp",
    title="MBPP, programs from English descriptions",
    cites=("austin-2021-mbpp",),
    family="generate",
    role="intermediate",
    languages=("en",),
    metrics=("token_accuracy",),
    main_score="token_accuracy",
    folder="code",
    head="code",
    local={"train": _MBPP_FILE, "dev": _MBPP_FILE},
    sizes={"train": 374, "dev": 90},
    training=TRAINING,
    problems={"train": MBPP_TRAIN, "dev": MBPP_DEV},
    licence="CC BY 4.0",
    note="374 exercises in Python; the 90 of its validation split select by the tokens of their solutions.",
    url="https://github.com/google-research/google-research/tree/master/mbpp",
)
HUMANEVAL_SOLUTIONS = Task(
    name="humaneval_solutions",
    title="HumanEval's own solutions, to train on",
    cites=("chen-2021-humaneval",),
    family="generate",
    role="intermediate",
    languages=("en",),
    metrics=("token_accuracy",),
    main_score="token_accuracy",
    folder="code",
    local={"train": file("humaneval", "humaneval/HumanEval.jsonl"), "dev": _MBPP_FILE},
    sizes={"train": 164, "dev": 90},
    training=TRAINING,
    problems={"train": HUMANEVAL_PROBLEMS, "dev": MBPP_DEV},
    licence="MIT; dev: CC BY 4.0",
    note="164 exercises in Python; MBPP's validation split selects. None of HumanEval's family can be scored then.",
    url="https://github.com/openai/human-eval",
)

HUMANEVAL = Task(
    name="humaneval",
    title="HumanEval",
    cites=("chen-2021-humaneval",),
    family="generate",
    role="target",
    languages=("en",),
    metrics=PROGRAM_METRICS,
    main_score="pass@1",
    folder="code",
    head="code",
    train_on="mbpp",
    stop=AFTER_PYTHON,
    local={"test": file("humaneval", "humaneval/HumanEval.jsonl")},
    sizes={**MBPP.sizes, "test": 164},
    test_sizes={"en": 164},
    training=TRAINING,
    problems={"test": HUMANEVAL_PROBLEMS},
    licence="MIT",
    note="Fine-tuned on MBPP. `stilts execute` runs what was written, then it can be scored.",
    url="https://github.com/openai/human-eval",
)

# Files of MBXP and the problems in them that are of MBPP's test split.
MBXP_FILES = {
    "python": ("mbpp_release_v1", 500),
    "javascript": ("mbjsp_release_v1.2", 498),
    "typescript": ("mbtsp_release_v1.2", 498),
    "php": ("mbphp_release_v1.2", 498),
    "java": ("mbjp_release_v1.2", 498),
    "go": ("mbgp_release_v1.1", 483),
    "kotlin": ("mbkp_release_v1.2", None),
    "ruby": ("mbrbp_release_v1.2", None),
    "cpp": ("mbcpp_release_v1.2", None),
    "csharp": ("mbcsp_release_v1.2", None),
    "perl": ("mbplp_release_v1", None),
    "scala": ("mbscp_release_v1", None),
    "swift": ("mbswp_release_v1", None),
}
MBXP = Task(
    name="mbxp",
    title="MBXP, MBPP's test exercises in thirteen programming languages",
    cites=("athiwaratkun-2023-mbxp",),
    family="generate",
    role="target",
    languages=tuple(MBXP_FILES),
    pivot="python",
    metrics=PROGRAM_METRICS,
    main_score="pass@1",
    folder="code",
    head="code",
    train_on="mbpp",
    local={
        "test": tuple(
            local
            for language, (name, _) in MBXP_FILES.items()
            for local in file("mbxp", f"mbxp/{name}.jsonl", (language,))
        )
    },
    sizes=MBPP.sizes,
    test_sizes={language: size for language, (_, size) in MBXP_FILES.items() if size is not None},
    training=TRAINING,
    problems={"test": MBPP_TEST},
    licence="CC BY 4.0",
    note="Fine-tuned on MBPP in Python. Its files hold MBPP's train exercises, too: only 11-510 are read.",
    url="https://github.com/amazon-science/mxeval",
)

NATURAL = words("en af ar bg zh nl et fi fr de el he hu id it ms fa pt ru es tl tr vi")


def _humaneval_xl(programming: str, name: str, stop: tuple[str, ...] = ()) -> Task:
    return Task(
        name=name,
        title=f"HumanEval-XL, {programming} from descriptions in 23 natural languages",
        cites=("peng-2024-humanevalxl",),
        family="generate",
        role="target",
        languages=NATURAL,
        metrics=PROGRAM_METRICS,
        main_score="pass@1",
        folder="code",
        head="code",
        train_on="mbpp",
        stop=stop,
        local={"test": file("humaneval_xl", f"humaneval_xl/{programming}/{{name}}.jsonl")},
        sizes=MBPP.sizes,
        test_sizes=dict.fromkeys(NATURAL, 80),
        training=TRAINING,
        problems={"test": HUMANEVAL_PROBLEMS},
        licence="MIT",
        note="Fine-tuned on MBPP, whose descriptions are English. All 80 problems are HumanEval's.",
        url="https://github.com/FloatAI/humaneval-xl",
    )


# The programming languages besides Python.
PROGRAMMING = ("csharp", "go", "java", "javascript", "kotlin", "perl", "php", "ruby", "scala", "swift", "typescript")
HUMANEVAL_XL = _humaneval_xl("python", "humaneval_xl", AFTER_PYTHON)
HUMANEVAL_XL_OTHERS = tuple(_humaneval_xl(language, f"humaneval_xl_{language}") for language in PROGRAMMING)

# Problems by programming language besides Python.
_MULTI_SIZES = {
    **dict.fromkeys(
        ("csharp", "java", "javascript", "kotlin", "perl", "php", "ruby", "scala", "swift", "typescript"), 161
    ),
    "go": 160,
}


def _multi_humaneval_files(language: str) -> tuple[Local, ...]:
    """The newer of two versions of a language's file, or the first where that alone is there."""
    if language == "python":
        return file("multi_humaneval", "multilingual_humaneval/HumanEval.jsonl", (language,))
    path = f"multilingual_humaneval/HumanEval_{language}"
    [newest], [first] = (file("multi_humaneval", f"{path}_{version}.jsonl", (language,)) for version in ("v1.1", "v1"))
    assert newest.otherwise is not None
    return (replace(newest, otherwise=replace(newest.otherwise, otherwise=first)),)


MULTI_HUMANEVAL = Task(
    name="multi_humaneval",
    title="HumanEval in twelve programming languages",
    cites=("athiwaratkun-2023-mbxp", "chen-2021-humaneval"),
    family="generate",
    role="target",
    languages=("python", *_MULTI_SIZES),
    pivot="python",
    metrics=PROGRAM_METRICS,
    main_score="pass@1",
    folder="code",
    head="code",
    train_on="mbpp",
    local={
        "test": tuple(local for language in ("python", *_MULTI_SIZES) for local in _multi_humaneval_files(language))
    },
    sizes=MBPP.sizes,
    test_sizes={"python": 164, **_MULTI_SIZES},
    training=TRAINING,
    problems={"test": HUMANEVAL_PROBLEMS},
    licence="Apache-2.0",
    note="Fine-tuned on MBPP in Python.",
    url="https://github.com/amazon-science/mxeval",
)

INTERMEDIATE = (MBPP, HUMANEVAL_SOLUTIONS)
TARGETS = (HUMANEVAL, MBXP, MULTI_HUMANEVAL, HUMANEVAL_XL, *HUMANEVAL_XL_OTHERS)
