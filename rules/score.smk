# Answers and likelihoods to item-level scores: one file per policy, seed and benchmark. Light jobs, but where a model


# must speak again (likelihoods, lm-eval, a reward-model judge).
rule score_tutor:
    input:
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_tutor/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("tutor"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.tutor"),
        settings=score_settings("skip_first_turn"),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.tutor --prompts {input.prompts:q}l --generations {input.generations:q}l"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_programs:
    input:
        source=lambda wildcards: f"{source_folder(STUDY.benchmarks[wildcards.benchmark].source)}/manifest.json",
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_programs/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of(*PROGRAMS),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=lambda wildcards: code_of(
            f"workflow_scripts.score.{STUDY.benchmarks[wildcards.benchmark].kind}"
        ),
        kind=lambda wildcards: STUDY.benchmarks[wildcards.benchmark].kind,
        settings=score_settings(
            "form",
            "k",
            "timeout_seconds",
            "memory_mb",
            "allow_unsandboxed",
            "workers",
        ),
        problems=lambda wildcards: source_file(
            STUDY.benchmarks[wildcards.benchmark].source,
            STUDY.benchmarks[wildcards.benchmark].file,
        ),
    message:
        "Running the programs of {wildcards.policy} (seed {wildcards.seed}) in a sandbox"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.{params.kind:q} --problems {params.problems:q} --prompts {input.prompts:q}l"
        " --generations {input.generations:q}l"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule measure_likelihoods:
    input:
        pairs=f"{CLEAN}/{{benchmark}}/manifest.json",
        model=lambda wildcards: f"{scored_weights(wildcards)}/manifest.json",
    output:
        f"{CELL}/likelihoods/{{benchmark}}.jsonl",
    log:
        f"{LOGS}/measure_likelihoods/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("pair_perplexity"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **SCORING,
    params:
        code=code_of("workflow_scripts.score.pair_likelihoods"),
        pins=pins(*TORCH),
        settings=lambda wildcards: settings(
            STUDY.benchmarks[wildcards.benchmark],
            keys=["max_tokens"],
            **spoken_by(wildcards.policy),
        ),
        calibration=calibration_flag("--calibration"),
    message:
        "Likelihoods of {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/measure_likelihoods/{{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}.json --"
        f' workflow_scripts.score.pair_likelihoods --model "$(dirname {{input.model:q}})/model"'
        ' {params.calibration:q} --rows "$(dirname {input.pairs:q})/rows/pairs.jsonl"'
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_pair_perplexity:
    input:
        f"{CELL}/likelihoods/{{benchmark}}.jsonl",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_pair_perplexity/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("pair_perplexity"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.pair_perplexity"),
        settings=score_settings("fidelity"),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.pair_perplexity --measured {input:q} --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_rewards:
    input:
        f"{CELL}/rewards/{{benchmark}}.json",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_rewards/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("rewards"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.reward_scores"),
        settings=lambda wildcards: as_json({"benchmark": wildcards.benchmark}),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.reward_scores --measured {input:q}l --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule measure_reply_likelihoods:
    input:
        dataset=lambda wildcards: f"{CLEAN}/{STUDY.benchmarks[wildcards.benchmark].dataset}/manifest.json",
        model=lambda wildcards: f"{scored_weights(wildcards)}/manifest.json",
    output:
        f"{CELL}/likelihoods/{{benchmark}}.jsonl",
    log:
        f"{LOGS}/measure_reply_likelihoods/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("loss"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **SCORING,
    params:
        code=code_of("workflow_scripts.score.reply_likelihoods"),
        pins=pins(*TORCH),
        settings=lambda wildcards: settings(
            STUDY.benchmarks[wildcards.benchmark],
            keys=["max_tokens", "batch_size", "limit"],
            history_turns=STUDY.datasets[
                STUDY.benchmarks[wildcards.benchmark].dataset
            ].history_turns,
            **spoken_by(wildcards.policy),
        ),
        calibration=calibration_flag("--calibration"),
        split=lambda wildcards: STUDY.benchmarks[wildcards.benchmark].split,
    message:
        "Likelihoods of {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/measure_reply_likelihoods/{{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}.json --"
        f' workflow_scripts.score.reply_likelihoods --model "$(dirname {{input.model:q}})/model"'
        ' {params.calibration:q} --rows "$(dirname {input.dataset:q})/rows/"{params.split:q}.jsonl --settings {params.settings:q} --output {output:q} 2> {log:q}'


rule score_reply_loss:
    input:
        f"{CELL}/likelihoods/{{benchmark}}.jsonl",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_reply_loss/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("loss"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.reply_loss"),
        settings=lambda wildcards: as_json({"benchmark": wildcards.benchmark}),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.reply_loss --measured {input:q} --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule score_lm_eval:
    input:
        model=lambda wildcards: f"{scored_weights(wildcards)}/manifest.json",
        tasks=task_files,
        suites=suites_file,
        programs=counted_programs,
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_lm_eval/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("lm_eval"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **SCORING,
    params:
        code=code_of("workflow_scripts.score.harness.run"),
        pins=pins(*TORCH, "lm-eval"),
        settings=harness_settings,
        subject=lambda wildcards: (
            ["--oracle", wildcards.policy]
            if wildcards.policy in CALIBRATION
            else ["--model", f"{scored_weights(wildcards)}/model"]
        ),
        programs=lambda wildcards, input: (
            ["--human-eval", input.programs] if input.programs else []
        ),
    message:
        "lm-eval {wildcards.benchmark} of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/score_lm_eval/{{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}.json --"
        f" workflow_scripts.score.harness.run {{params.subject:q}} {{params.programs:q}}"
        " --settings {params.settings:q}"
        " --output {output:q} > {log:q} 2>&1"


rule score_text_overlap:
    input:
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_text_overlap/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("text_overlap"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.text_overlap"),
        pins=pins("sacrebleu", "nltk"),
        settings=lambda wildcards: settings(
            STUDY.benchmarks[wildcards.benchmark],
            keys=["metrics", "wordnet"],
            benchmark=wildcards.benchmark,
        ),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.text_overlap --prompts {input.prompts:q}l --generations {input.generations:q}l"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"


# One endpoint is asked by one job at a time, which has many requests under way; so its rate limit holds.
rule judge_answers:
    input:
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
        opponent=opponent_answers,
        templates=judge_prompts_input,
        judge=judge_manifest,
    output:
        f"{CELL}/verdicts/{{benchmark}}.jsonl",
    log:
        f"{LOGS}/judge_answers/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of(*JUDGED),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **JUDGING,
    params:
        code=code_of("workflow_scripts.score.judging.answers"),
        pins=pins("alpaca-eval"),
        kind=lambda wildcards: STUDY.benchmarks[wildcards.benchmark].kind,
        judge=judge_settings,
        settings=judging_settings,
        flags=judging_flags,
    message:
        "Judging {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        f"{UNLESS_JUDGED_DIVERGED}{LAUNCH} -- workflow_scripts.score.judging.answers --benchmark {{wildcards.benchmark:q}} --kind {{params.kind:q}}"
        " --prompts {input.prompts:q}l --generations {input.generations:q}l {params.flags:q}"
        ' --judge {params.judge:q} --access "$PLUMBLINE_JUDGES" --settings {params.settings:q}'
        f" --store {JUDGE_STORE} --study {NAME} --cell {{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}"
        " --output {output:q} --cost $RESULTS/costs/judge_answers/{wildcards.policy:q}-{wildcards.seed:q}-{wildcards.benchmark:q}.json 2> {log:q}"


rule plan_judging:
    input:
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
        opponent=opponent_answers,
        templates=judge_prompts_input,
    output:
        temp(f"{CELL}/judging/{{benchmark}}.json"),
    log:
        f"{LOGS}/plan_judging/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of(*JUDGED),
    conda:
        "../envs/train.yaml"
    params:
        kind=lambda wildcards: STUDY.benchmarks[wildcards.benchmark].kind,
        judge=judge_settings,
        settings=judging_settings,
        flags=judging_flags,
        at=time.time_ns(),  # the store and the prices are no inputs: it is counted anew each time
    message:
        "Counting what judging {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark} takes"
    shell:
        f"{UNLESS_JUDGED_DIVERGED}"
        "python -m workflow_scripts.score.judging.answers --plan --benchmark {wildcards.benchmark:q} --kind {params.kind:q}"
        " --prompts {input.prompts:q}l --generations {input.generations:q}l {params.flags:q}"
        ' --judge {params.judge:q} --access "$PLUMBLINE_JUDGES" --settings {params.settings:q}'
        f" --store {JUDGE_STORE} --study {NAME} --cell {{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.benchmark:q}}"
        " --output {output:q} 2> {log:q}"


rule score_judged:
    input:
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
        verdicts=lambda wildcards: (
            f"{CELL}/verdicts/{{benchmark}}.jsonl"
            if is_judged(wildcards.benchmark)
            else []
        ),
        gamed=gamed_input,
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_judged/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of(*JUDGED),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=lambda wildcards: code_of(
            f"workflow_scripts.score.{STUDY.benchmarks[wildcards.benchmark].kind}"
        ),
        pins=lambda wildcards: (
            pins("alpaca-eval", "scikit-learn", "pandas")
            if STUDY.benchmarks[wildcards.benchmark].kind == "alpaca_eval"
            else {}
        ),
        kind=lambda wildcards: STUDY.benchmarks[wildcards.benchmark].kind,
        settings=judged_settings,
        verdicts=lambda wildcards, input: (
            ["--verdicts", input.verdicts] if input.verdicts else []
        ),
    message:
        "Scoring the verdicts on {wildcards.policy} (seed {wildcards.seed}), {wildcards.benchmark}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.score.{params.kind:q} --prompts {input.prompts:q}l --generations {input.generations:q}l"
        " {params.verdicts:q} --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule list_items:
    input:
        tasks=task_files,
        suites=suites_file,
    output:
        f"{RESULTS}/items/{{benchmark}}.jsonl",
    log:
        f"{LOGS}/list_items/{{benchmark}}.log",
    wildcard_constraints:
        benchmark=benchmarks_of("lm_eval"),
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.score.harness.run"),
        pins=pins("lm-eval"),
        settings=harness_settings,
    message:
        "Listing the items of {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.harness.run --items {output:q} --settings {params.settings:q} > {log:q} 2>&1"


rule find_overlap:
    input:
        asked=items_input,
        training=[
            f"{CLEAN}/{name.split('/')[0]}/manifest.json" for name in TRAINING_SETS
        ],
    output:
        f"{RESULTS}/overlap/{{benchmark}}.json",
    log:
        f"{LOGS}/find_overlap/{{benchmark}}.log",
    wildcard_constraints:
        benchmark=one_of(filter(searched, STUDY.benchmarks)),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.overlap"),
        settings=as_json({"sizes": [13, 8], "common": 10}),
        asked=items_file,
        training=training_flags,
    message:
        "Looking for the items of {wildcards.benchmark} in the training sets"
    shell:
        "python -m workflow_scripts.clean.overlap --items {params.asked:q} --training {params.training:q}"
        " --settings {params.settings:q} --output {output:q} 2> {log:q}"
