"""The comparison of discrete and continuous training: what makes it fair, and its arithmetic."""

import csv
import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sde_score.data import Scaling
from sde_score.models import GaussianMixture
from sde_score.objectives import create
from sde_score.sdes import VE, VP
from sde_score.training import Trainer, prepare, split_data
from sde_score.training.presets import preset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = {
    "--backbone": "mlp(width=8, depth=1)",
    "--steps": "4",
    "--batch": "8",
    "--seeds": "1",
    "--num": "12",
    "--held-out": "0.05",
    "--nfe": "5",
    "--likelihoods": "2",
    "--extractor": "pixels",
}


def flags(**others):
    """Flags of a comparison of seconds."""
    given = {**TINY, **{f"--{name}": str(value) for name, value in others.items()}}
    return [word for pair in given.items() for word in pair]


@pytest.fixture
def script(monkeypatch):
    """Import a file of `benchmarks/`, as Python does for a script beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def shared(script):
    return script("discrete_vs_continuous")


@pytest.fixture
def options(shared, tmp_path):
    return shared.arguments("", flags(out=tmp_path / "out"), [3], [6], tmp_path)


class Recorded(GaussianMixture):
    """An exact model that remembers the times at which it was asked."""

    def score(self, x, t, condition=None):
        self.asked = {*getattr(self, "asked", ()), round(float(t), 12)}
        return super().score(x, t, condition)

    def denoise(self, x, t, condition=None):
        self.asked = {*getattr(self, "asked", ()), round(float(t), 12)}
        return super().denoise(x, t, condition)

    def noise(self, x, t, condition=None):
        self.asked = {*getattr(self, "asked", ()), round(float(t), 12)}
        return super().noise(x, t, condition)


def labels(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize(
    ("name", "layers", "places", "likelihoods", "nfe"),
    [
        (
            "ncsn_vs_sde",
            "3",
            ["rungs", "between"],
            ["flow"],
            {
                "annealed-langevin, 3 x 1": 4,
                "pc, 5": 4,
                "reverse-diffusion, 5": 5,
                "heun, 5": 5,
            },
        ),
        (
            "ddpm_vs_sde",
            "21",
            ["rungs", "between", "below"],
            ["ELBO, 21 layers", "continuous bound", "flow"],
            {"ddim, 5": 5, "euler-maruyama, 5": 5, "heun, 5": 5, "ancestral, 21": 21},
        ),
    ],
)
def test_a_comparison_uses_every_network_in_every_way(
    script, shared, tmp_path, monkeypatch, name, layers, places, likelihoods, nfe
):
    monkeypatch.setattr(shared, "BATCH", 5)  # evaluations are counted by sample, not by batch
    both = [f"discrete {layers}", "continuous"]
    report = script(name).main(flags(layers=layers, out=tmp_path))
    loss, bits, samples = report.tables.values()
    assert labels(loss, "ladder", "place") == [(int(layers), place) for place in places]
    assert labels(bits, "likelihood", "training") == [(w, b) for w in likelihoods for b in both]
    assert samples[0]["sampler"] == "(training data)"
    want = [(how, b, count) for how, count in nfe.items() for b in both]
    assert labels(samples[1:], "sampler", "training", "nfe") == want
    for row in [*loss, *bits, *samples]:
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert numbers
        assert all(map(math.isfinite, numbers))
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(kept["tables"].values()) == [loss, bits, samples]
    distances = [row["sliced-wasserstein2"] for row in samples]
    with open(tmp_path / "samples.csv", encoding="utf-8") as file:
        kept = [float(row["sliced-wasserstein2"]) for row in csv.DictReader(file)]
    assert kept == pytest.approx(distances, rel=1e-5)
    rows = written(script, tmp_path, monkeypatch)
    assert len(rows) == 3 * len(loss) + len(bits) + 2 * len(samples)
    assert {row["sde"] for row in rows} == {"VE" if name == "ncsn_vs_sde" else "VP"}
    found = {(row["figure"], row["of"], row["training"]): row["value"] for row in rows}
    for row in samples:
        want = row["frechet[pixels]"]
        assert found["frechet", row["sampler"], row["training"] or None] == pytest.approx(
            want, rel=1e-5
        )
    difference = found["loss", places[-1], f"difference {layers}"]
    assert difference == pytest.approx(loss[-1]["difference"], rel=1e-5)


def written(script, folder, monkeypatch):
    """Rows of the data file of a comparison, which come once however often they are gathered."""
    pictures = script("discrete_pictures")
    monkeypatch.setattr(pictures, "FILE", folder / "all.csv")
    for _ in range(2):
        pictures.gather([("mine", folder)], commit="abc")
    rows = script("results").read(folder / "all.csv")
    assert pictures.distances(rows[0]["sde"]).startswith(b"\x89PNG")
    return rows


def test_a_comparison_that_was_stopped_goes_on(script, tmp_path):
    """What is measured is not measured again; a line that was cut off is."""
    journal, calls = tmp_path / "rows.jsonl", []

    def measure():
        calls.append(1)
        return {"value": 0.1 * len(calls)}

    kind = script("results").Journal
    first = [kind(journal).kept(("a", k), measure) for k in (0, 1)]
    assert [row["value"] for row in first] == [0.1, 0.2]
    text = journal.read_text(encoding="utf-8")
    journal.write_text(text[:-4], encoding="utf-8")
    again = kind(journal)
    assert again.kept(("a", 0), measure) == first[0]
    assert again.kept(("a", 1), measure)["value"] == pytest.approx(0.3)
    assert len(kind(journal)) == 2


@pytest.mark.parametrize("sde", ["ve(sigma_min=0.05, sigma_max=9.0)", "vp"])
def test_the_trainings_differ_in_the_noise_levels_alone(shared, options, tmp_path, sde):
    """Same first weights, examples and noise; where one takes the time u, the other takes rung
    floor(u n)."""
    n = 30
    kinds = {"discrete": n, "continuous": None}
    trainers = {
        name: Trainer(prepare(shared.configuration(options, sde, layers, 5), tmp_path / name))
        for name, layers in kinds.items()
    }
    assert all(trainer.config.dequantize for trainer in trainers.values())
    assert all(trainer.config.seed == 5 for trainer in trainers.values())
    weights = [trainer.model.state_dict() for trainer in trainers.values()]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    for step in (0, 3):
        drawn = []
        for trainer in trainers.values():
            (part,) = trainer.batches.step(step)
            drawn.append((part.x0, *trainer.objective.draw(trainer.model.sde, part.x0, part.draws)))
        (x, rung, _, noise), (same_x, time, _, same_noise) = drawn
        assert torch.equal(x, same_x)
        assert torch.equal(noise, same_noise)
        forward = trainers["discrete"].model.sde
        u = (time - forward.t_min) / (forward.t_max - forward.t_min)
        assert torch.equal(rung, forward.discrete_times(n)[(u * n).long()])


def test_the_samplers_of_the_discrete_views_visit_the_rungs_alone(script):
    ve, vp = VE(0.05, 9.0), VP()
    cases = [
        (script("ncsn_vs_sde").samplers_at([20], ve, [7], 1.0), "annealed-langevin, 7 x 3", ve, 7),
        (script("ddpm_vs_sde").samplers_at([20], [40]), "ancestral, 40", vp, 40),
    ]
    for how, name, sde, n in cases:
        model = Recorded(torch.zeros(1, 2), 1.0, sde)
        how[name](model, (3, 2), seed=0, progress=False)
        assert sorted(model.asked) == pytest.approx(sde.discrete_times(n).tolist(), abs=1e-9)
        heun = Recorded(torch.zeros(1, 2), 1.0, sde)
        how["heun, 20"](heun, (3, 2), seed=0, progress=False)
        assert not heun.asked <= model.asked


def test_samples_are_held_against_data_that_no_training_saw(shared, options):
    judge = shared.Judge(options, shared.configuration(options, "vp", None, 0))
    run = Trainer(prepare(shared.configuration(options, "vp", 30, 1), options.out / "run"))
    train, held_out = split_data(run.config)
    assert (len(judge.raw), len(judge.train)) == (len(held_out), len(train)) == (90, 1707)
    assert torch.equal(held_out.scaling.from_model(judge.held_out), judge.raw)
    assert torch.equal(judge.raw, held_out.raw(torch.arange(90)))
    x = judge.train[:12]
    row = judge.distances(x)
    intervals = judge.estimator(x)
    assert row["sliced-wasserstein2"] == intervals[0].value
    assert row["frechet[pixels] ±"] == intervals[1].standard_error
    assert judge.floor()["frechet[pixels]"] == judge.estimator.floors[1].value


def test_all_bits_are_those_of_the_density_of_dequantized_data(script):
    """Level 1 of 2 fills 0 ... 1, whose variance is v = 1/12. For an exact N(1/2, v) the mean code
    length is known, and so is the bound of n layers: with S_i the signal-to-noise ratio of layer i
    at time i / n, the mean error of its denoised mean is v / (1 + v S_i)."""
    v, sde = 1 / 12, VP()
    distribution = GaussianMixture(torch.full((1, 16), 0.5), v, sde)
    run, raw = (
        SimpleNamespace(model=distribution, scaling=Scaling.discrete(2)),
        torch.ones(128, 16).byte(),
    )

    def bound(n):
        snr = torch.exp(sde.log_snr(torch.arange(1, n + 1, dtype=torch.float64) / n))
        errors = v / (1 + v * snr)
        layers = 0.5 * ((snr[:-1] - snr[1:]) * errors[1:]).sum()
        decoder = 0.5 * (torch.log(2 * math.pi / snr[0]) + snr[0] * errors[0])
        return float(layers + decoder)  # the prior costs 4e-5

    truth = 0.5 * (math.log(2 * math.pi * v) + 1)
    want = {"ELBO, 3 layers": bound(3), "ELBO, 1000 layers": bound(1000)}
    for name, bits in script("ddpm_vs_sde").likelihoods([3, 1000]).items():
        found = bits(run, raw)
        gap = found.mean - want.get(name, truth) / math.log(2)
        assert abs(gap) < 4 * found.standard_error + 1e-4, name
        assert found.standard_error < 0.05


def test_the_largest_deviation_is_along_the_first_axis(script):
    draws = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    x = draws @ torch.tensor([[1.2, 1.6], [-0.08, 0.06]])  # deviations 2 and 0.1 along two axes
    assert script("ncsn_vs_sde").largest_std(x) == pytest.approx(2.0, rel=0.05)


def test_places_lie_on_the_rungs_between_them_and_below(shared):
    found = shared.places(VP(), 40)
    rungs = torch.arange(1, 41, dtype=torch.float64) / 40
    assert all(len(times) == shared.LEVELS for times in found.values())
    for t in found["rungs"]:
        assert (t - rungs).abs().min() < 1e-12
    for t in found["between"]:
        assert (t - rungs).abs().min() == pytest.approx(1 / 80, abs=1e-12)
    assert 1e-5 < found["below"].min() < found["below"].max() < 1 / 40
    assert list(shared.places(VE(0.05, 9.0), 3)) == ["rungs", "between"]
    assert shared.places(VE(0.05, 9.0), 3)["between"].tolist() == [0.25, 0.75]


def test_losses_of_an_exact_model_have_their_closed_form(shared):
    """For N(0, v I) the noise is predicted with the error v alpha^2 / (v alpha^2 + sigma^2)."""
    sde, variance, times = VP(), 0.3, torch.tensor([0.02, 0.4], dtype=torch.float64)
    distribution = GaussianMixture(torch.zeros(1, 8), variance, sde)
    x0 = distribution.sample(4000, generator=torch.Generator().manual_seed(0)).float()
    found = shared.losses(SimpleNamespace(model=distribution), x0, times)
    kept, noise = variance * sde.alpha(times) ** 2, sde.sigma(times) ** 2
    want = float((kept / (kept + noise)).mean())
    assert float(found.mean()) == pytest.approx(want, abs=4 * float(found.std()) / 4000**0.5)
    assert float(found.std()) / 4000**0.5 < 0.01 * want


def test_losses_are_those_of_the_objective(shared):
    sde, t = VE(0.05, 9.0), torch.tensor([0.3], dtype=torch.float64)
    distribution = GaussianMixture(torch.ones(1, 4), 0.5, sde)
    x0 = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(x0.shape, generator=shared.generator_from(3, 0))
    want = create("denoising").at(distribution, x0, t.expand(6), noise)
    torch.testing.assert_close(shared.losses(SimpleNamespace(model=distribution), x0, t), want)


def test_a_wrong_network_loses_to_the_true_one_in_pairs(shared, options):
    """Of two exact models one is wrong: the difference is positive, its error that of pairs."""
    sde = VP()
    true, wrong = (GaussianMixture(torch.zeros(1, 8), v, sde) for v in (0.3, 0.5))
    x0 = true.sample(2000, generator=torch.Generator().manual_seed(0)).float()
    runs = {
        ("discrete 30", 0): SimpleNamespace(model=wrong),
        ("continuous", 0): SimpleNamespace(model=true),
    }
    options.layers, options.num = [30], 1500  # of 2000
    places = shared.places(sde, 30)
    for row in shared.loss_rows(runs, options, SimpleNamespace(held_out=x0)):
        difference, error = row["difference"], row["difference ±"]
        assert difference == pytest.approx(row["discrete"] - row["continuous"], abs=1e-5)
        assert difference > 3 * error
        assert error < 0.5 * row["continuous ±"]
        losses = shared.losses(runs["continuous", 0], x0[:1500], places[row["place"]])
        assert row["continuous ±"] == pytest.approx(float(losses.std()) / 1500**0.5)


def test_seeds_are_merged_into_means_with_the_larger_error(script):
    rows = [
        {"sampler": "a", "ladder": 3, "seed": 0, "nfe": 7, "SW2": 1.0, "SW2 ±": 0.3},
        {"sampler": "a", "ladder": 3, "seed": 1, "nfe": 7, "SW2": 1.2, "SW2 ±": 0.4},
        {"sampler": "b", "ladder": 3, "seed": 0, "nfe": 7, "SW2": 1.0, "SW2 ±": 0.1},
        {"sampler": "b", "ladder": 3, "seed": 1, "nfe": 7, "SW2": 3.0, "SW2 ±": 0.1},
    ]
    calm, wild = script("tables").over_seeds(rows)
    assert calm["SW2"] == pytest.approx(1.1)
    assert calm["SW2 ±"] == pytest.approx((0.3**2 + 0.4**2) ** 0.5 / 2)
    assert wild["SW2 ±"] == pytest.approx(1.0)  # |3 - 1| / 2
    assert calm["sampler"] == "a"
    assert calm["ladder"] == 3
    assert calm["nfe"] == 7
    assert "seed" not in calm


@pytest.mark.parametrize(
    ("source", "backbone", "extractor"),
    [("ring(n=60)", "mlp", "pixels"), ("digits", "unet(base=16, multipliers=(1, 2))", "pixels")],
)
def test_networks_and_features_are_those_of_the_data(shared, tmp_path, source, backbone, extractor):
    words = ["--data", source, "--out", str(tmp_path / "out")]
    words += ["--extractor", "pixels"] if source == "digits" else []
    found = shared.arguments("", words, [3], [6], tmp_path)
    assert (found.backbone, found.extractor) == (backbone, extractor)
    assert found.dequantize == (source == "digits")


def test_the_tables_of_the_page_are_those_of_the_file(script):
    pictures = script("discrete_pictures")
    page = pictures.PAGE.read_text(encoding="utf-8")
    assert pictures.with_tables(page) == page
    assert len(page.partition(pictures.BEGIN)[2].splitlines()) > 60


def test_a_figure_of_zero_is_a_figure(script, tmp_path, monkeypatch):
    pictures, results = script("discrete_pictures"), script("results")
    monkeypatch.setattr(pictures, "FILE", tmp_path / "all.csv")
    row = {"data": "a", "sde": "VE", "figure": "loss", "of": "between", "training": "difference 3"}
    values = ((0.0, 0), (1.0, 1))
    rows = [{**row, "value": value, "value ±": 0.0, "seed": seed} for value, seed in values]
    results.write(pictures.FILE, rows)
    (found,) = pictures.merged()
    assert (found["value"], found["value ±"]) == (0.5, 0.5)


@pytest.mark.parametrize("sde", ["ve(sigma_min=0.02, sigma_max=9.0)", "vp"])
def test_a_training_is_the_published_one_but_for_what_small_networks_ask(shared, options, sde):
    """They are told the noise as networks of ours are, and digits are not mirrored."""
    found = shared.configuration(options, sde, None, 0)
    published = preset(f"song-{sde.partition('(')[0]}").config()
    assert (found.optimizer, found.clip) == (published.optimizer, published.clip)
    assert (found.prediction, found.augmentation) == ("noise", "none")
