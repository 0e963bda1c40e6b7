# Preference pairs: from a policy's own mistakes, from its own answers ranked by a reward or a judge, or from answers that
# came ranked.


rule build_pairs:
    input:
        prompts=LAYOUT.prompts("pairs-{pairs}"),
        generations=LAYOUT.answers("{policy}", "{seed}", "pairs-{pairs}"),
    output:
        manifest=f"{LAYOUT.own_pairs('{pairs}', '{policy}', '{seed}')}/manifest.json",
        pairs=f"{LAYOUT.own_pairs('{pairs}', '{policy}', '{seed}')}/pairs.jsonl",
        ranked=f"{LAYOUT.own_pairs('{pairs}', '{policy}', '{seed}')}/ranked.jsonl",
        rejected=f"{LAYOUT.own_pairs('{pairs}', '{policy}', '{seed}')}/rejected.jsonl",
    log:
        LAYOUT.log("build_pairs", "{pairs}-{policy}-{seed}"),
    wildcard_constraints:
        pairs=one_of(training.mistaken_pairs(PLAN)),
        policy=one_of(PLAN.policies),
    cache: STORED
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.pairs.build"),
        settings=by(training.own_pairs_settings),
    message:
        "Pairs {wildcards.pairs} from the mistakes of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}"
        f"python -m workflow_scripts.pairs.build {answered_in_shell('pairs-{pairs}')}"
        " --settings {params.settings:q} --output {output.pairs:q} --ranked {output.ranked:q}"
        " --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule rank_samples:
    input:
        by(training.sampled_inputs),
    output:
        manifest=f"{LAYOUT.own_pairs('{pairs}', '{policy}', '{seed}')}/manifest.json",
        pairs=f"{LAYOUT.own_pairs('{pairs}', '{policy}', '{seed}')}/pairs.jsonl",
        ranked=f"{LAYOUT.own_pairs('{pairs}', '{policy}', '{seed}')}/ranked.jsonl",
        rejected=f"{LAYOUT.own_pairs('{pairs}', '{policy}', '{seed}')}/rejected.jsonl",
    log:
        LAYOUT.log("rank_samples", "{pairs}-{policy}-{seed}"),
    wildcard_constraints:
        pairs=one_of(training.sampled_pairs(PLAN)),
        policy=one_of(PLAN.policies),
    cache: STORED
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.pairs.samples"),
        settings=by(training.sampled_pairs_settings),
        ranked=by(training.sampled_flags),
    message:
        "Pairs {wildcards.pairs} from ranked samples of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.pairs.samples {params.ranked:u} --settings {params.settings:q}"
        " --output {output.pairs:q} --ranked {output.ranked:q}"
        " --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule rank_answers:
    input:
        by(training.ranking_input),
    output:
        manifest=f"{LAYOUT.ranked_pairs('{pairs}')}/manifest.json",
        pairs=f"{LAYOUT.ranked_pairs('{pairs}')}/pairs.jsonl",
        ranked=f"{LAYOUT.ranked_pairs('{pairs}')}/ranked.jsonl",
        rejected=f"{LAYOUT.ranked_pairs('{pairs}')}/rejected.jsonl",
    log:
        LAYOUT.log("rank_answers", "{pairs}"),
    wildcard_constraints:
        pairs=one_of(training.ranked_pairs(PLAN)),
    cache: STORED
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.pairs.ranked"),
        settings=by(training.ranking_settings),
        rows=by(training.ranking_rows),
    message:
        "Pairs {wildcards.pairs} from ranked answers"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.pairs.ranked --annotated {params.rows:u} --settings {params.settings:q}"
        " --output {output.pairs:q} --ranked {output.ranked:q}"
        " --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"
