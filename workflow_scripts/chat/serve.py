"""Serve a policy of a study to whatever speaks OpenAI's protocol: by vLLM where it is installed, else by transformers.

`make serve POLICY=tiny.sft.dpo [PORT=8000] [ENGINE=transformers]` runs this. By transformers the policy is served where
it is, and answers to the byte as its study has it answer; one request at a time, for a look and for tests. vLLM serves
a folder that `export` has made of it, kept under work/serve/ for the next time.

It listens on this machine alone unless HOST says otherwise. PLUMBLINE_API_KEY, where it is set, has to come with each
request, as with OpenAI's own. transformers' own server is not used: it wants a package that the lock has not, leaves
`n` out without a word, and takes special tokens that a message spells for real ones.
"""

import hmac
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workflow_scripts.chat.chat import doubts, find_all, in_background, parser, port_of
from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError, run, spelt
from workflow_scripts.common.files import digest, sha256_of
from workflow_scripts.common.local_server import (
    LOOPBACK,
    Handler,
    Refused,
    is_loopback,
    listening,
    until_interrupted,
)
from workflow_scripts.export.found import Found, whole
from workflow_scripts.plan.policies import remote_code

PORT = 8000  # vLLM's own
KEY = "PLUMBLINE_API_KEY"
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
SERVER = "vllm.entrypoints.openai.api_server"  # what `vllm serve` runs; vLLM's CPU build has no such command that works
ENGINES = ("vllm", "transformers")
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    500: "server_error",
}


class OpenAIHandler(Handler):
    """Answers for one policy; `speaker` and `key` are the class's."""

    protocol_version = "HTTP/1.1"
    speaker: Any
    key: str

    def allowed(self) -> None:
        """Raise Refused for who may not ask."""
        self.from_here()
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode(), self.key.encode()):
            raise Refused(401, f"the key is missing or another's: send that of {KEY}")

    def refuse(self, error: Refused) -> None:
        """Send why a request is not answered, in OpenAI's words; what it brought is left unread."""
        kind = KINDS.get(error.status, KINDS[400])
        code = "model_not_found" if error.status == 404 and self.command == "POST" else None
        told = {"error": {"message": str(error), "type": kind, "param": None, "code": code}}
        self.close_connection = True
        self.send(error.status, "application/json", json.dumps(told), Connection="close")

    def do_GET(self) -> None:
        """Name the policy."""
        path = urlsplit(self.path).path
        model = {"id": self.speaker.name, "object": "model", "created": 0, "owned_by": "plumbline"}
        try:
            self.allowed()
            if path == "/v1/models":
                told = {"object": "list", "data": [model]}
            elif path == f"/v1/models/{self.speaker.name}":
                told = model
            else:
                raise Refused(404, f"there is nothing at {path}; ask /v1/models")
        except Refused as error:
            self.refuse(error)
            return
        self.send(200, "application/json", json.dumps(told))

    def do_POST(self) -> None:
        """Answer a request."""
        from workflow_scripts.chat import completions

        path = urlsplit(self.path).path
        try:
            self.allowed()
            if path not in ("/v1/chat/completions", "/v1/completions"):
                raise Refused(
                    404, f"there is nothing at {path}; post to /v1/chat/completions or /v1/completions"
                )
            asked = completions.read(self.body(), self.speaker, path == "/v1/chat/completions")
            if not asked.stream:
                told = json.dumps(completions.whole_answer(asked, self.speaker))
        except PlumblineError as error:
            self.refuse(Refused(400, str(error)))
            return
        except Refused as error:
            self.refuse(error)
            return
        except Exception as error:  # it may have no memory left for this one, and have it for the next
            self.refuse(Refused(500, spelt(error) or f"{type(error).__name__}: {error}"))
            return
        if asked.stream:
            self.close_connection = True
            self.begin(200, "text/event-stream")
            completions.streamed(asked, self.speaker, self.send_part)
        else:
            self.send(200, "application/json", told)


def openai_server(speaker: Any, host: str, port: int, key: str = "") -> Any:
    """Return the server of a policy in memory."""
    return listening(type("Bound", (OpenAIHandler,), {"speaker": speaker, "key": key}), host, port)


def by_transformers(found: Found, host: str, port: int, key: str) -> None:
    """Serve a policy where it is, until the user ends it."""
    print(f"loading {found.policy} …", file=sys.stderr, flush=True)
    said = in_background(lambda: doubts([found]))
    from workflow_scripts.chat.speaker import Speaker

    speaker = Speaker(found)
    for line in said.result():
        print(line, file=sys.stderr, flush=True)
    with openai_server(speaker, host, port, key) as server:
        print(f"{found.policy}: http://{host}:{server.server_port}/v1", flush=True)
        print("by transformers, one request at a time; Ctrl-C ends it", file=sys.stderr, flush=True)
        until_interrupted(server)


# --- vLLM -------------------------------------------------------------------------------------------------------------


def served_folder(found: Found) -> Path:
    """Return the folder that vLLM serves: made once of these weights and this template, and kept."""
    plan = found.plan
    made_of = {"weights": sha256_of(found.manifest), "template": found.template()}
    made_of["precision"] = plan.study.engine.precision
    place = Path("work/serve") / plan.study.study / f"{found.policy}-{found.seed}" / digest(made_of)[:12]
    if not (place / "plumbline.json").is_file():
        shutil.rmtree(place.parent, ignore_errors=True)  # of other weights
        print(f"making {place} …", file=sys.stderr, flush=True)
        from workflow_scripts.export.export import export

        export(found, place, None, None, 0)
    return place


def vllm_command(found: Found, folder: Path, host: str, port: int) -> list[str]:
    """Return the command that serves an exported policy by vLLM, as the study's own engine would answer with it."""
    from workflow_scripts.common.models import model_config, precision_of

    engine = found.plan.study.engine
    context = found.plan.study.models[found.plan.policies[found.policy].model].context
    dtype = str(precision_of(engine.precision)).removeprefix("torch.")
    command = [
        str(VLLM),
        "-W",
        "ignore::DeprecationWarning",
        "-m",
        SERVER,
        "--model",
        str(folder),
        "--served-model-name",
        found.policy,
    ]
    command += ["--host", host, "--port", str(port), "--dtype", dtype, "--max-model-len", str(context)]
    command += ["--load-format", "safetensors", "--no-enable-log-requests"]
    changed = longer_positions(model_config(folder), context)
    if changed:
        command += ["--hf-overrides", json.dumps(changed)]
    if remote_code(found.plan, found.policy):
        command.append("--trust-remote-code")
    import torch

    if torch.cuda.is_available():
        command += ["--gpu-memory-utilization", str(engine.gpu_memory_share)]
    else:
        command += ["--kv-cache-memory-bytes", str(2**30), "--enforce-eager"]
    return command


def longer_positions(config: dict, context: int) -> dict:
    """Return what vLLM is told so that plain rotary positions go on to the study's context, as in transformers."""
    scaled = config.get("rope_scaling") or config.get("rope_parameters") or {}
    plain = scaled.get("rope_type", "default") == "default" and (
        "rope_parameters" in config or "rope_theta" in config
    )
    short = config.get("max_position_embeddings", context) < context
    return {"max_position_embeddings": context} if plain and short else {}


def by_vllm(found: Found, host: str, port: int, key: str) -> None:
    """Become the vLLM server of a policy."""
    for line in doubts([found]):
        print(line, file=sys.stderr, flush=True)
    command = vllm_command(found, served_folder(found), host, port)
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1"}
    environment.setdefault("VLLM_CACHE_ROOT", str(Path("work/vllm").absolute()))
    environment["PATH"] = f"{VLLM.parent}:{environment.get('PATH', '')}"
    if key:
        environment["VLLM_API_KEY"] = key
    print(f"{found.policy}: http://{host}:{port}/v1, by vLLM, once it has loaded", flush=True)
    os.execve(command[0], command, environment)


def main() -> None:
    made = parser(__doc__)
    made.add_argument(
        "--host", default="", help=f"the address to listen on (default: {LOOPBACK}, this machine alone)"
    )
    made.add_argument(
        "--engine", default="", help="vllm or transformers; without, vllm where it is installed"
    )
    arguments = made.parse_args()
    host, engine = arguments.host or LOOPBACK, arguments.engine
    port = port_of(arguments.port) if arguments.port else PORT
    if engine and engine not in ENGINES:
        raise PlumblineError(f"ENGINE={engine}: give {' or '.join(ENGINES)}, or leave it out")
    if engine == "vllm" and not VLLM.is_file():
        raise PlumblineError(
            "ENGINE=vllm: it is not installed; make gpu, or make .venv-vllm/ready for its CPU build, makes .venv-vllm"
        )
    [found] = find_all(arguments.study, [arguments.policy], whole(arguments.seed, "SEED"), "serve")
    key = os.environ.get(KEY, "")
    if not is_loopback(host) and not key:
        print(
            f"warning: HOST={host}: whoever reaches this address may ask; set {KEY} to ask for a key",
            file=sys.stderr,
            flush=True,
        )
    serve = by_vllm if engine == "vllm" or (not engine and VLLM.is_file()) else by_transformers
    serve(found, host, port, key)


if __name__ == "__main__":
    run(main)
