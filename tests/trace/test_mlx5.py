"""Completion queues of mlx5, from memory as libmlx5 lays it out. No device was there."""

from __future__ import annotations

import struct

import pytest

from shoal.trace.mlx5 import RDMA_CORE_44, count_waiting, is_ready, read_queue

CQ, BUFFER_RECORD, BUFFER = 0x1000, 0x2000, 0x10000
SEND_DONE, SEND_FAILED, INVALID = 0x0, 0xD, 0xF  # opcodes


class Memory:
    """What a process has written where."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def write(self, address: int, data: bytes) -> None:
        self.bytes.update(enumerate(data, address))

    def read(self, address: int, length: int) -> bytes:
        found = [self.bytes.get(at) for at in range(address, address + length)]
        return b"" if None in found else bytes(one for one in found if one is not None)


class Device:
    """A completion queue as the device and libmlx5 go on in it."""

    def __init__(self, entries: int, element_bytes: int = 64) -> None:
        self.entries, self.element_bytes, self.produced = entries, element_bytes, 0
        self.memory = Memory()
        self.memory.write(BUFFER, bytes(entries * element_bytes))
        for place in range(entries):
            self._own(place, INVALID << 4 | 1)  # as libmlx5 begins
        self.memory.write(CQ + 28, struct.pack("=I", entries - 1))
        self.memory.write(CQ + 416, struct.pack("=Q", BUFFER_RECORD))
        self.memory.write(BUFFER_RECORD, struct.pack("=Q", BUFFER))
        self.memory.write(CQ + 452, struct.pack("=I", 0x41))
        self.memory.write(CQ + 480, struct.pack("=I", element_bytes))
        self.take(0)

    def _own(self, place: int, operation: int) -> None:
        self.memory.write(BUFFER + (place + 1) * self.element_bytes - 1, bytes([operation]))

    def complete(self, count: int, opcode: int = SEND_DONE) -> None:
        for _ in range(count):
            owner = (self.produced // self.entries) & 1
            self._own(self.produced % self.entries, opcode << 4 | owner)
            self.produced += 1

    def take(self, consumed: int) -> None:
        self.memory.write(CQ + 456, struct.pack("=I", consumed))

    def waiting(self) -> int:
        queue = read_queue(self.memory.read, CQ, RDMA_CORE_44, "mlx5_0")
        assert queue is not None
        assert (queue.entries, queue.number) == (self.entries, 0x41)
        return queue.waiting


@pytest.mark.parametrize("element_bytes", [64, 128])
def test_what_the_device_has_written_and_nobody_has_taken_waits(element_bytes: int) -> None:
    device = Device(16, element_bytes)
    assert device.waiting() == 0
    device.complete(5)
    assert device.waiting() == 5
    device.take(3)
    assert device.waiting() == 2
    device.take(5)
    assert device.waiting() == 0


def test_elements_of_the_round_before_are_not_taken_for_new_ones() -> None:
    device = Device(16)
    for taken in range(0, 100, 7):
        device.complete(taken + 7 - device.produced)
        device.take(taken)
        assert device.waiting() == 7
        device.take(taken + 7)
        assert device.waiting() == 0


def test_a_full_queue_is_not_taken_for_an_empty_one() -> None:
    device = Device(16)
    device.complete(16)
    assert device.waiting() == 15


def test_a_failed_operation_waits_as_well() -> None:
    device = Device(16)
    device.complete(2, SEND_FAILED)
    assert device.waiting() == 2


def test_the_owner_bit_turns_with_each_round() -> None:
    assert is_ready(0x00, 3, 16) and not is_ready(0x01, 3, 16)
    assert is_ready(0x01, 16 + 3, 16) and not is_ready(0x00, 16 + 3, 16)
    assert not is_ready(INVALID << 4, 3, 16)


def test_few_elements_are_looked_at() -> None:
    looked: list[int] = []

    def operation(place: int) -> int:
        looked.append(place)
        return 0x00 if place < 3000 else INVALID << 4

    assert count_waiting(operation, 1000, 4096) == 2000
    assert len(looked) <= 13


def test_what_is_no_queue_is_not_read_as_one() -> None:
    device = Device(16)
    assert read_queue(device.memory.read, 0x9000, RDMA_CORE_44, "mlx5_0") is None
    device.memory.write(CQ + 480, struct.pack("=I", 96))
    assert read_queue(device.memory.read, CQ, RDMA_CORE_44, "mlx5_0") is None
    device = Device(16)
    device.memory.write(BUFFER_RECORD, struct.pack("=Q", 0xDEAD0000))
    assert read_queue(device.memory.read, CQ, RDMA_CORE_44, "mlx5_0") is None
