"""Our models as denoisers of deepinv; its physics are our operators by `posterior.as_operator`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sde_score._core.checks import expand_like, require_finite
from sde_score._core.conditions import Condition
from sde_score.models import Model, require_model


class DeepinvDenoiser(nn.Module):
    r"""A model as `denoiser(x, sigma)`: the denoised mean of images with noise of deviation sigma.

    Images of the toolkit lie between the two `bounds`, which are -1 and 1 of the model, and sigma
    is in their units; the time is that of the noise ratio, on any diffusion:

    .. math:: m = \frac{x - center}{width}, \qquad \frac{\sigma(t)}{\alpha(t)} =
              \frac{sigma}{width}, \qquad denoiser(x, sigma) = center + width \, D(\alpha(t) m, t)

    Noise below the least of the diffusion counts as that.

    Args:
        model: anything with the model protocol, of images in [-1, 1].
        bounds: least and largest value of an image of the toolkit's; (0, 1) in deepinv, (-1, 1)
            where it is told so.

    Raises:
        TypeError: if `model` lacks the protocol.
        ValueError: for bounds that do not increase; when called, for a sigma above the largest
            noise of the diffusion.
    """

    def __init__(self, model: Model, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        require_model(model)
        low, high = bounds
        require_finite(**{"bounds[0]": low, "bounds[1]": high})
        if not low < high:
            raise ValueError(f"bounds={bounds} must increase: (0, 1) or (-1, 1), say")
        self.model, self.center, self.width = model, 0.5 * (low + high), 0.5 * (high - low)

    def forward(
        self, x: Tensor, sigma: Tensor | float, condition: Condition = None, **ignored: Any
    ) -> Tensor:
        """The denoised images, like x.

        Args:
            x: shape `(batch, *event)`.
            sigma: a number, or one for each image, of any shape with as many entries.
            condition: passed to the model.
            ignored: what toolkits give other denoisers.
        """
        sde = self.model.sde
        ratio = torch.as_tensor(sigma, dtype=torch.float64, device=x.device) / self.width
        ratio = ratio.flatten() if ratio.numel() > 1 else ratio.reshape(())
        largest = float(sde.noise_ratio(sde.t_max))
        if bool((ratio > largest * (1 + 1e-9)).any()):
            raise ValueError(
                f"sigma={float(ratio.max()) * self.width:.4g} is above {largest * self.width:.4g}, "
                f"the largest noise of {sde}: start from less"
            )
        least = float(sde.noise_ratio(sde.t_min))
        t = sde.time_of_noise_ratio(ratio.clamp(least, largest)).clamp(sde.t_min, sde.t_max)
        noised = expand_like(sde.alpha(t), x) * (x - self.center) / self.width
        return self.center + self.width * self.model.denoise(noised.to(x), t, condition)
