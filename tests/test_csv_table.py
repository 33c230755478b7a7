"""Reading tables: names, types, missing values, and a line for everything that can be wrong."""

import csv
import gzip
import lzma

import numpy as np
import pytest

from zoo import data
from zoo.errors import UserError

HOUSES = """size,rooms,town,zip,price
70.5,3,Oslo,0150,1e5
,2,Rome,0150,90000
120,5,"Bern, old",7000,?
55,2,,7000,81000
"""
HOUSES_TARGET = HOUSES.replace(",?\n", ",70000\n")


@pytest.fixture
def write(tmp_path):
    def write(content, name="houses.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def load(path, **options):
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return data.load(f"csv:{path}" + (f"?{query}" if query else ""))


def test_numbers_categories_and_what_is_missing(write):
    source = load(write(HOUSES_TARGET), target="price")
    assert source.feature_names == ("size", "rooms", "zip")
    assert source.category_names == ("town",)
    assert source.class_names is None
    np.testing.assert_array_equal(
        source.train["feature"], np.float32([[70.5, 3, 150], [np.nan, 2, 150], [120, 5, 7000], [55, 2, 7000]])
    )
    assert source.train["feature"].dtype == np.float32
    assert source.train["category"].tolist() == [["Oslo"], ["Rome"], ["Bern, old"], [""]]
    np.testing.assert_array_equal(source.train["target"], np.float32([1e5, 9e4, 7e4, 81e3]))
    assert source.validation is source.test is None


def test_numbers_that_are_names(write):
    source = load(write(HOUSES_TARGET), target="price", categories="zip,rooms", drop="town")
    assert source.feature_names == ("size",)
    assert source.category_names == ("rooms", "zip")
    assert source.train["category"].tolist() == [["3", "0150"], ["2", "0150"], ["5", "7000"], ["2", "7000"]]


def test_a_target_of_words_is_a_class(write):
    source = load(write(HOUSES_TARGET.replace(",7000,81000", ",7000,81000").replace(",,7", ",Rome,7")), target="town")
    assert source.class_names == ("Bern, old", "Oslo", "Rome")
    assert source.train["label"].tolist() == [1, 2, 0, 2]
    assert source.train["label"].dtype == np.int32
    assert "target" not in source.train


def test_a_target_of_numbers_is_a_class_where_it_is_told(write):
    source = load(write(HOUSES_TARGET), target="rooms", categories="rooms")
    assert source.class_names == ("2", "3", "5")
    assert load(write("x,y\n1,10\n2,9\n3,10\n"), target="y", categories="y").class_names == ("9", "10")


@pytest.mark.parametrize(
    "delimiter, name", [(";", "semicolon"), ("\t", "tab"), ("|", "pipe"), (",", "comma"), (" ", "space")]
)
@pytest.mark.parametrize("told", [False, True])
def test_delimiters(write, delimiter, name, told):
    text = "a,b,class\n1,2.5,yes\n3,4.5,no\n".replace(",", delimiter)
    source = load(write(text), target="class", **({"delimiter": name} if told else {}))
    np.testing.assert_array_equal(source.train["feature"], [[1, 2.5], [3, 4.5]])
    assert source.class_names == ("no", "yes")


def test_codes_that_python_takes_for_numbers(write):
    source = load(write("period,x,y\n2020_01,1,2\n2020_02,2,3\n"), target="y")
    assert (source.feature_names, source.category_names) == (("x",), ("period",))


def test_a_line_that_is_longer_than_a_cell_may_be(write):
    """Read by another delimiter than its own it is one cell."""
    names = [f"x{i}" for i in range(30_000)]
    text = ",".join(names) + "\n" + (",".join(["1"] * len(names)) + "\n") * 2
    assert len(text.partition("\n")[0]) > csv.field_size_limit()
    assert load(write(text), target="x0").train["feature"].shape == (2, len(names) - 1)


def test_a_delimiter_that_is_told_wins(write):
    path = write("a,b;c\n1,5;2\n2,5;3\n")
    assert load(path, target="c", delimiter=";").category_names == ("a,b",)
    with pytest.raises(UserError, match=r"delimiter is 'ab'; it must be one character, or comma"):
        load(path, target="c", delimiter="ab")


def test_no_header_and_spaces(write):
    source = load(
        write('18.0   8   307.0\t"chevrolet  malibu"\n\n15.0   8   ?\t"ford torino" \n'), target=1, header="no"
    )
    assert source.feature_names == ("2", "3")
    np.testing.assert_array_equal(source.train["feature"], np.float32([[8, 307], [8, np.nan]]))
    assert source.train["category"].tolist() == [["chevrolet  malibu"], ["ford torino"]]
    assert source.train["target"].tolist() == [18, 15]


def test_what_is_missing_can_be_told(write):
    path = write("a,b,c\n-9,x,1\n5,?,2\n")
    assert load(path, target="c").train["feature"].tolist() == [[-9], [5]]
    told = load(path, target="c", missing="-9")
    assert np.isnan(told.train["feature"][0, 0])
    assert told.train["category"].tolist() == [["x"], ["?"]]


def test_names_as_in_a_url(write):
    source = load(write("capital gain,a&b,c+d\n1,2,3\n4,5,6\n"), target="c%2Bd", drop="capital+gain")
    assert source.feature_names == ("a&b",)
    assert source.train["target"].tolist() == [3, 6]


@pytest.mark.parametrize("compress, ending", [(gzip.compress, ".gz"), (lzma.compress, ".xz"), (bytes, "")])
def test_compressed_with_a_byte_order_mark_and_windows_lines(write, compress, ending):
    text = b"\xef\xbb\xbf" + HOUSES_TARGET.replace("\n", "\r\n").encode()
    source = load(write(compress(text), f"houses.csv{ending}"), target="price")
    assert source.feature_names[0] == "size"
    assert len(source.train["target"]) == 4


def test_lines_of_old_macs(write):
    source = load(write(HOUSES_TARGET.replace("\n", "\r")), target="price")
    assert source.train["category"].tolist() == [["Oslo"], ["Rome"], ["Bern, old"], [""]]


def test_a_folder_of_splits(write):
    write("a,b,y\n1,u,no\n2,v,yes\n", "set/train.csv")
    write("b,a,y\nw,x,no\n".replace("x", "7"), "set/test.csv")  # in another order, with an unknown category
    folder = write("a,b,y\n,v,yes\n", "set/valid.csv").parent
    source = load(folder, target="y")
    assert source.train["label"].tolist() == [0, 1]
    assert source.test["feature"].tolist() == [[7]]
    assert source.test["category"].tolist() == [["w"]]
    assert np.isnan(source.validation["feature"]).all()
    assert source.validation["label"].tolist() == [1]


def test_paths_are_looked_for_in_the_data_folder(write, monkeypatch):
    monkeypatch.setenv("ZOO_DATA_DIR", str(write(HOUSES_TARGET).parent))
    assert load("houses.csv", target="price").feature_names


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, options, line",
    [
        (HOUSES, {"target": "prize"}, r"target: there is no column 'prize'; did you mean 'price'"),
        (HOUSES, {"target": "price"}, r"houses\.csv, line 4: the target 'price' is missing"),
        (HOUSES_TARGET, {"target": "price", "drop": "twn"}, r"drop: there is no column 'twn'; did you mean 'town'"),
        (
            HOUSES_TARGET,
            {"target": "price", "categories": "zap"},
            r"categories: there is no column 'zap'; did you mean 'zip'",
        ),
        (HOUSES_TARGET, {"target": "price", "drop": "price"}, r"drop: 'price' is the target"),
        (HOUSES_TARGET, {"target": "price", "drop": "size,rooms,town,zip"}, r"no column beside the target"),
        (HOUSES_TARGET, {"target": "price", "heder": "no"}, r"has no option 'heder'; did you mean 'header'"),
        (HOUSES_TARGET, {"target": "price", "header": "none"}, r"header is 'none'; it must be 'yes' or 'no'"),
        (HOUSES_TARGET, {}, r"a table needs a path and a target, as in csv:/data/mine\.csv\?target=price"),
        ("a,b\n1,2\n3,4,5\n", {"target": "b"}, r"houses\.csv, line 3: 3 cells, but there are 2 columns"),
        ("a,b\n\n1,2\n3\n", {"target": "b"}, r"houses\.csv, line 4: 1 cells, but there are 2 columns"),
        ("a,b,c\n1,,2\n3,NA,4\n", {"target": "c"}, r"column 'b' has no value in any row; leave it out with drop=b"),
        ("", {"target": "a"}, r"houses\.csv: the file is empty"),
        ("\n \n", {"target": "a"}, r"houses\.csv: the file is empty"),
        ("a,b\n", {"target": "a"}, r"houses\.csv: the file has a header and no rows"),
        (b"a,b\n1,\xff\n", {"target": "b"}, r"houses\.csv is not UTF-8: byte 0xff at offset 6"),
        (
            "5.1,3.5\n4.9,3.0\n",
            {"target": 1},
            r"the first line has only numbers, and no names of columns; add header=no",
        ),
        ("a,a\n1,2\n", {"target": "a"}, r"each column needs a name of its own, and the first line has a, a"),
        ("a,b\n1,2\ninf,4\n", {"target": "b"}, r"line 3: column 'a' is 'inf'; it must be a finite number"),
        ("a,b\n1,2\n1e39,4\n", {"target": "b"}, r"line 3: column 'a' is '1e39'; it must be a finite number"),
        ("a,b\n1,x\n2,x\n", {"target": "b"}, r"target 'b' is 'x' in every row; it needs 2 classes"),
        (f"a,b\n1,{'x' * 140_000}\n", {"target": "b"}, r"houses\.csv, line 2: field larger than field limit"),
        ('a,b\n1,"x\n', {"target": "b"}, r"houses\.csv, line 2: unexpected end of data"),
    ],
)
def test_mistakes(write, content, options, line):
    with pytest.raises(UserError, match=line) as error:
        load(write(content), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", ["weight", "1.5"])
def test_a_name_or_a_measurement_is_no_category(write, values):
    rows = "".join(f"{values}{i},{i}\n" for i in range(30))
    with pytest.raises(UserError, match=r"column 'car' has 30 different values in 30 rows, too many for a category"):
        load(write("car,y\n" + rows), target="y", categories="car")


@pytest.mark.parametrize(
    "test, line",
    [
        ("a,b,y\nten,u,no\n", r"test\.csv, line 2: column 'a' is 'ten'; it must be a finite number"),
        ("a,b,y\n1,u,no\n2,u,maybe\n", r"test\.csv, line 3: class 'maybe' is not in the training file"),
        ("a,y\n1,no\n", r"test\.csv: column 'b' of train\.csv is missing"),
        (
            "a,b,y\n1,0,no\n1,1,no\n",
            r"test\.csv: column 'b' has the numbers '0', '1'; in train\.csv .* categories 'u', 'v'",
        ),
    ],
)
def test_a_test_file_that_does_not_fit(write, test, line):
    folder = write("a,b,y\n1,u,no\n2,v,yes\n", "set/train.csv").parent
    write(test, "set/test.csv")
    with pytest.raises(UserError, match=line):
        load(folder, target="y")


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.csv: no such file or folder"):
        load(tmp_path / "nothing.csv", target="y")
    with pytest.raises(UserError, match=r"the folder has no train\.csv or train\.tsv"):
        load(tmp_path, target="y")
