"""Pictures, colours, curves, model cards and pushing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import stilts
from huggingface_hub import ModelCard
from report_runs import build_run

from stilts_ds.display import duration
from stilts_ds.errors import UserError
from stilts_ds.report import card as cards
from stilts_ds.report.colour import colours, contrast
from stilts_ds.report.curves import thinned, ticks
from stilts_ds.report.load import load_run
from stilts_ds.report.provenance import cost_sheet
from stilts_ds.report.push import push, uploads
from stilts_ds.report.stats import ComparisonSettings, Difference
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import PhaseDir, RunDir


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = build_run(tmp_path_factory.mktemp("run") / "study", examples=40)
    write_report(made, ComparisonSettings(resamples=500))
    return made


def phase_of(run: RunDir, kind: str, condition: str, train: str = "") -> PhaseDir:
    [found] = [
        p.id
        for p in load_run(run).phases.values()
        if p.kind == kind and p.condition == condition and train in ("", *p.train)
    ]
    return run.phase(found)


# --- colours and curves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", np.linspace(-10, 10, 81).tolist())
def test_text_on_every_colour_can_be_read(value: float) -> None:
    found = colours(Difference(value, significant=True), 10.0)
    assert found is not None
    back, ink = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in found)
    assert contrast(ink, back) >= 4.5


def test_colour_is_kept_for_significant_differences() -> None:
    assert colours(Difference(9.0, significant=False), 10.0) is None and colours(Difference(9.0), 10.0) is None
    gain, loss = (colours(Difference(v, significant=True), 10.0) for v in (5.0, -5.0))
    assert gain != loss


def test_curves_are_thinned_to_means() -> None:
    points = tuple((step, float(step)) for step in range(1, 1001))
    found = thinned(points, 100)
    assert len(found) == 100 and found[0] == (10, 5.5) and found[-1] == (1000, 995.5)
    assert thinned((), 10) == () and thinned(points[:3], 10) == points[:3]


@pytest.mark.parametrize(("high", "expected"), [
    (50, [0, 20, 40]), (1.2, [0, 0.5, 1]), (400_000, [0, 100_000, 200_000, 300_000, 400_000]),
    (0.03, [0, 0.01, 0.02, 0.03]), (0, [0]),
])  # fmt: skip
def test_ticks_are_round(high: float, expected: list[float]) -> None:
    assert ticks(0, high) == pytest.approx(expected)


# --- cost ------------------------------------------------------------------------------------------------------------


def test_cost_counts_hours_only_where_every_phase_says_them(run: RunDir) -> None:
    data = load_run(run)
    total = cost_sheet(data).rows[-1]
    phases = len(data.phases)
    assert total[:3] == ("all", str(phases), str(phases))
    assert total[4] == duration(120 * phases) and total[5] == f"{phases * 240 / 3600:.2f}"
    assert "GPU-hours" in cost_sheet(data).columns  # the metrics hold a device's memory
    first, status = next(iter(data.statuses.items()))
    data.statuses[first] = status.model_copy(update={"world_size": None})
    assert cost_sheet(data).rows[-1][4:6] == ("-", "-")


def test_energy_stands_in_the_cost_where_every_phase_tells_it(run: RunDir) -> None:
    data = load_run(run)
    assert cost_sheet(data).columns[-1] == "peak memory (GiB)"
    for phase_id, status in data.statuses.items():
        data.statuses[phase_id] = status.model_copy(update={"joules": 1.8e6})
    assert cost_sheet(data).columns[-1] == "energy of GPUs (kWh)"
    assert cost_sheet(data).rows[-1][-1] == f"{len(data.phases) * 0.5:.2f}"
    first, status = next(iter(data.statuses.items()))
    data.statuses[first] = status.model_copy(update={"joules": None})
    assert cost_sheet(data).rows[-1][-1] == "-"


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.4, 60, 3599, 3600, 90_061)] == [
        "0 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 01 min"]  # fmt: skip


# --- PNG -------------------------------------------------------------------------------------------------------------


def test_the_picture_is_the_same_twice(run: RunDir) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an optional extra")
    first, second = (
        write_report(run, ComparisonSettings(resamples=500), figures=["png"]) and (run.root / "report.png").read_bytes()
        for _ in range(2)
    )
    assert first == second and first.startswith(b"\x89PNG")


def test_without_matplotlib_the_picture_is_refused_with_a_remedy(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="needs matplotlib; pip install"):
        write_report(run, ComparisonSettings(resamples=500), figures=["png"])


# --- cards and pushing -----------------------------------------------------------------------------------------------


def test_every_encoder_has_a_card_with_its_lineage_and_scores(run: RunDir) -> None:
    data = load_run(run)
    encoders = [p for p in data.phases.values() if p.train]
    assert len(encoders) == len(list(run.root.glob("phases/*/README.md")))
    text = (phase_of(run, "target", "mnli", "mnli").root / "README.md").read_text(encoding="utf-8")
    [first] = [p for p in encoders if p.kind == "intermediate" and p.condition == "mnli"]
    assert text.index("`facebook/tiny`") < text.index(first.id) < text.index("target training on `mnli`")
    score = next(r.main["sw"] for r in data.results["mnli"]["xnli"])
    assert f"| xnli | Swahili (sw) | {score:.1f} |" in text and "English (en*)" in text
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["base_model"] == "facebook/tiny" and metadata["language"] == ["de", "en", "sw", "zh"]
    assert "licence: mixed OANC" in text


def test_a_card_s_header_is_what_the_hub_s_own_types_read(run: RunDir) -> None:
    text = (phase_of(run, "target", "mnli", "mnli").root / "README.md").read_text(encoding="utf-8")
    values = ModelCard(text).data
    assert (values.license, values.library_name, values.pipeline_tag) == (
        "unknown",
        "transformers",
        "feature-extraction",
    )
    assert values.datasets == ["nyu-mll/glue"]  # the repository on the hub that has MNLI
    assert values.metrics == ["accuracy"] and values.model_name.endswith("mnli/seed1/xnli")
    results = {entry.dataset_config: entry for entry in values.eval_results}
    score = next(r.main["sw"] for r in load_run(run).results["mnli"]["xnli"])
    assert results["sw"].metric_value == round(score, 4) and results["sw"].metric_type == "accuracy"
    assert (results["sw"].task_type, results["sw"].dataset_split) == ("text-classification", "test")
    for entry in values.eval_results:
        entry.__post_init__()  # raises where a score's fields do not belong together


def test_an_intermediate_encoder_shows_what_came_of_it(run: RunDir) -> None:
    text = (phase_of(run, "intermediate", "mnli").root / "README.md").read_text(encoding="utf-8")
    assert "| tatoeba | Javanese (jv) |" in text and "| xquad | Modern" not in text and "| xquad | Greek (el) |" in text


def test_a_card_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    made = build_run(tmp_path / "run", targets=["xnli"], model="/secret/place/my-model", examples=20)
    write_report(made, ComparisonSettings(resamples=200))
    for path in made.root.glob("phases/*/README.md"):
        text = path.read_text(encoding="utf-8")
        assert "/secret" not in text and str(tmp_path) not in text and "`my-model`" in text
        assert "base_model" not in yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(("name", "expected"), [
    ("FacebookAI/xlm-roberta-large", True), ("./model", False), ("/a/b", False), ("toy", False), ("~/m", False),
    ("a/b/c", False), ("../m", False), ("owner/", False),
])  # fmt: skip
def test_hub_ids_are_told_from_folders(name: str, expected: bool) -> None:
    assert cards.is_hub_id(name) is expected


def test_a_dry_run_lists_what_would_be_uploaded(run: RunDir) -> None:
    """In a fresh process that cannot reach anything: no network is needed."""
    # The phase by the name that people read: its id stands behind it.
    said = stilts(
        "push",
        run.root / "mnli/seed1/xnli",
        "--repo",
        "someone/xlmr-squad",
        "--dry-run",
        cwd=run.root,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_OFFLINE="1",
    )
    assert "Would go to someone/xlmr-squad:" in said
    assert [line.split()[0] for line in said.strip().split("\n")[1:]] == [
        "config.json",
        "heads.safetensors",
        "heads.json",
        "README.md",
        "total",
    ]
    assert "stilts.json" not in said  # names folders of the machine


def test_a_phase_that_the_run_has_not_is_named_with_the_nearest(run: RunDir) -> None:
    said = stilts("push", run.root / "mnli/seed1/xnly", "--repo", "me/x", "--dry-run", cwd=run.root, status=2)
    assert "has no phase 'mnli/seed1/xnly'; did you mean mnli/seed1/xnli" in said


def test_an_upload_is_one_commit_of_the_listed_files(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str]]] = []

    class Hub:
        def create_repo(self, repo: str, private: bool, exist_ok: bool) -> str:
            calls.append((f"make {repo} private={private} exist_ok={exist_ok}", []))
            return f"https://hub/{repo}"

        def create_commit(self, repo: str, operations: list, commit_message: str) -> None:
            calls.append((repo, [operation.path_in_repo for operation in operations]))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    folder = phase_of(run, "target", "mnli", "mnli")
    said = push(folder, "me/model", private=True)
    assert calls == [
        ("make me/model private=True exist_ok=True", []),
        ("me/model", [upload.target for upload in uploads(folder, "me/model")]),
    ]
    assert said.startswith("https://hub/me/model now holds:")


def test_an_upload_without_a_network_ends_with_a_remedy(run: RunDir) -> None:
    folder = phase_of(run, "target", "mnli", "mnli")
    said = stilts(
        "push",
        folder.root,
        "--repo",
        "me/model",
        cwd=run.root,
        status=2,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_TOKEN="hf_none",
    )
    assert "did not take the upload to me/model" in said and "Traceback" not in said


def test_the_uploaded_card_names_the_repository(run: RunDir) -> None:
    [card] = [u for u in uploads(phase_of(run, "intermediate", "mnli"), "me/model") if u.target == "README.md"]
    assert card.content is not None
    assert b'from_pretrained("me/model")' in card.content and b"YOUR-NAME" not in card.content


@pytest.mark.parametrize(
    ("repo", "message"), [("model", "needs an owner"), ("a/b/c", "no repository name"), ("a/--x", "no repository name")]
)
def test_a_bad_repository_name_is_refused(run: RunDir, repo: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        push(phase_of(run, "intermediate", "mnli"), repo, dry_run=True)


def test_a_folder_without_encoder_or_card_is_refused(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no encoder/"):
        push(PhaseDir(tmp_path), "me/model", dry_run=True)
    (tmp_path / "encoder").mkdir()
    with pytest.raises(UserError, match=r"has no README.md; `stilts report"):
        push(PhaseDir(tmp_path), "me/model", dry_run=True)


def test_the_command_takes_its_options(run: RunDir) -> None:
    said = stilts("report", run.root, "--resamples", "300", "--level", "0.1", cwd=run.root)
    assert "at the 10% level" in said and "report.html" in said
    assert "300 resamples" in run.report.read_text(encoding="utf-8")
    said = stilts("report", run.root, "--level", "5", cwd=run.root, status=2)
    assert "between 0 and 1" in said
