"""Versions that come and go, with servables that load nothing."""

from __future__ import annotations

import shutil
import threading

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.serving.monitoring import Metrics
from tfstyle.serving.status import StatusError
from tfstyle.serving.versions import ModelManager, ServedModel, served_models


class Fake:
    """A servable that remembers what happened to it."""

    def __init__(self, name, version, path):
        if (path / "saved_model.pb").read_bytes() == b"damaged":
            raise InputFileError(path, "cannot be loaded")
        self.name, self.version = name, version
        self.warmed = self.closed = False

    def warm_up(self):
        self.warmed = True

    def close(self):
        self.closed = True


def put(base, version, content=b""):
    """Publishes a version as an export does."""
    hidden = base / f".export-{version}"
    hidden.mkdir(parents=True)
    (hidden / "saved_model.pb").write_bytes(content)
    hidden.rename(base / str(version))


def spec(name="m", version=None, label=None):
    made = model_pb2.ModelSpec(name=name)
    if version is not None:
        made.version.value = version
    if label is not None:
        made.version_label = label
    return made


@pytest.fixture
def base(tmp_path):
    put(tmp_path / "m", 1)
    return tmp_path / "m"


@pytest.fixture
def manage(base):
    """Makes managers that look at the folders only when told to."""
    made = []

    def make(*models, **options):
        models = models or (ServedModel("m", base),)
        options = {"poll_seconds": 0, "load": Fake, **options}
        made.append(ModelManager({model.name: model for model in models}, **options))
        made[-1].start()
        return made[-1]

    yield make
    for manager in made:
        manager.stop()


def states(manager, name="m"):
    return {number: state for number, state, _ in manager.states(spec(name))}


def config(text):
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def entry(base, name="m", more=""):
    return f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'


def configured(*entries):
    return config(f"model_config_list {{ {' '.join(entries)} }}")


def refused(method, *arguments):
    with pytest.raises(StatusError) as caught:
        method(*arguments)
    return caught.value.code, caught.value.details


# -- the switch ------------------------------------------------------------------------------


def test_a_new_version_takes_over_and_the_old_one_finishes_its_requests(manage, base):
    manager = manage()
    old = manager.acquire(spec())
    assert old.servable.version == 1
    assert old.servable.warmed
    put(base, 2)
    manager.poll()
    assert states(manager) == {2: "AVAILABLE", 1: "UNLOADING"}
    with manager.acquire(spec()) as new:
        assert new.version == 2
    assert refused(manager.acquire, spec(version=1)) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(m, 1)",
    )
    assert not old.servable.closed
    old.release()
    old.release()  # a second time does nothing
    assert old.servable.closed
    assert states(manager) == {2: "AVAILABLE", 1: "END"}


def test_there_is_a_version_at_every_moment_of_a_switch(manage, base):
    manager = manage()
    failures, stop = [], threading.Event()

    def work():
        while not stop.is_set():
            try:
                with manager.acquire(spec()) as servable:
                    assert not servable.closed
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 12):
        put(base, number)
        manager.poll()
        shutil.rmtree(base / str(number - 1))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert states(manager)[11] == "AVAILABLE"


def test_going_back_by_deleting_the_new_version(manage, base):
    manager = manage()
    put(base, 2)
    manager.poll()
    shutil.rmtree(base / "2")
    manager.poll()
    assert states(manager) == {2: "END", 1: "AVAILABLE"}
    assert manager.acquire(spec()).servable.version == 1


def test_watching(base):
    put(base, 2)
    manager = ModelManager({"m": ServedModel("m", base)}, poll_seconds=0.01, load=Fake)
    manager.start()
    try:
        put(base, 3)
        for _ in range(1000):
            if states(manager).get(3) == "AVAILABLE":
                break
            threading.Event().wait(0.01)
        assert states(manager)[3] == "AVAILABLE"
    finally:
        manager.stop()
    assert states(manager)[3] == "END"
    assert refused(manager.acquire, spec())[0] == "NOT_FOUND"


def test_a_damaged_version_leaves_the_old_one_in_place(manage, base):
    metrics = Metrics()
    manager = manage(metrics=metrics, retries=1, retry_seconds=0.0)
    put(base, 2, b"damaged")
    manager.poll()
    assert states(manager) == {2: "LOADING", 1: "AVAILABLE"}
    manager.poll()
    manager.poll()
    ((_, state, error), _) = manager.states(spec())
    assert state == "END"
    assert error.code == "UNKNOWN"
    assert "cannot be loaded" in error.details
    assert manager.acquire(spec()).servable.version == 1
    fails = f'load_attempt_count{{model_path="{base / "2"}",status="fail"}} 2'
    assert fails in metrics.page()
    # Written anew, it is tried again at once.
    (base / "2" / "saved_model.pb").write_bytes(b"good")
    manager.poll()
    assert states(manager) == {2: "AVAILABLE", 1: "UNLOADING"}


def test_a_failed_load_waits_for_its_next_attempt(manage, base):
    loads = []

    def load(name, version, path):
        loads.append(version)
        return Fake(name, version, path)

    manager = manage(load=load, retry_seconds=3600.0)
    put(base, 2, b"damaged")
    for _ in range(3):
        manager.poll()
    assert loads == [1, 2]


def test_a_failed_warm_up_is_a_failed_load(manage, base):
    class Cold(Fake):
        def warm_up(self):
            if self.version == 2:
                raise InputFileError("warm-up", "request 1 fails")

    manager = manage(load=Cold)
    put(base, 2)
    manager.poll()
    assert states(manager) == {2: "LOADING", 1: "AVAILABLE"}


def test_no_warm_up(manage):
    assert not manage(warm_up=False).acquire(spec()).servable.warmed


def test_a_folder_without_saved_model_is_none_yet(manage, base):
    manager = manage()
    (base / "2").mkdir()
    manager.poll()
    assert states(manager) == {1: "AVAILABLE"}


def test_an_empty_folder_unloads(manage, base):
    manager = manage()
    assert manager.available()
    shutil.rmtree(base)
    manager.poll()
    assert states(manager) == {1: "END"}
    assert not manager.available()


def test_no_version_that_loads_ends_the_start(base):
    put(base, 2, b"damaged")
    manager = ModelManager({"m": ServedModel("m", base)}, load=Fake)
    with pytest.raises(InputFileError, match=r"2: cannot be loaded"):
        manager.start()


# -- policies and labels ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {3}),
        ("model_version_policy { latest { } }", {3}),
        ("model_version_policy { latest { num_versions: 2 } }", {3, 2}),
        ("model_version_policy { all { } }", {3, 2, 1}),
        ("model_version_policy { specific { versions: 1 versions: 9 } }", {1}),
    ],
)
def test_policies(manage, base, policy, served):
    put(base, 2)
    put(base, 3)
    (model,) = configured(entry(base, more=policy)).model_config_list.config
    manager = manage(ServedModel.from_config(model))
    assert set(states(manager)) == served


def test_labels(manage, base):
    put(base, 2)
    labels = {"stable": 1, "canary": 2, "later": 3}
    manager = manage(ServedModel("m", base, latest=2, labels=labels))
    assert manager.acquire(spec(label="stable")).servable.version == 1
    assert manager.acquire(spec(label="canary")).servable.version == 2
    assert manager.states(spec(label="stable"))[0][0] == 1
    unknown = ("INVALID_ARGUMENT", "Unrecognized servable version label: none")
    assert refused(manager.acquire, spec(label="none")) == unknown
    assert refused(manager.states, spec(label="none")) == unknown
    assert refused(manager.acquire, spec(label="later")) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(m, 3)",
    )


def test_words_for_what_is_not_there(manage):
    manager = manage()
    assert refused(manager.acquire, spec("")) == (
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    )
    assert refused(manager.acquire, spec("n")) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(n)",
    )
    assert refused(manager.states, spec(version=7)) == (
        "NOT_FOUND",
        "Could not find version 7 of model m",
    )
    assert refused(manager.states, spec("n")) == (
        "NOT_FOUND",
        "Could not find any versions of model n",
    )


# -- reload ----------------------------------------------------------------------------------


def test_reload_adds_and_removes_models(manage, base):
    manager = manage()
    put(base.parent / "n", 4)
    manager.reload(configured(entry(base), entry(base.parent / "n", "n")))
    assert states(manager, "n") == {4: "AVAILABLE"}
    assert set(manager.models) == {"m", "n"}
    manager.reload(configured(entry(base.parent / "n", "n")))
    assert refused(manager.acquire, spec("m"))[0] == "NOT_FOUND"
    assert states(manager) == {1: "END"}  # history
    assert manager.acquire(spec("n")).servable.version == 4


def test_reload_changes_policy_and_base_path(manage, base):
    put(base, 2)
    manager = manage()
    policy = "model_version_policy { specific { versions: 1 } }"
    manager.reload(configured(entry(base, more=policy)))
    assert states(manager) == {2: "END", 1: "AVAILABLE"}
    put(base.parent / "other", 8)
    manager.reload(configured(entry(base.parent / "other")))
    assert states(manager) == {8: "AVAILABLE"}


def test_a_label_moves_only_to_a_version_that_answers(manage, base):
    manager = manage(ServedModel("m", base, latest=2, labels={"stable": 1}))
    policy = "model_version_policy { latest { num_versions: 2 } } "
    moved = configured(entry(base, more=policy + 'version_labels { key: "stable" value: 2 }'))
    assert refused(manager.reload, moved) == (
        "FAILED_PRECONDITION",
        "Request to assign label to version 2 of model m, which is not currently available for "
        "inference",
    )
    assert manager.acquire(spec(label="stable")).servable.version == 1
    put(base, 2)
    manager.poll()
    manager.reload(moved)
    assert manager.acquire(spec(label="stable")).servable.version == 2


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", "INVALID_ARGUMENT", "Only ModelConfigList is currently supported"),
        ("model_config_list { M M }", "INVALID_ARGUMENT", "Illegal to list model m multiple times"),
        (
            'model_config_list { config { name: "m" base_path: "m" model_platform: "tensorflow" }}',
            "INVALID_ARGUMENT",
            "Expected model m to have an absolute path or URI; got base_path()=m",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" } }',
            "INVALID_ARGUMENT",
            "Illegal setting neither",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "x" } }',
            "INVALID_ARGUMENT",
            "Model m requests unsupported platform x",
        ),
        (
            "model_config_list { M "
            'config { name: "n" base_path: "/elsewhere/n" model_platform: "tensorflow" } }',
            "PERMISSION_DENIED",
            "does not lie beside the models",
        ),
        ("model_config_list { M N }", "UNKNOWN", "1 model(s) did not become available: {{name: n}"),
        ("model_config_list { M D }", "UNKNOWN", "cannot be loaded"),
    ],
)
def test_a_refused_reload_changes_nothing(manage, base, text, code, message):
    manager = manage()
    put(base.parent / "d", 1, b"damaged")
    for letter, part in (
        ("M", entry(base)),
        ("N", entry(base.parent / "missing", "n")),
        ("D", entry(base.parent / "d", "d")),
    ):
        text = text.replace(f" {letter} ", f" {part} ").replace(f" {letter} ", f" {part} ")
    received, details = refused(manager.reload, config(text))
    assert received == code
    assert message in details
    assert manager.models == {"m": base}
    assert manager.acquire(spec()).servable.version == 1


# -- what a user gives -----------------------------------------------------------------------


def test_models_from_a_file(base, tmp_path):
    file = tmp_path / "models.config"
    label = 'version_labels { key: "stable" value: 1 }'
    file.write_text(f"# comment\nmodel_config_list {{ {entry(base, more=label)} }}")
    assert served_models(file) == {"m": ServedModel("m", base, labels={"stable": 1})}
    assert served_models(base) == {"m": ServedModel("m", base)}
    assert served_models({"other": base}) == {"other": ServedModel("other", base)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not a config", "is no models.config"),
        ("model_config_list {}", "Only ModelConfigList|lists no model"),
        ('model_config_list { config { name: "m" } }', "Illegal setting neither"),
        (
            'model_config_list { config { name: "m" base_path: "/no/such" '
            'model_platform: "tensorflow" } }',
            "has none of the versions of the model 'm'",
        ),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "models.config").write_text(text)
    with pytest.raises(InputFileError, match=message):
        served_models(tmp_path / "models.config")


def test_no_models():
    with pytest.raises(ArgumentError, match="models"):
        served_models({})
