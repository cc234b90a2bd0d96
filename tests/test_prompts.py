"""Versioned prompt sets: those that are packaged are whole, one of your own is read, and what is none is named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from asapkit import prompts
from asapkit.types import FINDINGS, Refused

SET = {"source": "mine", "positive": ["{} seen."], "negative": ["No {}."]}


@pytest.mark.parametrize("name", prompts.known())
def test_every_packaged_set_is_whole_versioned_and_says_where_it_comes_from(name):
    said = prompts.statements(name)
    assert said.name == name and name.rpartition("-v")[2].isdigit()
    assert len(said.source) > 20
    for finding in FINDINGS:
        yes, no = said.of(finding)
        assert all(finding in text and "{" not in text for text in yes)
        assert not set(yes) & set(no)


def test_the_wordings_are_those_of_the_methods():
    assert prompts.statements("ct-clip-v1").of("Emphysema") == (("Emphysema is present.",), ("Emphysema is not present.",))
    assert prompts.statements("mps-ct-v1").of("Emphysema") == (("Emphysema.",), ("",))
    assert prompts.statements("hlip-v1").of("Emphysema") == (("The volume shows: Emphysema.",), ("The volume shows: Not Emphysema.",))
    assert prompts.statements("fvlm-v1").without == ("Medical material", "Lymphadenopathy")


def test_an_unknown_set_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="unknown prompt set 'ct-clip'; there are .*ct-clip-v1.*hlip-v1"):
        prompts.statements("ct-clip")
    with pytest.raises(ValueError, match="unknown prompt set 'x'; there are mps-ct-v1"):
        prompts.instructions("x")
    with pytest.raises(ValueError, match="unknown"):
        prompts.statements("../labels/mps-ct-v1")


def test_a_file_of_your_own_is_a_set(tmp_path):
    (tmp_path / "mine-v2.json").write_text(json.dumps(SET))
    said = prompts.statements(str(tmp_path / "mine-v2.json"))
    assert said.name == "mine-v2" and said.of("Emphysema") == (("Emphysema seen.",), ("No Emphysema.",))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positive": []}, "'positive'"), ({"negative": "No {}."}, "'negative'"), ({"positive": ["seen"]}, "no {}"),
        ({"negative": [1]}, "'negative'"), ({"without": ["Fracture"]}, "Fracture"), ({"without": 5}, "list of findings"),
        ({"source": None}, "source"),
    ],
)  # fmt: skip
def test_what_is_no_set_is_named(tmp_path, wrong, message):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(SET | wrong))
    with pytest.raises(Refused, match=message):
        prompts.statements(str(file))
    file.write_text("{")
    with pytest.raises(Refused, match="is no JSON"):
        prompts.statements(str(file))
    with pytest.raises(Refused, match="no such file"):
        prompts.statements(str(tmp_path / "absent.json"))


def test_a_report_that_holds_braces_stays_what_it_is():
    system, user = prompts.instructions("mps-ct-v1").messages("{impression} {names}", "{findings}", form="line")
    assert user["content"] == "Findings:\n{impression} {names}\n\nImpression:\n{findings}"
    assert all(name in system["content"] for name in FINDINGS)


def test_sets_are_packaged(tmp_path, root):
    """What setuptools would put into a wheel: the files are data of the package."""
    code = (
        "from setuptools.config.pyprojecttoml import read_configuration as r; import fnmatch; "
        "print(*r('pyproject.toml')['tool']['setuptools']['package-data']['asapkit'])"
    )
    shown = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    assert "**/*.json" in shown and all(p.suffix == ".json" for p in (root / "asapkit" / "prompts").glob("[a-z]*/*"))
