"""The type stubs say what the compiled module is, and their examples run."""

from __future__ import annotations

import ast
import inspect
import pathlib
from typing import Any

import pytest
from conftest import Runner

from shoal import _core

STUB = pathlib.Path(_core.__file__).with_name("_core.pyi")
TREE = ast.parse(STUB.read_text())

EXAMPLES = """
    import ast, doctest, pathlib, sys
    comm = shoal.init(timeout=20)
    tree = ast.parse(pathlib.Path(sys.argv[1]).read_text())
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        text = ast.get_docstring(node) or ""
        if ">>>" in text:
            names = {"comm": comm, "np": np, "shoal": shoal}
            runner.run(parser.get_doctest(text, names, node.name, sys.argv[1], node.lineno))
    result = runner.summarize()
    assert result.failed == 0
    print("ran", result.attempted)
"""

Functions = dict[str, list[ast.FunctionDef]]


def functions(body: list[ast.stmt]) -> Functions:
    """The functions of a module or class, each with its overloads."""
    found: Functions = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(node)
    return found


def classes() -> dict[str, ast.ClassDef]:
    """The stub's classes that exist at run time too (the others are of type checking only)."""
    return {n.name: n for n in TREE.body if isinstance(n, ast.ClassDef) and hasattr(_core, n.name)}


def parameters(node: ast.FunctionDef) -> list[str]:
    return [a.arg for a in node.args.args + node.args.kwonlyargs if a.arg != "self"]


def defaults(node: ast.FunctionDef) -> dict[str, Any]:
    """Default values, except None and False: an overload may replace those by "must be given"."""
    args, values = node.args.args, node.args.defaults
    pairs = list(zip(args[len(args) - len(values) :], values, strict=True))
    pairs += [(a, v) for a, v in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if v]
    found = {a.arg: ast.literal_eval(v) for a, v in pairs}
    return {name: value for name, value in found.items() if value not in (None, False)}


def compiled(function: object) -> ast.FunctionDef:
    """pybind11 writes the signature into the first line of the docstring."""
    line = (inspect.getdoc(function) or "").splitlines()[0]
    node = ast.parse(f"def {line.partition(' -> ')[0]}: ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def public(owner: object) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def test_the_stub_has_every_name_and_no_other() -> None:
    assert set(functions(TREE.body)) | set(classes()) == public(_core)
    for name, node in classes().items():
        stub = {n for n in functions(node.body) if not n.startswith("_")}
        assert stub == public(getattr(_core, name)), name


def calls() -> list[tuple[str, list[ast.FunctionDef], object]]:
    found = [(n, nodes, getattr(_core, n)) for n, nodes in functions(TREE.body).items()]
    for owner, node in classes().items():
        for name, nodes in functions(node.body).items():
            actual = getattr(getattr(_core, owner), name)
            if not isinstance(actual, property) and name != "__await__":
                found.append((f"{owner}.{name}", nodes, actual))
    return found


@pytest.mark.parametrize(("name", "stubs", "actual"), calls(), ids=lambda v: str(v)[:40])
def test_the_stub_has_the_compiled_signature(
    name: str, stubs: list[ast.FunctionDef], actual: object
) -> None:
    signature = compiled(actual)
    for stub in stubs:
        assert parameters(stub) == parameters(signature), name
        assert defaults(stub) == defaults(signature), name


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_examples_run(job: Runner, ranks: int) -> None:
    result = job(EXAMPLES, ranks, arguments=(str(STUB),))
    examples = STUB.read_text().count(">>> ")
    assert examples > 20 and result.out.count(f"ran {examples}\n") == ranks, result.out
