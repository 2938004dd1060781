"""The English intermediate tasks, one literal each, and multilingual masked language modelling.

Sizes and hyper-parameters are those of arXiv 2005.13013; file names are those of each data set's official release.
Hub revisions are commits unless the task's `note` says otherwise.
"""

from __future__ import annotations

from stilts_ds.tasks.languages import XTREME
from stilts_ds.tasks.spec import Hub, Local, Task

# In the order of the indices of the head; hub data sets number them otherwise and are converted by name.
NLI_LABELS = ("contradiction", "entailment", "neutral")
# Commits, not branches: a data set that changes on the hub must not change a result of the same recipe.
GLUE_COMMIT = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
SNLI_COMMIT = "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b"
ANLI_COMMIT = "8e4813d81f46d313dac7892e1c28076917cfcdf9"
SQUAD_COMMIT = "7b6d24c440a36b6815f21b70d25016731768db1f"
SQUAD_V2_COMMIT = "3ffb306f725f7d2ce8394bc1873b24868140c412"
HELLASWAG_COMMIT = "218ec52e09a7e7462a5400043bb9a69a41d06b76"
COMMONSENSEQA_COMMIT = "94630fe30dad47192a8546eb75f094926d47e155"
MNLI_LICENCE = "mixed OANC / CC BY / CC BY-SA"
# Tokens of a window, of the step to the next one, and of the question: what XTREME's train_qa.sh sets.
QA_LENGTHS = {"max_seq_length": 384, "doc_stride": 128, "max_query_length": 64}


def _glue(config: str, schema: str, split: str) -> Hub:
    return Hub(schema, "nyu-mll/glue", config, split, GLUE_COMMIT)


def _anli(split: str) -> tuple[Hub, ...]:
    # The hub has a split for each round, as the release has a folder.
    rounds = ("r1", "r2", "r3")
    return tuple(Hub("hub_nli", "facebook/anli", "plain_text", f"{split}_{name}", ANLI_COMMIT) for name in rounds)


def _snli(split: str) -> Hub:
    return Hub("hub_nli", "stanfordnlp/snli", "plain_text", split, SNLI_COMMIT)


ANLI_PLUS = Task(
    name="anli_plus",
    title="ANLI R1-R3 + MNLI + SNLI",
    cites=("nie-2020-anli", "williams-2018-multinli", "bowman-2015-snli"),
    family="pair",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy",),
    main_score="accuracy",
    chance=100 / 3,
    labels=NLI_LABELS,
    head="nli",
    local={
        "train": (
            Local("anli_jsonl", "anli_v1.0/R1/train.jsonl"),
            Local("anli_jsonl", "anli_v1.0/R2/train.jsonl"),
            Local("anli_jsonl", "anli_v1.0/R3/train.jsonl"),
            Local("nli_jsonl", "mnli/multinli_1.0_train.jsonl"),
            Local("nli_jsonl", "snli/snli_1.0_train.jsonl"),
        ),
        "dev": (
            Local("anli_jsonl", "anli_v1.0/R1/dev.jsonl"),
            Local("anli_jsonl", "anli_v1.0/R2/dev.jsonl"),
            Local("anli_jsonl", "anli_v1.0/R3/dev.jsonl"),
            # The matched half alone, as for MNLI itself: it is the one that selects.
            Local("nli_jsonl", "mnli/multinli_1.0_dev_matched.jsonl"),
            Local("nli_jsonl", "snli/snli_1.0_dev.jsonl"),
        ),
    },
    hub={
        "train": (*_anli("train"), _glue("mnli", "hub_nli", "train"), _snli("train")),
        "dev": (*_anli("dev"), _glue("mnli", "hub_nli", "validation_matched"), _snli("validation")),
    },
    # Without SNLI's rows on whose label the annotators did not agree: 785 of train, 158 of dev.
    sizes={"train": 1_104_934, "dev": 22_857},
    training={"train_batch_size": 24, "num_train_epochs": 2, "max_seq_length": 256},
    licence=f"ANLI: CC BY-NC 4.0; SNLI: CC BY-SA 4.0; MNLI: {MNLI_LICENCE}",
    url="https://github.com/facebookresearch/anli, https://nlp.stanford.edu/projects/snli and "
    "https://cims.nyu.edu/~sbowman/multinli",
)

MNLI = Task(
    name="mnli",
    title="MultiNLI",
    cites=("williams-2018-multinli",),
    family="pair",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy",),
    main_score="accuracy",
    chance=100 / 3,
    labels=NLI_LABELS,
    head="nli",
    local={
        "train": (Local("nli_jsonl", "mnli/multinli_1.0_train.jsonl"),),
        "dev": (Local("nli_jsonl", "mnli/multinli_1.0_dev_matched.jsonl"),),
        "dev_mismatched": (Local("nli_jsonl", "mnli/multinli_1.0_dev_mismatched.jsonl"),),
    },
    hub={
        "train": (_glue("mnli", "hub_nli", "train"),),
        "dev": (_glue("mnli", "hub_nli", "validation_matched"),),
        "dev_mismatched": (_glue("mnli", "hub_nli", "validation_mismatched"),),
    },
    sizes={"train": 392_702, "dev": 9_815, "dev_mismatched": 9_832},
    training={"train_batch_size": 24, "num_train_epochs": 2, "max_seq_length": 256},
    licence=MNLI_LICENCE,
    url="https://cims.nyu.edu/~sbowman/multinli",
)

QQP = Task(
    name="qqp",
    title="Quora Question Pairs",
    cites=("iyer-2017-qqp",),
    family="pair",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy", "f1"),
    main_score="accuracy_f1",  # GLUE's score of QQP: the mean of both
    chance=50.0,
    labels=("0", "1"),
    local={"train": (Local("qqp_tsv", "qqp/train.tsv"),), "dev": (Local("qqp_tsv", "qqp/dev.tsv"),)},
    hub={"train": (_glue("qqp", "hub_qqp", "train"),), "dev": (_glue("qqp", "hub_qqp", "validation"),)},
    sizes={"train": 363_846, "dev": 40_430},
    training={"train_batch_size": 24, "num_train_epochs": 3, "max_seq_length": 256},
    licence="Quora terms, non-commercial",
    url="https://gluebenchmark.com/tasks",
)

SQUAD_V1 = Task(
    name="squad_v1",
    title="SQuAD 1.1",
    cites=("rajpurkar-2016-squad",),
    family="span",
    role="intermediate",
    languages=("en",),
    metrics=("exact_match", "f1"),
    main_score="exact_match_f1",
    head="span",
    local={
        "train": (Local("squad_json", "squad_v1/train-v1.1.json"),),
        "dev": (Local("squad_json", "squad_v1/dev-v1.1.json"),),
    },
    hub={
        "train": (Hub("hub_squad", "rajpurkar/squad", "plain_text", "train", SQUAD_COMMIT),),
        "dev": (Hub("hub_squad", "rajpurkar/squad", "plain_text", "validation", SQUAD_COMMIT),),
    },
    sizes={"train": 87_599, "dev": 10_570},
    training={"train_batch_size": 8, "num_train_epochs": 3, **QA_LENGTHS},
    licence="CC BY-SA 4.0",
    url="https://rajpurkar.github.io/SQuAD-explorer",
)

SQUAD_V2 = Task(
    name="squad_v2",
    title="SQuAD 2.0",
    cites=("rajpurkar-2018-squad2",),
    family="span",
    role="intermediate",
    languages=("en",),
    metrics=("exact_match", "f1"),
    main_score="exact_match_f1",
    head="span_or_none",  # SQuAD 1.1's head never learns that a question has no answer, so the two are not shared
    local={
        "train": (Local("squad_json", "squad_v2/train-v2.0.json"),),
        "dev": (Local("squad_json", "squad_v2/dev-v2.0.json"),),
    },
    hub={
        "train": (Hub("hub_squad_v2", "rajpurkar/squad_v2", "squad_v2", "train", SQUAD_V2_COMMIT),),
        "dev": (Hub("hub_squad_v2", "rajpurkar/squad_v2", "squad_v2", "validation", SQUAD_V2_COMMIT),),
    },
    sizes={"train": 130_319, "dev": 11_873},
    training={"train_batch_size": 8, "num_train_epochs": 3, **QA_LENGTHS},
    licence="CC BY-SA 4.0",
    url="https://rajpurkar.github.io/SQuAD-explorer",
)

HELLASWAG = Task(
    name="hellaswag",
    title="HellaSwag",
    cites=("zellers-2019-hellaswag",),
    family="choice",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy",),
    main_score="accuracy",
    chance=25.0,
    local={
        "train": (Local("hellaswag_jsonl", "hellaswag/hellaswag_train.jsonl"),),
        "dev": (Local("hellaswag_jsonl", "hellaswag/hellaswag_val.jsonl"),),
    },
    hub={
        "train": (Hub("hub_hellaswag", "Rowan/hellaswag", "default", "train", HELLASWAG_COMMIT),),
        "dev": (Hub("hub_hellaswag", "Rowan/hellaswag", "default", "validation", HELLASWAG_COMMIT),),
    },
    sizes={"train": 39_905, "dev": 10_042},
    training={"train_batch_size": 24, "num_train_epochs": 7, "max_seq_length": 256},
    licence="MIT",
    url="https://github.com/rowanz/hellaswag",
)

CCG = Task(
    name="ccg",
    title="CCG supertagging (CCGbank)",
    cites=("hockenmaier-2007-ccgbank",),
    family="tag",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy",),
    main_score="accuracy",
    local={"train": (Local("tag_tsv", "ccg/train.tsv"),), "dev": (Local("tag_tsv", "ccg/dev.tsv"),)},
    sizes={"train": 38_015, "dev": 5_484},
    training={"train_batch_size": 24, "num_train_epochs": 15, "max_seq_length": 256},
    licence="CCGbank: Linguistic Data Consortium (LDC2005T13)",
    note="CCGbank may not be passed on. Make ccg/train.tsv and ccg/dev.tsv from your own copy: word TAB supertag, and "
    "a blank line after each sentence. The full train set has 1,363 tags.",
    url="https://catalog.ldc.upenn.edu/LDC2005T13",
)

COSMOSQA = Task(
    name="cosmosqa",
    title="Cosmos QA",
    cites=("huang-2019-cosmosqa",),
    family="choice",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy",),
    main_score="accuracy",
    chance=25.0,
    local={
        "train": (Local("cosmosqa_csv", "cosmosqa/train.csv"),),
        "dev": (Local("cosmosqa_csv", "cosmosqa/valid.csv"),),
    },
    hub={
        "train": (Hub("hub_cosmosqa", "allenai/cosmos_qa", "default", "train", "refs/convert/parquet"),),
        "dev": (Hub("hub_cosmosqa", "allenai/cosmos_qa", "default", "validation", "refs/convert/parquet"),),
    },
    sizes={"train": 25_262, "dev": 2_985},
    training={"train_batch_size": 4, "num_train_epochs": 15, "max_seq_length": 256},
    licence="CC BY 4.0",
    note="The hub's parquet branch moves, so it is not pinned here: the commit that is read is kept in the cache "
    "(hub_commits.json), and is part of the names of phases.",
    url="https://wilburone.github.io/cosmos",
)

COMMONSENSEQA = Task(
    name="commonsenseqa",
    title="CommonsenseQA",
    cites=("talmor-2019-commonsenseqa",),
    family="choice",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy",),
    main_score="accuracy",
    chance=20.0,
    local={
        "train": (Local("commonsenseqa_jsonl", "commonsenseqa/train_rand_split.jsonl"),),
        "dev": (Local("commonsenseqa_jsonl", "commonsenseqa/dev_rand_split.jsonl"),),
    },
    hub={
        "train": (Hub("hub_commonsenseqa", "tau/commonsense_qa", "default", "train", COMMONSENSEQA_COMMIT),),
        "dev": (Hub("hub_commonsenseqa", "tau/commonsense_qa", "default", "validation", COMMONSENSEQA_COMMIT),),
    },
    sizes={"train": 9_741, "dev": 1_221},
    training={"train_batch_size": 4, "num_train_epochs": 10, "max_seq_length": 256},
    licence="MIT",
    url="https://www.tau-nlp.org/commonsenseqa",
)

SIQA = Task(
    name="siqa",
    title="Social IQa",
    cites=("sap-2019-siqa",),
    family="choice",
    role="intermediate",
    languages=("en",),
    metrics=("accuracy",),
    main_score="accuracy",
    chance=100 / 3,
    local={
        "train": (Local("siqa_jsonl", "siqa/socialIQa_v1.4_trn.jsonl"),),
        "dev": (Local("siqa_jsonl", "siqa/socialIQa_v1.4_dev.jsonl"),),
    },
    hub={
        "train": (Hub("hub_siqa", "allenai/social_i_qa", "default", "train", "refs/convert/parquet"),),
        "dev": (Hub("hub_siqa", "allenai/social_i_qa", "default", "validation", "refs/convert/parquet"),),
    },
    sizes={"train": 33_410, "dev": 1_954},
    training={"train_batch_size": 32, "num_train_epochs": 5, "max_seq_length": 128},
    licence="CC BY 4.0",
    note="XTREME-R's step before COPA; the paper has it not. The hub's parquet branch moves, so it is not pinned here: "
    "the commit that is read is kept in the cache (hub_commits.json).",
    url="https://leaderboard.allenai.org/socialiqa",
)

# The split is no part of the path: dev lines are held out of the same files.
_TEXT_FILES = (Local("lines", "*.txt", names_language=True, otherwise=Local("lines", "*/*.txt", names_language=True)),)
MLM = Task(
    name="mlm",
    title="Multilingual masked language modelling",
    family="text",
    role="intermediate",
    languages=XTREME,
    metrics=("masked_accuracy",),
    main_score="masked_accuracy",
    folder="text",  # `data.text`: running text is part of no data set's folder
    local={"train": _TEXT_FILES, "dev": _TEXT_FILES},
    training={"train_batch_size": 8, "max_seq_length": 256, "mlm_probability": 0.15},
    licence="that of your text",
    note="Your own text, one passage a line: {language}.txt, or any *.txt in folders named after languages, or both. "
    "All files make one mixture, read a line of each in turn; every 50th line of a file is held out as the dev split.",
    url="your own text",
)

# In the order of the paper's tables; what the paper has not comes last.
TASKS = (ANLI_PLUS, MNLI, QQP, SQUAD_V1, SQUAD_V2, HELLASWAG, CCG, COSMOSQA, COMMONSENSEQA, MLM, SIQA)
