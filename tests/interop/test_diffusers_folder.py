"""Pipelines of diffusers that are written: by our own importer, and by diffusers where it is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sde_score import interop
from sde_score.cli import main
from sde_score.interop.convert import save_run
from sde_score.interop.diffusers_folder import scheduler_config
from sde_score.interop.imported import Imported, images
from sde_score.interop.schedules import betas, through
from sde_score.nn import create
from sde_score.scaling import Scaling
from sde_score.sdes import VE, VP, Tabulated

NETS = {
    "ddpm": "ddpm(base=32, multipliers=(1, 2), blocks=1, attention=(4,), up_attention='all')",
    "heads": "residual-unet(widths=(16, 32), blocks=2, attention=(True, False), down='conv',"
    " up='conv', groups=8, head_channels=8, sine_first=False, shift=0.0, embedding_width=48)",
    "adm": "residual-unet(widths=(16, 16, 32), blocks=1, attention=(False, True, False),"
    " groups=4, scale_shift=True, middle_norm=False, middle_scale=0.5, eps=1e-4)",
    "plain": "residual-unet(widths=(8, 8), blocks=1, attention=(False, False), groups=4,"
    " middle_attention=False, out_channels=4, down='conv', up='conv')",
}


def written(name, sde=None, prediction="ddpm(n=50)", classes=0, **changes):
    spec = NETS.get(name, name)
    torch.manual_seed(0)
    shape = (2, 8, 12) if name == "plain" else (2, 8, 8)
    net = create(spec, shape, classes)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    sde = through(betas("linear", 50, 1e-4, 0.02)) if sde is None else sde
    found = Imported(
        "mine", spec, shape, sde, prediction, net.state_dict(), scaling=images(),
        num_classes=classes, needs_condition=classes > 0,
    )  # fmt: skip
    return replace(found, **changes)


def answers(imported, classes=0):
    model = imported.model()
    x = torch.randn(3, *imported.event_shape, generator=torch.Generator().manual_seed(2))
    label = torch.tensor([0.0, 7.0, 49.0])
    condition = torch.tensor([0, 1, 2]) if classes else None
    with torch.no_grad():
        return x, label, condition, model.backbone.everything(x, label, condition)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("classes", [0, 3])
def test_our_importer_reads_the_same_network(name, classes, tmp_path):
    before = written(name, classes=classes)
    after = interop.load(interop.save_diffusers(before, tmp_path / "pipe"))
    assert torch.equal(answers(after, classes)[-1], answers(before, classes)[-1])
    assert (after.sde, after.num_classes, after.scaling) == (before.sde, classes, images())
    assert sorted(p.name for p in (tmp_path / "pipe").iterdir()) == [
        "model_index.json",
        "scheduler",
        "unet",
    ]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("classes", [0, 3])
def test_diffusers_loads_the_same_network(name, classes, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    before = written(name, classes=classes)
    folder = interop.save_diffusers(before, tmp_path / "pipe")
    net, info = diffusers.UNet2DModel.from_pretrained(
        folder, subfolder="unet", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    x, label, condition, want = answers(before, classes)
    with torch.no_grad():
        found = net.eval()(x, label, class_labels=condition).sample
    assert (found - want).abs().max() <= 1e-5 * want.abs().max()
    double = replace(before, state={k: v.double() for k, v in before.state.items()}).model()
    with torch.no_grad():
        exact = double.backbone.everything(x.double(), label.double(), condition)
        found = net.double()(x.double(), label.double(), class_labels=condition).sample
    # diffusers computes the features of the label in float32.
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("output", ["noise", "data", "v"])
def test_pipelines_of_diffusers_run(output, tmp_path):
    """Ten steps of DDIM are those of our sampler at the same times."""
    diffusers = pytest.importorskip("diffusers")
    spec = "residual-unet(widths=(8, 16), blocks=1, attention=(False, True), groups=4, shift=0.0)"
    before = written(spec, prediction=f"ddpm(n=50, output='{output}')")
    before = replace(before, event_shape=(2, 8, 8))
    folder = interop.save_diffusers(before, tmp_path / "pipe")
    pipe = diffusers.DDIMPipeline.from_pretrained(folder)
    assert isinstance(pipe.scheduler, diffusers.DDIMScheduler)
    pipe.scheduler.set_timesteps(10)
    model, x = before.model(), torch.randn(1, 2, 8, 8)
    ours = theirs = x
    with torch.no_grad():
        for step in pipe.scheduler.timesteps:
            theirs = pipe.scheduler.step(pipe.unet(theirs, step).sample, step, theirs).prev_sample
            t, then = (float(step) + 1) / 50, (float(step) - 4) / 50
            noise, data = model.noise(ours, t), model.denoise(ours, t)
            last = then <= 0
            alpha, sigma = (1.0, 0.0) if last else (model.sde.alpha(then), model.sde.sigma(then))
            ours = (alpha * data + sigma * noise).float()
    assert (ours - theirs).abs().max() <= 1e-3 * ours.abs().max()
    kinds = (diffusers.DDPMPipeline, diffusers.DDIMPipeline) if output == "v" else ()
    for kind in kinds:
        pipe = kind.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        torch.manual_seed(0)
        drawn = pipe(num_inference_steps=2, output_type="np").images
        assert drawn.shape == (1, 8, 8, 2)


def test_betas_are_named_or_written_out(tmp_path):
    """Of a diffusion without a name, and of VP as a chain of layers."""
    linear, cosine = through(betas("linear", 50, 1e-4, 0.02)), through(betas("cosine", 50))
    for name, sde in (("linear", linear), ("squaredcos_cap_v2", cosine)):
        config = scheduler_config(written("plain", sde))
        assert (config["beta_schedule"], config["trained_betas"]) == (name, None)
    odd = Tabulated.from_betas(torch.linspace(0.01, 0.3, 50))
    times = torch.arange(1, 51, dtype=torch.float64) / 50
    for k, sde in enumerate((odd, VP())):
        folder = interop.save_diffusers(written("plain", sde), tmp_path / str(k))
        found = interop.load(folder)
        torch.testing.assert_close(found.sde.alpha(times), sde.alpha(times), rtol=1e-12, atol=0)


REFUSED = {
    "mlp(width=8)": ({}, "'mlp' on examples"),
    "ncsnpp(base=8, multipliers=(1, 2), blocks=1)": ({}, "embedding='fourier'"),
    "ddpm(base=32, multipliers=(1, 2), blocks=1, attention=(4,))": ({}, r"at decoder.\d"),
    "ddpmpp(base=16, multipliers=(1, 2), blocks=1)": ({}, "cannot express"),
    "ddpm": ({"sde": VE()}, "no chain of 50 betas"),
    "heads": ({"prediction": "edm"}, "prediction=edm is not"),
    "adm": ({"scaling": images(0.0)}, "black and white are"),
    "plain": ({"prediction": "ddpm(n=50, labels=1000.0)"}, "is not that of diffusers"),
    NETS["plain"]: ({"prediction": "ddpm(n=50, kept=(0, 9))"}, "is not that of diffusers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_diffusers_does_not_have_is_refused_by_name(name, tmp_path):
    changes, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        interop.save_diffusers(written(name, **changes), tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()


@pytest.mark.parametrize(
    "change",
    [
        "class_first=True", "channels_per_group=8", "scale=0.5", "attention_groups=1",
        "features=8", "fir=True", "stem_width=8", "input_branch='skip'",
    ],
)  # fmt: skip
def test_every_switch_that_it_lacks_is_seen(change, tmp_path):
    spec = f"residual-unet(widths=(16, 32), attention=(True, False), groups=8, {change})"
    with pytest.raises(ValueError, match="cannot express"):
        interop.save_diffusers(written(spec, classes=2), tmp_path / "pipe")


def test_odd_sides_are_refused(tmp_path):
    found = replace(written("ddpm"), event_shape=(2, 9, 8))
    with pytest.raises(ValueError, match="multiples of 2"):
        interop.save_diffusers(found, tmp_path / "pipe")


def test_convert_writes_pipelines_and_folders_of_the_hub(tmp_path, capsys):
    found = replace(written("ddpm"), scaling=Scaling.discrete(256))
    run = str(save_run(found, tmp_path / "run"))
    for to in ("diffusers", "hub"):
        out = tmp_path / to
        assert main(["convert", run, str(out), "--to", to]) == 0
        again = interop.load(out)
        assert all(torch.equal(again.state[k], v) for k, v in found.state.items())
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["library"] == "sde_score"
    names = load_file(tmp_path / "diffusers" / "unet" / "diffusion_pytorch_model.safetensors")
    assert "mid_block.attentions.0.to_q.weight" in names
    assert main(["convert", run, str(tmp_path / "hub"), "--to", "diffusers"]) == 2
    assert "is a folder that holds files" in capsys.readouterr().err
