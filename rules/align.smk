# What the parent says about pairs or rewarded answers, once; then one policy per method.


rule score_reference:
    input:
        pairs=by(training.pairs_manifest),
        parent=by(policies.weights_manifest),
    output:
        manifest=f"{LAYOUT.reference('{pairs}', '{policy}', '{seed}')}/manifest.json",
        rows=f"{LAYOUT.reference('{pairs}', '{policy}', '{seed}')}/rows.parquet",
        rejected=f"{LAYOUT.reference('{pairs}', '{policy}', '{seed}')}/rejected.jsonl",
    log:
        LAYOUT.log("score_reference", "{pairs}-{policy}-{seed}"),
    wildcard_constraints:
        pairs=one_of(STUDY.pairs),
        policy=one_of(PLAN.policies),
    cache: STORED
    priority: 80
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING,
    params:
        code=code_of("workflow_scripts.align.pair_reference"),
        pins=pins(*TRAINERS),
        settings=by(training.reference_settings),
    message:
        "Reference log-probs of {wildcards.policy} (seed {wildcards.seed}) on pairs {wildcards.pairs}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost {cost('score_reference', 'pairs', 'policy', 'seed')} --"
        ' workflow_scripts.align.pair_reference --parent "$(dirname {input.parent:q})/model"'
        ' --pairs "$(dirname {input.pairs:q})/pairs.jsonl" --settings {params.settings:q}'
        " --output {output.rows:q} --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule train_aligned:
    input:
        parent=by(policies.parent_manifest),
        reference=by(training.material),
        watch=by(training.watch_inputs),
    output:
        manifest=f"{CELL}/manifest.json",
        curve=f"{CELL}/curve.json",
        model=directory(f"{CELL}/model"),
    log:
        LAYOUT.log("train_aligned", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(training.policies_on(PLAN, "pairs")),
    cache: STORED
    priority: 70
    conda:
        "../envs/train.yaml"
    threads: by(training.threads)
    resources:
        **TRAINING,
    params:
        code=by(training.code),
        pins=by(training.pinned),
        settings=by(training.training_settings),
        seed=by(policies.seed_told),
        watch=by(training.watching_settings),
        watched=by(training.watch_flags),
        module=by(training.module_of),
    message:
        "Aligning {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- {{params.module:q}}"
        ' --reference "$(dirname {input.reference:q})/rows.parquet" --reference-manifest {input.reference:q}'
        f" {POLICY_FLAGS} --cost {cost('train_aligned', 'policy', 'seed')}"
        " > {log:q} 2>&1"


rule tokenise_ranked:
    input:
        pairs=by(training.pairs_manifest),
        model=by(policies.base_manifest),
    output:
        manifest=f"{LAYOUT.ranked('{pairs}', '{policy}', '{seed}')}/manifest.json",
        rows=f"{LAYOUT.ranked('{pairs}', '{policy}', '{seed}')}/rows.parquet",
        rejected=f"{LAYOUT.ranked('{pairs}', '{policy}', '{seed}')}/rejected.jsonl",
    log:
        LAYOUT.log("tokenise_ranked", "{pairs}-{policy}-{seed}"),
    wildcard_constraints:
        pairs=one_of(STUDY.pairs),
        policy=one_of(PLAN.policies),
    cache: STORED
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.align.tokenise_ranked"),
        pins=pins(*TORCH),
        settings=by(training.ranked_settings),
    message:
        "Tokenising the ranked answers of {wildcards.pairs} for {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}"
        'python -m workflow_scripts.align.tokenise_ranked --ranked "$(dirname {input.pairs:q})/ranked.jsonl"'
        ' --parent "$(dirname {input.model:q})/model" --settings {params.settings:q}'
        " --output {output.rows:q} --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule train_ranked:
    input:
        parent=by(policies.parent_manifest),
        ranked=by(training.material),
        watch=by(training.watch_inputs),
    output:
        manifest=f"{CELL}/manifest.json",
        curve=f"{CELL}/curve.json",
        model=directory(f"{CELL}/model"),
    log:
        LAYOUT.log("train_ranked", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(training.policies_on(PLAN, "ranked")),
    cache: STORED
    priority: 70
    conda:
        "../envs/train.yaml"
    threads: by(training.threads)
    resources:
        **TRAINING,
    params:
        code=by(training.code),
        pins=by(training.pinned),
        settings=by(training.training_settings),
        seed=by(policies.seed_told),
        watch=by(training.watching_settings),
        watched=by(training.watch_flags),
        module=by(training.module_of),
    message:
        "Ranking {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- {{params.module:q}}"
        ' --ranked "$(dirname {input.ranked:q})/rows.parquet" --ranked-manifest {input.ranked:q}'
        f" {POLICY_FLAGS} --cost {cost('train_ranked', 'policy', 'seed')}"
        " > {log:q} 2>&1"


rule score_rewarded:
    input:
        annotation=by(training.rewarded_input),
        parent=by(policies.weights_manifest),
    output:
        manifest=f"{LAYOUT.rewarded('{rewarded}', '{policy}', '{seed}')}/manifest.json",
        rows=f"{LAYOUT.rewarded('{rewarded}', '{policy}', '{seed}')}/rows.parquet",
        rejected=f"{LAYOUT.rewarded('{rewarded}', '{policy}', '{seed}')}/rejected.jsonl",
    log:
        LAYOUT.log("score_rewarded", "{rewarded}-{policy}-{seed}"),
    wildcard_constraints:
        rewarded=one_of(training.rewarded_sets(PLAN)),
        policy=one_of(PLAN.policies),
    cache: STORED
    priority: 80
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING,
    params:
        code=code_of("workflow_scripts.align.rewarded_reference"),
        pins=pins(*TRAINERS),
        settings=by(training.rewarded_settings),
        rows=by(training.rewarded_rows),
    message:
        "Reference log-probs of {wildcards.policy} (seed {wildcards.seed}) on rewarded answers {wildcards.rewarded}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost {cost('score_rewarded', 'rewarded', 'policy', 'seed')} --"
        ' workflow_scripts.align.rewarded_reference --parent "$(dirname {input.parent:q})/model" --annotated {params.rows:u}'
        " --settings {params.settings:q} --output {output.rows:q} --rejected {output.rejected:q}"
        " --manifest {output.manifest:q} > {log:q} 2>&1"


rule fit_value:
    input:
        rows=by(training.value_input),
        parent=by(policies.weights_manifest),
    output:
        manifest=f"{LAYOUT.value('{value}', '{policy}', '{seed}')}/manifest.json",
        curve=f"{LAYOUT.value('{value}', '{policy}', '{seed}')}/curve.json",
        head=directory(f"{LAYOUT.value('{value}', '{policy}', '{seed}')}/head"),
    log:
        LAYOUT.log("fit_value", "{value}-{policy}-{seed}"),
    wildcard_constraints:
        value=one_of(STUDY.values),
        policy=one_of(PLAN.policies),
    cache: STORED
    priority: 80
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING,
    params:
        code=code_of("workflow_scripts.align.fit_value"),
        pins=pins(*TORCH),
        settings=by(training.value_settings),
        seed=by(training.value_seed),
        rows=by(training.value_rows),
    message:
        "Fitting value head {wildcards.value} on {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost {cost('fit_value', 'value', 'policy', 'seed')} --"
        ' workflow_scripts.align.fit_value --parent "$(dirname {input.parent:q})/model" --annotated {params.rows:u}'
        " --settings {params.settings:q} --seed {params.seed:q} --output {output.head:q}"
        " --manifest {output.manifest:q} --curve {output.curve:q} --note-divergence > {log:q} 2>&1"


rule estimate_advantages:
    input:
        head=f"{LAYOUT.value('{value}', '{policy}', '{seed}')}/manifest.json",
        rewarded=f"{LAYOUT.rewarded('{rewarded}', '{policy}', '{seed}')}/manifest.json",
        parent=by(policies.weights_manifest),
    output:
        manifest=f"{LAYOUT.advantages('{rewarded}', '{value}', '{policy}', '{seed}')}/manifest.json",
        advantages=f"{LAYOUT.advantages('{rewarded}', '{value}', '{policy}', '{seed}')}/advantages.jsonl",
    log:
        LAYOUT.log("estimate_advantages", "{rewarded}-{value}-{policy}-{seed}"),
    wildcard_constraints:
        rewarded=one_of(training.rewarded_sets(PLAN)),
        value=one_of(STUDY.values),
        policy=one_of(PLAN.policies),
    cache: STORED
    priority: 80
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING,
    params:
        code=code_of("workflow_scripts.align.advantages"),
        pins=pins(*TORCH),
        settings=by(training.advantage_settings),
    message:
        "Advantages over {wildcards.policy} (seed {wildcards.seed}) on {wildcards.rewarded}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost {cost('estimate_advantages', 'rewarded', 'value', 'policy', 'seed')} --"
        ' workflow_scripts.align.advantages --parent "$(dirname {input.parent:q})/model" --head "$(dirname {input.head:q})/head"'
        ' --rewarded "$(dirname {input.rewarded:q})/rows.parquet" --settings {params.settings:q}'
        " --output {output.advantages:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule train_offline:
    input:
        parent=by(policies.parent_manifest),
        rewarded=by(training.material),
        advantages=by(training.advantages_manifest),
        watch=by(training.watch_inputs),
    output:
        manifest=f"{CELL}/manifest.json",
        curve=f"{CELL}/curve.json",
        model=directory(f"{CELL}/model"),
    log:
        LAYOUT.log("train_offline", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(training.policies_on(PLAN, "rewarded")),
    cache: STORED
    priority: 70
    conda:
        "../envs/train.yaml"
    threads: by(training.threads)
    resources:
        **TRAINING,
    params:
        code=by(training.code),
        pins=by(training.pinned),
        settings=by(training.training_settings),
        seed=by(policies.seed_told),
        watch=by(training.watching_settings),
        watched=by(training.watch_flags),
        module=by(training.module_of),
        advantages=by(training.advantages_flags),
    message:
        "Training {wildcards.policy} (seed {wildcards.seed}) on rewarded answers"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- {{params.module:q}}"
        ' --rewarded "$(dirname {input.rewarded:q})/rows.parquet" --rewarded-manifest {input.rewarded:q} {params.advantages:u}'
        f" {POLICY_FLAGS} --cost {cost('train_offline', 'policy', 'seed')}"
        " > {log:q} 2>&1"


rule train_online:
    input:
        parent=by(policies.parent_manifest),
        prompts=by(training.online_manifest),
        rewards=by(training.online_classifiers),
        watch=by(training.watch_inputs),
    output:
        manifest=f"{CELL}/manifest.json",
        curve=f"{CELL}/curve.json",
        model=directory(f"{CELL}/model"),
    log:
        LAYOUT.log("train_online", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(training.policies_on(PLAN, "prompts")),
    cache: STORED
    priority: 70
    conda:
        "../envs/train.yaml"
    threads: by(training.threads)
    resources:
        **ONLINE,
    params:
        code=by(training.code),
        pins=by(training.pinned),
        settings=by(training.training_settings),
        seed=by(policies.seed_told),
        watch=by(training.watching_settings),
        watched=by(training.watch_flags),
        module=by(training.module_of),
        prompts=by(training.online_rows),
        rewards=by(training.online_rewards),
        fit_rows=by(training.online_fit_rows),
    message:
        "Training {wildcards.policy} (seed {wildcards.seed}) on its own rewarded answers"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- {{params.module:q}}"
        " --prompts {params.prompts:u} --prompts-manifest {input.prompts:q} --rewards {params.rewards:q}"
        " --fit-rows {params.fit_rows:u}"
        f" {POLICY_FLAGS} --cost {cost('train_online', 'policy', 'seed')}"
        " > {log:q} 2>&1"
