"""The manifests for training on Kubernetes: schemas, and that their parts fit together."""

from __future__ import annotations

import os
import subprocess
import warnings
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tfstyle.cli import parse
from tfstyle.workers import Worker

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


def test_the_schema_finds_mistakes(train):
    train["spec"]["completionmode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(train)


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
    assert {2, 3} <= set(codes["values"])


def test_script_makes_what_a_worker_reads(train, tmp_path):
    (container,) = train["spec"]["template"]["spec"]["containers"]
    (tmp_path / "tfstyle").write_text('#!/bin/sh\nprintf "%s\\n" "$TF_CONFIG" "$@"\n')
    (tmp_path / "tfstyle").chmod(0o755)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    (port,) = container["ports"]
    for index in range(2):
        done = subprocess.run(
            [*container["command"], *container["args"]],
            env={
                **environment,
                "JOB_COMPLETION_INDEX": str(index),
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
            },
            text=True,
            capture_output=True,
            check=True,
        )
        config, *words = done.stdout.splitlines()
        address = f"tfstyle-train-{index}.tfstyle-train:{port['containerPort']}"
        assert Worker.from_environment({"TF_CONFIG": config}) == Worker(index, 2, address)
        arguments = parse(words)[1].arguments
        run = arguments["run"]
        assert run.batch_size % 2 == 0
        mounted = tuple(mount["mountPath"] for mount in container["volumeMounts"])
        for path in (*run.content, arguments["output"]):
            assert path.startswith(mounted)


def test_prepare_writes_what_train_reads(train):
    (job,) = documents(KUBERNETES / "prepare.yaml")
    _, bound = parse(job["spec"]["template"]["spec"]["containers"][0]["args"])
    (container,) = train["spec"]["template"]["spec"]["containers"]
    assert f"--content {bound.arguments['output']} " in container["args"][0]


def test_image_runs_tfstyle():
    text = (TRAINING / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["tfstyle"]' in text
    assert "USER 65534:65534" in text
