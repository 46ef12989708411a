"""Each target with what went wrong once, with its seeds, and with a fixed number of inputs beside them.

Hypothesis chooses some of them; where atheris can be installed, coverage guides it to others, in a process of its
own. Longer runs: run.py.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seeds import seeds
from stories import story
from targets import TARGETS

HERE = Path(__file__).parent
KEPT = sorted(path for path in (HERE / "regressions").glob("*/*") if path.is_file())
IS_GUIDED = importlib.util.find_spec("atheris") is not None
RUNS = {"recording": 1000, "lines": 1000, "fields": 700, "wire": 1500, "words": 1500}


def test_every_target_has_seeds_and_runs() -> None:
    assert RUNS.keys() == TARGETS.keys()
    assert all(len(seeds(target)) > 3 for target in TARGETS)
    assert {path.parent.name for path in KEPT} <= TARGETS.keys()


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not (3, 11) <= sys.version_info < (3, 14), reason="there is no atheris for it"
)
def test_where_there_is_atheris_it_is_installed() -> None:
    assert IS_GUIDED


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.timeout(20)
def test_what_went_wrong_once(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_themselves(target: str) -> None:
    for data in seeds(target):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes(target: str) -> None:
    @settings(max_examples=RUNS[target] // 5, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(seeds(target)), st.integers(0, 2048), st.binary(max_size=512))
    def whatever(seed: bytes, start: int, data: bytes) -> None:
        TARGETS[target](data)
        TARGETS[target](seed[:start] + data + seed[start + len(data) :])

    whatever()


@pytest.mark.skipif(not IS_GUIDED, reason="without atheris there is only what Hypothesis finds")
@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_guided_by_coverage(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, str(HERE / "run.py"), target,
            f"-runs={RUNS[target]}", "-seed=1", "-max_len=1024", "-timeout=20", f"-artifact_prefix={tmp_path}/",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=250,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    found = [path.read_bytes() for path in tmp_path.glob("*-*") if path.is_file()]
    kept = "recording" if target == "fields" else target
    inputs = "\n".join(repr(story(data) if target == "fields" else data) for data in found)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\nTo be kept in tests/fuzz/regressions/{kept}:\n{inputs}"
    assert f"Done {RUNS[target]} runs" in done.stdout, done.stdout[-6000:]
