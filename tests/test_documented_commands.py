"""Commands that the documentation names exist, with the options and the choices that it gives them."""

import argparse
import io
import re
import runpy
import shlex
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path

import pytest

from faceattr.cli import _parser

ROOT = Path(__file__).parent.parent
TRAINING = ROOT / "training"
PAGES = [ROOT / "README.md", ROOT / "MODEL_CARD.md", TRAINING / "README.md", *sorted(ROOT.glob("docs/*.md"))]
OPTION = re.compile(r"(?<!\S)\[?(--[a-z][a-z0-9-]*)(?:[ =](\"[^\"]*\"|(?!\[?--)[^\s\]]+))?")
"""An option and, where there is one, the first word after it."""

pytestmark = pytest.mark.skipif(not TRAINING.is_dir(), reason="runs in the source folder")


class Parsed(Exception):
    """Carries the parser of a script that is about to read its arguments."""


@cache
def parser_of(script: Path) -> argparse.ArgumentParser:
    def stop(parser, *_):
        raise Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.syspath_prepend(str(script.parent))
        with pytest.raises(Parsed) as parsed:
            runpy.run_path(str(script), run_name="__main__")
    return parsed.value.args[0]


def options_of(script: Path) -> dict[str, argparse.Action]:
    return parser_of(script)._option_string_actions


def options_of_faceattr(words: list[str], parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Of the subcommand that the words begin with; of all of them where a word such as WHAT stands for any."""
    options = dict(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            named = [inner for name, inner in action.choices.items() if name == words[0]]
            assert named or words[0].isupper() or words[0] == "...", f"faceattr has no {words[0]}"
            for inner in named or action.choices.values():
                options |= options_of_faceattr(words[1:] or ["..."], inner)
    return options


def every_option() -> dict[str, argparse.Action]:
    scripts = [script for script in TRAINING.glob("*.py") if "parse_args" in script.read_text()]
    options = options_of_faceattr(["..."], _parser())
    for script in scripts:
        options |= options_of(script)
    return options


def joined(text: str) -> str:
    """With each command on one line."""
    return re.sub(r" *\\\n *", " ", text)


def commands(text: str) -> list[tuple[str, str]]:
    """(`faceattr` or a script, the words after it) of a page's indented blocks and of what stands between backticks;
    an option alone between backticks is a command without a name."""
    text = joined(text)
    inline = re.findall(r"`([^`]+)`", re.sub(r"^    .*", "", text, flags=re.MULTILINE))
    found = []
    for line in re.findall(r"^    .*", text, re.MULTILINE) + inline:
        line = re.sub(r"\bpip install .*", "", line.replace("\n", " "))
        if line.startswith("--"):
            found.append(("", line))
        # A line may hold several: what follows one ends where the next begins.
        parts = re.split(r"(?<![\w/.-])(faceattr(?= [a-z])|[\w/]+\.py)(?![\w.])", line)
        found += zip(parts[1::2], parts[2::2], strict=True)
    return found


def faults(name: str, words: str) -> list[str]:
    """What is wrong with a command."""
    given = OPTION.findall(words)
    if name == "faceattr":
        known = options_of_faceattr(words.split(), _parser())
    elif not name:
        known = every_option()
    else:
        scripts = [folder / name for folder in (ROOT, TRAINING) if (folder / name).exists()]
        if not scripts:
            return [] if any(ROOT.glob(f"*/**/{name}")) else [f"{name}: no such script"]
        known = options_of(scripts[0]) if given else {}
    wrong = [f"{name}: no option {option}" for option, _ in given if option not in known]
    for option, value in given:
        choices = known[option].choices if option in known else None
        if name and choices and value and not value.isupper() and value != "...":
            for choice in [value.strip('"')] if value[0] == '"' else value.split("|"):
                if choice not in map(str, choices):
                    wrong.append(f"{name}: {option} has no choice {choice!r}")
    return wrong


def refused(name: str, words: str) -> list[str]:
    """Why a command cannot be typed as it stands, but for what ... at its beginning leaves out. Nothing of one with
    brackets, alternatives or the shell's variables."""
    words = re.sub(r"  # .*| > \S+$", "", words)
    if re.search(r"[][|$]|\bWHAT\b", words):
        return []
    partly, words = words.startswith(" ... "), words.removeprefix(" ... ")
    parser = _parser() if name == "faceattr" else parser_of(ROOT / name)
    try:
        # A word in capitals stands for what one has there: a name or a number.
        stand_in = ["1" if re.fullmatch(r"[A-Z][A-Z0-9]*|\.\.\.", word) else word for word in shlex.split(words)]
        with redirect_stderr(io.StringIO()) as printed:
            parser.parse_args(stand_in)
    except SystemExit:
        complaint = printed.getvalue().splitlines()[-1]
        return [] if partly and "arguments are required" in complaint else [complaint]
    return []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page):
    found = commands(page.read_text())
    wrong = [f"{fault}, in: {name}{words}" for name, words in found for fault in faults(name, words)]
    lines = re.findall(r"^    (?:python )?(faceattr(?= [a-z])|training/\w+\.py)(.*)", joined(page.read_text()), re.M)
    wrong += [f"{fault}, in: {name}{words}" for name, words in lines for fault in refused(name, words)]
    assert not wrong, "\n".join(wrong)


def test_faults_are_found():
    page = """
    python training/ablate.py --varieties \\
        x --variants "paper width" "no such variant"

By `faceattr evaluate lfwa --learn --crop up|detect`, `gone.py`, `finetune_anet.py --config none`, `--nowhere` or
`faceattr explain
regions --top 3`; right is `faceattr explain WHAT --top 3`.
"""
    assert [fault for command in commands(page) for fault in faults(*command)] == [
        "training/ablate.py: no option --varieties",
        "faceattr: --crop has no choice 'up'",
        "gone.py: no such script",
        "finetune_anet.py: --config has no choice 'none'",
        ": no option --nowhere",
        "faceattr: no option --top",
    ]
    assert refused("training/photos_csv.py", " CELEBA > photos.csv") == []
    assert refused("training/finetune_lnet.py", " ... --steps 5") == []
    swallowed = "finetune_lnet.py: error: argument --picture-sizes: invalid int value: 'runs/small'"
    assert refused("training/finetune_lnet.py", " ... --picture-sizes 33 41 runs/small") == [swallowed]
