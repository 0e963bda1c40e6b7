"""Written sources in a study: what the check says, what follows from one, what a change costs, and a whole chain."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from tests.judge_requests import KEY
from tests.judge_server import JudgeServer, fail, say
from tests.plans import changed, planned
from tests.workflow import ROOT, copy_with_study, snakemake, stale
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.download.problem_bank import load_problems
from workflow_scripts.download.simulate_rows import simulate_rows
from workflow_scripts.plan import index, judging, synthesis
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.study import machine
from workflow_scripts.study.checking import examine
from workflow_scripts.study.synthesis import SIMULATED_FIELDS

SMALL = ROOT / "studies/synthesise-small.yaml"
WRITER = {"kind": "openai", "model": "writer-1", "temperature": 1.0, "api_key_env": "TEST_JUDGE_KEY"}
BASE = {
    "study": "s",
    "judges": {"writer": WRITER, "ruled": {"kind": "rule", "rule": "length"}},
    "sources": {
        "weights": {"places": [{"hf": {"repo": "owner/name", "revision": "0123456789" * 4}}]},
        "instructions": {"simulate": {"rows": "alpaca", "problems": "data/bundled/biology_problems.jsonl"}},
        "bank": {
            "files": {"bank.jsonl": None},
            "places": [{"file": {"files": {"bank.jsonl": "data/bundled/biology_problems.jsonl"}}}],
        },
        "w": {
            "synthesise": {
                "judge": "writer",
                "rows": {"source": "instructions", "file": "instruction-data.json"},
                "prompt": "Say {output} anew.",
                "into": {"instruction": "{instruction}", "output": "{reply}"},
            }
        },
        "w2": {
            "synthesise": {
                "judge": "writer",
                "rows": {"source": "w", "file": "rows.jsonl"},
                "prompt": "{instruction}",
                "into": {"messages": [{"role": "user", "content": "{reply}"}]},
            }
        },
    },
    "models": {"tiny": {"source": "weights", "template": "alpaca", "context": 2048}},
    "datasets": {
        "d": {
            "source": "w",
            "files": ["rows.jsonl"],
            "schema": "alpaca",
            "split": {"quotas": {"train": 9, "test": 3}},
        }
    },
    "benchmarks": {"own": {"kind": "judge_score", "dataset": "d", "split": "test", "judge": "ruled"}},
}


def with_written(changes: dict, name: str = "w") -> dict:
    """Return the study with keys of a written source changed; None takes one out."""
    study = copy.deepcopy(BASE)
    part = study["sources"][name]["synthesise"]
    for key, value in changes.items():
        part[key] = value
        if value is None:
            del part[key]
    return study


def test_the_small_study_has_all_that_it_asks_for_recorded(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_API_KEY", raising=False)
    folder = copy_with_study(tmp_path)
    names = [
        name
        for name, source in yaml.safe_load(SMALL.read_text())["sources"].items()
        if "synthesise" in source
    ]
    assert len(names) == 5
    wanted = [f"results/synthesise-small/written/{name}/manifest.json" for name in names]
    snakemake(folder, *wanted, "--configfile", "studies/synthesise-small.yaml")
    for path in wanted:
        counts = read_json(folder / path)["counts"]
        assert counts["kept"] > 0 and counts["kept"] + counts["rejected"] == counts["requests"]


# --- the check ------------------------------------------------------------------------------------------------------


def test_a_study_with_written_sources_is_fine():
    found = examine(BASE)
    assert found.wrong == [] and not [line for line in found.doubts if "synthesise" in line]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"judge": "wirter"}, "synthesise.judge: no judge is called 'wirter'; did you mean 'writer'?"),
        ({"judge": "ruled"}, "synthesise.judge: 'ruled' writes no text: name a judge of kind openai"),
        (
            {"prompt": "Say {ouptut}."},
            "synthesise.prompt: no row has a field {ouptut}; did you mean 'output'?",
        ),
        ({"system": "{inptu}"}, "synthesise.system: no row has a field {inptu}; did you mean 'input'?"),
        (
            {"into": {"a": [{"b": "{outptu}"}]}},
            "synthesise.into.a: no row has a field {outptu}; did you mean 'output'?",
        ),
        ({"into": {"a": "{repyl}"}}, "synthesise.into.a: no row has a field {repyl}; did you mean 'reply'?"),
        ({"into": {"a": "{reply.text}"}}, "synthesise.into.a: {reply.text} is no piece of a reply"),
        ({"prompt": "Say {reply}."}, "synthesise.prompt: no row has a field {reply}"),
        ({"prompt": '{"a": 1}'}, "write {{ and }} for braces"),
        (
            {"differs_from": ["ouput"]},
            "synthesise.differs_from[0]: no row has a field {ouput}; did you mean 'output'?",
        ),
        (
            {"rows": {"source": "instructions", "file": "rows.json"}},
            "synthesise.rows.file: no file of source",
        ),
        ({"rows": {"source": "instrcutions", "file": "rows.json"}}, "did you mean 'instructions'?"),
        ({"rows": {"dataset": "d"}}, "has either dataset and split, or source and file"),
        (
            {"rows": {"dataset": "d", "split": "tset"}},
            "synthesise.rows.split: no split of dataset 'd' is called 'tset'",
        ),
        ({"rows": None}, "has either rows or count"),
        ({"count": 3}, "has either rows or count"),
        ({"prompt": None}, "it has no prompt"),
        ({"into": None}, "it has no into"),
        ({"variants": {"a": {"prompt": "A"}}, "into": None}, "variants.a has no into"),
        ({"prompt_as": "completion", "system": "Be brief."}, "a system message goes with a chat"),
        ({"answer": {"fields": ["a"]}}, "fields are of form: json"),
        ({"answer": {"pattern": "("}}, "is no regular expression"),
        ({"promtp": "x"}, "did you mean 'prompt'?"),
        (
            {"rows": {"dataset": "d", "split": "train"}, "prompt": "{prompt}", "into": {"a": "{reply}"}},
            "a circle (",
        ),
        (
            {"rows": {"source": "w2", "file": "rows.jsonl"}, "prompt": "x", "into": {"a": "{reply}"}},
            "a circle (",
        ),
    ],
)
def test_the_check_says_what_is_wrong_with_a_written_source_and_where(changes, said):
    wrong = examine(with_written(changes)).wrong
    assert any(said in line and "sources.w" in line for line in wrong), wrong


def test_the_second_of_a_chain_has_the_fields_of_the_firsts_rows():
    wrong = examine(with_written({"prompt": "{outptu} {input}"}, "w2")).wrong
    assert [line for line in wrong if "{outptu}; did you mean 'output'?" in line]
    assert [line for line in wrong if "{input}" in line and "(there are {instruction}, {output})" in line]


def test_a_file_on_this_machine_says_which_fields_its_rows_have():
    rows = {"rows": {"source": "bank", "file": "bank.jsonl"}, "into": {"instruction": "{reply}"}}
    fine = with_written(rows | {"prompt": "{question} {facts.0}"})
    odd = with_written(rows | {"prompt": "{qestion}"})
    assert not [line for line in examine(fine, [machine.seen]).wrong if "synthesise" in line]
    (said,) = [line for line in examine(odd, [machine.seen]).wrong if "synthesise" in line]
    assert "no row has a field {qestion}; did you mean 'question'?" in said


def test_greedy_samples_are_doubted():
    study = with_written({"samples": 3})
    assert not [line for line in examine(study).doubts if "greedy" in line]
    study["judges"]["writer"] = WRITER | {"temperature": 0.0}
    assert [line for line in examine(study).doubts if line.startswith("sources.w.synthesise.samples:")]


@pytest.mark.parametrize("kind", SIMULATED_FIELDS)
def test_the_fields_of_simulated_rows_are_those_they_have(kind):
    problems = load_problems(ROOT / "data/bundled/biology_problems.jsonl")
    (rows,) = simulate_rows(problems, {"rows": kind, "seed": 7, "count": 5}).values()
    assert {key for row in rows for key in row} == set(SIMULATED_FIELDS[kind])


# --- what follows -----------------------------------------------------------------------------------------------------


def test_rows_keep_clear_of_benchmarks_that_no_model_wrote():
    plan = planned("tests/every_key.yaml")
    clear = synthesis.kept_clear_of(plan, "rewritten")
    assert "labels" in clear and "harness" in clear
    assert synthesis.kept_clear_of(plan, "explained") == []  # decontaminate: false
    own = {"kind": "judge_score", "dataset": "written", "split": "train", "judge": "ruled"}
    moved = changed("tests/every_key.yaml", {"benchmarks.own": own})
    assert "own" not in synthesis.kept_clear_of(moved, "rewritten")
    assert "own" not in synthesis.kept_clear_of(moved, "asked_for")


def test_the_index_of_a_policy_names_what_was_written_for_it():
    learned = {"runs.chat.dataset": "written", "runs.chat.split": "train", "runs.chat.validation": "train"}
    plan = changed("tests/every_key.yaml", learned | {"datasets.written.schema": "alpaca"})
    files = index.cell_entry(plan, "tiny.chat", 1)["files"]
    assert {f"results/every-key/written/{name}/manifest.json" for name in ("asked_for", "rewritten")} < set(
        files
    )
    assert not any("explained" in file for file in files)


def test_a_plan_counts_writing_alone_while_rows_are_missing():
    plan = planned("tests/every_key.yaml")
    waiting = synthesis.used(plan)
    assert waiting == ["asked_for", "rewritten"]
    alone = {entry["benchmark"] for entry in judging.judging_plans(plan, waiting)}
    assert alone == {"sources.asked_for", "sources.rewritten", "sources.explained"}
    whole = {entry["benchmark"] for entry in judging.judging_plans(plan, [])}
    assert whole > alone and "rated" in whole


def test_the_study_of_class_asks_gpt_4_as_its_authors_did_and_chains_problems_to_conversations():
    plan = planned("studies/class_synthesis.yaml")
    judge = plan.study.judges["gpt4"]
    assert (judge.model, judge.max_tokens, judge.temperature) == ("gpt-4-0314", 2048, None)
    assert synthesis.lineage(plan, "conversations") == ["problems", "conversations"]
    assert plan.study.datasets["tutor"].source == "conversations"
    assert plan.study.datasets["tutor"].data_schema == "tutorbot"


def test_the_books_study_draws_which_way_an_answer_is_rewritten_and_learns_from_it_where_told_to():
    plan = planned("studies/follow_instructions.yaml")
    wordings = plan.study.sources["written_preferences"].synthesise.wordings()
    assert (wordings["polite"].into["chosen"], wordings["polite"].into["rejected"]) == ("{reply}", "{output}")
    assert (wordings["impolite"].into["chosen"], wordings["impolite"].into["rejected"]) == (
        "{output}",
        "{reply}",
    )
    judge = plan.study.judges["llama70b"]
    assert (judge.model, judge.seed, judge.temperature) == ("llama3.1:70b", 123, 0.0)
    assert synthesis.used(plan) == []
    own = changed(
        "studies/follow_instructions.yaml",
        {"datasets.preferences.source": "written_preferences", "datasets.preferences.files": ["rows.jsonl"]},
    )
    assert synthesis.used(own) == ["written_preferences"]


def blocks() -> list[dict]:
    """Return the YAML blocks of the page on synthesis."""
    text = (ROOT / "docs/synthesis.md").read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("number", range(5))
def test_the_page_on_synthesis_shows_parts_of_studies_that_are_right(number):
    block = blocks()[number]
    assert len(blocks()) == 5
    study = copy.deepcopy(BASE) | {"datasets": block["datasets"], "benchmarks": {}}
    study["sources"] = {"weights": BASE["sources"]["weights"], **block["sources"]}
    found = examine(study)
    assert found.wrong == []
    plan = plan_of(found.study)
    names = synthesis.all_written(plan)
    assert names and all(json.loads(synthesis.writing_settings(plan, name)) for name in names)
    assert {plan.study.datasets[name].source for name in plan.study.datasets} <= set(names)


# --- whole runs -------------------------------------------------------------------------------------------------------

SUBPROBLEM = {
    "Question": "Which?",
    "Answer": "The root.",
    "Hint": "Below.",
    "Incorrect Response": "The sky.",
    "Feedback": "No.",
}


def tutored(number: int) -> list[dict]:
    """Return a conversation in the tutor's form, its replies as objects."""

    def reply(evaluation: str, action: str, state: str, words: str) -> dict:
        return {
            "Thoughts of Tutorbot": "Well.",
            "Evaluation of Student Response": evaluation,
            "Action Based on Evaluation": action,
            "Subproblem State": state,
            "Subproblem": "Which part?",
            "Tutorbot": words,
        }

    return [
        {"from": "human", "value": f"Q. Problem about topic {number}?"},
        {"from": "gpt", "value": reply("g", "12", "x", f"Which part of {number}?")},
        {"from": "human", "value": "The sky."},
        {"from": "gpt", "value": reply("a", "1", "x", "Not that one. Look below.")},
    ]


def words_of(handler) -> str:
    """Answer as a writer does: problems to objectives, conversations to problems; some badly."""
    topic = int(re.search(r"topic (\d+)", handler.text)[1])
    if handler.text.startswith("Objective"):
        if topic == 3:
            return "I would rather not."
        if topic == 4:
            return json.dumps({"Problem": f"Problem about topic {topic}?"})
        return (
            "```json\n"
            + json.dumps({"Problem": f"Problem about topic {topic}?", "SubProblems": [SUBPROBLEM]})
            + "\n```"
        )
    assert json.dumps([SUBPROBLEM]) in handler.text
    return json.dumps({"conversations": tutored(topic)})


STUDY = {
    "study": "written",
    "sources": BASE["sources"]
    | {
        "objectives": {
            "files": {"o.jsonl": None},
            "places": [{"file": {"files": {"o.jsonl": "objectives.jsonl"}}}],
        },
        "problems": {
            "synthesise": {
                "judge": "writer",
                "rows": {"source": "objectives", "file": "o.jsonl"},
                "prompt": "Objective: {objective}",
                "answer": {"form": "json", "fields": ["Problem", "SubProblems"]},
                "into": {"problem": "{reply.Problem}", "subproblems": "{reply.SubProblems}"},
            }
        },
        "talks": {
            "synthesise": {
                "judge": "writer",
                "rows": {"source": "problems", "file": "rows.jsonl"},
                "prompt": "Talk about {problem} by {subproblems}",
                "answer": {"form": "json", "fields": ["conversations"]},
                "into": {"conversations": "{reply.conversations}"},
            }
        },
    },
    "models": BASE["models"],
    "datasets": {
        "tutoring": {
            "source": "talks",
            "files": ["rows.jsonl"],
            "schema": "tutorbot",
            "drop_fields": ["Thoughts of Tutorbot"],
            "split": {"quotas": {"train": 6, "test": 2}},
        }
    },
    "benchmarks": {"kept": {"kind": "judge_score", "dataset": "other", "split": "test", "judge": "ruled"}},
}
STUDY["datasets"]["other"] = {
    "source": "instructions",
    "files": ["instruction-data.json"],
    "schema": "alpaca",
    "group_by": "question",
    "split": {"quotas": {"test": 9}},
}
TARGET = "results/written/written/talks/manifest.json"
CLEANED = "data/clean/written/tutoring/manifest.json"


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = copy_with_study(tmp_path_factory.mktemp("written"))
    write_jsonl(folder / "objectives.jsonl", [{"objective": f"Know topic {number}."} for number in range(10)])
    return folder


@pytest.fixture(scope="module")
def finished(repository) -> Path:
    """A folder in which the sources are written and the dataset is cleaned, and the server that wrote."""
    with JudgeServer(
        {"Objective: Know topic 7.": [fail(429, "slow down", Retry_After="0.05"), say(words_of)]},
        default=say(words_of),
    ) as server:
        judge = WRITER | {"base_url": server.url}
        (repository / "study.yaml").write_text(
            yaml.safe_dump(STUDY | {"judges": {**BASE["judges"], "writer": judge}}, sort_keys=False)
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TEST_JUDGE_KEY", KEY)
            patch.setenv("NO_PROXY", "127.0.0.1")
            plan = snakemake(repository, "--configfile", "study.yaml", "--", "judge_plan").stdout
            (repository / "plan.txt").write_text(plan)
            assert server.asked() == 0
            snakemake(repository, "--configfile", "study.yaml", "--", CLEANED)
        (repository / "asked.json").write_text(json.dumps([call["text"] for call in server.calls]))
    return repository


def test_judge_plan_counts_writing_before_anything_is_written(finished):
    plan = (finished / "plan.txt").read_text()
    rows = {line.split()[1]: line.split() for line in plan.splitlines() if line.split()[:1] == ["writer"]}
    assert rows["sources.problems"][2:5] == ["10", "0", "10"] and rows["sources.talks"][2:5] == [
        "10",
        "0",
        "10",
    ]
    assert (
        "benchmarks are not counted: policies learn from what is still to be written (problems, talks)"
        in plan
    )


def test_problems_and_conversations_come_of_objectives_and_what_is_rejected_is_counted(finished):
    problems = read_json(finished / "results/written/written/problems/manifest.json")
    assert problems["counts"] == {"requests": 10, "kept": 8, "rejected": 2}
    assert problems["rejected"] == {"has no SubProblems": 1, "holds no JSON object": 1}
    assert problems["compared_with"] == ["kept"] and problems["writer"]["model"] == "writer-1"
    talks = read_json(finished / TARGET)
    assert talks["counts"] == {"requests": 8, "kept": 8, "rejected": 0}
    cleaned = read_json(finished / CLEANED)
    assert sum(split["conversations"] for split in cleaned["splits"].values()) == 8
    row = read_jsonl(finished / "data/clean/written/tutoring/rows/train.jsonl")[0]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "user", "assistant"]
    assert "Thoughts" not in row["messages"][1]["content"]
    asked = json.loads((finished / "asked.json").read_text())
    assert len(asked) == 10 + 1 + 8 and len(set(asked)) == 18


def test_a_written_study_that_is_done_has_nothing_to_do(finished):
    assert stale(finished, "--configfile", "study.yaml", "--", CLEANED) == set()


@pytest.mark.parametrize(
    ("old", "new", "written"),
    [
        ("Objective: {objective}", "Objective now: {objective}", {"problems", "talks"}),
        ("Talk about {problem}", "Speak about {problem}", {"talks"}),
        ("model: writer-1", "model: writer-2", {"problems", "talks"}),
        ("api_key_env: TEST_JUDGE_KEY", "api_key_env: OTHER_KEY", set()),
    ],
)
def test_a_change_costs_exactly_what_is_written_by_it_and_what_follows(finished, old, new, written):
    text = (finished / "study.yaml").read_text()
    assert old in text
    (finished / "changed.yaml").write_text(text.replace(old, new))
    files = stale(finished, "--configfile", "changed.yaml", "--", CLEANED)
    asked = {
        name for name in ("problems", "talks") if f"results/written/written/{name}/replies.json" in files
    }
    assert asked == written
    assert (CLEANED in files) == bool(written)
    assert not any("/sources/" in file for file in files)


def test_how_a_reply_is_read_asks_for_nothing_again(finished):
    text = (finished / "study.yaml").read_text()
    text = text.replace("prompt: Talk about", "max_chars: 90000\n      prompt: Talk about")
    (finished / "changed.yaml").write_text(text)
    files = stale(finished, "--configfile", "changed.yaml", "--", CLEANED)
    assert "results/written/written/talks/replies.json" not in files
    assert {TARGET, CLEANED} <= files


def test_the_key_of_the_writer_is_in_no_file(finished):
    assert not [path for path in finished.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_judge_plan_stops_rather_than_have_rows_written_anew(finished):
    text = (finished / "study.yaml").read_text().replace("Talk about", "Speak about")
    text = text.replace("judge: ruled", "judge: writer")  # so that policies' answers go before an endpoint
    (finished / "changed.yaml").write_text(text.replace("dataset: other", "dataset: tutoring"))
    done = snakemake(finished, "--configfile", "changed.yaml", "--", "judge_plan", check=False)
    assert done.returncode
    assert "judge_plan asks nothing, and talks would have to be written anew" in done.stdout + done.stderr
