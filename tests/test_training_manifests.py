"""The manifests for training on Kubernetes: schemas, and that their parts fit together."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tfstyle.cli import parse

TRAINING = Path(__file__).parents[1] / "training"
KUBERNETES = TRAINING / "kubernetes"
VERSION = kubernetes_validate.latest_version()


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def manifests():
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            for number, document in enumerate(documents(path)):
                yield pytest.param(document, id=f"{path.stem}-{number}")


@pytest.fixture
def train() -> dict:
    (job,) = documents(KUBERNETES / "train.yaml")
    return job


def validate(document: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("document", list(manifests()))
def test_schema(document):
    validate(document)


def test_kustomization():
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    files = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "prepare.yaml"}
    assert [image["name"] for image in kustomization["images"]] == ["tfstyle-training"]


def test_names_and_numbers_fit(train):
    spec = train["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    (service,) = documents(KUBERNETES / "service.yaml")
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(environment["WORKERS"])
    # The names of an Indexed Job's pods are those of the job, in the pods' subdomain.
    assert train["metadata"]["name"] == pod["subdomain"] == environment["NAME"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    labels = spec["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (policy,) = documents(KUBERNETES / "network-policy.yaml")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    # podFailurePolicy is for pods that are not restarted in place.
    assert pod["restartPolicy"] == "Never"


@pytest.mark.parametrize("name", ["train.yaml", "prepare.yaml"])
def test_volumes(name):
    (job,) = documents(KUBERNETES / name)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in documents(KUBERNETES / "volumes.yaml")}
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in {*claims, "tfstyle-scans"}
    assert container["image"] == "tfstyle-training"
    rules = job["spec"]["podFailurePolicy"]["rules"]
    (codes,) = [rule["onExitCodes"] for rule in rules if "onExitCodes" in rule]
    assert codes["containerName"] == container["name"]
    assert 2 in codes["values"]


def test_script_makes_what_a_worker_reads(train, tmp_path):
    (container,) = train["spec"]["template"]["spec"]["containers"]
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$TF_CONFIG" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    (port,) = container["ports"]
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env={
            **environment,
            "JOB_COMPLETION_INDEX": "1",
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        },
        text=True,
        capture_output=True,
        check=True,
    )
    config, script, scans, folder = done.stdout.splitlines()
    names = [f"tfstyle-train-{i}.tfstyle-train:{port['containerPort']}" for i in range(2)]
    task = {"type": "worker", "index": 1}
    assert json.loads(config) == {"cluster": {"worker": names}, "task": task}
    assert (TRAINING / script.lstrip("/")).is_file()
    assert f"cp /src/training{script} / " in (TRAINING / "Dockerfile").read_text()
    mounted = tuple(mount["mountPath"] for mount in container["volumeMounts"])
    assert all(path.startswith(mounted) for path in (scans, folder))
    (job,) = documents(KUBERNETES / "prepare.yaml")
    words = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert parse(words)[1].arguments["output"] == scans


def test_image_runs_tfstyle():
    text = (TRAINING / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["tfstyle"]' in text
    assert "USER 65534:65534" in text
