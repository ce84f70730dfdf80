"""Measuring which algorithm is the fastest on this cluster: ``shoal tune`` (docs/tuning.md).

cli      the command line, and where the table goes
worker   what every rank of the measuring job runs
results  what rank 0 tells the launcher, as lines of its output
table    measurements as a table of tune/text.h, and for people
"""
