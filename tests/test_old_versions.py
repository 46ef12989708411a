"""What is too old for tcpwatch is named in one sentence, with what is there, what is needed and what to type."""

from __future__ import annotations

import ast
import ctypes
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracer.__main__ import OLDEST_PYTHON
from tracer.cli.failures import explain
from tracer.kernel.program import btf, compiler
from tracer.model.errors import TcpwatchError
from tracer.model.packages import installing, upgrading

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_what_runs_first_is_understood_by_an_old_python(name: str) -> None:
    """3.6 is that of RHEL 8. `from __future__ import annotations` came with 3.7."""
    parsed = ast.parse((ROOT / "tracer" / name).read_text(), feature_version=(3, 6))
    assert not [each for each in ast.walk(parsed) if isinstance(each, ast.ImportFrom) and each.module == "__future__"]


def test_the_needed_python_is_declared_once_more_in_the_package() -> None:
    assert f'requires-python = ">={".".join(map(str, OLDEST_PYTHON))}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("arguments", [[], ["--version"], ["report", "x.tw"]])
def test_an_old_python(arguments: list[str]) -> None:
    program = (
        "import runpy, sys; sys.version_info = (3, 8, 18, 'final', 0); "
        "runpy.run_module('tracer', run_name='__main__', alter_sys=True)"
    )
    shown = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT)
    first, second = shown.stderr.splitlines()
    assert (shown.returncode, shown.stdout) == (1, "")
    assert first == f"tcpwatch: Python 3.8.18 ({sys.executable}) is too old (expected 3.9 or newer)"
    assert second.startswith("Hint: ")


@pytest.fixture
def with_dnf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/dnf" if name == "dnf" else None)


def test_packages_have_the_names_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")  # some install dnf beside apt-get
    assert installing("python3-bpfcc", "python3-click") == "sudo apt-get install python3-bpfcc python3-click"
    assert upgrading("libbpf1") == "sudo apt-get install --only-upgrade libbpf1"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/dnf" if name == "dnf" else None)
    assert installing("python3-bpfcc", "python3-click") == "sudo dnf install python3-bcc python3-click"
    assert upgrading("libbpf1") == "sudo dnf upgrade libbpf"
    monkeypatch.setattr(shutil, "which", lambda name: None)  # pacman, apk, zypper
    assert installing("nftables", "conntrack") == "install the packages nftables conntrack (their names in Debian)"
    assert upgrading("libbpf1") == "upgrade the package libbpf1 (its name in Debian)"


@pytest.mark.parametrize("has", [(), ("apt-get",), ("dnf",), ("apt-get", "dnf")])
@pytest.mark.parametrize("packages", [("python3-click",), ("python3-bpfcc", "conntrack", "nftables")])
def test_the_scripts_print_the_same_line(
    has: tuple[str, ...], packages: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*has, "paste"):
        (tmp_path / name).symlink_to(shutil.which("paste") or "")
    script = '. "$1"; shift; PATH=$0; installing "$@"'
    command = ["bash", "-c", script, str(tmp_path), str(ROOT / "scripts/lib.sh"), *packages]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shown.strip() == installing(*packages)


def test_only_one_place_names_an_installer() -> None:
    """A hint with apt-get is wrong on RHEL, Rocky and Amazon Linux."""
    modules = [*(ROOT / "tracer").rglob("*.py"), *(ROOT / "scripts/installation").rglob("*.py")]
    naming = {path.name for path in modules if re.search(r"apt-get|apt install|dnf install", path.read_text())}
    assert naming == {"packages.py"}


def test_rpm_names_are_those_of_the_scripts() -> None:
    """scripts/lib.sh runs before there is a Python that could import tracer."""
    listed = (ROOT / "scripts/lib.sh").read_text().partition("rpm_packages() {")[2].partition("esac")[0]
    for debian, rpm in re.findall(r"^\s+([\w-]+)\) echo ([\w-]+) ;;$", listed, re.MULTILINE):
        assert installing(debian).endswith(debian)
        assert _rpm_name(debian) == rpm


def _rpm_name(debian: str) -> str:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "which", lambda name: "/usr/bin/dnf" if name == "dnf" else None)
        return installing(debian).split()[-1]


@pytest.mark.usefixtures("with_dnf")
def test_what_is_missing_with_dnf() -> None:
    missing = explain(ModuleNotFoundError("x", name="tabulate"))
    assert (str(missing), missing.hint) == (
        "the Python package tabulate is missing", "sudo dnf install python3-tabulate"
    )  # fmt: skip


@pytest.mark.usefixtures("with_dnf")
def test_an_old_click_with_dnf() -> None:
    """Amazon Linux 2023 has click 7.1.2. An isolated Python does not see what sudo pip installs there."""
    old = explain(ImportError("x", name="click.core"))
    assert str(old) == f"the Python package click {version('click')} is too old (expected 8.0 or newer)"
    assert "python3 -m venv --system-site-packages" in old.hint and "pip install ." in old.hint
    assert "/opt/tcpwatch-venv/bin/pip" in old.hint, "not the pip of the host"


def compiled(**answer: str) -> TcpwatchError:
    """The error for this answer of the compiling process."""
    return compiler._failure(subprocess.CompletedProcess([], 0, json.dumps(answer), "x.c:1: error: no y"))


@pytest.mark.usefixtures("with_dnf")
def test_an_old_bcc() -> None:
    old = compiled(bcc="0.17.0", error="Failed to compile BPF module")
    assert str(old) == "bcc 0.17.0 is too old (expected 0.18 or newer)"
    assert old.hint == "sudo dnf upgrade python3-bcc, or a newer release of the distribution"


@pytest.mark.usefixtures("with_dnf")
def test_without_bcc_or_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = compiled(missing="No module named 'bcc'")
    assert str(missing) == "the Python package bcc is missing (No module named 'bcc')"
    assert missing.hint.startswith("sudo dnf install python3-bcc, and run tcpwatch with /usr/bin/python3")

    def refuse(name: str, **_: object) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(TcpwatchError, match=r"^libbpf is missing$") as failed:
        btf.libbpf.__wrapped__()
    assert failed.value.hint == "sudo dnf install python3-bcc"


@pytest.mark.parametrize("number", ["0.18.0", "0.26.0+ds", "1.0", "unknown version"])
def test_a_bcc_that_is_not_old_is_not_blamed(number: str) -> None:
    assert str(compiled(bcc=number, error="x")) == ("bcc could not compile the program: x.c:1: error: no y")


def test_an_old_libbpf() -> None:
    """Debian 11's 0.3 has the function by its older name; one without either cannot be used."""
    older = SimpleNamespace(libbpf_find_kernel_btf=len)
    assert btf._load_function(older) is len  # type: ignore[arg-type]
    with pytest.raises(TcpwatchError, match=r"^libbpf is too old \(expected 0\.0\.7 or newer\)$"):
        btf._load_function(SimpleNamespace())  # type: ignore[arg-type]
