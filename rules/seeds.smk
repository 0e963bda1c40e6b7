# Of a study that chooses its number of seeds as it runs: the choice, once, after the first ones have been scored.


checkpoint choose_seeds:
    input:
        by(growing.deciding_scores),
    output:
        LAYOUT.chosen_seeds,
    log:
        LAYOUT.log("choose_seeds"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.choose_seeds"),
        settings=by(growing.choice_settings),
    message:
        "Choosing the number of seeds of {NAME}"
    shell:
        "python -m workflow_scripts.report.choose_seeds --scores {input:q} --settings - --output {output:q}"
        " 2> {log:q} <<< {params.settings:q}"
