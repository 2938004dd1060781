"""Running text for language modelling, masked or from left to right: what is learnt are its own tokens."""

from dataclasses import replace

from stilts_ds.families import standard
from stilts_ds.families.base import Family, HeadVerbs, reads_targets
from stilts_ds.families.text import predictions, record, rows, score

MASKED = HeadVerbs(
    module="stilts_ds.families.text.head",
    targets=rows.targets,
    reads=reads_targets(rows.targets),
    output=predictions.output,
    decode=predictions.decode,
    parameters=rows.head_parameters,
    target_count=rows.target_count,
    dev_gold=predictions.dev_gold,
    ties_embeddings=True,
)
NEXT = replace(
    MASKED,
    targets=rows.next_targets,
    reads=reads_targets(rows.next_targets),
    parameters=rows.no_parameters,
    target_count=rows.next_count,
    dev_gold=predictions.next_tokens,
)

TEXT = Family(
    name="text",
    group="",
    standard={"both": standard.MASKED, "left": standard.CAUSAL},
    head=MASKED,
    left_head=NEXT,
    left_task=score.left_task,
    readers=record.READERS,
    converters=record.CONVERTERS,
    is_labelled=record.is_labelled,
    gold=record.gold,
    fields=record.fields,
    encode=rows.encode_text,
    files=predictions.files,
    metrics=score.metrics,
    corpus=record.hub_streams,
    corpus_languages=record.hub_languages,
    labelled=False,
    no_examples=f"every {record.HELD_OUT}th line of a file is its dev split, the others its train split: give files of "
    f"at least {record.HELD_OUT} lines, one passage a line",
    multilingual=True,
)
