"""One client for every model behind an OpenAI-compatible endpoint: each distinct request is paid for once.

A model that is asked is called a judge, here and in its settings: it gives verdicts on answers, or writes rows of data.

Covers a store of verdicts shared by benchmarks, studies and processes, retries, a rate limit, a budget, and what
a cell paid. Not covered: what is asked and how a reply is read, which belong to whoever asks; streamed replies,
several replies to one request (`n`), tools and images.
"""

import contextlib
import math
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import tenacity

from workflow_scripts.common.asking.endpoint import (
    Endpoint,
    RejectedError,
    TryAgainError,
    UnreachableError,
)
from workflow_scripts.common.asking.pace import Pace
from workflow_scripts.common.asking.requests import (
    Reply,
    Request,
    paid_for,
    price,
    reply_of,
    request_of,
    worst_case,
)
from workflow_scripts.common.asking.spending import Spending
from workflow_scripts.common.asking.verdict_store import lock_of, read_recorded, read_verdict, write_verdict
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest
from workflow_scripts.common.progress import Progress

FIRST_WAIT = 1.0  # seconds before a request is tried again; doubled each time, plus as much again by chance
LONGEST_WAIT = 60.0
LONGEST_PAUSE = 600.0  # a server that asks for more than this is not waited for
PATIENCE = 20  # requests in a row without a reply after which the endpoint counts as down


class HaltedError(Exception):
    """No new calls are to be made."""


class UnansweredError(Exception):
    """One request has no reply, and another run may get one."""


@contextlib.contextmanager
def finishing_calls(halt: threading.Event) -> Iterator[None]:
    """On SIGINT or SIGTERM set `halt`, and end the process when the body is through.

    Only the main thread gets signals; in another one nothing changes.
    """
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        caught.append(number)
        halt.set()
        print("stopping: the calls in flight are finished and stored", file=sys.stderr, flush=True)

    here = threading.current_thread() is threading.main_thread()
    wanted = [number for number in (signal.SIGINT, signal.SIGTERM) if here]
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if signal.SIGINT in caught:
            raise KeyboardInterrupt
        if caught:
            sys.exit(128 + caught[0])


class Asking:
    """Asking one judge for verdicts that the store lacks, in threads; what came is in `entries` and the store."""

    def __init__(self, requests: dict[str, Request], judge: dict, store: Path, payer: str, study: str):
        self.requests = requests
        self.judge = judge
        self.store = store
        self.payer = payer
        self.endpoint = Endpoint(judge)
        account = f"{study}-{judge['name']}" if study else judge["name"]
        self.spending = Spending(store / "spending" / f"{account}.jsonl", judge["budget_usd"])
        pace = digest([str(self.endpoint.client.base_url), judge["model"]])[:16]
        self.pace = Pace(store / "pace" / pace, judge["requests_per_minute"])
        self.progress = Progress("asking", "requests", len(requests))
        self.entries: dict[str, dict] = {}
        self.unanswered: dict[str, str] = {}
        self.retries_in_vain = 0
        self.error: PlumblineError | None = None
        self.halt = threading.Event()
        self._probed = threading.Event()  # the first attempt of all is over
        self._counting = threading.Lock()
        self._unanswered_in_a_row = 0

    def run(self, proven: bool) -> None:
        """Ask for everything, unless an error or a signal stops it; `proven` if such requests were answered before.

        The first request goes alone, so that a wrong key is refused once. What another process is asking for
        right now comes last.
        """
        self.proven = proven
        self.reached = False
        first, *others = self.requests
        with finishing_calls(self.halt), ThreadPoolExecutor(self.judge["concurrency"]) as pool:
            probe = pool.submit(self._answer, first, False)
            self._probed.wait()
            done = pool.map(lambda key: self._answer(key, False), others)
            busy = [key for key, answered in zip(others, done, strict=True) if not answered]
            busy += [] if probe.result() else [first]
            for _ in pool.map(lambda key: self._answer(key, True), busy):
                pass
        self.endpoint.client.close()

    def stop(self, error: PlumblineError) -> None:
        """Let nothing new be asked; the first error is the one that counts."""
        with self._counting:
            self.error = self.error or error
        self.halt.set()

    def _answer(self, key: str, patient: bool) -> bool:
        """Get one verdict from the store or the judge; False if another process is asking, unless `patient`."""
        try:
            if self.halt.is_set():
                return True
            try:
                lock = lock_of(self.store, key).acquire(blocking=patient, cancel_check=self.halt.is_set)
            except filelock.Timeout:
                return False
            with lock:
                entry = self.entries[key] = read_verdict(self.store, key) or self._pay(key)
            own = entry["usd"] if entry["paid_by"] == self.payer else 0.0
            self.progress.add(1, tokens=entry["usage"]["completion_tokens"], usd=own)
        except HaltedError:
            pass
        except UnansweredError as error:
            self.unanswered[key] = str(error)
        except PlumblineError as error:
            self.stop(error)
        except BaseException:
            self.halt.set()
            raise
        finally:
            self._probed.set()
        return True

    def _pay(self, key: str) -> dict:
        """Return the entry of a verdict from the judge, stored; the caller holds the lock of its key."""
        request = self.requests[key]
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.judge["retries"] + 1),
            wait=tenacity.wait_exponential_jitter(multiplier=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT),
            sleep=tenacity.sleep_using_event(self.halt),
            retry=tenacity.retry_if_exception_type(TryAgainError),
            reraise=True,
        )
        try:
            ticket, reply, usage = retrying(self._attempt, request)
        except (TryAgainError, RejectedError) as error:
            attempts = retrying.statistics["attempt_number"]
            with self._counting:
                self.retries_in_vain += attempts - 1
            self._notice(error)
            times = f" after {attempts} attempts" if attempts > 1 else ""
            raise UnansweredError(f"no reply{times}: {error}") from None
        usage, usd = paid_for(request, reply, usage, self.judge)
        entry = {
            "request": request_of(request, self.judge),
            "reply": reply,
            "usage": usage,
            "usd": usd,
            "retries": retrying.statistics["attempt_number"] - 1,
            "paid_by": self.payer,
        }
        try:
            write_verdict(self.store, key, entry)
            self.spending.settle(ticket, usd)
        finally:
            self.spending.abandon(ticket)
        return entry

    def _attempt(self, request: Request) -> tuple[str, dict, dict | None]:
        """Make one call; return the ticket of its reservation, which is open, the reply and its usage."""
        ticket = ""
        try:
            if self.halt.is_set():
                raise HaltedError
            ticket = self.spending.reserve(price(self.judge, *worst_case(request, self.judge)))
            self.pace.wait(self.halt)
            if self.halt.is_set():
                raise HaltedError
            reply, usage = self.endpoint.call(request.messages, request.params, request.prompt)
            # Said before the others set out, which may be before this verdict is on the disk.
            with self._counting:
                self.proven = self.reached = True
                self._unanswered_in_a_row = 0
            return ticket, reply, usage
        except TryAgainError as error:
            if error.billed:
                self.spending.abandon(ticket)
            else:
                self.spending.settle(ticket, 0.0)
            self._heed(error)
            raise
        except (HaltedError, RejectedError):
            self.spending.settle(ticket, 0.0)
            raise
        except PlumblineError as error:
            self.spending.settle(ticket, 0.0)
            self.stop(error)
            raise
        except BaseException:
            self.spending.abandon(ticket)
            raise
        finally:
            self._probed.set()

    def _heed(self, error: TryAgainError) -> None:
        """Pause if the server asks for it; stop where there is no use in trying again soon."""
        if isinstance(error, UnreachableError) and not self.reached:
            self.stop(
                PlumblineError(
                    f"{self.endpoint.name} cannot be reached ({error}); start it or correct base_url"
                )
            )
        elif error.pause > LONGEST_PAUSE:
            self.stop(
                PlumblineError(
                    f"{self.endpoint.name} asks to be left alone for {error.pause:.0f} s ({error}); "
                    "run again after that"
                )
            )
        else:
            self.pace.hold(error.pause)

    def _notice(self, error: TryAgainError | RejectedError) -> None:
        """Stop everything where a request without a reply shows that the others will have none."""
        if isinstance(error, RejectedError):
            if error.malformed and not self.proven:
                self.stop(
                    PlumblineError(
                        f"{self.endpoint.name} rejects what it is asked ({error}); check the parameters"
                    )
                )
            return
        with self._counting:
            self._unanswered_in_a_row += 1
            down = self._unanswered_in_a_row >= PATIENCE
        if down:
            self.stop(
                PlumblineError(
                    f"{self.endpoint.name}: {PATIENCE} requests in a row without a reply (the last: {error}); "
                    "see what ails it and run again"
                )
            )


def check_budget(requests: list[Request], judge: dict) -> None:
    """Raise PlumblineError where a budget is set that could not be held."""
    if judge["budget_usd"] is None:
        return
    if not (judge["usd_per_million_prompt_tokens"] or judge["usd_per_million_completion_tokens"]):
        raise PlumblineError(
            f"judge {judge['name']!r}: budget_usd is set but no price; set usd_per_million_prompt_tokens "
            "and usd_per_million_completion_tokens"
        )
    if any(not {"max_tokens", "max_completion_tokens"} & request.params.keys() for request in requests):
        raise PlumblineError(
            f"judge {judge['name']!r}: budget_usd is set but a request has no max_tokens; give it one"
        )


def ask(
    requests: list[Request], judge: dict, store: Path, cell: str, study: str = ""
) -> tuple[list[Reply], dict]:
    """Return a reply per request, in order, and what this cell paid; what is stored or recorded is not asked again.

    The second is {"judge_calls", "judge_stored", "judge_retries", "prompt_tokens", "completion_tokens", "usd"}.
    It counts every verdict on these requests that `cell` of `study` paid for, now or in an earlier run, so a cell
    that was killed and resumed tells its whole price; `judge_stored` are the requests that others, or equal
    ones, paid for. Calls, stored and failed without a verdict add up to the requests. Calls whose reply never
    came may have been billed: they count against the budget, and not here.

    Raises PlumblineError when the budget would be passed, when the key, the model or the address is wrong, and
    when replies are missing and the judge's `unanswered` is "stop". What came by then is stored.
    """
    check_budget(requests, judge)
    payer = f"{study}/{cell}" if study else cell
    keys = [digest(request_of(request, judge)) for request in requests]
    distinct = dict(zip(keys, requests, strict=True))
    entries = known_entries(distinct, judge, store)
    missing = {key: request for key, request in distinct.items() if key not in entries}
    unanswered: dict[str, str] = {}
    retries_in_vain = 0
    if missing and judge["recorded"]:
        told = (
            f"{len(missing)} of {len(distinct)} requests are not in {judge['recorded']}: they are asked for"
        )
        print(told, file=sys.stderr, flush=True)
    if missing:
        asking = Asking(missing, judge, store, payer, study)
        asking.run(proven=bool(entries))
        entries |= asking.entries
        unanswered, retries_in_vain = asking.unanswered, asking.retries_in_vain
        check_complete(asking, len(distinct), len(distinct) - len(entries))
    replies = [
        reply_of(entries[key]) if key in entries else Reply(None, unanswered[key], None) for key in keys
    ]
    paid = [entry for entry in entries.values() if entry["paid_by"] == payer]
    facts = {
        "judge_calls": len(paid),
        "judge_stored": sum(key in entries for key in keys) - len(paid),
        "judge_retries": sum(entry["retries"] for entry in paid) + retries_in_vain,
        "prompt_tokens": sum(entry["usage"]["prompt_tokens"] for entry in paid),
        "completion_tokens": sum(entry["usage"]["completion_tokens"] for entry in paid),
        "usd": math.fsum(entry["usd"] for entry in paid),
    }
    return replies, facts


def known_entries(keys: Iterable[str], judge: dict, store: Path) -> dict[str, dict]:
    """Return the entries of those requests that need no call: recorded in the judge's file, or in the store."""
    recorded = read_recorded(judge["recorded"]) if judge["recorded"] else {}
    found = {key: recorded.get(key) or read_verdict(store, key) for key in keys}
    return {key: entry for key, entry in found.items() if entry is not None}


def check_complete(asking: Asking, count: int, missing: int) -> None:
    """Raise PlumblineError where verdicts are missing and may not be."""
    rest = (
        f"{missing} of {count} verdicts are missing and the others are stored: only those are asked for then"
    )
    if asking.error:
        raise PlumblineError(f"{asking.error}; {rest}")
    if asking.unanswered and asking.judge["unanswered"] == "stop":
        reason = next(iter(asking.unanswered.values()))
        raise PlumblineError(f"{asking.endpoint.name}: {reason}; run again: {rest}")


def plan(requests: list[Request], judge: dict, store: Path) -> dict:
    """Return what `ask` would do and cost at most, without a call: neither a key nor a server is needed.

    {"requests", "stored": those that need no call (equal ones are asked once), "missing": calls to make,
    "prompt_tokens", "completion_tokens", "usd": at most, without retries}.
    """
    distinct = {digest(request_of(request, judge)): request for request in requests}
    known = known_entries(distinct, judge, store)
    missing = [request for key, request in distinct.items() if key not in known]
    tokens = [worst_case(request, judge) for request in missing]
    prompt_tokens, completion_tokens = (
        (sum(column) for column in zip(*tokens, strict=True)) if tokens else (0, 0)
    )
    return {
        "requests": len(requests),
        "stored": len(requests) - len(missing),
        "missing": len(missing),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "usd": price(judge, prompt_tokens, completion_tokens),
    }
