# Passages that fit a question, written into the rows of a cleaned dataset.


rule retrieve_passages:
    input:
        cleaned=by(retrieval.cleaned_rows),
        sources=by(retrieval.retrieved_from),
    output:
        manifest=f"{LAYOUT.clean('{dataset}')}/manifest.json",
        rows=directory(f"{LAYOUT.clean('{dataset}')}/rows"),
    log:
        LAYOUT.log("retrieve_passages", "{dataset}"),
    wildcard_constraints:
        dataset=one_of(retrieval.retrieving(PLAN)),
    cache: STORED
    priority: 90
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    params:
        code=code_of("workflow_scripts.retrieve.retrieve"),
        pins=by(retrieval.retrieval_pins),
        settings=by(retrieval.retrieval_settings),
        passages=by(retrieval.passages_file),
    message:
        "Retrieving passages for dataset {wildcards.dataset}"
    shell:
        "python -m workflow_scripts.retrieve.retrieve --cleaned {input.cleaned:q} --passages {params.passages:q}"
        " --settings {params.settings:q} --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"
