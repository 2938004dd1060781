"""A study's page: what stands above the mark is kept, every tested gain has its interval, and what shows nothing is
said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ranks
from report_runs import QUICK, build_run
from stilts_launcher.show.plan import plan_sheet

from stilts_ds.config import Recipe, load_recipe
from stilts_ds.phase_status import Best, TaskBest
from stilts_ds.plan_file import Plan
from stilts_ds.report.study_page import MARK, command, study_page, write_study_page
from stilts_ds.report.table import Sheet
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import read_json

RECIPE = Recipe.model_validate(
    {
        "name": "small",
        "seeds": [1, 2],
        "model": {"name_or_path": "/somewhere/model"},
        "data": {"xtreme": "/somewhere/xtreme"},
        "intermediate": {"none": [], "mnli": ["mnli"], "qqp": ["qqp"]},
        "targets": ["tatoeba"],
    }
)


def gain(mean_gain: float, low: float, high: float, p: float, base: float = 15.6) -> dict[str, Any]:
    tested = {"mean_gain": mean_gain, "low": low, "high": high, "p_adjusted": p, "significant": p < 0.05}
    return {"score": 50.0, "mean": base + mean_gain, **tested}


def cell(first: float, second: float) -> dict[str, Any]:
    return {
        "split": "test",
        "by_seed": {"1": {"de": first, "sw": first + 2}, "2": {"de": second, "sw": second}},
        "mean_of_present": (first + 1 + second) / 2,
        "examples": {"de": 1000, "sw": 390},
    }


RESULTS: dict[str, Any] = {
    "name": "small",
    "targets": ["tatoeba"],
    "rows": {name: {"tasks": {"tatoeba": cell(first, 20.0)}} for name, first in (("none", 10.0), ("mnli", 30.0))},
    "missing": ["tatoeba: not scored in 34 languages"],
    "statistics": {
        "baseline": "none",
        "resamples": 10_000,
        "tables": {
            "matrix": {
                "none": {"tatoeba": {"score": 15.5, "mean": 15.6}},
                "mnli": {"tatoeba": gain(10.0, 4.0, 16.0, 0.01)},
                "qqp": {"tatoeba": gain(0.5, -3.0, 4.0, 0.8)},
            },
            "script": {"Latn": {"mnli": gain(9.0, 1.0, 2.0, 0.01)}},
            "languages-tatoeba": {"sw": {"none": {"score": 2.0, "mean": 2.1}, "mnli": gain(1.0, 0.0, 2.0, 0.2, 2.1)}},
        },
    },
}


def test_every_tested_gain_stands_with_its_interval_and_its_corrected_p() -> None:
    page = study_page(RESULTS, RECIPE)
    assert "| mnli, tatoeba | 15.6 | 25.6 | +10.0 | +4.0 to +16.0 | 0.010 | yes |" in page
    assert "| qqp, tatoeba | 15.6 | 16.1 | +0.5 | -3.0 to +4.0 | 0.800 | no |" in page
    assert "| sw, mnli | 2.1 | 3.1 | +1.0 | +0.0 to +2.0 | 0.200 | no |" in page
    assert "+9.0" not in page  # scripts say what the table of languages says


def test_what_is_corrected_together_stands_before_the_tables() -> None:
    before = study_page(RESULTS, RECIPE).split("## Conditions")[0].replace("\n", " ")
    assert "An interval is of one comparison and not corrected" in before and "nothing across tables" in before


def test_a_p_value_is_never_0() -> None:
    tables = {**RESULTS["statistics"]["tables"], "matrix": {"mnli": {"tatoeba": gain(9.0, 8.0, 10.0, 0.0004)}}}
    page = study_page({**RESULTS, "statistics": {**RESULTS["statistics"], "tables": tables}}, RECIPE)
    assert "| +8.0 to +10.0 | below 0.001 | yes |" in page


def test_the_chosen_conditions_average_stands_beside_the_baselines_over_the_same_targets() -> None:
    chosen = {"none": {"tatoeba": {"mean": 15.6}, "pawsx": {"mean": 60.0}, "average": {"mean": 37.8}}}
    chosen["best per target"] = {
        "tatoeba": gain(2.0, 1.0, 3.0, 0.01),
        "pawsx": None,
        "average": gain(2.0, 1.0, 3.0, 0.01),
    }
    tables = {**RESULTS["statistics"]["tables"], "matrix": chosen}
    page = study_page({**RESULTS, "statistics": {**RESULTS["statistics"], "tables": tables}}, RECIPE)
    assert "| best per target, average | 15.6 | 17.6 | +2.0 |" in page


def test_what_shows_nothing_is_said_with_the_width_of_its_interval() -> None:
    section = study_page(RESULTS, RECIPE).split("## What was too small to tell")[1]
    assert "| qqp, tatoeba | +0.5 | 3.5 |" in section and "mnli, tatoeba" not in section


def test_where_no_example_differs_no_interval_claims_certainty() -> None:
    nothing = {
        "none": {"tatoeba": {"score": 0.0, "mean": 0.0}},
        "mnli": {"tatoeba": gain(0.0, 0.0, 0.0, 1.0, 0.0)},
    }
    tables = {**RESULTS["statistics"]["tables"], "matrix": nothing}
    page = study_page({**RESULTS, "statistics": {**RESULTS["statistics"], "tables": tables}}, RECIPE)
    assert "| mnli, tatoeba | 0.0 | 0.0 | +0.0 | - | - | no |" in page and "up to 3 / n" in page
    assert "| mnli, tatoeba | +0.0 | - |" in page.split("## What was too small to tell")[1]
    assert "3 / n" not in study_page(RESULTS, RECIPE)


def test_the_curve_over_layers_stands_with_the_layer_that_dev_chose() -> None:
    table = {"none": {"0": {"score": 10.0}, "1": {"score": 40.0}}, "mnli": {"0": {"score": 12.0}, "1": {"score": 9.0}}}
    statistics = {**RESULTS["statistics"], "tables": {**RESULTS["statistics"]["tables"], "layers": table}}
    page = study_page({**RESULTS, "statistics": statistics, "layers": {"chosen": 1}}, RECIPE)
    assert "| none | 10.0 | 40.0 |\n| mnli | 12.0 | 9.0 |" in page and "Layer 1 was chosen on dev" in page


def test_scores_under_noise_stand_with_the_share_that_noise_takes() -> None:
    curve = {"none": {"0": {"score": 80.0}, "5": {"score": 60.0}, "area": {"score": 70.0}}}
    shares = {"none": {"typo-5": {"score": 25.0}, "char-5": {"score": 99.0}}}
    noisy = {"noise-tatoeba-typo": curve, "noise-relative-tatoeba": shares}
    statistics = {**RESULTS["statistics"], "tables": {**RESULTS["statistics"]["tables"], **noisy}}
    page = study_page({**RESULTS, "statistics": statistics}, RECIPE)
    assert "| condition | 0 | 5 | area | typo-5 takes, % |" in page and "| none | 80.0 | 60.0 | 70.0 | 25.0 |" in page


def test_what_the_tasks_taught_stands_beside_guessing() -> None:
    page = study_page({**RESULTS, "dev": {"mnli": {"mnli": {"1": 34.0, "2": 58.0}}}}, RECIPE)
    section = page.split("## What the tasks taught")[1].split("\n## ")[0]
    assert "| mnli | mnli | 34.0, 58.0 | 33.3 |" in section and "500 dev examples" in section
    assert "What the tasks taught" not in study_page(RESULTS, RECIPE)  # results that keep no dev scores


def test_results_keep_the_dev_scores_of_intermediate_phases(tmp_path: Path) -> None:
    run = build_run(tmp_path, intermediate={"none": [], "mnli": ["mnli"]}, targets=("tatoeba",), seeds=(1, 2))
    for phase in Plan.load(run.plan).phases:
        if phase.kind == "intermediate":
            task = TaskBest(score=40.0 + phase.seed, best=70.0, best_step=3)
            best = Best(step=5, of=5, selection=task.score, tasks={"mnli": task})
            run.phase(phase.id).set_status("done", best=best)
    write_report(run, QUICK)
    assert read_json(run.results)["dev"] == {"mnli": {"mnli": {"1": 41.0, "2": 42.0}}}  # of the model that was kept


def test_guessing_stands_below_the_scores() -> None:
    assert "| guessing | near 0 |" in study_page(RESULTS, RECIPE)


def test_one_seed_is_said_to_leave_chance_in_training_out() -> None:
    one = RECIPE.model_copy(update={"seeds": (1,)})
    assert "count examples alone" in study_page(RESULTS, one).replace("\n", " ")
    assert "count examples and seeds" in study_page(RESULTS, RECIPE).replace("\n", " ")


def test_what_is_missing_stands_on_the_page() -> None:
    assert "## What was not run\n\n- tatoeba: not scored in 34 languages\n" in study_page(RESULTS, RECIPE)


def test_scores_are_medians_with_each_seed_in_brackets() -> None:
    assert "| mnli | 25.5 (31.0, 20.0) |" in study_page(RESULTS, RECIPE)


def test_the_command_names_no_folder_of_this_machine() -> None:
    assert command(RECIPE) == "stilts run small model.name_or_path=DIR data.xtreme=DIR"
    # The toy model and its world come with the package.
    assert command(load_recipe("toy_retrieval")) == "stilts run toy_retrieval"


def test_words_above_the_mark_stay_and_what_is_below_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "results" / "small.md"
    at_scale = Sheet("What it would cost", ("kind", "phases"), (("target", "3"),))
    write_study_page(file, RESULTS, RECIPE, at_scale)
    assert file.read_text().startswith(f"# small\n\n{MARK}\n") and "| target | 3 |" in file.read_text()
    file.write_text(f"# Does it help?\n\nYes.\n\n{MARK}\n\nold numbers\n")
    write_study_page(file, RESULTS, RECIPE, None)
    page = file.read_text()
    assert page.startswith(f"# Does it help?\n\nYes.\n\n{MARK}\n") and "old numbers" not in page


def test_the_kept_results_name_no_folder(tmp_path: Path) -> None:
    results = {**RESULTS, "settings": [{"model": "/home/me/models/small"}]}
    write_study_page(tmp_path / "small.md", results, RECIPE, None)
    kept = read_json(tmp_path / "small.json")
    assert kept["settings"] == [{"model": "small"}] and kept["statistics"] == RESULTS["statistics"]


@pytest.mark.parametrize("file", sorted((ranks.ROOT / "docs/results").glob("*.json")), ids=lambda file: file.stem)
def test_a_kept_page_is_what_its_kept_results_give(file: Path) -> None:
    results = read_json(file)
    page = file.with_suffix(".md").read_text("utf-8").split(MARK)[1]
    made = study_page(results, load_recipe(results["name"]))
    # The recipe that ships names no folders; what the study costs at scale is of another recipe's plan.
    sections = made.split("\n## ")[1:]
    assert len(sections) >= 3 and all(f"\n## {section}".rstrip() in page for section in sections)


def test_a_cost_without_a_page_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stilts_launcher.cli import main

    assert main(["report", str(tmp_path), "--at-scale", "question_1"]) == 2
    assert "give --page FILE" in capsys.readouterr().err


def test_what_a_study_costs_at_scale_is_its_plans_phases_and_steps() -> None:
    sheet = plan_sheet("xlmr_xl_zero3")
    plan = load_recipe("xlmr_xl_zero3")
    rows = {kind: (int(phases), steps) for kind, phases, steps in sheet.rows}
    trained = [tasks for tasks in plan.intermediate.values() if tasks]
    assert rows["intermediate"][0] == len(trained) * len(plan.seeds)
    # Its data are not here: the steps are those of the official sizes.
    assert rows["intermediate"][1].startswith("about ")
    assert plan.model.name_or_path in sheet.notes[0]
