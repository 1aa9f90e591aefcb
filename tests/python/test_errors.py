"""Each kind of error of the core is one documented class under QuasarError."""

import pytest

import quasar_rt
import quasar_rt.hardware
from quasar_rt import _native, errors


def test_every_kind_of_the_core_has_a_class_of_its_own():
    classes = _native.error_classes()
    assert len(set(classes.values())) == len(classes)
    for kind, cls in classes.items():
        assert issubclass(cls, quasar_rt.QuasarError), kind
        assert cls is not quasar_rt.QuasarError, f"add {kind} to the table in rust/py/src/errors.rs"
        assert getattr(quasar_rt, cls.__name__) is cls


@pytest.mark.parametrize("name", errors.__all__)
def test_every_class_is_documented_and_exported(name):
    cls = getattr(quasar_rt, name)
    assert cls is getattr(errors, name)
    assert cls.__doc__
    assert name == "QuasarError" or issubclass(cls, (errors.QuasarError, UserWarning))


def test_errors_of_values_are_value_errors_too():
    assert issubclass(errors.SubnetError, ValueError)
    assert issubclass(errors.ImageError, ValueError)
    assert issubclass(errors.InvalidValueError, ValueError)
    assert issubclass(errors.FileError, OSError)


@pytest.mark.parametrize(
    ("kind", "attempt"),
    [
        (errors.ImageError, lambda: quasar_rt.Engine("digits").infer("no-such.png")),
        (errors.ImageError, lambda: quasar_rt.Engine("digits").infer_batch(["no-such.png"])),
        (errors.FileError, lambda: quasar_rt.Subnet.load("no-such.qvit")),
        (errors.FileError, lambda: quasar_rt.Subnet.from_pretrained("./no-such")),
        (errors.FileError, lambda: quasar_rt.hardware.Board.load("no-such.toml")),
        (errors.FileError, lambda: quasar_rt.hardware.Board.load("no-such")),
        (errors.FileError, lambda: quasar_rt.hardware.Hardware.load("no-such.toml")),
    ],
)
def test_a_missing_file_is_a_file_not_found_error_too(kind, attempt):
    with pytest.raises(FileNotFoundError, match="no-such") as raised:
        attempt()
    assert isinstance(raised.value, kind)
