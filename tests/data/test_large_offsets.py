"""Data far from 0 beside their width keep their digits: on the way in, to the model and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sde_score.cli import main
from sde_score.data import DataError, Scaling, from_tensor, load
from sde_score.random import generator_from
from sde_score.report.files import save_samples

OFFSETS = torch.tensor([1.7e9, 101325.0, 0.0, -3e12])
WIDTHS = torch.tensor([5.0, 0.02, 1e-5, 1e3])


def table():
    draw = torch.randn(60, 4, generator=generator_from(0), dtype=torch.float64)
    return OFFSETS.double() + WIDTHS.double() * draw


def as_csv(x, folder):
    np.savetxt(folder / "x.csv", x.numpy(), fmt="%.17g", delimiter=",")
    return folder / "x.csv"


def as_npy(x, folder):
    np.save(folder / "x.npy", x.numpy())
    return folder / "x.npy"


def as_npz(x, folder):
    np.savez(folder / "x.npz", samples=x.numpy())
    return folder / "x.npz"


WAYS = {
    "tensor": lambda x, _: x,
    "array": lambda x, _: x.numpy(),
    "torch": lambda x, _: [row.numpy() for row in x],
    "csv": as_csv,
    "npy": as_npy,
    "npz": as_npz,
}


@pytest.mark.parametrize("way", WAYS)
def test_tables_keep_their_digits_on_every_way(way, tmp_path):
    x = table()
    found = load(WAYS[way](x, tmp_path))
    assert torch.equal(found.raw(), x)
    model = found.tensor()
    standard = (x - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(model.double(), standard, rtol=1e-6, atol=1e-6)
    back = found.scaling.from_model(model)
    assert back.dtype == torch.float64
    assert ((back - x).abs().amax(0) < 1e-6 * x.std(0)).all()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_samples_in_files_keep_them(suffix, tmp_path):
    found = from_tensor(table())
    save_samples(found.tensor(), tmp_path / f"s{suffix}", found.scaling)
    again = load(tmp_path / f"s{suffix}")
    assert ((again.raw() - found.raw()).abs().amax(0) < 1e-6 * found.raw().std(0)).all()


def test_images_and_series_too():
    x = 1e6 + 0.1 * torch.randn(9, 1, 8, 8, generator=generator_from(1), dtype=torch.float64)
    found = from_tensor(x)
    back = found.scaling.from_model(found.tensor())
    assert (back - x).abs().max() < 1e-6
    assert found.sigma_data == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("center", "width", "wanted"),
    [
        (0.0, 1.0, torch.float32),
        (255.0, 100.0, torch.float32),
        (2000.0, 10.0, torch.float32),
        (101325.0, 0.02, torch.float64),
        ((0.0, -1.7e9), (1.0, 5.0), torch.float64),
        (0.0, 1e-36, torch.float64),  # float32 loses digits near 0
        (0.0, 1e37, torch.float64),  # and has no larger numbers
    ],
)
def test_float64_is_taken_where_it_is_needed_alone(center, width, wanted):
    scaling = Scaling(center, width)
    features = len(center) if isinstance(center, tuple) else 1
    raw = scaling.from_model(torch.linspace(-3, 3, 7)[:, None].expand(7, features))
    assert raw.dtype == scaling.raw_dtype == wanted
    assert bool(raw.isfinite().all())
    assert all(len(column.unique()) == 7 for column in raw.T)
    back = scaling.to_model(raw)
    torch.testing.assert_close(back[:, 0], torch.linspace(-3, 3, 7), rtol=0, atol=1e-4)
    assert scaling.from_model(torch.zeros(1, features).double()).dtype == torch.float64


def test_a_shift_by_a_deviation_is_another_scaling():
    scaling = Scaling(1.7e9, 5.0)
    assert scaling.is_close(dataclasses.replace(scaling, center=1.7e9 + 1e-5))
    for other in (Scaling(1.7e9 + 5, 5.0), Scaling(1.7e9, 5.01), Scaling((1.7e9,), (5.0,))):
        assert not scaling.is_close(other)
    assert not Scaling(0.0, 1e-9).is_close(Scaling(0.0, 2e-9))


def test_what_float32_has_rounded_away_is_said():
    with pytest.warns(UserWarning, match=r"column 1 in float32 .* give float64"):
        from_tensor(torch.stack([torch.arange(9.0), 1.7e9 + 128 * torch.arange(9.0)], 1))
    with pytest.raises(DataError, match=r"feature 0 is constant: drop it .or give float64"):
        from_tensor(torch.stack([1.7e9 + torch.arange(9.0), torch.arange(9.0)], 1))
    with pytest.raises(TypeError, match=r"x\.double\(\) for continuous data"):
        from_tensor(torch.arange(8).reshape(4, 2))


def test_the_range_is_shown_with_the_digits_that_differ(tmp_path, capsys):
    assert main(["data", "info", str(as_npy(table()[:, 1:2], tmp_path))]) in (0, None)
    low, high = (f"{end:.9g}"[:9] for end in table()[:, 1].aminmax())
    shown = capsys.readouterr().out
    assert low in shown
    assert high in shown
