"""Programs written from their descriptions: behind a prompt that is read both ways by an encoder, from left to right by
a decoder."""

from dataclasses import replace

from stilts_ds.families import standard
from stilts_ds.families.base import Family, HeadVerbs, reads_targets
from stilts_ds.families.generate import likelihood, noisy, predictions, record, rows, score
from stilts_ds.families.text.rows import head_parameters, no_parameters

PREFIX = HeadVerbs(
    module="stilts_ds.families.generate.head",
    targets=rows.targets,
    reads=reads_targets(rows.targets),
    output=predictions.output,
    decode=predictions.decode,
    parameters=head_parameters,
    target_count=rows.target_count,
    dev_gold=predictions.dev_gold,
    ties_embeddings=True,
)

GENERATE = Family(
    name="generate",
    group="code",
    standard={"left": standard.CAUSAL},
    head=PREFIX,
    left_head=replace(PREFIX, parameters=no_parameters),
    readers=record.READERS,
    converters={},
    is_labelled=record.is_labelled,
    gold=record.gold,
    texts=record.texts,
    attributes=record.attributes,
    fields=record.fields,
    encode=rows.encode_exercises,
    files=predictions.files,
    metrics=score.metrics,
    noisy=noisy.noisy,
    work=predictions.work,
    evaluation_rows=predictions.evaluation_rows,
    kept_files=likelihood.kept_files,
    settings=predictions.settings,
    unscored=predictions.unscored,
    own_settings=predictions.SETTINGS,
    drawing_units=score.drawing_units,
    packed_only=True,
    executed=True,
)
