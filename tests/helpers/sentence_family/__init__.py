"""A family as CONTRIBUTING.md tells to add one: one text and its label. The same folder works below
stilts_ds/families, which is why its files name each other as neighbours."""

from stilts_ds.families.base import Family, HeadVerbs, reads_targets

from . import predictions, record, rows, score

SENTENCE = Family(
    name="sentence",
    group="classification",
    head=HeadVerbs(
        module=f"{__name__}.head",
        targets=rows.targets,
        reads=reads_targets(rows.targets),
        output=predictions.output,
        decode=predictions.decode,
        parameters=rows.head_parameters,
    ),
    readers={"label_tsv": record.read_label_tsv},
    converters={},
    is_labelled=record.is_labelled,
    gold=record.gold,
    fields=record.fields,
    encode=rows.encode,
    files=predictions.files,
    metrics=score.metrics,
)
