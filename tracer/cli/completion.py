"""`tcpwatch completion`: the scripts with which a shell completes command lines of tcpwatch.

click answers the shell: the script runs tcpwatch with the variable _TCPWATCH_COMPLETE.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

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


@click.command()
@click.argument("shell", type=click.Choice(SHELLS, case_sensitive=False))
@click.pass_context
def completion(context: click.Context, /, shell: str) -> None:
    """Print the script that completes commands, options and events in a shell.

    scripts/install installs these scripts.

    \b
    Examples:
      source <(tcpwatch completion bash)      add it to ~/.bashrc
      source <(tcpwatch completion zsh)       add it to ~/.zshrc, after compinit
      tcpwatch completion fish | source       add it to ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "tcpwatch", VARIABLE).source_template % {
        "complete_func": "_tcpwatch_completion",
        "complete_var": VARIABLE,
        "prog_name": "tcpwatch",
    }
    if shell == "zsh":  # click 8.1.3 and earlier: nothing at the first completion
        script = script.partition("\nif [[ $zsh_eval_context")[0].partition("\ncompdef ")[0] + _ZSH_ENDING
    click.echo(script)
