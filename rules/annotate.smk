# Reward models on pairs of their own split, and reward columns for a dataset's splits.


rule build_reward_pairs:
    input:
        lambda wildcards: f"{CLEAN}/{STUDY.reward_models[wildcards.reward].dataset}/manifest.json",
    output:
        f"{RESULTS}/reward_models/{{reward}}/pairs.json",
    log:
        f"{LOGS}/build_reward_pairs/{{reward}}.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.annotate.reward_pairs"),
        settings=lambda wildcards: settings(
            STUDY.reward_models[wildcards.reward], keys=["seed"]
        ),
        rows=lambda wildcards: "{CLEAN}/{part.dataset}/rows/{part.split}.jsonl".format(
            CLEAN=CLEAN, part=STUDY.reward_models[wildcards.reward]
        ),
    message:
        "Building the pairs of reward model {wildcards.reward}"
    shell:
        "python -m workflow_scripts.annotate.reward_pairs --rows {params.rows} --settings {params.settings:q}"
        f" --output {RESULTS}/reward_models/{{wildcards.reward}}/pairs.jsonl --manifest {{output}} 2> {{log}}"


rule train_reward_model:
    input:
        parent=lambda wildcards: f"{reward_parent(wildcards)}/manifest.json",
        pairs=f"{RESULTS}/reward_models/{{reward}}/pairs.json",
    output:
        manifest=f"{RESULTS}/reward_models/{{reward}}/manifest.json",
        curve=f"{RESULTS}/reward_models/{{reward}}/curve.json",
    log:
        f"{LOGS}/train_reward_model/{{reward}}.log",
    priority: 50
    conda:
        "../envs/plumbline.yaml"
    threads: lambda wildcards: STUDY.reward_models[wildcards.reward].threads
    resources:
        gpu=STUDY.training_resources.gpu,
        mem_mb=STUDY.training_resources.mem_mb,
        runtime=STUDY.training_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.annotate.train_reward"),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: settings(
            STUDY.reward_models[wildcards.reward],
            drop=["parent", "dataset", "split", "seed", "threads"],
            keep="last",
            trust_remote_code=remote_code(
                STUDY.reward_models[wildcards.reward].parent
            ),
        ),
        seed=lambda wildcards: STUDY.reward_models[wildcards.reward].seed,
        parent=reward_parent,
    message:
        "Training reward model {wildcards.reward}"
    shell:
        "python -m workflow_scripts.annotate.train_reward --parent {params.parent}/model --parent-manifest {input.parent}"
        f" --pairs {RESULTS}/reward_models/{{wildcards.reward}}/pairs.jsonl --pairs-manifest {{input.pairs}}"
        " --settings {params.settings:q} --seed {params.seed}"
        f" --work {WORK}/train/{{wildcards.reward}} --output {RESULTS}/reward_models/{{wildcards.reward}}/model"
        f" --manifest {{output.manifest}} --curve {{output.curve}}"
        f" --cost {RESULTS}/costs/train_reward_model/{{wildcards.reward}}.json > {{log}} 2>&1"


rule annotate_dataset:
    input:
        dataset=lambda wildcards: f"{CLEAN}/{STUDY.annotations[wildcards.annotation].dataset}/manifest.json",
        rewards=lambda wildcards: reward_manifests(wildcards.annotation),
    output:
        f"{RESULTS}/annotations/{{annotation}}/manifest.json",
    log:
        f"{LOGS}/annotate_dataset/{{annotation}}.log",
    wildcard_constraints:
        annotation=one_of(STUDY.annotations),
    conda:
        "../envs/plumbline.yaml"
    threads: 1
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.annotate.annotate"),
        pins=pins(*TORCH),
        settings=lambda wildcards: reward_settings(wildcards.annotation),
        rows=lambda wildcards: f"{CLEAN}/{STUDY.annotations[wildcards.annotation].dataset}/rows",
        splits=lambda wildcards: STUDY.annotations[wildcards.annotation].splits,
        fit_split=lambda wildcards: STUDY.annotations[wildcards.annotation].fit_split,
    message:
        "Annotating {wildcards.annotation}"
    shell:
        "python -m workflow_scripts.annotate.annotate --rows {params.rows} --splits {params.splits} --fit-split {params.fit_split}"
        f" --settings {{params.settings:q}} --work {WORK}/annotate/{{wildcards.annotation}}"
        f" --output {RESULTS}/annotations/{{wildcards.annotation}}/rows --manifest {{output}} 2> {{log}}"


rule annotate_answers:
    input:
        prompts=f"{RESULTS}/prompts/{{prompts}}.json",
        generations=f"{CELL}/generations/{{prompts}}.json",
        rewards=lambda wildcards: reward_manifests(annotated_by(wildcards)),
        dataset=lambda wildcards: f"{CLEAN}/{prompted_dataset(PROMPT_SETS[wildcards.prompts])}/manifest.json",
    output:
        f"{CELL}/rewards/{{prompts}}.json",
    log:
        f"{LOGS}/annotate_answers/{{policy}}-{{seed}}-{{prompts}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        prompts=one_of(
            name
            for name, part in (PROMPTED | VALUE_SETS).items()
            if hasattr(part, "annotation")
        ),
    conda:
        "../envs/plumbline.yaml"
    threads: 1
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.annotate.answers"),
        pins=pins(*TORCH),
        settings=lambda wildcards: reward_settings(annotated_by(wildcards)),
        fit_rows=lambda wildcards: fit_rows(annotated_by(wildcards)),
    message:
        "Rewarding {wildcards.policy} (seed {wildcards.seed}) on {wildcards.prompts}"
    shell:
        "python -m workflow_scripts.annotate.answers --prompts {input.prompts}l --generations {input.generations}l"
        " --fit-rows {params.fit_rows} --settings {params.settings:q}"
        f" --work {WORK}/annotate/{{wildcards.policy}}-{{wildcards.seed}}-{{wildcards.prompts}}"
        " --output {output}l --manifest {output} 2> {log}"
