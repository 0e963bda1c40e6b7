"""What the plan hands to a script of download/, clean/ or report/ is just the settings that it takes, of every study."""

from pathlib import Path

import pytest

from workflow_scripts.clean import settings as clean_settings
from workflow_scripts.common.settings import settings_of
from workflow_scripts.download import fetch, prepare_model, simulate_dialogues, simulate_rows
from workflow_scripts.plan import cleaning, costs, index, judging, sources, words
from workflow_scripts.plan import report as tables
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.report import agreement, figures, page, provenance, results, training
from workflow_scripts.report import costs as report_costs
from workflow_scripts.report import judging as report_judging
from workflow_scripts.study.reading import extended, read_yaml
from workflow_scripts.study.study import Study

ROOT = Path(__file__).resolve().parents[1]
STUDIES = [ROOT / "config.yaml", ROOT / "tests/every_key.yaml", *sorted(ROOT.glob("studies/*.yaml"))]
SIMULATORS = {"simulate_rows": simulate_rows, "simulate_dialogues": simulate_dialogues}


@pytest.fixture(params=STUDIES, ids=lambda path: path.stem)
def plan(request):
    return plan_of(Study.model_validate(extended(read_yaml(request.param))))


def test_sources_and_models_are_handed_every_key_that_their_scripts_take(plan):
    for source in sources.fetched(plan):
        settings_of(fetch.Settings)(sources.source_settings(plan, source))
    for source in sources.simulated(plan):
        simulator = SIMULATORS[sources.simulator(plan, source)]
        settings_of(simulator.Settings)(sources.simulation_settings(plan, source))
    for model in sources.models(plan):
        settings_of(prepare_model.Settings)(sources.model_settings(plan, model))


def test_datasets_and_reply_pairs_are_handed_every_key_that_cleaning_takes(plan):
    for dataset in plan.study.datasets:
        settings_of(clean_settings.Settings)(cleaning.dataset_settings(plan, dataset))
    for benchmark in cleaning.paired(plan):
        settings_of(clean_settings.ReplyPairs)(cleaning.paired_settings(plan, benchmark))


def test_the_report_is_handed_every_key_that_its_scripts_take(plan):
    settings_of(results.Settings)(tables.table_settings(plan))
    settings_of(page.Settings)(tables.page_settings(plan, ["config.yaml"]))
    settings_of(figures.Cells)(tables.bars_settings(plan))
    settings_of(figures.Curves)(words.as_json({"curves": tables.curves(plan)}))
    settings_of(training.Settings)(words.as_json({"runs": tables.trainings(plan)}))
    settings_of(provenance.Settings)(index.provenance_settings(plan))
    settings_of(agreement.Settings)(judging.agreement_settings(plan))
    settings_of(report_costs.Settings)(costs.cost_settings(plan))
    settings_of(report_judging.Settings)(words.as_json({"plans": judging.judging_plans(plan)}))
