"""Floats that numpy does not have of its own, from Python: names, torch's tensors, and the bits."""

from __future__ import annotations

from conftest import CAUGHT, Runner

# The second rank's numbers are the first one's, each beside each.
EVERY_PAIR = """
    import torch
    comm = shoal.init(timeout=30)
    every = torch.arange(256, dtype=torch.uint8)
    OPS = {
        "sum": torch.add, "prod": torch.mul, "min": torch.minimum, "max": torch.maximum,
        "avg": lambda x, y: (x + y) / 2,
    }
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        sides = every.repeat(256).view(dtype), every.repeat_interleave(256).view(dtype)
        for op, function in OPS.items():
            want = function(*(x.float() for x in sides)).to(dtype)
            x = sides[comm.rank].clone()
            assert comm.all_reduce(x, op=op) is x
            both_nan = x.float().isnan() & want.float().isnan()  # which NaN is not specified
            equal = x.view(torch.uint8) == want.view(torch.uint8)
            if op in ("min", "max"):  # torch takes either of two zeros
                equal |= x.float() == want.float()
            wrong = (~(equal | both_nan)).nonzero().flatten()
            assert len(wrong) == 0, (dtype, op, [(x[i], want[i]) for i in wrong[:5]])
    print("fine")
"""

TENSORS = (
    CAUGHT
    + """
    import ctypes, torch
    comm = shoal.init(timeout=30)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        x = torch.full((3, 5), 2.0).to(dtype)
        assert comm.all_reduce(x) is x and (x.float() == 2.0 * comm.size).all()
        row = x[1:2]  # the rest stays
        comm.all_reduce(row, op="prod")
        assert (row.float() == 16).all() and (x[0].float() == 4).all() and (x[2].float() == 4).all()
        text = caught(lambda: comm.all_reduce(x.T), shoal.InvalidArgument)
        assert "not C-contiguous" in text, text

    class ReadOnly:
        def __dlpack_device__(self):
            return x.__dlpack_device__()
        def __dlpack__(self, **options):
            capsule = x.__dlpack__(**options)
            get = ctypes.pythonapi.PyCapsule_GetPointer
            get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
            flags = get(capsule, b"dltensor_versioned") + 24
            ctypes.c_uint64.from_address(flags).value |= 1
            return capsule
    text = caught(lambda: comm.all_reduce(ReadOnly()), shoal.InvalidArgument)
    assert "read-only" in text, text
    out = comm.all_reduce(ReadOnly(), out=comm.empty((3, 5), "float8_e5m2"))
    assert out[0, 0] == 8 and x[0, 0].float() == 4
    y = torch.zeros(3, dtype=torch.float8_e4m3fnuz)
    text = caught(lambda: comm.all_reduce(y), shoal.InvalidArgument)
    assert "e4m3fnuz" in text and "float8_e4m3fn and float8_e5m2" in text, text
    print("fine")
    """
)

NAMES = (
    CAUGHT
    + """
    import sys
    comm = shoal.init(timeout=30)
    assert "ml_dtypes" not in sys.modules
    sys.modules["ml_dtypes"] = None  # as if it were not installed
    text = caught(lambda: comm.empty(3, "float8_e4m3fn"), shoal.MissingLibrary)
    assert "pip install ml_dtypes" in text, text
    del sys.modules["ml_dtypes"]
    for name in ("float8_e4m3fn", "float8_e5m2", "bfloat16"):
        x = comm.empty((2, 3), name)
        x[:] = 1.5
        assert x.dtype.name == name and comm.all_reduce(x)[1, 2] == 1.5 * comm.size
        assert "all_reduce" in comm.explain("all_reduce", 8, name)
    text = caught(lambda: comm.all_reduce(x.astype("float8_e4m3")), shoal.InvalidArgument)
    assert "float8_e4m3 is not supported" in text, text
    print("fine")
    """
)


def test_every_pair_has_the_bits_of_torch(job: Runner) -> None:
    assert job(EVERY_PAIR).out.count("fine") == 2


def test_tensors_of_torch_are_taken_as_they_are(job: Runner) -> None:
    assert job(TENSORS).out.count("fine") == 2


def test_names_need_no_import(job: Runner) -> None:
    assert job(NAMES).out.count("fine") == 2
