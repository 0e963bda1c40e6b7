# Prompt sets, and answers: one engine load per policy for all it owes, one file per prompt set from there on.


rule build_prompts:
    input:
        prompts_input,
    output:
        manifest=f"{RESULTS}/prompts/{{prompts}}.json",
        rows=f"{RESULTS}/prompts/{{prompts}}.jsonl",
    log:
        f"{LOGS}/build_prompts/{{prompts}}.log",
    wildcard_constraints:
        prompts=one_of(PROMPT_SETS),
    priority: 60
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.generate.prompts"),
        kind=prompts_kind,
        file=lambda wildcards: in_shell(prompts_file(wildcards)),
        sampling=sampling_of,
        cuts=prompt_cuts,
    message:
        "Building prompt set {wildcards.prompts}"
    shell:
        "python -m workflow_scripts.generate.prompts --kind {params.kind:q} --input {params.file:u} --sampling {params.sampling:q}"
        " {params.cuts:q} --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule answer_prompts:
    input:
        model=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
        prompts=lambda wildcards: [
            prompts_manifest(name) for name in owed_by(wildcards.policy)
        ],
    output:
        answered=f"{CELL}/answered.json",
        answers=directory(f"{CELL}/answers"),
    log:
        f"{LOGS}/answer_prompts/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(POLICIES),
        seed=r"\d+",
    cache: STORED
    priority: 60
    conda:
        ENGINE_ENVIRONMENT
    threads: STUDY.generation_resources.cpus
    resources:
        **(ANSWERING if VLLM else READING),
    params:
        code=ENGINE_CODE,
        pins=ENGINE_PINS,
        settings=lambda wildcards: as_json(
            {
                "engine": STUDY.engine.model_dump(),
                "template": template_of(wildcards.policy),
                "context": model_of(wildcards.policy).context,
                "trust_remote_code": remote_code(wildcards.policy),
            }
        ),
    message:
        "{wildcards.policy} (seed {wildcards.seed}) answers its prompt sets"
    shell:
        f'{UNLESS_DIVERGED}PATH="$ENGINE_PATH$PATH" {LAUNCH}'
        " --claim $WORK/answers/{wildcards.policy:q}-{wildcards.seed:q}.lock -- workflow_scripts.generate.answer"
        ' --model "$(dirname {input.model:q})/model" --model-manifest {input.model:q}'
        " --prompts {input.prompts:q} --settings {params.settings:q} --seed {wildcards.seed:q}"
        " --work $WORK/answers/{wildcards.policy:q}-{wildcards.seed:q} --answers {output.answers:q} --output {output.answered:q}"
        " --cost $RESULTS/costs/answer_prompts/{wildcards.policy:q}-{wildcards.seed:q}.json > {log:q} 2>&1"


# `answered.json` is ancient here: it orders the two jobs, but a change to another prompt set, which makes it new,
# leaves this one's answers as they are. What they do depend on stands beside it.
rule collect_answers:
    input:
        answered=ancient(f"{CELL}/answered.json"),
        model=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
        prompts=f"{RESULTS}/prompts/{{prompts}}.json",
    output:
        manifest=f"{CELL}/generations/{{prompts}}.json",
        rows=f"{CELL}/generations/{{prompts}}.jsonl",
    log:
        f"{LOGS}/collect_answers/{{policy}}-{{seed}}-{{prompts}}.log",
    wildcard_constraints:
        policy=one_of(POLICIES),
        prompts=one_of(PROMPT_SETS),
        seed=r"\d+",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.generate.collect"),
        engine=ENGINE_CODE,
        pins=ENGINE_PINS,
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
        prompts=f"{RESULTS}/prompts/{{prompts}}.json",
        models=lambda wildcards: [
            f"{path.parent}/manifest.json" for path in spoken_in(wildcards)
        ],
    output:
        manifest=f"{CELL}/generations/{{prompts}}.json",
        rows=f"{CELL}/generations/{{prompts}}.jsonl",
    log:
        f"{LOGS}/calibrate_answers/{{policy}}-{{seed}}-{{prompts}}.log",
    wildcard_constraints:
        policy=one_of(CALIBRATION),
        prompts=one_of(PROMPTED),
        seed="0",
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.generate.calibrate"),
        pins=lambda wildcards: pins(*TORCH) if spoken_in(wildcards) else {},
        models=lambda wildcards: as_json(
            [
                {"name": name, "folder": str(folder), "template": template}
                for folder, spoken in spoken_in(wildcards).items()
                for name, template in spoken.items()
            ]
        ),
    message:
        "Calibration answers {wildcards.policy} for {wildcards.prompts}"
    shell:
        "python -m workflow_scripts.generate.calibrate --policy {wildcards.policy:q} --prompts {input.prompts:q}"
        " --models {params.models:q} --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"
