"""Who imports whom in tracer/ and in tests/."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "tracer").rglob("*.py"))

# What a part may import of tracer beside itself, from the bottom to the top.
ALLOWED: dict[str, set[str]] = {
    "model": set(),
    "analysis": {"model"},
    "recordings": {"model"},
    "output": {"model", "analysis", "recordings"},  # JSON lines are those of a recording
    "kernel": {"model"},
    "run": {"model", "analysis", "output", "recordings", "kernel"},
    "act": {"model", "analysis", "kernel"},
    "lab": {"model", "analysis", "output", "recordings", "kernel", "run"},
    "cli": {"model", "analysis", "output", "recordings", "kernel", "run", "act", "lab"},
}

# Who alone may import it, by path under tracer/.
KEEPERS = {
    "bcc": ("kernel/program/bcc_process.py",),
    "tabulate": ("output/table.py",),
    "prometheus_client": (
        "output/metrics/exposition.py",
        "run/metrics.py",
    ),  # the second only looks whether it is there
    "pymysql": ("lab/mariadb_peer.py",),
}


def relative(file: Path) -> str:
    return file.relative_to(ROOT / "tracer").as_posix()


def part_of(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "tracer":
                yield from (f"tracer.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_imports_go_one_way(file: Path) -> None:
    part = part_of(relative(file))
    if part in ("__init__", "__main__"):
        return
    for module in imports(file):
        if module.startswith("tracer."):
            imported = module.split(".")[1]
            if imported not in {part, "__version__"}:
                assert imported in ALLOWED[part], f"tracer/{relative(file)} imports {module}"


@pytest.mark.parametrize("library", KEEPERS)
def test_a_library_has_one_keeper(library: str) -> None:
    importing = {relative(file) for file in FILES for module in imports(file) if module.split(".")[0] == library}
    assert importing
    assert all(name.startswith(KEEPERS[library]) for name in importing), f"{library} is imported by {importing}"


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_only_the_kernel_side_and_the_lab_read_proc_and_sys(file: Path) -> None:
    if part_of(relative(file)) in ("kernel", "lab"):
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith(("/proc", "/sys")), f"tracer/{relative(file)} names {node.value}"


@pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("*.py")), ids=lambda file: file.stem)
def test_no_file_imports_a_test_module(file: Path) -> None:
    """What two test modules share is in a module of its own. Programs in strings count, too."""
    text = file.read_text()
    assert not re.search(r"^\s*(from|import) test_", text, re.MULTILINE), file


@pytest.mark.parametrize("file", [file for file in FILES if file.name == "__init__.py"], ids=relative)
def test_each_package_has_a_docstring(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text())), f"tracer/{relative(file)}"


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_no_code_is_made_from_text_and_no_object_changes_its_class(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"tracer/{relative(file)}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            assert node.attr != "__class__", f"tracer/{relative(file)}:{node.lineno}"
