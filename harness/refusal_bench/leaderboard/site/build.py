"""Writes the site: pages, one script of compact numbers a run, the records and the tables derived from them.

<out>/index.html, compare.html         the rankings; up to four runs side by side
<out>/runs/<model-slug>/<run-id>.html  one page a run
<out>/data/<model-slug>/<run-id>.js    its numbers for the comparison, loaded when it is chosen
<out>/records/…json, leaderboard.csv, leaderboard.jsonl, leaderboard.parquet
"""

from __future__ import annotations

import io
import json
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from refusal_bench.errors import InputError, RefusalBenchError
from refusal_bench.leaderboard.ranking import groups
from refusal_bench.leaderboard.site.compact import compact
from refusal_bench.leaderboard.site.pages import Pages, as_json
from refusal_bench.leaderboard.store import MAX_REASONS, frame, sound_records, tables
from refusal_bench.record import Record

STATIC = Path(__file__).parent / "static"
MARKER = ".refusal-bench-site"
"""Marks a folder that a build may replace."""


def build_site(leaderboard: Path, out: Path) -> None:
    """Build the site of a leaderboard in `out`, replacing an earlier build.

    Raises RefusalBenchError if a record does not hold up, InputError if `out` holds something else; then nothing is
    written.
    """
    check_replaceable(out)
    by_file, faults = sound_records(leaderboard)
    if faults:
        more = f"; and {len(faults) - MAX_REASONS} more" if len(faults) > MAX_REASONS else ""
        raise RefusalBenchError(f"the site was not built: {'; '.join(faults[:MAX_REASONS])}{more}.")
    root = leaderboard / "records"
    records = {path.relative_to(root).with_suffix("").as_posix(): record for path, record in by_file.items()}
    files: dict[str, str | bytes] = {f"records/{path}.json": record.to_json() for path, record in records.items()}
    files |= tables(by_file)
    files["leaderboard.parquet"] = _parquet(by_file.values())
    files |= {file.name: file.read_text(encoding="utf-8") for file in sorted(STATIC.iterdir())}
    ranked = groups(records)
    pages = Pages(ranked, downloads=[name for name in files if name.startswith("leaderboard.")])
    files |= {"index.html": pages.index(), "compare.html": pages.compare(), MARKER: ""}
    for group in ranked:
        for place in group.places:
            files[f"runs/{place.path}.html"] = pages.run(group, place)
            files[f"data/{place.path}.js"] = _script(place.path, compact(group, place))
    _replace(out, files)


def check_replaceable(out: Path) -> None:
    """Raise InputError if a build would overwrite something that is not an earlier build."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file()):
        raise InputError(f"{out}: holds something other than a site built before; give a new folder with --out.")


def _parquet(records: Iterable[Record]) -> bytes:
    buffer = io.BytesIO()
    frame(records).to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


def _script(path: str, value: object) -> str:
    """A script that hands one run's numbers to the page; unlike a JSON file, it loads from `file://`."""
    return f"refusalBench.receive({json.dumps(path)}, {as_json(value)});\n"


def _replace(out: Path, files: dict[str, str | bytes]) -> None:
    """Write all files beside `out`, then exchange the folders: a reader sees the old site or the new."""
    token, target = secrets.token_hex(4), out.resolve()
    new, old = (target.with_name(f".{target.name}.{token}.{kind}") for kind in ("new", "old"))
    try:
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        if target.exists():
            target.rename(old)
        new.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise InputError(f"{out}: cannot be written to ({error.strerror}); choose another folder.") from error
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
