"""The configuration of a network of score_sde, read off the names and shapes of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from sde_score.training.errors import CheckpointError


@dataclass(frozen=True)
class _Module:
    """One of `all_modules`.

    Args:
        shapes: of its layers, by name; none for a module without weights.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def block(self) -> bool:
        """Whether it is a residual block."""
        return "Dense_0.weight" in self.shapes

    @property
    def attention(self) -> bool:
        """Whether it is attention."""
        return "NIN_3.W" in self.shapes

    @property
    def inputs(self) -> int:
        """Channels of what enters a block."""
        return self.shapes["GroupNorm_0.weight"][0]

    @property
    def outputs(self) -> int:
        """Channels of what leaves a block."""
        return self.shapes["Conv_0.weight"][0]

    @property
    def resamples(self) -> bool:
        """Whether it is a residual block that halves or doubles: it projects equal channels."""
        return self.block and self.inputs == self.outputs and "Conv_2.weight" in self.shapes

    @property
    def of_level(self) -> bool:
        """Whether it belongs to a level, and not to the way to another."""
        return self.attention or (self.block and not self.resamples)

    def kernel(self, name: str) -> int:
        """Taps of a convolution along one side; 0 where there is none."""
        shape = self.shapes.get(name, (0,))
        return shape[-1] if len(shape) == 4 else 0


@dataclass(frozen=True)
class Layers:
    """What the layers of a network of score_sde say.

    Args:
        channels: of the images.
        base: channels of the first convolution.
        features: number of features of the time label.
        embedding_width: length of the embedding.
        widths: channels of each level, finest first.
        blocks: residual blocks per level on the way down.
        attention: for each level, whether it has attention.
        way: `"block"`, `"conv"` or `"filter"` between levels.
        fourier: random frequencies instead of fixed ones.
        input_branch: see `Branches`.
        output_branch: see `Branches`.
        concatenate: see `Branches`.
        fir: whether resampling has the filter (1, 3, 3, 1); None where no layer shows it.
        network: `"ncsnpp"`, or None where the layers are those of `"ddpm"` as well.
    """

    channels: int
    base: int
    features: int
    embedding_width: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    way: str
    fourier: bool
    input_branch: str | None
    output_branch: str | None
    concatenate: bool
    fir: bool | None
    network: str | None

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Layers:
        """Read `all_modules.<number>.<layer>`, numbered in the order of a forward pass.

        Args:
            state: tensors by name.

        Raises:
            CheckpointError: if they are not those of a network of this kind.
        """
        try:
            return cls._of(_modules(state))
        except (LookupError, ValueError) as error:
            raise CheckpointError(
                "the layers all_modules.<number> are not those of NCSN++, DDPM++ or DDPM with a "
                f"time embedding: the file is truncated, or of another network ({error})"
            ) from error

    @classmethod
    def _of(cls, modules: list[_Module]) -> Layers:
        fourier = "W" in modules[0].shapes
        first, second, stem, *rest = modules[fourier:]
        runs = [(of_level, list(run)) for of_level, run in groupby(rest, lambda m: m.of_level)]
        levels = [run for of_level, run in runs if of_level]
        ways = [run for of_level, run in runs if not of_level]
        count = (len(ways) + 1) // 2
        blocks_of = [[module for module in level if module.block] for level in levels]
        total = sum(map(len, blocks_of))
        blocks = (total - 2 - count) // (2 * count)
        if len(levels) != 2 * count - 1 or blocks < 1 or total != (2 * blocks + 1) * count + 2:
            raise ValueError(f"{total} residual blocks between {len(ways)} other places")
        down = ways[0] if count > 1 else []
        inputs = _input_branch(down)
        outputs = _output_branch(ways, count)
        filtered = [module for way in ways for module in way if module.kernel("Conv2d_0.weight")]
        plain = [module for way in ways for module in way if module.kernel("Conv_0.weight") == 3]
        plain = [module for module in plain if not module.block]
        by_block = bool(down) and down[0].resamples
        way = "block" if by_block or not down else "conv" if down[0].shapes else "filter"
        return cls(
            channels=stem.shapes["weight"][1],
            base=stem.shapes["weight"][0],
            features=first.shapes["weight"][1],
            embedding_width=second.shapes["weight"][0],
            widths=tuple(level[0].outputs for level in blocks_of[:count]),
            blocks=blocks,
            attention=tuple(len(level) > 1 and level[1].attention for level in levels[:count]),
            way=way,
            fourier=fourier,
            input_branch=inputs,
            output_branch=outputs,
            concatenate=inputs == "skip" and blocks_of[1][0].inputs == 2 * blocks_of[0][-1].outputs,
            fir=True if filtered else False if plain else None,
            network="ncsnpp" if fourier or by_block or inputs or outputs or filtered else None,
        )


def _modules(state: Mapping[str, Tensor]) -> list[_Module]:
    """The modules by number; those without weights, whose numbers are missing, are empty."""
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, value in state.items():
        folder, number, layer = name.split(".", 2)
        if folder != "all_modules":
            raise ValueError(f"a tensor {name!r} is not of all_modules")
        found.setdefault(int(number), {})[layer] = tuple(value.shape)
    if max(found) > 100_000:
        raise ValueError(f"a module has the number {max(found)}")
    return [_Module(found.get(number, {})) for number in range(max(found) + 1)]


def _input_branch(down: list[_Module]) -> str | None:
    """How the halved image joins, which the second module between two levels does."""
    if len(down) < 2:
        return None
    return "skip" if down[1].kernel("Conv_0.weight") == 1 else "residual"


def _output_branch(ways: list[list[_Module]], count: int) -> str | None:
    """How an image is drawn beside the way up: the coarsest level has a normalization for it."""
    if count < 2 or len(ways[count - 1][0].shapes.get("weight", ())) != 1:
        return None
    return "residual" if len(ways[-1]) == 3 else "skip"
