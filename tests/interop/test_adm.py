"""ADM's networks: recorded answers where they are at hand, and the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sde_score import interop
from sde_score.interop.adm import PRESETS
from sde_score.sdes import EDM, betas_of
from sde_score.training import CheckpointError

RECORDED = {
    "adm_legacy": {"heads": 4, "new_order": False, "schedule": "linear"},
    "adm_new_updown": {"head_channels": 8, "new_order": True, "schedule": "cosine"},
    "improved_diffusion": {"preset": "improved-cosine-4000"},
}


@pytest.mark.parametrize("name", RECORDED)
def test_answers_are_those_recorded(reference, recorded_file, matches, usable, name):
    arrays, _ = reference(name)
    imported = interop.load(recorded_file(f"{name}.pt"), image_size=8, **RECORDED[name])

    def answer(model, dtype):
        label = arrays["timesteps"].to(dtype)
        return model.backbone.everything(arrays["x"].to(dtype), label, arrays.get("y"))

    matches(imported, answer, arrays["output_f64"])
    usable(imported, None if not imported.num_classes else torch.zeros(1, dtype=torch.int64))


CHANNELS, BASE, WIDTHS, BLOCKS = 2, 8, (32, 64), 1


def conv(weights, name, x, **options):
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)


def norm(weights, name, x):
    return F.group_norm(x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def linear(weights, name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def block(weights, name, x, emb, scale_shift, way=None):
    h = F.silu(norm(weights, f"{name}.in_layers.0", x))
    if way == "down":
        h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
    if way == "up":
        h, x = (F.interpolate(z, scale_factor=2.0, mode="nearest") for z in (h, x))
    h = conv(weights, f"{name}.in_layers.2", h, padding=1)
    told = linear(weights, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    if scale_shift:
        scale, shift = told.chunk(2, 1)
        h = norm(weights, f"{name}.out_layers.0", h) * (1 + scale) + shift
    else:
        h = norm(weights, f"{name}.out_layers.0", h + told)
    h = conv(weights, f"{name}.out_layers.3", F.silu(h), padding=1)
    if f"{name}.skip_connection.weight" in weights:
        x = conv(weights, f"{name}.skip_connection", x)
    return x + h


def attention(weights, name, x, heads, new_order):
    batch, channels, *sides = x.shape
    flat = norm(weights, f"{name}.norm", x).reshape(batch, channels, -1)
    qkv = torch.einsum("oi,bin->bon", weights[f"{name}.qkv.weight"][:, :, 0], flat)
    qkv = qkv + weights[f"{name}.qkv.bias"][:, None]
    width, out = channels // heads, []
    for head in range(heads):
        if new_order:
            q, k, v = (qkv[:, j * channels + head * width :][:, :width] for j in range(3))
        else:
            q, k, v = (qkv[:, (3 * head + j) * width :][:, :width] for j in range(3))
        share = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(width), dim=-1)
        out.append(torch.einsum("bnm,bcm->bcn", share, v))
    mixed = torch.einsum(
        "oi,bin->bon", weights[f"{name}.proj_out.weight"][:, :, 0], torch.cat(out, 1)
    )
    return x + (mixed + weights[f"{name}.proj_out.bias"][:, None]).reshape(batch, channels, *sides)


def answer_of(weights, x, label, y, heads, new_order, scale_shift, updown):
    """Two levels of one block, attention at the coarser one, by the published walk."""
    angles = label[:, None] * 10000.0 ** -(torch.arange(BASE // 2).double() / (BASE // 2))
    emb = linear(weights, "time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
    emb = linear(weights, "time_embed.2", F.silu(emb)) + weights["label_emb.weight"][y]

    def res(name, h, way=None):
        return block(weights, name, h, emb, scale_shift, way)

    def attend(name, h):
        return attention(weights, name, h, heads, new_order)

    h = conv(weights, "input_blocks.0.0", x, padding=1)
    kept = [h, res("input_blocks.1.0", h)]
    if updown:
        kept.append(res("input_blocks.2.0", kept[-1], "down"))
    else:
        kept.append(conv(weights, "input_blocks.2.0.op", kept[-1], stride=2, padding=1))
    kept.append(attend("input_blocks.3.1", res("input_blocks.3.0", kept[-1])))
    h = attend("middle_block.1", res("middle_block.0", kept[-1]))
    h = res("middle_block.2", h)
    for place in range(4):
        h = res(f"output_blocks.{place}.0", torch.cat([h, kept.pop()], 1))
        if place < 2:
            h = attend(f"output_blocks.{place}.1", h)
        if place == 1 and updown:
            h = res("output_blocks.1.2", h, "up")
        elif place == 1:
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            h = conv(weights, "output_blocks.1.2.conv", h, padding=1)
    return conv(weights, "out.2", F.silu(norm(weights, "out.0", h)), padding=1)


def shapes(scale_shift, updown):
    """Names and shapes of such a checkpoint."""
    a, b = WIDTHS
    found = {"time_embed.0": (4 * BASE, BASE), "time_embed.2": (4 * BASE, 4 * BASE)}
    found |= {
        "input_blocks.0.0": (a, CHANNELS, 3, 3),
        "out.0": (a,),
        "out.2": (2 * CHANNELS, a, 3, 3),
    }

    def res(name, i, o):
        told = 2 * o if scale_shift else o
        layers = {
            "in_layers.0": (i,),
            "in_layers.2": (o, i, 3, 3),
            "emb_layers.1": (told, 4 * BASE),
        }
        layers |= {"out_layers.0": (o,), "out_layers.3": (o, o, 3, 3)}
        layers |= {"skip_connection": (o, i, 1, 1)} if i != o else {}
        found.update({f"{name}.{key}": shape for key, shape in layers.items()})

    for name in ("input_blocks.3.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1"):
        found |= {f"{name}.norm": (b,), f"{name}.qkv": (3 * b, b, 1), f"{name}.proj_out": (b, b, 1)}
    res("input_blocks.1.0", a, a)
    res("input_blocks.3.0", a, b)
    res("middle_block.0", b, b)
    res("middle_block.2", b, b)
    for place, (i, o) in enumerate([(2 * b, b), (b + a, b), (b + a, a), (2 * a, a)]):
        res(f"output_blocks.{place}.0", i, o)
    if updown:
        res("input_blocks.2.0", a, a)
        res("output_blocks.1.2", b, b)
    else:
        found |= {"input_blocks.2.0.op": (a, a, 3, 3), "output_blocks.1.2.conv": (b, b, 3, 3)}
    return found


def drawn(scale_shift, updown):
    generator = torch.Generator().manual_seed(0)
    weights = {"label_emb.weight": torch.randn(3, 4 * BASE, generator=generator)}
    for name, shape in shapes(scale_shift, updown).items():
        spread = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 1.0
        weights[f"{name}.weight"] = spread * torch.randn(shape, generator=generator)
        weights[f"{name}.bias"] = 0.3 * torch.randn(shape[0], generator=generator)
    return weights


@pytest.mark.parametrize(
    ("new_order", "scale_shift", "updown"),
    [(True, True, True), (False, False, False), (False, True, True), (True, False, False)],
)
def test_networks_are_those_of_the_formulas(tmp_path, matches, new_order, scale_shift, updown):
    weights = drawn(scale_shift, updown)
    torch.save(weights, tmp_path / "model.pt")
    imported = interop.load(
        tmp_path / "model.pt", heads=4, new_order=new_order, schedule="cosine", image_size=4
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, CHANNELS, 4, 4, generator=generator, dtype=torch.float64)
    label, y = torch.tensor([3.0, 870.0], dtype=torch.float64), torch.tensor([2, 0])
    exact = {name: value.double() for name, value in weights.items()}
    want = answer_of(exact, x, label, y, 4, new_order, scale_shift, updown)
    matches(imported, lambda m, d: m.backbone.everything(x.to(d), label.to(d), y), want)
    assert imported.num_classes == 3
    assert imported.needs_condition
    abar = (1 - betas_of("cosine", 1000)).cumprod(0)
    t = torch.tensor([0.001, 0.5], dtype=torch.float64)
    torch.testing.assert_close(imported.sde.alpha(t) ** 2, abar[[0, 499]])


@pytest.mark.parametrize(("preset", "low"), [("edm", 0.0), ("consistency", 0.002)])
def test_networks_of_consistency_models(tmp_path, preset, low):
    """D = c_skip x + c_out F(c_in x, 250 log sigma), the data itself at the boundary."""
    weights = {
        k: v[..., None] if ".qkv.weight" in k or ".proj_out.weight" in k else v
        for k, v in drawn(True, True).items()
    }
    torch.save(weights, tmp_path / "model.pt")
    imported = interop.load(tmp_path / "model.pt", preset=f"{preset}-imagenet-64", image_size=4)
    x = 3 * torch.randn(3, CHANNELS, 4, 4, dtype=torch.float64)
    y, sigma = torch.tensor([2, 0, 1]), torch.tensor([0.0025, 0.3, 40.0], dtype=torch.float64)
    exact = {name: value.double() for name, value in drawn(True, True).items()}
    s = sigma[:, None, None, None]
    f = answer_of(exact, x / (s**2 + 0.25).sqrt(), 250 * sigma.log(), y, 1, True, True, True)
    c_skip = 0.25 / ((s - low) ** 2 + 0.25)
    c_out = (s - low) * 0.5 / (s**2 + 0.25).sqrt()
    model = imported.model().double()
    with torch.no_grad():
        found = model.denoise(x, sigma, y)
        torch.testing.assert_close(found, c_skip * x + c_out * f[:, :CHANNELS])
        edge = model.denoise(x, 0.002, y)
    assert edge.isfinite().all()
    assert ((edge - x).abs().max() < 1e-6) == (low > 0)


@pytest.mark.parametrize(("name", "said"), [("upsampler", "upsampler"), ("classifier", "classif")])
def test_other_networks_of_guided_diffusion_are_refused_by_name(tmp_path, name, said):
    weights = drawn(True, True)
    if name == "upsampler":
        weights |= {
            k: torch.zeros(6, *weights[k].shape[1:]) for k in ("out.2.weight", "out.2.bias")
        }
        weights["input_blocks.0.0.weight"] = torch.zeros(WIDTHS[0], 6, 3, 3)
    else:
        weights = {k: v for k, v in weights.items() if not k.startswith(("output_", "out.2"))}
        weights["out.2.positional_embedding"] = torch.zeros(64, 17)
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=said):
        interop.load(tmp_path / "model.pt", preset="imagenet-256")


def test_weights_of_half_precision_are_computed_in_float32(tmp_path):
    """They overflow at the sizes that the first steps of a sampler meet."""
    torch.save({k: v.half() for k, v in drawn(True, True).items()}, tmp_path / "model.pt")
    model = interop.load(tmp_path / "model.pt", preset="imagenet-256").model()
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    x = 1e5 * torch.ones(1, CHANNELS, 4, 4)
    assert model.noise(x, 0.5, torch.tensor([1])).isfinite().all()


def test_what_the_weights_do_not_say_is_asked_for(tmp_path):
    torch.save(drawn(True, True), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="do not say new_order, schedule, heads or head_channels"):
        interop.load(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="preset='imagenet-65'"):
        interop.load(tmp_path / "model.pt", preset="imagenet-65")
    with pytest.raises(ValueError, match="does not take depth; accepted: preset"):
        interop.load(tmp_path / "model.pt", depth=3)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_say_all_that_is_asked_for(tmp_path, preset):
    torch.save(drawn(True, True), tmp_path / "model.pt")
    imported = interop.load(tmp_path / "model.pt", preset=preset)
    if isinstance(imported.sde, EDM):
        assert imported.sigma_data == 0.5
        return
    steps = 4000 if "4000" in preset else 1000
    assert len(imported.sde.log_snrs) == steps
    assert "labels=1000.0" in imported.prediction


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("middle_block.1.proj_out.weight", None, "has no 'middle_block.1.proj_out.weight'"),
        ("middle_block.3.weight", torch.zeros(2), "have no place in the network"),
        ("middle_block.2.in_layers.0.weight", torch.zeros(3), "shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, name, value, message):
    weights = {**drawn(True, True), name: value}
    torch.save({k: v for k, v in weights.items() if v is not None}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        interop.load(tmp_path / "model.pt", preset="imagenet-256")
