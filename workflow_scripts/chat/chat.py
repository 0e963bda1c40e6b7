"""Talk to a policy of a study, or to two side by side: in the terminal, or on a page of this machine.

`make chat POLICY=tiny.sft.dpo [VS=tiny.sft] [WEB=1]` runs this. A policy is asked in the template that its
study asks it in, and answers as it does there; what it says is shown as a person would see it.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.export.found import Found, find, refuse_stale, whole
from workflow_scripts.study.checking import load_study


def find_all(study: Path, names: list[str], seed: int | None, verb: str) -> list[Found]:
    """Return policies of a study whose weights are here; PlumblineError says of any other what to do."""
    if not names[0]:
        raise PlumblineError(f"name the policy: make {verb} POLICY=tiny.sft.dpo")
    made = load_study(study)
    for name in names:
        if name in made.policies:
            raise PlumblineError(
                f"{name} answers from elsewhere (policies.{name} of {study}): its weights are not here to be asked"
            )
        if "@" in name:
            raise PlumblineError(f"{name}: is {name.split('@')[0]}, answering again: ask for that one")
    return [find(study, name, seed_in(made, name, seed)) for name in names]


def seed_in(study: Any, name: str, seed: int | None) -> int | None:
    """Return the seed a policy is asked with: of a base model, which is trained with none, always its own."""
    return None if name in study.models else seed


def doubts(found: list[Found]) -> list[str]:
    """Return what is to be said of policies that their study would make anew: they are asked all the same."""
    said = []
    for each in found:
        try:
            refuse_stale(each)
        except PlumblineError as error:
            said.append(f"warning: {error}; it is asked as it is, in the template that its study has now")
    return said


def in_background(work: Callable[[], Any]) -> "Future[Any]":
    """Return what comes of some work that is begun now, beside what this thread does."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of what every command of this room is told."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--policy", default="", help="its lineage, tiny.sft.dpo say")
    made.add_argument("--study", type=Path, default=Path("config.yaml"))
    made.add_argument("--seed", default="", help="the training seed; without, the study's first")
    made.add_argument("--port", default="", help="where it listens; without, any free one")
    return made


def port_of(text: str) -> int:
    """Return a port given as text, 0 (any) for ""."""
    port = whole(text, "PORT") or 0
    if port > 65535:
        raise PlumblineError(f"PORT={text}: ports are numbers up to 65535")
    return port


# --- in the terminal --------------------------------------------------------------------------------------------------


def asked_line() -> str | None:
    """Return what the user types, which may go on over lines; None where they end the talk."""
    lines, sign = [], "you> "
    while True:
        try:
            line = input(sign)
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        if not sys.stdin.isatty():
            print(line)
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])
        sign = "...> "


def talk_on(talk: Any, screen: Any) -> None:
    """Ask and show, until the user ends it."""
    while (line := asked_line()) is not None:
        if line.strip() == "/quit":
            return
        if not line.strip():
            continue
        try:
            if line.startswith("/") and not line.startswith("//"):
                from workflow_scripts.chat.talk import command

                screen.note(command(talk, line.strip()))
                continue
            talk.hear(line.removeprefix("/") if line.startswith("//") else line)
            try:
                screen.replies(talk)
            except KeyboardInterrupt:
                talk.unhear()
                screen.note("broken off; the exchange is forgotten")
            except BaseException:
                talk.unhear()
                raise
        except PlumblineError as error:
            screen.note(f"error: {error}")


def describe(found: list[Found], talk: Any) -> list[str]:
    """Return what is said before the first question."""
    lines = []
    for each in found:
        trained = each.plan.policies[each.policy].parent
        seed = f", seed {each.seed}" if trained else ", a base model"
        speaker = talk.speakers[found.index(each)]
        history = (
            "" if speaker.history is None else f", hears {speaker.history or 'none'} of the past exchanges"
        )
        lines.append(f"{each.policy} of {each.plan.study.study}{seed}{history}")
    lines.append(f"replies: {talk.drawn()}")
    if talk.system:
        lines.append(f"system: {talk.system} (as in all it learned from; /system changes it)")
    return [*lines, "/help says what can be changed; Ctrl-D ends"]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--vs", default="", help="a second policy of the study, side by side")
    made.add_argument("--web", default="", help="any word: on a page of this machine, not in the terminal")
    arguments = made.parse_args()
    names = [arguments.policy, *([arguments.vs] if arguments.vs else [])]
    port, web = port_of(arguments.port), arguments.web not in ("", "0")
    found = find_all(arguments.study, names, whole(arguments.seed, "SEED"), "chat")
    said = in_background(lambda: doubts(found))
    print(f"loading {' and '.join(names)} …", file=sys.stderr, flush=True)
    from workflow_scripts.chat.speaker import Speaker, first_system
    from workflow_scripts.chat.talk import Talk

    talk = Talk([Speaker(each) for each in found], first_system(found[0]))
    for line in said.result():
        print(line, file=sys.stderr, flush=True)
    if web:
        from workflow_scripts.chat.web import serve_page

        serve_page(talk, describe(found, talk), port)
        return
    from workflow_scripts.chat.screen import Screen

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  lines can be edited, and called back
    screen = Screen()
    screen.note("\n".join(describe(found, talk)))
    talk_on(talk, screen)


if __name__ == "__main__":
    run(main)
