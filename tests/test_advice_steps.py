"""The steps of every advice: few, short, in order, and with commands that a shell takes as they are printed."""

from __future__ import annotations

import itertools
import shlex
import subprocess

import pytest
from all_advice import all_advice, commands

from tracer.analysis.advice.commands import COMMANDS, ON_THE_PEER, on_host, split
from tracer.analysis.advice.steps import MAX_TEXT, Step

PIPES = ("| sudo tee -a /etc/sysctl.d/", "| sudo install -D -m 644 /dev/stdin /etc/tcpwatch/")


def test_at_most_one_line_of_each_step_comes_first_in_order() -> None:
    order = list(Step)
    for lines in all_advice():
        steps = [Step.of(line) for line in lines]
        first = list(itertools.takewhile(lambda step: step is not None, steps))
        assert first == [step for step in order if step in first], lines
        assert not any(steps[len(first) :]), lines


def test_a_step_is_short_and_its_command_is_at_its_end() -> None:
    for lines in all_advice():
        for line in lines:
            step = Step.of(line)
            if step is None:
                continue
            text, command = split(step.text_of(line))
            assert text or command
            assert len(text) <= MAX_TEXT, line
            assert step.text_of(line) == (f"{text}: {command}" if text and command else text or command)
            assert not command or command.startswith(COMMANDS)


def test_every_program_that_is_named_by_advice_is_found() -> None:
    """A line with a command that `split` does not know is printed as a sentence, and wrapped."""
    programs = {command.split()[0] + " " for command in commands()}
    assert programs <= set(COMMANDS)
    for lines in all_advice():
        for line in lines:
            assert not split(split(line)[0])[1], "one command a line"


def test_bash_takes_every_command() -> None:
    assert len(commands()) > 100
    for command in commands():
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_a_shell_sees_words_and_nothing_else() -> None:
    for command in commands():
        words = shlex.split(command)
        assert shlex.split(shlex.join(words)) == words
        plain = next((command.partition(pipe)[0] for pipe in PIPES if pipe in command), command)
        tokens = list(shlex.shlex(plain, posix=True, punctuation_chars=True))
        assert not [token for token in tokens if set(token) <= set("();<>|&")], command
        assert not set("$`\\!~{}*?") & set(plain.replace("'%s\\n'", "")), command


def test_root_is_asked_for_where_it_is_needed() -> None:
    for command in commands():
        words = shlex.split(command)
        if words[0] != "sudo":
            assert words[0] in ("nc", "ip", "ss", "echo", "printf", "redis-cli"), command
            assert "-K" not in words
        assert "nsenter" not in words or words[:2] == ["sudo", "nsenter"], command


@pytest.mark.parametrize(
    ("line", "text", "command"),
    [
        ("Check: nc -zvw5 ::1 3306", "Check", "nc -zvw5 ::1 3306"),
        ("nc -zvw5 ::1 3306", "", "nc -zvw5 ::1 3306"),
        ("Cure: in netns 7: sudo sysctl -w a=1", "Cure: in netns 7", "sudo sysctl -w a=1"),
        ("Cure: for psql: keepalives_idle=60", "Cure: for psql: keepalives_idle=60", ""),
        ("Release: on web1: sudo tcpwatch end", "Release: on web1", "sudo tcpwatch end"),
        ("an ip is not a command", "an ip is not a command", ""),
        ("", "", ""),
    ],
)
def test_a_line_is_text_and_command(line: str, text: str, command: str) -> None:
    assert split(line) == (text, command)


def test_a_command_is_for_a_host_unless_it_is_for_the_peer() -> None:
    assert on_host("Check: nc -zvw5 ::1 3306", "web1") == "Check: on web1: nc -zvw5 ::1 3306"
    assert on_host("Cure: it is on: sudo sysctl -w a=1", "web1") == "Cure: it is on, on web1: sudo sysctl -w a=1"
    assert on_host("nc -zvw5 ::1 3306", "web1") == "on web1: nc -zvw5 ::1 3306"
    for line in ("No command.", f"Check: {ON_THE_PEER}: ss -tno", "X is on. On the peer: sudo sysctl -w a=1"):
        assert on_host(line, "web1") == line
    for lines in all_advice():
        for line in lines:
            step = Step.of(line)
            assert Step.of(on_host(line, "web1")) is step
