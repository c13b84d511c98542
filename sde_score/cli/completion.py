"""`sde-score completion`."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from sde_score.cli.output import show_lines
from sde_score.cli.verbs import VERBS, load

_BASH = """_sde_score() {{
    local flags
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{verbs} --help --version" -- "${{COMP_WORDS[1]}}"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    if [[ "${{COMP_WORDS[COMP_CWORD]}}" == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    fi
}}
complete -o default -o bashdefault -F _sde_score sde-score"""

_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


@dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, flags and files, for the shell to read.

    It holds all names, so that completing starts no Python.

    For example:
        sde-score completion bash >> ~/.bashrc
        sde-score completion zsh >> ~/.zshrc
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]] = "bash"
    """Shell that will read the script."""

    def run(self) -> None:
        """Print the script."""
        cases = [f'        {verb}) flags="{" ".join(flags_of(load(verb)))}" ;;' for verb in VERBS]
        script = _BASH.format(verbs=" ".join(VERBS), cases="\n".join(cases))
        show_lines([(_ZSH if self.shell == "zsh" else "") + script])


def flags_of(verb: Any) -> list[str]:
    """The flags of a verb, with two dashes, as its help lists them."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        tyro.cli(verb, description="", args=["--help"])
    lines = re.findall(r"^[\s│|]*(--[a-z][a-z-]*(?:, --[a-z-]+)*)", said.getvalue(), flags=re.M)
    return sorted({flag for line in lines for flag in line.split(", ")})
