# Answers and likelihoods to item-level scores: one file per policy, seed and benchmark. Which module scores a benchmark,
# and what it is told, is said by its kind (workflow_scripts/study/benchmarks/).

SCORES = LAYOUT.scores("{policy}", "{seed}", "{benchmark}")
PROMPTS = LAYOUT.prompts("{benchmark}")
ANSWERS = LAYOUT.answers("{policy}", "{seed}", "{benchmark}")
LIKELIHOODS = LAYOUT.likelihoods("{policy}", "{seed}", "{benchmark}")
VERDICTS = LAYOUT.verdicts("{policy}", "{seed}", "{benchmark}")
ANSWERED = answered_in_shell("{benchmark}")
LEAVE_OUT = "python -m workflow_scripts.common.diverged --because {params.why:q} --outputs {output:q}"


rule score_answers:
    input:
        prompts=PROMPTS,
        generations=ANSWERS,
        verdicts=by(judging.verdicts),
        files=by(scoring.scorer_input),
    output:
        SCORES,
    log:
        LAYOUT.log("score_answers", "{policy}-{seed}-{benchmark}"),
    wildcard_constraints:
        benchmark=one_of(scoring.scored_from(PLAN, "answers")),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=by(scoring.scorer_code),
        pins=by(scoring.scorer_pins),
        scorer=by(scoring.scorer),
        settings=by(scoring.scorer_settings),
        verdicts=by(judging.verdicts_flags),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}python -m {{params.scorer:q}} {ANSWERED} {{params.verdicts:q}}"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule measure_likelihoods:
    input:
        rows=by(scoring.replies_input),
        model=by(policies.scored_manifest),
    output:
        LIKELIHOODS,
    log:
        LAYOUT.log("measure_likelihoods", "{policy}-{seed}-{benchmark}"),
    wildcard_constraints:
        policy=READABLE,
        benchmark=one_of(scoring.scored_from(PLAN, "likelihoods")),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **SCORING,
    params:
        code=by(scoring.measuring_code),
        pins=pins(*TORCH),
        module=by(scoring.measuring_module),
        settings=by(scoring.measuring_settings),
        calibration=by(scoring.calibration_flag),
        rows=by(scoring.replies_word),
    message:
        "Likelihoods of {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost {cost('measure_likelihoods', 'policy', 'seed', 'benchmark')} -- {{params.module:q}}"
        ' --model "$(dirname {input.model:q})/model" {params.calibration:q} --rows {params.rows:u}'
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_measured:
    input:
        by(scoring.measured),
    output:
        SCORES,
    log:
        LAYOUT.log("score_measured", "{policy}-{seed}-{benchmark}"),
    wildcard_constraints:
        benchmark=one_of(scoring.scored_from(PLAN, "likelihoods", "rewards")),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=by(scoring.scorer_code),
        scorer=by(scoring.scorer),
        settings=by(scoring.scorer_settings),
        rows=by(scoring.measured_rows),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}python -m {{params.scorer:q}} --measured {{params.rows:q}}"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_lm_eval:
    input:
        model=by(policies.scored_manifest),
        tasks=by(scoring.task_files),
        suites=by(scoring.suites_file),
        programs=by(scoring.counted_programs),
    output:
        SCORES,
    log:
        LAYOUT.log("score_lm_eval", "{policy}-{seed}-{benchmark}"),
    wildcard_constraints:
        policy=READABLE,
        benchmark=one_of(scoring.scored_from(PLAN, "model")),
    conda:
        "../envs/vllm.yaml" if VLLM else "../envs/train.yaml"
    threads: 1
    resources:
        **ANSWERING | {"gpu": by(resources.harness_gpus)},
    params:
        code=by(scoring.harness_code),
        pins=by(scoring.harness_pins),
        settings=by(scoring.harness_settings),
        backend=by(scoring.harness_backend),
        subject=by(scoring.harness_subject),
        programs=by(scoring.counted_flags),
    message:
        "lm-eval {wildcards.benchmark} of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f'{UNLESS_DIVERGED}PATH="$ENGINE_PATH$PATH" {LAUNCH}{"" if VLLM else " --parallel ddp"}'
        f" --cost {cost('score_lm_eval', 'policy', 'seed', 'benchmark')} --"
        " workflow_scripts.score.harness.run {params.subject:q} {params.programs:q}"
        " --settings {params.settings:q} --backend {params.backend:q} --output {output:q} > {log:q} 2>&1"


# A policy from elsewhere comes as answers alone: what reads likelihoods or weights has no cell for it, and says so.


rule leave_out_likelihoods:
    output:
        LIKELIHOODS,
    log:
        LAYOUT.log("leave_out_likelihoods", "{policy}-{seed}-{benchmark}"),
    wildcard_constraints:
        policy=OUTSIDE,
        benchmark=one_of(scoring.scored_from(PLAN, "likelihoods")),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        why=by(outside.no_cell),
    message:
        "No likelihoods of {wildcards.policy} on {wildcards.benchmark}"
    shell:
        f"{LEAVE_OUT} 2> {{log:q}}"


rule leave_out_score:
    output:
        SCORES,
    log:
        LAYOUT.log("leave_out_score", "{policy}-{seed}-{benchmark}"),
    wildcard_constraints:
        policy=OUTSIDE,
        benchmark=one_of(scoring.scored_from(PLAN, "model")),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        why=by(outside.no_cell),
    message:
        "No score of {wildcards.policy} on {wildcards.benchmark}"
    shell:
        f"{LEAVE_OUT} 2> {{log:q}}"


JUDGING = (
    f" --benchmark {{wildcards.benchmark:q}} --kind {{params.kind:q}} {ANSWERED} {{params.flags:q}}"
    ' --judge {params.judge:q} --access "$PLUMBLINE_JUDGES" --settings {params.settings:q}'
    f" --store {layout.JUDGES} --study {NAME}"
    " --cell {wildcards.policy:q}-{wildcards.seed:q}-{wildcards.benchmark:q} --output {output:q}"
)


# One endpoint is asked by one job at a time, which has many requests under way; so its rate limit holds.
rule judge_answers:
    input:
        prompts=PROMPTS,
        generations=ANSWERS,
        opponent=by(judging.opponent_answers),
        templates=by(judging.judge_prompts),
        skipped=by(judging.skip_file),
        judge=by(judging.judge_manifest),
        recorded=by(judging.recorded),
    output:
        VERDICTS,
    log:
        LAYOUT.log("judge_answers", "{policy}-{seed}-{benchmark}"),
    wildcard_constraints:
        benchmark=one_of(judging.judgeable(PLAN)),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **READING | {"judge": 1, "gpu": by(resources.judging_gpus)},
    params:
        code=code_of("workflow_scripts.score.judging.answers"),
        pins=pins("alpaca-eval"),
        kind=by(judging.asking_kind),
        judge=by(judging.judge_settings),
        settings=by(judging.asking_settings),
        flags=by(judging.judging_flags),
    message:
        "Judging {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_JUDGED_DIVERGED}{LAUNCH} -- workflow_scripts.score.judging.answers{JUDGING} --shards {{resources.gpu:q}}"
        f" --cost {cost('judge_answers', 'policy', 'seed', 'benchmark')} 2> {{log:q}}"


rule plan_judging:
    input:
        prompts=PROMPTS,
        generations=ANSWERS,
        opponent=by(judging.opponent_answers),
        templates=by(judging.judge_prompts),
        skipped=by(judging.skip_file),
    output:
        temp(LAYOUT.judging("{policy}", "{seed}", "{benchmark}")),
    log:
        LAYOUT.log("plan_judging", "{policy}-{seed}-{benchmark}"),
    wildcard_constraints:
        benchmark=one_of(judging.judgeable(PLAN)),
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        kind=by(judging.asking_kind),
        judge=by(judging.judge_settings),
        settings=by(judging.asking_settings),
        flags=by(judging.judging_flags),
        at=time.time_ns(),  # the store and the prices are no inputs: it is counted anew each time
    message:
        "Counting what judging {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark} takes"
    shell:
        f"{UNLESS_JUDGED_DIVERGED}python -m workflow_scripts.score.judging.answers --plan{JUDGING} 2> {{log:q}}"


rule list_items:
    input:
        tasks=by(scoring.task_files),
        suites=by(scoring.suites_file),
    output:
        LAYOUT.items("{benchmark}"),
    log:
        LAYOUT.log("list_items", "{benchmark}"),
    wildcard_constraints:
        benchmark=one_of(scoring.scored_from(PLAN, "model")),
    conda:
        "../envs/train.yaml"
    params:
        code=by(scoring.scorer_code),
        pins=pins("lm-eval"),
        settings=by(scoring.harness_settings),
    message:
        "Listing the items of {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.harness.run --items {output:q} --settings {params.settings:q} > {log:q} 2>&1"


rule find_overlap:
    input:
        asked=by(overlap.items_input),
        training=overlap.training_inputs(PLAN),
    output:
        LAYOUT.overlap("{benchmark}"),
    log:
        LAYOUT.log("find_overlap", "{benchmark}"),
    wildcard_constraints:
        benchmark=one_of(overlap.compared(PLAN)),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.overlap"),
        settings=overlap.SETTINGS,
        asked=by(overlap.items_file),
        training=overlap.training_words(PLAN),
    message:
        "Looking for the items of {wildcards.benchmark} in the training sets"
    shell:
        "python -m workflow_scripts.clean.overlap --items {params.asked:q} --training {params.training:q}"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"
