from __future__ import annotations

import bz2
import gzip
import json
import lzma
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from builder.data_folder import data_digest
from builder.rows import check_rows, placed_rows, read_rows
from registry.digest import digest_file
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = [{"text": "a"}, {"text": "ä", "n": 1.5}, {"text": "\u2028 c"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return bytes(sink.getvalue())


def faults(path: Path, form: str = "text") -> list[str]:
    with pytest.raises(InvalidError) as caught:
        check_rows(path, form, where="data")
    return [f"{one.file}:{one.line} {one.key}: {one.problem} / {one.mend}" for one in caught.value.faults]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("rows.jsonl", bytes),
        ("rows", bytes),
        ("rows.jsonl.gz", gzip.compress),
        ("rows.ndjson.bz2", bz2.compress),
        ("rows.jsonl.xz", lzma.compress),
        ("rows.JSONL.ZST", zstd),
        ("rows.json", bytes),
    ],
)
def test_lines_are_read_however_they_are_packed(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(pack(LINES))
    assert read_rows(path, "text") == ROWS
    path.write_bytes(pack(LINES.rstrip()))  # no newline at the end
    assert read_rows(path, "text") == ROWS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(("name", "pack"), [("rows.json", bytes), ("rows.json.gz", gzip.compress)])
def test_an_array_is_read_row_by_row(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], indent: int | None
) -> None:
    many = [{"text": f"{number} ä{'x' * 3000}"} for number in range(1500)]  # several blocks
    path = tmp_path / name
    path.write_bytes(pack(json.dumps(many, indent=indent, ensure_ascii=False).encode()))
    assert read_rows(path, "text") == many
    assert [row.number for row in placed_rows(path, "text")] == list(range(1, 1501))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", "data:0 : no rows in the file / write at least one"),
        ('[{"text": "a"}, 3]', "data:2 : expected an object, got a number / write one array of JSON objects"),
        ('[{"text": "a"} {"text": "b"}]', "data:2 : rows with no comma between them / "),
        ('[{"text": "a"},', "data:2 : the array does not end / "),
        ('[{"text": "a"}, {"text": ]', "data:2 : not strict JSON: Expecting value / "),
        ('[{"text": "a", "text": "b"}]', "data:1 : not strict JSON: key 'text' twice in one object / "),
        ('[{"text": NaN}]', "data:1 : not strict JSON: NaN is not JSON / "),
    ],
)
def test_a_broken_array_is_named_by_its_row(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert faults(path)[0].startswith(expected)


def test_parquet_is_read_row_by_row(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": str(number)}], "source": None}
        for number in range(600)
    ]
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    assert read_rows(path, "messages") == rows


def test_a_row_of_parquet_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": ["a", None, "b", ""]}), path)
    assert faults(path) == [
        "data:2 text: expected text, got nothing / write text",
        "data:4 text: empty text / write text, or take the row out",
    ]
    parquet.write_table(pa.table({"text": ["a"], "raw": [b"x"]}), path)
    assert faults(path) == [
        "data:1 raw: a value of type bytes, which a row cannot have / store it as text or numbers",
    ]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("rows.parquet", b"PAR1 no", "data:1 : not Parquet that can be read: "),
        ("rows.jsonl.gz", b"no", "data:1 : cannot be read on: Not a gzipped file"),
        ("rows.jsonl.gz", gzip.compress(LINES * 2000)[:-20], "data:"),
        ("rows.jsonl.xz", lzma.compress(LINES)[:-10], "data:"),
        ("rows.jsonl.zst", b"nothing packed", "data:1 : cannot be read on: "),
        ("rows.txt", b"\xff", "data:1 : not UTF-8 / write the text in UTF-8"),
    ],
)
def test_a_file_that_breaks_off_is_refused(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    found = faults(path)
    assert len(found) == 1
    assert found[0].startswith(expected)
    assert ("cannot be read on" in found[0]) or (name != "rows.jsonl.gz")


def test_a_packed_line_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    for name, pack in {"rows.jsonl.gz": gzip.compress, "rows.jsonl.zst": zstd}.items():
        path = tmp_path / name
        path.write_bytes(pack(b'{"text": "' + b"a" * (17 << 20) + b'"}'))
        assert faults(path)[0] == "data:1 : a line of more than 16 MiB / split the row"


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.jsonl").write_text('{"text": "b/one"}\n{"text": ""}\n')
    (tmp_path / "c.md").write_text("# c\n\nA text of its own.\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    (tmp_path / ".hidden").write_text("no row")
    assert faults(tmp_path) == ["data/b/one.jsonl:2 text: empty text / write text, or take the row out"]
    (tmp_path / "b" / "one.jsonl").write_text('{"text": "b/one"}\n')
    assert [(row.file, row.number, row.row["text"]) for row in placed_rows(tmp_path, "text", where="data")] == [
        ("data/a.jsonl.gz", 1, "a"),
        ("data/b/one.jsonl", 1, "b/one"),
        ("data/c.md", 1, "# c\n\nA text of its own.\n"),
    ]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "table.csv").write_text("text\na\n")
    with pytest.raises(InvalidError) as caught:
        check_rows(tmp_path, "text", where="data")
    assert (caught.value.what, caught.value.where) == ("a file that holds no rows, by its name", "data/table.csv")
    (tmp_path / "table.csv").unlink()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "rows.jsonl")
    with pytest.raises(InvalidError, match="a link"):
        check_rows(tmp_path, "text")


def test_a_folder_with_a_file_that_was_not_fetched_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "rows.jsonl.dvc").write_text("outs: []\n")
    assert check_rows(tmp_path, "text") == 1
    (tmp_path / "more.jsonl.dvc").write_text("outs: []\n")
    with pytest.raises(NotFoundError) as caught:
        check_rows(tmp_path, "text")
    assert caught.value.where == f"{tmp_path}/more.jsonl"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="no files in the folder"):
        check_rows(tmp_path, "text")


def test_the_digest_of_a_folder_changes_with_its_files_alone(tmp_path: Path) -> None:
    folder, other = tmp_path / "one", tmp_path / "other"
    for place in (folder, other):
        (place / "b").mkdir(parents=True)
        (place / "a.jsonl").write_text("a")
        (place / "b" / "c.jsonl").write_text("c")
    assert data_digest(folder) == data_digest(other)
    (other / ".gitignore").write_text("x")
    assert data_digest(folder) == data_digest(other)
    (other / "b" / "c.jsonl").write_text("d")
    assert data_digest(folder) != data_digest(other)
    (other / "b" / "c.jsonl").rename(other / "c.jsonl")
    (other / "c.jsonl").write_text("c")
    assert data_digest(folder) != data_digest(other)
    assert data_digest(folder / "a.jsonl") == digest_file(folder / "a.jsonl")
