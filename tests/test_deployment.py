"""The files in serving/ and training/: what reads them understands them, and their parts fit."""

import json
import os
import re
import subprocess
import warnings
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.process import ROOT
from tfstyle.cli import parse
from tfstyle.serving.launch import IMAGE

SERVING, TRAINING = ROOT / "serving", ROOT / "training"
VERSION = kubernetes_validate.latest_version()


def manifests(folder: Path) -> list[dict]:
    """What a folder holds for Kubernetes, but for its kustomization."""
    paths = sorted(folder.glob("kubernetes/*.yaml"))
    found = [d for path in paths for d in yaml.safe_load_all(path.read_text())]
    return [d for d in found if d["kind"] != "Kustomization"]


def named(folder: Path, kind: str, name: str | None = None) -> dict:
    """The one manifest of a kind, and of a name where there are several."""
    documents = [document for document in manifests(folder) if document["kind"] == kind]
    (found,) = [one for one in documents if name in (None, one["metadata"]["name"])]
    return found


def pod_of(document: dict) -> tuple[dict, dict]:
    """A pod of one container, and the container."""
    pod = document["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


@pytest.mark.parametrize("folder", [SERVING, TRAINING], ids=lambda folder: folder.name)
def test_manifests_fit_the_schema_and_each_other(folder):
    documents = manifests(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for document in documents:
            kubernetes_validate.validate(document, VERSION, strict=True)
    file = yaml.safe_load((folder / "kubernetes" / "kustomization.yaml").read_text())
    files = {path.name for path in (folder / "kubernetes").glob("*.yaml")}
    # Scans are prepared before, once.
    assert set(file["resources"]) == files - {"kustomization.yaml", "prepare.yaml"}
    runs = [document for document in documents if document["kind"] in ("Deployment", "Job")]
    assert runs
    claims = {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
    for run in runs:
        pod, container = pod_of(run)
        assert container["image"] in {image["name"] for image in file["images"]}
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        for volume in pod["volumes"]:
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in {*claims, "tfstyle-scans"}


def models(text: str) -> dict:
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return {entry.name: entry for entry in config.model_config_list.config}


def flags(arguments: list[str]) -> dict[str, str | None]:
    found = {}
    for argument in arguments:
        match = re.fullmatch(r"--([a-z_]+)(?:=(.*))?", argument)
        assert match, argument
        found[match[1]] = match[2]
    return found


def test_models_config():
    found = models((SERVING / "models.config").read_text())
    assert set(found) == {"stylize", "unet"}
    for name, model in found.items():
        assert model.base_path == f"/models/{name}"
        # The version that "stable" names stays while a newer one comes.
        assert model.model_version_policy.latest.num_versions == 2
        assert dict(model.version_labels) == {"stable": 1}
    alone = models((SERVING / "stylize.config").read_text())
    assert alone == {"stylize": found["stylize"]}


def test_compose_server():
    compose = yaml.safe_load((SERVING / "compose.yaml").read_text())
    server = compose["services"]["tensorflow-serving"]
    assert server["image"] == IMAGE  # what `tfstyle serve` starts
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", IMAGE)
    given = flags(server["command"])
    for flag, value in given.items():
        if flag.endswith("_file"):
            name = value.replace("${TFSTYLE_MODELS:-stylize.config}", "stylize.config")
            assert (SERVING / Path(name).relative_to("/config")).is_file()
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    ports = {port.split(":")[-1] for port in server["ports"]}
    assert ports == {given["port"], given["rest_api_port"]}


def test_deployment():
    config, (_, container) = named(SERVING, "ConfigMap"), pod_of(named(SERVING, "Deployment"))
    given = flags(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": int(given["port"]), "http": int(given["rest_api_port"])}
    # gRPC's health service answers the liveness probe only where it is turned on.
    assert container["livenessProbe"]["grpc"]["port"] == ports["grpc"]
    assert given["enable_grpc_healthcheck_service"] == "true"
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/v1/models/stylize", "port": "http"}
    data = config["data"]
    for flag, value in given.items():
        if flag.endswith("_file"):
            assert value.rpartition("/")[2] in data
    assert models(data["models.config"]) == models((SERVING / "stylize.config").read_text())
    text = (SERVING / "monitoring.config").read_text()
    assert data["monitoring.config"].split() == re.sub("#.*", "", text).split()


def test_script_makes_what_a_worker_reads(tmp_path):
    _, container = pod_of(named(TRAINING, "Job", "tfstyle-train"))
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$TF_CONFIG" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    environment |= {"JOB_COMPLETION_INDEX": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [*container["command"], *container["args"]]
    printed = subprocess.check_output(command, env=environment, text=True)
    config, script, scans, _ = printed.splitlines()
    (port,) = container["ports"]
    names = [f"tfstyle-train-{i}.tfstyle-train:{port['containerPort']}" for i in range(2)]
    task = {"type": "worker", "index": 1}
    assert json.loads(config) == {"cluster": {"worker": names}, "task": task}
    assert (TRAINING / script.lstrip("/")).is_file()
    words = pod_of(named(TRAINING, "Job", "tfstyle-prepare"))[1]["args"]
    assert parse(words)[1].arguments["output"] == scans
