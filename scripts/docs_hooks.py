"""What MkDocs cannot do by its settings: pages from outside docs/, and the API reference.

A text stands in one place. The README files of ``serving/`` and others are pages of the site
without being copied, and links between files of the repository lead to pages where there are any.
The API reference has one page for each public module, with the names in its ``__all__``, wherever
they are defined.
"""

from __future__ import annotations

import importlib
import inspect
import os
import posixpath
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

#: Files of the repository that are pages, by the page's name.
OUTSIDE = {
    "serving.md": "serving/README.md",
    "kubernetes.md": "training/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "study-scripts.md": "studies/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "conduct.md": "CODE_OF_CONDUCT.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "models/index.md": "tfstyle/presets/README.md",
    **{
        f"models/{path.parent.name}.md": path.relative_to(ROOT).as_posix()
        for path in sorted(ROOT.glob("tfstyle/presets/*/README.md"))
    },
}
_PAGES = {source: page for page, source in OUTSIDE.items()}
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


class Roles(griffe.Extension):
    """Docstrings as Griffe reads them: Sphinx's roles become code, ``Example:`` a section."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
            text = re.sub(r"``([^`]+)``", r"`\1`", text)
            # Griffe's name of the section
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)


def on_config(config: Any) -> Any:
    """Fills the parts of the navigation that follow from the code."""
    for part in config["nav"]:
        if "API" in part:
            part["API"] = ["api/index.md", *(f"api/{name}.md" for name in _modules())]
        if "Results" in part:  # and what studies to come will write
            found = sorted(f"results/{path.name}" for path in ROOT.glob("docs/results/*.md"))
            part["Results"] += [page for page in found if page not in part["Results"]]
        if "Models" in part:
            part["Models"] = [page for page in OUTSIDE if page.startswith("models/")]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for page, source in OUTSIDE.items():
        path = ROOT / source
        files.append(File.generated(config, page, abs_src_path=str(path)))
        for picture in re.findall(r"!\[[^\]]*\]\((?!\w+:)([^)]+)\)", path.read_text("utf-8")):
            uri = posixpath.normpath(posixpath.join(posixpath.dirname(page), picture))
            files.append(File.generated(config, uri, abs_src_path=str(path.parent / picture)))
    for name, module in _modules().items():
        files.append(File.generated(config, f"api/{name}.md", content=_reference(module)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links between files of the repository become links between pages."""
    here = page.file.src_uri
    if here == "api/index.md":
        markdown += _index()
    source = OUTSIDE.get(here, f"docs/{here}")

    def link(found: re.Match) -> str:
        text, path, anchor = found[1], found[2], found[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = target[len("docs/") :] if target.startswith("docs/") else _PAGES.get(target)
        if inside is None and f"{target}/README.md" in _PAGES:
            inside = _PAGES[f"{target}/README.md"]
        if inside is not None and files.get_file_from_path(inside):
            return f"[{text}]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{anchor})"
        if (ROOT / target).exists() and not target.startswith("docs/"):
            # a file that is not a page: where the code is hosted, if that is known
            repo = config["repo_url"]
            return f"[{text}]({repo.rstrip('/')}/blob/main/{target}{anchor})" if repo else text
        return found[0]

    return _LINK.sub(link, markdown)


def _modules() -> dict[str, ModuleType]:
    """The public modules of tfstyle, by name."""
    tfstyle = importlib.import_module("tfstyle")
    found = {name: getattr(tfstyle, name, None) for name in tfstyle.__all__}
    return {name: found[name] for name in sorted(found) if isinstance(found[name], ModuleType)}


def _names(module: ModuleType) -> list[str]:
    """The public names of a module: its ``__all__``, else what is defined there."""
    own = [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    ]
    return list(getattr(module, "__all__", sorted(own)))


def _index() -> str:
    tfstyle = importlib.import_module("tfstyle")
    modules = _modules()
    names = [name for name in tfstyle.__all__ if name not in modules and not name.startswith("_")]
    rows = [
        f"| [`tfstyle.{name}`]({name}.md) | {(module.__doc__ or '').strip().splitlines()[0]} |"
        for name, module in modules.items()
    ]
    table = "\n".join(["| module | what is in it |", "| --- | --- |", *rows])
    home = {name: module for module in modules for name in _names(modules[module])}
    text = "\n\n".join(
        f"## {name}\n\nSee [tfstyle.{home[name]}]({home[name]}.md)."
        if name in home
        else _entry("tfstyle", name)
        for name in names
    )
    return f"\n{table}\n\n{text}\n"


def _reference(module: ModuleType) -> str:
    head = (
        f"# {module.__name__}\n\n::: {module.__name__}\n"
        "    options:\n      members: false\n      show_root_heading: false\n"
        "      show_root_toc_entry: false\n"
    )
    return "\n\n".join([head, *(_entry(module.__name__, name) for name in _names(module))]) + "\n"


def _entry(module: str, name: str) -> str:
    """What shows a public name, wherever it is defined."""
    place = _defined(module, name)
    if place is None:  # made while the package is imported
        thing = getattr(importlib.import_module(module), name)
        return f"## `{name}`\n\n{'' if thing is None else inspect.getdoc(thing) or ''}"
    return f"::: {place}\n    options:\n      heading: {name}\n      toc_label: {name}\n"


def _defined(module: str, name: str) -> str | None:
    """Path of the definition of a public name, None where no source assigns it."""
    thing = getattr(importlib.import_module(module), name)
    if hasattr(thing, "__qualname__"):
        return f"{thing.__module__}.{thing.__qualname__}"
    for place in sorted(place for place in sys.modules if place.startswith(module)):
        if re.search(rf"^{name}\b.*=", inspect.getsource(sys.modules[place]), re.M):
            return f"{place}.{name}"
    return None
