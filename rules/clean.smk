# Raw files to canonical rows, split by group; every dropped row or turn is counted.


rule clean_dataset:
    input:
        source=by(cleaning.dataset_source),
        held_out=by(cleaning.held_out),
        tokenizer=by(cleaning.counting_model),
    output:
        manifest=f"{LAYOUT.clean('{dataset}')}/manifest.json",
        rows=directory(f"{LAYOUT.clean('{dataset}')}/rows"),
    log:
        LAYOUT.log("clean_dataset", "{dataset}"),
    wildcard_constraints:
        dataset=one_of(cleaning.folders(PLAN)),
    cache: STORED
    priority: 90
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.clean"),
        pins=by(cleaning.dataset_pins),
        settings=by(cleaning.dataset_settings),
        files=by(cleaning.dataset_files),
    message:
        "Cleaning dataset {wildcards.dataset}"
    shell:
        "python -m workflow_scripts.clean.clean --inputs {params.files:u} --settings {params.settings:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule keep_apart:
    input:
        cleaned=by(cleaning.apart_from),
        held_out=by(cleaning.apart_inputs),
    output:
        manifest=f"{LAYOUT.clean('{dataset}')}/manifest.json",
        rows=directory(f"{LAYOUT.clean('{dataset}')}/rows"),
    log:
        LAYOUT.log("keep_apart", "{dataset}"),
    wildcard_constraints:
        dataset=one_of(cleaning.apart_folders(PLAN)),
    cache: STORED
    priority: 90
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.keep_apart"),
        settings=by(cleaning.apart_settings),
        rows=by(cleaning.apart_rows),
    message:
        "Keeping dataset {wildcards.dataset} apart from what others hold out"
    shell:
        "python -m workflow_scripts.clean.keep_apart --cleaned {input.cleaned:q} --held-out {params.rows:u}"
        " --settings {params.settings:q} --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule mix_datasets:
    input:
        by(cleaning.mixed_datasets),
    output:
        manifest=f"{LAYOUT.clean('{dataset}')}/manifest.json",
        rows=directory(f"{LAYOUT.clean('{dataset}')}/rows"),
    log:
        LAYOUT.log("mix_datasets", "{dataset}"),
    wildcard_constraints:
        dataset=one_of(cleaning.mixed(PLAN)),
    cache: STORED
    priority: 90
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.mix"),
        settings=by(cleaning.mixture_settings),
        rows=by(cleaning.mixed_rows),
    message:
        "Mixing dataset {wildcards.dataset}"
    shell:
        "python -m workflow_scripts.clean.mix --rows {params.rows:u} --settings {params.settings:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule clean_reply_pairs:
    input:
        by(cleaning.paired_input),
    output:
        manifest=f"{LAYOUT.clean('{benchmark}')}/manifest.json",
        rows=directory(f"{LAYOUT.clean('{benchmark}')}/rows"),
    log:
        LAYOUT.log("clean_reply_pairs", "{benchmark}"),
    wildcard_constraints:
        benchmark=one_of(cleaning.paired(PLAN)),
    cache: STORED
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.reply_pairs"),
        settings=by(cleaning.paired_settings),
        files=by(cleaning.paired_files),
    message:
        "Cleaning the reply pairs of {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.clean.reply_pairs --inputs {params.files:q} --settings {params.settings:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"
