# Prompt sets, and answers: one engine load per policy for all it owes, one file per prompt set from there on.


rule build_prompts:
    input:
        by(prompts.prompts_input),
    output:
        manifest=LAYOUT.prompts("{prompts}"),
        rows=LAYOUT.prompt_rows("{prompts}"),
    log:
        LAYOUT.log("build_prompts", "{prompts}"),
    wildcard_constraints:
        prompts=one_of(prompts.prompt_sets(PLAN)),
    priority: 60
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.generate.prompts"),
        kind=by(prompts.prompts_kind),
        file=by(prompts.prompts_word),
        sampling=by(prompts.sampling),
        cuts=by(prompts.prompts_flags),
    message:
        "Building prompt set {wildcards.prompts}"
    shell:
        "python -m workflow_scripts.generate.prompts --kind {params.kind:q} --input {params.file:u} --sampling {params.sampling:q}"
        " {params.cuts:q} --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


ANSWER = (
    " --claim $WORK/answers/{wildcards.policy:q}-{wildcards.seed:q}.lock -- workflow_scripts.generate.answer"
    ' --model "$(dirname {input.model:q})/model" --model-manifest {input.model:q}'
    " --prompts {input.prompts:q} --settings {params.settings:q} --seed {params.seed:q}"
    " --work $WORK/answers/{wildcards.policy:q}-{wildcards.seed:q} --answers {output.answers:q} --output {output.answered:q}"
    " --shards {resources.shards:q}"
)


rule answer_prompts:
    input:
        model=by(policies.weights_manifest),
        prompts=by(prompts.owed_prompts),
    output:
        answered=f"{CELL}/answered.json",
        answers=directory(f"{CELL}/answers"),
    log:
        LAYOUT.log("answer_prompts", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(prompts.answered_by(PLAN, vllm=VLLM)),
    cache: STORED
    priority: 60
    conda:
        "../envs/vllm.yaml" if VLLM else "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **SHARED | {"gpu": resources.answering_gpus(PLAN, VLLM)},
    params:
        code=by(scoring.engine_code),
        pins=by(scoring.engine_pins),
        settings=by(prompts.answering_settings),
        seed=by(policies.seed_told),
    message:
        "{wildcards.policy} (seed {wildcards.seed}) answers its prompt sets"
    shell:
        f'{UNLESS_DIVERGED}PATH="$ENGINE_PATH$PATH" {LAUNCH}{ANSWER}'
        f" --cost {cost('answer_prompts', 'policy', 'seed')} > {{log:q}} 2>&1"


# What answers again by the other engine than the study's: in that one's environment.
rule answer_otherwise:
    input:
        model=by(policies.weights_manifest),
        prompts=by(prompts.owed_prompts),
    output:
        answered=f"{CELL}/answered.json",
        answers=directory(f"{CELL}/answers"),
    log:
        LAYOUT.log("answer_otherwise", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(prompts.answered_by(PLAN, vllm=not VLLM)),
    cache: STORED
    priority: 60
    conda:
        "../envs/train.yaml" if VLLM else "../envs/vllm.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **SHARED | {"gpu": resources.answering_gpus(PLAN, not VLLM)},
    params:
        code=by(scoring.engine_code),
        pins=by(scoring.engine_pins),
        settings=by(prompts.answering_settings),
        seed=by(policies.seed_told),
    message:
        "{wildcards.policy} (seed {wildcards.seed}) answers again by another engine"
    shell:
        f'{UNLESS_DIVERGED}PATH="$OTHER_ENGINE_PATH$PATH" {LAUNCH}{ANSWER}'
        f" --cost {cost('answer_otherwise', 'policy', 'seed')} > {{log:q}} 2>&1"


# `answered.json` is ancient here: it orders the two jobs, but a change to another prompt set, which makes it new,
# leaves this one's answers as they are. What they do depend on stands beside it.
rule collect_answers:
    input:
        answered=ancient(f"{CELL}/answered.json"),
        model=by(policies.weights_manifest),
        prompts=LAYOUT.prompts("{prompts}"),
    output:
        manifest=LAYOUT.answers("{policy}", "{seed}", "{prompts}"),
        rows=LAYOUT.answer_rows("{policy}", "{seed}", "{prompts}"),
    log:
        LAYOUT.log("collect_answers", "{policy}-{seed}-{prompts}"),
    wildcard_constraints:
        policy=one_of([*PLAN.policies, *PLAN.again]),
        prompts=one_of(prompts.prompt_sets(PLAN)),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.generate.collect"),
        engine=by(scoring.engine_code),
        pins=by(scoring.engine_pins),
        settings=rules.answer_prompts.params.settings,
    message:
        "Collecting {wildcards.policy} (seed {wildcards.seed}) on {wildcards.prompts}"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.generate.collect --answered {input.answered:q} --prompts {input.prompts:q}"
        ' --answers "$(dirname {input.answered:q})/answers" --work $WORK/answers/{wildcards.policy:q}-{wildcards.seed:q}'
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule calibrate_answers:
    input:
        prompts=LAYOUT.prompts("{prompts}"),
        models=by(prompts.calibration_models),
    output:
        manifest=LAYOUT.answers("{policy}", "{seed}", "{prompts}"),
        rows=LAYOUT.answer_rows("{policy}", "{seed}", "{prompts}"),
    log:
        LAYOUT.log("calibrate_answers", "{policy}-{seed}-{prompts}"),
    wildcard_constraints:
        policy=one_of(CALIBRATION),
        prompts=one_of(prompts.answered(PLAN)),
        seed="0",
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.generate.calibrate"),
        pins=by(prompts.calibration_pins),
        models=by(prompts.calibration_settings),
    message:
        "Calibration answers {wildcards.policy} for {wildcards.prompts}"
    shell:
        "python -m workflow_scripts.generate.calibrate --policy {wildcards.policy:q} --prompts {input.prompts:q}"
        " --models {params.models:q} --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


# Policies from elsewhere: an endpoint answers, or answers are ready. A prompt set at a time: no weights are loaded.
ASKING = (
    " --policy {wildcards.policy:q} --prompts {input.prompts:q} --judge {params.judge:q}"
    f' --access "$PLUMBLINE_JUDGES" --store {layout.JUDGES} --study {NAME}'
    " --cell {wildcards.policy:q}-{wildcards.seed:q}-{wildcards.prompts:q}"
)


# localrule: it waits for an endpoint, which the head's network reaches.
rule ask_policy:
    input:
        prompts=LAYOUT.prompts("{prompts}"),
        recorded=by(outside.recorded),
    output:
        manifest=LAYOUT.answers("{policy}", "{seed}", "{prompts}"),
        rows=LAYOUT.answer_rows("{policy}", "{seed}", "{prompts}"),
    log:
        LAYOUT.log("ask_policy", "{policy}-{seed}-{prompts}"),
    wildcard_constraints:
        policy=one_of(outside.asked(PLAN)),
        prompts=one_of(prompts.answered(PLAN)),
    localrule: True
    conda:
        "../envs/train.yaml"
    resources:
        judge=1,
    params:
        code=code_of("workflow_scripts.generate.ask"),
        judge=by(outside.answerer_settings),
    message:
        "Asking {wildcards.policy} {wildcards.prompts}"
    shell:
        f"python -m workflow_scripts.generate.ask{ASKING} --output {{output.rows:q}} --manifest {{output.manifest:q}}"
        f" --cost {cost('ask_policy', 'policy', 'seed', 'prompts')} 2> {{log:q}}"


rule plan_asking:
    input:
        prompts=LAYOUT.prompts("{prompts}"),
    output:
        temp(LAYOUT.asking("{policy}", "{seed}", "{prompts}")),
    log:
        LAYOUT.log("plan_asking", "{policy}-{seed}-{prompts}"),
    wildcard_constraints:
        policy=one_of(outside.asked(PLAN)),
        prompts=one_of(prompts.answered(PLAN)),
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        judge=by(outside.answerer_settings),
        at=time.time_ns(),  # the store and the prices are no inputs: it is counted anew each time
    message:
        "Counting what asking {wildcards.policy} {wildcards.prompts} takes"
    shell:
        f"python -m workflow_scripts.generate.ask --plan{ASKING} --output {{output:q}} 2> {{log:q}}"


rule read_answers:
    input:
        prompts=LAYOUT.prompts("{prompts}"),
        answers=by(outside.answers_file),
    output:
        manifest=LAYOUT.answers("{policy}", "{seed}", "{prompts}"),
        rows=LAYOUT.answer_rows("{policy}", "{seed}", "{prompts}"),
    log:
        LAYOUT.log("read_answers", "{policy}-{seed}-{prompts}"),
    wildcard_constraints:
        policy=one_of(outside.given(PLAN)),
        prompts=one_of(prompts.answered(PLAN)),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.generate.given"),
        answers=by(outside.answers_words),
    message:
        "Reading the answers of {wildcards.policy} to {wildcards.prompts}"
    shell:
        "python -m workflow_scripts.generate.given --policy {wildcards.policy:q} --prompts {input.prompts:q}"
        " {params.answers:u} --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"
