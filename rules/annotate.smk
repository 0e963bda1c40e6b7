# Reward models on pairs of their own split, and reward columns for a dataset's splits.


rule build_reward_pairs:
    input:
        by(rewards.reward_dataset),
    output:
        manifest=f"{LAYOUT.reward_model('{reward}')}/pairs.json",
        pairs=f"{LAYOUT.reward_model('{reward}')}/pairs.jsonl",
    log:
        LAYOUT.log("build_reward_pairs", "{reward}"),
    cache: STORED
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.annotate.reward_pairs"),
        settings=by(rewards.reward_pairs_settings),
        split=by(rewards.reward_split),
    message:
        "Building the pairs of reward model {wildcards.reward}"
    shell:
        'python -m workflow_scripts.annotate.reward_pairs --rows "$(dirname {input:q})/rows/"{params.split:q}.jsonl'
        " --settings {params.settings:q} --output {output.pairs:q} --manifest {output.manifest:q} 2> {log:q}"


rule train_reward_model:
    input:
        parent=by(rewards.reward_parent),
        pairs=f"{LAYOUT.reward_model('{reward}')}/pairs.json",
    output:
        manifest=f"{LAYOUT.reward_model('{reward}')}/manifest.json",
        curve=f"{LAYOUT.reward_model('{reward}')}/curve.json",
        model=directory(f"{LAYOUT.reward_model('{reward}')}/model"),
    log:
        LAYOUT.log("train_reward_model", "{reward}"),
    cache: STORED
    priority: 50
    conda:
        "../envs/train.yaml"
    threads: by(rewards.reward_threads)
    resources:
        **TRAINING,
    params:
        code=code_of("workflow_scripts.annotate.train_reward"),
        pins=pins(*TRAINERS),
        settings=by(rewards.reward_settings),
        seed=by(rewards.reward_seed),
    message:
        "Training reward model {wildcards.reward}"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_TRAINING} --claim $WORK/train/{{wildcards.reward:q}}.lock -- workflow_scripts.annotate.train_reward"
        ' --parent "$(dirname {input.parent:q})/model" --parent-manifest {input.parent:q}'
        ' --pairs "$(dirname {input.pairs:q})/pairs.jsonl" --pairs-manifest {input.pairs:q}'
        " --settings {params.settings:q} --seed {params.seed:q} --work $WORK/train/{wildcards.reward:q}"
        " --output {output.model:q} --manifest {output.manifest:q} --curve {output.curve:q} --note-divergence"
        f" --cost {cost('train_reward_model', 'reward')} > {{log:q}} 2>&1"


rule annotate_dataset:
    input:
        dataset=by(rewards.annotated_dataset),
        rewards=by(rewards.classifiers),
    output:
        manifest=f"{LAYOUT.annotation('{annotation}')}/manifest.json",
        rows=directory(f"{LAYOUT.annotation('{annotation}')}/rows"),
    log:
        LAYOUT.log("annotate_dataset", "{annotation}"),
    wildcard_constraints:
        annotation=one_of(STUDY.annotations),
    cache: STORED
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **READING | {"gpu": by(resources.annotating_gpus)},
    params:
        code=code_of("workflow_scripts.annotate.annotate"),
        pins=pins(*TORCH),
        settings=by(rewards.rewarding_settings),
        splits=by(rewards.annotated_splits),
        fit_split=by(rewards.fit_split),
    message:
        "Annotating {wildcards.annotation}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --claim $WORK/annotate/{{wildcards.annotation:q}}.lock"
        f" --cost {cost('annotate_dataset', 'annotation')} -- workflow_scripts.annotate.annotate"
        ' --rows "$(dirname {input.dataset:q})/rows" --splits {params.splits:q} --fit-split {params.fit_split:q}'
        " --settings {params.settings:q} --work $WORK/annotate/{wildcards.annotation:q} --shards {resources.gpu:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule annotate_answers:
    input:
        prompts=LAYOUT.prompts("{prompts}"),
        generations=LAYOUT.answers("{policy}", "{seed}", "{prompts}"),
        rewards=by(rewards.answer_classifiers),
        dataset=by(rewards.answer_dataset),
    output:
        manifest=LAYOUT.rewards("{policy}", "{seed}", "{prompts}"),
        rows=LAYOUT.reward_rows("{policy}", "{seed}", "{prompts}"),
    log:
        LAYOUT.log("annotate_answers", "{policy}-{seed}-{prompts}"),
    wildcard_constraints:
        prompts=one_of(prompts.rewarded_sets(PLAN)),
    cache: STORED
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        **READING | {"gpu": by(resources.rewarding_gpus)},
    params:
        code=code_of("workflow_scripts.annotate.answers"),
        pins=pins(*TORCH),
        settings=by(rewards.answer_settings),
        fit_split=by(rewards.answer_fit_split),
    message:
        "Rewarding {wildcards.policy} (seed {wildcards.seed}) on {wildcards.prompts}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost {cost('annotate_answers', 'policy', 'seed', 'prompts')} --"
        f" workflow_scripts.annotate.answers {answered_in_shell('{prompts}')}"
        ' --fit-rows "$(dirname {input.dataset:q})/rows/"{params.fit_split:q}.jsonl --settings {params.settings:q}'
        " --work $WORK/annotate/{wildcards.policy:q}-{wildcards.seed:q}-{wildcards.prompts:q} --shards {resources.gpu:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"
