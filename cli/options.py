"""``vintix-fast options``: every command's options as Markdown, which is docs/options.md.

Reads the commands as they are, so that the page is true.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from vintix_fast.options import GIVEN, Entry

HEAD = """# Options

`vintix-fast COMMAND --help` says the same. An option may be spelt `--like-this` or `--like_this`. An option that would
have no effect beside the others is refused. This page is made by `vintix-fast options > docs/options.md`.
"""


def options(context: typer.Context) -> None:
    """Print every command's options as Markdown."""
    sys.stdout.write(page(context.find_root().command))


def page(group: Any) -> str:
    """The whole page, of all commands that have options and are not hidden."""
    parts = [HEAD]
    for name, command in group.commands.items():
        if not command.hidden:
            parts.append(f"\n## {name}\n\n{command.help.splitlines()[0]}\n\n{table(command)}")
    return "".join(parts)


def table(command: Any) -> str:
    """A command's options, one a row."""
    known: dict[str, Entry] = getattr(command.callback, "entries", {})
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.param_type_name != "option" or parameter.name == "help":
            continue
        words = [parameter.help]
        if entry := known.get(parameter.name):
            words += _said_of(entry, known)
        meaning = "; ".join(words).replace("\\[", "[").replace("|", "\\|").replace("<", "\\<")
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts) if name)
        lines.append(f"| {names} | {_default(parameter)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default.replace("<", "\\<")
    if parameter.is_flag:
        return ("yes" if parameter.default else "no") if parameter.secondary_opts and parameter.show_default else ""
    return "" if parameter.default is None else f"`{parameter.default}`"


def _said_of(entry: Entry, known: dict[str, Entry]) -> list[str]:
    """What is checked of an option, in words."""
    made, said = entry.option, []
    if made.words and not all(word in made.help for word in made.words):
        said.append(" or ".join(made.words))
    least = ("more than", 0.0) if made.least and 0 < made.least < 1e-3 else ("at least", made.least)
    limits = (least, ("at most", made.most), ("less than", made.below))
    bounds = [f"{word} {limit:g}" for word, limit in limits if limit is not None and abs(limit) < 1e6]
    if bounds:
        said.append(" and ".join(bounds))
    for other, allowed in made.only_with.items():
        if (needed := known.get(other)) is None:  # which this command lacks
            continue
        if allowed is GIVEN and needed.default is True and needed.option.flag:  # which only turns it off
            said.append(f"not with `{needed.option.flag}`")
        elif allowed is GIVEN:
            said.append(f"only with `{needed.spelt(True) if needed.kind is bool else needed.spelt()}`")
        elif allowed == (None,):
            said.append(f"not with `{needed.spelt()}`")
        else:
            said.append("only with " + " or ".join(f"`{needed.spelt(value)}`" for value in allowed))
    return said
