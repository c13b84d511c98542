"""The path of docs/checkpoints.md, on a tiny checkpoint: converted, sampled and measured."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sde_score import load_run
from sde_score.cli import main
from sde_score.data import DataError
from sde_score.interop.convert import save_run
from sde_score.interop.imported import Imported, images
from sde_score.interop.trainers import UNTRAINED
from sde_score.nn import create
from sde_score.sdes import VP

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
SHAPE = (1, 6, 6)


@pytest.fixture
def imported():
    """A network with labels, in the range that published ones have."""
    torch.manual_seed(0)
    net = create("mlp(width=8, depth=1)", SHAPE, 3)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return Imported(
        "mine", "mlp(width=8, depth=1)", SHAPE, VP(), "noise", net.state_dict(), 0.5, images(),
        num_classes=3, needs_condition=True,
    )  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data, where commands are run."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (24, *SHAPE), generator=generator, dtype=torch.uint8).numpy()
    np.savez("test.npz", x=pixels, labels=np.arange(24) % 3)
    np.save("unlabeled.npy", pixels)
    np.save("wide.npy", pixels.repeat(2, axis=3))
    np.save("real.npy", pixels.astype(np.float32) / 7)
    return tmp_path


SMALLER = {
    "--num 64": "--num 3",
    "heun(steps=18)": "heun(steps=2)",
    "--num 128": "--num 2 --by bound",
    "compare runs/ncsnpp": "compare runs/ncsnpp --nfe 4 --num 4 --extractor pixels "
    "--bits-examples 2 --views ancestral ddim",
    "--samplers heun dpmpp-2m unipc": "--samplers heun dpmpp-2m --nfe 4 --num 4",
    "cifar10-test.parquet": "colors.npy",
    "preset=ve/cifar10_ncsnpp_continuous": "preset=ve/cifar10_ncsnpp_continuous --option "
    "image_size=16",
}


def commands():
    (block,) = (
        block
        for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
        if "inspect" in block
    )
    return block.strip().splitlines()


def test_the_path_of_the_page(reference, place, capsys, monkeypatch):
    """On weights of score_sde, in the form of its trainer."""
    monkeypatch.setattr("sde_score.evaluation.benchmarks.trained._TOLERANCE", 0.1)
    arrays, _ = reference("net_ncsnpp_ve_ddpmblock_fir_noconv")
    named = {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
    shadows = [value for name, value in named.items() if name not in UNTRAINED]
    torch.save(
        {
            "model": {f"module.{name}": value for name, value in named.items()},
            "ema": {"decay": 0.999, "shadow_params": shadows},
            "step": 400_000,
        },
        "checkpoint_8.pth",
    )
    generator = torch.Generator().manual_seed(1)
    np.save(
        "colors.npy",
        torch.randint(256, (24, 3, 16, 16), generator=generator).numpy().astype(np.uint8),
    )
    lines = commands()
    words = [shlex.split(line)[1] for line in lines]
    assert words == ["inspect", "convert", "sample", "likelihood", "compare", "benchmark"]
    for line in lines:
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    run = place / "runs" / "ncsnpp"
    assert (place / "samples.png").exists()
    rows = json.loads((run / "comparison.json").read_text())["rows"]
    assert {row["view"] for row in rows} == {"ancestral", "ddim"}
    assert (run / "benchmark" / "benchmark.csv").exists()
    shown = capsys.readouterr().out
    assert "bits" in shown


def test_data_are_read_in_the_range_of_the_network(imported, place):
    run = load_run(save_run(imported, "run"), data="test.npz")
    assert run.trained_elsewhere
    for part in ("all", "train", "held_out"):
        found = run.dataset(part)
        assert len(found) == 24
        assert found.scaling == images()
        assert found.tensor().min() >= -1
    floor, held_out = run.measured_parts()[:2]
    rows = torch.cat([floor.raw(), held_out.raw()]).flatten(1)
    assert len(rows) == 24
    assert len(rows.unique(dim=0)) == 24
    labels = run.draw_labels(9)
    assert labels.min() >= 0
    assert labels.max() <= 2
    other = load_run("run", data="unlabeled.npy").draw_labels(50)
    assert sorted(set(other.tolist())) == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("wide.npy", r"shape \(1, 6, 12\), not \(1, 6, 6\)"),
        ("real.npy", "levels=None, not 256"),
    ],
)
def test_data_that_do_not_fit_are_refused(data, said, imported, place, capsys):
    save_run(imported, "run")
    with pytest.raises(DataError, match=said):
        load_run("run", data=data).dataset()
    assert main(["likelihood", "run", "--data", data]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_other_classes_and_no_data_are_refused(imported, place, capsys):
    save_run(replace(imported, num_classes=0, needs_condition=False,
                     state=create(imported.backbone, SHAPE).state_dict()), "plain")  # fmt: skip
    assert len(load_run("plain", data="test.npz").dataset()) == 24
    save_run(imported, "run")
    np.savez("two.npz", x=np.zeros((4, *SHAPE), dtype=np.uint8), labels=np.arange(4) % 2)
    with pytest.raises(DataError, match="2 classes, not 3"):
        load_run("run", data="two.npz").dataset()
    with pytest.raises(DataError, match="trained elsewhere, <mine>, and brings no data"):
        load_run("run").dataset()
    for words in (["likelihood", "run"], ["compare", "run"], ["benchmark", "--model", "run"]):
        assert main(words) == 2
        assert "brings no data: give some" in capsys.readouterr().err
