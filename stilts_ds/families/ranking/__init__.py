"""Queries that rank candidates: LAReQA's questions and answers, Mewsli-X's mentions and entities, descriptions and
programs."""

from stilts_ds.families.base import Family, HeadVerbs, reads_targets
from stilts_ds.families.files import read_shared_texts
from stilts_ds.families.ranking import mentions, noisy, predictions, programs, record, rows, score

RANKING = Family(
    name="ranking",
    group="retrieval",
    head=HeadVerbs(
        module="stilts_ds.families.ranking.head",
        targets=rows.targets,
        reads=reads_targets(rows.targets),
        output=predictions.output,
        decode=predictions.decode,
        parameters=rows.head_parameters,
        pooled=True,
    ),
    readers={**record.READERS, **mentions.READERS, **programs.READERS},
    converters={**record.CONVERTERS, **programs.CONVERTERS},
    is_labelled=record.is_labelled,
    gold=record.gold,
    texts=record.texts,
    fields=record.fields,
    encode=rows.encode_ranking,
    files=predictions.files,
    metrics=score.metrics,
    rows_of_item=rows.rows_of_item,
    noisy=noisy.noisy,
    writers=noisy.WRITERS,
    work=predictions.work,
    evaluation_rows=predictions.evaluation_rows,
    kept_files=predictions.kept_files,
    centred=predictions.read_centred,
    settings=predictions.settings,
    own_settings=("retrieval_centering",),
    row_settings=("max_query_length",),
    drawing_units=score.drawing_units,
    shared_texts=read_shared_texts,
    writes_shared_texts=True,
)
