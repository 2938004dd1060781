"""Sentences and their translations, found by comparing vectors: BUCC 2018 mines pairs, Tatoeba looks for neighbours."""

from stilts_ds.families.base import Family
from stilts_ds.families.bitext import noisy, predictions, record, rows, score

BITEXT = Family(
    name="bitext",
    group="retrieval",
    head=None,
    readers=record.READERS,
    converters=record.CONVERTERS,
    is_labelled=record.is_labelled,
    gold=record.gold,
    fields=record.fields,
    encode=rows.encode_bitext,
    files=predictions.files,
    metrics=score.metrics,
    take=record.take,
    predict=predictions.predict,
    label_values=predictions.label_values,
    evaluation_rows=predictions.evaluation_rows,
    layer_scores=predictions.layer_scores,
    predicted_splits=predictions.predicted_splits,
    limit=predictions.limit,
    settings=predictions.settings,
    own_settings=predictions.SETTINGS,
    fits_on_scored=predictions.fits_on_scored,
    kept_files=predictions.kept_files,
    searched_rows=predictions.searched_rows,
    to_plain=record.to_plain,
    from_plain=record.from_plain,
    spread=predictions.spread,
    centred=predictions.read_centred,
    noisy=noisy.noisy,
    writers=noisy.WRITERS,
)
