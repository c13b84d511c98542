"""Tables of mixed columns: kinds, encodings, and the way back to the cells they came from."""

from __future__ import annotations

import gzip
import hashlib
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from sde_score.data import DataError, TableCoding, from_table, load
from sde_score.data.fingerprint import Fingerprint
from sde_score.data.tables.column import Cells, Column
from sde_score.scaling import Scaling

RNG = np.random.default_rng(0)
ROWS = 90
TABLE = {
    "age": RNG.integers(18, 80, ROWS).astype("int32"),
    "income": RNG.lognormal(10, 1, ROWS),
    "unit": np.array(["kg"] * ROWS, dtype=object),
    "rate": RNG.uniform(2, 5, ROWS),
    "job": RNG.choice(["clerk", "smith", "cook"], ROWS).astype(object),
    "member": RNG.random(ROWS) < 0.3,
    "one": RNG.integers(0, 2, ROWS).astype("int8"),
    "x": RNG.normal(size=ROWS).astype("float32"),
    "city": RNG.permutation([f"c{i}" for i in range(45)] * 2).astype(object),
    "year": RNG.integers(1990, 1993, ROWS),
}
BY_NAME = {
    "income": "positive",
    "rate": "bounded(2, 5)",
    "city": "categorical",
    "year": "categorical",
}
KINDS = ",".join(map(":".join, BY_NAME.items()))


def same(one, other):
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and (one[name] == other[name]).all() for name in one
    )


def test_every_kind_has_its_encoding():
    found = from_table(TABLE, KINDS)
    raw = dict(zip(found.column_names, found.raw().numpy().T, strict=True))
    share = (TABLE["rate"] - 2) / 3
    assert (raw["age"] == TABLE["age"]).all()
    assert np.allclose(raw["income"], np.log(TABLE["income"]), rtol=1e-15)
    assert np.allclose(raw["rate"], np.log(share / (1 - share)), rtol=1e-12)
    for job in ("clerk", "cook", "smith"):
        assert (raw[f"job={job}"] == (TABLE["job"] == job)).all()
    assert (raw["member"] == TABLE["member"]).all()
    assert (raw["one"] == TABLE["one"]).all()
    cities = sorted(set(TABLE["city"]))
    digits = np.stack([raw[f"city={i}"] for i in range(6)])  # 45 categories in 6 digits
    numbers = (digits * 2 ** np.arange(6)[:, None]).sum(0).astype(int)
    assert [cities[number] for number in numbers] == TABLE["city"].tolist()
    assert "unit" not in raw
    assert [raw[f"year={year}"].sum() for year in (1990, 1991, 1992)] == [
        (TABLE["year"] == year).sum() for year in (1990, 1991, 1992)
    ]


def test_what_is_decoded_is_what_was_encoded():
    found = from_table(TABLE, KINDS)
    again = TableCoding.from_record(json.loads(json.dumps(found.coding.record())))
    assert again == found.coding
    back = again.decode(found.raw())
    logs = {name: back.pop(name) for name in ("income", "rate")}
    assert same(back, {name: values for name, values in TABLE.items() if name not in logs})
    for name, values in logs.items():
        assert np.allclose(values, TABLE[name], rtol=1e-12, atol=0)
        short = from_table({**TABLE, name: TABLE[name].round(6)}, KINDS)
        assert (short.coding.decode(short.raw())[name] == TABLE[name].round(6)).all()


def test_cells_of_the_lattice_decode_to_their_value():
    """Uniform noise between -1/2 and 1/2 changes no integer and no category."""
    found = from_table(TABLE, KINDS)
    noise = torch.from_numpy(RNG.uniform(-0.5, 0.5, found.raw().shape))
    noise = noise * torch.tensor(found.coding.discrete)
    back = found.coding.decode(found.raw() + noise)
    for name in ("age", "job", "member", "one", "city", "year"):
        assert (back[name] == TABLE[name]).all()
    beyond = found.raw() * torch.tensor(found.coding.discrete) * 30 + 0.2
    assert set(found.coding.decode(beyond)["city"]) <= set(TABLE["city"])


def test_columns_are_standardized_and_codes_of_one_column_share_a_width():
    found = from_table(TABLE, KINDS)
    x, groups = found.tensor().double(), torch.tensor(found.coding.groups)
    for group in groups.unique():
        of_group = x[:, groups == group]
        assert float(of_group.mean().abs()) < 1e-6
        assert float(of_group.var(0, correction=0).mean()) == pytest.approx(1, abs=1e-5)
    width = np.array(found.scaling.width)[np.array(found.coding.discrete)]
    assert len(set(width.round(12))) == 6


def test_all_formats_give_the_same_columns(tmp_path):
    pa, frame = pytest.importorskip("pyarrow"), pytest.importorskip("pandas").DataFrame(TABLE)
    from pyarrow import parquet

    parquet.write_table(pa.table(TABLE), tmp_path / "t.parquet")
    arrays = {n: v.astype(str) if v.dtype == object else v for n, v in TABLE.items()}
    np.savez(tmp_path / "t.npz", **arrays)
    expected = from_table(TABLE, KINDS)
    for found in (
        load(f"{tmp_path}/t.parquet(kinds='{KINDS}')"),
        load(f"{tmp_path}/t.npz(kinds='{KINDS}')"),
        from_table(frame, KINDS),
        from_table(pa.table(TABLE), BY_NAME),
    ):
        assert torch.equal(found.raw(), expected.raw())
        assert found.coding == expected.coding
    assert len(load(frame).coding.columns) == len(TABLE)
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = load(f"{tmp_path}/t.csv(kinds='{KINDS}')")
    assert found.coding.column("age").dtype == "int64"
    assert found.column_names == expected.column_names
    assert torch.allclose(found.raw(), expected.raw(), rtol=1e-6)


def test_marks_are_found_and_said(tmp_path, capsys):
    plain = "a,b,job\n1.5,-2,x y\n0.25,300000.0,z\n"
    (tmp_path / "t.csv").write_text(plain)
    expected = load(tmp_path / "t.csv")
    assert capsys.readouterr().err == ""
    semicolon = 'a;b;job\n1,5;-2;"x y"\n,25;3e5;z\n'
    (tmp_path / "s.csv").write_text(semicolon)
    (tmp_path / "s.csv.gz").write_bytes(gzip.compress(semicolon.encode()))
    (tmp_path / "s.tsv.gz").write_bytes(gzip.compress(plain.replace(",", "\t").encode()))
    for name in ("s.csv", "s.csv.gz"):
        assert torch.equal(load(tmp_path / name).raw(), expected.raw())
        said = capsys.readouterr().err
        assert said == f"{name}: cells are separated by ';', decimals are written with a comma\n"
    assert torch.equal(load(tmp_path / "s.tsv.gz").raw(), expected.raw())
    (tmp_path / "n.csv").write_text("1;4\n2;3\n")
    assert load(tmp_path / "n.csv").raw().tolist() == [[1, 4], [2, 3]]
    (tmp_path / "c.csv").write_text('name,n\n"Li; Bo",1\n"Wu; An",2\n"Li; Bo",4\n')
    assert load(tmp_path / "c.csv").coding.column("name").categories == ("Li; Bo", "Wu; An")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"1,2\n" * 200_000))
    with pytest.raises(DataError, match=r"beyond the limit of .* max_bytes"):
        load(f"{tmp_path}/t.csv.gz(max_bytes=1000)")


def test_a_table_of_numbers_is_what_it_was(tmp_path):
    """Its fingerprint is that of its numbers, and every column is standardized."""
    (tmp_path / "t.csv").write_text("a,b\n1.5,10\n2.5,-30\n7,1\n")
    found = load(tmp_path / "t.csv")
    x = torch.tensor([[1.5, 10], [2.5, -30], [7, 1]], dtype=torch.float64)
    assert torch.equal(found.raw(), x)
    assert found.scaling == Scaling.standardize(x, per_feature=True)
    content = b"torch.float64 (2,)" + x.numpy().tobytes()
    assert Fingerprint.of(found).rows == hashlib.sha256(content).hexdigest()
    assert found.coding.summary() == "1 numeric; 1 integer: b"


@pytest.mark.parametrize(
    ("table", "kinds", "says"),
    [
        ({"a": [1.0, 0.0, 2.0]}, "a:positive", "column a, row 2: 0.0 is not above 0"),
        ({"a": [0.1, 0.2, 1.0]}, "a:bounded(0, 1)", "row 3: 1.0 is not between the bounds 0 and 1"),
        ({"a": [1.0, 2.5]}, "a:integer", "row 2: 2.5 is no integer"),
        ({"a": ["x", "y"]}, "a:numeric", "column a, row 1: 'x' is no number"),
        ({"a": [math.inf, 1.0]}, None, "row 1: inf is not a finite number"),
        ({"a": [1.0, 2.0]}, "b:integer", "kinds names the column 'b'; there are a"),
        ({"a": [1.0, 2.0]}, "a:bounded(0)", r"bounded needs both bounds: a:bounded\(0, 1\)"),
        ({"a": [1.0, 2.0]}, "a:bounded(1, 0)", "bounds .* must be finite and increase"),
        ({"a": [1.0, 2.0]}, "a:whole", "'whole' is no kind of column 'a'; accepted: numeric"),
        ({"a": [1.0, 2.0]}, "a:integer,a:numeric", "names column 'a' twice"),
        ({"a": [1.0, 2.0]}, "integer", "must name columns and kinds"),
        ({"a": [1.0, 2.0]}, "a:constant", "column a is constant in kinds, and holds 1.0 and 2.0"),
        ({"a": ["x", "x"], "b": [1, 1]}, None, "nothing to learn"),
        ({"a": [f"{i}th" for i in range(30)]}, None, "30 different texts in 30 rows, as names do"),
        ({"a": [1, "x"]}, None, "column a holds int, str"),
        ({"a": [[1], [2]]}, None, "shape"),
        ({"a": [1.0], "b": [1.0, 2.0]}, None, "different length"),
        ({"a": np.array(["2020-01-01"], "M8[D]")}, None, "days since a date"),
        ({}, None, "no rows"),
        (3, None, "accepted: a data frame"),
    ],
)
def test_what_has_no_encoding_is_named(table, kinds, says):
    with pytest.raises((DataError, ValueError, TypeError), match=says):
        from_table(table, kinds)


def test_a_category_or_constant_that_was_never_seen_is_named():
    coding = from_table(TABLE, KINDS).coding
    new = {n: Cells(v[:2], np.zeros(2, bool)) for n, v in TABLE.items()}
    for name, value in (("job", "baker"), ("unit", "lb"), ("year", 1999)):
        other = Cells(np.array([TABLE[name][0], value, None], dtype=object)[:2], new["x"].missing)
        if name == "year":
            other = Cells(np.array([1990, value]), new["x"].missing)
        with pytest.raises(DataError, match=f"column {name}, row 2: .*{value}"):
            coding.encode({**new, name: other})
    floats = Cells(new["year"].values.astype(float), new["x"].missing)  # 1990.0 is 1990
    assert torch.equal(coding.encode({**new, "year": floats}), coding.encode(new))


def test_a_column_is_the_label_and_comes_back():
    found = from_table(TABLE, KINDS, "job")
    assert found.class_names == ("clerk", "cook", "smith")
    assert [found.class_names[i] for i in found.labels] == TABLE["job"].tolist()
    assert not any(name.startswith("job") for name in found.column_names)
    back = found.coding.decode(found.raw(), found.labels)
    assert list(back) == list(TABLE)
    assert (back["job"] == TABLE["job"]).all()
    assert "job" not in found.coding.decode(found.raw())
    assert from_table(TABLE, KINDS, "one").class_names == ()
    with pytest.raises(DataError, match="label names the column 'no'"):
        from_table(TABLE, label="no")
    with pytest.raises(DataError, match="label unit is kg throughout"):
        from_table(TABLE, KINDS, label="unit")


def test_densities_are_in_the_units_of_the_columns():
    """Log-normal and logit-normal densities are those of a Gaussian and the log-determinant."""
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    normal = stats.norm(0.3, 0.8)
    for kind, low, high in (("positive", 0, 1), ("bounded", 2, 5)):
        coding = TableCoding((Column("c", kind, low=low, high=high),))
        cells = coding.decode(x[:, None])["c"]
        density = normal.logpdf(x) + coding.log_abs_det(x[:, None]).numpy()
        if kind == "positive":
            exact = stats.lognorm(0.8, scale=math.exp(0.3)).logpdf(cells)
        else:
            u = (cells - 2) / 3
            exact = normal.logpdf(np.log(u / (1 - u))) - np.log(3 * u * (1 - u))
        assert np.allclose(density, exact, rtol=1e-12)


def test_columns_left_out_and_told_in_words():
    found = from_table(TABLE, KINDS + ",x:drop,age:numeric")
    assert "x" not in {column.name for column in found.coding.columns}
    said = found.coding.summary()
    assert said.startswith("1 numeric; 1 positive: income; 1 constant: unit; 1 bounded: rate; ")
    assert "5 categorical: job (3), member (2), one (2), city (45), year (3)" in said
    assert from_table({"a": RNG.normal(size=9)}).coding.summary() == ""
