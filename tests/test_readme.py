"""The README says what is there: its commands exist, its tree is the tree, its links and pictures resolve; env.yml and constraints.txt agree."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from asapkit.__main__ import parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, flags=re.S)
TARGETS = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))


def same(name: str) -> str:
    """One spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name.lower())


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {same(name): version for name, _, version in (line.partition("==") for line in lines)}


OPTIONAL = {"weights"}  # extras that neither `make setup` nor env.yml installs


def direct(*, without: set[str] = frozenset()) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = [*project["dependencies"], *(line for name, lines in project["optional-dependencies"].items() if name not in without for line in lines)]
    return {same(re.split(r"[\[<>=~!; ]", line, maxsplit=1)[0]) for line in written} - {"asapkit"}


def test_every_make_command_of_the_readme_exists_and_the_other_way_round():
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README, flags=re.M))
    assert named == TARGETS - {"help"}


def test_makefile_can_be_read():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make demo" in shown
    assert "make test" in shown


COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("asapkit ")]


@pytest.mark.parametrize("line", [*COMMANDS, *re.findall(r"`(asapkit [a-z]+ [^`]*)`", README)])
def test_every_command_line_of_the_readme_is_accepted(line):
    parser().parse_args(shlex.split(line)[1:])


def test_the_readme_shows_every_command():
    shown = {line.split()[1] for line in COMMANDS}
    there = "phantom doctor label preprocess pretrain evaluate estimate parity look run gallery view demo"
    assert shown == set(there.split())


def tree() -> list[str]:
    """Paths named by the tree in the README."""
    (block,) = (b for b in BLOCKS if "\nasapkit/" in b)
    paths, folder = [], ""
    for line in block.splitlines():
        for name in re.findall(r"(?:^|\s{2,})([\w.]+(?:\.\w+|/)|NOTICE|LICENSE|Makefile)(?=\s|$)", line):
            inside = line.startswith("  ")
            folder = name if not inside and name == "asapkit/" else folder if inside else ""
            paths.append(folder + name if inside else name)
    return paths


def test_the_tree_names_what_is_there():
    missing = [path for path in tree() if not (ROOT / path).exists()]
    assert not missing, f"the README's tree names {', '.join(missing)}"


def test_what_is_there_is_in_the_tree():
    inside = {f"asapkit/{p.name}{'/' if p.is_dir() else ''}" for p in (ROOT / "asapkit").iterdir() if not p.name.startswith(("_", "."))}
    python = {p for p in inside if p.endswith((".py", "/"))}
    unnamed = sorted(python - set(tree()))
    assert not unnamed, f"the README's tree lacks {', '.join(unnamed)}"


def test_links_and_pictures_of_the_readme_resolve():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), f"README.md links to {target}"


def test_every_committed_figure_is_in_the_gallery_with_its_numbers():
    for picture in sorted((ROOT / "figures").glob("*.png")):
        assert f"figures/{picture.name}" in README, f"{picture.name} is not in the gallery"
        assert picture.with_suffix(".csv").exists(), f"{picture.name} has no numbers beside it"
        assert picture.stat().st_size <= 400_000, f"{picture.name} is over 400 kB"


def test_every_direct_dependency_is_pinned_and_says_what_it_is_for():
    assert direct() <= set(pins()), f"not pinned: {', '.join(sorted(direct() - set(pins())))}"
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("dependencies = [")[1].split("]")[0].strip().splitlines()
    assert all("#" in line for line in lines)


def test_pins_name_a_version_and_nothing_of_a_machine():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "+cpu" not in text
    assert " @ " not in text
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins().values())


def test_env_yml_holds_the_same_pins():
    (pip,) = (item["pip"] for item in yaml.safe_load((ROOT / "env.yml").read_text(encoding="utf-8"))["dependencies"] if isinstance(item, dict))
    listed = {same(name): version for name, _, version in (line.partition("==") for line in pip if "==" in line)}
    assert listed == {name: pins()[name] for name in direct(without=OPTIONAL)}
    assert "-c constraints.txt" in pip, "what is not listed is held by the same file"
    assert "-e .[dev]" in pip


def test_citation_and_version_agree():
    import asapkit

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == asapkit.__version__
    assert cited["license"] == "Apache-2.0"
