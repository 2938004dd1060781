"""MultiCheckList (Ruder et al. 2021, arXiv 2104.07412, section 5): one literal. It is in no benchmark's average."""

from __future__ import annotations

from stilts_ds.tasks.spec import Local, Task
from stilts_ds.tasks.targets import XQUAD, words

EXAMPLES = 6_400  # 200 cases of six tests
# The columns of the table of templates. It has Hausa (ha) and lacks Romanian, against what is said beside it.
LANGUAGES = words(
    "en af my et fi fr he it jv es sw th uk qu ur eu ar bg bn nl zh de ka hi ht id ru ja ta kk fa ko pl hu pt ms az el "
    "gu ha lt ml mr pa tl te tr vi wo yo"
)

MULTICHECKLIST = Task(
    name="multichecklist",
    title="MultiCheckList",
    cites=("ruder-2021-xtremer", "ribeiro-2020-checklist"),
    family="span",
    role="target",
    languages=LANGUAGES,
    metrics=("error_rate", "error_comparison", "error_intensifiers", "error_properties", "error_profession",
             "error_animal", "error_animal_2"),
    main_score="error_rate",
    answer_rules="multichecklist",  # stricter than SQuAD's: case counts, and what is inside an answer
    train_on="squad_v1",
    head="span",
    training=XQUAD.training,
    sizes={**XQUAD.sizes, "test": EXAMPLES},
    in_averages=False,  # an error rate beside scores of which more is better would spoil a mean
    local={"test": (Local("checklist_json", "multichecklist/test-{language}.json"),)},
    test_sizes=dict.fromkeys(LANGUAGES, EXAMPLES),
    licence="Apache-2.0 (the templates)",
    note="Error rates by case: lower is better. They stand in a table of their own and in no average. "
    "`stilts checklist` makes the files from the table of templates.",
    url="https://github.com/google-research/xtreme/tree/master/multichecklist",
)  # fmt: skip

TASKS = (MULTICHECKLIST,)
