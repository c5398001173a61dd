"""The sources of several inputs, and the names of their results."""

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from tests.models import image
from tfstyle.data import ScanFiles, write_png
from tfstyle.runs.sources import Source, find_all, name_results


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["a", "b", "a-2", "x.png"]), min_size=1, max_size=3),
            st.sampled_from(["", ".png"]),
        ),
        max_size=12,
    )
)
def test_no_result_lies_in_the_place_or_inside_of_another(wanted):
    sources = []
    for parts, ending in wanted:
        stem = "/".join(parts)
        files = ScanFiles((stem,), "png")
        sources.append(Source(stem, files, stem, ending, PurePosixPath(stem)))
    results = [one.stem + one.ending for one in name_results(sources)]
    assert len(set(results)) == len(results)
    for one in results:
        assert not any(other.startswith(one + "/") for other in results)
    for source, result in zip(sources, results):  # only what collides gets a number
        own = source.stem + source.ending
        if result != own:
            assert own in results or any(one.startswith(own + "/") for one in results)


def test_each_input_is_done_once_and_has_a_name_of_its_own(tmp_path):
    for name in ("a/x.png", "b/x.png", "c/deep/x.png", "other/c/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(image(1, (8, 8)), tmp_path / name)
    inputs = [tmp_path / one for one in ("a/x.png", "b/x.png", "a/x.png", "c", "other/c")]
    found, damaged = find_all(inputs)
    assert not damaged
    assert [source.stem for source in found] == ["x", "x-2", "c/deep/x", "c-2/x"]
