"""What files people have: encodings, delimiters, archives and folders, and what each says it was read as."""

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command

from webapp.accounts.models import User
from webapp.corpus.models import Import, Project, Response
from webapp.importing.fields import (
    RowError,
    check_text,
    metadata_of,
    number_of,
    time_of,
)
from webapp.importing.reading import ImportRefused, Problem, Source, Unreadable, expanded, read_as, rows
from webapp.importing.services import import_files, import_run, import_start
from webapp.jobs import State

ROW = {"prompt": "Wie geht’s?", "chosen": " gut, danke\u2028 ", "rejected": "na;ja\x85\t😀"}
SECOND = {"prompt": "q2", "chosen": 'a "quoted"\r\ntext', "rejected": "-"}


def source(tmp_path: Path, name: str, data: str | bytes) -> Source:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return Source(path, name)


def read(found: Source) -> list[Any]:
    return [row for _, row in rows(found)]


def numbered(tmp_path: Path, name: str, data: str | bytes) -> list[tuple[int, Any]]:
    return list(rows(source(tmp_path, name, data)))


def table(delimiter: str, end: str = "\r\n") -> str:
    quoted = [[f'"{cell}"' for cell in ROW]]
    for row in (ROW, SECOND):
        quoted.append(['"' + cell.replace('"', '""') + '"' for cell in row.values()])
    return "".join(delimiter.join(cells) + end for cells in quoted)


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (ROW, SECOND))
LIST = json.dumps([ROW, SECOND], ensure_ascii=False)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


# Encodings and line ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", LINES),
        ("a.json", LIST),
        ("b.json", json.dumps(ROW, indent=2) + "\n" + json.dumps(SECOND, indent=2)),
        ("a.csv", table(",")),
        ("b.csv", table(";")),
        ("a.tsv", table("\t")),
        ("a.txt", table("|")),
        ("c.csv", table(",", "\n")),
        ("d.csv", "sep=;\r\n" + table(";")),
    ],
)
def test_texts_are_read_exactly(tmp_path: Path, name: str, text: str, encoding: str, packed: bool) -> None:
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    data = (mark + text).encode(encoding)
    found = source(tmp_path, name + ".gz" * packed, gzip.compress(data) if packed else data)
    assert read(found) == [ROW, SECOND]
    assert ("UTF-" + encoding[4:6].rstrip("-")) in read_as(found)


def test_parquet_as_gz(tmp_path: Path) -> None:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([ROW, SECOND]), written)
    found = source(tmp_path, "a.parquet.gz", gzip.compress(written.getvalue()))
    assert read(found) == [ROW, SECOND]
    assert read_as(found) == "Parquet, gzip"


def test_lone_carriage_returns_end_lines(tmp_path: Path) -> None:
    assert read(source(tmp_path, "a.jsonl", LINES.replace("\n", "\r"))) == [ROW, SECOND]
    assert read(source(tmp_path, "a.csv", "prompt,chosen\rq,x\rr,y\r")) == [
        {"prompt": "q", "chosen": "x"},
        {"prompt": "r", "chosen": "y"},
    ]


def test_a_mark_in_the_middle_is_no_text_of_jsonl_and_text_of_a_cell(tmp_path: Path) -> None:
    data = "\ufeff" + LINES + "\ufeff" + LINES
    assert read(source(tmp_path, "a.jsonl", data)) == [ROW, SECOND] * 2
    assert read(source(tmp_path, "a.csv", "a,b\n\ufeffx,y\n")) == [{"a": "\ufeffx", "b": "y"}]


def test_half_a_character_of_utf_16_costs_its_row(tmp_path: Path) -> None:
    data = codec("prompt,chosen\nq,x\nr,\ud83d\n") + b"\x00"
    found = read(source(tmp_path, "a.csv", data))
    assert found[0] == {"prompt": "q", "chosen": "x"}
    with pytest.raises(RowError, match="half of a surrogate pair"):
        check_text("chosen", found[1]["chosen"], limit=100)


def codec(text: str) -> bytes:
    return b"\xff\xfe" + text.encode("utf-16-le", "surrogatepass")


def test_windows_text_costs_the_rows_that_use_it(tmp_path: Path) -> None:
    first, second = read(source(tmp_path, "a.csv", "id,prompt\n1,Größe\n2,x\n".encode("cp1252")))
    assert isinstance(first["prompt"], Unreadable)
    with pytest.raises(RowError, match=r"byte 0xF6 at character 3, which is not UTF-8"):
        check_text("prompt", first["prompt"], limit=100)
    assert second == {"id": "2", "prompt": "x"}
    found = read(source(tmp_path, "a.json", '[{"a": "Größe"}, {"a": "x"}]'.encode("cp1252")))
    assert isinstance(found[0], Problem)
    assert found[1] == {"a": "x"}


# Tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "first", "read_as_"),
    [
        (
            "a.csv",
            "prompt;answer\nyes, no, maybe, so;1,5\nyes, no;2,5\n",
            {"prompt": "yes, no, maybe, so", "answer": "1,5"},
            "“;”",
        ),
        ("a.txt", "prompt\tanswer\na, b\tc; d\n", {"prompt": "a, b", "answer": "c; d"}, "tab"),
        ("a.csv", 'prompt,answer\n"a;b;c","d;e"\n"f;g","h;i"\n', {"prompt": "a;b;c", "answer": "d;e"}, "“,”"),
        ("a.csv", "prompt|answer\na, b|c\n", {"prompt": "a, b", "answer": "c"}, "“|”"),
        ("a.csv", "text\nhello\n", {"text": "hello"}, "“,”"),
        (
            "a.tsv",
            'a\tb\n"Who\'s there?\tHe said "no"\n"x" y\tz\n',
            {"a": "\"Who's there?", "b": 'He said "no"'},
            "quotes as letters",
        ),
        ("a.tsv", 'a\tb\n"two\nlines"\t"say ""hi"""\n', {"a": "two\nlines", "b": 'say "hi"'}, "tab"),
        ("a.csv", " prompt , answer ,\n x ,y,\n", {"prompt": " x ", "answer": "y"}, "“,”"),
        ("a.csv", ",prompt\n0,x\n", {"column 1": "0", "prompt": "x"}, "“,”"),
    ],
)
def test_delimiters(tmp_path: Path, name: str, text: str, first: dict[str, str], read_as_: str) -> None:
    found = source(tmp_path, name, text)
    assert read(found)[0] == first
    assert read_as_ in read_as(found)


def test_rows_have_the_numbers_of_the_sheet(tmp_path: Path) -> None:
    text = 'a,b\n"1\n2\n3",x\n\n,\ny,z,\nshort\ntoo,many,cells\nlast,one\n'
    found = numbered(tmp_path, "a.csv", text)
    assert [number for number, _ in found] == [2, 5, 6, 7, 8]
    assert found[0][1] == {"a": "1\n2\n3", "b": "x"}
    assert found[1][1] == {"a": "y", "b": "z"}, "a blank cell too many says nothing"
    assert found[2][1].message == "has 1 of 2 cells: “b” is missing."
    assert found[3][1].message == "has 1 more cells than the header has columns."
    assert found[4][1] == {"a": "last", "b": "one"}


def test_a_broken_quote_costs_its_row_with_all_its_lines(tmp_path: Path) -> None:
    text = 'a,b\n1,2\n"x "y"\nno,row",z\n3,4\n"open,5\n6,7\n'
    found = numbered(tmp_path, "a.csv", text)
    assert [number for number, _ in found] == [2, 3, 4, 5]
    assert found[2][1] == {"a": "3", "b": "4"}
    assert isinstance(found[1][1], Problem)
    assert "never closed" in found[3][1].message


def test_blank_cells_are_not_given(tmp_path: Path) -> None:
    assert read(source(tmp_path, "a.csv", 'a,b,c\nx,,""\n')) == [{"a": "x", "b": None, "c": None}]


@pytest.mark.parametrize("text", ["hello", "Dear all,\n\nplease find it below.\n", "\x00\x01\x02,\x03"])
def test_a_text_without_columns_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ImportRefused, match="neither JSON Lines"):
        read(source(tmp_path, "a.txt", text))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"BZh91AY", "bzip2"),
        (b"7z\xbc\xaf\x27\x1c", "7z archive"),
        (b"%PDF-1.4", "PDF"),
        (b"\xd0\xcf\x11\xe0\xa1", "old Excel"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ImportRefused, match=words):
        read(source(tmp_path, "a.csv", data))


# JSON --------------------------------------------------------------------------------------------------------


def test_a_key_that_stands_twice_is_refused_by_name(tmp_path: Path) -> None:
    text = '{"a": 1, "b": 2, "a": 3}\n{"m": {"x": 1, "x": 2}, "t": "fine"}\n'
    double, inside = read(source(tmp_path, "a.jsonl", text))
    assert double.message == "is an object with the key “a” twice."
    assert inside["t"] == "fine"
    with pytest.raises(RowError, match="the key “x” twice"):
        metadata_of(inside, "m")


def test_a_broken_element_costs_its_row(tmp_path: Path) -> None:
    text = '[{"a": 1}, {"a": oops, "b": [1, "]"]}, nonsense, {"a": 2} {"a": 3},]'
    found = numbered(tmp_path, "a.json", text)
    assert [row for _, row in found if isinstance(row, dict)] == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert [number for number, row in found if isinstance(row, Problem)] == [2, 3]


def test_lists_put_together_are_read_and_what_follows_is_named(tmp_path: Path) -> None:
    assert read(source(tmp_path, "a.json", '[{"a": 1}]\n[{"a": 2}]')) == [{"a": 1}, {"a": 2}]
    *_, last = read(source(tmp_path, "a.json", '[{"a": 1}] and more'))
    assert "nothing from here on is read" in last.message


def test_nan_is_not_given_and_infinity_no_number(tmp_path: Path) -> None:
    row = read(source(tmp_path, "a.jsonl", '{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999}'))[0]
    assert row["a"] is None
    for field in "bcd":
        with pytest.raises(RowError, match="inf"):
            number_of(row, field, -10, 10)


# Parquet -----------------------------------------------------------------------------------------------------


def parquet(tmp_path: Path, **columns: pa.Array) -> Source:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return Source(tmp_path / "a.parquet", "a.parquet")


def test_parquet_types_become_plain_values(tmp_path: Path) -> None:
    found = parquet(
        tmp_path,
        text=pa.array(["x"], pa.large_string()),
        view=pa.array(["v"], pa.string_view()),
        coded=pa.array(["d"]).dictionary_encode(),
        nothing=pa.nulls(1),
        half=pa.array([1.5], pa.float16()),
        gone=pa.array([float("nan")]),
        map=pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        big=pa.array([2**64 - 1], pa.uint64()),
    )
    assert read(found) == [
        {
            "text": "x",
            "view": "v",
            "coded": "d",
            "nothing": None,
            "half": 1.5,
            "gone": None,
            "map": {"k": 1},
            "big": 2**64 - 1,
        }
    ]


def test_what_python_has_no_value_for_is_marked_in_its_cell(tmp_path: Path) -> None:
    far = pa.array([10**17, 0], pa.timestamp("ms"))
    broken = pa.array([b"\xff", b"x"], pa.binary()).view(pa.string())
    row, good = read(parquet(tmp_path, text=pa.array(["x", "y"]), far=far, broken=broken))
    assert row["text"] == "x"
    assert isinstance(row["far"], Unreadable)
    assert isinstance(row["broken"], Unreadable)
    assert good["broken"] == "x"
    with pytest.raises(RowError, match="cannot be read"):
        time_of(row, "far")


def test_only_the_wanted_columns_are_read(tmp_path: Path) -> None:
    found = parquet(tmp_path, a=pa.array(["x"]), b=pa.array([["y"]]), c=pa.array([{"d": 1}]))
    assert [row for _, row in rows(found, columns={"a", "c", "other"})] == [{"a": "x", "c": {"d": 1}}]


def test_a_footer_that_would_end_the_process_is_refused(tmp_path: Path) -> None:
    """pyarrow ends the process for size statistics of another type (found by the fuzz)."""
    found = parquet(tmp_path, a=pa.array(["x"]), b=pa.array([1.5]))
    data = found.path.read_bytes()
    assert len(read(found)) == 1
    refused = 0
    for place in range(len(data) - 400, len(data) - 8):
        for bit in (1, 2, 4, 8, 16):
            changed = bytearray(data)
            changed[place] ^= bit
            found.path.write_bytes(changed)
            try:
                read(found)
            except ImportRefused:
                refused += 1
    assert refused > 100


# Zips and folders --------------------------------------------------------------------------------------------


def a_zip(path: Path, files: list[tuple[str, bytes]], **options: Any) -> Source:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return Source(path, path.name)


def files_inside() -> list[tuple[str, bytes]]:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([SECOND]), written)
    return [
        ("data/b.csv", table(";").encode("utf-16")),
        ("data/deep/a.jsonl.gz", gzip.compress(LINES.encode())),
        ("../../a.parquet", written.getvalue()),
        ("__MACOSX/data/._b.csv", b"\x00\x05"),
        (".DS_Store", b"x"),
        ("README.md", b"# Hello"),
        ("notes.txt", b"Dear all, hello."),
        ("empty.csv", b""),
    ]


def check_inside(report: Any, top: str) -> None:
    files = {file["name"]: file for file in report.files}
    assert [name for name, file in files.items() if file["rows"]] == [
        f"{top}/a.parquet",
        f"{top}/data/b.csv",
        f"{top}/data/deep/a.jsonl.gz",
    ]
    assert files[f"{top}/data/b.csv"]["read_as"] == "CSV, “;” between cells, UTF-16"
    assert files[f"{top}/README.md"]["passed_over"] == "is not a data file"
    assert files[f"{top}/notes.txt"]["passed_over"] == "is a text without columns"
    assert files[f"{top}/empty.csv"]["passed_over"] == "is empty"
    assert "2 hidden files" in files[top]["passed_over"]
    assert report.left_out == 0


def test_a_zip_of_files(project: Project, tmp_path: Path) -> None:
    found = a_zip(tmp_path / "all.zip", files_inside())
    report = import_files(
        project=project, sources=[found], format_name="trl", dry_run=False, folder=tmp_path / "work"
    )
    check_inside(report, "all.zip")
    assert set(Response.objects.filter(project=project).values_list("text", flat=True)) == {
        ROW["chosen"],
        ROW["rejected"],
        SECOND["chosen"],
        SECOND["rejected"],
    }
    assert not (tmp_path.parent / "a.parquet").exists()


def test_a_folder_of_files(project: Project, tmp_path: Path, capsys: Any) -> None:
    top = tmp_path / "all"
    for name, data in files_inside():
        path = top / name.replace("../", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    report = import_files(
        project=project,
        sources=[Source(top, "all")],
        format_name="trl",
        dry_run=True,
        folder=tmp_path / "work",
    )
    check_inside(report, "all")
    call_command("import_data", str(top), project=project.slug)
    assert "all/README.md: passed over, is not a data file" in capsys.readouterr().out
    assert Response.objects.filter(project=project).count() == 4
    with pytest.raises(CommandError, match="no file or folder"):
        call_command("import_data", str(tmp_path / "nowhere"), project=project.slug)


def test_two_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        found = a_zip(tmp_path / "a.zip", [("x.jsonl", b'{"a": 1}'), ("x.jsonl", b'{"a": 2}')])
    sources, _ = expanded([found, found])
    assert [each.name for each in sources] == [
        "a.zip/x.jsonl",
        "a.zip/x.jsonl (2)",
        "a.zip/x.jsonl (3)",
        "a.zip/x.jsonl (4)",
    ]
    assert [read(each) for each in sources] == [[{"a": 1}], [{"a": 2}]] * 2


def changed(data: bytes, at: int, to: bytes) -> bytes:
    return data[:at] + to + data[at + len(to) :]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda data: data[:-30], "a.zip is a damaged zip"),
        (lambda data: changed(data, 40, b"\xff\xff\xff"), r"a.zip/x.jsonl is damaged"),
        # bit 0 of the flags, in the file's own header and in the list
        (
            lambda data: changed(changed(data, 6, b"\x01"), data.index(b"PK\x01\x02") + 8, b"\x01"),
            "a.zip/x.jsonl is encrypted",
        ),
        (
            lambda data: changed(changed(data, 8, b"\x09"), data.index(b"PK\x01\x02") + 10, b"\x09"),
            "a.zip/x.jsonl is packed in a way",
        ),
    ],
    ids=["cut", "changed", "encrypted", "method"],
)
def test_damaged_and_encrypted_zips_are_refused_by_name(
    tmp_path: Path, make: Callable[[bytes], bytes], words: str
) -> None:
    found = a_zip(tmp_path / "a.zip", [("x.jsonl", LINES.encode() * 5)])
    found.path.write_bytes(make(found.path.read_bytes()))
    with pytest.raises(ImportRefused, match=words):
        [read(each) for each in expanded([found])[0]]


def test_bombs_and_crowds_in_zips_are_refused(tmp_path: Path, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 100_000
    with pytest.raises(ImportRefused, match="once unpacked"):
        expanded([a_zip(tmp_path / "a.zip", [("x.jsonl", b'{"x": 1}\n' * 200_000)])])
    inner = gzip.compress(b'{"x": 1}\n' * 30_000)
    bomb = a_zip(tmp_path / "b.zip", [(f"{n}.jsonl.gz", inner) for n in range(3)])
    with pytest.raises(ImportRefused, match="once unpacked"):
        [read(each) for each in expanded([bomb])[0]]
    with pytest.raises(ImportRefused, match="more than 1,000"):
        expanded([a_zip(tmp_path / "c.zip", [(f"{n}.csv", b"a") for n in range(1001)])])


def test_empty_zips_and_office_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="holds no data file"):
        expanded([a_zip(tmp_path / "a.zip", [])])
    with pytest.raises(ImportRefused, match="an Excel or Word file"):
        expanded([a_zip(tmp_path / "a.xlsx", [("[Content_Types].xml", b"<x/>")])])


def test_a_zip_that_is_uploaded(project: Project, admin: User, tmp_path: Path, data_dir: Path) -> None:
    data = a_zip(tmp_path / "all.zip", files_inside()).path.read_bytes()
    row = import_start(
        project=project, files=[SimpleUploadedFile("all.zip", data)], format="trl", created_by=admin
    )
    import_run(row)
    row = Import.objects.get(pk=row.pk)
    assert (row.state, row.error) == (State.DONE, "")
    assert row.report["rows"] == 5
    kept = {path.name for path in (data_dir / row.folder).iterdir()}
    assert {"all.zip", "errors.jsonl"} <= kept
    assert not any(name.endswith((".csv", ".parquet")) for name in kept), "nothing is unpacked beside it"
