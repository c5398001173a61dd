"""What the README and the pages of docs/ state as fact."""

import json
import re
import shlex

import pytest

from tests.process import ROOT
from tfstyle.cli import parse
from tfstyle.data import WINDOWS
from tfstyle.errors import ArgumentError

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of each snippet."""
    return [
        (name, block)
        for name, text in PAGES.items()
        for block in re.findall(rf"```{language}\n(.*?)```", text, re.S)
    ]


def commands() -> list[tuple[str, str]]:
    """Page and text of each command of console snippets, in one line, without prompt."""
    found = []
    for name, block in blocks("console"):
        quoted = re.sub(r"'[^']*'", lambda found: found[0].replace("\n", " "), block)
        for line in quoted.replace("\\\n", " ").splitlines():
            prompt, _, command = line.partition("$ ")
            if prompt in ("", "first", "second") and command:
                found.append((name, command))
    return found


def test_windows_table_is_the_code():
    rows = re.findall(
        r"^\| `(\w+)` \| (-?[\d.]+) \| ([\d.]+) \| (-?[\d.]+) … (-?[\d.]+) \|",
        PAGES["docs/windows.md"],
        re.M,
    )
    found = {name: tuple(map(float, numbers)) for name, *numbers in rows}
    assert found == {name: (w.center, w.width, w.lower, w.upper) for name, w in WINDOWS.items()}


def test_python_examples_compile():
    found = blocks("python")
    assert len([name for name, _ in found if name == "README.md"]) >= 3
    for name, block in found:
        compile(block, name, "exec")


def test_snippets_taken_from_files_are_what_the_files_have():
    for page, file in (
        ("docs/examples.md", "examples/serve_and_call.py"),
        ("docs/examples.md", "examples/convert_and_run.py"),
        ("docs/several-machines.md", "training/several_machines.py"),
    ):
        source = (ROOT / file).read_text(encoding="utf-8")
        after = PAGES[page].split(f"../{file})", 1)[1]
        assert re.search(r"```python\n(.*?)```", after, re.S)[1].rstrip() in source


@pytest.mark.slow
def test_augmentation_example_runs_as_it_stands(capsys):
    pytest.importorskip("data_store", reason="needs pydicom-data")
    (block,) = (b for n, b in blocks("python") if n == "README.md" and "StyleAugmentation" in b)
    exec(compile(block, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("(8, 128, 128, 1) (8, 128, 128)") for line in lines] == [True, True]


def test_console_examples_are_commands():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    count = 0
    for page, command in commands():
        words = shlex.split(command, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words[0] == "tfstyle":
            try:
                parse(words[1:])
            except ArgumentError as error:
                pytest.fail(f"{page}: {command}: {error}")
            count += 1
        elif words[0] == "make":
            assert words[1] in targets, (page, command)
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), (page, command)
    assert count > 15


def test_links_lead_somewhere():
    for name, text in PAGES.items():
        here = (ROOT / name).parent
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            if "://" in link:
                continue
            target = (here / path).resolve() if path else ROOT / name
            assert target.exists(), (name, link)
            if anchor:
                titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
                assert anchor in slugs, (name, link)


def test_readme_has_the_figures_of_whole_scans_and_lesions():
    result = json.loads((ROOT / "benchmarks" / "beyond.json").read_text())
    for name in ("**tone transfer, one curve**", "histogram matching above the floor"):
        assert f"{result['scan_to_scan'][name]['mean']:.3f}" in README
    ours, matched = (100 * result["lesions"][n]["median"] for n in ("**tone transfer**", name))
    assert f"keep {ours:.0f} % of" in README
    assert f"there {matched:.0f} %" in README


def test_readme_and_studies_have_the_figures_of_the_benefit():
    result = json.loads((ROOT / "studies" / "benefit.json").read_text())
    found = {
        (side, name): f"{100 * result[side][name]['tone']['mean_iou']['mean']:.0f}"
        for side in ("test_time", "augmentation")
        for name in result[side]
    }
    told = README.partition("Does it pay?")[2].partition("The whole table")[0]
    told = re.sub(r"\s+", " ", told)
    with_style, exact = (found["augmentation", name] for name in ("tone_transfer", "exact"))
    assert f"{with_style} % mean IoU" in told
    assert f"scans' own HU ({exact})" in told
    others = {name for side, name in found if side == "augmentation"}
    best = max(found["augmentation", n] for n in others if "tone" not in n and n != "exact")
    assert f"against {best} with the best other" in told
    assert f"and {found['augmentation', 'none']} without" in told
    ours, matched = (
        found["test_time", name] for name in ("tone_transfer", "foreground_histogram_matching")
    )
    assert f"At test time {ours}, below histogram matching above the floor ({matched})" in told
    ours, matched = (
        f"{100 * result['harmonized']['nnunet'][name]['tone']['mean_iou']['mean']:.0f}"
        for name in ("tone_transfer", "foreground_histogram_matching")
    )
    assert f"nnU-Net's transforms, {ours} against {matched}" in told


def test_readme_is_short_and_its_table_is_the_benchmark(script):
    readme_table = script("readme_table")
    truth = json.loads(readme_table.TRUTH.read_text())
    assert len(README.splitlines()) <= 200
    assert readme_table.filled(README, truth) == README
    with pytest.raises(ValueError, match="marks"):
        readme_table.filled("no marks", truth)
