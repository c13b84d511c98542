"""Dictionaries of conditions, images among them: from the data set to samples, files and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sde_score import data, interop, samplers
from sde_score.cli import main
from sde_score.evaluation import likelihood
from sde_score.interop.convert import save_run
from sde_score.random import BatchSlice, generator_from
from sde_score.training import AUGMENTATIONS, load_run
from sde_score.training.batches import Batches
from sde_score.training.build import resolve
from sde_score.training.condition_dropout import dropped
from sde_score.training.data_record import DataRecord

TINY = "mlp(width=8, depth=1)"
RAW = {
    "label": torch.arange(60) % 3,
    "size": torch.linspace(5, 9, 120).reshape(60, 2).double(),
    "map": (torch.arange(60 * 16) % 256).to(torch.uint8).reshape(60, 1, 4, 4),
}
SHAPE = {"label": 3, "size": (2,), "map": (1, 4, 4)}


def made(**changes):
    x = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return data.from_tensor(x, condition={**RAW, **changes})


DATA = made()


def test_each_entry_is_scaled_as_data_are_and_goes_with_its_example():
    told = DATA.batch([4, 2]).condition
    assert DATA.condition_shape == SHAPE
    assert torch.equal(told["label"], torch.tensor([1, 2]))
    torch.testing.assert_close(told["map"], (RAW["map"][[4, 2]] + 0.5) / 128 - 1)
    column = RAW["size"][:, 1]
    expected = ((column[[4, 2]] - column.mean()) / column.std(correction=0)).float()
    torch.testing.assert_close(told["size"][:, 1], expected)
    train, held_out = DATA.split(0.2)
    assert (train.condition_shape, held_out.condition_shape) == (SHAPE, SHAPE)
    row = int(held_out.rows[3])
    assert torch.equal(held_out.batch([3]).condition["map"], DATA.batch([row]).condition["map"])


def test_files_and_torch_data_sets_hold_dictionaries(tmp_path):
    named = {f"condition_{name}": value.numpy() for name, value in RAW.items()}
    np.savez(tmp_path / "d.npz", x=DATA.raw().numpy(), **named)
    items = [(DATA[i], {name: value[i] for name, value in RAW.items()}) for i in range(60)]
    for found in (data.load(tmp_path / "d.npz"), data.from_torch(items)):
        assert data.Fingerprint.of(found) == data.Fingerprint.of(DATA)
        assert DataRecord.of(DATA, None).recognize(found).condition_shape == SHAPE
    for name, value in RAW.items():
        moved = made(**{name: value.roll(1, 0)})
        assert data.Fingerprint.of(moved).labels != data.Fingerprint.of(DATA).labels
    record = DataRecord.of(DATA, None)
    assert DataRecord.from_record(record.record()) == record
    both = {**named, "condition": named["condition_size"]}
    np.savez(tmp_path / "both.npz", x=DATA.raw().numpy(), **both)
    with pytest.raises(data.DataError, match="condition and condition_label: give one kind"):
        data.load(tmp_path / "both.npz")


def test_a_share_loses_all_and_each_entry_is_lost_by_itself():
    """Each subset of three is met: none with 0.25 + 0.75 / 64, all with 0.75 * 27 / 64."""
    many = {"a": torch.ones(4000, dtype=torch.int64), "b": torch.ones(4000, 2)}
    many["c"] = torch.ones(4000, 1, 2, 2)
    lost = dropped(many, 0.25, BatchSlice(generator_from(0), 0, 4000))
    gone = torch.stack([lost["a"] < 0, lost["b"].isnan().all(1), lost["c"].isnan()[:, 0, 1, 1]])
    assert torch.equal(gone[1], lost["b"].isnan().any(1))
    counts = {n: int((gone.sum(0) == n).sum()) / 4000 for n in range(4)}
    expected = {0: 0.316, 1: 0.316, 2: 0.105, 3: 0.262}
    assert counts == pytest.approx(expected, abs=0.03)
    assert torch.equal(lost["c"][~gone[2]], many["c"][~gone[2]])


def test_dictionaries_are_trained_on_dropped_and_the_bits_resume(
    run_to, tensor_bytes, tmp_path, config
):
    changes = {"data": DATA, "backbone": TINY, "condition_dropout": 0.3}
    run_to(tmp_path / "whole", steps=8, **changes)
    run_to(tmp_path / "cut", steps=4, **changes)
    run_to(tmp_path / "cut", steps=8, **changes)
    assert tensor_bytes(tmp_path / "cut", 8) == tensor_bytes(tmp_path / "whole", 8)
    settled = resolve(replace(config, backbone=TINY, condition_dropout=0.3), DATA)
    (part,) = Batches(DATA, settled).step(0)
    assert list(part.condition) == list(SHAPE)
    with pytest.raises(ValueError, match="the conditions are others"):
        run_to(tmp_path / "cut", steps=9, **{**changes, "data": made(label=RAW["label"].roll(1))})


@pytest.mark.parametrize("model", ["score", "energy"])
def test_a_dictionary_goes_wherever_a_label_does(run_to, tmp_path, model):
    run = run_to(tmp_path, data=DATA, backbone=TINY, steps=1, model=model)
    assert (run.condition_shape, run.num_classes) == (SHAPE, 0)
    for weight in run.model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    told = run.draw_labels(3)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    together = run.model.score(x, 0.5, told)
    for i in range(3):
        own = {name: value[i : i + 1].numpy() for name, value in told.items()}
        torch.testing.assert_close(run.model.score(x[i : i + 1], 0.5, own)[0], together[i])
    assert not torch.allclose(run.model.score(x, 0.5, {"size": told["size"]}), together)
    torch.testing.assert_close(run.model.score(x, 0.5, {}), run.model.score(x, 0.5))
    for spec in ("ddim(steps=2)", "ode(rtol=0.1)", "parallel(steps=4)"):
        give = {"seed": 0, "condition": told, "progress": False}
        at_once = samplers.sample(run.model, spec, (1, 4, 4), 3, **give)
        parts = samplers.sample(run.model, spec, (1, 4, 4), 3, batch_size=2, **give)
        torch.testing.assert_close(at_once, parts, rtol=1e-3, atol=1e-3)
    by = ["bound(times=2)", "elbo(layers=2)"] + (["flow(rtol=0.1)"] if model == "score" else [])
    assert all(row.mean for row in likelihood(run, by, num=2, progress=False).by.values())
    assert run.labels_in_turn(2)["map"].shape == (2, 1, 4, 4)


def test_conditions_that_do_not_fit_a_run_are_refused(run_to, tmp_path):
    run = run_to(tmp_path, data=DATA, backbone=TINY, steps=1, condition_dropout=0.0)
    told, sampler = run.draw_labels(2), samplers.create("ddim(steps=1)")
    for change, says in (
        ({"size": None}, "condition lacks size: every example had them"),
        ({"size": told["size"] * torch.nan}, r"condition\['size'\] has NaN, for none"),
        ({"label": torch.tensor([0, -1])}, r"condition\['label'\] has labels from -1 to 0"),
        ({"label": torch.tensor([0, 3])}, r"condition\['label'\] has labels from 0 to 3"),
        ({"map": told["map"][:1]}, r"condition\['map'\] has shape \(1, 1, 4, 4\) for 2 examples"),
        ({"colour": told["size"]}, "condition has 'colour'; accepted: label, size, map"),
    ):
        with pytest.raises(ValueError, match=says):
            sampler(run.model, (2, 1, 4, 4), condition={**told, **change}, progress=False)
    with pytest.raises(TypeError, match=r"accepted: a dictionary of label \(0 \.\.\. 2\), size"):
        sampler(run.model, (2, 1, 4, 4), condition=told["label"], progress=False)
    with pytest.raises(ValueError, match="this run is told label"):
        run.labels_of(1, 2)
    for changes in ({"coupling": "ot"}, {"excess": True}):
        with pytest.raises(ValueError, match=r"conditions are label \(0 \.\.\. 2\), size \(2,\)"):
            run_to(tmp_path / "other", data=DATA, backbone=TINY, **changes)
    raw = {**{name: value[:2] for name, value in RAW.items()}, "label": torch.tensor([0, -1])}
    raw["size"] = raw["size"] * torch.nan
    again = run.condition_of(raw)
    assert torch.equal(again["map"], DATA.batch([0, 1]).condition["map"])
    assert again["size"].isnan().all()


def test_the_verbs_take_dictionaries_from_files(tmp_path):
    source, out, samples = (str(tmp_path / name) for name in ("d.npz", "run", "s.npz"))
    named = {f"condition_{name}": value.numpy() for name, value in RAW.items()}
    np.savez(source, x=DATA.raw().numpy(), **named)
    words = ["train", "--data", source, "--out", out, "--conditional", "--backbone", TINY]
    assert main([*words, "--steps", "3", "--batch-size", "8", "--no-progress"]) == 0
    words = ["sample", out, "--num", "5", "--steps", "2", "--out", samples]
    assert main(words) == 0
    assert data.load(samples).condition_shape["map"] == (1, 4, 4)
    assert main([*words, "--condition", source]) == 0
    found = data.load(samples).conditions
    for name, value in RAW.items():
        torch.testing.assert_close(found[name].double(), value[:5].double(), rtol=1e-5, atol=1e-5)
    assert main([*words, "--condition", samples, "--num", "9"]) == 2
    assert main([*words, "--condition", samples, "--label", "1"]) == 2


def test_a_run_is_given_to_others_with_what_it_is_told(run_to, tmp_path):
    run = run_to(tmp_path / "run", data=DATA, backbone=TINY, steps=1)
    interop.save_pretrained(run, tmp_path / "folder")
    loaded = interop.from_pretrained(tmp_path / "folder")
    assert loaded.condition_shape == SHAPE
    assert loaded.condition_scaling == DATA.condition_scaling
    again = load_run(save_run(loaded, tmp_path / "again"), data=DATA)
    x, told = torch.zeros(2, 1, 4, 4), again.draw_labels(2)
    assert torch.equal(again.model.score(x, 0.5, told), run.model.score(x, 0.5, told))
    other = data.from_tensor(DATA.raw(), condition=RAW["size"])
    with pytest.raises(data.DataError, match=r"conditions are vectors of shape \(2,\), not label"):
        load_run(tmp_path / "again", data=other).dataset()


def test_images_of_the_condition_are_turned_with_the_examples(run_to, config):
    x = DATA.raw()
    seen = data.from_tensor(x, condition={"same": x, "label": RAW["label"]})
    settled = resolve(replace(config, backbone=TINY, condition_dropout=0.0), seen)
    batches = Batches(seen, settled, augmentation=AUGMENTATIONS.create("flip"))
    (part,) = batches.step(0)
    (plain,) = Batches(seen, settled).step(0)
    assert torch.equal(part.condition["same"], part.x0)
    assert not torch.equal(part.x0, plain.x0)
    assert torch.equal(part.condition["label"], plain.condition["label"])


def test_a_network_follows_the_image_that_it_is_told(run_to, tmp_path):
    """x is the image with small noise: samples are like the image that they are told, and without
    one x0_hat of pure noise is the mean."""
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 500, 1, 4, 4, generator=generator)
    followed = data.from_tensor(image + 0.1 * noise, condition=image)
    network = "residual-unet(widths=(16,), blocks=1, attention=(False,), middle_attention=False)"
    changes = {"steps": 150, "batch_size": 32, "checkpoint_every": 150, "ema": 0.9}
    run = run_to(tmp_path, data=followed, backbone=network, learning_rate=0.01, **changes)
    told = torch.randn(100, 1, 4, 4, generator=generator)
    x = torch.randn(100, 1, 4, 4, generator=generator)
    sample = samplers.create("heun(steps=6)")(
        run.model, (100, 1, 4, 4), seed=0, condition=run.condition_of(told), progress=False
    )
    both = torch.stack([run.scaling.from_model(sample).flatten(), told.flatten().double()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.7
    without = run.model.denoise(x, 1.0)
    assert float(without.square().mean()) < 0.4
