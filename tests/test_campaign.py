"""The fault campaign, short: a few kills of one study. The long one is `make campaign`."""

from __future__ import annotations

import random
from pathlib import Path

import campaign
import campaign_table
import fire
from fire import Fight, Setting


def test_a_study_that_is_killed_again_and_again_ends_at_the_numbers_of_a_quiet_one(tmp_path: Path) -> None:
    record = campaign.Record(tmp_path / "kills.jsonl")
    dice = random.Random(5)
    shots = campaign.Campaign(tmp_path, dice, record, damage_share=0.3, stages=[2])
    assert shots.study(1, Setting(2, 1), 5) == 5
    kills = [line for line in record.lines if "kind" in line]
    assert len(kills) == 5 and not campaign_table.is_bad(record.lines), record.lines
    assert "5 kills in 1 studies: 0 hangs, 0 studies with a difference" in campaign_table.table(record.lines)


def test_a_difference_of_one_bit_is_seen(tmp_path: Path) -> None:
    """What the comparison looks at, on files written by hand."""
    ours, quiet = Fight(tmp_path / "a", Setting(0, 1)), Fight(tmp_path / "b", Setting(0, 1))
    for fight in (ours, quiet):
        folder = fight.run / "phases" / "target-x"
        for name, text in (("metrics.jsonl", '{"step": 1, "train/loss": 0.5, "train/tokens_per_second": 9}\n'),
                           ("heads.safetensors", "weights"), ("predictions/xnli/test-qaa.tsv", "yes\n"),
                           ("results/xnli.json", '{"mean": 33.0, "provenance": "here"}')):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    assert fire.differences(fire.left_by(ours.run), fire.left_by(quiet.run)) == []
    folder = ours.run / "phases" / "target-x"
    (folder / "heads.safetensors").write_text("weighty")
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.25}\n')
    (folder / "predictions/xnli/test-qaa.tsv").unlink()
    assert fire.differences(fire.left_by(ours.run), fire.left_by(quiet.run)) == [
        "phases/target-x/heads.safetensors", "phases/target-x/predictions/xnli/test-qaa.tsv", "target-x/curve"]
