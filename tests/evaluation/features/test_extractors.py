"""Extractors: how they are called and named, what foreign networks are shown, what is refused."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sde_score.data import DataError, Scaling, load
from sde_score.evaluation import EXTRACTORS, create_extractor, extract
from sde_score.evaluation.features.extractors import feature_batches
from sde_score.evaluation.features.pretrained import eight_bit_colors


def ramp(*shape):
    return torch.linspace(-1, 1, math.prod(shape)).reshape(shape)


def test_pixels_are_the_numbers_themselves():
    x = ramp(5, 2, 3).double()
    pixels = create_extractor("pixels")
    assert pixels.name == "pixels"
    assert torch.equal(extract(x, pixels, batch_size=2), x.flatten(1))
    assert torch.equal(extract(x), x.flatten(1))


def test_a_function_is_an_extractor_called_by_its_own_name():
    def means(x):
        return x.mean((1, 2))[:, None]

    assert create_extractor(means).name == "means"
    assert create_extractor(nn.Flatten()).name == "Flatten"
    named = create_extractor("pixels")
    assert create_extractor(named) is named
    assert torch.equal(extract(ramp(4, 2, 2), means), ramp(4, 2, 2).mean((1, 2))[:, None])


def test_batches_are_bounded_in_order_and_without_gradients():
    seen, weight = [], torch.ones(3, requires_grad=True)

    def spy(x):
        seen.append((len(x), torch.is_grad_enabled()))
        return x * weight

    x = ramp(7, 3)
    batches = list(feature_batches(x, spy, batch_size=3))
    assert seen == [(3, False), (3, False), (1, False)]
    assert not any(batch.requires_grad for batch in batches)
    assert torch.equal(torch.cat(batches), x)


def test_progress_is_shown_on_request(capsys):
    extract(ramp(4, 2), "pixels", batch_size=2)
    assert capsys.readouterr().err == ""
    assert torch.equal(extract(ramp(4, 2), "pixels", batch_size=2, progress=True), ramp(4, 2))
    assert "features: pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: x.sum(1), r"shape \(4,\) for 4 examples"),
        (lambda x: x[:-1], r"shape \(3, 2\) for 4 examples"),
        (lambda x: x[:, None], r"accepted: floating-point features of shape \(4, features\)"),
        (lambda x: x.long(), "int64"),
        (lambda x: x / 0, "not finite"),
    ],
)
def test_answers_that_are_no_features_are_refused(answer, words):
    with pytest.raises(ValueError, match=words):
        extract(ramp(4, 2), answer)


def test_bad_requests_are_refused():
    with pytest.raises(TypeError, match="3 is no extractor"):
        create_extractor(3)
    with pytest.raises(ValueError, match="unknown extractor 'inceptoin'; did you mean 'inception'"):
        create_extractor("inceptoin")
    with pytest.raises(TypeError, match=r"x\.float"):
        extract(torch.zeros(3, 2).long())
    with pytest.raises(ValueError, match="no examples"):
        extract(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="batch_size=0"):
        extract(torch.zeros(3, 2), batch_size=0)
    assert "fid" not in " ".join(EXTRACTORS)


def test_random_convolution_is_a_function_of_its_seed_alone():
    state = torch.get_rng_state()
    x = ramp(6, 1, 8, 8).sin()
    first, again, other = (
        extract(x, f"random-convolution(seed={s})", batch_size=b)
        for s, b in ((1, 6), (1, 2), (2, 6))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (6, 64)
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, other, rtol=0.1)
    assert torch.linalg.matrix_rank(first - first.mean(0)) == 5
    assert create_extractor("random-convolution(seed=2)").name == "random-convolution(seed=2)"
    with pytest.raises(ValueError, match=r"takes images .* try 'pixels'"):
        extract(ramp(4, 5), "random-convolution")


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_become_evenly_spaced_colors(levels):
    """Level k of L is k / (L - 1) of white, for the middle of its bin and just within its edges."""
    raw = torch.arange(levels).reshape(levels, 1, 1, 1)
    scaling = Scaling.discrete(levels)
    expected = torch.tensor([round(255 * k / (levels - 1)) for k in range(levels)]).byte()
    middle = scaling.to_model(raw)
    for x in (middle, middle + 0.99 / levels, middle - 0.99 / levels):
        colors = eight_bit_colors(x, levels)
        assert colors.dtype == torch.uint8
        assert torch.equal(colors, expected.reshape(levels, 1, 1, 1).expand(-1, 3, -1, -1))
    assert eight_bit_colors(torch.tensor([-1.7, 1.0, 3.0]).reshape(3, 1, 1, 1), levels)[
        :, 0
    ].flatten().tolist() == [0, 255, 255]


def test_bundled_digits_keep_their_levels():
    digits = load("digits")
    raw = digits.raw(torch.arange(20))
    colors = eight_bit_colors(digits.tensor(20), 17)
    assert (colors[:, :1].double() - raw.double() * 255 / 16).abs().max() <= 0.5


def test_colors_of_a_colour_image_stay_in_their_channels():
    x = torch.tensor([-1.0, 0.0, 0.999]).reshape(1, 3, 1, 1)
    assert eight_bit_colors(x).flatten().tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match="does not hold images"):
        eight_bit_colors(torch.zeros(2, 4, 8, 8))
    with pytest.raises(ValueError, match="does not hold images"):
        eight_bit_colors(torch.zeros(2, 8, 8))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(2 * x)


class EightBit(nn.Module):
    """Answers its input as features, or something else, and takes 8-bit images alone."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if x.dtype != torch.uint8 or not return_features:
            return torch.zeros(1, 1)
        return x.to(torch.float32)


def script(module, path):
    torch.jit.save(torch.jit.script(module), path)
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_network_is_called_in_evaluation_mode_in_float32(tmp_path):
    path = script(Plain().train(), tmp_path / "mine.pt")
    extractor = create_extractor(f"torchscript(path={str(path)!r})")
    assert extractor.name == "mine"
    features = extract(ramp(3, 2, 2).double(), extractor)
    assert features.dtype == torch.float32
    assert torch.equal(features, 2 * ramp(3, 2, 2).flatten(1))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_inception_sees_eight_bit_colors(tmp_path):
    path = script(EightBit(), tmp_path / "some-file.pt")
    extractor = create_extractor(f"inception(path={str(path)!r}, levels=17)")
    assert extractor.name == "inception"
    x = ramp(5, 1, 2, 2)
    expected = eight_bit_colors(x, 17).float().flatten(1)
    assert torch.equal(extract(x, extractor), expected)
    assert create_extractor(f"inception(path={str(path)!r})").levels == 256


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["torchscript", "inception", "safetensors"])
def test_damaged_files_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "damaged.pt"
    path.write_bytes(b"not a network")
    with pytest.raises(DataError, match=r"damaged\.pt: cannot be read as a"):
        create_extractor(f"{kind}(path={str(path)!r})")


class FakeTransformer(nn.Module):
    """Answers the picture it was shown as its class token, and nothing as the other token."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, pixel_values):
        token = self.dropout(pixel_values.flatten(1))
        return SimpleNamespace(last_hidden_state=torch.stack([token, 0 * token], 1))


@pytest.fixture
def transformers(monkeypatch):
    asked = []

    def from_pretrained(path, **options):
        asked.append((path, options))
        return FakeTransformer().train()

    fake = SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=from_pretrained))
    monkeypatch.setitem(sys.modules, "transformers", fake)
    return asked


def test_dinov2_sees_normalized_colors_of_its_size(tmp_path, transformers):
    """Images of the network's own size are not resampled, only normalized as ImageNet was."""
    extractor = create_extractor(f"dinov2(path={str(tmp_path)!r}, size=2)")
    assert extractor.name == "dinov2"
    assert transformers == [(str(tmp_path), {"local_files_only": True, "use_safetensors": True})]
    x = ramp(2, 3, 2, 2)
    seen = extract(x, extractor).reshape(2, 3, 2, 2)
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        colors = eight_bit_colors(x)[:, channel].float() / 255
        torch.testing.assert_close(seen[:, channel], (colors - mean) / std, atol=1e-5, rtol=1e-5)


def test_dinov2_resizes_with_antialiasing(tmp_path, transformers):
    """A fine checkerboard, shrunk, is gray; without antialiasing it would be black or white."""
    extractor = create_extractor(f"dinov2(path={str(tmp_path)!r}, size=4)")
    board = ((torch.arange(12)[:, None] + torch.arange(12)) % 2).float() * 1.9 - 0.95
    seen = extract(board.reshape(1, 1, 12, 12), extractor).reshape(1, 3, 4, 4)
    gray = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen.mean((0, 2, 3)), gray, atol=0.03, rtol=0)
    assert seen.std((2, 3)).max() < 0.1


def test_dinov2_says_what_to_install_and_never_asks_the_network(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        create_extractor(f"dinov2(path={str(tmp_path)!r})")


def test_dinov2_takes_local_folders_alone(transformers):
    with pytest.raises(DataError, match=r"facebook/dinov2-base: .*no such folder"):
        create_extractor("dinov2(path='facebook/dinov2-base')")
    assert transformers == []
