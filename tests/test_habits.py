"""What users of ss, tcpdump and strace type, and what is mistyped, is taken or answered with the line to type."""

from __future__ import annotations

import os
import random
import shlex
from pathlib import Path

import pytest
from recording_files import write
from running import tcpwatch

from tracer.cli.habits import suggestion
from tracer.cli.main import cli

SUDO = "" if os.geteuid() == 0 else "sudo "


def hint(line: str) -> str:
    shown = tcpwatch(*shlex.split(line))
    assert (shown.returncode, shown.stdout) == (2, "")
    return shown.stderr.splitlines()[1].removeprefix("Hint: ")


ANSWERED = {
    # tcpdump
    "port 3306": "tcpwatch --port 3306",
    "host 10.1.2.3": "tcpwatch --host 10.1.2.3",
    "host db.example.com": "tcpwatch --host db.example.com",
    "tcp port 3306": "tcpwatch --port 3306",
    "'tcp port 3306'": "tcpwatch --port 3306",
    "--json tcp port 3306 and host 10.1.2.3": "tcpwatch --json --port 3306 --host 10.1.2.3",
    "-nni any port 3306": "tcpwatch --port 3306",
    "-n -i any -s 0 -A port 3306 --duration 10m": "tcpwatch --duration 10m --port 3306",
    "port 80 or port 443": "tcpwatch --port 80,443",
    "portrange 3306-3310": "tcpwatch --port 3306-3310",
    "src host 10.0.0.1 and dst port 80": "tcpwatch --host 10.0.0.1 --port 80",
    "src or dst port 53": "tcpwatch --port 53",
    "net 10.0.0.0/8": "tcpwatch --host 10.0.0.0/8",
    "ip6 and port 80": "tcpwatch -6 --port 80",
    "-c 100 port 3306": "tcpwatch --port 3306 | head -n 100",
    "-w x.tw -G 3600 -C 10 -W 5": "tcpwatch record -o x.tw --rotate-every 3600s --rotate-size 10M --keep 5",
    "-o x.tw port 80": "tcpwatch record -o x.tw --port 80",
    "record -w x.tw --port 3306": "tcpwatch record -o x.tw --port 3306",
    "record x.tw": "tcpwatch record -o x.tw",
    "record -p 80": "tcpwatch record -o now.tw -p 80",
    "record -o x.tw port 80": "tcpwatch record -o x.tw --port 80",
    # ss
    "ss": "tcpwatch sockets",
    "sockets -tinop": "tcpwatch sockets",
    "sockets -tnp dport = :3306": "tcpwatch sockets --rport 3306",
    "sockets state established '( dport = :3306 or sport = :3306 )'": "tcpwatch sockets --port 3306",
    "sockets dst 10.1.2.3:3306": "tcpwatch sockets --host 10.1.2.3 --rport 3306",
    "sockets -tn -p 3306": "tcpwatch sockets -p 3306",
    # strace
    "-f -p 17369": "tcpwatch --pid 17369",
    "-fp 17369": "tcpwatch --pid 17369",
    "-P 17369": "tcpwatch --pid 17369",
    "strace -p 17369": "tcpwatch --pid 17369",
    "tcpdump -i any port 3306": "tcpwatch --port 3306",
    # other words for commands, and slips of the finger
    "list": "tcpwatch sockets",
    "watch": "tcpwatch",
    "recrod -o x.tw": "tcpwatch record -o x.tw",
    "--prot 3306": "tcpwatch --port 3306",
    "--min-idel=10m": "tcpwatch --min-idle 10m",
    "--port 3306 record -o x.tw": "tcpwatch record --port 3306 -o x.tw",
    "10.1.2.3": "tcpwatch --host 10.1.2.3",
    "10.1.2.3:3306": "tcpwatch --host 10.1.2.3 --port 3306",
    "3306": f"tcpwatch --port 3306, or {SUDO}tcpwatch --pid 3306",
    "10.1.2.3 3306": "tcpwatch --host 10.1.2.3 --port 3306",
    "probe 10.1.2.3 3306": "tcpwatch probe --host 10.1.2.3 --port 3306",
    "sockets dst 10.1.2.3 3306": "tcpwatch sockets --host 10.1.2.3 --rport 3306",
    "sockets 3306": f"tcpwatch sockets --port 3306, or {SUDO}tcpwatch sockets --pid 3306",
    "end 3306": f"tcpwatch end --port 3306, or {SUDO}tcpwatch end --pid 3306",
    "--port 3306 3307": "tcpwatch --port 3306,3307",
    "--port 3306 3307 3308 --json": "tcpwatch --port 3306,3307,3308 --json",
    "--pid 1 2": "tcpwatch --pid 1,2",
    "--min-idle 10 m": "tcpwatch --min-idle 10m",
    "--duration 10 min --port 3306": "tcpwatch --duration 10min --port 3306",
    "--DURATION 10m": "tcpwatch --duration 10m",
    "--stuck sockets": "tcpwatch sockets --stuck",
    "--idle 4m protect --rport 3306": "tcpwatch protect --idle 4m --rport 3306",
    "protect": "tcpwatch protect --rport 3306 --idle 4m",
    "protect --rport 3306": "tcpwatch protect --rport 3306 --idle 4m",
    "protect port 3306": "tcpwatch protect --idle 4m --port 3306",
    "end -y --rport 3306": "tcpwatch end --yes --rport 3306",
    "-i eth0 port 80": "tcpwatch --port 80 (for fewer connections: --host or --netns)",
    "-i lo": "tcpwatch --host 127.0.0.0/8,::1",
}
ANSWERED_FOR_ALL = {
    "-r now.tw": "tcpwatch replay now.tw",
    "-nr now.tw tcp port 3306": "tcpwatch replay now.tw --port 3306",
    "now.tw": "tcpwatch replay now.tw",
    "'/var/log/a b.tw.gz'": "tcpwatch replay '/var/log/a b.tw.gz'",
    "report now.tw --jsno": "tcpwatch report now.tw --json",
    "replay now.tw tcp port 3306": "tcpwatch replay now.tw --port 3306",
    "report now.tw port 3306 --json": "tcpwatch report now.tw --json --port 3306",
    "report now.tw -r other.tw": "tcpwatch report now.tw other.tw",
    "version": "tcpwatch --version",
    "help recrod": "tcpwatch help record",
    "-w -": "tcpwatch record -o -",
    "report now.tw -o now.html": "tcpwatch report now.tw --html now.html",
    "--since -10m report now.tw": "tcpwatch report now.tw --since -10m",
    "completion": "tcpwatch completion bash",
    # options of other commands
    "--since yesterday": "--since is an option of replay, report; see tcpwatch --help",
    "report now.tw --stuck": "--stuck is an option of sockets, end; see tcpwatch report --help",
    "sockets -w x.tw": "-w is an option of tcpwatch without a command; see tcpwatch sockets --help",
    "protect --rport 3306 --idle 4m --yes": "--yes is an option of end; see tcpwatch protect --help",
    # options without their value, or with one too many
    "sockets --at-risk": "tcpwatch sockets --help",
    "sockets --stuck=true": "tcpwatch sockets --help",
    "--port": "tcpwatch --help",
    # not to be guessed
    "--nonsense": "tcpwatch --help",
    "nonsense": "tcpwatch --help",
    "not port 22": "tcpwatch --help",
    "port 80 or host 10.1.2.3": "tcpwatch --help",
    "port 80 and port 81": "tcpwatch --help",
    "udp port 53": "tcpwatch --help",
    "port": "tcpwatch --port 3306",
    "record --nonsense": "tcpwatch record --help",
    "record -o x.tw --keep 0": "tcpwatch record --help",
    "replay": "tcpwatch replay --help",
    "--json --format text": "--format text",
}


@pytest.mark.parametrize("typed", ANSWERED)
def test_what_is_typed_elsewhere_is_answered_with_the_line_to_type(typed: str) -> None:
    assert hint(typed) == SUDO + ANSWERED[typed]


@pytest.mark.parametrize("typed", ANSWERED_FOR_ALL)
def test_the_line_has_no_sudo_where_root_is_not_needed(typed: str) -> None:
    assert hint(typed) == ANSWERED_FOR_ALL[typed]


@pytest.mark.parametrize("line", [*ANSWERED.values(), *ANSWERED_FOR_ALL.values()])
def test_the_line_to_type_is_accepted(line: str) -> None:
    """click parses it without an error, so that one mistake is not answered with another."""
    words = shlex.split(line.partition(" | ")[0].partition(" (")[0].partition(", or")[0].rpartition("; see ")[2])
    if words[0] != "tcpwatch" or "--help" in words or "db.example.com" in words or "--version" in words:
        return
    name, *rest = words[1:] if words[1:] and words[1] in cli.commands else ["", *words[1:]]
    command = cli.commands[name] if name else cli
    command.make_context("tcpwatch", rest)


def test_the_choices_of_an_argument_are_one_line() -> None:
    complaint, _ = tcpwatch("completion").stderr.splitlines()
    assert complaint == "tcpwatch: Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish"


@pytest.mark.parametrize("arguments", [["-V"], ["--version"]])
def test_version(arguments: list[str]) -> None:
    shown = tcpwatch(*arguments)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "tcpwatch, version 0.1.0\n", "")


@pytest.mark.parametrize("name", ["", "record", "report", "help", "completion"])
def test_help_of_a_command(name: str) -> None:
    shown = tcpwatch("help", *filter(None, [name]))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == tcpwatch(*filter(None, [name]), "--help").stdout


def test_options_of_tcpdump_that_change_nothing_are_taken(tmp_path: Path) -> None:
    write(tmp_path / "x.tw")
    plain = tcpwatch("replay", tmp_path / "x.tw")
    for arguments in (["-n"], ["-nn"], ["-i", "any"], ["-nni", "any"], ["--format", "TEXT"]):
        shown = tcpwatch("replay", *arguments, tmp_path / "x.tw")
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, plain.stdout, "")


def test_no_words_raise_an_error_of_python() -> None:
    """Any mixture of words, by chance but always the same."""
    chance = random.Random(7)
    words = [
        "port", "host", "src", "dst", "or", "and", "not", "(", ")", "=", "3306", ":3306", "10.1.2.3", "x.tw", "/", "",
        "-", "--", "-p", "-e", "-i", "-nn", "-w", "-r", "-c", "-o", "-tinop", "-fp", "--port", "--port=", "--json",
        "-4", "record", "replay", "sockets", "help", "state", "sport", "strace", "x" * 999, "\udcff", "-ü",
    ]  # fmt: skip
    for _ in range(20000):
        line = suggestion(cli, [chance.choice(words) for _ in range(chance.randrange(6))])
        assert line is None or "tcpwatch" in line
