# What all rules stand on: the checked study and its plan, and the words that several shell lines share. What follows
# from a study is worked out in workflow_scripts/plan/, by functions of names; by() hands them a job's wildcards.

import functools
import inspect
import os
import time

from snakemake.common import overwrite_function_params

from workflow_scripts.common.code import code_of, pins
from workflow_scripts.common.errors import told
from workflow_scripts.common.gpu_lease import smallest_memory
from workflow_scripts.common.shared_store import check_links, check_store
from workflow_scripts.plan import acceptance, adopting, choosing, cleaning, costs
from workflow_scripts.plan import growing, index, judging, keeping, layout, outside
from workflow_scripts.plan import overlap
from workflow_scripts.plan import policies, prompts, record, report as tables
from workflow_scripts.plan import resources
from workflow_scripts.plan import retrieval, rewards, scoring, sources, synthesis
from workflow_scripts.plan import template_ends, training, words
from workflow_scripts.plan.plan import TORCH, TRAINERS, plan_of
from workflow_scripts.plan.words import one_of
from workflow_scripts.study.checking import check_config, folder_of
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.machine import seen
from workflow_scripts.study.memory import fitting, said_in
from workflow_scripts.study.partitions import startable
from workflow_scripts.study.settling.lock import JOB

STORED = workflow.workflow_settings.cache is not None
if STORED and not workflow.workflow_settings.cache:
    # A plain --cache is not handed on to a cluster's jobs, one with a rule's name is; all others have their directive.
    workflow.workflow_settings.cache = ["train_sft"]
if not workflow.is_main_process:
    os.environ[JOB] = "yes"  # what the hub is asked about a study, the head has asked
with told():
    # What a look at the machine says is for the head alone: each job of a cluster reads the study again.
    profile = said_in(workflow.resource_settings)
    looks = [seen, fitting(profile, smallest_memory), startable(profile)]
    looks = looks if workflow.is_main_process else []
    STUDY, DOUBTS, SAID = check_config(config, workflow.configfiles, looks)
    if STORED:
        check_store(os.environ.get("SNAKEMAKE_OUTPUT_CACHE"))
        os.environ |= {"PLUMBLINE_STORED": "yes"}  # jobs know by it
    if workflow.is_main_process:
        for line in [*SAID, *(f"warning: {doubt}" for doubt in DOUBTS)]:
            print(line, file=sys.stderr)
        check_links(["data", f"results/{STUDY.study}"])
    ACCEPTED = acceptance.accepted_files(f"results/{STUDY.study}")

PLAN = plan_of(STUDY)
if workflow.is_main_process:
    with told():
        template_ends.check_ends(
            PLAN, ", ".join(map(str, workflow.configfiles)) or "the study"
        )
LAYOUT = PLAN.layout
NAME, RESULTS = STUDY.study, LAYOUT.results
STUDY_FOLDER = folder_of(workflow.configfiles[-1])
STUDY_FILES = [os.path.relpath(path) for path in workflow.configfiles]
CLEANED = [Path(LAYOUT.clean(name)) / "manifest.json" for name in STUDY.datasets]
CELL = LAYOUT.policy("{policy}", "{seed}")
ANYONE = one_of([*PLAN.policies, *PLAN.again, *STUDY.policies, *CALIBRATION])
READABLE = one_of([*PLAN.policies, *CALIBRATION])  # whose likelihoods can be taken
OUTSIDE = one_of(STUDY.policies)
VLLM = STUDY.engine.name == "vllm"
# vLLM wants other versions of some packages: .venv-vllm here, a YAML of its own for conda.
own_vllm = not workflow.deployment_settings.deployment_method
vllm_path = f"{os.getcwd()}/.venv-vllm/bin:" if own_vllm else ""
os.environ |= LAYOUT.variables() | {
    "ENGINE_PATH": vllm_path if VLLM else "",
    "OTHER_ENGINE_PATH": "" if VLLM else vllm_path,
    "PLUMBLINE_VLLM": f"{vllm_path[:-1]}/python" if own_vllm else "",
    "PLUMBLINE_JUDGES": judging.access(PLAN),
    "PLUMBLINE_TRACKING": resources.sinks(PLAN),
    "PLUMBLINE_MACHINE": resources.machine_keys(PLAN),
}


def by(function, **fixed):
    """Return a function of the plan and of names as an input or params function: its arguments are the wildcards' names.

    What a study says goes into params by this alone: Snakemake would take {braces} in a plain string for a wildcard.
    """
    names = [name for name in inspect.signature(function).parameters if name != "plan"]
    asked = [name for name in names if name not in fixed]

    def of_names(wildcards):
        return function(PLAN, **{name: wildcards[name] for name in asked}, **fixed)

    # Or Snakemake would read these parameters anew for every job, ten times.
    overwrite_function_params(of_names, inspect.signature(of_names).parameters)
    return of_names


def table_plan():
    """Return the plan of the seeds that the table has; where they are chosen as it runs, once they are."""
    if not growing.grows(PLAN):
        return PLAN
    file = checkpoints.choose_seeds.get().output[0]
    if workflow.is_main_process:
        say_chosen(file)
    return growing.chosen_plan(PLAN, file)


@functools.cache
def say_chosen(file):
    """Say once in a run how many seeds the study has, and why."""
    print(f"seeds: {growing.chosen_words(file)}", file=sys.stderr)


def of_table(function, **fixed):
    """Return a function of the plan as an input or params function of what gathers over the seeds of the table."""
    return lambda wildcards: function(table_plan(), **fixed)


wildcard_constraints:
    policy=ANYONE,
    seed=r"\d+",


# --- what jobs ask for ------------------------------------------------------------------------------------------

TRAINING = resources.asked(STUDY.training_resources)
ONLINE = TRAINING | {
    "parallel": by(resources.training_parallel),
}
ANSWERING = resources.asked(STUDY.generation_resources)
READING = ANSWERING | {"gpu": resources.one_gpu(PLAN)}
SHARED = ANSWERING | {"shards": STUDY.generation_resources.shards}
SCORING = ANSWERING | {"gpu": by(resources.scoring_gpus)}

# --- words of shell lines: in them every placeholder is quoted, {params.x:q}; :u is for what the plan has quoted ------

LAUNCH = "python -m workflow_scripts.common.launch --gpus {resources.gpu:q}"
LAUNCH_TRAINING = (
    f"{LAUNCH} --nodes {{resources.nodes:q}} --parallel {{resources.parallel:q}}"
)
LAUNCH_POLICY = f"{LAUNCH_TRAINING} --claim $WORK/train/{{wildcards.policy:q}}-{{wildcards.seed:q}}.lock"
POLICY_FLAGS = (
    '--parent "$(dirname {input.parent:q})/model" --parent-manifest {input.parent:q}'
    " --settings {params.settings:q} --seed {params.seed:q}"
    " --work $WORK/train/{wildcards.policy:q}-{wildcards.seed:q} --output {output.model:q}"
    " --manifest {output.manifest:q} --curve {output.curve:q} --watch {params.watch:q} {params.watched:u} --note-divergence"
)


cost, answered_in_shell = LAYOUT.cost_in_shell, LAYOUT.answered_in_shell


def unless_diverged(inputs="{input:q}", whose=None):
    """Return what stands before the command of a job that goes on from a training: it is not run where one diverged.

    The job's outputs then hand the note on (common.diverged); `whose` training that was to the job, if not its own.
    """
    said = f' --whose "{whose}"' if whose else ""
    return f"python -m workflow_scripts.common.diverged{said} --inputs {inputs} --outputs {{output:q}} 2> {{log:q}} || "


UNLESS_DIVERGED = unless_diverged()
UNLESS_ANCESTOR_DIVERGED = unless_diverged(whose="an ancestor's training")
# What is left of the inputs that may have one: the judge, and an opponent's answers.
UNLESS_JUDGED_DIVERGED = unless_diverged("{input.generations:q}") + unless_diverged(
    whose="the opponent's training"
)
