JUDGES = layout.JUDGES


def kinds(*names):
    return one_of(name for name, part in STUDY.benchmarks.items() if part.kind in names)


def problems(plan, benchmark):
    return cleaning.paired_files(plan, benchmark)[0]


def split_of(plan, benchmark):
    return plan.study.benchmarks[benchmark].split


# Answers and likelihoods to item-level scores: one file per policy, seed and benchmark. Light jobs, but where a model


# must speak again (likelihoods, lm-eval, a reward-model judge).
rule score_tutor:
    input:
        prompts=LAYOUT.prompts("{benchmark}"),
        generations=LAYOUT.answers("{policy}", "{seed}", "{benchmark}"),
    output:
        LAYOUT.scores("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/score_tutor/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("tutor"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.tutor"),
        settings=by(scoring.scorer_settings),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.tutor --prompts {input.prompts:q}l --generations {input.generations:q}l"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_programs:
    input:
        source=by(cleaning.paired_input),
        prompts=LAYOUT.prompts("{benchmark}"),
        generations=LAYOUT.answers("{policy}", "{seed}", "{benchmark}"),
    output:
        LAYOUT.scores("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/score_programs/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("humaneval", "mbpp"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=by(scoring.scorer_code),
        kind=by(judging.asking_kind),
        settings=by(scoring.scorer_settings),
        problems=by(problems),
    message:
        "Running the programs of {wildcards.policy} (seed {wildcards.seed}) in a sandbox"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.{params.kind:q} --problems {params.problems:q} --prompts {input.prompts:q}l"
        " --generations {input.generations:q}l"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule measure_likelihoods:
    input:
        pairs=f"{LAYOUT.clean('{benchmark}')}/manifest.json",
        model=by(policies.scored_manifest),
    output:
        LAYOUT.likelihoods("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/measure_likelihoods/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("pair_perplexity"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **SCORING,
    params:
        code=code_of("workflow_scripts.score.likelihoods"),
        pins=pins(*TORCH),
        settings=by(scoring.measuring_settings),
        calibration=by(scoring.calibration_flag),
    message:
        "Likelihoods of {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/measure_likelihoods/{{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}.json --"
        f' workflow_scripts.score.likelihoods --model "$(dirname {{input.model:q}})/model"'
        ' {params.calibration:q} --pairs "$(dirname {input.pairs:q})/rows/pairs.jsonl"'
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_pair_perplexity:
    input:
        LAYOUT.likelihoods("{policy}", "{seed}", "{benchmark}"),
    output:
        LAYOUT.scores("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/score_pair_perplexity/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("pair_perplexity"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.pair_perplexity"),
        settings=by(scoring.scorer_settings),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.pair_perplexity --likelihoods {input:q} --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_rewards:
    input:
        LAYOUT.rewards("{policy}", "{seed}", "{benchmark}"),
    output:
        LAYOUT.scores("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/score_rewards/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("rewards"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.rewards"),
        settings=by(scoring.scorer_settings),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.rewards --annotated {input:q}l --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule measure_reply_likelihoods:
    input:
        dataset=by(scoring.measured_input),
        model=by(policies.scored_manifest),
    output:
        LAYOUT.likelihoods("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/measure_reply_likelihoods/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("loss"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **SCORING,
    params:
        code=code_of("workflow_scripts.score.reply_likelihoods"),
        pins=pins(*TORCH),
        settings=by(scoring.measuring_settings),
        calibration=by(scoring.calibration_flag),
        split=by(split_of),
    message:
        "Likelihoods of {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/measure_reply_likelihoods/{{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}.json --"
        f' workflow_scripts.score.reply_likelihoods --model "$(dirname {{input.model:q}})/model"'
        ' {params.calibration:q} --rows "$(dirname {input.dataset:q})/rows/"{params.split:q}.jsonl --settings {params.settings:q} --output {output:q} 2> {log:q}'


rule score_reply_loss:
    input:
        LAYOUT.likelihoods("{policy}", "{seed}", "{benchmark}"),
    output:
        LAYOUT.scores("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/score_reply_loss/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("loss"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.reply_loss"),
        settings=by(scoring.scorer_settings),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.reply_loss --likelihoods {input:q} --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_lm_eval:
    input:
        model=by(policies.scored_manifest),
        tasks=by(scoring.task_files),
        suites=by(scoring.suites_file),
        programs=by(scoring.counted_programs),
    output:
        LAYOUT.scores("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/score_lm_eval/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("lm_eval"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **SCORING,
    params:
        code=code_of("workflow_scripts.score.lm_eval_run"),
        pins=pins(*TORCH, "lm-eval"),
        settings=by(scoring.harness_settings),
        subject=by(scoring.harness_subject),
        programs=by(scoring.counted_flags),
    message:
        "lm-eval {wildcards.benchmark} of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/score_lm_eval/{{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}.json --"
        f" workflow_scripts.score.lm_eval_run {{params.subject:q}} {{params.programs:q}}"
        " --settings {params.settings:q}"
        " --output {output:q} > {log:q} 2>&1"


rule score_text_overlap:
    input:
        prompts=LAYOUT.prompts("{benchmark}"),
        generations=LAYOUT.answers("{policy}", "{seed}", "{benchmark}"),
    output:
        LAYOUT.scores("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/score_text_overlap/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("text_overlap"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.text_overlap"),
        pins=pins("sacrebleu", "nltk"),
        settings=by(scoring.scorer_settings),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.text_overlap --prompts {input.prompts:q}l --generations {input.generations:q}l"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


# One endpoint is asked by one job at a time, which has many requests under way; so its rate limit holds.
rule judge_answers:
    input:
        prompts=LAYOUT.prompts("{benchmark}"),
        generations=LAYOUT.answers("{policy}", "{seed}", "{benchmark}"),
        opponent=by(judging.opponent_answers),
        templates=by(judging.judge_prompts),
        judge=by(judging.judge_manifest),
    output:
        LAYOUT.verdicts("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/judge_answers/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=one_of(judging.judgeable(PLAN)),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **READING | {"judge": 1, "gpu": by(resources.judging_gpus)},
    params:
        code=code_of("workflow_scripts.score.judge_answers"),
        pins=pins("alpaca-eval"),
        kind=by(judging.asking_kind),
        judge=by(judging.judge_settings),
        settings=by(judging.asking_settings),
        flags=by(judging.judging_flags),
    message:
        "Judging {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_JUDGED_DIVERGED}{LAUNCH} -- workflow_scripts.score.judge_answers --benchmark {{wildcards.benchmark:q}} --kind {{params.kind:q}}"
        " --prompts {input.prompts:q}l --generations {input.generations:q}l {params.flags:q}"
        ' --judge {params.judge:q} --access "$PLUMBLINE_JUDGES" --settings {params.settings:q}'
        f" --store {JUDGES} --study {NAME} --cell {{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}"
        " --output {output:q} --cost $RESULTS/costs/judge_answers/{wildcards.policy:q}-{wildcards.seed:q}-{wildcards.benchmark:q}.json 2> {log:q}"


rule plan_judging:
    input:
        prompts=LAYOUT.prompts("{benchmark}"),
        generations=LAYOUT.answers("{policy}", "{seed}", "{benchmark}"),
        opponent=by(judging.opponent_answers),
        templates=by(judging.judge_prompts),
    output:
        temp(LAYOUT.judging("{policy}", "{seed}", "{benchmark}")),
    log:
        f"{RESULTS}/logs/plan_judging/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=one_of(judging.judgeable(PLAN)),
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
        f"{UNLESS_JUDGED_DIVERGED}"
        "python -m workflow_scripts.score.judge_answers --plan --benchmark {wildcards.benchmark:q} --kind {params.kind:q}"
        " --prompts {input.prompts:q}l --generations {input.generations:q}l {params.flags:q}"
        ' --judge {params.judge:q} --access "$PLUMBLINE_JUDGES" --settings {params.settings:q}'
        f" --store {JUDGES} --study {NAME} --cell {{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}"
        " --output {output:q} 2> {log:q}"


rule score_judged:
    input:
        prompts=LAYOUT.prompts("{benchmark}"),
        generations=LAYOUT.answers("{policy}", "{seed}", "{benchmark}"),
        verdicts=by(judging.verdicts),
        gamed=by(scoring.scorer_input),
    output:
        LAYOUT.scores("{policy}", "{seed}", "{benchmark}"),
    log:
        f"{RESULTS}/logs/score_judged/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        benchmark=one_of(judging.judgeable(PLAN)),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=by(scoring.scorer_code),
        pins=by(scoring.scorer_pins),
        kind=by(judging.asking_kind),
        settings=by(scoring.scorer_settings),
        verdicts=by(judging.verdicts_flags),
    message:
        "Scoring the verdicts on {wildcards.policy} (seed {wildcards.seed}), {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.{params.kind:q} --prompts {input.prompts:q}l --generations {input.generations:q}l"
        " {params.verdicts:q} --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule list_items:
    input:
        tasks=by(scoring.task_files),
        suites=by(scoring.suites_file),
    output:
        LAYOUT.items("{benchmark}"),
    log:
        f"{RESULTS}/logs/list_items/{{benchmark}}.log",
    wildcard_constraints:
        benchmark=kinds("lm_eval"),
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.score.lm_eval_run"),
        pins=pins("lm-eval"),
        settings=by(scoring.harness_settings),
    message:
        "Listing the items of {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.lm_eval_run --items {output:q} --settings {params.settings:q} > {log:q} 2>&1"


rule find_overlap:
    input:
        asked=by(overlap.items_input),
        training=overlap.training_inputs(PLAN),
    output:
        LAYOUT.overlap("{benchmark}"),
    log:
        f"{RESULTS}/logs/find_overlap/{{benchmark}}.log",
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
