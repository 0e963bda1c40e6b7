"""Before the first job, and in one list, the check says what would fail after hours, teach nothing, or mislead."""

import copy
import hashlib
import json
import os
import random
import re
from pathlib import Path

import pytest
import yaml

from plumbline import cli
from tests.studies import many, put
from tests.workflow import ROOT, snakemake
from workflow_scripts.score import pair_perplexity, reply_loss, reward_scores, text_overlap, tutor
from workflow_scripts.study import check, harness_tasks, machine
from workflow_scripts.study.checking import check_study, examine
from workflow_scripts.study.datasets import RANKED, SCHEMAS
from workflow_scripts.study.machine import seen
from workflow_scripts.study.models import Template
from workflow_scripts.study.reading import extended, read_yaml
from workflow_scripts.study.templates import all_templates, bundled_templates

JUDGE = {
    "kind": "openai",
    "model": "a-judge",
    "base_url": "https://judge.example/v1",
    "api_key_env": "UNSET_KEY",
}


@pytest.fixture
def study() -> dict:
    return read_yaml(ROOT / "tests/tutoring.yaml")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("UNSET_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def mistakes_of(config: dict) -> list[str]:
    return examine(config, [seen]).wrong


def doubts_of(config: dict) -> list[str]:
    found = examine(config, [seen])
    assert found.wrong == []
    return found.doubts


def own_rows(folder, count: int, words: int = 12) -> str:
    """Write a data file of one's own; return its path."""
    path = folder / "mine.jsonl"
    said = " ".join(["word"] * words)
    rows = [
        {
            "messages": [
                {"role": "user", "content": said},
                {"role": "assistant", "content": f"{said} {number}"},
            ]
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def with_own_data(study: dict, path: str, quotas: dict | None = None, **run: object) -> dict:
    """Return the default study with a run on a data file of one's own."""
    pinned = hashlib.sha256(Path(path).read_bytes()).hexdigest() if os.path.exists(path) else None
    source = {"files": {"mine.jsonl": pinned}, "places": [{"file": {"files": {"mine.jsonl": path}}}]}
    split = {"quotas": quotas or {"sft": 80, "validation": 10}}
    dataset = {"source": "mine", "files": ["mine.jsonl"], "schema": "messages", "split": split}
    own = {"method": "sft", "parent": "tiny", "dataset": "mine", "learning_rate": 1.0e-4, "pack_tokens": 512}
    own |= {"max_tokens": 512} | run
    return many(study, sources__mine=source, datasets__mine=dataset, runs__own=own)


# --- fine, or not -----------------------------------------------------------------------------------------------------


def test_the_default_study_is_fine(study):
    assert doubts_of(study) == []


def test_fine_is_said_of_a_study_without_warnings_alone(tmp_path, study, capsys):
    path = tmp_path / "doubtful.yaml"
    source = {"files": {"x": None}, "places": [{"https": {"files": {"x": "https://example.org/x"}}}]}
    path.write_text(yaml.safe_dump(put(study, "sources.x", source)))
    assert check.report(path)[0]
    with pytest.raises(SystemExit) as ended:
        check.main([str(path)])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"{path}: no mistakes; 1 warning: 5 policies" in said
    assert "  warning: sources.x.files.x: has neither sha256 nor git object id" in said
    assert ": fine" not in said


def test_a_run_is_told_of_mistakes_before_snakemake_reads_the_file(tmp_path, capsys):
    deep = tmp_path / "deep.yaml"
    deep.write_text("study: " + "[" * 3000)
    first, *others = cli.results(cli.Asked(ROOT, "--odd.yaml", True))
    assert first[:2] == ["workflow_scripts.study.check", "--quiet"] and first[-2:] == ["--", "--odd.yaml"]
    assert [command[0].rpartition(".")[2] for command in others] == ["orphans", "finished"]
    with pytest.raises(SystemExit) as ended:
        check.main(["--quiet", str(ROOT / "tests/tutoring.yaml"), str(deep)])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    assert said.err.startswith(f"{deep}: not YAML: nested more than 40 deep (line 1")


def test_placeholders_are_warnings_by_path(study):
    places = [
        {"hf": {"repo": "OWNER/rows", "revision": "0" * 40}},
        {"https": {"files": {"rows.jsonl": "https://example.org/main/rows.jsonl"}}},
    ]
    config = many(
        study, sources__rows={"files": {"rows.jsonl": None, "more.jsonl": "0" * 64}, "places": places}
    )
    config = many(config, judges__gpt={**JUDGE, "model": "chat-latest"})
    said = doubts_of(config)
    for path in (
        "sources.rows.places[0].hf.revision: to be filled in",
        "sources.rows.places[0].hf.repo: to be filled in before it can run: 'OWNER/rows'",
        "sources.rows.files.more.jsonl: to be filled in",
        "sources.rows.files.rows.jsonl: has neither sha256 nor git object id",
        "sources.rows.places[1].https.files.rows.jsonl: 'https://example.org/main/rows.jsonl' moves",
        "judges.gpt.model: 'chat-latest' moves",
    ):
        assert sum(line.startswith(path) for line in said) == 1, (path, said)
    assert len(said) == 6


# --- all at once ------------------------------------------------------------------------------------------------------


def test_one_run_of_the_check_names_the_mistakes_of_every_kind_at_once(tmp_path, study):
    """A first study with much wrong: names, numbers, a template, a file, a judge's key, bars, a task, data, steps."""
    config = with_own_data(study, str(tmp_path / "none.jsonl"), batch_size="8", validation="dev")
    config = many(
        config,
        templates__mine={"start": "", "strip": True, "user": {"before": "U", "after": "\n"}},
        models__tiny__template="mine",
        judges__gpt=JUDGE,
        benchmarks__mt_bench__judge="gpt",
        benchmarks__alpaca_eval__judge="gtp",
        benchmarks__alpaca_eval__max_new_tokens=512,
        benchmarks__biology_quiz__tasks=["biology_quizz"],
        benchmarks__tutor__split="tst",
        pairs__mistakes__dataset="mine",
        pairs__mistakes__split="sft",
        report__bars=[{"benchmark": "tutor", "subset": "reply", "metric": "acuracy"}],
        runs__kto__bta=0.2,
    )
    found = examine(config, [seen])
    wanted = {
        "runs.own.batch_size": "must be a whole number",
        "runs.own.validation": "no split of dataset 'mine' is called 'dev'",
        "runs.kto.bta": "unknown key; did you mean 'beta'?",
        "templates.mine.system": "is required",
        "templates.mine.assistant": "is required",
        "sources.mine.places[0].file.files.mine.jsonl": "no such file",
        "benchmarks.alpaca_eval.judge": "no judge is called 'gtp'; did you mean 'gpt'?",
        "benchmarks.alpaca_eval.max_new_tokens": "leaves a prompt no room in the context of 512",
        "benchmarks.biology_quiz.tasks[0]": "lm_eval has no task, group or tag called 'biology_quizz'; "
        "did you mean 'biology_quiz'?",
        "benchmarks.tutor.split": "no split of dataset 'tutor' is called 'tst'",
        "pairs.mistakes.dataset": "compares the labels of structured replies (schema tutorbot or class_dialogues)",
        "report.bars[0].metric": "no metric of 'tutor' is called 'acuracy'; did you mean 'accuracy'?",
    }
    for path, text in wanted.items():
        assert sum(line.startswith(f"{path}: ") and text in line for line in found.wrong) == 1, (
            path,
            found.wrong,
        )
    assert len(found.wrong) == len(wanted)
    assert any(line.startswith("judges.gpt.api_key_env: UNSET_KEY is not set") for line in found.doubts)


FIRST = {
    "no data": (
        "sources__mine__places",
        [{"file": {"files": {"mine.jsonl": "data/none.jsonl"}}}],
        "no such file",
    ),
    "splits": ("runs__own__split", "train", "no split of dataset 'mine' is called 'train'"),
    "a model without context": ("models__tiny__context", "DROP", "models.tiny: needs context beside source"),
    "a run without method": ("runs__sft__method", "DROP", "runs.sft: needs method"),
    "an unknown schema": ("datasets__mine__schema", "mesages", "did you mean 'messages'?"),
    "no source": ("models__tiny__source", "DROP", "models.tiny: comes from one of source, path, hf, preset"),
}


@pytest.mark.parametrize(("path", "value", "text"), FIRST.values(), ids=list(FIRST))
def test_a_mistake_of_one_kind_hides_none_of_another(tmp_path, study, path, value, text):
    config = with_own_data(study, own_rows(tmp_path, 100))
    config = many(config, report__bars=[{"benchmark": "tutro", "subset": "reply", "metric": "parsed"}])
    config = many(config, **{path: value})
    lines = mistakes_of(config)
    assert any(text in line for line in lines), lines
    assert any("report.bars[0].benchmark: no benchmark is called 'tutro'" in line for line in lines), lines
    assert len(lines) == 2, lines


def test_where_a_whole_section_is_missing_nobody_is_blamed_for_naming_its_parts(study):
    (line,) = mistakes_of(put(study, "models", ["tiny"]))
    assert line.startswith("models: must be a mapping")
    config = {"benchmark" if key == "benchmarks" else key: value for key, value in study.items()}
    (line,) = mistakes_of(config)
    assert line.startswith("benchmark: unknown key; did you mean 'benchmarks'?")


def test_nobody_is_blamed_for_naming_a_part_that_has_a_mistake_of_its_own(study):
    config = many(study, runs__sft__learning_rate="fast", reward_models__tutor_rm__learning_rate="DROP")
    assert [line.split(": ")[0] for line in mistakes_of(config)] == [
        "reward_models.tutor_rm.learning_rate",
        "runs.sft.learning_rate",
    ]


@pytest.mark.parametrize(
    ("section", "part", "said"),
    [
        ("datasets", {}, ["datasets.bare"]),
        ("datasets", {"mixture": {"tutor": -1}}, ["mixture.tutor"]),
        ("pairs", {"from": "samples"}, ["dataset", "rank"]),
        ("reward_models", {}, ["learning_rate", "parent", "dataset", "split"]),
    ],
)
def test_a_part_that_lacks_several_keys_is_all_that_is_wrong(study, section, part, said):
    lines = mistakes_of(put(study, f"{section}.bare", part))
    assert all(line.startswith((f"{section}.bare.", f"{section}.bare: ")) for line in lines), lines
    found = [line.split(": ")[0].removeprefix(f"{section}.bare.") for line in lines]
    assert found == said, lines


# --- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [512, 600])
@pytest.mark.parametrize(
    "part", ["benchmarks.mt_bench", "benchmarks.humaneval", "benchmarks.tutor", "pairs.mistakes"]
)
def test_answers_that_fill_the_context_are_refused_before_anything_is_trained(study, part, asked):
    (line,) = mistakes_of(put(study, f"{part}.max_new_tokens", asked))
    assert line.startswith(f"{part}.max_new_tokens: {asked} leaves a prompt no room in the context of 512")


def test_the_context_of_every_model_is_looked_at(study):
    config = put(study, "models.short", study["models"]["tiny"] | {"context": 64})
    lines = mistakes_of(config)
    assert {line.split(".")[1] for line in lines if "models.short.context" in line} == {
        "mt_bench",
        "alpaca_eval",
        "tutor",
    }
    assert not any(line.startswith("pairs.") for line in lines)  # no run of the short model's asks for pairs


def test_values_and_online_answers_need_room_too():
    config = extended(read_yaml(ROOT / "tests/tutoring_offline_rl.yaml"))
    (line,) = mistakes_of(put(config, "values.expected.max_new_tokens", 512))
    assert line.startswith("values.expected.max_new_tokens: 512 leaves a prompt no room")
    ppo = {
        "method": "ppo",
        "parent": "sft",
        "annotation": "tutor",
        "split": "preference",
        "learning_rate": 1.0e-5,
    }
    config = put(config, "runs.ppo", ppo | {"max_new_tokens": 512, "batch_size": 8})
    assert any(line.startswith("runs.ppo.max_new_tokens: 512 leaves") for line in mistakes_of(config))


def test_little_room_for_prompts_is_a_warning(study):
    (line,) = doubts_of(put(study, "benchmarks.mt_bench.max_new_tokens", 480))
    assert line.startswith("benchmarks.mt_bench.max_new_tokens: 480 leaves a prompt 32 tokens")


def test_rows_longer_than_the_context_are_a_warning_and_blocks_of_text_that_long_a_mistake(study):
    (line,) = doubts_of(many(study, runs__sft__max_tokens=513, runs__sft__pack_tokens=1024))
    assert line.startswith("runs.sft.max_tokens: 513 is more than the context of 512 (models.tiny.context)")
    assert (
        doubts_of(put(study, "runs.sft.pack_tokens", 4096)) == []
    )  # positions begin anew with each row of a pack
    (line,) = doubts_of(put(study, "reward_models.tutor_rm.max_tokens", 600))
    assert line.startswith("reward_models.tutor_rm.max_tokens: 600 is more")
    (line,) = doubts_of(put(study, "pairs.mistakes.max_tokens", 600))
    assert line.startswith("pairs.mistakes.max_tokens: 600 is more")
    blocks = many(study, runs__sft__objective="lm", runs__sft__max_tokens=513, runs__sft__pack_tokens=None)
    assert any(line.startswith("runs.sft.max_tokens: 513 is more") for line in mistakes_of(blocks))


# --- keys that exclude each other -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seeds", [1, 1], "seeds: each once, not [1, 1]"),
        (
            "benchmarks.humaneval.k",
            [1, 10],
            "benchmarks.humaneval.k: pass@10 needs as many samples, and there are 1",
        ),
        ("benchmarks.tutor.samples", 2, "benchmarks.tutor.samples: the tutor is scored on one answer"),
        (
            "benchmarks.mt_bench.min_new_tokens",
            65,
            "benchmarks.mt_bench.min_new_tokens: 65 is more than max_new_tokens 64",
        ),
        (
            "judges.gpt",
            JUDGE | {"base_url": "judge.example/v1"},
            "judges.gpt.base_url: must begin with http://",
        ),
        (
            "datasets.tutor.split.quotas.test",
            0,
            "benchmarks.tutor.split: datasets.tutor.split.quotas.test is 0",
        ),
        ("datasets.tutor.split.quotas.sft", 0, "runs.sft.split: datasets.tutor.split.quotas.sft is 0"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(study, path, value, message):
    assert any(line.startswith(message) for line in mistakes_of(put(study, path, value)))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{question} {answer}", "has {question}; there are {prompt}, {reference} and {answer}"),
        ("{prompt}", "has no {answer}"),
        ("{answer} {", "write {{ and }} for braces"),
    ],
)
def test_a_judges_prompt_that_cannot_be_filled_in_is_refused(study, prompt, message):
    scored = {
        "kind": "judge_score",
        "dataset": "tutor",
        "split": "test",
        "judge": "gpt",
        "max_new_tokens": 64,
    }
    config = many(study, judges__gpt=JUDGE, benchmarks__scored=scored | {"prompt": prompt})
    assert any(
        line.startswith("benchmarks.scored.prompt: ") and message in line for line in mistakes_of(config)
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{answer_a} {answer_b} {answer}", "has {answer}; there are {prompt}, {answer_a} and {answer_b}"),
        ("{prompt} {answer_a}", "has no {answer_b}"),
        ("{answer_a} {answer_b} }", "write {{ and }} for braces"),
    ],
)
def test_a_prompt_for_comparisons_that_cannot_be_filled_in_is_refused(study, prompt, message):
    compared = {
        "kind": "preference",
        "dataset": "tutor",
        "split": "test",
        "judge": "gpt",
        "max_new_tokens": 64,
    }
    config = many(study, judges__gpt=JUDGE, benchmarks__compared=compared | {"prompt": prompt})
    assert any(
        line.startswith("benchmarks.compared.prompt: ") and message in line for line in mistakes_of(config)
    )
    fine = compared | {"prompt": "{answer_a} {answer_b}", "verdict": "Safer"}
    assert mistakes_of(many(study, judges__gpt=JUDGE, benchmarks__compared=fine)) == []
    alone = many(study, judges__gpt=JUDGE, benchmarks__compared=compared | {"verdict": "Safer"})
    assert any("verdict is what a prompt of your own asks for" in line for line in mistakes_of(alone))
    lost = many(study, judges__gpt=JUDGE, benchmarks__compared=compared | {"skip_file": "no/such.json"})
    assert any(line.startswith("benchmarks.compared.skip_file: no such file") for line in mistakes_of(lost))


def test_online_batches_that_do_not_divide_are_refused(study):
    online = {
        "parent": "sft",
        "annotation": "tutor",
        "split": "preference",
        "learning_rate": 1.0e-5,
        "max_prompt_tokens": 300,
    }
    config = many(study, runs__ppo=online | {"method": "ppo", "batch_size": 3})
    config = many(config, runs__rloo=online | {"method": "rloo", "batch_size": 6})
    lines = mistakes_of(config)
    assert "runs.ppo.rollout_batch: 16 is no multiple of batch_size 3" in lines
    assert "runs.rloo.batch_size: 6 is no multiple of num_generations 4" in lines


def test_weights_in_four_bits_cannot_be_handed_to_vllm(study):
    ppo = {"method": "ppo", "parent": "sft", "annotation": "tutor", "split": "preference", "batch_size": 4}
    ppo |= {"learning_rate": 1.0e-5, "engine": "vllm", "lora": {"rank": 4, "alpha": 8}}
    said = "runs.ppo.engine: vLLM is handed whole weights, and quantise holds them in four bits"
    assert said not in mistakes_of(many(study, runs__ppo=ppo))
    assert said in mistakes_of(many(study, runs__ppo=ppo | {"quantise": "nf4"}))


# --- templates --------------------------------------------------------------------------------------------------------


def test_the_templates_that_come_with_plumbline_have_the_form_a_study_may_give():
    for template in bundled_templates().values():
        assert Template.model_validate(template).model_dump(exclude_unset=True) == template


def test_a_template_of_ones_own_is_handed_on_as_it_is_written(study):
    own = bundled_templates()["chatml"]
    assert all_templates(check_study(put(study, "templates.mine", own)))["mine"] == own


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("assistant", "DROP", "templates.mine.assistant: is required"),
        ("assistant.before", "DROP", "templates.mine.assistant.before: is required"),
        ("user", "U: ", "templates.mine.user: must be a mapping (key: value), not 'U: '"),
        ("assistent", {}, "templates.mine.assistent: unknown key; did you mean 'assistant'?"),
        ("strip", "yes", "templates.mine.strip: must be true or false, not 'yes'"),
        ("system.after", None, "templates.mine.system.after: has no value"),
        ("assistant.eos", "</s>", "templates.mine.assistant.eos: unknown key"),
    ],
)
def test_a_template_without_its_parts_is_refused_with_the_path_to_each(study, path, value, message):
    config = put(put(study, "templates.mine", bundled_templates()["chatml"]), f"templates.mine.{path}", value)
    (line,) = mistakes_of(config)
    assert line.startswith(message)


# --- runs that learn nothing ------------------------------------------------------------------------------------------


def test_a_run_whose_rows_make_one_step_is_told_to_be_trained_without_its_warm_up(tmp_path, study):
    config = with_own_data(study, own_rows(tmp_path, 100), batch_size=80)
    assert mistakes_of(config) == []
    (line,) = doubts_of(config)
    assert line.startswith("runs.own: at most 80 rows make one step, which is trained without the warm-up")
    for key, value in (("warmup", 0.0), ("schedule", "constant"), ("epochs", 2.0), ("batch_size", 40)):
        assert doubts_of(put(config, f"runs.own.{key}", value)) == []
    (line,) = doubts_of(many(config, runs__own__max_steps=1, runs__own__batch_size=1))
    assert line.startswith("runs.own: max_steps is 1, which is trained without the warm-up")


def test_a_hundred_short_rows_that_make_a_handful_of_packs_are_a_warning(tmp_path, study):
    config = with_own_data(study, own_rows(tmp_path, 100), batch_size=64, batch_of="packs")
    (line,) = doubts_of(config)
    assert re.match(r"runs\.own: 80 rows make about \d+ packs, one step, which is trained without the", line)
    assert doubts_of(put(config, "runs.own.batch_of", "rows")) == []  # two steps of 64 rows
    assert doubts_of(put(config, "runs.own.pack_tokens", None)) == []
    assert doubts_of(put(config, "runs.own.batch_size", 2)) == []


def test_a_file_with_fewer_rows_than_a_step_takes_is_counted(tmp_path, study):
    config = with_own_data(study, own_rows(tmp_path, 6), quotas={"sft": 8000, "validation": 10}, batch_size=8)
    (line,) = doubts_of(config)
    assert line.startswith("runs.own: 6 rows make one step, which is trained without the warm-up")


def test_a_first_look_warms_up_nothing_and_so_learns(study):
    assert doubts_of(put(study, "limit", 4)) == []


# --- data -------------------------------------------------------------------------------------------------------------


def test_pairs_that_cannot_come_from_the_data_are_refused(tmp_path, study):
    config = with_own_data(study, own_rows(tmp_path, 100), quotas={"sft": 60, "test": 20, "validation": 10})
    config = many(config, pairs__mistakes__dataset="mine", pairs__mistakes__split="sft")
    (line,) = mistakes_of(config)
    assert line.startswith(
        "pairs.mistakes.dataset: compares the labels of structured replies (schema tutorbot or class_dialogues)"
    )
    assert "has rows of schema messages" in line
    ranked = {"annotation": "tutor", "split": "preference"}
    (line,) = mistakes_of(put(study, "pairs.ranked", ranked))
    assert line.startswith("pairs.ranked.annotation: ranks several answers to a prompt")
    labelled = put(put(study, "pairs.ranked", ranked), "datasets.tutor.schema", "labelled")
    assert any(
        line.startswith("pairs.ranked.by: answers labelled good or bad") for line in mistakes_of(labelled)
    )
    assert not any("pairs.ranked" in line for line in mistakes_of(put(labelled, "pairs.ranked.by", "reward")))
    (line,) = mistakes_of(put(study, "annotations.tutor.rewards.given", {"given": "rm"}))
    assert line.startswith(
        "annotations.tutor.rewards.given.given: rows of schema tutorbot come with no rewards"
    )


def test_schemas_of_ranked_rows_are_schemas():
    assert set(RANKED) < set(SCHEMAS.__args__)


def test_a_benchmark_on_a_training_split_is_a_warning_unless_it_is_to_show_training(study):
    (line,) = doubts_of(put(study, "benchmarks.tutor.split", "sft"))
    assert line.startswith(
        "benchmarks.tutor.split: runs.sft learns from tutor/sft, the very rows that are asked"
    )
    loss = {"kind": "loss", "dataset": "tutor", "split": "sft", "max_tokens": 512}
    assert doubts_of(put(study, "benchmarks.loss", loss)) == []
    (line,) = doubts_of(put(study, "benchmarks.tutor.split", "reward"))
    assert line.startswith("benchmarks.tutor.split: reward_models.tutor_rm learns from tutor/reward")


def test_two_datasets_of_one_file_that_nothing_keeps_apart_are_a_warning(study):
    config = put(study, "datasets.asked", study["datasets"]["tutor"] | {"split": {"quotas": {"test": 5}}})
    config = put(config, "benchmarks.tutor.dataset", "asked")
    assert doubts_of(config) == []  # the questions of `asked` are taken out of what is learned
    config["allow_overlap"] = True
    lines = doubts_of(config)
    assert any(
        line.startswith(
            "benchmarks.tutor.split: runs.sft learns from tutor/sft, made of the same file as asked/test"
        )
        for line in lines
    )
    assert doubts_of(put(config, "datasets.tutor.exclude_groups_of", ["asked/test"])) == []


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bar", "message"),
    [
        (
            ("tutor", "reply", "valid_jsn"),
            "metric: no metric of 'tutor' is called 'valid_jsn'; did you mean 'valid_json'?",
        ),
        (
            ("tutor", "actions", "accuracy"),
            "subset: no subset of 'tutor' is called 'actions'; did you mean 'action'?",
        ),
        (
            ("tutor", "reply", "accuracy"),
            "metric: no metric of 'tutor' in subset 'reply' is called 'accuracy'",
        ),
        (
            ("humaneval", "all", "pass@10"),
            "metric: no metric of 'humaneval' is called 'pass@10'; did you mean 'pass@1'?",
        ),
        (
            ("alpaca_eval", "overall", "lc_win_rate"),
            "metric: no metric of 'alpaca_eval' is called 'lc_win_rate'",
        ),
        (("mt_bench", "overall", "win_rate"), "metric: no metric of 'mt_bench' is called 'win_rate'"),
        (
            ("pair_perplexity", "action3", "perplexity"),
            "subset: no subset of 'pair_perplexity' is called 'action3'",
        ),
    ],
)
def test_bars_and_published_values_of_cells_that_there_cannot_be_are_refused(study, bar, message):
    entry = dict(zip(("benchmark", "subset", "metric"), bar, strict=True))
    (line,) = mistakes_of(put(study, "report.bars", [entry]))
    assert line.startswith(f"report.bars[0].{message}")
    value = entry | {"policy": "tiny", "value": 1.0, "source": "a paper"}
    (line,) = mistakes_of(put(study, "report.published", [value]))
    assert line.startswith(f"report.published[0].{message}")


def test_a_cell_of_a_task_that_the_harness_is_not_asked_is_in_doubt_and_of_a_group_it_is_not(study):
    study = put(study, "benchmarks.biology_quiz.tasks", ["mmlu", "piqa"])
    cell = {"benchmark": "biology_quiz", "metric": "acc", "policy": "tiny", "value": 1.0, "source": "a card"}
    for subset in ("piqa", "mmlu", "mmlu_anatomy"):
        assert not [
            line
            for line in doubts_of(put(study, "report.published", [cell | {"subset": subset}]))
            if "task of" in line
        ]
    (line,) = [
        line
        for line in doubts_of(put(study, "report.published", [cell | {"subset": "hellaswag"}]))
        if "task of" in line
    ]
    assert line.startswith("report.published[0].subset: no task of 'biology_quiz' is called 'hellaswag'")


@pytest.mark.parametrize(
    ("benchmark", "subset", "metric"),
    [
        ("suite", "all", "mean of groups"),
        ("tutor", "action", "macro_f1"),
        ("pair_perplexity", "action1+4", "perplexity"),
    ],
)
def test_a_published_number_beside_one_that_is_taken_otherwise_is_a_warning(study, benchmark, subset, metric):
    entry = {"policy": "tiny", "benchmark": benchmark, "subset": subset, "metric": metric, "value": 0.5}
    entries = [entry | {"source": "a paper"}, entry | {"source": "a paper", "policy": "tiny.sft"}]
    suite = {"kind": "lm_eval", "suite": "instruction_modelling"}
    config = many(study, benchmarks__suite=suite, report__published=entries)
    said = [line for line in doubts_of(config) if "report.published" in line]
    assert said == [
        f"report.published[0]: is what the authors' program gave, which takes {metric!r} otherwise than the paper: "
        f"set benchmarks.{benchmark}.fidelity: code to compare with it"
    ]
    config = put(config, f"benchmarks.{benchmark}.fidelity", "code")
    assert not [line for line in doubts_of(config) if "report.published" in line]
    other = {"policy": "tiny", "benchmark": "tutor", "subset": "action", "metric": "accuracy", "value": 0.5}
    fine = many(study, report__published=[other | {"source": "a paper"}])
    assert not [line for line in doubts_of(fine) if "report.published" in line]


def test_the_published_perplexities_need_the_published_texts_or_a_warning_says_so(study):
    code = put(study, "benchmarks.pair_perplexity.fidelity", "code")
    (line,) = doubts_of(code)
    assert line.startswith("benchmarks.pair_perplexity.fidelity: code pools as the published evaluation does")
    own = {"raw_rows": True, "template": "tutor_perplexity", "system_prompt": "DROP", "drop_fields": "DROP"}
    for key, value in own.items():
        code = put(code, f"benchmarks.pair_perplexity.{key}", value)
    assert doubts_of(code) == []
    (line,) = doubts_of(put(code, "benchmarks.pair_perplexity.system_prompt", "Tutor."))
    assert line.startswith(
        "benchmarks.pair_perplexity.system_prompt: is not read: raw rows stay as they stand"
    )
    (line,) = mistakes_of(put(code, "benchmarks.pair_perplexity.template", "tutr"))
    assert line.startswith("benchmarks.pair_perplexity.template: no template is called 'tutr'")


def test_bars_of_cells_that_there_can_be_are_taken(study):
    good = [
        ("mt_bench", "Writing", "rating"),
        ("biology_quiz", "biology_quiz", "acc"),
        ("humaneval", "all", "pass@1"),
    ]
    bars = [dict(zip(("benchmark", "subset", "metric"), bar, strict=True)) for bar in good]
    assert doubts_of(put(study, "report.bars", bars)) == []


REPLY = (
    '{"Thoughts of Tutorbot": "t", "Evaluation of Student Response": "a", "Action Based on Evaluation": "1", '
    '"Subproblem State": "w", "Subproblem": "s", "Tutorbot": "hello"}'
)


def made_by_the_scorers() -> dict[str, list[dict]]:
    """Return the cells that scorers make of a row or two."""
    meta = {"turn": 1, "solutions": [None, "answer B"]}
    prompt = {"id": "a", "group": "g", "meta": meta, "reference": [REPLY], "followups": []}
    answer = {"a": {"text": REPLY, "finish_reason": "stop"}}
    rewarded = {
        "id": "a",
        "group": "g",
        "reference": "some words",
        "rewards": {"valid": 1.0, "final_reward": 1.0},
    }
    likely = [
        {"id": str(n), "group": "g", "action": action, "nll": 1.0, "tokens": 4}
        for n, action in enumerate("1245")
    ]
    turn = text_overlap.Turn("a", "g", ["an answer"], [2], "the reference", "the prompt")
    names = ["coverage", "density", "distinct", "length"]
    return {
        "tutor": tutor.score([prompt], answer, {"fidelity": "paper", "skip_first_turn": False}),
        "pair_perplexity": pair_perplexity.score(likely, "paper", "here"),
        "loss": reply_loss.score([{"id": "a", "group": "g", "nll": 1.0, "tokens": 2}], "here"),
        "rewarded": reward_scores.score([rewarded], "here"),
        "words": text_overlap.score([turn], {"metrics": names, "wordnet": None}),
    }


def test_the_check_knows_the_cells_that_the_scorers_make(study):
    annotation = put(study, "annotations.tutor.rewards", {"valid": {"rule": "json_validity"}})
    words = {"kind": "text_overlap", "dataset": "tutor", "split": "test", "max_new_tokens": 64}
    config = many(
        annotation,
        benchmarks__loss={"kind": "loss", "dataset": "tutor", "split": "test", "max_tokens": 512},
        benchmarks__rewarded={
            "kind": "rewards",
            "annotation": "tutor",
            "split": "test",
            "max_new_tokens": 64,
        },
        benchmarks__words=words | {"metrics": ["coverage", "density", "distinct", "length"]},
    )
    checked = check_study(config)
    for name, cells in made_by_the_scorers().items():
        known = checked.benchmarks[name].cells(checked).named
        assert {(cell["subset"], cell["metric"]) for cell in cells} == set(known), name


# --- a look at the machine --------------------------------------------------------------------------------------------


def test_files_of_ones_own_that_are_not_there_or_not_what_was_pinned_are_named(tmp_path, study):
    path = own_rows(tmp_path, 100)
    config = with_own_data(study, path)
    assert doubts_of(config) == []
    (line,) = mistakes_of(put(config, "sources.mine.files", {"mine.jsonl": "1" * 63 + "2"}))
    assert line.startswith("sources.mine.places[0].file.files.mine.jsonl: ")
    assert "not what the source pins" in line
    places = "sources.mine.places"
    (line,) = mistakes_of(put(config, places, [{"file": {"files": {"mine.jsonl": "data/mine.jsonl"}}}]))
    assert "no such file 'data/mine.jsonl' (relative to the repository)" in line
    (line,) = mistakes_of(put(config, places, [{"file": {"files": {"mine.jsonl": str(tmp_path)}}}]))
    assert line.endswith("is no file")
    lines = mistakes_of(put(config, places, [{"file": {"files": {"mien.jsonl": path}}}]))
    assert any(
        line.startswith("sources.mine.files.mine.jsonl: no place has it; did you mean 'mien.jsonl'?")
        for line in lines
    )
    elsewhere = [
        {"file": {"files": {"mine.jsonl": "data/mine.jsonl"}}},
        {"hf": {"repo": "me/rows", "revision": "1" * 40, "repo_type": "dataset"}},
    ]
    (line,) = doubts_of(put(config, places, elsewhere))
    assert line.startswith(
        "sources.mine.places[0].file.files.mine.jsonl: no such file 'data/mine.jsonl': the next place"
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("benchmarks.mt_bench.questions", "data/none"),
        ("benchmarks.mt_bench.references", "data/none"),
        ("benchmarks.alpaca_eval.prompts", "data/none"),
        ("benchmarks.alpaca_eval.references", "data/none"),
        ("benchmarks.alpaca_eval.gamed", "data/none"),
        ("benchmarks.biology_quiz.include_path", "data/none"),
        ("benchmarks.words.wordnet", "data/none"),
        ("sources.dialogues.simulate.problems", "data/none"),
    ],
)
def test_every_file_that_a_study_names_is_looked_for(study, path, value):
    words = {
        "kind": "text_overlap",
        "dataset": "tutor",
        "split": "test",
        "metrics": ["meteor"],
        "max_new_tokens": 64,
    }
    config = put(put(study, "benchmarks.words", words), path, value)
    assert any(line.startswith(f"{path}: no such file 'data/none'") for line in mistakes_of(config))


def with_own_model(config: dict, folder: Path, sizes: dict) -> dict:
    """Return a study whose model has files of this machine with such a config.json."""
    files = {"config.json": json.dumps(sizes), "model.safetensors": "weights"}
    for name, text in files.items():
        (folder / name).write_text(text)
    places = [{"file": {"files": {name: str(folder / name) for name in files}}}]
    source = {"files": dict.fromkeys(files), "places": places}
    model = {"source": "own", "template": "tutor", "context": 512}
    return many(config, sources__own=source, models__tiny=model)


def test_a_context_beyond_a_models_positions_is_a_warning(study, tmp_path):
    for sizes in (
        {"max_position_embeddings": 256},
        {"n_positions": 256},
        {"text_config": {"n_positions": 256}},
    ):
        config = with_own_model(study, tmp_path, sizes)
        (line,) = [line for line in doubts_of(config) if line.startswith("models.")]
        assert line.startswith("models.tiny.context: 512 is more than the 256 positions of its config.json")
    for sizes in ({"max_position_embeddings": 512}, {}, [1], "x", {"text_config": [1]}):
        assert not any(
            line.startswith("models.") for line in doubts_of(with_own_model(study, tmp_path, sizes))
        )


def test_heads_that_do_not_divide_a_models_width_are_refused(tmp_path):
    study = extended(read_yaml(ROOT / "tests/tutoring_offline_rl.yaml"))
    (line,) = mistakes_of(with_own_model(study, tmp_path, {"hidden_size": 100}))
    assert line == "values.expected.heads: 8 do not divide the width 100 of models.tiny"
    assert mistakes_of(with_own_model(study, tmp_path, {"n_embd": 96})) == []
    unused = many(study, runs={"sft": study["runs"]["sft"]}, report__bars=[], report__baseline=None)
    assert mistakes_of(with_own_model(unused, tmp_path, {"hidden_size": 100})) == []


def test_a_folder_that_is_not_wordnet_is_refused(study):
    words = {
        "kind": "text_overlap",
        "dataset": "tutor",
        "split": "test",
        "metrics": ["meteor"],
        "max_new_tokens": 64,
    }
    (line,) = mistakes_of(put(study, "benchmarks.words", words | {"wordnet": "data/bundled"}))
    assert line.startswith("benchmarks.words.wordnet: 'data/bundled' lacks index.noun, data.noun")
    watch = {"dataset": "tutor", "split": "validation", "metric": "meteor", "wordnet": "data/bundled"}
    (line,) = mistakes_of(put(study, "runs.sft.watch", watch))
    assert line.startswith("runs.sft.watch.wordnet: 'data/bundled' lacks index.noun, data.noun")


def test_a_recording_without_a_reply_is_refused(study, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    judge = {"kind": "openai", "model": "some-model", "recorded": str(tmp_path / "none.jsonl")}
    (line,) = mistakes_of(put(study, "judges.replayed", judge))
    assert line.startswith("judges.replayed.recorded: ") and "holds no recorded reply" in line


def test_an_unset_key_of_a_judge_that_is_asked_is_named_with_its_variable(study, monkeypatch):
    config = many(study, judges__gpt=JUDGE)
    assert doubts_of(config) == []  # nobody asks it
    config = many(config, benchmarks__mt_bench__judge="gpt")
    (line,) = doubts_of(config)
    assert line.startswith("judges.gpt.api_key_env: UNSET_KEY is not set: export it")
    (line,) = doubts_of(many(config, judges__gpt__base_url="http://127.0.0.1:8000/v1"))
    assert "export UNSET_KEY=any-word" in line
    monkeypatch.setenv("UNSET_KEY", "a-key")
    assert doubts_of(config) == []


def test_an_unknown_annotator_is_named_with_the_nearest(study):
    config = many(study, judges__gpt=JUDGE, benchmarks__alpaca_eval__judge="gpt")
    (line,) = mistakes_of(many(config, benchmarks__alpaca_eval__annotator="alpaca_eval_gpt5"))
    assert line.startswith(
        "benchmarks.alpaca_eval.annotator: the alpaca_eval package has none called 'alpaca_eval_gpt5'; did you mean"
    )
    assert not mistakes_of(many(config, benchmarks__alpaca_eval__annotator="alpaca_eval_gpt4"))


@pytest.mark.parametrize("task", ["hellaswag", "mmlu", "ai2_arc", "blimp_*", "biology_quiz"])
def test_a_task_group_tag_or_pattern_of_the_harness_is_known_without_loading_it(study, task):
    assert doubts_of(put(study, "benchmarks.biology_quiz.tasks", [task])) == []


@pytest.mark.parametrize(
    ("task", "near"), [("helaswag", "hellaswag"), ("biology_quizz", "biology_quiz"), ("mmlu_physic_*", "")]
)
def test_an_unknown_task_of_the_harness_is_refused_with_the_nearest(study, task, near):
    config = put(study, "benchmarks.biology_quiz.tasks", ["biology_quiz", {"task": task}])
    (line,) = mistakes_of(config)
    assert line.startswith(
        f"benchmarks.biology_quiz.tasks[1]: lm_eval has no task, group or tag called '{task}'"
    )
    assert near in line


def test_all_that_the_harness_calls_a_task_is_known_by_its_files_texts():
    from lm_eval.tasks import TaskManager

    known = harness_tasks.harness_names()
    every = random.Random(1).sample(sorted(TaskManager().all_tasks), 14_000)
    assert known.keys() >= set(every)


@pytest.mark.parametrize(
    "asked",
    ["piqa", "piq", "PIQA", "mmlu_*", "mmlu_?aw", "mmlu_[lm]aw", "mmlu_[law]", "a*b", "*", "", "[", "piqa*"],
)
def test_a_name_or_a_pattern_stands_for_what_the_harness_takes_it_for(asked):
    from lm_eval.utils import pattern_match

    names = ["piqa", "mmlu_law", "mmlu_maw", "mmlu_[law]", "a*b", "["]
    known = {name: [] for name in names}
    assert sorted(harness_tasks.called(asked, known)) == sorted(pattern_match([asked], names))


def test_a_task_is_not_looked_up_where_there_is_no_harness(study, monkeypatch):
    monkeypatch.setattr(harness_tasks, "harness_names", lambda: None)
    (line,) = doubts_of(put(study, "benchmarks.biology_quiz.tasks", ["hellaswag"]))
    assert "is not looked up: the harness (lm_eval) is not installed here" in line


# --- a run does the same check ----------------------------------------------------------------------------------------


def test_a_run_makes_the_same_check_and_warns_once_at_its_start(repository, tmp_path):
    config = many(
        read_yaml(ROOT / "tests/tutoring.yaml"), judges__gpt=JUDGE, benchmarks__mt_bench__judge="gpt"
    )
    (repository / "doubtful.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(repository, "--dry-run", "--quiet", "all", "--configfile", "doubtful.yaml")
    assert done.stderr.count("warning: judges.gpt.api_key_env: UNSET_KEY is not set") == 1
    wrong = put(config, "benchmarks.biology_quiz.tasks", ["biology_quizz"])
    (repository / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    done = snakemake(repository, "--dry-run", "--configfile", "wrong.yaml", check=False)
    assert done.returncode == 1
    assert "benchmarks.biology_quiz.tasks[0]: lm_eval has no task" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_run_stops_before_its_first_job_where_a_judge_would_then_be_asked_without_a_key(repository):
    config = many(
        copy.deepcopy(read_yaml(ROOT / "tests/tutoring.yaml")),
        judges__gpt=JUDGE,
        benchmarks__mt_bench__judge="gpt",
    )
    (repository / "keyless.yaml").write_text(yaml.safe_dump(config | {"study": "keyless"}))
    done = snakemake(repository, "--configfile", "keyless.yaml", check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "UNSET_KEY is not set: export it" in said.partition("Building DAG")[2]
    assert not list((repository / "results/keyless").rglob("*.json"))
    assert not (repository / "data/sources").exists()


# --- what else would stop a run, or make a wrong number ---------------------------------------------------------------


@pytest.fixture
def every_key(monkeypatch) -> dict:
    monkeypatch.setenv("SOME_KEY", "a key")
    config = read_yaml(ROOT / "tests/every_key.yaml")
    config["benchmarks"]["overlap"]["wordnet"] = config["runs"]["dpo"]["watch"]["wordnet"] = None
    del config["policies"], config["adopt"]
    del config["datasets"]["found"]  # what its hub says stands in the lock of tests/
    return config


def doubts_beside(config: dict) -> list[str]:
    """Return the doubts but for those of sources without sha256, rows that a model writes later, and no vLLM here."""
    known = ("a model writes these", "vLLM is not set up here")
    return [
        line
        for line in doubts_of(config)
        if not line.startswith("sources.") and not any(part in line for part in known)
    ]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("report.confidence", 1.0, "report.confidence: must be less than 1"),
        ("report.confidence", 0.0, "report.confidence: must be greater than 0"),
        ("report.draws", 1, "report.draws: must be greater than or equal to 20"),
        ("report.draws", 10**9, "report.draws: must be less than or equal to 1000000"),
        ("runs.sft.adam_beta1", 1.0, "runs.sft.adam_beta1: must be less than 1"),
        ("runs.sft.adam_beta2", 1.0, "runs.sft.adam_beta2: must be less than 1"),
        ("runs.sft.adam_epsilon", 0.0, "runs.sft.adam_epsilon: must be greater than 0"),
        ("runs.sft.dropout", 1.0, "runs.sft.dropout: must be less than 1"),
        ("runs.dpo.label_smoothing", 0.5, "runs.dpo.label_smoothing: must be less than 0.5"),
        ("runs.dpo.beta", 0.0, "runs.dpo.beta: must be greater than 0, not 0: that takes the policy out"),
        ("runs.dpo.beta", -0.1, "runs.dpo.beta: must be greater than 0"),
        ("runs.simpo.beta", 0, "runs.simpo.beta: must be greater than 0"),
        ("runs.sft.lora.dropout", 1.0, "runs.sft.lora.dropout: must be less than 1"),
        ("runs.sft.lora.targets", ["q_proj", "lm_head"], "runs.sft.lora.targets: an adapter on lm_head"),
        ("runs.sft.lora.targets", [], "runs.sft.lora.targets: names no layer"),
        ("runs.ppo.top_p", 0.0, "runs.ppo.top_p: must be greater than 0"),
        ("benchmarks.labels.top_p", 0.0, "benchmarks.labels.top_p: must be greater than 0"),
        ("pairs.mistakes.validation_share", 1.0, "pairs.mistakes.validation_share: must be less than 1"),
        ("reward_models.rm.validation_share", 1.0, "reward_models.rm.validation_share: must be less than 1"),
        ("values.worth.held_out", 1.0, "values.worth.held_out: must be less than 1"),
        ("engine.gpu_memory_share", 0.0, "engine.gpu_memory_share: must be greater than 0"),
        (
            "training_resources",
            {"gpu": 3, "nodes": 2},
            "training_resources: gpu: 3 cannot be shared out evenly",
        ),
        ("sources.weights.places[2].pypi.files.w.bytes", [5, 2], "bytes: must be [first, one past the last]"),
        ("models.tiny.check.texts", [], "models.tiny.check.texts: must have at least 1"),
        ("datasets.tutored.reject_phrases", [""], "datasets.tutored.reject_phrases[0]: must not be empty"),
        (
            "judges.asked.api_key_env",
            "A B=$(x)",
            "judges.asked.api_key_env: must be the name of an environment",
        ),
        ("judges.asked.model", "", "judges.asked.model: must not be empty"),
        ("judges.asked.base_url", "http://[::1", "judges.asked.base_url: is no address"),
        ("judges.asked.base_url", "http://x:99999999/v1", "judges.asked.base_url: is no address"),
        ("judges.asked.base_url", "http://a host/v1", "judges.asked.base_url: is no address"),
        ("annotations.judged.rewards", {}, "annotations.judged.rewards: must have at least 1"),
        (
            "annotations.judged.rewards.final_reward",
            {"rule": "length"},
            "annotations.judged.rewards: final_reward is the name of their weighted sum",
        ),
        (
            "annotations.judged.rewards.own.label",
            1,
            "annotations.judged.rewards.own: a reward model of this study",
        ),
        (
            "annotations.judged.rewards.other",
            {"source": "whole", "head": "offensive", "text": "event"},
            "annotations.judged.rewards.other: head: offensive reads one text",
        ),
        (
            "annotations.judged.rewards.other.text",
            "knowledge",
            "annotations.judged.rewards.other.text: rows of schema alpaca_preferences bring no knowledge",
        ),
        (
            "runs.chat.dataset",
            "ranked",
            "runs.chat.dataset: rows of schema alpaca_preferences are prompts with ranked",
        ),
        (
            "models.tiny.format",
            "hf",
            "models.tiny.source: a model of format hf is config.json and *.safetensors",
        ),
        ("datasets.chatted.files", ["first rows.jsonl"] * 2, "datasets.chatted.files: each once"),
        ("annotations.judged.splits", ["train", "train"], "annotations.judged.splits: each once"),
        ("benchmarks.code.k", [1, 1], "benchmarks.code.k: each once"),
        ("benchmarks.code.temperatures", [0.5, 0.5], "benchmarks.code.temperatures: each once"),
        ("benchmarks.tasks.shots", [1, 1], "benchmarks.tasks.shots: each once"),
        ("benchmarks.overlap.metrics", ["bleu", "bleu"], "benchmarks.overlap.metrics: each once"),
        ("report.agreement", [["loose", "loose"]], "report.agreement[0]: 'loose' with itself"),
        ("datasets.chatted.split.by_file.sft", [], "datasets.chatted.split.by_file.sft: names no file"),
        (
            "datasets.chatted.split.by_file",
            {"sft": ["first rows.jsonl"], "validation": ["first rows.jsonl"]},
            "datasets.chatted.split.by_file: 'second.jsonl' is in no split",
        ),
        (
            "datasets.chatted.split.by_file.validation",
            ["second.jsonl", "first rows.jsonl"],
            "datasets.chatted.split.by_file: 'first rows.jsonl' stands there twice",
        ),
        (
            "datasets.tutored.exclude_groups_of",
            ["chatted/sft"],
            "datasets.tutored.exclude_groups_of: a circle (tutored → chatted → tutored)",
        ),
        ("benchmarks.harness.tasks", ["sciq", "sciq"], "benchmarks.harness.tasks[1]: sciq is asked for by"),
        (
            "benchmarks.harness.tasks",
            ["arc_easy"],
            "benchmarks.harness.tasks[0]: arc_easy is asked for by benchmarks.h",
        ),
        (
            "benchmarks.local.tasks",
            [{"task": "humaneval", "num_fewshot": 3}],
            "benchmarks.local.tasks[0].num_fewshot: the file of humaneval fixes 0",
        ),
        (
            "benchmarks.harness.tasks",
            [{"task": "sciq", "metrics": ["exact_match"]}],
            "benchmarks.harness.tasks[0].metrics: sciq has no 'exact_match'; it has acc, acc_norm",
        ),
        ("study", "s" * 101, "study: must have at most 100 characters, not 101"),
        (
            "sources.whole.places",
            [{"file": {"files": {"a": "b" * 300}}}],
            "has a name of 300 bytes; at most 200",
        ),
    ],
)
def test_what_would_stop_a_run_is_refused_before_its_first_job(every_key, path, value, message):
    assert mistakes_of(every_key) == []
    if path.startswith("sources.weights.places"):
        every_key["sources"]["weights"]["places"][2]["pypi"]["files"]["w.bin"] = {"bytes": value}
    else:
        every_key = put(every_key, path, value)
    found = mistakes_of(every_key)
    assert any(message in line for line in found), found


def test_a_published_value_that_stands_twice_is_refused_before_the_table_would(every_key):
    every_key["report"]["published"] *= 2
    assert mistakes_of(every_key) == [
        "report.published[2]: tiny.sft labels state accuracy stands there already",
        "report.published[3].values.tiny.sft[0]: tiny.sft labels evaluation accuracy stands there already",
    ]


def test_a_budget_needs_both_prices_though_one_may_be_nothing(every_key):
    judge = every_key["judges"]["asked"]
    judge |= {"budget_usd": 1.0, "usd_per_million_prompt_tokens": 1.0}
    assert any("budget_usd needs" in line for line in mistakes_of(every_key))
    judge["usd_per_million_completion_tokens"] = 0.0
    assert mistakes_of(every_key) == []


def test_names_that_make_a_files_name_too_long_together_are_refused(study):
    tutor = study["benchmarks"]["tutor"]
    study["benchmarks"]["b" * 90] = tutor
    study["runs"]["r" * 90] = study["runs"]["dpo"]
    assert mistakes_of(study) == []
    study["runs"]["s" * 40] = study["runs"]["dpo"] | {"parent": "r" * 90}
    (line,) = mistakes_of(study)
    assert line.startswith(f"benchmarks.{'b' * 90}: 140 characters of the longest lineage and 90 of this")


def test_four_bit_weights_are_whole_on_each_gpu(every_key):
    every_key["runs"]["sft"]["quantise"] = "nf4"
    (line,) = doubts_beside(every_key)
    assert line.startswith("runs.sft.quantise: nf4 needs bitsandbytes, which is not here")
    every_key["training_resources"] = {"gpu": 2, "parallel": "zero3"}
    assert any(
        line.startswith("runs.sft.quantise: nf4 needs whole weights") for line in mistakes_of(every_key)
    )
    every_key["training_resources"]["parallel"] = "ddp"
    assert [line for line in doubts_beside(every_key) if "cannot share" not in line] == []


def test_ppo_on_four_bits_wants_their_package_and_never_shares_them_out(every_key):
    every_key["runs"]["ppo"] |= {
        "quantise": "nf4",
        "engine": "transformers",
        "lora": every_key["runs"]["sft"]["lora"],
    }
    (line,) = doubts_beside(every_key)
    assert line.startswith("runs.ppo.quantise: nf4 needs bitsandbytes")
    every_key["training_resources"] = {"gpu": 2, "parallel": "zero3"}
    assert not any("whole weights" in line for line in mistakes_of(every_key))


def test_a_scaled_loss_wants_a_gpu_and_its_policy_whole_on_each(study):
    study["runs"]["sft"]["precision"] = "float16"
    assert mistakes_of(study) == []
    study["training_resources"]["gpu"] = 0
    assert "runs.sft.precision: float16 needs a GPU" in mistakes_of(study)
    for gpus, parallel, refused in (
        (2, "ddp", False),
        (2, "fsdp", True),
        (1, "fsdp", False),
        (2, "zero2", True),
        (1, "zero2-offload", True),
    ):
        study["training_resources"] = {"gpu": gpus, "parallel": parallel}
        said = f"runs.sft.precision: float16 is for parallel: ddp, not {parallel}: take bfloat16"
        assert (said in mistakes_of(study)) == refused


def test_steps_that_the_gpus_cannot_share_evenly_are_told_of(study):
    assert not any("cannot share" in line for line in doubts_of(many(study, training_resources={"gpu": 1})))
    sizes = {name: run["batch_size"] for name, run in study["runs"].items() if "batch_size" in run}
    told = [line for line in doubts_of(study | {"training_resources": {"gpu": 64}}) if "cannot share" in line]
    assert {line.partition(":")[0] for line in told} >= {
        f"runs.{name}.batch_size" for name, size in sizes.items() if size % 64
    }
    assert told and "64 GPUs cannot share" in told[0] and "a multiple of 64" in told[0]


def test_zero_without_deepspeed_is_a_warning(study, monkeypatch):
    monkeypatch.setattr(machine.sys, "prefix", "/nowhere")
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    study["training_resources"] = {"gpu": 2, "parallel": "zero2"}
    assert any("zero2 needs DeepSpeed, which is not here" in line for line in doubts_of(study))
    study["training_resources"] = {"gpu": 1, "parallel": "zero2"}
    assert not any("DeepSpeed" in line for line in doubts_of(study))


def test_rewards_that_no_value_can_be_are_a_warning(every_key):
    every_key["values"]["worth"]["max_value"] = 0.5
    (line,) = doubts_beside(every_key)
    assert line.startswith("values.worth.max_value: 0.5, and the rewards of 'judged' may add up to 3")
    every_key["values"]["worth"]["max_value"] = 3.0
    every_key["annotations"]["judged"]["rewards"]["words"]["weight"] = -1.0
    (line,) = doubts_beside(every_key)
    assert line.startswith("annotations.judged.rewards.words.weight: -1 may make final_reward less than 0")


def test_the_best_checkpoint_by_what_it_learns_from_is_a_warning(study):
    study["runs"]["sft"] |= {"keep": "best", "validation": "sft"}
    (line,) = doubts_of(study)
    assert line.startswith("runs.sft.validation: 'sft' is what it learns from")


def test_fine_tuning_without_validation_is_whole_but_for_the_best_checkpoint(study):
    study["runs"]["sft"]["validation"] = None
    assert mistakes_of(study) == []
    study["runs"]["sft"]["keep"] = "best"
    (line,) = mistakes_of(study)
    assert line.startswith("runs.sft.keep: best needs a validation split")


def test_a_training_whose_rows_are_no_whole_batch_is_refused(tmp_path, study):
    file, own = (
        own_rows(tmp_path, 100),
        {"batch_size": 8, "drop_last": True, "warmup": 0.0, "pack_tokens": None},
    )
    config = with_own_data(study, file, quotas={"sft": 6, "validation": 10}, **own)
    (line,) = mistakes_of(config)
    assert line.startswith("runs.own.drop_last: at most 6 rows are no whole batch of 8")
    assert mistakes_of(put(config, "runs.own.batch_size", 6)) == []
    few = with_own_data(study, own_rows(tmp_path, 6), quotas={"sft": 80, "validation": 10}, **own)
    (line,) = mistakes_of(few)
    assert line.startswith("runs.own: learns nothing: 6 rows make no whole batch of 8")


def test_dropout_of_adapters_that_does_not_act_is_a_warning(every_key):
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.05}
    for name in ("lol", "ppo"):
        every_key["runs"][name]["lora"] = lora
        (line,) = doubts_beside(every_key)
        assert line.startswith(f"runs.{name}.lora.dropout: 0.05 does nothing: with dropout: null")
        every_key["runs"][name]["dropout"] = 0.0
        assert doubts_beside(every_key) == []
    every_key["runs"]["dpo"]["lora"] = lora
    assert doubts_beside(every_key) == []


def test_smoothing_is_of_a_likelihood(every_key):
    every_key["runs"]["dpo"] |= {"loss": "hinge", "label_smoothing": 0.1}
    assert mistakes_of(every_key) == [
        "runs.dpo: label_smoothing goes with loss: sigmoid, not hinge: leave one of them out"
    ]


def test_a_study_without_benchmarks_has_no_table_and_says_so(study):
    (line,) = doubts_of(study | {"benchmarks": {}, "report": {}})
    assert line.startswith("benchmarks: there are none, so there is no table")


def test_judges_are_compared_only_where_there_are_judges(every_key):
    every_key["report"]["agreement"] = [["labels", "loose"]]
    assert doubts_beside(every_key) == [
        "report.agreement[0]: 'labels' asks no judge: nothing will be compared"
    ]


@pytest.mark.parametrize(
    ("task", "longest"), [("ifeval", 1280), ("bbh_cot_fewshot", 1024), ("leaderboard", 1024)]
)
def test_the_answers_that_the_harness_asks_for_are_held_against_the_context(study, task, longest):
    (line,) = doubts_of(put(study, "benchmarks.biology_quiz.tasks", [task]))
    assert f"may have {longest} tokens, and models.tiny.context is 512: the scoring stops" in line
    roomy = put(study, "models.tiny.context", 4096)
    assert doubts_of(put(roomy, "benchmarks.biology_quiz.tasks", [task])) == []


def test_the_answers_of_a_task_of_ones_own_are_held_against_the_context(tmp_path, study):
    (tmp_path / "shared").write_text("generation_kwargs: {until: ['.'], max_new_tokens: 600}\n")
    (tmp_path / "mine.yaml").write_text(
        "include: shared\ntask: mine\ntag: [ours]\ndoc_to_text: !function x.y\n"
    )
    (tmp_path / "all.yaml").write_text("group: all_of_mine\ntask:\n  - mine\n")
    study["benchmarks"]["biology_quiz"] |= {"include_path": str(tmp_path)}
    for task in ("mine", "ours", "all_of_mine", "min?"):
        (line,) = doubts_of(put(study, "benchmarks.biology_quiz.tasks", [task]))
        assert "answers of mine may have 600 tokens" in line
    twice = put(study, "benchmarks.biology_quiz.tasks", ["ours", "all_of_mine"])
    (line,) = mistakes_of(twice)
    assert line.startswith(
        "benchmarks.biology_quiz.tasks[1]: mine is asked for by benchmarks.biology_quiz.tasks[0] as"
    )


def test_the_check_knows_the_harness_s_names_of_an_answers_length():
    from workflow_scripts.score.harness import run as lm_eval_run

    assert lm_eval_run.ANSWER_KEYS == harness_tasks.ANSWER_KEYS


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "datasets.tutor.replace_na",
            {"Sub-problem State": "w"},
            "no label stands in a field called 'Sub-problem State'",
        ),
        (
            "datasets.tutor.replace_na",
            {"Subproblem State": "v"},
            "'v' is no label, so each such turn is unusable",
        ),
        ("datasets.tutor.drop_fields", ["Subproblem"], "a reply without 'Subproblem' is unusable"),
        ("datasets.tutor.reject_colon", True, "is read of rows of schema hh alone, not of tutorbot"),
    ],
)
def test_settings_that_have_no_effect_or_too_much_are_a_warning(study, path, value, message):
    assert any(line.startswith(path) and message in line for line in doubts_of(put(study, path, value)))
