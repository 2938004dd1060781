"""One text, or two, and a number: similarity, ratings."""

from stilts_ds.families import standard
from stilts_ds.families.base import Family, HeadVerbs, first_token_targets, reads_last_tokens, reads_targets
from stilts_ds.families.regression import noisy, predictions, record, rows, score

HEAD = HeadVerbs(
    module="stilts_ds.families.regression.head",
    targets=first_token_targets,
    reads=reads_targets(first_token_targets),
    output=predictions.output,
    decode=predictions.decode,
    parameters=rows.head_parameters,
)

REGRESSION = Family(
    name="regression",
    group="regression",
    standard={"both": standard.NUMBER, "left": standard.NUMBER},
    head=HEAD,
    left_head=reads_last_tokens(HEAD),
    readers=record.READERS,
    converters={},
    columns=record.COLUMNS,
    is_labelled=record.is_labelled,
    gold=record.gold,
    texts=record.texts,
    fields=record.fields,
    attributes=record.attributes,
    encode=rows.encode,
    row_settings=("pair_truncation_side",),
    files=predictions.files,
    metrics=score.metrics,
    noisy=noisy.noisy,
)
