"""Which versions of which models are loaded, and the switch from one to the next.

The rules are TensorFlow Serving's: a policy chooses among the version folders on disk, a new
version is loaded and warmed up before an old one is retired, and a retired one is released when
its last request is done. So no request is ever without a version.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.export.servable import Servable, list_versions, resolve_models
from tfstyle.serving.monitoring import Metrics
from tfstyle.serving.status import StatusError, invalid, not_found

if TYPE_CHECKING:
    from tensorflow_serving.apis.model_pb2 import ModelSpec
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

logger = logging.getLogger(__name__)

PLATFORM = "tensorflow"
_EARLIEST = float("-inf")


@dataclass(frozen=True)
class ServedModel:
    """One model of a configuration.

    Args:
        name: Name that requests give.
        base_path: Folder of its versions.
        latest: Serve this many of the highest versions; None for all of them.
        specific: Serve these versions, if given, whatever `latest` says.
        labels: Version label to version.
    """

    name: str
    base_path: Path
    latest: int | None = 1
    specific: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

    def chosen(self, versions: Collection[int]) -> list[int]:
        """Those of some versions that the policy wants, highest first."""
        ordered = sorted(versions, reverse=True)
        if self.specific:
            return [version for version in ordered if version in self.specific]
        return ordered if self.latest is None else ordered[: self.latest]

    @classmethod
    def from_config(cls, config: ModelConfig) -> ServedModel:
        """From one entry of a ``ModelServerConfig``.

        Raises:
            StatusError: INVALID_ARGUMENT, as TensorFlow Serving refuses an entry.
        """
        if not config.name:
            invalid("a model in the config list has no name")
        if config.model_platform != PLATFORM:
            if not config.model_platform:
                invalid(
                    "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                    "ModelServerConfig::model_platform."
                )
            invalid(f"Model {config.name} requests unsupported platform {config.model_platform}")
        if not Path(config.base_path).is_absolute():
            invalid(
                f"Expected model {config.name} to have an absolute path or URI; got "
                f"base_path()={config.base_path}"
            )
        latest: int | None = 1
        specific: tuple[int, ...] = ()
        policy = config.model_version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "latest":
            latest = policy.latest.num_versions or 1
        elif choice == "all":
            latest = None
        elif choice == "specific":
            specific = tuple(policy.specific.versions)
            if not specific:
                invalid(f"Model {config.name}: the specific version policy names no version")
        return cls(
            config.name, Path(config.base_path), latest, specific, dict(config.version_labels)
        )


def models_of_config(config: ModelServerConfig) -> dict[str, ServedModel]:
    """The models of a ``ModelServerConfig``.

    Raises:
        StatusError: As TensorFlow Serving refuses a configuration.
    """
    if config.WhichOneof("config") != "model_config_list":
        invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported"
        )
    models: dict[str, ServedModel] = {}
    for entry in config.model_config_list.config:
        if entry.name in models:
            invalid(f"Illegal to list model {entry.name} multiple times in config list")
        models[entry.name] = ServedModel.from_config(entry)
    return models


def served_models(models: str | Path | Mapping[str, str | Path]) -> dict[str, ServedModel]:
    """What a server is to serve, from what a user would naturally give.

    Args:
        models: A ``models.config`` file, in protobuf's text format, or anything that
            :func:`tfstyle.export.resolve_models` takes; for the latter the highest version of
            each model is served.

    Returns:
        Model name to model.

    Raises:
        InputFileError: The file is no such configuration, or a folder is missing or empty.
        ArgumentError: ``models`` is an empty mapping, or a model name is not usable.
    """
    if isinstance(models, Mapping) or not Path(models).is_file():
        return {name: ServedModel(name, path) for name, path in resolve_models(models).items()}
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        config = text_format.Parse(
            Path(models).read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig()
        )
        found = models_of_config(config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InputFileError(
            models, f"is no models.config in protobuf's text format ({error})"
        ) from error
    except StatusError as error:
        raise InputFileError(models, error.details) from error
    if not found:
        raise InputFileError(models, "lists no model")
    for model in found.values():
        if not model.chosen(list_versions(model.base_path)):
            raise InputFileError(
                model.base_path,
                f"has none of the versions of the model '{model.name}' that {models} wants; export "
                "one with `tfstyle export`, or take the model out of the file",
            )
    return found


class Version:
    """One version of one model and how far it is; guarded by its manager's lock."""

    def __init__(self, number: int, path: Path):
        self.number = number
        self.path = path
        self.state = "START"
        self.error: StatusError | None = None
        self.servable: Servable | None = None
        self.uses = 0
        self.attempts = 0
        self.retry_at = _EARLIEST
        self.stamp: int | None = None


class Lease:
    """A loaded version that stays loaded until :meth:`release`; a context manager."""

    def __init__(self, manager: ModelManager, version: Version, servable: Servable):
        self.servable = servable
        self._manager = manager
        self._version: Version | None = version

    def release(self) -> None:
        """Gives the version back. May be called again."""
        version, self._version = self._version, None
        if version is not None:
            self._manager._release(version)

    def __enter__(self) -> Servable:
        return self.servable

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class ModelManager:
    """Loads, watches and retires the versions of models. Thread-safe.

    Args:
        models: What to serve; see :func:`served_models`.
        poll_seconds: Seconds between two looks at the folders; 0 looks once, at the start.
        warm_up: Run the warm-up requests of a version before it is available.
        retries: How often a version that failed to load is tried again.
        retry_seconds: Seconds between two attempts; a version whose ``saved_model.pb`` changed is
            tried again at once.
        metrics: Where loads are counted.
        load: Loads one version; :class:`tfstyle.serving.Servable` unless given.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        *,
        poll_seconds: float = 1.0,
        warm_up: bool = True,
        retries: int = 5,
        retry_seconds: float = 60.0,
        metrics: Metrics | None = None,
        load: Callable[[str, int, Path], Servable] = Servable,
    ):
        self._models = dict(models)
        self._versions: dict[str, dict[int, Version]] = {name: {} for name in models}
        self._labels = {name: dict(model.labels) for name, model in models.items()}
        # Folders from which a reload may take models: where the first ones lie.
        self._roots = {model.base_path.resolve().parent for model in models.values()}
        self._poll_seconds = poll_seconds
        self._warm_up = warm_up
        self._retries = retries
        self._retry_seconds = retry_seconds
        self._metrics = metrics or Metrics()
        self._load_servable = load
        self._lock = threading.Lock()
        self._updating = threading.Lock()  # one look at the folders, or one reload, at a time
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def models(self) -> dict[str, Path]:
        """Model name to base path, as configured now."""
        with self._lock:
            return {name: model.base_path for name, model in self._models.items()}

    def start(self) -> None:
        """Loads every model, then watches for new versions.

        Raises:
            InputFileError: A model has no version that can be loaded.
        """
        try:
            for name, model in self._models.items():
                self._update(model)
                self._require_available(name)
        except BaseException:
            self.stop()
            raise
        if self._poll_seconds > 0:
            self._thread = threading.Thread(
                target=self._watch, name="tfstyle-versions", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Stops watching and releases every version; runs in progress are cancelled."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            loaded = [
                version
                for versions in self._versions.values()
                for version in versions.values()
                if version.servable is not None
            ]
            servables = []
            for version in loaded:
                servables.append(version.servable)
                version.servable, version.state = None, "END"
        for servable in servables:
            servable.close()

    def acquire(self, spec: ModelSpec) -> Lease:
        """The version that a request asks for, held until it is released.

        Raises:
            StatusError: As TensorFlow Serving answers a spec without a name, an unknown name,
                version or version label.
        """
        if not spec.name:
            invalid("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        with self._lock:
            versions = {
                number: version
                for number, version in self._versions.get(spec.name, {}).items()
                if version.state == "AVAILABLE"
            }
            if choice is None:
                if not versions:
                    not_found(f"Servable not found for request: Latest({spec.name})")
                number = max(versions)
            elif choice == "version":
                number = spec.version.value
            else:
                labels = self._labels.get(spec.name, {})
                if spec.version_label not in labels:
                    invalid(f"Unrecognized servable version label: {spec.version_label}")
                number = labels[spec.version_label]
            if number not in versions:
                not_found(f"Servable not found for request: Specific({spec.name}, {number})")
            version = versions[number]
            version.uses += 1
            return Lease(self, version, version.servable)

    def states(self, spec: ModelSpec) -> list[tuple[int, str, StatusError | None]]:
        """Number, state and error of the versions that a status request asks about.

        Returns:
            Highest version first.

        Raises:
            StatusError: NOT_FOUND or INVALID_ARGUMENT, in TensorFlow Serving's words.
        """
        choice = spec.WhichOneof("version_choice")
        with self._lock:
            versions = self._versions.get(spec.name, {})
            number = None
            if choice == "version":
                number = spec.version.value
            elif choice == "version_label":
                labels = self._labels.get(spec.name, {})
                if spec.version_label not in labels:
                    invalid(f"Unrecognized servable version label: {spec.version_label}")
                number = labels[spec.version_label]
            if number is not None:
                if number not in versions:
                    not_found(f"Could not find version {number} of model {spec.name}")
                chosen = [versions[number]]
            elif not versions:
                not_found(f"Could not find any versions of model {spec.name}")
            else:
                chosen = [versions[n] for n in sorted(versions, reverse=True)]
            return [(version.number, version.state, version.error) for version in chosen]

    def available(self) -> bool:
        """Whether every configured model has a version that answers."""
        with self._lock:
            return all(
                any(v.state == "AVAILABLE" for v in self._versions.get(name, {}).values())
                for name in self._models
            )

    def reload(self, config: ModelServerConfig) -> None:
        """Makes a configuration the one in effect, or leaves the old one and raises.

        Models that are new are loaded before this returns, models that are gone are retired, and
        further versions of the others come in their own time, all as in TensorFlow Serving with
        ``--allow_version_labels_for_unavailable_models``.

        Raises:
            StatusError: As TensorFlow Serving refuses a configuration. Besides, PERMISSION_DENIED
                for a base path that does not lie beside one that the server was started with:
                whoever reaches the port must not choose what this process loads from the disk.
        """
        models = models_of_config(config)
        with self._updating:
            for model in models.values():
                if model.base_path.resolve().parent not in self._roots:
                    raise StatusError(
                        "PERMISSION_DENIED",
                        f"Model {model.name}: base path {model.base_path} does not lie beside the "
                        "models that this server was started with",
                    )
                self._check_labels(model)
            new = {
                name: model
                for name, model in models.items()
                if name not in self._models or self._models[name].base_path != model.base_path
            }
            added: dict[str, dict[int, Version]] = {}
            for name, model in new.items():
                added[name] = self._load_new(name, model, added)
            with self._lock:
                old, self._models = self._models, models
                self._labels = {name: dict(model.labels) for name, model in models.items()}
                retired = [
                    version
                    for name in old
                    if name not in models or name in new
                    for version in self._versions.get(name, {}).values()
                ]
                self._versions.update(added)
            for version in retired:
                self._retire(version)
        self._wake.set()
        if self._thread is None:
            self.poll()

    def poll(self) -> None:
        """Looks at the folders once: loads what is new, retires what is no longer wanted."""
        with self._updating:
            for model in list(self._models.values()):
                if self._stopping:
                    return
                try:
                    self._update(model)
                except Exception:
                    logger.exception("looking for versions of %s failed", model.name)

    def _watch(self) -> None:
        while not self._stopping:
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
            if not self._stopping:
                self.poll()

    def _update(self, model: ServedModel) -> None:
        on_disk = {
            number: path
            for number, path in list_versions(model.base_path).items()
            # A folder that is still being copied is none yet.
            if (path / "saved_model.pb").is_file()
        }
        wanted = model.chosen(on_disk)
        versions = self._versions[model.name]
        for number in wanted:
            if self._stopping:
                return
            with self._lock:
                version = versions.get(number)
                if version is None or (version.state == "END" and version.error is None):
                    version = versions[number] = Version(number, on_disk[number])
            if self._may_try(version):
                self._load(model.name, version)
        with self._lock:
            loaded = [v for v in versions.values() if v.state == "AVAILABLE"]
            surplus = sorted((v for v in loaded if v.number not in wanted), key=lambda v: v.number)
            if wanted and surplus and len(surplus) == len(loaded):
                # None of the wanted ones works yet: the best of the others goes on.
                surplus.pop()
        for version in surplus:
            self._retire(version)

    def _may_try(self, version: Version) -> bool:
        if version.state in ("AVAILABLE", "UNLOADING"):
            return False
        stamp = _stamp(version.path)
        if stamp != version.stamp:  # new, or written anew since it failed
            version.stamp, version.attempts = stamp, 0
            return True
        return version.attempts <= self._retries and time.monotonic() >= version.retry_at

    def _load(self, name: str, version: Version) -> None:
        with self._lock:
            version.state = "LOADING"
        version.attempts += 1
        begin = time.perf_counter()
        path, metrics = str(version.path), self._metrics
        try:
            servable = self._load_servable(name, version.number, version.path)
            metrics.load_latency.observe(_microseconds(begin), path)
            if self._warm_up:
                begin = time.perf_counter()
                try:
                    servable.warm_up()
                except InputFileError:
                    servable.close()
                    metrics.warm_up_latency.observe(_microseconds(begin), path, "FAIL")
                    raise
                metrics.warm_up_latency.observe(_microseconds(begin), path, "OK")
        except InputFileError as error:
            metrics.load_attempts.add(path, "fail")
            logger.error("%s version %d: %s", name, version.number, error)
            with self._lock:
                version.error = StatusError("UNKNOWN", str(error))
                version.retry_at = time.monotonic() + self._retry_seconds
                if version.attempts > self._retries:
                    version.state = "END"
            return
        metrics.load_attempts.add(path, "success")
        with self._lock:
            version.servable, version.state, version.error = servable, "AVAILABLE", None
        logger.info("%s version %d is available", name, version.number)

    def _require_available(self, name: str) -> None:
        versions = self._versions[name].values()
        if any(version.state == "AVAILABLE" for version in versions):
            return
        path = self._models[name].base_path
        for version in versions:
            if version.error is not None:
                raise InputFileError(version.path, version.error.details.split(": ", 1)[-1])
        raise InputFileError(path, "has no version that could be loaded; export a model")

    def _load_new(
        self, name: str, model: ServedModel, added: Mapping[str, dict[int, Version]]
    ) -> dict[int, Version]:
        """Loads a model that a reload brings; on failure releases all that it brought so far."""
        versions: dict[int, Version] = {}
        for number in model.chosen(list_versions(model.base_path)):
            version = versions[number] = Version(number, list_versions(model.base_path)[number])
            version.stamp = _stamp(version.path)
            self._load(name, version)
        if any(version.state == "AVAILABLE" for version in versions.values()):
            return versions
        for loaded in added.values():
            for version in loaded.values():
                if version.servable is not None:
                    version.servable.close()
        reasons = "; ".join(v.error.details for v in versions.values() if v.error is not None)
        raise StatusError(
            "UNKNOWN",
            f"1 model(s) did not become available: {{{{name: {name}}} due to error: "
            f"{reasons or f'no version in {model.base_path}'}}}",
        )

    def _check_labels(self, model: ServedModel) -> None:
        with self._lock:
            known = self._labels.get(model.name, {})
            versions = self._versions.get(model.name, {})
            for label, number in model.labels.items():
                version = versions.get(number)
                ready = version is not None and version.state == "AVAILABLE"
                if not ready and known.get(label, number) != number:
                    raise StatusError(
                        "FAILED_PRECONDITION",
                        f"Request to assign label to version {number} of model {model.name}, which "
                        "is not currently available for inference",
                    )

    def _retire(self, version: Version) -> None:
        with self._lock:
            if version.servable is None:
                version.state = "END"
                return
            version.state = "UNLOADING"
        self._close_unused(version)

    def _release(self, version: Version) -> None:
        with self._lock:
            version.uses -= 1
        self._close_unused(version)

    def _close_unused(self, version: Version) -> None:
        with self._lock:
            if version.state != "UNLOADING" or version.uses or version.servable is None:
                return
            servable, version.servable, version.state = version.servable, None, "END"
        servable.close()
        logger.info("%s version %d is released", servable.name, servable.version)


def _stamp(path: Path) -> int | None:
    try:
        return (path / "saved_model.pb").stat().st_mtime_ns
    except OSError:
        return None


def _microseconds(begin: float) -> float:
    return (time.perf_counter() - begin) * 1e6


def checked_seconds(name: str, value: float) -> float:
    """A number of seconds of at least 0.

    Raises:
        ArgumentError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ArgumentError(
            f"{name}: must be a number of seconds of at least 0, received {value!r}"
        )
    return float(value)
