#!/usr/bin/env python3
"""Estimate: the command ``quasar-rt estimate``."""

from quasar_rt.cli.estimate import command

if __name__ == "__main__":
    command()
