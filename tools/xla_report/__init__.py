"""What a step compiled for TPUs or GPUs needs, and where its time goes, on a machine without any.

The optimised program says how much memory it needs, what it sends between chips and, on TPUs, how
many cycles the compiler expects of every instruction. `python -m tools.xla_report --help` lists the
flags; `docs/performance.md` says how to read the tables.
"""
