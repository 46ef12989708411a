"""`tcpwatch completion`: the scripts with which a shell completes command lines of tcpwatch.

click answers the shell: the script runs tcpwatch with the variable _TCPWATCH_COMPLETE.
"""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, add_completion_class, get_completion_class

VARIABLE = "_TCPWATCH_COMPLETE"
"""The variable that click derives from the name of the program."""
SHELLS = ("bash", "zsh", "fish")
_ZSH_ENDING = """
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _tcpwatch_completion "$@"
else
    compdef _tcpwatch_completion tcpwatch
fi
"""
"""The script is either a file of zsh's fpath, which is read at the first completion, or read by `source`."""


@add_completion_class
class Bash(BashComplete):
    """Completion in bash, which splits `--format=json` at the equals sign (COMP_WORDBREAKS)."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and that word."""
        words, incomplete = super().get_completion_args()
        return [word for word in words if word != "="], "" if incomplete == "=" else incomplete


@click.command()
@click.argument("shell", type=click.Choice(SHELLS, case_sensitive=False))
def completion(shell: str) -> None:
    """Print the script for completion in a shell.

    It completes commands, options, kinds of event and files. scripts/install installs these scripts.

    \b
    Examples:
      source <(tcpwatch completion bash)      add it to ~/.bashrc
      source <(tcpwatch completion zsh)       add it to ~/.zshrc, after compinit
      tcpwatch completion fish | source       add it to ~/.config/fish/config.fish
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """The script for one of SHELLS."""
    kind = get_completion_class(shell)
    assert kind is not None
    # `source()` of click would run bash, to ask for its version.
    text = kind.source_template % {
        "complete_func": "_tcpwatch_completion",
        "complete_var": VARIABLE,
        "prog_name": "tcpwatch",
    }
    if shell == "zsh":  # of click 8.1.3 and older: nothing at the first completion
        text = text.partition("\nif [[ $zsh_eval_context")[0].partition("\ncompdef ")[0] + _ZSH_ENDING
    if shell == "fish":  # a list of events has commas of its own
        text = text.replace('string split ","', 'string split --max 1 ","')
    return text
