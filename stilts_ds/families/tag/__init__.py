"""A tag for each word: part of speech, named entities, CCG supertags."""

from dataclasses import replace

from stilts_ds.families import standard
from stilts_ds.families.base import Family, HeadVerbs
from stilts_ds.families.tag import noisy, predictions, record, rows, score, treebank
from stilts_ds.tasks.spec import TABLE

HEAD = HeadVerbs(
    module="stilts_ds.families.tag.head",
    targets=rows.targets,
    reads=rows.reads,
    output=predictions.output,
    decode=predictions.decode,
    parameters=rows.head_parameters,
    target_count=rows.target_count,
)

TAG = Family(
    name="tag",
    group="tagging",
    standard={"both": standard.TOKENS, "left": standard.TOKENS},
    head=HEAD,
    left_head=replace(HEAD, targets=rows.left_targets, reads=rows.left_reads),
    readers={**record.READERS, **treebank.READERS, TABLE: record.COLUMNS.read},
    columns=record.COLUMNS,
    converters={**record.CONVERTERS, **treebank.CONVERTERS},
    is_labelled=record.is_labelled,
    gold=record.gold,
    texts=record.texts,
    fields=record.fields,
    encode=rows.encode_tag,
    files=predictions.files,
    metrics=score.metrics,
    labels_in=record.tags_in,
    reader_versions=treebank.READER_VERSIONS,
    attributes=record.attributes,
    noisy=noisy.noisy,
    writers=noisy.WRITERS,
    given_words=True,
)
