"""Every call of torch.distributed, beside what each rank works out by itself."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterable

import checks
import torch
import torch.distributed as dist
from checks import RANK, SIZE
from torch.distributed import ReduceOp

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, *FLOAT8]
INTEGERS = [
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip
COMPLEX = [torch.complex64, torch.complex128]
MOVED = [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]  # as bytes, and not reduced
OTHERS = [torch.bool, torch.complex32, *MOVED]
ALL = FLOATS + INTEGERS + COMPLEX + OTHERS
# Nothing, one element, less and more than a slot of shared memory takes, and several chunks.
SHAPES: list[tuple[int, ...]] = [(0,), (), (1,), (3, 5), (1000,), (70_001,)]
SMALL_SHAPES = SHAPES[:4]


def values(
    rank: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    """Of that rank: small integers, so that sums of them are exact in every type."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    numbers = torch.randint(0, 4, shape, generator=generator)
    if dtype.is_complex:
        return torch.complex(numbers.double(), 5 - numbers.double()).to(dtype)
    return numbers.to(dtype)


def of_all(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[torch.Tensor]:
    return [values(rank, shape, dtype, seed) for rank in range(SIZE)]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Types that torch compares nothing of are compared as bytes."""
    tensor = tensor.detach().contiguous()
    return tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)


def same(got: torch.Tensor, wanted: torch.Tensor, what: object = "") -> None:
    assert got.shape == wanted.shape and got.dtype == wanted.dtype, (what, got.shape, wanted.shape)
    if not torch.equal(bits(got), bits(wanted)):
        raise AssertionError(f"{what}: got {got.flatten()[:8]}, wanted {wanted.flatten()[:8]}")


def all_same(
    got: Iterable[torch.Tensor], wanted: Iterable[torch.Tensor], what: object = ""
) -> None:
    for number, (mine, other) in enumerate(zip(got, wanted, strict=True)):
        same(mine, other, (what, number))


def folded(
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], tensors: list[torch.Tensor]
) -> torch.Tensor:
    """In a type that torch can calculate with: its CPU kernels know few of unsigned ones."""
    dtype = tensors[0].dtype
    wide = torch.float32 if dtype in FLOAT8 else dtype
    if dtype in (torch.uint16, torch.uint32, torch.uint64):
        wide = torch.int64
    return functools.reduce(combine, [tensor.to(wide) for tensor in tensors]).to(dtype)


def total(tensors: list[torch.Tensor]) -> torch.Tensor:
    return folded(torch.add, tensors)


OPS: dict[str, tuple[object, Callable[[list[torch.Tensor]], torch.Tensor]]] = {
    "sum": (ReduceOp.SUM, total),
    "product": (ReduceOp.PRODUCT, functools.partial(folded, torch.mul)),
    "min": (ReduceOp.MIN, functools.partial(folded, torch.minimum)),
    "max": (ReduceOp.MAX, functools.partial(folded, torch.maximum)),
}
BITWISE: dict[str, tuple[object, Callable[[list[torch.Tensor]], torch.Tensor]]] = {
    "band": (ReduceOp.BAND, functools.partial(folded, operator.and_)),
    "bor": (ReduceOp.BOR, functools.partial(folded, operator.or_)),
    "bxor": (ReduceOp.BXOR, functools.partial(folded, operator.xor)),
}


# --- one tensor ----------------------------------------------------------------------------------


def check_broadcast_of_all_types_and_shapes() -> None:
    for dtype in ALL:
        for shape in SHAPES:
            root = (len(shape) + 1) % SIZE
            x = values(RANK, shape, dtype)
            dist.broadcast(x, root)
            same(x, values(root, shape, dtype), (dtype, shape))


def check_all_reduce_of_all_types_ops_and_shapes() -> None:
    for dtype in FLOATS + INTEGERS:
        ops = OPS | (BITWISE if dtype in INTEGERS else {})
        for shape in SHAPES:
            inputs = of_all(shape, dtype)
            for name, (op, expected) in ops.items():
                x = inputs[RANK].clone()
                dist.all_reduce(x, op)
                same(x, expected(inputs), (name, dtype, shape))


def check_all_reduce_average() -> None:
    for dtype in FLOATS:
        for shape in SHAPES:
            inputs = of_all(shape, dtype)
            x = inputs[RANK].clone()
            dist.all_reduce(x, ReduceOp.AVG)
            wanted = (total([i.double() for i in inputs]) / SIZE).to(dtype)
            if dtype in FLOAT8:
                same(x, wanted, (dtype, shape))
            else:
                torch.testing.assert_close(x, wanted)
    checks.throws(
        RuntimeError,
        lambda: dist.all_reduce(torch.ones(3, dtype=torch.int32), ReduceOp.AVG),
        "average",
    )


def check_all_reduce_premultiplied_sum() -> None:
    for dtype in FLOATS:
        inputs = of_all((1000,), dtype)
        wanted = (total(inputs).double() * 0.5).to(dtype)
        x = inputs[RANK].clone()
        dist.all_reduce(x, dist._make_nccl_premul_sum(0.5))
        same(x, wanted, dtype)
        x = inputs[RANK].clone()
        dist.all_reduce(x, dist._make_nccl_premul_sum(torch.tensor([0.5], dtype=dtype)))
        same(x, wanted, (dtype, "factor in a tensor"))
        # reduce and reduce_scatter leave the input as it is
        x = inputs[RANK].clone()
        dist.reduce(x, 0, dist._make_nccl_premul_sum(0.5))
        same(x, wanted if RANK == 0 else inputs[RANK], (dtype, "reduce"))
        x, y = inputs[RANK].repeat(SIZE), torch.empty(1000, dtype=dtype)
        dist.reduce_scatter_tensor(y, x, dist._make_nccl_premul_sum(0.5))
        same(y, wanted, (dtype, "reduce_scatter"))
        same(x, inputs[RANK].repeat(SIZE), (dtype, "input of reduce_scatter"))


def check_premultiplied_sum_of_integers_is_refused() -> None:
    """A factor makes floats of them, which the output has no room for."""
    factor = dist._make_nccl_premul_sum(0.5)
    x = torch.full((8 * SIZE,), 4, dtype=torch.int32)
    y = torch.zeros(8, dtype=torch.int32)
    checks.throws(RuntimeError, lambda: dist.all_reduce(x, factor), "PREMUL_SUM")
    checks.throws(RuntimeError, lambda: dist.reduce(x, 0, factor), "PREMUL_SUM")
    checks.throws(RuntimeError, lambda: dist.reduce_scatter_tensor(y, x, factor), "PREMUL_SUM")
    assert (x == 4).all() and (y == 0).all()


def check_what_is_moved_only_is_not_reduced() -> None:
    for dtype in MOVED:
        x = values(RANK, (8 * SIZE,), dtype)
        y = torch.empty(8, dtype=dtype)
        checks.throws(RuntimeError, lambda x=x: dist.all_reduce(x), "cannot be reduced")
        checks.throws(RuntimeError, lambda x=x: dist.reduce(x, 0), "cannot be reduced")
        checks.throws(
            RuntimeError, lambda x=x, y=y: dist.reduce_scatter_tensor(y, x), "cannot be reduced"
        )
        same(x, values(RANK, (8 * SIZE,), dtype), dtype)


def check_all_reduce_of_bools() -> None:
    for shape in SHAPES:
        inputs = of_all(shape, torch.bool)
        ones, zeros = (ReduceOp.SUM, ReduceOp.MAX, ReduceOp.BOR), (
            ReduceOp.PRODUCT, ReduceOp.MIN, ReduceOp.BAND,
        )  # fmt: skip
        for op in ones:
            x = inputs[RANK].clone()
            dist.all_reduce(x, op)
            same(x, functools.reduce(torch.logical_or, inputs), (op, shape))
        for op in zeros:
            x = inputs[RANK].clone()
            dist.all_reduce(x, op)
            same(x, functools.reduce(torch.logical_and, inputs), (op, shape))
        x = inputs[RANK].clone()
        dist.all_reduce(x, ReduceOp.BXOR)
        same(x, functools.reduce(torch.logical_xor, inputs), ("bxor", shape))


def check_all_reduce_of_complex_numbers() -> None:
    for dtype in COMPLEX:
        for shape in SHAPES:
            inputs = of_all(shape, dtype)
            x = inputs[RANK].clone()
            dist.all_reduce(x)
            same(x, total(inputs), (dtype, shape))
            x = inputs[RANK].clone()
            dist.all_reduce(x, ReduceOp.AVG)
            torch.testing.assert_close(x, total(inputs) / SIZE)
        checks.throws(
            (RuntimeError, ValueError),  # type: ignore[arg-type]
            lambda dtype=dtype: dist.all_reduce(torch.ones(3, dtype=dtype), ReduceOp.MAX),
        )


def check_all_reduce_of_low_precision_is_near_the_true_sum() -> None:
    """Not only of whole numbers."""
    for dtype, tolerance in ((torch.bfloat16, 0.02), (torch.float16, 0.003), (torch.float32, 1e-6)):
        inputs = [
            torch.randn(5000, generator=torch.Generator().manual_seed(r)) for r in range(SIZE)
        ]
        inputs = [x.to(dtype) for x in inputs]
        x = inputs[RANK].clone()
        dist.all_reduce(x)
        wanted = torch.stack([i.double() for i in inputs]).sum(0)
        torch.testing.assert_close(x.double(), wanted, atol=tolerance, rtol=tolerance)


def check_all_reduce_leaves_all_ranks_with_the_same_bits() -> None:
    x = torch.randn(100_003, generator=torch.Generator().manual_seed(RANK))
    dist.all_reduce(x)
    everyone = [torch.empty_like(x) for _ in range(SIZE)]
    dist.all_gather(everyone, x)
    for one in everyone:
        same(one, x)


def check_all_reduce_coalesced() -> None:
    shapes: list[tuple[int, ...]] = [(3,), (0,), (100, 7), (70_001,)]
    tensors = [values(RANK, shape, seed=i) for i, shape in enumerate(shapes)]
    dist.all_reduce_coalesced(tensors)
    all_same(tensors, [total(of_all(shape, seed=i)) for i, shape in enumerate(shapes)])


def check_reduce_to_each_root() -> None:
    for dtype in FLOATS + INTEGERS:
        for root in range(SIZE):
            for shape in SHAPES:
                inputs = of_all(shape, dtype)
                x = inputs[RANK].clone()
                dist.reduce(x, root)
                if root == RANK:
                    same(x, total(inputs), (dtype, shape))
                else:
                    same(x, inputs[RANK], (dtype, shape, "not the root"))


# --- gathering -----------------------------------------------------------------------------------


def check_all_gather_into_a_list() -> None:
    for dtype in ALL:
        for shape in SHAPES:
            outputs = [torch.empty(shape, dtype=dtype) for _ in range(SIZE)]
            dist.all_gather(outputs, values(RANK, shape, dtype))
            all_same(outputs, of_all(shape, dtype), (dtype, shape))


def check_all_gather_into_parts_of_one_tensor() -> None:
    whole = torch.empty(SIZE, 1000)
    dist.all_gather(list(whole), values(RANK, (1000,)))
    same(whole, torch.stack(of_all((1000,))))


def check_all_gather_into_a_list_of_uneven_lengths() -> None:
    for step in (1, 5000):
        shapes = [(rank * step,) for rank in range(SIZE)]
        outputs = [torch.empty(shape) for shape in shapes]
        dist.all_gather(outputs, values(RANK, shapes[RANK]))
        all_same(outputs, [values(rank, shapes[rank]) for rank in range(SIZE)], step)


def check_all_gather_into_tensor() -> None:
    for dtype in ALL:
        for shape in [(0,), (1,), (3, 5), (70_001,)]:
            x = values(RANK, shape, dtype)
            stacked = torch.empty((SIZE, *shape), dtype=dtype)
            joined = torch.empty((SIZE * shape[0], *shape[1:]), dtype=dtype)
            dist.all_gather_into_tensor(stacked, x)
            dist.all_gather_into_tensor(joined, x)
            wanted = of_all(shape, dtype)
            all_same(stacked, wanted, (dtype, shape))
            same(joined.reshape(stacked.shape), stacked, (dtype, shape))


def check_all_gather_into_tensor_in_place() -> None:
    whole = torch.full((SIZE, 5000), -1.0)
    whole[RANK] = values(RANK, (5000,))
    dist.all_gather_into_tensor(whole, whole[RANK])
    same(whole, torch.stack(of_all((5000,))))


def check_all_gather_coalesced() -> None:
    shapes: list[tuple[int, ...]] = [(3,), (2, 2), (5000,)]
    inputs = [values(RANK, shape, seed=i) for i, shape in enumerate(shapes)]
    # for each rank a list of all its inputs
    outputs = [[torch.empty(shape) for shape in shapes] for _ in range(SIZE)]
    dist.all_gather_coalesced(outputs, inputs)
    for rank in range(SIZE):
        all_same(outputs[rank], [values(rank, shape, seed=i) for i, shape in enumerate(shapes)])


def check_gather_to_each_root() -> None:
    for dtype in ALL:
        for root in range(SIZE):
            for shape in SMALL_SHAPES + [(5000,)]:
                outputs = None
                if root == RANK:
                    outputs = [torch.empty(shape, dtype=dtype) for _ in range(SIZE)]
                dist.gather(values(RANK, shape, dtype), outputs, root)
                if outputs is not None:
                    all_same(outputs, of_all(shape, dtype), (dtype, shape))


def check_scatter_from_each_root() -> None:
    for dtype in ALL:
        for root in range(SIZE):
            for shape in SMALL_SHAPES + [(5000,)]:
                y = torch.empty(shape, dtype=dtype)
                dist.scatter(y, of_all(shape, dtype) if root == RANK else None, root)
                same(y, values(RANK, shape, dtype), (dtype, shape))


def check_lists_that_overlap_with_the_other_side() -> None:
    for n in 3, 5000:
        whole = torch.zeros(SIZE * n + 1)
        parts = list(whole[:-1].chunk(SIZE))
        mine = values(RANK, (n,))
        in_place, shifted = parts[RANK], whole[RANK * n + 1 : RANK * n + 1 + n]
        for x in in_place, shifted:
            x.copy_(mine)
            dist.all_gather(parts, x)
            all_same(parts, of_all((n,)))
            x.copy_(mine)
            dist.gather(x, parts if RANK == 1 else None, 1)
            if RANK == 1:
                all_same(parts, of_all((n,)))
                torch.cat(of_all((n,)), out=whole[:-1])
            dist.scatter(x, parts if RANK == 1 else None, 1)
            same(x, mine)
            torch.cat(of_all((n,)), out=whole[:-1])
            dist.reduce_scatter(x, parts)
            same(x, total([mine] * SIZE))


# --- reduce_scatter ------------------------------------------------------------------------------


def check_reduce_scatter_of_a_list() -> None:
    for dtype in FLOATS + INTEGERS:
        for shape in SHAPES:
            mine = [values(RANK, shape, dtype, seed=part) for part in range(SIZE)]
            y = torch.empty(shape, dtype=dtype)
            dist.reduce_scatter(y, mine)
            same(y, total(of_all(shape, dtype, seed=RANK)), (dtype, shape))


def check_reduce_scatter_of_a_list_of_uneven_lengths() -> None:
    shapes = [(rank * 3000,) for rank in range(SIZE)]
    mine = [values(RANK, shapes[part], seed=part) for part in range(SIZE)]
    y = torch.empty(shapes[RANK])
    dist.reduce_scatter(y, mine)
    same(y, total(of_all(shapes[RANK], seed=RANK)))


def check_reduce_scatter_tensor() -> None:
    for dtype in FLOATS + INTEGERS:
        for shape in [(0,), (1,), (3, 5), (20_000,)]:
            for name, (op, expected) in OPS.items():
                x = torch.stack([values(RANK, shape, dtype, seed=part) for part in range(SIZE)])
                y = torch.empty(shape, dtype=dtype)
                dist.reduce_scatter_tensor(y, x, op)
                same(y, expected(of_all(shape, dtype, seed=RANK)), (name, dtype, shape))
    x = torch.stack([values(RANK, (100,), seed=part) for part in range(SIZE)])
    y = torch.empty(100)
    dist.reduce_scatter_tensor(y, x, ReduceOp.AVG)
    torch.testing.assert_close(y, total(of_all((100,), seed=RANK)) / SIZE)


def check_reduce_scatter_tensor_in_place() -> None:
    x = torch.stack([values(RANK, (5000,), seed=part) for part in range(SIZE)])
    dist.reduce_scatter_tensor(x[RANK], x)
    same(x[RANK], total(of_all((5000,), seed=RANK)))


# --- all_to_all ----------------------------------------------------------------------------------


def check_all_to_all_of_lists() -> None:
    for dtype in ALL:
        for shape in SMALL_SHAPES + [(5000,)]:
            inputs = [values(RANK, shape, dtype, seed=to) for to in range(SIZE)]
            outputs = [torch.empty(shape, dtype=dtype) for _ in range(SIZE)]
            dist.all_to_all(outputs, inputs)
            all_same(outputs, of_all(shape, dtype, seed=RANK), (dtype, shape))


def check_all_to_all_of_lists_of_uneven_lengths() -> None:
    def shape(source: int, to: int) -> tuple[int, ...]:
        return (1000 * ((source + 2 * to) % 3), 2)

    inputs = [values(RANK, shape(RANK, to), seed=to) for to in range(SIZE)]
    outputs = [torch.empty(shape(source, RANK)) for source in range(SIZE)]
    dist.all_to_all(outputs, inputs)
    all_same(outputs, [values(s, shape(s, RANK), seed=RANK) for s in range(SIZE)])


def check_all_to_all_single() -> None:
    for dtype in ALL:
        for shape in [(0,), (1,), (3, 5), (20_000,)]:
            x = torch.cat([values(RANK, shape, dtype, seed=to) for to in range(SIZE)])
            y = torch.empty_like(x)
            dist.all_to_all_single(y, x)
            same(y, torch.cat(of_all(shape, dtype, seed=RANK)), (dtype, shape))


def check_all_to_all_single_with_uneven_splits() -> None:
    def rows(source: int, to: int) -> int:
        return (source + 1) * (to % 2) + 700 * (source == to)

    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        x = torch.cat([values(RANK, (rows(RANK, to), 3), dtype, seed=to) for to in range(SIZE)])
        wanted = torch.cat([values(s, (rows(s, RANK), 3), dtype, seed=RANK) for s in range(SIZE)])
        y = torch.empty_like(wanted)
        dist.all_to_all_single(
            y, x, [rows(s, RANK) for s in range(SIZE)], [rows(RANK, to) for to in range(SIZE)]
        )
        same(y, wanted, dtype)


# --- point to point ------------------------------------------------------------------------------


def check_send_and_recv_around_a_ring() -> None:
    for dtype in ALL:
        for shape in SHAPES:
            x = torch.empty(shape, dtype=dtype)
            if RANK == 0:
                dist.send(values(0, shape, dtype), 1)
                assert dist.recv(x, SIZE - 1) == SIZE - 1
            else:
                dist.recv(x, RANK - 1)
                dist.send(values(RANK, shape, dtype), (RANK + 1) % SIZE)
            same(x, values((RANK - 1) % SIZE, shape, dtype), (dtype, shape))


def check_tags_are_matched_whatever_the_order() -> None:
    tags = list(range(8))
    if RANK == 0:
        works = [dist.isend(torch.full((3000,), float(tag)), 1, tag=tag) for tag in tags]
        for work in works:
            work.wait()
    elif RANK == 1:
        for tag in reversed(tags):
            x = torch.empty(3000)
            dist.recv(x, 0, tag=tag)
            same(x, torch.full((3000,), float(tag)), tag)


def check_recv_from_any_source_says_whose_it_was() -> None:
    for tag, length in enumerate((3, 70_001)):
        if RANK == 0:
            seen = set()
            for _ in range(SIZE - 1):
                x = torch.empty(length)
                source = dist.recv(x, tag=tag)
                same(x, torch.full((length,), float(source)))
                seen.add(source)
            assert seen == set(range(1, SIZE)), seen
        else:
            dist.send(torch.full((length,), float(RANK)), 0, tag=tag)


def check_isend_and_irecv_with_all_peers() -> None:
    for length in (0, 7, 70_001):
        received = {peer: torch.empty(length) for peer in range(SIZE) if peer != RANK}
        works = [dist.irecv(x, peer) for peer, x in received.items()]
        works += [dist.isend(values(RANK, (length,), seed=peer), peer) for peer in received]
        for work in works:
            work.wait()
        for peer, x in received.items():
            same(x, values(peer, (length,), seed=RANK), (peer, length))


def check_batch_isend_irecv() -> None:
    right, left = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    for length in (0, 7, 70_001):
        got = [torch.empty(length) for _ in range(2)]
        batch = [dist.P2POp(dist.irecv, x, left, tag=i) for i, x in enumerate(got)]
        batch += [
            dist.P2POp(dist.isend, values(RANK, (length,), seed=i), right, tag=i) for i in range(2)
        ]
        for work in dist.batch_isend_irecv(batch):
            work.wait()
        all_same(got, [values(left, (length,), seed=i) for i in range(2)], length)


# --- layouts, sparse tensors, objects ------------------------------------------------------------


def check_tensors_that_are_not_contiguous() -> None:
    """A transposed matrix, every second element, an expanded row: results land in their place."""
    whole = values(RANK, (40, 60))
    x = whole.t()
    dist.all_reduce(x)
    same(whole, total(of_all((40, 60))))

    whole = values(RANK, (100, 2))
    before = whole[:, 1].clone()
    dist.all_reduce(whole[:, 0])
    same(whole[:, 0], total(of_all((100, 2)))[:, 0])
    same(whole[:, 1], before, "what lies between")

    x = values(RANK, (40, 60)).t()
    dist.broadcast(x, SIZE - 1)
    same(x, values(SIZE - 1, (40, 60)).t())

    outputs = [torch.empty(60, 40).t() for _ in range(SIZE)]
    dist.all_gather(outputs, values(RANK, (60, 40)).t())
    all_same(outputs, [one.t() for one in of_all((60, 40))])

    flat = torch.empty(40, SIZE * 60).t()
    dist.all_gather_into_tensor(flat, values(RANK, (40, 60)).t())
    same(flat, torch.cat([one.t() for one in of_all((40, 60))]))

    x = torch.stack([values(RANK, (40, 60), seed=part) for part in range(SIZE)], dim=2)
    y = torch.empty(60, 40).t()
    dist.reduce_scatter_tensor(y, x.permute(2, 0, 1))
    same(y, total(of_all((40, 60), seed=RANK)))

    if RANK == 0:
        dist.send(values(0, (40, 60)).t(), 1)
    elif RANK == 1:
        x = torch.empty(40, 60).t()
        dist.recv(x, 0)
        same(x, values(0, (40, 60)).t())

    x = torch.cat([values(RANK, (4, 6), seed=to) for to in range(SIZE)]).t().contiguous().t()
    y = torch.empty(6, 4 * SIZE).t()
    dist.all_to_all_single(y, x)
    same(y, torch.cat(of_all((4, 6), seed=RANK)))

    x = values(RANK, (1, 50)).expand(3, 50)
    y = torch.empty(SIZE * 3, 50)
    dist.all_gather_into_tensor(y, x)
    same(y, torch.cat([one.expand(3, 50) for one in of_all((1, 50))]))


def check_views_with_an_offset() -> None:
    whole = torch.arange(100.0) + RANK
    dist.all_reduce(whole[10:20])
    wanted = torch.arange(100.0) + RANK
    wanted[10:20] = SIZE * torch.arange(10.0, 20.0) + sum(range(SIZE))
    same(whole, wanted)


def check_leaves_that_require_gradients() -> None:
    x = values(RANK, (100,)).requires_grad_()
    with torch.no_grad():
        dist.all_reduce(x)
    same(x.detach(), total(of_all((100,))))
    x = values(RANK, (20, 30)).requires_grad_()
    dist.broadcast(x.detach().t(), 0)
    same(x.detach(), values(0, (20, 30)))


def check_all_reduce_of_sparse_tensors() -> None:
    def of(rank: int, rows: int) -> torch.Tensor:
        index = torch.arange(rank + 1) * 7 % rows  # as many entries as the rank's number, and one
        return torch.sparse_coo_tensor(
            index.unsqueeze(0), torch.full((rank + 1, 4), float(rank + 1)), (rows, 4)
        )

    for rows in (5, 1000):
        x = of(RANK, rows)
        dist.all_reduce(x)
        same(x.to_dense(), total([of(rank, rows).to_dense() for rank in range(SIZE)]), rows)
    nothing = torch.sparse_coo_tensor(torch.empty(1, 0, dtype=torch.long), torch.empty(0), (9,))
    dist.all_reduce(nothing)
    assert nothing._nnz() == 0
    one = torch.sparse_coo_tensor([[RANK], [0]], [1.0], (SIZE, 2))
    work = dist.all_reduce(one, async_op=True)
    work.wait()
    same(one.to_dense()[:, 0], torch.ones(SIZE))


def check_objects() -> None:
    mine = {"rank": RANK, "text": "x" * (1000 * RANK), "tensor": torch.arange(RANK)}
    everyone: list[dict[str, object] | None] = [None] * SIZE
    dist.all_gather_object(everyone, mine)
    assert [one["rank"] for one in everyone if one is not None] == list(range(SIZE))
    assert [len(one["text"]) for one in everyone if one] == [1000 * r for r in range(SIZE)]  # type: ignore[arg-type]

    gathered: list[object] | None = [None] * SIZE if RANK == 1 else None
    dist.gather_object((RANK, "y"), gathered, 1)
    assert gathered is None or gathered == [(rank, "y") for rank in range(SIZE)]

    objects = [{"root": 1}, [1, 2], None] if RANK == 1 else [None] * 3
    dist.broadcast_object_list(objects, 1)
    assert objects == [{"root": 1}, [1, 2], None]

    got: list[object] = [None]
    dist.scatter_object_list(got, [f"for {r}" for r in range(SIZE)] if RANK == 0 else None, 0)
    assert got == [f"for {RANK}"]

    if RANK == 0:
        dist.send_object_list(["a", {"b": 2}], 1)
    elif RANK == 1:
        got = [None, None]
        assert dist.recv_object_list(got, 0) == 0
        assert got == ["a", {"b": 2}]


# --- barriers ------------------------------------------------------------------------------------


def check_barriers() -> None:
    for _ in range(3):
        dist.barrier()
    work = dist.barrier(async_op=True)
    work.wait()
    dist.monitored_barrier()
    dist.monitored_barrier(wait_all_ranks=True)


def check_wrong_calls_say_what_is_wrong() -> None:
    """And leave the group as it was."""
    checks.throws(
        RuntimeError,
        lambda: dist.all_gather_into_tensor(torch.empty(SIZE * 3 + 1), torch.empty(3)),
        str(SIZE * 3),
    )
    checks.throws(
        RuntimeError,
        lambda: dist.reduce_scatter_tensor(torch.empty(4), torch.empty(SIZE * 3)),
        "input",
    )
    checks.throws(RuntimeError, lambda: dist.all_reduce(torch.ones(3), ReduceOp.BAND), "bitwise")
    checks.throws(
        RuntimeError,
        lambda: dist.all_to_all_single(torch.empty(SIZE), torch.empty(SIZE), [1] * (SIZE + 1)),
    )
    checks.throws(
        RuntimeError, lambda: dist.send(torch.ones(3), (RANK + 1) % SIZE, tag=1 << 23), "tag"
    )
    x = torch.ones(3)
    dist.all_reduce(x)
    same(x, torch.full((3,), float(SIZE)))


if __name__ == "__main__":
    checks.run(globals(), sys.argv[1:])
