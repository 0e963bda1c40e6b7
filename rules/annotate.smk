# Reward models on pairs of their own split, and reward columns for a dataset's splits.


rule build_reward_pairs:
    input:
        lambda wildcards: f"{CLEAN}/{STUDY.reward_models[wildcards.reward].dataset}/manifest.json",
    output:
        manifest=f"{RESULTS}/reward_models/{{reward}}/pairs.json",
        pairs=f"{RESULTS}/reward_models/{{reward}}/pairs.jsonl",
    log:
        f"{LOGS}/build_reward_pairs/{{reward}}.log",
    cache: STORED
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.annotate.reward_pairs"),
        settings=lambda wildcards: settings(
            STUDY.reward_models[wildcards.reward], keys=["seed"]
        ),
        split=lambda wildcards: STUDY.reward_models[wildcards.reward].split,
    message:
        "Building the pairs of reward model {wildcards.reward}"
    shell:
        'python -m workflow_scripts.annotate.reward_pairs --rows "$(dirname {input:q})/rows/"{params.split:q}.jsonl'
        " --settings {params.settings:q} --output {output.pairs:q} --manifest {output.manifest:q} 2> {log:q}"


rule train_reward_model:
    input:
        parent=lambda wildcards: f"{reward_parent(wildcards)}/manifest.json",
        pairs=f"{RESULTS}/reward_models/{{reward}}/pairs.json",
    output:
        manifest=f"{RESULTS}/reward_models/{{reward}}/manifest.json",
        curve=f"{RESULTS}/reward_models/{{reward}}/curve.json",
        model=directory(f"{RESULTS}/reward_models/{{reward}}/model"),
    log:
        f"{LOGS}/train_reward_model/{{reward}}.log",
    cache: STORED
    priority: 50
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: STUDY.reward_models[wildcards.reward].threads
    resources:
        **TRAINING,
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
    message:
        "Training reward model {wildcards.reward}"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_TRAINING} --claim $WORK/train/{{wildcards.reward:q}}.lock -- workflow_scripts.annotate.train_reward"
        ' --parent "$(dirname {input.parent:q})/model" --parent-manifest {input.parent:q}'
        " --pairs {input.pairs:q}l --pairs-manifest {input.pairs:q}"
        " --settings {params.settings:q} --seed {params.seed:q} --work $WORK/train/{wildcards.reward:q}"
        " --output {output.model:q} --manifest {output.manifest:q} --curve {output.curve:q} --note-divergence"
        " --cost $RESULTS/costs/train_reward_model/{wildcards.reward:q}.json > {log:q} 2>&1"


rule annotate_dataset:
    input:
        dataset=lambda wildcards: f"{CLEAN}/{STUDY.annotations[wildcards.annotation].dataset}/manifest.json",
        rewards=lambda wildcards: reward_manifests(wildcards.annotation),
    output:
        manifest=f"{RESULTS}/annotations/{{annotation}}/manifest.json",
        rows=directory(f"{RESULTS}/annotations/{{annotation}}/rows"),
    log:
        f"{LOGS}/annotate_dataset/{{annotation}}.log",
    wildcard_constraints:
        annotation=one_of(STUDY.annotations),
    cache: STORED
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **REWARDING,
    params:
        code=code_of("workflow_scripts.annotate.annotate"),
        pins=pins(*TORCH),
        settings=lambda wildcards: reward_settings(wildcards.annotation),
        splits=lambda wildcards: STUDY.annotations[wildcards.annotation].splits,
        fit_split=lambda wildcards: STUDY.annotations[wildcards.annotation].fit_split,
    message:
        "Annotating {wildcards.annotation}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --claim $WORK/annotate/{{wildcards.annotation:q}}.lock"
        " --cost $RESULTS/costs/annotate_dataset/{wildcards.annotation:q}.json -- workflow_scripts.annotate.annotate"
        ' --rows "$(dirname {input.dataset:q})/rows" --splits {params.splits:q} --fit-split {params.fit_split:q}'
        " --settings {params.settings:q} --work $WORK/annotate/{wildcards.annotation:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule annotate_answers:
    input:
        prompts=f"{RESULTS}/prompts/{{prompts}}.json",
        generations=f"{CELL}/generations/{{prompts}}.json",
        rewards=lambda wildcards: reward_manifests(annotated_by(wildcards)),
        dataset=lambda wildcards: f"{CLEAN}/{prompted_dataset(PROMPT_SETS[wildcards.prompts])}/manifest.json",
    output:
        manifest=f"{CELL}/rewards/{{prompts}}.json",
        rows=f"{CELL}/rewards/{{prompts}}.jsonl",
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
    cache: STORED
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **REWARDING,
    params:
        code=code_of("workflow_scripts.annotate.answers"),
        pins=pins(*TORCH),
        settings=lambda wildcards: reward_settings(annotated_by(wildcards)),
        fit_split=lambda wildcards: STUDY.annotations[annotated_by(wildcards)].fit_split,
    message:
        "Rewarding {wildcards.policy} (seed {wildcards.seed}) on {wildcards.prompts}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/annotate_answers/{{wildcards.policy:q}}-{{wildcards.seed:q}}-{{wildcards.prompts:q}}.json --"
        " workflow_scripts.annotate.answers --prompts {input.prompts:q}l --generations {input.generations:q}l"
        ' --fit-rows "$(dirname {input.dataset:q})/rows/"{params.fit_split:q}.jsonl --settings {params.settings:q}'
        " --work $WORK/annotate/{wildcards.policy:q}-{wildcards.seed:q}-{wildcards.prompts:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"
