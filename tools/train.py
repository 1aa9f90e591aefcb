#!/usr/bin/env python3
"""Train: the command ``quasar-rt train``."""

from quasar_rt.cli.train import command

if __name__ == "__main__":
    command()
