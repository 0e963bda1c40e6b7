# Tokens with labels, then supervised fine-tuning: a policy from its parent.


rule tokenise_dataset:
    input:
        dataset=by(training.tokens_dataset),
        model=by(policies.base_manifest),
    output:
        manifest=f"{LAYOUT.tokens('{policy}')}/manifest.json",
        rows=directory(f"{LAYOUT.tokens('{policy}')}/rows"),
    log:
        LAYOUT.log("tokenise_dataset", "{policy}"),
    wildcard_constraints:
        policy=one_of(training.on_datasets(PLAN)),
    cache: STORED
    priority: 90
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.sft.tokenise"),
        pins=pins(*TORCH),
        settings=by(training.tokens_settings),
        splits=by(training.tokens_splits),
    message:
        "Tokenising for {wildcards.policy}"
    shell:
        "python -m workflow_scripts.sft.tokenise --splits {params.splits:u}"
        ' --tokenizer "$(dirname {input.model:q})/model" --settings {params.settings:q}'
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule tokenise_chosen:
    input:
        pairs=by(training.chosen_manifest),
        model=by(policies.base_manifest),
    output:
        manifest=f"{LAYOUT.chosen_tokens('{policy}', '{seed}')}/manifest.json",
        rows=directory(f"{LAYOUT.chosen_tokens('{policy}', '{seed}')}/rows"),
    log:
        LAYOUT.log("tokenise_chosen", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(training.on_chosen(PLAN)),
    cache: STORED
    priority: 90
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.sft.tokenise"),
        pins=pins(*TORCH),
        settings=by(training.tokens_settings),
    message:
        "Tokenising the chosen answers that {wildcards.policy} (seed {wildcards.seed}) learns"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}"
        'python -m workflow_scripts.sft.tokenise --pairs "$(dirname {input.pairs:q})/pairs.jsonl"'
        ' --tokenizer "$(dirname {input.model:q})/model" --settings {params.settings:q}'
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule train_sft:
    input:
        parent=by(policies.parent_manifest),
        tokens=by(training.material),
        watch=by(training.watch_inputs),
    output:
        manifest=f"{CELL}/manifest.json",
        curve=f"{CELL}/curve.json",
        model=directory(f"{CELL}/model"),
    log:
        LAYOUT.log("train_sft", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(training.policies_on(PLAN, "tokens")),
    cache: STORED
    priority: 90  # everything else waits for it
    conda:
        "../envs/train.yaml"
    threads: by(training.threads)
    resources:
        **TRAINING,
    params:
        code=code_of("workflow_scripts.sft.train"),
        pins=by(training.pinned),
        settings=by(training.training_settings),
        seed=by(policies.seed_told),
        watch=by(training.watching_settings),
        watched=by(training.watch_flags),
    message:
        "Fine-tuning {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- workflow_scripts.sft.train"
        ' --tokens "$(dirname {input.tokens:q})/rows" --tokens-manifest {input.tokens:q}'
        f" {POLICY_FLAGS} --cost {cost('train_sft', 'policy', 'seed')}"
        " > {log:q} 2>&1"


# Any method's: the best of several policies, by their validation.
rule choose_policy:
    input:
        by(choosing.candidate_manifests),
    output:
        manifest=f"{CELL}/manifest.json",
        model=directory(f"{CELL}/model"),
    log:
        LAYOUT.log("choose_policy", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(PLAN.chosen()),
    priority: 90
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.align.best_of"),
        settings=by(choosing.choosing_settings),
        candidates=by(choosing.candidate_words),
    message:
        "Choosing {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m workflow_scripts.align.best_of --settings {params.settings:q} --candidates {params.candidates:u}"
        " --output {output.model:q} --manifest {output.manifest:q} 2> {log:q}"
