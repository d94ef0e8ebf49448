"""The language-model engine beside TRL and transformers: time, memory, and that both compute the same.

A workload is a module that says which cases it has and builds one side of a case. Sides run in turn in one process; each side's
memory is measured in a process of its own.
"""
