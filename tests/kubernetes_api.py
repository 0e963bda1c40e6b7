"""A stand-in for a Kubernetes cluster: the part of its API that starts, watches and deletes Jobs, on loopback.

It refuses what a real API server refuses (names, mounts, GPUs asked for without a limit), then runs a Job's command as
a local process, if its folder lies on the volume that the pod mounts. It has no nodes, images or scheduler: those are
recorded. A job may be made to end as the cluster would end it: out of memory below a limit that the test sets, or with
its node.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

JOBS = re.compile(r"/apis/batch/v1/namespaces/([a-z0-9-]+)/jobs(?:/([a-z0-9-]+))?$")
PODS = re.compile(r"/api/v1/namespaces/([a-z0-9-]+)/pods$")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|Ki|Mi|Gi)?")


def refusal(job: dict) -> str | None:
    """Return why a real API server would refuse a Job, in its manner, or None."""
    spec = job["spec"]["template"]["spec"]
    container = spec["containers"][0]
    mounted = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    missing = {mount["name"] for mount in container.get("volumeMounts", [])} - {
        volume["name"] for volume in spec.get("volumes", [])
    }
    requests, limits = (container.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
    checks = {
        "metadata.name: a lowercase RFC 1123 subdomain": bool(NAME.fullmatch(job["metadata"]["name"])),
        "restartPolicy: Never or OnFailure": spec.get("restartPolicy") in ("Never", "OnFailure"),
        f"volumeMounts.name: not found: {missing}": not missing,
        "volumeMounts.mountPath: must be unique": len(set(mounted)) == len(mounted),
        "command: strings": all(isinstance(part, str) for part in container.get("command", [])),
        "nodeSelector: strings": all(isinstance(v, str) for v in spec.get("nodeSelector", {}).values()),
        "activeDeadlineSeconds: a whole number": isinstance(job["spec"].get("activeDeadlineSeconds", 0), int),
        "resources: quantities": all(
            QUANTITY.fullmatch(str(v)) for v in [*requests.values(), *limits.values()]
        ),
        "nvidia.com/gpu: Limit must be set for non overcommitable resources, and equal the request": requests.get(
            "nvidia.com/gpu"
        )
        == limits.get("nvidia.com/gpu"),
    }
    broken = [name for name, holds in checks.items() if not holds]
    return f'Job.batch "{job["metadata"]["name"]}" is invalid: {"; ".join(broken)}' if broken else None


def mebibytes(quantity: str) -> float:
    """Return a quantity of memory in MiB."""
    units = {"": 1 / 2**20, "Mi": 1, "Gi": 2**10, "M": 1e6 / 2**20, "G": 1e9 / 2**20}
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()
    return float(number) * units[unit]


class Cluster:
    """The jobs of a cluster; `jobs` keeps every one that was ever accepted, in order."""

    def __init__(self, volume: Path, wants_mb: dict[str, int] | None = None):
        """`volume` is what the claim holds; `wants_mb` is {start of a job's name: the memory it really takes}."""
        self.volume, self.wants_mb = volume, wants_mb or {}
        self.jobs: dict[str, dict] = {}
        self.states: dict[str, dict] = {}
        self.processes: dict[str, subprocess.Popen] = {}
        self.refusals: list[str] = []
        self.deleted: list[str] = []
        self.out_of_order = 0  # so many requests are answered with 503 first
        self.lock = threading.Lock()
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                cluster.answer(self, "GET")

            def do_POST(self):
                cluster.answer(self, "POST")

            def do_DELETE(self):
                cluster.answer(self, "DELETE")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for name in list(self.processes):
            self.end(name)

    def answer(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self.lock:
            if self.out_of_order:
                self.out_of_order -= 1
                code, value = 503, {"message": "the server is currently unable to handle the request"}
            else:
                code, value = self.respond(method, urlparse(handler.path), body)
        text = json.dumps(value).encode()
        handler.send_response(code)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def respond(self, method: str, address, body: bytes) -> tuple[int, dict]:
        if found := JOBS.match(address.path):
            name = found[2]
            if method == "POST":
                return self.create(json.loads(body))
            if not name:
                key, value = parse_qs(address.query)["labelSelector"][0].split("=")
                held = [n for n in self.states if self.jobs[n]["metadata"]["labels"].get(key) == value]
                return 200, {"items": [self.jobs[n] | {"status": self.job_status(n)} for n in held]}
            if name not in self.states:
                return 404, {"message": f'jobs.batch "{name}" not found'}
            if method == "DELETE":
                self.deleted.append(name)
                self.end(name)
                self.states.pop(name)
                return 200, {"kind": "Status", "status": "Success"}
            return 200, self.jobs[name] | {"status": self.job_status(name)}
        if PODS.match(address.path) and method == "GET":
            name = parse_qs(address.query)["labelSelector"][0].removeprefix("job-name=")
            pods = (
                [{"metadata": {"name": f"{name}-pod"}, "status": self.states[name]}]
                if name in self.states
                else []
            )
            return 200, {"kind": "PodList", "items": pods}
        return 404, {"message": "the server could not find the requested resource"}

    def create(self, job: dict) -> tuple[int, dict]:
        name = job["metadata"]["name"]
        if reason := refusal(job):
            self.refusals.append(reason)
            return 422, {"message": reason}
        if name in self.states:
            return 409, {"message": f'jobs.batch "{name}" already exists'}
        self.jobs[name] = job
        container = job["spec"]["template"]["spec"]["containers"][0]
        wanted = max((mb for start, mb in self.wants_mb.items() if name.startswith(start)), default=0)
        mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
        folder = Path(container["workingDir"])
        if not any(mount == self.volume and folder.is_relative_to(mount) for mount in mounts):
            self.states[name] = ended("StartError", 128)
        elif mebibytes(container["resources"]["limits"]["memory"]) < wanted:
            self.states[name] = ended("OOMKilled", 137)
        else:
            # A pod knows nothing of the environment that the head was started in.
            clean = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
            clean |= {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
            self.processes[name] = subprocess.Popen(
                container["command"], cwd=folder, env=clean, start_new_session=True
            )
            self.states[name] = {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}
        return 201, job

    def job_status(self, name: str) -> dict:
        process = self.processes.get(name)
        if process and process.poll() is not None and self.states[name]["phase"] == "Running":
            self.states[name] = ended("Error" if process.returncode else "Completed", process.returncode)
        phase = self.states[name]["phase"]
        if phase == "Running":
            return {"active": 1}
        kind = "Complete" if phase == "Succeeded" else "Failed"
        return {"conditions": [{"type": kind, "status": "True", "message": f"Job has reached {kind}"}]}

    def end(self, name: str) -> None:
        process = self.processes.get(name)
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def lose_node(self, name: str) -> None:
        """End a job as the death of its node does."""
        with self.lock:
            self.end(name)
            self.states[name] = ended("Error", 137) | {"reason": "NodeLost"}

    def named(self, start: str) -> list[dict]:
        """Return the jobs whose names start so, in the order in which they came."""
        return [job for name, job in self.jobs.items() if name.startswith(start)]

    def wait_for(self, start: str, seconds: float = 240) -> str:
        """Return the name of the first running job that is called so, once there is one."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with self.lock:
                for name, state in self.states.items():
                    if name.startswith(start) and state["phase"] == "Running":
                        return name
            time.sleep(0.1)
        raise AssertionError(f"no job {start}… after {seconds} s; there are {list(self.jobs)}")


def ended(reason: str, code: int) -> dict:
    """Return the status of a pod whose container has ended."""
    terminated = {"terminated": {"reason": reason, "exitCode": code}}
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"state": terminated}]}
