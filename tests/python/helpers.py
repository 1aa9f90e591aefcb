"""Work that many tests share: a small network, processes, and waiting."""

import json
import subprocess
import sys
import threading
import time

from click.testing import CliRunner

from quasar_rt.cli import cli
from simulated import small_subnet

#: The command line in a process of its own.
COMMAND = [sys.executable, "-c", "from quasar_rt.cli import main; main()"]


def tiny_vit(**changes):
    """Returns a random subnet of 8x8 gray images and five classes, which any simulated accelerator holds."""
    return small_subnet(**{"depth": 2, "heads": 2, "classes": 5, "seed": 1, **changes})


def python(code, *arguments, status=0, **options):
    """Runs code in a fresh interpreter, without warnings, until it exits with `status`."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 300, **options})
    assert done.returncode == status, done.stderr
    return done


def wait_until(condition, seconds=10):
    """Waits until a condition holds, and fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition does not hold in time"
        time.sleep(0.01)


def running(*names):
    """Returns the threads of these names."""
    return [thread for thread in threading.enumerate() if thread.name in names]


def run(*arguments, status=0):
    """Runs a command line in this process; fails if it ends with another status, unless `status` is None."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert status in (None, result.exit_code), result.output
    return result


def json_of(*arguments, status=0):
    """Returns the JSON document that a command line with ``--json`` prints."""
    return json.loads(run(*arguments, "--json", status=status).stdout)
