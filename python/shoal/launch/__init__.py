"""The launcher: starts the ranks of a job, watches them, and says which failed and why.

host.py   the processes of one host, here
agent.py  the same on another host, driven over stdin and stdout
run.py    the job: the store, all hosts, signals, the verdict
"""
