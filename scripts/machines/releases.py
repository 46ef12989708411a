"""The tests outside tests/kernel, with Python and packages of other Debian releases."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machines import roots
from machines.errors import MachineError
from machines.matrix import TREE

TIMEOUT_S = 3600
_PYTEST = (
    "python3", "-m", "pytest", "-p", "no:cacheprovider", "--numprocesses", str(os.cpu_count() or 1),
    "--ignore", "tests/kernel",
    # A browser, shells, promtool, jq, groff, openssl, rpm and an index of PyPI are the host's, whatever Python runs.
    "--ignore", "tests/test_html_browser.py",
    "--ignore", "tests/test_completion.py",
    "--ignore", "tests/test_fleet_files.py",
    "--ignore", "tests/test_rpm.py",
    "--ignore", "tests/test_docs_examples.py",
    "--ignore", "tests/test_otlp_tls.py",
    # How much memory a report takes depends little on the release, and to measure it takes long.
    "--ignore", "tests/test_memory.py",
    "--ignore", "tests/test_many_hosts_memory.py",
    # Debian has no package of opentelemetry-proto. What else there is of OTLP is tested.
    "--ignore", "tests/test_otlp_encoding.py",
    # Debian has no package of DuckDB.
    "--ignore", "tests/test_fleet_sql.py",
    "--deselect", "tests/test_metrics.py::test_promtool_accepts_them",
    "--deselect", "tests/test_docs.py::test_the_manual_page_is_laid_out_without_a_warning",
    "--deselect", "tests/test_packaging.py::test_recordings_are_read_where_only_pip_installs",
    # Debian has no package of atheris; without it Hypothesis makes the inputs.
    "--deselect", "tests/fuzz/test_fuzz.py::test_where_there_is_atheris_it_is_installed",
    "tests",
)  # fmt: skip
_DESELECTED_IN = {
    # systemd-analyze security --offline came with systemd 250.
    "bullseye": ("tests/test_service.py::test_it_is_confined",),
}
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
}
# In a mount and PID namespace of its own, so that nothing is left when it ends. Changes go to memory. The tree
# of the project is at its path, read-only.
_ENTER = """
set -e
mount -t tmpfs tcpwatch "$work"
mkdir "$work/changes" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=$base,upperdir=$work/changes,workdir=$work/work" root "$work/root"
cd "$work/root"
mkdir -p "./$tree"
mount --bind "$tree" "./$tree"
mount -o remount,bind,ro "./$tree"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs run run
[ -e etc/hosts ] || echo '127.0.0.1 localhost' >etc/hosts # a minimal Debian 11 has none
exec chroot . env -i "$@"
"""


def run(names: Sequence[str], cache: Path) -> bool:
    """Run the tests on all releases at once, print their output afterwards, and return whether all passed."""
    for name in names:
        if name not in roots.RELEASES:
            raise MachineError(f"unknown release {name!r} (expected one of {', '.join(roots.RELEASES)})")
    with ThreadPoolExecutor(len(names)) as pool:
        return all(list(pool.map(lambda name: _try(name, cache), names)))


def _try(name: str, cache: Path) -> bool:
    began = time.monotonic()
    try:
        base = roots.get(name, cache)
        made = time.monotonic()
        status, output = _test(base, _DESELECTED_IN.get(name, ()))
    except MachineError as error:
        print(f"vm: {name}: FAILED: {error}", file=sys.stderr, flush=True)
        return False
    lines = output.rstrip().splitlines()
    counted = lines[-1].strip("= ") if lines else "no output"
    took = f"{made - began:.0f} s to make it, {time.monotonic() - made:.0f} s to run the tests"
    if status != 0:
        print(f"--- {name}\n{output}", file=sys.stderr)
    print(
        f"vm: {name}: {'passed' if status == 0 else f'FAILED ({status})'}: {counted}; {took}",
        file=sys.stderr,
        flush=True,
    )
    return status == 0


def _test(base: Path, deselected: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of pytest, in that root."""
    pytest = shlex.join([*_PYTEST, *(f"--deselect={test}" for test in deselected)])
    inside = f"cd {shlex.quote(str(TREE))} && python3 --version && exec {pytest}"
    variables = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    with tempfile.TemporaryDirectory(prefix="release.") as work:
        try:
            done = subprocess.run(
                [*namespaces, "bash", "-c", _ENTER, "bash", *variables, "bash", "-c", inside],
                env={**os.environ, "base": str(base), "tree": str(TREE), "work": work},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"not finished after {TIMEOUT_S} s") from error
    return done.returncode, done.stdout
