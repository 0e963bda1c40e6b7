"""A talk with one policy, or two side by side: what was said, how replies are drawn, and what changes it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from workflow_scripts.chat.shown import Shown, printable, shown
from workflow_scripts.chat.speaker import GREEDY, Speaker
from workflow_scripts.common.errors import PlumblineError

Word = Callable[[Shown], None]  # is shown a reply as far as it goes


class Reply(NamedTuple):
    """What a policy replied: as it is, as it is shown, and what is to be said of it in a line."""

    text: str
    shown: Shown
    remark: str


class Talk:
    """A talk: `said` holds the messages of each speaker, who hears its own replies and what the user says to all."""

    def __init__(self, speakers: list[Speaker], system: str | None = None) -> None:
        self.speakers, self.system, self.raw = speakers, system, False
        self.seed = 1
        stops = [stop for stop in speakers[0].stops if all(stop in each.stops for each in speakers)]
        most = min(GREEDY["max_new_tokens"], *(each.context // 2 for each in speakers))
        self.sampling: dict[str, Any] = GREEDY | {"stop": stops, "max_new_tokens": most}
        self.said: list[list[dict]] = [[] for _ in speakers]

    def drawn(self) -> str:
        """Return in words how replies are drawn."""
        sampling = self.sampling
        how = f"temperature {sampling['temperature']:g}, top_p {sampling['top_p']:g}, seed {self.seed}"
        stops = f", stop at {', '.join(map(repr, sampling['stop']))}" if sampling["stop"] else ""
        words = how if sampling["temperature"] else "greedy (temperature 0)"
        return f"{words}, at most {sampling['max_new_tokens']} tokens{stops}"

    def hear(self, text: str) -> None:
        """Take what the user says."""
        for messages in self.said:
            messages.append({"role": "user", "content": text})

    def unhear(self) -> None:
        """Forget the last thing the user said, and the replies to it."""
        for messages in self.said:
            while messages and messages.pop()["role"] != "user":
                pass

    def reply(self, place: int, word: Word | None = None) -> Reply:
        """Return the reply of a speaker to what it has heard, which it will remember."""
        messages = self.said[place]
        found = reply_of(
            self.speakers[place], self.system, messages, self.sampling, self.seed, word, self.raw
        )
        messages.append({"role": "assistant", "content": found.text})
        return found


def reply_of(
    speaker: Speaker,
    system: str | None,
    messages: list[dict],
    sampling: dict,
    seed: int,
    word: Word | None = None,
    raw: bool = False,
) -> Reply:
    """Return a policy's reply to messages behind a system message; `word` is shown it as it comes about."""
    whole = [{"role": "system", "content": system}, *messages] if system else messages
    prompt = speaker.prompt(whole, sampling)

    def tell(text: str) -> None:
        word(seen(text, raw, False))

    answer = speaker.answer(prompt.ids, sampling, seed * 10_007 + len(messages), tell if word else None)
    remarks = [f"{answer.completion_tokens} tokens"]
    if answer.finish_reason == "length":
        remarks.append("cut at the most tokens")
    if prompt.tokens_cut:
        remarks.append(f"{prompt.tokens_cut} tokens of the talk no longer fit its context")
    return Reply(answer.text, seen(answer.text, raw, True), ", ".join(remarks))


def seen(text: str, raw: bool, whole: bool) -> Shown:
    """Return a reply as it is shown: as a person would see it, or as it is (`raw`)."""
    return Shown(printable(text)) if raw else shown(text, whole)


# --- commands ---------------------------------------------------------------------------------------------------------


def number(kind: type, least: float, most: float | None = None) -> Callable[[str], Any]:
    """Return what reads a number within limits; PlumblineError names them."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= least or (most is not None and value > most):
            limits = f"from {least:g} to {most:g}" if most is not None else f"of {least:g} or more"
            raise PlumblineError(
                f"{text or 'nothing'}: a {'whole ' * (kind is int)}number {limits} is needed"
            )
        return value

    return read


# What replies are drawn by: the command, the key of the sampling, what reads it.
DRAWN = {
    "temperature": ("temperature", number(float, 0, 100)),
    "top_p": ("top_p", number(float, 0.001, 1)),
    "tokens": ("max_new_tokens", number(int, 1)),
}
HELP = """\
/temperature 0.7   how freely replies are drawn; 0 is greedy, as benchmarks ask
/top_p 0.9         draw from this share of the likeliest tokens
/tokens 100        the most tokens of a reply
/seed 2            what drawn replies follow from: the same talk, the same replies
/system TEXT       what stands before the talk; /system alone takes it away
/raw               show replies as they are, labels and all, or again as the student would see them
/undo              forget the last exchange
/reset             begin anew
/help              this; Ctrl-C breaks a reply off, Ctrl-D or /quit ends
A line that ends with \\ goes on in the next; one that begins with // begins with a /."""


def command(talk: Talk, line: str) -> str:
    """Do what a line that begins with / says, and return what there is to say; PlumblineError for what is none."""
    name, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    if name in DRAWN:
        key, read = DRAWN[name]
        changed = talk.sampling | {key: read(rest)}
        for speaker in talk.speakers:
            speaker.room(changed)
        talk.sampling = changed
        return talk.drawn()
    if name == "seed":
        talk.seed = number(int, 0, 2**31)(rest)
        return talk.drawn()
    if name == "system":
        talk.system = rest or None
        talk.said = [[] for _ in talk.speakers]
        return f"system: {rest}; the talk begins anew" if rest else "no system message; the talk begins anew"
    if name == "reset":
        talk.said = [[] for _ in talk.speakers]
        return "the talk begins anew"
    if name == "undo":
        talk.unhear()
        return f"{len(talk.said[0]) // 2} exchanges are left"
    if name == "raw":
        talk.raw = not talk.raw
        return (
            "replies are shown as they are" if talk.raw else "replies are shown as a student would see them"
        )
    if name == "help":
        return HELP
    raise PlumblineError(f"/{name} is no command; /help names them")
