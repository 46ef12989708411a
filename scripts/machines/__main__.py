"""The commands of scripts/vm."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click

from machines import kernels, matrix, releases, roots, table
from machines.errors import MachineError
from machines.machine import Machine

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tcpwatch/vm"
_FEW = ("6.1", kernels.NEWEST)

_cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=_CACHE,
    help="Directory for kernels and trees.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Run commands and the kernel tests on real Debian kernels, in virtual machines without KVM.

    `debian` runs the other tests on other Debian releases, without a machine.
    """


@main.command()
@click.argument("targets", metavar="TARGET…", nargs=-1)
@click.option(
    "-j", "--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, help="Number of machines at a time."
)
@click.option("--write", is_flag=True, help="Rewrite the table in docs/requirements.md.")
@_cache_option
def test(targets: tuple[str, ...], jobs: int, write: bool, cache: Path) -> None:
    """Run the tests that hold on every kernel. TARGET is KERNEL or KERNEL/ROOT, or `all`.

    \b
    KERNEL  5.10, 6.1, 6.12, 6.18, newest     Debian's newest kernel of this series
    ROOT    trixie, sid                       release for bcc and Python; default: this host

    A kernel that is gone from the archive is reported, and fails only if no other is left. Kernels come from the
    Debian sources of this machine and stay in the --cache directory: remove it to get newer ones.
    """
    wanted = matrix.EVERY if targets == ("all",) else targets or _FEW
    logs = Path(tempfile.mkdtemp(prefix="tcpwatch-vm."))
    outcomes = matrix.run(wanted, cache, jobs=jobs, logs=logs)
    for outcome in outcomes:
        log = logs / f"{outcome.target.replace('/', '-')}.log"
        if outcome.failed and log.exists():
            print(f"--- {outcome.target}\n{log.read_text(encoding='utf-8', errors='replace')}", file=sys.stderr)
    if write:
        table.write(outcomes, matrix.TREE / "docs/requirements.md")
    if any(outcome.failed for outcome in outcomes):
        sys.exit(1)
    if not any(outcome.passed for outcome in outcomes):
        raise MachineError("no test ran on any kernel")


@main.command()
@click.argument("names", metavar="RELEASE…", nargs=-1, required=True)
@_cache_option
def debian(names: tuple[str, ...], cache: Path) -> None:
    """Run all tests but tests/kernel with the Python and the packages of each RELEASE.

    RELEASE is bullseye, bookworm, trixie or sid. Exits with 1 unless all ran and passed. Needs root, and Debian
    sources in /etc/apt.
    """
    if not releases.run(names, cache):
        sys.exit(1)


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("kernel")
@click.argument("command", nargs=-1, required=True, metavar="COMMAND…")
@click.option("--root", default=roots.HOST, help="Tree to run in: host, trixie or sid.")
@click.option("--cpus", type=click.IntRange(1), default=1)
@click.option("--memory", type=click.IntRange(256), default=2048, metavar="MIB")
@click.option("--timeout", type=click.FloatRange(1), default=600, metavar="SECONDS")
@_cache_option
def run(
    kernel: str, command: tuple[str, ...], root: str, cpus: int, memory: int, timeout: float, cache: Path
) -> None:
    """Run COMMAND as root on that kernel, in this directory, and exit with its status (124: out of time).

    It sees this host's files and cannot change them: its writes are lost when it ends.
    """
    tree = roots.get(root, cache)
    shares = [] if root == roots.HOST else [matrix.TREE]
    machine = Machine(kernels.get(kernel, cache), root=tree, shares=shares, cpus=cpus, memory_mib=memory)
    sys.exit(machine.run(command, timeout_s=timeout, directory=Path.cwd()))


if __name__ == "__main__":
    try:
        main(prog_name="scripts/vm")
    except MachineError as error:
        print(f"vm: {error}", file=sys.stderr)
        if error.hint:
            print(f"Hint: {error.hint}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
