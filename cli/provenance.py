"""The command line that a person typed, for the record of a run."""

from __future__ import annotations

import shlex

import click
from click.core import ParameterSource


def command_line() -> str:
    """The running command with what was given on the command line, ready to be pasted into a shell."""
    context = click.get_current_context()
    words: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if context.get_parameter_source(parameter.name or "") is not ParameterSource.COMMANDLINE:
            continue
        values = list(value or ()) if parameter.multiple or parameter.nargs == -1 else [value]
        if isinstance(parameter, click.Argument):
            words += map(str, values)
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[-1])
        else:
            for one in values:
                words += [parameter.opts[-1], *map(str, one if isinstance(one, tuple) else [one])]
    return shlex.join(["drexcache", *context.command_path.split()[1:], *words])
