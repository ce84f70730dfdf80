"""The fault injector: makes a rank or link of a running job late, and compares what the tracer says
with what was done. `python -m tests.trace.faults --help`; README.md says how it works."""
