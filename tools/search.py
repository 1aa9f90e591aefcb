#!/usr/bin/env python3
"""Search: the command ``quasar-rt search``."""

from quasar_rt.cli.search import command

if __name__ == "__main__":
    command()
