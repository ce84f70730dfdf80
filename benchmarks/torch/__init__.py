"""torch.distributed over shoal beside torch.distributed over Gloo: `shoal bench --torch`.

Method. Each rank is one process that holds process groups of all backends at once, so that they
take turns within milliseconds: in every round of a cell the floor, gloo, and shoal with tensors in
the pool and with ordinary ones, each round in another order. The floor is torch's own cost of a
call: a backend in C++ that does nothing (torch's "fake"). All is timed as in the rest of the suite
(shoal.bench): contents are filled in anew and ranks meet before each block of calls, its time is
that of the slowest rank; rounds count while the cores stay as far apart as they are.

Training steps are timed in pairs: with communication, and without (no_sync). The difference is what
communication adds to a step, less what of it hides behind the backward pass. FSDP has no such
switch: there the pair is the same step over the backend that does nothing.

    cells       operations, sizes, training steps, and who takes part
    rank        one rank: what it is told, what it answers
    calls       the operations: tensors, the call, what must come out
    training    the steps; overlap: how much of communication a trace shows beside backward
    ranks       how ranks are started
    figures     medians, ratios, means, targets; table, document: as text
    run         all of it; cli: `shoal bench --torch`
"""
