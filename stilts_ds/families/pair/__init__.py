"""Two texts and the relation between them: NLI, paraphrase, programs and what they are to do."""

from stilts_ds.families import standard
from stilts_ds.families.base import (
    Family,
    HeadVerbs,
    drawn_by_name,
    first_token_targets,
    reads_last_tokens,
    reads_targets,
)
from stilts_ds.families.files import read_shared_texts
from stilts_ds.families.pair import attempts, noisy, predictions, programs, record, rows, score

HEAD = HeadVerbs(
    module="stilts_ds.families.pair.head",
    targets=first_token_targets,
    reads=reads_targets(first_token_targets),
    output=predictions.output,
    decode=predictions.decode,
    parameters=rows.head_parameters,
)

PAIR = Family(
    name="pair",
    group="classification",
    standard={"both": standard.SEQUENCE, "left": standard.SEQUENCE},
    head=HEAD,
    left_head=reads_last_tokens(HEAD),
    readers={**record.READERS, **programs.READERS, **attempts.READERS},
    converters={**record.CONVERTERS, **programs.CONVERTERS},
    columns=record.COLUMNS,
    is_labelled=record.is_labelled,
    gold=attempts.gold,
    texts=record.texts,
    fields=record.fields,
    encode=rows.encode_pair,
    row_settings=("pair_truncation_side",),
    files=predictions.files,
    metrics=score.metrics,
    drawing_units=drawn_by_name,
    shared_texts=read_shared_texts,
    writes_shared_texts=True,
    cross=record.cross,
    attributes=record.attributes,
    noisy=noisy.noisy,
    writers=noisy.WRITERS,
)
