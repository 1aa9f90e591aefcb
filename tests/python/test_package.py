"""The names and the cost of ``import quasar_rt``."""

import subprocess
import sys

import pytest

import quasar_rt


@pytest.mark.parametrize("name", quasar_rt.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(quasar_rt, name) is not None
    assert name in dir(quasar_rt)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        quasar_rt.nonsense  # noqa: B018


def test_the_board_needs_no_host_packages():
    code = (
        "import sys, quasar_rt\n"
        "for name in quasar_rt.__all__: getattr(quasar_rt, name)\n"
        "heavy = {'torch', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_and_the_help_start_without_numpy():
    code = "import sys, quasar_rt, quasar_rt.cli\nassert not {'numpy', 'PIL', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
