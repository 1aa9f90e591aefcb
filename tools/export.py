#!/usr/bin/env python3
"""Export: the command ``quasar-rt export``."""

from quasar_rt.cli.export import command

if __name__ == "__main__":
    command()
