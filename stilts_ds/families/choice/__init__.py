"""A prompt and several candidates, one of them right: HellaSwag, Cosmos QA, CommonsenseQA, COPA."""

from stilts_ds.families import standard
from stilts_ds.families.base import (
    Family,
    HeadVerbs,
    drawn_by_name,
    first_token_targets,
    reads_last_tokens,
    reads_targets,
)
from stilts_ds.families.choice import noisy, predictions, record, rows, score

HEAD = HeadVerbs(
    module="stilts_ds.families.choice.head",
    targets=first_token_targets,
    reads=reads_targets(first_token_targets),
    output=predictions.output,
    decode=predictions.decode,
    parameters=rows.head_parameters,
)

CHOICE = Family(
    name="choice",
    group="multi_choice",
    standard={"both": standard.CHOICES},
    head=HEAD,
    left_head=reads_last_tokens(HEAD),
    readers=record.READERS,
    reader_versions=record.READER_VERSIONS,
    converters=record.CONVERTERS,
    columns=record.COLUMNS,
    is_labelled=record.is_labelled,
    gold=record.gold,
    texts=record.texts,
    fields=record.fields,
    encode=rows.encode_choice,
    files=predictions.files,
    metrics=score.metrics,
    rows_of_item=rows.rows_of_item,
    drawing_units=drawn_by_name,
    attributes=record.attributes,
    noisy=noisy.noisy,
    writers=noisy.WRITERS,
)
