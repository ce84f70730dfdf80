"""Times shoal beside other libraries and the machine's floors, in one run: `shoal bench`.

Method. All libraries' ranks are started at once and stay; those that are not measured sleep in
read(). A cell of the table is one operation at one size. In each round of a cell the libraries take
turns (A B C A B C), so that all of them meet the same machine, and a ratio is taken within a round.

One iteration, by the same C code for every library (drivers/harness.c): every rank fills its
buffers anew, all meet at a barrier of the harness, and a block of calls is timed (one call from
64 KiB up). Its time is that of the slowest rank. A round's time is the median of its iterations; a
row's that of its rounds. Results are verified.

    cells      what is measured: operations, sizes, bandwidths
    workshop   virtual environments of the peers, compiled drivers
    libraries  how shoal and the bare loops are started; peers: how the others are
    network    two hosts as network namespaces
    session    running ranks, and the line to them
    measure    rounds; campaign: a whole run
    report     rows, table, JSON, Markdown; plot: PNG and SVG
    startup    apart from all this: launch to first barrier, memory of a rank
    torch      with the same rounds: torch.distributed over shoal beside gloo
    cli        `shoal bench`; plan: its arguments
"""
