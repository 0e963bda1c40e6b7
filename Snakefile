# Plumbline: from raw dialogues to one results table. This file is the table of contents; the rules are in rules/,
# what they run is in workflow_scripts/, and a study (config.yaml, studies/*.yaml) says what is to be done.

import logging
import os
import sys
from datetime import datetime
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")
sys.path.insert(0, workflow.basedir)
os.environ |= {"PLUMBLINE_PLACE": os.getcwd()}  # where data/, results/ and work/ are

from workflow_scripts.common.errors import told
from workflow_scripts.common.gpu_lease import found_gpus
from workflow_scripts.console.endings import (
    failed_jobs,
    listen,
    look_when_due,
    say_last,
)
from workflow_scripts.console.so_far import causes, note_due, said_so_far, take_away
from workflow_scripts.plan.finished import look_on, note_at_end
from workflow_scripts.plan.head import plan_quickly
from workflow_scripts.plan.orphans import files_to_make, note_head
from workflow_scripts.plan.staleness import look_past_ancient
from workflow_scripts.report.last_words import (
    command_again,
    failed_words,
    last_words,
)
from workflow_scripts.study.origin import settle_origin
from workflow_scripts.common.surroundings import (
    check_folders,
    check_place,
    settle_temporary,
)

with told():
    plan_quickly()
    look_past_ancient()
    check_place()
    if workflow.is_main_process:
        settle_temporary(os.environ)

# Jobs find our package and the Python that runs this, wherever they are started.
os.environ |= {
    "PLUMBLINE": workflow.basedir,
    "PYTHONPATH": os.pathsep.join(
        [workflow.basedir, os.environ.get("PYTHONPATH", "")]
    ).strip(os.pathsep),
    "PATH": os.pathsep.join(
        [os.path.dirname(sys.executable), os.environ.get("PATH", "")]
    ),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

if workflow.is_main_process:
    ENDINGS = listen()
    READ = look_on()

if not workflow.configfiles:

    configfile: "config.yaml"


report: "report/workflow.rst"


container: "plumbline.sif"  # for --sdm apptainer: apptainer build plumbline.sif envs/plumbline.def


onstart:
    with told():
        check_folders(files_to_make(workflow))
        if not workflow.touch:  # which asks nobody
            due = {}
            for job in workflow.dag.needrun_jobs():
                due.setdefault(job.rule.name, set()).update(
                    job.wildcards_dict.values()
                )
            judging.need_keys(PLAN, set(due))
            judging.ask_nothing(PLAN, due)
            keeping.refuse_removed(PLAN, workflow)
            settle_origin(NAME, workflow.configfiles)
            acceptance.settle(workflow)
        note_head(workflow)
        look_when_due(workflow.scheduler)
        note_due(
            PLAN,
            [path for job in workflow.dag.needrun_jobs() for path in job.output],
        )


onsuccess:
    noted = []
    if record.makes_table(workflow, LAYOUT):
        noted = [*record.record(STUDY, STUDY_FOLDER), *keeping.take_away(PLAN)]
    seconds = (datetime.now() - workflow.start_time).total_seconds()
    take_away(PLAN)
    said = last_words(Path(RESULTS), CLEANED, DOUBTS, seconds, STUDY_FILES)
    say_last([*said, *noted])


onerror:
    again = command_again(STUDY_FILES, sys.argv)
    failed = failed_jobs(workflow, ENDINGS)
    said = said_so_far(PLAN, causes(PLAN, failed))
    say_last([*failed_words(failed, again), *said], logging.ERROR)


# On one machine no job gets more GPUs than are there; without any, all run on the CPU. A scheduler knows better.
if (
    workflow.is_main_process
    and workflow.resource_settings.nodes is None
    and "gpu" not in workflow.global_resources
):
    workflow.register_resource("gpu", len(found_gpus()))


include: "rules/common.smk"
include: "rules/download.smk"
include: "rules/synthesise.smk"
include: "rules/clean.smk"
include: "rules/retrieve.smk"
include: "rules/annotate.smk"
include: "rules/sft.smk"
include: "rules/pairs.smk"
include: "rules/align.smk"
include: "rules/adopt.smk"
include: "rules/generate.smk"
include: "rules/score.smk"
include: "rules/seeds.smk"
include: "rules/report.smk"


if workflow.is_main_process:
    note_at_end(workflow, NAME, READ)


# localrule: light enough to run beside the head; on a cluster starting such a job takes longer than it. (Fetching wants
# the head's network.)
rule results:
    default_target: True
    input:
        f"{RESULTS}/results.csv",
        f"{RESULTS}/report.html",
        tables.figures(PLAN),
        index.certain_scores(PLAN),
    localrule: True


rule sources:
    input:
        [sources.source_manifest(PLAN, name) for name in STUDY.sources],
    localrule: True


rule datasets:
    input:
        [f"{LAYOUT.clean(name)}/manifest.json" for name in STUDY.datasets],
    localrule: True


rule policies:
    input:
        of_table(policies.all_manifests),
    localrule: True


rule scores:
    input:
        of_table(index.score_files),
        index.certain_scores(PLAN),
    localrule: True
