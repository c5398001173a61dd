"""The JSON file of a study, to which finished runs are added."""

from __future__ import annotations

from pathlib import Path

from tfstyle._private.files import read_json
from tfstyle.errors import ArgumentError, OutputError


def read_study(output: Path, settings: dict, empty: dict, runs: str) -> dict:
    """What a study has so far.

    Args:
        output: The file; its folder is made if missing.
        settings: Settings of the study as plain types; those of the file must be the same.
        empty: A study without runs; all its keys must be in the file but for ``"summary"`` and
            ``"notes"``, which are made at the end.
        runs: What the file holds, in errors.

    Raises:
        OutputError: if the folder cannot be made, or the file holds something else.
        ArgumentError: if it holds runs of other settings.
    """
    if not output.exists():
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError.of(output, error) from error
        return {"settings": settings, **empty}
    try:
        result = read_json(output)
        before = dict(result["settings"])
        for key in empty.keys() - {"summary", "notes"}:
            result[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(output, "holds something else; choose another name.") from error
    changed = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
    if changed:
        raise ArgumentError(
            f"{output}: holds {runs} of other settings ({', '.join(changed)}); choose another "
            "name, or remove it."
        )
    return result
