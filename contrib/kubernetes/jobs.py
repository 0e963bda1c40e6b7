#!/usr/bin/env python3
"""Start, watch and cancel the workflow's jobs on Kubernetes: the commands that the profile beside this gives Snakemake.

    jobs.py --submit SCRIPT    start a job script that Snakemake wrote; prints the job's name
    jobs.py --status NAME      prints running, success or failed
    jobs.py NAME...            cancel

In a pod it speaks to its own cluster, with the rights of the pod's service account. Elsewhere PLUMBLINE_KUBERNETES is
the address of `kubectl proxy` (http://127.0.0.1:8001) and PLUMBLINE_NAMESPACE the namespace; the volume must then be
mounted there too, under the same path. Not covered: jobs over several nodes, and clusters without a volume that all
pods mount.
"""

import argparse
import hashlib
import json
import os
import re
import secrets
import sys
import time
from pathlib import Path

import httpx
import yaml

TEMPLATE = Path(__file__).with_name("job.yaml")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
GPU = "nvidia.com/gpu"
TRIES = 3
OUTPUT, WORK = "plumbline/output", "plumbline/work"  # labels: what a job writes, and from what
ENDS = ("Complete", "Failed")


def connect() -> tuple[httpx.Client, str]:
    """Return (a client of the cluster's API, the namespace)."""
    namespace = os.environ.get("PLUMBLINE_NAMESPACE")
    if address := os.environ.get("PLUMBLINE_KUBERNETES"):
        return httpx.Client(base_url=address, timeout=20, trust_env=False), namespace or "default"
    if not (host := os.environ.get("KUBERNETES_SERVICE_HOST")):
        sys.exit(
            "error: this is no pod of a cluster; run `kubectl proxy` and set PLUMBLINE_KUBERNETES=http://127.0.0.1:8001"
        )
    host = f"[{host}]" if ":" in host else host
    return (
        httpx.Client(
            base_url=f"https://{host}:{os.environ['KUBERNETES_SERVICE_PORT']}",
            headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"},
            verify=str(ACCOUNT / "ca.crt"),
            timeout=20,
            trust_env=False,
        ),
        namespace or (ACCOUNT / "namespace").read_text(),
    )


def ask(client: httpx.Client, method: str, path: str, **more) -> httpx.Response:
    """Ask the API, up to three times where it is out of reach or overloaded; raise httpx.TransportError at last."""
    for attempt in range(1, TRIES + 1):
        last = attempt == TRIES
        try:
            answer = client.request(method, path, **more)
        except httpx.TransportError:
            if last:
                raise
        else:
            if last or (answer.status_code < 500 and answer.status_code != 429):
                return answer
        time.sleep(attempt)
    raise AssertionError("unreachable")


def read_script(text: str) -> tuple[dict, str]:
    """Return (what Snakemake says of a job, its commands) of a job script."""
    first, _, rest = text.partition("# properties = ")
    properties, _, commands = rest.partition("\n")
    return json.loads(properties), first + commands


def labels_of(properties: dict) -> dict[str, str]:
    """Return a digest of a job's folder and outputs, and one of all that decides what it writes there.

    Two jobs of the first would write the same files; two of both, from the same code, settings and inputs.
    """
    inputs, output = properties["input"], properties["output"]
    # Of more than a hundred Snakemake names none: then no other job is the same.
    if inputs is None or output is None:
        inputs, output = [secrets.token_hex(6)], output or [secrets.token_hex(6)]
    else:
        inputs = [(name, os.stat(name).st_size, os.stat(name).st_mtime_ns) for name in inputs]
    work = [properties.get(key) for key in ("rule", "groupid", "wildcards", "params", "input")]
    values = {OUTPUT: [os.getcwd(), output], WORK: [work, output, inputs]}
    return {key: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32] for key, value in values.items()}


def describe_job(properties: dict, commands: str, name: str) -> dict:
    """Return the Kubernetes Job of a job script: the template with what the rule asks for."""
    asked = properties["resources"]
    if int(asked.get("nodes", 1)) > 1:
        sys.exit(
            f"error: {name} asks for {asked['nodes']} nodes; on Kubernetes a job is one pod, on one node"
        )
    job = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    job["metadata"]["name"] = name
    job["metadata"].setdefault("labels", {}).update(labels_of(properties))
    job["spec"]["activeDeadlineSeconds"] = int(asked["runtime"]) * 60
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    # The script itself lies in a folder that goes when the head does.
    container |= {"command": ["/bin/sh", "-c", commands], "workingDir": os.getcwd()}
    requests = {"cpu": str(properties["threads"]), "memory": f"{int(asked['mem_mb'])}Mi"}
    limits = {"memory": requests["memory"]}
    nodes = {"node.kubernetes.io/instance-type": asked.get("machine_type")}
    if gpus := int(asked.get("gpu", 0)):
        requests[GPU] = limits[GPU] = str(gpus)
        nodes["nvidia.com/gpu.product"] = asked.get("gpu_product")
        pod.setdefault("tolerations", []).append({"key": GPU, "operator": "Exists", "effect": "NoSchedule"})
    container["resources"] = {"requests": requests, "limits": limits}
    if nodes := {label: value for label, value in nodes.items() if value}:
        pod["nodeSelector"] = pod.get("nodeSelector", {}) | nodes
    return job


def settle_orphan(client: httpx.Client, jobs: str, labels: dict[str, str]) -> str | None:
    """Deal with a job that writes the same files for a head that is no more; never do two write them at once.

    Returns its name if it does the very same work, which is then waited for. Any other is ended, and gone on return.
    """
    answer = ask(client, "GET", jobs, params={"labelSelector": f"{OUTPUT}={labels[OUTPUT]}"})
    for job in answer.raise_for_status().json()["items"]:
        name = job["metadata"]["name"]
        if outcome_of(job):
            continue
        if job["metadata"]["labels"][WORK] == labels[WORK]:
            print(f"{name} was begun by a run before and is waited for", file=sys.stderr)
            return name
        print(f"{name} was begun by a run before, from what has changed since, and is ended", file=sys.stderr)
        # In the foreground: the job is there until its pod is gone.
        ask(client, "DELETE", f"{jobs}/{name}", params={"propagationPolicy": "Foreground"})
        while ask(client, "GET", f"{jobs}/{name}").status_code != 404:
            time.sleep(2)
    return None


def outcome_of(job: dict) -> str | None:
    """Return how a job ended, Complete or Failed, or None while it has not."""
    conditions = job.get("status", {}).get("conditions") or []
    return next(
        (each["type"] for each in conditions if each["status"] == "True" and each["type"] in ENDS), None
    )


def submit(script: Path) -> None:
    """Start a job and print its name."""
    properties, commands = read_script(script.read_text(encoding="utf-8"))
    rule = properties.get("rule") or properties["groupid"]
    name = f"{re.sub('[^a-z0-9]+', '-', rule.lower()).strip('-')[:40]}-{secrets.token_hex(6)}"
    job = describe_job(properties, commands, name)
    client, namespace = connect()
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    if orphan := settle_orphan(client, jobs, job["metadata"]["labels"]):
        print(orphan)
        return
    answer = ask(client, "POST", jobs, json=job)
    # Asked again after an answer that was lost, the name is taken: by this very job.
    if answer.status_code not in (200, 201, 409):
        sys.exit(f"error: the cluster refuses {name} ({answer.status_code}): {message_of(answer)}")
    print(name)


def message_of(answer: httpx.Response) -> str:
    """Return what the API says is wrong."""
    try:
        return answer.json()["message"]
    except (ValueError, KeyError):
        return answer.text[:500]


def why_failed(client: httpx.Client, namespace: str, name: str) -> str:
    """Return what ended a job's container, in the cluster's words (OOMKilled, exit code 1), or nothing."""
    answer = ask(
        client, "GET", f"/api/v1/namespaces/{namespace}/pods", params={"labelSelector": f"job-name={name}"}
    )
    found = []
    for pod in answer.json().get("items", []):
        found += [pod["status"]["reason"]] if pod["status"].get("reason") else []
        for container in pod["status"].get("containerStatuses") or []:
            ended = container.get("state", {}).get("terminated") or {}
            if ended:
                found.append(f"{ended.get('reason', 'ended')}, exit code {ended.get('exitCode')}")
    return "; ".join(found)


def status(name: str) -> str:
    """Return running, success or failed. A cluster out of reach says nothing of the job: running, until it answers."""
    client, namespace = connect()
    try:
        answer = ask(client, "GET", f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")
        if answer.status_code == 404:
            print(f"{name} is gone from the cluster", file=sys.stderr)
            return "failed"
        if answer.status_code != 200:
            print(f"{name}: {answer.status_code} {message_of(answer)}; asking again later", file=sys.stderr)
            return "running"
        outcome = outcome_of(answer.json())
        if outcome == "Failed":
            print(
                f"{name} failed: {why_failed(client, namespace, name)} (kubectl logs job/{name})",
                file=sys.stderr,
            )
        if outcome:
            return "success" if outcome == "Complete" else "failed"
    except httpx.TransportError as error:
        print(f"{name}: the cluster cannot be reached ({error}); asking again later", file=sys.stderr)
    return "running"


def cancel(names: list[str]) -> None:
    """End jobs and forget them; what is gone already counts as ended."""
    client, namespace = connect()
    for name in names:
        client.delete(
            f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}", params={"propagationPolicy": "Background"}
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--submit", type=Path, metavar="SCRIPT")
    parser.add_argument("--status", metavar="NAME")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    if arguments.submit:
        submit(arguments.submit)
    elif arguments.status:
        print(status(arguments.status))
    else:
        cancel(arguments.names)


if __name__ == "__main__":
    main()
