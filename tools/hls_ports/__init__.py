"""Counts access sites of on-chip memories in pipelined loops, as Vitis HLS does: see tools/check_hls_ports.py.

`syntax` reads a kernel as clang++ parses it, `sites` holds accesses and counts them, `memories` gives every object its
values, memory and ports, `expressions` evaluates, `kernel` goes through functions and statements.
"""
