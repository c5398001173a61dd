"""The files around the package: workflows, templates, version, documentation."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import tfstyle
from tests.process import ROOT, python

SCHEMAS = {
    "vendor.citation-file-format": "CITATION.cff",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-workflows": ".github/workflows/*.yml",
}


def test_files_fit_their_schemas():
    for schema, pattern in SCHEMAS.items():
        files = sorted(ROOT.glob(pattern))
        assert files
        python("-m", "check_jsonschema", "--builtin-schema", schema, *files)


def test_the_version_is_in_one_place_and_in_the_changelog():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'attr = "tfstyle.__version__"' in project
    released = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert tfstyle.__version__ == next(name for name in released if name != "Unreleased")


@pytest.mark.slow
@pytest.mark.integration
def test_documentation_builds_strictly(tmp_path, monkeypatch):
    pytest.importorskip("mkdocs", reason="needs tfstyle[docs]")
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    python("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path, cwd=ROOT)
    index = _headings(tmp_path / "api" / "index.html")
    modules = [name for name in tfstyle.__all__ if isinstance(getattr(tfstyle, name), ModuleType)]
    assert {*tfstyle.__all__} - {*modules} <= index
    for name in modules:
        page = tmp_path / "api" / name / "index.html"
        assert {*getattr(getattr(tfstyle, name), "__all__", ())} <= _headings(page)


def _headings(page: Path) -> set[str]:
    """The words in the headings of a page."""
    found = re.findall(r"<h[2-6][^>]*>(.*?)</h[2-6]>", page.read_text(encoding="utf-8"), re.S)
    return {*re.findall(r"\w+", re.sub(r"<[^>]+>", " ", " ".join(found)))}
