# Sources that a model writes: its replies, asked for once each, and the rows that are made of them.

WRITING = (
    " --name {wildcards.written:q} --settings {params.settings:q} --judge {params.judge:q}"
    f' --access "$PLUMBLINE_JUDGES" --store {layout.JUDGES} --study {NAME}'
)


# localrule: it waits for an endpoint, which the head's network reaches.
rule write_rows:
    input:
        rows=by(synthesis.about_input),
        recorded=by(synthesis.recorded),
    output:
        manifest=LAYOUT.replies("{written}"),
        replies=LAYOUT.reply_rows("{written}"),
    log:
        LAYOUT.log("write_rows", "{written}"),
    wildcard_constraints:
        written=one_of(synthesis.all_written(PLAN)),
    priority: 90
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.synthesise.write"),
        judge=by(synthesis.writer_settings),
        settings=by(synthesis.writing_settings),
        rows=by(synthesis.about_words),
    message:
        "Having {wildcards.written} written"
    shell:
        f"python -m workflow_scripts.synthesise.write --rows {{params.rows:u}}{WRITING}"
        " --output {output.replies:q} --manifest {output.manifest:q}"
        f" --cost {cost('write_rows', 'written')} 2> {{log:q}}"


rule clean_written:
    input:
        replies=LAYOUT.replies("{written}"),
        asked=by(synthesis.items_inputs),
    output:
        manifest=f"{LAYOUT.written('{written}')}/manifest.json",
        files=directory(f"{LAYOUT.written('{written}')}/files"),
    log:
        LAYOUT.log("clean_written", "{written}"),
    wildcard_constraints:
        written=one_of(synthesis.all_written(PLAN)),
    priority: 90
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.written"),
        settings=by(synthesis.written_settings),
        asked=by(synthesis.items_words),
    message:
        "Making rows of the replies for {wildcards.written}"
    shell:
        "python -m workflow_scripts.clean.written --name {wildcards.written:q} --settings {params.settings:q}"
        ' --replies "$(dirname {input.replies:q})/replies.jsonl" --items {params.asked:u}'
        " --output {output.files:q} --manifest {output.manifest:q} 2> {log:q}"


rule plan_writing:
    input:
        by(synthesis.first_input),
    output:
        temp(LAYOUT.writing("{written}")),
    log:
        LAYOUT.log("plan_writing", "{written}"),
    wildcard_constraints:
        written=one_of(synthesis.all_written(PLAN)),
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        judge=by(synthesis.writer_settings),
        settings=by(synthesis.writing_settings),
        before=by(synthesis.writings_before),
        rows=by(synthesis.first_words),
        at=time.time_ns(),  # the store and the prices are no inputs: it is counted anew each time
    message:
        "Counting what writing {wildcards.written} takes"
    shell:
        f"python -m workflow_scripts.synthesise.write --plan --rows {{params.rows:u}}{WRITING}"
        " --before {params.before:q} --output {output:q} 2> {log:q}"
