"""Commands of `sde-score` on the pages: each parses, on a line of its own or in a sentence."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

from sde_score import guidance, likelihood, posterior, samplers
from sde_score.cli.parsing import parse
from sde_score.cli.verbs import VERBS, listed, load
from sde_score.models import ScoreFunction
from sde_score.training import TrainConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```|(?:^ {4,}.*\n)+", flags=re.S | re.M)
COMMAND = re.compile(r"^ *(?:(?:srun|torchrun) .*?)?\bsde[-_]score (?=[a-z-])(.*)$", flags=re.M)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
MENTION = re.compile(r"[a-z-]+(?: --[a-z-]+)?")  # a command, or one of its flags, by name alone
# Flags of other programs, and of the scripts in benchmarks/.
OTHERS = {"nnodes", "max_restarts", "nproc", "nproc_per_node"}
OTHERS |= {"table", "only", "count", "teacher", "profile"}
CLASSES = ScoreFunction(lambda x, t, condition: -x, "vp")  # told the class
VALUES = {  # what flags hold text for: argparse knows nothing of it
    "sampler": samplers.create,
    "samplers": samplers.create,
    "by": likelihood.create,
    "guidance": lambda text: guidance.guide(CLASSES, text, opened=lambda name: CLASSES),
    "operator": lambda text: posterior.operator_of(text, (1, 8, 8)),
}


def commands():
    """Words after `sde-score` of each command, and after a verb or none of each part of one."""
    whole, parts = set(), set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if block[1] not in ("python", "text"):
                found = COMMAND.findall((block[2] or block[0]).replace("\\\n", " "))
                whole.update((page.name, line) for line in found)
        for code in INLINE.findall(BLOCK.sub("", text)):
            line = " ".join(code.split())
            if line.startswith("sde-score "):
                whole.add((page.name, line.removeprefix("sde-score ")))
            elif re.match("--[a-z]", line) or line.partition(" --")[0] in VERBS:
                parts.add((page.name, line))
    return sorted(whole), sorted(parts)


def flags(kind):
    """Names of the fields of a command and of the configuration in it."""
    names = {field.name for field in dataclasses.fields(kind)}
    more = {field.name for field in dataclasses.fields(TrainConfig)} if "config" in names else set()
    return names | more | {"import", "help"}


def mistakes(words, known):
    """Flags that are not known, and texts that their registries refuse."""
    flag = None
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flag = name.removeprefix("no-").replace("-", "_")
            if flag not in known:
                yield word
            word = value
        if flag in VALUES and word and not (word.isupper() or word.startswith("my-")):
            try:
                VALUES[flag](word)
            except (TypeError, ValueError) as error:
                yield str(error)


def parsed(words):
    """Why the words are no command, or None."""
    if MENTION.fullmatch(" ".join(words)) or "--help" in words:
        listed(words[0])
        return None
    while "--import" in words:  # the module of the page's own
        del words[(at := words.index("--import")) : at + 2]
    try:
        parse(words)
    except SystemExit:
        return "does not parse"
    return None


def test_every_command_parses():
    """Verbs, flags and values, and the names of samplers and the like in them."""
    whole, parts = commands()
    found = []
    for page, line in whole:
        words = shlex.split(line, comments=True)
        wrong = parsed(list(words)) or [*mistakes(words, flags(load(listed(words[0]))))]
        found += [(page, line, wrong)] if wrong else []
    everywhere = set().union(*(flags(load(verb)) for verb in VERBS)) | OTHERS
    for page, line in parts:
        verb, *rest = shlex.split(line)
        known = everywhere if verb.startswith("--") else flags(load(verb))
        wrong = [*mistakes([verb, *rest], known)]
        found += [(page, line, wrong)] if wrong else []
    assert found == []
    assert len(whole) > 100, len(whole)
