"""The files in serving/: what they name exists, and what reads them understands them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.models import SIGNATURES
from tfstyle.serving.launch import IMAGE

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "serving"
KUBERNETES = SERVING / "kubernetes"
VERSION = kubernetes_validate.latest_version()

# Flags of tensorflow_model_server that are used here.
FLAGS = {
    "allow_version_labels_for_unavailable_models",
    "batching_parameters_file",
    "enable_batching",
    "enable_grpc_healthcheck_service",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "monitoring_config_file",
    "port",
    "rest_api_port",
    "rest_api_timeout_in_ms",
    "ssl_config_file",
    "tensorflow_inter_op_parallelism",
    "tensorflow_intra_op_parallelism",
}


def models(text):
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return {entry.name: entry for entry in config.model_config_list.config}


def flags(arguments):
    found = {}
    for argument in arguments:
        match = re.fullmatch(r"--([a-z_]+)(?:=(.*))?", argument)
        assert match, argument
        found[match[1]] = match[2]
    return found


def documents(path):
    return [d for d in yaml.safe_load_all(path.read_text()) if d is not None]


def manifests():
    return [
        (path.name, document)
        for path in sorted(KUBERNETES.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in documents(path)
    ]


# -- configuration of the server ---------------------------------------------------------------


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


# -- compose -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((SERVING / "compose.yaml").read_text())["services"]


def test_compose_server(compose):
    server = compose["tensorflow-serving"]
    assert server["image"] == IMAGE  # what `tfstyle serve` starts
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", IMAGE)
    given = flags(server["command"])
    assert set(given) <= FLAGS
    mounts = dict(volume.split(":")[:2] for volume in server["volumes"])
    assert mounts == {"../saved_models": "/models", ".": "/config"}
    for flag, value in given.items():
        if flag.endswith("_file"):
            name = value.replace("${TFSTYLE_MODELS:-stylize.config}", "stylize.config")
            assert (SERVING / Path(name).relative_to("/config")).is_file()
    for port in server["ports"]:
        assert port.startswith("127.0.0.1:")
    assert {port.split(":")[-1] for port in server["ports"]} == {
        given["port"],
        given["rest_api_port"],
    }


# -- Kubernetes --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "document"), manifests())
def test_manifests_have_kubernetes_schema(name, document):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kubernetes_validate.validate(document, VERSION, strict=True)


def kind(wanted):
    return [document for _, document in manifests() if document["kind"] == wanted]


def test_deployment():
    (deployment,) = kind("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = flags(container["args"])
    assert set(given) <= FLAGS
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": int(given["port"]), "http": int(given["rest_api_port"])}
    # gRPC's health service answers the liveness probe only where it is turned on.
    assert container["livenessProbe"]["grpc"]["port"] == ports["grpc"]
    assert given["enable_grpc_healthcheck_service"] == "true"
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/v1/models/stylize", "port": "http"}
    # Threads as many as the CPUs that are asked for.
    for flag in ("tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"):
        assert given[flag] == container["resources"]["requests"]["cpu"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounted) == set(volumes)
    (config,) = kind("ConfigMap")
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    for flag, value in given.items():
        if flag.endswith("_file"):
            assert value.removeprefix(f"{mounted['config']}/") in config["data"]


def test_config_map_is_the_file_beside_it():
    (config,) = kind("ConfigMap")
    data = config["data"]
    assert models(data["models.config"]) == models((SERVING / "stylize.config").read_text())
    own, text = data["monitoring.config"], (SERVING / "monitoring.config").read_text()
    assert own.split() == re.sub("#.*", "", text).split()


def test_everything_selects_the_pods():
    (deployment,) = kind("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    names = {
        port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    services = kind("Service")
    assert len(services) == 2
    for service in services:
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    (budget,) = kind("PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (autoscaler,) = kind("HorizontalPodAutoscaler")
    target = autoscaler["spec"]["scaleTargetRef"]
    assert target["kind"] == "Deployment"
    assert target["name"] == deployment["metadata"]["name"]
    # The autoscaler sets the number; the deployment must not set it back.
    assert "replicas" not in deployment["spec"]


# -- README ------------------------------------------------------------------------------------


def test_readme_names_what_is_there():
    text = (SERVING / "README.md").read_text()
    for name in re.findall(r"^\| `([a-zA-Z./]+)` \|", text, re.M):
        assert (SERVING / name).exists(), name
    for flag in set(re.findall(r"--([a-z]+_[a-z_]+)", text)):
        assert flag in FLAGS, flag
    for signature in SIGNATURES:
        stem = re.sub(r"(_strength)?$", "", signature)
        assert stem in text, signature
