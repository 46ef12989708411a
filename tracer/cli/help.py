"""`tcpwatch help`: the help of a command."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from tracer.cli.habits import nearest
from tracer.model.errors import UsageError


class _CommandName(click.ParamType):
    """The name of a command."""

    name = "command"

    def shell_complete(self, context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so."""
        return [CompletionItem(name) for name in _commands(context) if name.startswith(incomplete)]


@click.command("help")
@click.argument("command", required=False, type=_CommandName())
@click.pass_context
def help_command(context: click.Context, /, command: str | None) -> None:
    """Show the help of a COMMAND, or of tcpwatch."""
    parent = context.find_root()
    if command is None:
        click.echo(parent.get_help())
        return
    wanted = _commands(context).get(command)
    if wanted is None:
        similar = nearest(command.lower(), list(_commands(context)))
        raise UsageError(
            f"there is no command {command!r}", hint=f"tcpwatch help {similar}" if similar else "tcpwatch help"
        )
    click.echo(wanted.get_help(click.Context(wanted, parent=parent, info_name=command)))


def _commands(context: click.Context) -> dict[str, click.Command]:
    group = context.find_root().command
    return group.commands if isinstance(group, click.Group) else {}
