"""scripts/install: what it installs is safe and readable, whatever the environment; nothing half done stays."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trees import (
    AS_NOBODY,
    PATIENCE_S,
    ROOT,
    assert_in_words,
    copy_tree,
    instead_of,
    needs_root,
    program,
    public_directory,
    run,
)

SAMPLE = next(iter(sorted((ROOT / "tests/recordings/v1").glob("*.tw"))))
VERSION = "tcpwatch, version 0.1.0\n"
UNIT = "usr/local/lib/systemd/system/tcpwatch.service"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("install") / "a tree")


@pytest.fixture
def public() -> Iterator[Path]:
    with public_directory() as made:
        yield made


def install(
    tree: Path, prefix: Path, *options: str, umask: int = 0o022, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return run(tree / "scripts/install", "--prefix", prefix, *options, umask=umask, before=before, **environment)  # type: ignore[arg-type]


def version(prefix: Path) -> str:
    return run(prefix / "usr/local/bin/tcpwatch", "--version").stdout


def assert_safe(prefix: Path) -> None:
    """Every file can be changed by its owner alone, and read by everybody."""
    for path in [prefix, *prefix.rglob("*")]:
        status = path.lstat()
        assert status.st_uid == os.geteuid(), path
        if path.is_symlink():
            continue
        is_program = path.is_dir() or path == prefix / "opt/tcpwatch/bin/tcpwatch"
        assert oct(stat.S_IMODE(status.st_mode)) == oct(0o755 if is_program else 0o644), path
        assert [name for name in os.listxattr(path) if "acl" in name] == [], path


def assert_nothing_half_done(prefix: Path) -> None:
    assert [str(path) for path in prefix.rglob(".tcpwatch*")] == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_umask_changes_nothing(tree: Path, public: Path, umask: int) -> None:
    prefix = public / "a prefix"
    for _ in range(2):
        done = install(tree, prefix, umask=umask)
        assert done.returncode == 0, done.stderr
    assert_safe(prefix)
    assert_nothing_half_done(prefix)
    become = AS_NOBODY if os.geteuid() == 0 else ()
    recording = public / "x.tw"
    shutil.copyfile(SAMPLE, recording)
    recording.chmod(0o644)
    shown = run(*become, prefix / "usr/local/bin/tcpwatch", "report", recording)
    assert shown.returncode == 0 and "stall" in shown.stdout.lower(), shown.stderr


def test_a_new_version_of_python_does_not_break_it(tree: Path, tmp_path: Path) -> None:
    """Nothing but the compiled modules, which Python does without, is of the version that installed it."""
    assert install(tree, tmp_path).returncode == 0
    for compiled in (tmp_path / "opt/tcpwatch").rglob("__pycache__"):
        shutil.rmtree(compiled)
    assert [path for path in tmp_path.rglob("*") if "python3" in path.name] == []
    assert (tmp_path / "opt/tcpwatch/bin/tcpwatch").read_text().startswith("#!/usr/bin/python3 -I\n")
    assert version(tmp_path) == VERSION


_ACL_USER, _ACL_GROUP, _ACL_MASK, _ACL_OTHER = 0x02, 0x04, 0x10, 0x20  # include/uapi/linux/posix_acl.h


def open_to(uid: int) -> bytes:
    """A default ACL that lets this user write to everything that is made below: posix_acl_xattr.h, version 2."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 7, nobody), (_ACL_USER, 7, uid), (_ACL_GROUP, 7, nobody), (_ACL_MASK, 7, nobody),
               (_ACL_OTHER, 5, nobody)]  # fmt: skip
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_neither_do_the_modes_of_the_tree_nor_acls_and_groups_of_directories(tmp_path: Path, public: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    for number, path in enumerate(sorted(tree.rglob("*"))):
        path.chmod(0o2777 if path.is_dir() else (0o666, 0o777, 0o600)[number % 3])
    (tree / "scripts/install").chmod(0o700)
    (tree / "scripts/installation/main.py").chmod(0o400)
    prefix = public / "prefix"
    (prefix / "opt").mkdir(parents=True)
    (prefix / "opt").chmod(0o2755)
    os.setxattr(prefix / "opt", "system.posix_acl_default", open_to(65534))
    done = install(tree, prefix)
    assert done.returncode == 0, done.stderr
    os.removexattr(prefix / "opt", "system.posix_acl_default")
    (prefix / "opt").chmod(0o755)
    assert f"warning: every user can write to {tree}" in done.stderr or os.geteuid() != 0
    assert_safe(prefix)


def test_what_lies_about_in_the_tree_is_not_installed(tmp_path: Path) -> None:
    tree, prefix = copy_tree(tmp_path / "tree"), tmp_path / "prefix"
    for name in (
        "tracer/model/events.py~", "tracer/model/events.py.orig", "tracer/#a.py#", "tracer/.a.py.swp",
        "bpf/event.h.rej", "tracer/__pycache__/a.cpython-311.pyc", "tracer/.git/config", "bpf/.event.h",
    ):  # fmt: skip
        path = tree / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("junk")
    (tree / "tracer/.#cli.py").symlink_to("somebody@somewhere.1")
    (tree / "bpf/secret.h").symlink_to("/etc/shadow")
    assert install(tree, prefix).returncode == 0
    library = prefix / "opt/tcpwatch/library/tracer"
    installed = {str(path.relative_to(library)) for path in library.rglob("*") if path.suffix != ".pyc"}
    modules = {path.relative_to(ROOT / "tracer") for path in (ROOT / "tracer").rglob("*.py")}
    sources = {path.relative_to(ROOT) for path in (ROOT / "bpf").rglob("*")}
    expected = {str(path) for path in modules | sources} | {"bpf"}
    expected |= {str(path.parent) for path in modules if path.parent != Path()}
    assert {name for name in installed if "__pycache__" not in name} == expected


def test_the_environment_changes_nothing(tree: Path, public: Path, tmp_path: Path) -> None:
    """Neither modules, programs and functions of others, nor settings of bash and Python."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for name in (
        "dirname",
        "readlink",
        "id",
        "find",
        "dpkg-query",
        "apt-get",
        "python3",
        "mktemp",
        "rm",
        "ls",
        "grep",
    ):
        program(fakes / name, f"touch '{tmp_path}/hijacked-{name}'; exit 1")
    for name in ("click", "tracer", "venv", "compileall", "shutil", "tabulate", "sitecustomize"):
        (fakes / f"{name}.py").write_text(f"open('{tmp_path}/hijacked-{name}', 'w')\nraise SystemExit(9)\n")
    (tmp_path / "bash_env").write_text(f"touch '{tmp_path}/hijacked-BASH_ENV'\n")
    environment: dict[str, Any] = {
        "PATH": f"{fakes}:.", "PYTHONPATH": str(fakes), "PYTHONHOME": "/no/such", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "CDPATH": str(fakes), "IFS": "/t", "HOME": "/no/such",
        "TMPDIR": "/no/such", "POSIXLY_CORRECT": "1", "GREP_OPTIONS": "--nonsense",
        "BASH_ENV": str(tmp_path / "bash_env"),
        "BASH_FUNC_dirname%%": f"() {{ touch '{tmp_path}/hijacked-function'; }}", "SHELLOPTS": "noglob:noexec",
    }  # fmt: skip
    prefix = public / "prefix"
    done = run(tree / "scripts/install", "--prefix", prefix, cwd=fakes, **environment)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("hijacked-*")] == []
    assert_safe(prefix)
    assert list(prefix.rglob("*.pyc")) != []
    shown = run(prefix / "usr/local/bin/tcpwatch", "--version", cwd=fakes, PYTHONPATH=str(fakes))
    assert (shown.stdout, [path.name for path in tmp_path.glob("hijacked-*")]) == (VERSION, [])


@pytest.mark.parametrize("open_one", ["opt", "usr/local", "usr/local/bin", "usr/local/lib/systemd", "."])
def test_a_directory_in_which_every_user_can_replace_it_is_refused(tree: Path, public: Path, open_one: str) -> None:
    prefix = public / "prefix"
    (prefix / open_one).mkdir(parents=True)
    (prefix / open_one).chmod(0o777)
    refused = install(tree, prefix)
    assert_in_words(refused, f"every user can write to {(prefix / open_one).resolve()} (mode 0777)", "chmod o-w")
    assert not (prefix / "opt/tcpwatch").exists()


@needs_root
def test_directories_of_others_are_named(tree: Path, public: Path) -> None:
    prefix = public / "prefix"
    (prefix / "opt").mkdir(parents=True)
    os.chown(prefix / "opt", 65534, 65534)
    (prefix / "opt").chmod(0o770)
    done = install(tree, prefix)
    assert done.returncode == 0
    assert f"warning: {prefix}/opt belongs to nobody, who can replace tcpwatch there" in done.stderr
    assert f"warning: the group of {prefix}/opt can write to it" in done.stderr
    assert f"warning: other users cannot enter {prefix}/opt (mode 0770)" in done.stderr


def test_a_link_in_its_place_is_left_alone(tree: Path, tmp_path: Path) -> None:
    assert install(tree, tmp_path / "old").returncode == 0
    prefix = tmp_path / "prefix"
    (prefix / "opt").mkdir(parents=True)
    (prefix / "opt/tcpwatch").symlink_to(tmp_path / "old/opt/tcpwatch")
    for options in ([], ["--remove"]):
        assert_in_words(install(tree, prefix, *options), "is a symbolic link, and is left alone", "ls -l")
    assert version(tmp_path / "old") == VERSION


def test_at_the_same_time(tree: Path, public: Path) -> None:
    command: list[str | Path] = [tree / "scripts/install", "--prefix", public]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for each in running:
        _, said = each.communicate(timeout=PATIENCE_S)
        assert each.returncode == 0 and said.startswith("tcpwatch: installed tcpwatch, version"), said
    assert version(public) == VERSION
    assert_nothing_half_done(public)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_upgrade_that_is_interrupted_anywhere(tree: Path, tmp_path: Path, number: int) -> None:
    """The old or the new one is there as a whole, and the next installation clears up."""
    began = time.monotonic()
    assert install(tree, tmp_path).returncode == 0
    whole_s = time.monotonic() - began
    chosen = random.Random(1)
    for _ in range(4):
        upgrade = subprocess.Popen(
            [tree / "scripts/install", "--prefix", tmp_path],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            upgrade.wait(chosen.uniform(0, whole_s))
        except subprocess.TimeoutExpired:
            os.killpg(upgrade.pid, number)
        _, said = upgrade.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in said
        assert version(tmp_path) == VERSION
    assert install(tree, tmp_path).returncode == 0
    assert_nothing_half_done(tmp_path)


@needs_root
def test_a_full_disk_leaves_the_old_one(tree: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    script = (
        f"'{tree}/scripts/install' --prefix '{prefix}' 2>&1; head -c 8M /dev/zero >'{prefix}/filler' || true\n"
        f"'{tree}/scripts/install' --prefix '{prefix}' && exit 9\n"
        f"find '{prefix}' -name '.tcpwatch*'; exec '{prefix}/usr/local/bin/tcpwatch' --version"
    )
    prefix.mkdir()
    done = run("bash", "-c", script, before=f"mount -t tmpfs -o size=6m none '{prefix}'")
    assert done.returncode == 0 and done.stdout.endswith(VERSION), done
    assert ".tcpwatch" not in done.stdout
    assert (
        "No space left on device" in done.stderr and "Hint: df -h" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_file_in_the_way_is_not_opened_to_fewer_users(tree: Path, public: Path) -> None:
    """`chmod o-w /dev/null` would break the host."""
    path = public / "a file"
    path.touch()
    path.chmod(0o666)
    refused = install(tree, path)
    assert_in_words(refused, f"{path.resolve()} is not a directory", f"Hint: ls -ld '{path.resolve()}'")


def test_the_printed_commands_run_and_remove_it(tree: Path, public: Path) -> None:
    said = install(tree, public / "a prefix").stderr
    command = said.partition(": sudo ")[2].partition(" (")[0]
    removal = said.partition("to remove it: sudo ")[2].partition(")")[0]
    assert run("bash", "-c", f"{command} --version").stdout == VERSION
    assert run("bash", "-c", removal, cwd=tree).returncode == 0
    assert not (public / "a prefix/opt/tcpwatch").exists()


@needs_root
def test_an_error_names_what_is_there(tree: Path, tmp_path: Path) -> None:
    """Not the unfinished copy, which is gone when somebody reads it."""
    opt = tmp_path / "opt"
    opt.mkdir()
    failed = install(tree, tmp_path, before=f"mount -t tmpfs -o ro none '{opt}'")
    assert_in_words(failed, f"tcpwatch: {opt}: Read-only file system", f"ls -ld {opt}")
    assert ".tcpwatch" not in failed.stderr


@needs_root
def test_an_upgrade_and_a_removal_in_a_container_whose_image_has_it(tree: Path, tmp_path: Path) -> None:
    """overlayfs refuses to rename a directory of a lower layer."""
    prefix, upper = tmp_path / "prefix", tmp_path / "upper"
    assert install(tree, prefix).returncode == 0
    (prefix / "var/cache/tcpwatch").mkdir(parents=True)
    upper.mkdir()
    before = (
        f"mount -t tmpfs none '{upper}'; mkdir '{upper}/changes' '{upper}/work'; cd '{tmp_path}'\n"
        "mount -t overlay -o lowerdir=prefix,upperdir=upper/changes,workdir=upper/work,redirect_dir=off none prefix"
    )
    script = (
        f"set -e; S='{tree}/scripts/install'; \"$S\" --prefix prefix; prefix/usr/local/bin/tcpwatch --version\n"
        "\"$S\" --prefix prefix --remove; find prefix ! -type d -o -name '*tcpwatch*'"
    )
    done = run("bash", "-c", f"cd '{tmp_path}'; {script}", before=before)
    assert (done.returncode, done.stdout) == (0, VERSION), done.stderr


@needs_root
def test_programs_cannot_run_there(tree: Path, tmp_path: Path) -> None:
    shown = install(tree, tmp_path, before=f"mount -t tmpfs -o noexec none '{tmp_path}'")
    assert_in_words(shown, "is mounted noexec", "findmnt")


def test_an_edited_unit_is_kept(tmp_path: Path) -> None:
    tree, prefix = copy_tree(tmp_path / "tree"), tmp_path / "prefix"
    unit, shipped = prefix / UNIT, tree / "scripts/tcpwatch.service"
    beside = unit.with_name("tcpwatch.service.dist")
    assert install(tree, prefix).returncode == 0
    first = shipped.read_text()
    shipped.write_text(f"{first}# second\n")
    assert install(tree, prefix).returncode == 0
    assert unit.read_text() == f"{first}# second\n", "that nobody has edited is replaced"

    unit.write_text("# mine\n")
    for content in (f"{first}# third\n", f"{first}# fourth\n"):
        shipped.write_text(content)
        upgraded = install(tree, prefix)
        assert upgraded.returncode == 0
        assert f"kept {unit}, which was edited; the new one is {beside}" in upgraded.stderr
        assert (unit.read_text(), beside.read_text()) == ("# mine\n", content)

    beside.replace(unit)
    shipped.write_text(f"{first}# fifth\n")
    assert f"kept {unit}" not in install(tree, prefix).stderr
    assert unit.read_text() == f"{first}# fifth\n" and not beside.exists()

    unit.write_text("# mine\n")
    removed = install(tree, prefix, "--remove")
    assert f"kept your edited {unit} as {unit}.edited" in removed.stderr
    assert [path.name for path in prefix.rglob("*") if not path.is_dir()] == ["tcpwatch.service.edited"]


COMPLETIONS = (
    "usr/local/share/bash-completion/completions/tcpwatch",
    "usr/local/share/zsh/site-functions/_tcpwatch",
    "usr/local/share/fish/vendor_completions.d/tcpwatch.fish",
)


def test_completion_scripts_are_installed_and_removed(tree: Path, tmp_path: Path) -> None:
    assert install(tree, tmp_path).returncode == 0
    for name, shell in zip(COMPLETIONS, ("bash", "zsh", "fish")):
        printed = run(tmp_path / "usr/local/bin/tcpwatch", "completion", shell).stdout
        assert printed and (tmp_path / name).read_text() == printed
    assert install(tree, tmp_path, "--remove").returncode == 0
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@needs_root
@pytest.mark.skipif(not Path("/usr/share/bash-completion/bash_completion").exists(), reason="needs bash-completion")
def test_bash_finds_the_installed_script(tree: Path) -> None:
    """By bash-completion, with `sudo` before the command."""
    script = (
        f"'{tree}/scripts/install' 2>/dev/null; PATH=/usr/local/bin:$PATH\n"
        ". /usr/share/bash-completion/bash_completion\n"
        'COMP_LINE="sudo tcpwatch sockets --min-i" COMP_WORDS=(sudo tcpwatch sockets --min-i) COMP_CWORD=3\n'
        'COMP_POINT=${#COMP_LINE}; _completion_loader sudo; _sudo sudo; echo "${COMPREPLY[@]}"'
    )
    assert run("bash", "-c", script, before=SYSTEM).stdout == "--min-idle\n"


def test_removing_what_is_not_there(tree: Path, tmp_path: Path) -> None:
    removed = install(tree, tmp_path, "--remove")
    assert removed.returncode == 0
    assert removed.stderr == f"tcpwatch: nothing is installed in {tmp_path}\n"


SYSTEM = """
for d in /opt /usr/local /var/cache /var/log /etc/systemd /run; do mount -t tmpfs -o mode=755 none $d; done
mkdir -p /etc/systemd/system/tcpwatch.service.d /var/log/tcpwatch
"""


@needs_root
@pytest.mark.parametrize("runs", [True, False])
def test_the_unit_is_stopped_before_it_is_removed_and_restarted_after_an_upgrade(
    tree: Path, tmp_path: Path, runs: bool
) -> None:
    """With a systemctl that says what it is asked; is-active is answered by whether it runs."""
    calls = tmp_path / "calls"
    fake = program(
        tmp_path / "systemctl",
        f"[ -e /usr/local/bin/tcpwatch ] && there=with; echo \"$* ${{there:-without}}\" >>'{calls}'\n"
        f'case "$*" in *is-active*) exit {0 if runs else 3};; esac',
    )
    systemctl = shutil.which("systemctl")
    assert systemctl is not None
    before = f"{SYSTEM}{instead_of(systemctl, fake)}\nmkdir /run/systemd /run/systemd/system\n"
    script = (
        f'set -e; S=\'{tree}/scripts/install\'; C=\'{calls}\'; "$S"; : >"$C"; "$S"; cat "$C"; echo ---; : >"$C"\n'
        'echo "[Service]" >/etc/systemd/system/tcpwatch.service.d/override.conf; echo x >/var/log/tcpwatch/x.tw.gz\n'
        "mkdir /var/log/tcpwatch-compact; echo x >/var/log/tcpwatch-compact/x.tw.gz\n"
        '"$S" --remove; cat "$C"; echo ---; find /opt /usr/local /etc/systemd /var/log -type f'
    )
    done = run("bash", "-c", script, before=before)
    assert done.returncode == 0, done.stderr
    upgraded, removed, left = done.stdout.split("---\n")
    units = ("tcpwatch.service", "tcpwatch-compact.service", "tcpwatch-protect@*.service")
    restarts = [f"try-restart {unit} with" for unit in units]
    looks = [f"--quiet is-active {unit} with" for unit in units]
    asked = [line for pair in zip(looks, restarts) for line in pair] if runs else looks
    assert upgraded.splitlines() == ["daemon-reload with", *asked]
    assert removed.splitlines() == [
        looks[0], "disable --now tcpwatch.service with",
        looks[1], "disable --now tcpwatch-compact.service with",
        looks[2], "stop tcpwatch-protect@*.service with", "disable tcpwatch-protect@.service with",
        "daemon-reload without",
    ]  # fmt: skip
    assert ("restarted tcpwatch.service: it records into a new file" in done.stderr) == runs
    assert ("tcpwatch: stopped and disabled tcpwatch.service" in done.stderr) == runs
    kept = ["/var/log/tcpwatch-compact/x.tw.gz", "/var/log/tcpwatch/x.tw.gz"]
    assert sorted(left.split()) == ["/etc/systemd/system/tcpwatch.service.d/override.conf", *kept]
    assert "left /etc/systemd/system/tcpwatch.service.d, which is yours" in done.stderr
    assert "left the recordings in /var/log/tcpwatch\n" in done.stderr
    assert "left the recordings in /var/log/tcpwatch-compact\n" in done.stderr


@needs_root
def test_a_unit_that_cannot_be_stopped_keeps_its_program(tree: Path, tmp_path: Path) -> None:
    fake = program(tmp_path / "systemctl", 'case "$1" in disable) echo refused >&2; exit 1;; esac')
    systemctl = shutil.which("systemctl")
    assert systemctl is not None
    before = (
        f"{SYSTEM}{instead_of(systemctl, fake)}\nmkdir /run/systemd /run/systemd/system\n'{tree}/scripts/install'\n"
    )
    done = run(
        "bash", "-c", f"'{tree}/scripts/install' --remove; echo $?; /usr/local/bin/tcpwatch --version", before=before,
    )  # fmt: skip
    assert done.stdout == f"1\n{VERSION}"
    assert "systemctl disable --now tcpwatch.service failed: refused" in done.stderr and "Hint: " in done.stderr


def test_with_a_prefix_systemd_is_not_asked(tree: Path, tmp_path: Path) -> None:
    """Whatever runs on this host is not of that prefix."""
    calls = tmp_path / "calls"
    systemctl = shutil.which("systemctl")
    assert systemctl is not None
    if os.geteuid() == 0:
        fake = program(tmp_path / "systemctl", f"echo \"$*\" >>'{calls}'")
        before = f"{instead_of(systemctl, fake)}\nmount -t tmpfs none /run; mkdir -p /run/systemd/system"
    else:
        before = ""
    for options in ([], [], ["--remove"]):
        assert install(tree, tmp_path / "prefix", *options, before=before).returncode == 0
    assert not calls.exists()
