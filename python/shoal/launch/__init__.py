"""The launcher behind ``shoal run``: starts the ranks of a job and answers for how they end.

run         the command line
supervise   one job: the rendezvous store, signals, the first failure, deadlines
host        the ranks of this machine; remote + agent: those of another one
output      lines of many ranks on one terminal
report      what became of each rank
"""
