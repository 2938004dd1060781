"""Questions whose answer is a span of a context: SQuAD, XQuAD, MLQA, TyDiQA-GoldP."""

from dataclasses import replace

from stilts_ds.families import standard
from stilts_ds.families.base import Condensing, Family, HeadVerbs, reads_targets
from stilts_ds.families.span import checklist, noisy, predictions, record, rows, score
from stilts_ds.tasks.spec import TABLE

HEAD = HeadVerbs(
    module="stilts_ds.families.span.head",
    targets=rows.targets,
    reads=reads_targets(rows.targets),
    output=predictions.output,
    decode=predictions.decode,
    parameters=rows.head_parameters,
    tune=predictions.tune,
    by_window=True,
    condensing=Condensing(predictions.contexts, predictions.condense),
)

SPAN = Family(
    name="span",
    group="qa",
    standard={"both": standard.SPANS, "left": standard.SPANS},
    head=HEAD,
    left_head=replace(HEAD, targets=rows.left_targets, reads=reads_targets(rows.left_targets)),
    readers={**record.READERS, **checklist.READERS, TABLE: record.COLUMNS.read},
    columns=record.COLUMNS,
    converters=record.CONVERTERS,
    is_labelled=record.is_labelled,
    gold=record.gold,
    texts=record.texts,
    fields=record.fields,
    encode=rows.encode_span,
    row_settings=("doc_stride", "window_step", "max_query_length"),
    files=predictions.files,
    metrics=score.metrics,
    drawing_units=score.drawing_units,
    settings=predictions.settings,
    selection_settings=predictions.selection_settings,
    shared_texts=predictions.shared_texts,
    attributes=record.attributes,
    noisy=noisy.noisy,
    writers=noisy.WRITERS,
)
