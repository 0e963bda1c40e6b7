# Policies whose weights are there already: taken in as they are, in place of a training. What follows is as for any.


rule adopt_policy:
    input:
        parent=by(policies.parent_manifest),
        checkpoint=by(adopting.checkpoint_files),
    output:
        manifest=f"{CELL}/manifest.json",
        model=directory(f"{CELL}/model"),
    log:
        LAYOUT.log("adopt_policy", "{policy}-{seed}"),
    wildcard_constraints:
        policy=one_of(adopting.adopted(PLAN)),
    priority: 90
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING | {"gpu": 0},
    params:
        code=code_of("workflow_scripts.download.adopt"),
        pins=pins(*TORCH, "peft"),
        settings=by(adopting.adopting_settings),
        folder=by(adopting.checkpoint),
        name=by(adopting.checkpoint_name),
    message:
        "Adopting {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}"
        "python -m workflow_scripts.download.adopt --checkpoint {params.folder:q} --name {params.name:q}"
        ' --parent "$(dirname {input.parent:q})/model" --settings {params.settings:q}'
        " --output {output.model:q} --manifest {output.manifest:q} > {log:q} 2>&1"
