"""XTREME-R's language-agnostic retrieval, LAReQA and Mewsli-X, and the English tasks that train it: one literal each.

Hyper-parameters are those of XTREME-R's scripts (train_lareqa.sh, train_mewslix.sh). What trains them may also be an
intermediate task for other targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stilts_ds.tasks import test_sizes
from stilts_ds.tasks.intermediate import SQUAD_COMMIT
from stilts_ds.tasks.spec import Hub, Local, Task

RANKED = ("map_at_20", "map", "own_language")
# AdamW without weight decay and warm-up, each example against the three others of its pool.
_ENCODER: Mapping[str, Any] = {"learning_rate": 2e-5, "weight_decay": 0.0, "warmup_ratio": 0.0, "pool_size": 4}
LAREQA_TRAINING: Mapping[str, Any] = {
    **_ENCODER,
    "train_batch_size": 16,
    "num_train_epochs": 3,
    "max_seq_length": 256,
    "max_query_length": 96,
}
MEWSLIX_TRAINING: Mapping[str, Any] = {
    **_ENCODER,
    "train_batch_size": 256,  # steps of four pools of 64, against the 63 others of which each example is scored
    "num_train_epochs": 2,
    "max_seq_length": 64,
    "max_query_length": 64,
    "pool_size": 64,
    "per_device_train_batch_size": 64,
}

REQA_SQUAD = Task(
    name="reqa_squad",
    title="ReQA (SQuAD 1.1 as retrieval of answer sentences)",
    cites=("rajpurkar-2016-squad", "ahmad-2019-reqa"),
    family="ranking",
    role="intermediate",
    languages=("en",),
    metrics=RANKED[:2],  # one language, so there is no score of how much it keeps to its own
    main_score="map_at_20",
    predictions="ranked",
    head="reqa",
    local={
        "train": (Local("squad_sentences", "squad_v1/train-v1.1.json"),),
        "dev": (Local("squad_sentences", "squad_v1/dev-v1.1.json"),),
    },
    hub={
        "train": (Hub("hub_squad_sentences", "rajpurkar/squad", "plain_text", "train", SQUAD_COMMIT),),
        "dev": (Hub("hub_squad_sentences", "rajpurkar/squad", "plain_text", "validation", SQUAD_COMMIT),),
    },
    sizes={"train": 87_599, "dev": 10_570},
    training=LAREQA_TRAINING,
    licence="CC BY-SA 4.0",
    note="A question finds the sentence that holds its first answer; SQuAD marks no sentences, so a rule breaks its "
    "paragraphs. Dev questions search the answer sentences of the dev examples in use.",
    url="https://rajpurkar.github.io/SQuAD-explorer",
)

LAREQA = Task(
    name="lareqa",
    title="LAReQA (XQuAD-R)",
    cites=("roy-2020-lareqa",),
    family="ranking",
    role="target",
    languages=("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"),
    metrics=RANKED,
    main_score="map_at_20",
    predictions="ranked",
    shared_text="passage",
    head="reqa",  # that of the task which trains it: the head is used as it was trained
    train_on="reqa_squad",
    local={
        "test": (Local("xquad_r", "lareqa/xquad-r/{language}.json", pool="lareqa/xquad-r/{language}.json"),),
    },
    sizes={"train": 87_599, "test": 1_190},
    test_sizes=test_sizes.LAREQA,
    training=LAREQA_TRAINING,
    licence="CC BY-SA 4.0",
    note="Every question searches the 13,014 sentences of all eleven languages, so all eleven files are needed. Only "
    "local files: the hub's xquad_r has no sentence breaks.",
    url="https://github.com/google-research-datasets/lareqa",
)

WIKIPEDIA_LINKS = Task(
    name="wikipedia_links",
    title="Wikipedia hyperlinks (Mewsli-X training pairs)",
    cites=("botha-2020-entity", "ruder-2021-xtremer"),
    family="ranking",
    role="intermediate",
    languages=("en",),
    metrics=RANKED[:2],
    main_score="map_at_20",
    predictions="ranked",
    head="entities",
    folder="xtreme",  # Mewsli-X's scripts write train pairs and test mentions into one folder
    local={
        "train": (Local("mewslix_pairs", "mewslix/wikipedia_pairs-train.jsonl"),),
        "dev": (Local("mewslix_pairs", "mewslix/wikipedia_pairs-dev.jsonl"),),
    },
    sizes={"train": 167_719, "dev": 14_051},
    training=MEWSLIX_TRAINING,
    licence="CC BY-SA 3.0",
    note="Only local files, as Mewsli-X's release has them.",
    url="https://github.com/google-research/google-research/tree/master/dense_representations_for_entity_retrieval/mel",
)


def _mentions(split: str) -> tuple[Local, ...]:
    """One file for all languages, whose mentions search one candidate set."""
    pool = "mewslix/candidate_set_entities.jsonl"
    return (Local("mewslix_mentions", f"mewslix/wikinews_mentions-{split}.jsonl", pool=pool, rows_name_language=True),)


MEWSLIX = Task(
    name="mewslix",
    title="Mewsli-X",
    cites=("ruder-2021-xtremer", "botha-2020-entity"),
    family="ranking",
    role="target",
    languages=("ar", "de", "en", "es", "fa", "ja", "pl", "ro", "ta", "tr", "uk"),
    metrics=("map_at_20",),
    main_score="map_at_20",
    predictions="best",  # Mewsli-X's layout: a list of candidate ids for each mention
    head="entities",
    train_on="wikipedia_links",
    local={"dev": _mentions("dev"), "test": _mentions("test")},
    test_sizes=test_sizes.MEWSLIX,
    training=MEWSLIX_TRAINING,
    licence="CC BY 2.5",
    note="The test file's entities are blanked: score `evaluation.splits: {mewslix: dev}`, and submit test. One entity "
    "is right for a mention, so mAP@20 is the mean reciprocal rank within 20.",
    url=WIKIPEDIA_LINKS.url,
)

INTERMEDIATE = (REQA_SQUAD, WIKIPEDIA_LINKS)
TARGETS = (LAREQA, MEWSLIX)
