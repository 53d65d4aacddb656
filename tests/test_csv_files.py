"""CSV files of spreadsheets and programs: every dialect gives the same numbers, and nothing is read in a wrong way."""

import csv
import io

import numpy as np
import pytest

from pynas import costs, spaces, tabular
from pynas.csv_files import read_csv_file
from pynas.errors import InputError
from pynas.runs.truth import read_truth

NEEDED = ("name", "value")


def dialect(rows, delimiter=",", comma=False, end="\n", quoting=csv.QUOTE_MINIMAL):
    """Text of a table as the standard library writes it."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([[cell.replace(".", ",") if comma else cell for cell in row] for row in rows])
    return file.getvalue()


ROWS = [
    ["name", "value", "note"],
    ["a|1", "1.5", "x, y"],
    ["b", "-0.25", ""],
    ["c", "1e-3", "5; 6"],
    ["d", "12345", 'a "q"'],
]
TEXTS = {
    "plain": (dialect(ROWS), "utf-8"),
    "byte order mark": (dialect(ROWS), "utf-8-sig"),
    "semicolons": (dialect(ROWS, ";"), "utf-8"),
    "semicolons and decimal commas": (dialect(ROWS, ";", comma=True), "utf-8-sig"),
    "tabs in UTF-16": (dialect(ROWS, "\t", end="\r\n"), "utf-16"),
    "tabs and decimal commas in UTF-16": (dialect(ROWS, "\t", comma=True, end="\r\n"), "utf-16"),
    "CRLF": (dialect(ROWS, end="\r\n"), "utf-8"),
    "CR": (dialect(ROWS, end="\r"), "utf-8"),
    "all quoted": (dialect(ROWS, ";", quoting=csv.QUOTE_ALL), "utf-8"),
    "no last line end": (dialect(ROWS).rstrip("\n"), "utf-8"),
    "empty lines": ("\n\n" + dialect(ROWS).replace("\nb", "\n\n,,\nb") + "\n ,\t,\n\n", "utf-8"),
    "Excel's first line": ("sep=;\r\n" + dialect(ROWS, ";"), "utf-8"),
    "spaces": (dialect(ROWS[:1]).replace("name", " name ") + dialect(ROWS[1:]).replace("1.5", "  1.5 "), "utf-8"),
    "an empty column": ("\n".join(line + ";" for line in dialect(ROWS, ";").splitlines()), "utf-8"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_every_dialect_gives_the_same_numbers(tmp_path, kind):
    text, encoding = TEXTS[kind]
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    file = read_csv_file("t", path, NEEDED)
    assert file.columns == ROWS[0]
    assert [row["name"].replace(",", ".") for row in file.rows] == ["a|1", "b", "c", "d"]
    assert file.numbers("value") == [1.5, -0.25, 1e-3, 12345]
    assert [row["note"][-1:] for row in file.rows] == ["y", "", "6", '"']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^\[t\] expected the columns name and value, got nothing in line 1 of .*t.csv; separate"),
        ("name,Value\na,1\n", "expected the columns name and value, got name, Value in line 1"),
        ("name value\na 1\n", "got name value in line 1"),
        ("name,value,value\na,1,2\n", "every column once, got 'value' again in line 1"),
        ("name,value,value \na,1,2\n", "every column once, got 'value' again in line 1"),
        ("name,value\na,1,5\n", "expected 2 cells as in the header, got 3 in line 2 of .*; write a point"),
        ("name,value\na,1\n\nb\n", "expected 2 cells as in the header, got 1 in line 4"),
        (",name,value\n0,a,1\n", "a name for every column, got a cell below none in line 2"),
        ('name,value\n"a,1\n', "commas between cells and whole quotes, got unexpected end of data in line 2"),
        ('name,value\na,1\n"b"c,1\n', "whole quotes, got .* in line 3"),
        (b"name,value\n\xe9,1\n", "CSV file in UTF-8 or UTF-16, got .*; save it as 'CSV UTF-8'"),
        ("name,value\na,1\n".encode("utf-16-le"), "got zero bytes"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as error:
        read_csv_file("t", path, NEEDED)
    assert "\n" not in str(error.value)


def numbers(tmp_path, delimiter, *texts):
    path = tmp_path / "t.csv"
    path.write_text(dialect([["name", "value"], *(["x", text] for text in texts)], delimiter))
    return read_csv_file("t", path, NEEDED).numbers("value")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text",
    ["", "x", "nan", "inf", "-inf", "1e999", "1_000", "1 000", "1'000", "1.234,5", "1,234.5", "1,234,567", "1.234.567", "5%",
     "1.5 ms", "0x10", "--1", "1e", "٣"],
)  # fmt: skip
def test_texts_that_are_no_plain_numbers_are_refused(tmp_path, delimiter, text):
    with pytest.raises(InputError, match=r"a finite number as value|without thousands separators as value") as error:
        numbers(tmp_path, delimiter, "1", text)
    assert f"{text!r} in line 3" in str(error.value)


@pytest.mark.parametrize(
    ("delimiter", "texts", "want"),
    [
        (",", ["1.234", "2.5"], [1.234, 2.5]),
        (",", ["1.234", "2.345"], [1.234, 2.345]),
        (",", ["1,5", "2"], None),
        (",", ["1.5", "1,234"], None),
        (";", ["1,234", "2,345"], [1.234, 2.345]),
        (";", ["1.234", "2.345"], None),  # 1234 in Germany
        (";", ["1.234", "2.5"], [1.234, 2.5]),
        (";", ["0.234", "2.345"], [0.234, 2.345]),
        (";", ["1,5", "1.234"], None),
        ("\t", ["1,234", "2"], None),  # 1234 in England
        ("\t", ["1.234", "2"], None),
        ("\t", ["1,234", "2,5"], [1.234, 2.5]),
        ("\t", ["1.5", "+.5", "5."], [1.5, 0.5, 5]),
    ],
)
def test_a_thousands_separator_is_never_taken_for_a_decimal_mark(tmp_path, delimiter, texts, want):
    if want is None:
        with pytest.raises(InputError, match=r"write a point before decimals$"):
            numbers(tmp_path, delimiter, *texts)
    else:
        assert numbers(tmp_path, delimiter, *texts) == want


SPACE = spaces.Space.from_counts("own", [[[2]], [[3]]])
COSTS = [["block", "cell", "layer", "candidate", "energy"], ["0", "0", "0", "0", "1.5"], ["0", "0", "0", "1", "2.5"],
         ["1", "0", "0", "0", "1.25"], ["1", "0", "0", "1", "2.25"], ["1", "0", "0", "2", "3.25"],
         ["fixed", "", "", "", "10.5"]]  # fmt: skip


@pytest.mark.parametrize(
    ("delimiter", "comma", "encoding"),
    [(",", False, "utf-8-sig"), (";", True, "utf-8"), ("\t", True, "utf-16"), (";", False, "cp1252")],
)
def test_costs_of_every_dialect(tmp_path, delimiter, comma, encoding):
    path = tmp_path / "costs.csv"
    path.write_bytes(dialect(COSTS, delimiter, comma).encode(encoding))
    read = costs.read_csv(path, SPACE)
    want = [[1.5, 2.5], [1.25, 2.25, 3.25]]
    assert [table.tolist() for cells in read["energy"] for table in cells] == want
    assert read.fixed == {"energy": 10.5}


def test_whole_numbers_of_pandas(tmp_path):
    (tmp_path / "t.csv").write_text(
        dialect([[f"{cell}.0" if cell.isdigit() else cell for cell in row] for row in COSTS])
    )
    read = costs.read_csv(tmp_path / "t.csv", SPACE)
    assert read["energy"][1][0].tolist() == [1.25, 2.25, 3.25] and read.fixed == {"energy": 10.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.append(rows[-1]), "one row per candidate, got a second one in line 8"),
        (
            lambda rows: rows.append(["fixed", "0", "", "", "1"]),
            "whole numbers for block, .* got fixed, 0, ,  in line 8",
        ),
        (lambda rows: rows[3].__setitem__(0, "1.5"), "whole numbers .* in line 4"),
        (lambda rows: rows[3].__setitem__(0, "1_0"), "whole numbers .* in line 4"),
        (lambda rows: rows[3].__setitem__(4, ""), "a finite number of at least 0 as energy, got '' in line 4"),
        (lambda rows: rows[0].__setitem__(4, " "), "a name for every column"),
        (lambda rows: [row.pop() for row in rows], "and a cost in .*, got no cost"),
    ],
)
def test_bad_costs(tmp_path, change, message):
    rows = [list(row) for row in COSTS]
    change(rows)
    (tmp_path / "costs.csv").write_text(dialect(rows))
    with pytest.raises(InputError, match=message):
        costs.read_csv(tmp_path / "costs.csv", SPACE)


def test_scores_and_accuracies_of_a_spreadsheet(tmp_path):
    bench, space, path = tabular.load("mbconv-23"), spaces.get("mbconv-boss"), tmp_path / "scores.csv"
    rows = [[name, f"{number}.5"] for number, name in enumerate(bench.architectures)]
    path.write_bytes(dialect([["architecture", "score"], *rows], ";", comma=True, end="\r\n").encode("utf-8-sig"))
    np.testing.assert_array_equal(tabular.read_scores(path, bench), np.arange(23) + 0.5)
    path.write_bytes(dialect([["architecture", "accuracy"], *rows], "\t", comma=True).encode("utf-16"))
    assert list(read_truth(path, space).values()) == [number + 0.5 for number in range(23)]
    path.write_text(dialect([["architecture", "accuracy"], *rows, rows[2]]))
    with pytest.raises(InputError, match=r"\[report\] expected each architecture once, got .* again in line 25"):
        read_truth(path, space)
