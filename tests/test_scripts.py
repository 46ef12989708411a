"""scripts/tcpwatch and scripts/test set themselves up safely, and say in words why they cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recording_files import write
from trees import (
    AS_NOBODY,
    PATIENCE_S,
    assert_in_words,
    copy_tree,
    instead_of,
    needs_root,
    program,
    public_directory,
    run,
)

VERSION = "tcpwatch, version 0.1.0\n"
HAS_PACKAGES = "for name; do :; done; printf 'ii '"
HAS_NO_PACKAGES = "exit 1"
# The host's own directory stays as it is: what is changed there is changed in memory.
OWN = """
mount -t tmpfs none /mnt; mkdir /mnt/changes /mnt/work
mount -t overlay -o lowerdir={0},upperdir=/mnt/changes,workdir=/mnt/work none {0}
rm -f {0}/{1}
"""
OWN_SBIN = OWN.format("/usr/sbin", "policy-rc.d")
NO_APT = OWN.format("/usr/bin", "apt-get")


@pytest.fixture
def public() -> Iterator[Path]:
    with public_directory() as made:
        yield made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "a tree")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tree that is set up already, where every user can enter."""
    with public_directory() as made:
        tree = copy_tree(made / "tree")
        first = run(tree / "scripts/tcpwatch", "--version")
        assert first.returncode == 0, first.stderr
        yield tree


def packages(directory: Path, script: str) -> str:
    """A command for `before`: dpkg-query answers like this."""
    return instead_of("/usr/bin/dpkg-query", program(directory / "dpkg-query", script))


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_environment_is_safe_and_readable(public: Path, umask: int) -> None:
    tree = copy_tree(public / "tree")
    first = run(tree / "scripts/tcpwatch", "--version", umask=umask)
    assert (first.returncode, first.stdout) == (0, VERSION), first.stderr
    assert run(tree / "scripts/tcpwatch", "demo", "--help", umask=umask).returncode == 0
    for path in [tree / ".venv", *(tree / ".venv").rglob("*")]:
        if not path.is_symlink():
            mode = path.lstat().st_mode
            assert mode & 0o022 == 0 and mode & 0o044 == 0o044, (path, oct(mode))
            assert not path.is_dir() or mode & 0o011 == 0o011, path
    assert [str(path) for path in tree.rglob("__pycache__") if path.lstat().st_mode & 0o002] == []
    become = AS_NOBODY if os.geteuid() == 0 else ()
    shown = run(*become, tree / "scripts/tcpwatch", "--version")
    assert (shown.stdout, shown.stderr) == (VERSION, "")


def test_one_that_every_user_can_change_is_made_anew(tree: Path) -> None:
    assert run(tree / "scripts/tcpwatch", "--version").returncode == 0
    assert run(tree / "scripts/tcpwatch", "--version").stderr == ""
    (tree / ".venv/bin").chmod(0o777)
    assert "making" in run(tree / "scripts/tcpwatch", "--version").stderr
    assert (tree / ".venv/bin").stat().st_mode & 0o022 == 0


def test_its_own_umask_is_the_users(finished: Path, tmp_path: Path) -> None:
    """What it writes for the user, such as a recording, is as private as the user wants."""
    script = f"umask; grep -h Umask /proc/self/status; exec '{finished}/scripts/tcpwatch' --version"
    assert run("bash", "-c", script, umask=0o027).stdout.startswith("0027\n")
    launcher = finished / ".venv/bin/tcpwatch.py"
    kept = launcher.read_text()
    launcher.write_text("import os; print(oct(os.umask(0)))\n")
    try:
        assert run(finished / "scripts/tcpwatch", umask=0o027).stdout == "0o27\n"
    finally:
        launcher.write_text(kept)


@needs_root
def test_a_user_without_root_at_first(public: Path, tmp_path: Path) -> None:
    tree = copy_tree(public / "tree")
    for name in ("tcpwatch", "test"):
        shown = run(*AS_NOBODY, tree / "scripts" / name, "--port", "3306")
        assert_in_words(shown, "needs root", f"sudo {tree}/scripts/{name} --port 3306")
    shown = run(*AS_NOBODY, tree / "scripts/tcpwatch", before=packages(tmp_path, HAS_NO_PACKAGES))
    assert_in_words(shown, "installing python3-bpfcc python3-click python3-tabulate python3-venv needs root", "sudo")


@needs_root
def test_reading_from_a_clone_needs_neither_root_nor_bcc(public: Path, tmp_path: Path) -> None:
    tree = copy_tree(public / "tree")
    write(public / "x.tw")
    (public / "x.tw").chmod(0o644)
    before = packages(tmp_path, HAS_NO_PACKAGES) + "\n" + OWN.format("/usr/lib/python3/dist-packages", "bcc -r")
    for arguments in (["report", public / "x.tw"], ["replay", public / "x.tw"], ["--help"], ["record", "-h"], ["-V"],
                      ["completion", "bash"], ["help", "report"]):  # fmt: skip
        shown = run(*AS_NOBODY, tree / "scripts/tcpwatch", *arguments, before=before)
        assert (shown.returncode, shown.stderr) == (0, ""), arguments
        assert shown.stdout
    assert not (tree / ".venv").exists() and not list(tree.rglob("__pycache__"))
    completed = run(
        *AS_NOBODY, tree / "scripts/tcpwatch", before=before,
        _TCPWATCH_COMPLETE="bash_complete", COMP_WORDS="tcpwatch repl", COMP_CWORD="1",
    )  # fmt: skip
    assert (completed.stdout, completed.stderr) == ("plain,replay\n", "")


@needs_root
@pytest.mark.parametrize("module", ["click", "tabulate"])
def test_reading_from_a_clone_says_what_it_needs(public: Path, module: str) -> None:
    tree = copy_tree(public / "tree")
    hidden = OWN.format("/usr/lib/python3/dist-packages", f"{module}* -r")
    shown = run(*AS_NOBODY, tree / "scripts/tcpwatch", "report", "x.tw", before=hidden)
    assert_in_words(shown, "has no module click or tabulate", "sudo apt-get install python3-click python3-tabulate")


def test_a_user_with_a_clone_of_their_own(tree: Path) -> None:
    """Where the packages are there, the first run needs no root."""
    if os.geteuid() != 0:
        assert run(tree / "scripts/tcpwatch", "--version").stdout == VERSION
        return
    with public_directory() as made:
        mine = copy_tree(made / "tree")
        for path in (mine, *mine.rglob("*")):
            os.chown(path, 65534, 65534)
        assert run(*AS_NOBODY, mine / "scripts/tcpwatch", "--version").stdout == VERSION


@needs_root
def test_a_read_only_tree(tree: Path) -> None:
    before = f"mount --bind '{tree}' '{tree}'; mount -o remount,bind,ro '{tree}'"
    for name in ("tcpwatch", "test"):
        shown = run(tree / "scripts" / name, "--version", before=before)
        assert_in_words(shown, f"cannot write to {tree} (a read-only file system?)", "cp -R")


@needs_root
def test_a_tree_on_a_noexec_mount(tree: Path, tmp_path: Path) -> None:
    before = f"mount --bind '{tree}' '{tree}'; mount -o remount,bind,noexec '{tree}'\n"
    assert run("bash", tree / "scripts/tcpwatch", "--version", before=before).stdout == VERSION
    shown = run("bash", tree / "scripts/test", before=before + packages(tmp_path, HAS_PACKAGES))
    assert_in_words(shown, "is mounted noexec", "cp -R")


@needs_root
def test_a_full_disk(tree: Path) -> None:
    before = (
        f"mount -t tmpfs -o size=12m none /mnt; cp -R '{tree}' /mnt/tree; head -c 20M /dev/zero >/mnt/x || true\n"
    )
    shown = run("/mnt/tree/scripts/tcpwatch", "--version", before=before)
    assert_in_words(shown, "could not make", "df -h")


@needs_root
def test_no_apt(tree: Path, tmp_path: Path) -> None:
    """On other distributions the packages are taken for granted, and what is missing is named."""
    shown = run(tree / "scripts/tcpwatch", "--version", before=NO_APT)
    assert (shown.returncode, shown.stdout) == (0, VERSION)
    assert "no apt-get here" in shown.stderr
    import click

    hidden = NO_APT + OWN.format("/usr/lib/python3/dist-packages", "click -r")
    if Path(click.__file__).is_relative_to("/usr/lib/python3/dist-packages"):
        for name, options in (("tcpwatch", ["--port", "1"]), ("install", ["--prefix", tmp_path / "prefix"])):
            (tree / ".venv/stamp.runtime").unlink(missing_ok=True)
            shown = run(tree / "scripts" / name, *options, before=hidden)
            assert_in_words(shown, "has no module click", "install the package python3-click (its name in Debian)")


def dnf_host(directory: Path, rpm: str, system: str = "rocky", dnf: str = "exit 1") -> tuple[str, Path]:
    """A command for `before`, and the file with the arguments that dnf got. rpm: the program that rpm is."""
    asked = directory / "asked"
    programs = {"dnf": f"echo \"$*\" >>'{asked}'; {dnf}", "rpm": rpm}
    made = {name: program(directory / name, text) for name, text in programs.items()}
    links = "\n".join(f"ln -sf '{path}' /usr/bin/{name}" for name, path in made.items())
    release = directory / "os-release"
    release.write_text(f'ID="{system}"\n')
    return f"{NO_APT}\n{links}\nmount --bind '{release}' /etc/os-release", asked


@needs_root
@pytest.mark.parametrize(
    ("system", "hint"),
    [
        ("rocky", "sudo dnf install epel-release"),
        ("rhel", "epel-release-latest-9.noarch.rpm"),
        ("amzn", "sudo python3 -m venv --system-site-packages"),
    ],
)
def test_dnf_installs_what_is_missing(tree: Path, tmp_path: Path, system: str, hint: str) -> None:
    """Packages have other names there, and Python brings its module venv itself."""
    before, asked = dnf_host(tmp_path, '[ "$3" = python3-click ]', system)
    shown = run(tree / "scripts/tcpwatch", "--version", before=before)
    assert_in_words(shown, "dnf could not install python3-bcc python3-tabulate", hint)
    assert asked.read_text() == "--quiet --assumeyes install python3-bcc python3-tabulate\n"


OLDER = """
for metadata in /usr/lib/python3/dist-packages/{0}-*/*; do
    case $metadata in */METADATA | */PKG-INFO) sed -i 's/^Version: .*/Version: {1}/' "$metadata" ;; esac
done
"""


@needs_root
@pytest.mark.parametrize(
    ("module", "version", "needed"),
    [("click", "7.1.2", "8.0"), ("click", "7.0", "8.0"), ("tabulate", "0.8.7", "0.8.9")],
)
@pytest.mark.parametrize("name", ["tcpwatch --version", "install", "tcpwatch report"])
def test_a_module_that_is_too_old(
    tree: Path, tmp_path: Path, name: str, module: str, version: str, needed: str
) -> None:
    """dnf of Amazon Linux 2023 has click 7.1.2, Debian 11 has it and tabulate 0.8.7."""
    older = OWN.format("/usr/lib/python3/dist-packages", "none") + OLDER.format(module, version)
    script, *arguments = name.split()
    with_dnf, _ = dnf_host(tmp_path, "exit 0")
    complaint = f"the Python package {module} {version} is too old (expected {needed} or newer)"
    shown = run(tree / "scripts" / script, *arguments, before=f"{with_dnf}\n{older}")
    assert_in_words(shown, complaint, "/bin/pip install " + str(tree).replace(" ", "\\ "))
    shown = run(tree / "scripts" / script, *arguments, before=packages(tmp_path, HAS_PACKAGES) + older)
    assert_in_words(shown, complaint, f"sudo /usr/bin/python3 -m pip install '{module}>={needed}'")
    assert not (tree / ".venv").exists()


@needs_root
@pytest.mark.parametrize("name", ["tcpwatch", "install"])
def test_a_python_that_is_too_old(tree: Path, tmp_path: Path, name: str) -> None:
    """RHEL 8 has 3.6. Nothing is installed for it."""
    old = program(tmp_path / "python3", 'case "$*" in *--version*) echo Python 3.6.8 ;; *) exit 1 ;; esac')
    before, asked = dnf_host(tmp_path, "exit 1")
    shown = run(
        tree / "scripts" / name, before=f"{before}\n{instead_of(str(Path('/usr/bin/python3').resolve()), old)}"
    )
    assert_in_words(shown, "Python 3.6.8 is too old: tcpwatch needs 3.9 or newer", "newer release")
    assert not asked.exists()


@needs_root
def test_no_network(tree: Path, tmp_path: Path) -> None:
    apt = program(tmp_path / "apt-get", "echo 'E: Could not resolve the mirror' >&2; exit 100")
    before = f"{OWN_SBIN}{packages(tmp_path, HAS_NO_PACKAGES)}\n{instead_of('/usr/bin/apt-get', apt)}"
    for name in ("tcpwatch", "test", "install"):
        shown = run(tree / "scripts" / name, before=before)
        assert_in_words(shown, "apt-get could not install", "is Debian's archive in reach?")
        assert "E: Could not resolve the mirror" in shown.stderr
    assert run(tree / "scripts/tcpwatch", "--version").returncode == 0
    without_index: dict[str, Any] = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
    }
    shown = run(tree / "scripts/test", before=packages(tmp_path, HAS_PACKAGES), **without_index)
    assert_in_words(shown, "pip could not install what the tests need", "is PyPI in reach?")


@needs_root
def test_a_policy_that_a_kill_leaves_behind_forbids_nothing(tree: Path, tmp_path: Path) -> None:
    """What our apt-get starts asks policy-rc.d, and is refused; others are not, even after kill -9."""
    policy, asked, hangs = "/usr/sbin/policy-rc.d", tmp_path / "asked", tmp_path / "hangs"
    os.mkfifo(hangs)
    apt = program(
        tmp_path / "apt-get",
        f"case \"$*\" in *' install '*) {policy} x start; echo $? >>'{asked}'; read -r go <'{hangs}';; esac",
    )
    before = f"{OWN_SBIN}{packages(tmp_path, HAS_NO_PACKAGES)}\n{instead_of('/usr/bin/apt-get', apt)}"
    script = f"""
        '{tree}/scripts/tcpwatch' --version & killed=$!
        until [ -s '{asked}' ]; do read -rt 0.05 <> <(:) || true; done
        kill -9 $killed; wait $killed 2>/dev/null
        {policy} x start; echo "after the kill: $?"
        echo >'{hangs}'
        rm '{asked}'; (until [ -s '{asked}' ]; do read -rt 0.05 <> <(:) || true; done; echo >'{hangs}') &
        '{tree}/scripts/tcpwatch' --version
        [ -e {policy} ] || echo "gone after the next run"
    """
    done = run("bash", "-c", script, before=before)
    assert done.stdout == f"after the kill: 0\n{VERSION}gone after the next run\n", done.stderr
    assert asked.read_text() == "101\n"


@needs_root
def test_a_policy_of_the_host_stays(tree: Path, tmp_path: Path) -> None:
    apt = program(tmp_path / "apt-get", "exit 0")
    own = "printf '#!/bin/sh\\nexit 0\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d"
    before = f"{OWN_SBIN}{own}\n{packages(tmp_path, HAS_NO_PACKAGES)}\n{instead_of('/usr/bin/apt-get', apt)}"
    script = f"'{tree}/scripts/tcpwatch' --version; cat /usr/sbin/policy-rc.d"
    assert run("bash", "-c", script, before=before).stdout == f"{VERSION}#!/bin/sh\nexit 0\n"


@needs_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_where_packages_are_interrupted(tree: Path, tmp_path: Path, number: int) -> None:
    started, left = tmp_path / "started", tmp_path / "left"
    apt = program(tmp_path / "apt-get", f"touch '{started}'; exec sleep 60")
    before = (
        f"{OWN_SBIN}{packages(tmp_path, HAS_NO_PACKAGES)}\n{instead_of('/usr/bin/apt-get', apt)}\n"
        "mount -t tmpfs -o mode=1777 none /var/tmp"
    )
    # The script itself may end before its subshell has cleared up.
    left_there = "ls -A /usr/sbin /var/tmp | grep -e policy-rc.d -e tmp[.]"
    gone = f'for i in {{1..500}}; do [ -z "$({left_there})" ] && break; sleep 0.01; done'
    script = f'set -e\n{before}\nset +e; "$@"; {gone} && echo gone'
    command = [
        "env",
        "--default-signal=INT,HUP",  # a shell in the background ignores them
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-c",
        f"trap : INT TERM HUP; {script}",
        "bash",
    ]
    with left.open("w") as out:
        running = subprocess.Popen(
            [*command, str(tree / "scripts/tcpwatch"), "--version"],
            stdout=out, stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "TMPDIR": "/var/tmp"},
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while not started.exists():
            assert time.monotonic() < deadline and running.poll() is None
            time.sleep(0.01)
        os.killpg(running.pid, number)
        running.wait(PATIENCE_S)
    assert left.read_text() == "gone\n"


@needs_root
def test_the_package_for_metrics_is_installed_for_who_asks(finished: Path, tmp_path: Path) -> None:
    lacks_it = 'case "$*" in *prometheus*) exit 1;; esac; printf "ii "'
    for option in ("--metrics=x.prom", "--metrics-listen"):
        shown = run(*AS_NOBODY, finished / "scripts/tcpwatch", option, "1", before=packages(tmp_path, lacks_it))
        assert_in_words(shown, "installing python3-prometheus-client needs root", "scripts/tcpwatch")
    shown = run(*AS_NOBODY, finished / "scripts/tcpwatch", before=packages(tmp_path, lacks_it))
    assert "prometheus" not in shown.stderr
