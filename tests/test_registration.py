"""Keras knows the classes of the package, in any order of import; public names are listed."""

import importlib

import pytest

import tfstyle
from tests.process import python

CHECK = """
names = ["StyleAugmentation", "ToneTransfer", "UNet", "StyleTransfer"]
found = [keras.saving.get_registered_object(f"tfstyle>{name}") is not None for name in names]
print(found == [True] * 4, keras.saving.get_registered_name(tfstyle.StyleAugmentation))
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    "imports",
    [
        "import tfstyle, sys; assert not {'keras', 'tensorflow'} & {*sys.modules}; import keras",
        "from tfstyle import StyleTransfer; import tfstyle, keras",
    ],
)
def test_any_order(imports):
    assert python("-c", f"{imports}\n{CHECK}") == "True tfstyle>StyleAugmentation\n"


def test_packages_load_no_tensorflow_and_start_nothing():
    code = (
        "import sys, threading, tfstyle.data, tfstyle.export, tfstyle.serving, tfstyle.convert\n"
        "tfstyle.data.read_scans\n"
        "assert not {'tensorflow', 'grpc', 'tensorflow_serving'} & set(sys.modules)\n"
        "assert threading.active_count() == 1"
    )
    python("-c", code)


@pytest.mark.integration
def test_keras_without_tensorflow_is_left_alone():
    code = (
        "import sys, tfstyle; sys.modules['tfstyle.augment'] = None\n"
        "import keras; print(keras.__version__ != '', len(sys.meta_path))"
    )
    assert python("-c", code).startswith("True")


@pytest.mark.parametrize("name", ["tfstyle", "tfstyle.data"])
def test_names_loaded_late_are_listed(name):
    module = importlib.import_module(name)
    assert {*module.__all__} <= {*dir(module)}
    for each in module.__all__:
        assert getattr(module, each) is not None
    assert "runs" in dir(tfstyle)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
