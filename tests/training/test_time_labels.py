"""A network whose noise label it cannot tell apart is said before it is trained."""

import warnings

import pytest

from sde_score.training import TrainConfig, prepare

UNET = "unet(base=16, multipliers=(1,), blocks=1, attention=())"
DDPMPP = "ddpmpp(base=16, multipliers=(1,), blocks=1, attention=())"


def said(tmp_path, backbone, prediction, sde, **others):
    chosen = {"backbone": backbone, "prediction": prediction, "sde": sde, **others}
    config = TrainConfig(data="digits", steps=1, **chosen)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(config, tmp_path / "run")
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    ("backbone", "prediction", "sde"),
    [
        (UNET, "noise", "ve(sigma_min=1e-6, sigma_max=1e6)"),  # labels of 3.5
        (UNET, "score-sde-ve", "ve"),  # up to 4.6
        (DDPMPP, "score-sde-vp", "vp"),  # its own, up to 999
    ],
)
def test_labels_that_a_network_tells_apart_are_taken_in_silence(
    tmp_path, backbone, prediction, sde
):
    assert said(tmp_path, backbone, prediction, sde) == []


@pytest.mark.parametrize("model", ["score", "energy"])
def test_labels_of_a_published_network_are_said_for_one_of_ours(tmp_path, model):
    (text,) = said(tmp_path, UNET, "score-sde-vp", "vp", model=model)
    assert "prediction='score-sde-vp'" in text
    assert "labels up to 999" in text
    assert "such as 'noise'" in text
