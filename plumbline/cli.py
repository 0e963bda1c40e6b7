"""The command `plumbline`: one table from a verb to the modules that do it, and nothing else. `make` is a shell of it.

It works in the folder that it is started in: data/, results/ and work/ are there. In a checkout it uses the checkout's
own files; elsewhere those that were installed with it.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

from plumbline import shipped

DEFAULT = "config.yaml"
NAMED = ("data/bundled", "studies/rewards")  # files that shipped studies name by paths of the working folder
Command = list[str]  # the module that is run, and its arguments


class Asked(NamedTuple):
    """What a command line asks for."""

    home: Path
    """Where the workflow's own files are."""
    study: str
    given: bool
    """Whether a study was named at all."""
    cores: str = "2"
    profile: str = ""
    orphans: str = ""
    rest: tuple[str, ...] = ()
    """Words for the verb's own module."""
    flags: tuple[str, ...] = ()
    """Snakemake's own, behind a --."""

    def checked(self) -> list[str]:
        """Return the words by which the check of a study is told what to look at."""
        return [
            *(["--profile", self.profile] if self.profile else []),
            "--results",
            "results",
            "--",
            self.study,
        ]

    def snakemake(self) -> list[str]:
        """Return Snakemake's flags; --configfile takes any number of words, so that it never ends them."""
        own = self.home == Path.cwd()
        return [
            *([] if own else ["--snakefile", str(self.home / "Snakefile")]),
            *([] if own and self.study == DEFAULT else ["--configfile", self.study]),
            *(["--workflow-profile", self.profile] if self.profile else ["--cores", self.cores]),
            *self.flags,
        ]

    def head(self, *options: str, targets: tuple[str, ...] = ()) -> Command:
        """Return the command that starts Snakemake; `options` are of what starts it."""
        snakemake = str(Path(sys.executable).parent / "snakemake")
        return ["workflow_scripts.common.head", *options, snakemake, *self.snakemake(), *targets]


# --- verbs over a study ---------------------------------------------------------------------------------------------


def results(asked: Asked) -> list[Command]:
    orphans = ["workflow_scripts.plan.orphans", *([asked.orphans] if asked.orphans else [])]
    head = asked.head("--console")
    if not asked.flags:  # which may ask for more than what is due
        head = ["workflow_scripts.plan.finished", asked.study, "--", *head]
    return [["workflow_scripts.study.check", "--quiet", *asked.checked()], orphans, head]


def plan(asked: Asked) -> list[Command]:
    return [["workflow_scripts.plan.forecast", *asked.rest, "--", *asked.snakemake()]]


def judge_plan(asked: Asked) -> list[Command]:
    return [asked.head(targets=("--", "judge_plan"))]


def of_console(name: str) -> Callable[[Asked], list[Command]]:
    """Return the verb of a module that looks on as a study runs, which takes the study's path."""
    return lambda asked: [[f"workflow_scripts.console.{name}", *asked.rest, "--", asked.study]]


def check(asked: Asked) -> list[Command]:
    return [["workflow_scripts.study.check", *asked.checked()]]


def accept(asked: Asked) -> list[Command]:
    return [["workflow_scripts.plan.accept", *asked.rest, "--", *asked.snakemake()]]


def verify(asked: Asked) -> list[Command]:
    if asked.rest:
        return [["workflow_scripts.report.verify", *asked.rest]]
    sys.path.insert(0, str(asked.home))
    from workflow_scripts.common.errors import told
    from workflow_scripts.study.origin import named

    with told():
        return [["workflow_scripts.report.verify", f"results/{named(asked.study)}"]]


def claims(asked: Asked) -> list[Command]:
    """Return a run of each study that the claims need, then the writing of the page."""
    described = asked.home / "report" / "claims.yaml"
    page = "docs/claims.md" if asked.home == Path.cwd() else "claims.md"
    own = [
        "workflow_scripts.report.claims",
        "--described",
        os.path.relpath(described),
        *asked.rest,
    ]
    listed = subprocess.run(
        [sys.executable, "-m", *own, "--studies"],
        env=surroundings(asked.home),
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        sys.exit(listed.stderr.strip())
    files = [shipped_too(file, asked.home) for file in listed.stdout.splitlines()]
    runs = [command for file in files for command in results(asked._replace(study=file, rest=()))]
    return [*runs, [*own, "--output", page]]


# --- the table ------------------------------------------------------------------------------------------------------


class Verb(NamedTuple):
    """A verb: its commands, what it does in a line, whether words that are not the table's own go to its module, and
    whether it is about a study."""

    commands: Callable[[Asked], list[Command]]
    says: str
    hands_on: bool = False
    of_study: bool = True


def module(name: str, says: str, *, study: bool = True) -> Verb:
    """Return the verb that hands its words to one module, and, with `study`, by --study which study was named."""

    def commands(asked: Asked) -> list[Command]:
        # Without a name each module has its own default: config.yaml of the folder, which may be elsewhere.
        named = study and (asked.given or asked.study != DEFAULT)
        return [
            [
                f"workflow_scripts.{name}",
                *(["--study", asked.study] if named else []),
                *asked.rest,
                *asked.flags,
            ]
        ]

    return Verb(commands, says, hands_on=True, of_study=study)


VERBS = {
    "results": Verb(results, "run a study to its results table and report"),
    "plan": Verb(plan, "what would run and why, and what it would take by what earlier runs took", True),
    "status": Verb(of_console("status"), "how a run stands, from another terminal", True),
    "watch": Verb(of_console("watch"), "serve the report as it grows", True),
    "look": module("look.look", "what data holds and a model would learn of it", study=False),
    "new": module("look.new", "write a study of your own data and model"),
    "check": Verb(check, "name every mistake in a study, and what is in doubt"),
    "chat": module("chat.chat", "talk to a policy"),
    "serve": module("chat.serve", "serve a policy by OpenAI's API"),
    "export": module("export.export", "take a policy out of a study, for use anywhere else"),
    "verify": Verb(verify, "hash again what a study's table rests on, and name what has changed", True),
    "compare": module("report.compare", "set the tables of two results folders side by side", study=False),
    "gallery": module("report.gallery", "all studies under results/ in one page", study=False),
    "claims": Verb(claims, "run the studies of the sources' claims, and write what came of them", True),
    "judge-plan": Verb(judge_plan, "what the judges would be asked, and at most for how much"),
    "accept": Verb(accept, "let finished work stand after a change of code or pins", True),
    "disk": module(
        "disk.disk", "what takes how much room, and what can be removed at what cost", study=False
    ),
    "clean": module("disk.clear", "remove a study's results and resumable state, having asked"),
}
ALONE = ("look", "compare", "gallery", "disk", "clean")  # no study that ships with Plumbline is read by these


# --- reading the command line ---------------------------------------------------------------------------------------


def home() -> Path:
    """Return where the workflow's files are: the checkout that one stands in, else what is installed."""
    here = Path.cwd()
    return here if (here / "Snakefile").is_file() and (here / "workflow_scripts").is_dir() else shipped()


def shipped_too(name: str, where: Path) -> str:
    """Return a path as it is given, or, where nothing is there, what ships with Plumbline under that path."""
    return str(where / name) if not os.path.exists(name) and (where / name).exists() else name


def parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    listed = "\n".join(f"  {name:<{width}}  {verb.says}" for name, verb in VERBS.items())
    made = argparse.ArgumentParser(
        "plumbline",
        usage="plumbline VERB [STUDY.yaml] [OPTION ...] [-- SNAKEMAKE'S OWN FLAGS]",
        description=f"verbs (plumbline VERB --help has the options of its own):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    made.add_argument("--study", help=f"the study's file (default: {DEFAULT}); its path alone will do, too")
    made.add_argument("--cores", default="2", help="CPU cores to use at once (default: 2)")
    made.add_argument("--profile", default="", help="a cluster's profile, profiles/slurm-a100 say")
    made.add_argument(
        "--orphans", default="", help="--orphans=--wait: let the jobs finish that a killed run left behind"
    )
    made.add_argument(
        "--verbose", action="store_true", help="show Snakemake's own output of a run instead of the console"
    )
    return made


def parted(words: list[str]) -> tuple[list[str], list[str]]:
    """Return (the words before the first --, those after it)."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def paths_alone(words: list[str]) -> list[str]:
    """Return the words that name a study by its path alone: none that may be the value of an option before it."""
    before = ["", *words]
    return [
        word
        for option, word in zip(before, words, strict=False)
        if word.endswith((".yaml", ".yml")) and not word.startswith("-") and not option.startswith("-")
    ]


def read(words: list[str]) -> tuple[str, Asked]:
    """Return (the verb, what is asked of it); ends the process with help, or with what is wrong."""
    found = parser()
    before, flags = parted(words)
    verb = next((word for word in before if word in VERBS), None)
    helped = bool({"-h", "--help"} & set(before))
    if not before or (helped and (verb is None or not VERBS[verb].hands_on)):
        found.print_help()
        sys.exit(0)
    if verb is None:
        found.error(f"no verb among: {' '.join(before)}; there are {', '.join(VERBS)}")
    before.remove(verb)
    if helped:  # of the module
        return verb, Asked(home(), DEFAULT, False, rest=("--help",))
    options, rest = found.parse_known_args(before)
    by_path = paths_alone(rest) if VERBS[verb].of_study and not options.study else []
    if len(by_path) > 1:
        found.error(f"one study at a time, not {' and '.join(by_path)}")
    rest = [word for word in rest if word not in by_path]
    if rest and not VERBS[verb].hands_on:
        found.error(f"{verb} takes no {' '.join(rest)} (Snakemake's own flags go behind --)")
    if options.verbose:
        os.environ["PLUMBLINE_VERBOSE"] = "1"
    where = home()
    study = options.study or next(iter(by_path), DEFAULT)
    study = study if verb in ALONE else shipped_too(study, where)
    profile = options.profile and shipped_too(options.profile, where)
    given = bool(options.study or by_path)
    return verb, Asked(
        where,
        study,
        given,
        options.cores,
        profile,
        options.orphans,
        tuple(rest),
        tuple(flags),
    )


# --- running --------------------------------------------------------------------------------------------------------


def surroundings(where: Path) -> dict[str, str]:
    """Return the environment that commands are run in: they find our modules, and know the working folder."""
    path = [str(where), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "PLUMBLINE_PLACE": os.getcwd()}
    if where != Path.cwd():  # no file of the working folder is taken for a module
        environment["PYTHONSAFEPATH"] = "1"
    return environment


def lay_out(where: Path) -> None:
    """Copy the files that shipped studies name by path into the working folder, where they are not there already."""
    for file in sorted(file for folder in NAMED for file in (where / folder).rglob("*")):
        target = file.relative_to(where)
        if file.is_file() and file.suffix != ".pyc" and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def there(where: Path, module: str) -> bool:
    file = where.joinpath(*module.split("."))
    return file.with_suffix(".py").is_file() or (file / "__init__.py").is_file()


def run(commands: Iterable[Command], where: Path) -> NoReturn:
    """Run commands in turn until one fails, and end as the last one ends."""
    *first, last = commands
    environment = surroundings(where)
    for module in (command[0] for command in [*first, last]):
        if not there(where, module):
            sys.exit(f"error: this verb is not there yet: {where} has no module {module}")
    for command in first:
        try:
            done = subprocess.run([sys.executable, "-m", *command], env=environment, check=False)
        except KeyboardInterrupt:
            sys.exit(130)
        if done.returncode:
            sys.exit(done.returncode if done.returncode > 0 else 128 - done.returncode)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", *last], environment)


def main(words: list[str] | None = None) -> NoReturn:
    verb, asked = read(sys.argv[1:] if words is None else words)
    if asked.home != Path.cwd() and verb not in ALONE:
        lay_out(asked.home)
    run(VERBS[verb].commands(asked), asked.home)
