"""The target tasks of XTREME, and XCOPA of XTREME-R, one literal each.

Files are laid out as XTREME's own download folder. Sizes are those of English (test sets: of every language, from
test_sizes.py), hyper-parameters those of the paper's third phase. Hub revisions are commits, or branches where no
commit is known.
"""

from __future__ import annotations

from stilts_ds.tasks import test_sizes
from stilts_ds.tasks.hub_entries import PARQUET_BRANCH, repo, treebanks, tydiqa, xtreme
from stilts_ds.tasks.intermediate import NLI_LABELS, QA_LENGTHS
from stilts_ds.tasks.spec import Hub, Local, Task

XNLI_COMMIT = "b8dd5d7af51114dbda02c0e3f6133f332186418e"
PAWSX_COMMIT = "4cd8187c404bda33cb1f62b49b001115862acf37"
XCOPA_COMMIT = "042f78955ba48e6404616762fa6e05e839c3907a"
SUPER_GLUE_COMMIT = "3de24cf8022e94f4ee4b9d55a6f539891524d646"
XTREME_URL = "https://github.com/google-research/xtreme (scripts/download_data.sh)"


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Tags in the order of the indices of the head.
UPOS = words("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X")
NER_TAGS = words("B-LOC B-ORG B-PER I-LOC I-ORG I-PER O")
XQUAD_LANGUAGES = words("en es de el ru tr ar vi th zh hi")
PANX_LANGUAGES = words(
    "ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my zh kk tr et "
    "fi hu"
)
# What XTREME-R adds; its treebanks are of UD 2.7, while the other languages' stay on 2.5.
UD27_LANGUAGES = words("lt pl ro uk wo")
PANX_ADDED = words("az gu lt pa pl qu ro uk")
TATOEBA_ADDED = words("az lt pl ro uk")
UD25_LANGUAGES = words(
    "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh"
)
# Of XTREME's forty languages; English is the other side of every pair.
NOT_IN_TATOEBA = ("en", "ms", "my", "yo")
TATOEBA_LANGUAGES = tuple(language for language in PANX_LANGUAGES if language not in NOT_IN_TATOEBA)


XNLI = Task(
    name="xnli",
    title="XNLI",
    cites=("conneau-2018-xnli",),
    family="pair",
    role="target",
    languages=words("ar bg de el en es fr hi ru sw th tr ur vi zh"),
    metrics=("accuracy",),
    main_score="accuracy",
    shared_text="text_a",
    chance=100 / 3,  # each label has a third of the pairs
    parallel_rows=True,
    labels=NLI_LABELS,
    head="nli",
    train_on="mnli",  # XNLI has dev and test splits only
    local={
        "dev": (Local("pair_tsv", "xnli/dev-{language}.tsv"),),
        "test": (Local("pair_tsv", "xnli/test-{language}.tsv", labels="xnli/test-labels.txt"),),
    },
    hub={
        "dev": repo("hub_nli", "facebook/xnli", "validation", XNLI_COMMIT),
        "test": repo("hub_nli", "facebook/xnli", "test", XNLI_COMMIT),
    },
    sizes={"train": 392_702, "dev": 2_490, "test": 5_010},
    test_sizes=test_sizes.XNLI,
    training={"train_batch_size": 32, "num_train_epochs": 2, "max_seq_length": 256},
    licence="CC BY-NC 4.0",
    url=XTREME_URL,
)

PAWSX = Task(
    name="pawsx",
    title="PAWS-X",
    cites=("yang-2019-pawsx",),
    family="pair",
    role="target",
    languages=words("de en es fr ja ko zh"),
    metrics=("accuracy",),
    main_score="accuracy",
    labels=("0", "1"),
    chance=50.0,
    parallel_rows=True,
    local={
        "train": (Local("pair_tsv", "pawsx/train-{language}.tsv"),),
        "dev": (Local("pair_tsv", "pawsx/dev-{language}.tsv"),),
        # One table of labels for all languages, where XNLI has one list of them.
        "test": (Local("pair_tsv", "pawsx/test-{language}.tsv", labels="pawsx/test-labels.tsv"),),
    },
    hub={
        "train": repo("hub_paws", "google-research-datasets/paws-x", "train", PAWSX_COMMIT),
        "dev": repo("hub_paws", "google-research-datasets/paws-x", "validation", PAWSX_COMMIT),
        "test": repo("hub_paws", "google-research-datasets/paws-x", "test", PAWSX_COMMIT),
    },
    sizes={"train": 49_401, "dev": 2_000, "test": 2_000},
    test_sizes=test_sizes.PAWSX,
    training={"train_batch_size": 32, "num_train_epochs": 5, "max_seq_length": 256},
    licence="free use, attribution",
    url=XTREME_URL,
)

UDPOS = Task(
    name="udpos",
    title="POS (UD 2.5)",
    cites=("nivre-2020-ud",),
    family="tag",
    role="target",
    languages=UD25_LANGUAGES,
    metrics=("f1", "precision", "recall", "token_accuracy"),
    main_score="f1",  # XTREME scores POS by seqeval's F1 of chunks, as it does NER
    labels=UPOS,
    local={
        "train": (Local("tag_tsv", "udpos/train-{language}.tsv"),),
        "dev": (Local("tag_tsv", "udpos/dev-{language}.tsv"),),
        "test": (
            # One entry a release: a language's treebanks of the other one would be other test sentences.
            Local(
                "conllu",
                "ud-treebanks-v2.5/*/{language}_*-ud-test.conllu",
                otherwise=Local("tag_tsv", "udpos/test-{language}.tsv"),
                languages=UD25_LANGUAGES,
            ),
            Local(
                "conllu",
                "ud-treebanks-v2.7/*/{language}_*-ud-test.conllu",
                otherwise=Local("tag_tsv", "udpos/test-{language}.tsv"),
                languages=UD27_LANGUAGES,
            ),
        ),
    },
    hub={
        "train": xtreme("hub_tags", "udpos.{name}", "train"),
        "dev": xtreme("hub_tags", "udpos.{name}", "validation"),
        "test": (*xtreme("hub_tags", "udpos.{name}", "test", UD25_LANGUAGES), *treebanks()),
    },
    sizes={"train": 21_253, "dev": 3_974},
    test_sizes=test_sizes.UDPOS,
    training={"train_batch_size": 32, "num_train_epochs": 10, "max_seq_length": 256},
    licence="per treebank, CC BY-SA and others",
    note="XTREME's own test files have no tags, so the treebanks come first. The hub's rows keep the parts of "
    "multiword tokens where XTREME's files hold the fused form; those of UD 2.7, not pinned there, are fused as XTREME "
    "does. kk, th, tl and yo have no dev split.",
    url=XTREME_URL,
)

PANX = Task(
    name="panx",
    title="NER (PAN-X)",
    cites=("pan-2017-panx", "rahimi-2019-massively"),
    family="tag",
    role="target",
    languages=PANX_LANGUAGES,
    metrics=("f1", "precision", "recall", "token_accuracy"),
    main_score="f1",
    labels=NER_TAGS,
    local={
        "train": (Local("tag_tsv", "panx/train-{language}.tsv"),),
        "dev": (Local("tag_tsv", "panx/dev-{language}.tsv"),),
        "test": (Local("tag_tsv", "panx/test-{language}.tsv"),),
    },
    hub={
        "train": xtreme("hub_tags", "PAN-X.{language}", "train"),
        "dev": xtreme("hub_tags", "PAN-X.{language}", "validation"),
        "test": (
            *xtreme("hub_tags", "PAN-X.{language}", "test", PANX_LANGUAGES),
            # XTREME's data set has not got the languages that XTREME-R adds.
            Hub("hub_tags", "unimelb-nlp/wikiann", "{language}", "test", "main", languages=PANX_ADDED),
        ),
    },
    sizes={"train": 20_000, "dev": 10_000},
    test_sizes=test_sizes.PANX,
    training={"train_batch_size": 32, "num_train_epochs": 10, "max_seq_length": 256},
    licence="none stated (Wikipedia text)",
    note="The languages that XTREME-R adds are not pinned on the hub: the commit of `unimelb-nlp/wikiann` that is read "
    "is kept in the cache (hub_commits.json).",
    url=XTREME_URL,
)

XQUAD = Task(
    name="xquad",
    title="XQuAD",
    cites=("artetxe-2020-xquad",),
    family="span",
    role="target",
    languages=XQUAD_LANGUAGES,
    metrics=("exact_match", "f1"),
    main_score="exact_match_f1",
    shared_text="context",  # several questions stand on one paragraph
    head="span",
    train_on="squad_v1",
    local={"test": (Local("squad_json", "xquad/xquad.{language}.json"),)},
    hub={
        "test": (
            *xtreme("hub_squad", "XQuAD.{language}", "validation", XQUAD_LANGUAGES),
            # XTREME's data set has not got Romanian, which XTREME-R adds.
            Hub("hub_squad", "google/xquad", "xquad.{language}", "validation", "main", languages=("ro",)),
        )
    },
    sizes={"train": 87_599, "test": 1_190},
    test_sizes=test_sizes.XQUAD,
    training={"train_batch_size": 16, "num_train_epochs": 2, **QA_LENGTHS},
    licence="CC BY-SA 4.0",
    note="XQuAD has one split; select models on the dev split of SQuAD 1.1. Romanian, which XTREME-R adds, is not "
    "pinned on the hub: the commit of `google/xquad` that is read is kept in the cache (hub_commits.json).",
    url=XTREME_URL,
)

MLQA = Task(
    name="mlqa",
    title="MLQA",
    cites=("lewis-2020-mlqa",),
    family="span",
    role="target",
    languages=words("en es de ar hi vi zh"),
    metrics=("exact_match", "f1"),
    main_score="exact_match_f1",
    shared_text="context",
    answer_rules="mlqa",  # each language's own articles; XQuAD and TyDiQA are compared by SQuAD's, which are English
    head="span",
    train_on="squad_v1",
    # XTREME scores questions in the language of their context; `mlqa+de` reads the crossed files.
    local={
        "dev": (Local("squad_json", "mlqa/MLQA_V1/dev/dev-context-{language}-question-{language}.json"),),
        "test": (Local("squad_json", "mlqa/MLQA_V1/test/test-context-{language}-question-{language}.json"),),
    },
    hub={
        "dev": xtreme("hub_squad", "MLQA.{language}.{language}", "validation"),
        "test": xtreme("hub_squad", "MLQA.{language}.{language}", "test"),
    },
    sizes={"train": 87_599, "dev": 1_148, "test": 11_590},
    test_sizes=test_sizes.MLQA,
    training={"train_batch_size": 16, "num_train_epochs": 2, **QA_LENGTHS},
    licence="CC BY-SA 3.0",
    url=XTREME_URL,
)

_TYDIQA_DEV = (Local("squad_json", "tydiqa/tydiqa-goldp-v1.1-dev/tydiqa.{language}.dev.json"),)
TYDIQA = Task(
    name="tydiqa",
    title="TyDiQA-GoldP",
    cites=("clark-2020-tydiqa",),
    family="span",
    role="target",
    languages=words("en ar bn fi id ko ru sw te"),
    metrics=("exact_match", "f1"),
    main_score="exact_match_f1",
    shared_text="context",
    head="tydiqa",  # trained on its own questions, while XQuAD and MLQA are scored with SQuAD's head
    local={
        "train": (Local("squad_json", "tydiqa/tydiqa-goldp-v1.1-train/tydiqa.{language}.train.json"),),
        "dev": _TYDIQA_DEV,
        "test": _TYDIQA_DEV,
    },
    hub={
        "train": tydiqa("train"),
        "dev": tydiqa("validation"),
        "test": tydiqa("validation"),
    },
    sizes={"train": 3_696, "dev": 440, "test": 440},
    test_sizes=test_sizes.TYDIQA,
    training={"train_batch_size": 16, "num_train_epochs": 2, **QA_LENGTHS},
    licence="Apache-2.0",
    note="XTREME tests on the public dev split, so test and dev are the same questions.",
    url=XTREME_URL,
)

BUCC2018 = Task(
    name="bucc2018",
    title="BUCC 2018",
    cites=("zweigenbaum-2018-bucc",),
    family="bitext",
    role="target",
    languages=words("de fr ru zh"),
    metrics=("f1", "precision", "recall"),
    main_score="f1",
    predictions="pairs",
    # Both sides are numbered sentences; the gold file names which of them are pairs.
    local={
        split: (
            Local(
                "bucc",
                f"bucc2018/{{language}}-{{pivot}}.{split}.{{language}}",
                pivot=f"bucc2018/{{language}}-{{pivot}}.{split}.{{pivot}}",
                labels=f"bucc2018/{{language}}-{{pivot}}.{split}.gold",
            ),
        )
        for split in ("dev", "test")
    },
    test_sizes=test_sizes.BUCC2018,
    training={"max_seq_length": 512},
    licence="none stated",
    note="Only local files: the hub's copies hold the gold pairs without the sentences around them.",
    url=XTREME_URL,
)

TATOEBA = Task(
    name="tatoeba",
    title="Tatoeba",
    cites=("artetxe-2019-laser",),
    family="bitext",
    role="target",
    languages=TATOEBA_LANGUAGES,
    metrics=("accuracy",),
    main_score="accuracy",
    predictions="nearest",  # every sentence has a translation, so an index a line says it all
    local={
        "test": (
            Local(
                "aligned_lines",
                "tatoeba/tatoeba.{iso3}-{pivot_iso3}.{iso3}",
                pivot="tatoeba/tatoeba.{iso3}-{pivot_iso3}.{pivot_iso3}",
                otherwise=Local(
                    "unaligned_lines",
                    "tatoeba/{language}-{pivot}.{language}",
                    pivot="tatoeba/{language}-{pivot}.{pivot}",
                ),
            ),
        )
    },
    hub={
        "test": (
            *xtreme("hub_parallel", "tatoeba.{iso3}", "validation", TATOEBA_LANGUAGES),
            Hub(
                "hub_parallel",
                "mteb/tatoeba-bitext-mining",
                "{iso3}-eng",
                "test",
                PARQUET_BRANCH,
                languages=TATOEBA_ADDED,
                in_folder=True,
            ),
        )
    },
    test_sizes=test_sizes.TATOEBA,
    training={"max_seq_length": 512},
    licence="CC BY 2.0 FR",
    note="XTREME's prepared files ({language}-en) sort the English side, so they carry no gold; the original files "
    "come first. The languages that XTREME-R adds are not pinned on the hub.",
    url=XTREME_URL,
)

XCOPA = Task(
    name="xcopa",
    title="XCOPA",
    cites=("ponti-2020-xcopa",),
    family="choice",
    chance=50.0,
    role="target",
    languages=words("et ht id it qu sw ta th tr vi zh"),
    metrics=("accuracy",),
    main_score="accuracy",
    predictions="label_lines",
    local={
        "train": (Local("copa_jsonl", "xcopa/{language}/train.{language}.jsonl"),),
        "dev": (Local("copa_jsonl", "xcopa/{language}/val.{language}.jsonl"),),
        "test": (Local("copa_jsonl", "xcopa/{language}/test.{language}.jsonl"),),
    },
    hub={
        # English is SuperGLUE's COPA, of which XCOPA is a translation and has no copy.
        "train": (Hub("hub_copa", "aps/super_glue", "copa", "train", SUPER_GLUE_COMMIT),),
        "dev": repo("hub_copa", "cambridgeltl/xcopa", "validation", XCOPA_COMMIT),
        "test": repo("hub_copa", "cambridgeltl/xcopa", "test", XCOPA_COMMIT),
    },
    sizes={"train": 400, "dev": 100, "test": 500},
    test_sizes=test_sizes.XCOPA,
    training={"train_batch_size": 32, "num_train_epochs": 5, "max_seq_length": 128},
    licence="CC BY 4.0; English COPA: BSD-2-Clause",
    note="English COPA trains it; XTREME-R trains Social IQa before and keeps its head (keep_head). The hub's copy "
    "has no English dev split; take local files to select models.",
    url="https://github.com/cambridgeltl/xcopa",
)

TASKS = (XNLI, PAWSX, UDPOS, PANX, XQUAD, MLQA, TYDIQA, BUCC2018, TATOEBA, XCOPA)
