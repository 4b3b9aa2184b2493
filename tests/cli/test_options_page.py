"""docs/options.md is what the commands say of themselves, and the only list of options."""

from pathlib import Path

import typer
from commands import invoke

from vintix_fast.cli import app
from vintix_fast.config import AdaptConfig
from vintix_fast.options import entries

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_page_is_what_the_commands_say():
    result = invoke("options")
    assert result.exit_code == 0
    assert PAGE.read_text() == result.stdout, "vintix-fast options > docs/options.md makes it anew"


def test_every_option_of_a_run_has_a_row_and_a_parameter():
    section = PAGE.read_text().split("\n## adapt\n")[1].split("\n## ")[0]
    parameters = {p.name: p for p in typer.main.get_command(app).commands["adapt"].params}
    for name, entry in entries(AdaptConfig).items():
        on_the_command_line = entry.option.panel is not None
        assert (name in parameters) == (f"`--{name.replace('_', '-')}`" in section) == on_the_command_line
        if on_the_command_line:
            assert entry.option.help and parameters[name].rich_help_panel == entry.option.panel


def test_the_command_is_not_listed():
    assert "options.md" not in invoke("--help").stdout and "Markdown" not in invoke("--help").stdout
