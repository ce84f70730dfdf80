"""Queues of RDMA devices, decoded from bytes as a process shares them with rxe."""

from __future__ import annotations

import os
import struct

import pytest

from shoal.trace.queues import Mapping, Queue, decode, numbered, parse_maps

PAGE = 4096

# Of ucx_perftest on Linux 6.1, with its one connection.
MAPS = """\
7f7f49d93000-7f7f49dd4000 rw-s 003df000 00:05 106                        /dev/infiniband/uverbs0
7f7f4a06d000-7f7f4a0ae000 rw-s 00189000 00:05 106                        /dev/infiniband/uverbs1
7f7f4a230000-7f7f4a231000 rw-s 00189000 00:05 106                        /dev/infiniband/rdma_cm
7f7f4b000000-7f7f4b001000 rw-p 00000000 00:00 0
"""


def header(shift: int, entries: int, produced: int, consumed: int) -> bytes:
    words = bytearray(384)
    struct.pack_into("=II", words, 0, shift, entries - 1)
    struct.pack_into("=I", words, 128, produced)
    struct.pack_into("=I", words, 256, consumed)
    return bytes(words)


def mapping(shift: int, entries: int, offset: int = 0x7000) -> Mapping:
    length = 384 + (entries << shift)
    return Mapping("rxe0", 0x7F0000000000, (length + PAGE - 1) // PAGE * PAGE, offset)


def queue(kind: str, place: int, entries: int, produced: int = 5, consumed: int = 5) -> Queue:
    return Queue("rxe0", kind, place, entries, produced, consumed)


def test_only_mappings_of_known_devices_are_looked_at() -> None:
    (one,) = parse_maps(MAPS, {"uverbs0": "rxe0"})
    assert one == Mapping("rxe0", 0x7F7F49D93000, 0x41000, 0x3DF000)
    assert len(list(parse_maps(MAPS, {"uverbs0": "rxe0", "uverbs1": "rxe1"}))) == 2


def test_waiting_counts_over_the_end_of_the_ring() -> None:
    found = decode(mapping(7, 512), header(7, 512, 3, 510))
    assert found is not None and found[0] == 7
    assert found[1].waiting == 5 and found[1].entries == 512


def test_elements_with_room_for_data_are_those_of_a_send_queue() -> None:
    for shift, kind in ((6, "receive"), (7, "receive"), (8, "send"), (9, "send")):
        found = decode(mapping(shift, 512), header(shift, 512, 1, 0))
        assert found is not None and found[1].kind == kind


@pytest.mark.parametrize(
    ("shift", "entries", "length"),
    [
        (7, 512, 65536),  # smaller than what its header says it holds
        (7, 500, 1 << 20),  # not a power of two
        (3, 512, 1 << 20),  # elements smaller than any
        (40, 512, 1 << 20),
        (6, 1 << 31, 1 << 40),
    ],
)
def test_what_does_not_fit_its_mapping_is_no_queue(shift: int, entries: int, length: int) -> None:
    place = Mapping("rxe0", 0x7F0000000000, length, 0)
    assert decode(place, header(shift, entries, 1, 0)) is None
    assert decode(place, b"") is None


def test_queues_get_the_kernel_s_numbers_in_the_order_in_which_they_were_made() -> None:
    """As UCX makes them: two completion queues, a receive queue of one's size, two more."""
    queues = [
        queue("completion", 0x7000, 8192),
        queue("completion", 0x108000, 4096),
        queue("receive", 0x189000, 4096, 271, 282),
        queue("receive", 0x20B000, 512, 0, 0),  # a completion queue that has never been used
        queue("completion", 0x21C000, 8192),
        queue("send", 0x31D000, 512),
        queue("receive", 0x35E000, 8192, 4096, 9),
        queue("send", 0x3DF000, 512),
    ]
    completion = {"rxe0": [(6, 8192), (3, 8192), (4, 4096), (5, 512)]}
    found = numbered(queues, completion, {"rxe0": [21, 20]})
    assert [one.number for one in found] == [3, 4, -1, 5, 6, 20, -1, 21]
    assert found[1].name == "completion queue 4 of rxe0"
    assert found[2].name == "receive queue at 0x189000 of rxe0"
    assert found[7].name == "queue pair 21 of rxe0"


def test_what_does_not_fit_has_no_number() -> None:
    queues = [queue("send", 0x31D000, 512), queue("completion", 0x7000, 8192)]
    found = numbered(queues, {"rxe0": [(3, 512)]}, {"rxe0": [20, 21]})
    assert [one.number for one in found] == [-1, -1]


def test_a_process_without_devices_has_no_queues() -> None:
    from shoal.trace.queues import read_queues

    assert read_queues(os.getpid(), {}) == ()
