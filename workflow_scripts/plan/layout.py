"""Where everything of a study is: each path is spelled here.

Called with names, a method returns a path; called with "{policy}" and "{seed}", the pattern that a rule has.
"""

import re
import shlex
from dataclasses import dataclass
from typing import NewType

SOURCES = "data/sources"
MODELS = "data/models"
TASKS = "data/tasks"
JUDGES = "work/judge"  # the store of verdicts, shared by all benchmarks and studies

Word = NewType("Word", str)
"""Text that is quoted for a shell line: a rule puts it there as it is, {params.x:u}."""


@dataclass(frozen=True)
class Layout:
    """The folders and files of one study, relative to the repository."""

    study: str

    @property
    def results(self) -> str:
        return f"results/{self.study}"

    @property
    def work(self) -> str:
        """The folder of what is unfinished."""
        return f"work/{self.study}"

    @property
    def cleaned(self) -> str:
        return f"data/clean/{self.study}"

    # A job's command and params name these folders by variables: so they are the same in every study, and a store that
    # several studies share (--cache) knows a job again.
    def variables(self) -> dict[str, str]:
        """Return the study's folders by the name of the shell variable that stands for each."""
        return {"RESULTS": self.results, "WORK": self.work, "CLEAN": self.cleaned}

    def with_variables(self, path: str) -> str:
        """Return a path as scripts read it in their settings: a variable in place of the study's folder."""
        for name, folder in self.variables().items():
            path = re.sub(rf"^{re.escape(folder)}/", f"${name}/", path)
        return path

    def word(self, text: str) -> Word:
        """Return a path, or name=path, quoted for a shell line, a variable in place of the study's folder."""
        for name, folder in self.variables().items():
            if found := re.match(rf"([\w/-]+=)?{re.escape(folder)}/", text):
                return Word(f"{found[1] or ''}${name}/{shlex.quote(text[found.end() :])}")
        return Word(shlex.quote(text))

    def in_shell(self, *words: str) -> str:
        """Return words of a shell line: a path has the study's folder as a variable, a {wildcard} is the job's."""
        text = " ".join(self.with_variables(word) for word in words)
        return re.sub(r"\{(\w+)\}", r"{wildcards.\1:q}", text)

    def cost_in_shell(self, rule: str, *wildcards: str) -> str:
        """Return the word of a rule's shell line that names the file of what a job cost."""
        return self.in_shell(self.cost(rule, "-".join(f"{{{name}}}" for name in wildcards)))

    def answered_in_shell(self, prompts: str) -> str:
        """Return the flags of a rule's shell line that hand over a prompt set and a policy's answers to it."""
        answers = self.answer_rows("{policy}", "{seed}", prompts)
        return self.in_shell("--prompts", self.prompt_rows(prompts), "--generations", answers)

    def log(self, rule: str, name: str = "") -> str:
        """Return a job's log; `name` is its wildcards, joined by hyphens."""
        return f"{self.results}/logs/{rule}/{name}.log" if name else f"{self.results}/logs/{rule}.log"

    def cost(self, rule: str, name: str) -> str:
        """Return the file in which a job writes what it took."""
        return f"{self.results}/costs/{rule}/{name}.json"

    # --- data -------------------------------------------------------------------------------------------------------

    def clean(self, name: str) -> str:
        """Return the folder of a cleaned dataset."""
        return f"{self.cleaned}/{name}"

    def rows(self, name: str, split: str) -> str:
        return f"{self.clean(name)}/rows/{split}.jsonl"

    def written(self, name: str) -> str:
        """Return the folder of a source that a model writes."""
        return f"{self.results}/written/{name}"

    def replies(self, name: str) -> str:
        """Return the manifest of the replies that a written source is made of."""
        return f"{self.written(name)}/replies.json"

    def reply_rows(self, name: str) -> str:
        return f"{self.written(name)}/replies.jsonl"

    def writing(self, name: str) -> str:
        """Return the file that says what writing a source will take."""
        return f"{self.written(name)}/writing.json"

    def reward_model(self, name: str) -> str:
        return f"{self.results}/reward_models/{name}"

    def annotation(self, name: str) -> str:
        return f"{self.results}/annotations/{name}"

    def annotated(self, name: str, split: str) -> str:
        return f"{self.annotation(name)}/rows/{split}.jsonl"

    def tokens(self, policy: str) -> str:
        return f"{self.results}/tokens/{policy}"

    def chosen_tokens(self, policy: str, seed: int | str) -> str:
        """Return the folder of the chosen answers of pairs as a policy's tokens."""
        return f"{self.tokens(policy)}/seed-{seed}"

    def ranked_pairs(self, pairs: str) -> str:
        return f"{self.results}/pairs/{pairs}"

    def own_pairs(self, pairs: str, policy: str, seed: int | str) -> str:
        """Return the folder of the pairs of a policy's own answers."""
        return f"{self.results}/pairs/{pairs}/{policy}/seed-{seed}"

    def reference(self, pairs: str, policy: str, seed: int | str) -> str:
        """Return the folder of pairs with the log-probs that a policy gives them."""
        return f"{self.results}/reference/{pairs}/{policy}/seed-{seed}"

    def ranked(self, pairs: str, policy: str, seed: int | str) -> str:
        """Return the folder of ranked answers as a policy's tokens."""
        return f"{self.results}/ranked/{pairs}/{policy}/seed-{seed}"

    def rewarded(self, rewarded: str, policy: str, seed: int | str) -> str:
        """Return the folder of rewarded answers with the log-probs that a policy gives them."""
        return f"{self.results}/rewarded/{rewarded}/{policy}/seed-{seed}"

    def value(self, value: str, policy: str, seed: int | str) -> str:
        """Return the folder of a value head on a policy."""
        return f"{self.results}/values/{value}/{policy}/seed-{seed}"

    def advantages(self, rewarded: str, value: str, policy: str, seed: int | str) -> str:
        return f"{self.results}/advantages/{rewarded}/{value}/{policy}/seed-{seed}"

    # --- policies ---------------------------------------------------------------------------------------------------

    def policy(self, policy: str, seed: int | str) -> str:
        """Return the folder of a policy's answers and scores, and of a trained one's weights."""
        return f"{self.results}/policies/{policy}/seed-{seed}"

    def prompts(self, name: str) -> str:
        """Return the manifest of a prompt set."""
        return f"{self.results}/prompts/{name}.json"

    def prompt_rows(self, name: str) -> str:
        return f"{self.results}/prompts/{name}.jsonl"

    def answers(self, policy: str, seed: int | str, prompts: str) -> str:
        """Return the manifest of a policy's answers to a prompt set."""
        return f"{self.policy(policy, seed)}/generations/{prompts}.json"

    def answer_rows(self, policy: str, seed: int | str, prompts: str) -> str:
        return f"{self.policy(policy, seed)}/generations/{prompts}.jsonl"

    def rewards(self, policy: str, seed: int | str, prompts: str) -> str:
        """Return the manifest of the rewards of a policy's answers."""
        return f"{self.policy(policy, seed)}/rewards/{prompts}.json"

    def reward_rows(self, policy: str, seed: int | str, prompts: str) -> str:
        return f"{self.policy(policy, seed)}/rewards/{prompts}.jsonl"

    def likelihoods(self, policy: str, seed: int | str, benchmark: str) -> str:
        return f"{self.policy(policy, seed)}/likelihoods/{benchmark}.jsonl"

    def verdicts(self, policy: str, seed: int | str, benchmark: str) -> str:
        return f"{self.policy(policy, seed)}/verdicts/{benchmark}.jsonl"

    def judging(self, policy: str, seed: int | str, benchmark: str) -> str:
        """Return the file that says what judging will take."""
        return f"{self.policy(policy, seed)}/judging/{benchmark}.json"

    def asking(self, policy: str, seed: int | str, prompts: str) -> str:
        """Return the file that says what an endpoint's answering will take."""
        return f"{self.policy(policy, seed)}/asking/{prompts}.json"

    def scores(self, policy: str, seed: int | str, benchmark: str) -> str:
        return f"{self.policy(policy, seed)}/scores/{benchmark}.json"

    @property
    def chosen_seeds(self) -> str:
        """Return the file that says how many seeds a study has, where it chooses that as it runs."""
        return f"{self.results}/seeds.json"

    # --- benchmarks and tables --------------------------------------------------------------------------------------

    def items(self, benchmark: str) -> str:
        """Return the list of a harness benchmark's items."""
        return f"{self.results}/items/{benchmark}.jsonl"

    def overlap(self, benchmark: str) -> str:
        return f"{self.results}/overlap/{benchmark}.json"

    def figure(self, name: str) -> str:
        return f"{self.results}/figures/{name}.svg"
