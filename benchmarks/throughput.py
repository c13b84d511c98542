"""Time of networks per image, ours beside those of other libraries: training step and forward pass.

Images of 3 x 32 x 32, U-Nets of base 64, multipliers 1-2-2, two blocks, attention at 16 x 16, and
ours and azula's with base 80, which brings them to the 7 million parameters of the others. All
run in one process and one thread, in turns; figures are medians of the processor time of the
thread with quartiles, and medians of the ratio to one row within each round. The step is forward,
mean squared error, backward, Adam (fused; `default` is what a user gets by `Adam(...)`, without
autocast) and an average of the weights by one call, for peers as well. Peers are measured where
they are installed (`pip install azula diffusers`); azula's network has no attention.

    python benchmarks/throughput.py [--only unet-80 azula-80] [--modes bf16] [--compile]
    python benchmarks/throughput.py --profile unet-80:bf16
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sde_score.nn import create, set_second_derivatives

SHAPE = (3, 32, 32)
OURS = {
    "unet-64": "unet(base=64, attention=(16,))",
    "unet-80": "unet(base=80, attention=(16,))",
    "ddpmpp": "ddpmpp(base=64, multipliers=(1, 2, 2), blocks=2, dropout=0.0)",
}
MODES = ("default", "float32", "bf16", "bf16-channels-last")
OWN_MODES = ("float32", "bf16")  # weights are channels-last, as `train` lays them
PARTS = {
    "convolution": ("convolution", "convolution_backward"),
    "attention": ("bmm", "_softmax", "_softmax_backward_data", "_scaled_dot_product"),
    "normalization": ("native_group_norm", "native_layer_norm", "var_mean", "sum"),
    "activation": ("silu", "silu_backward"),
    "sums and products": ("add", "add_", "mul", "addcmul", "addcmul_", "sub", "div", "mul_"),
    "casts and copies": ("_to_copy", "clone", "cat", "stack", "copy_"),
    "optimizer": ("_fused_adam_", "_foreach_add", "_foreach_addcdiv", "_foreach_addcmul"),
    "average": ("_foreach_lerp_",),
}


class Diffusers(nn.Module):
    """diffusers' network with its own defaults."""

    def __init__(self) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        down, up = ["DownBlock2D"] * 3, ["UpBlock2D"] * 3
        down[1], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
        widths, kinds = (64, 128, 128), {"down_block_types": down, "up_block_types": up}
        self.net = UNet2DModel(32, 3, 3, layers_per_block=2, block_out_channels=widths, **kinds)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.net(x, label).sample


class Azula(nn.Module):
    """azula's network, told the label by a small network."""

    def __init__(self, base: int) -> None:
        from azula.nn.unet import UNet

        super().__init__()
        self.net = UNet(3, 3, mod_features=256, hid_channels=(base, 2 * base, 2 * base),
                        hid_blocks=(2, 2, 2))  # fmt: skip
        self.label = nn.Sequential(nn.Linear(1, 256), nn.SiLU(), nn.Linear(256, 256))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.net(x, self.label(label[:, None]))


PEERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "diffusers": ("diffusers", Diffusers),
    "azula-64": ("azula", lambda: Azula(64)),
    "azula-80": ("azula", lambda: Azula(80)),
}


class Case:
    """One network in one mode.

    Args:
        name: in `OURS` or `PEERS`.
        mode: in `MODES`.
        batch: number of images.
        compiled: compile the network.
    """

    def __init__(self, name: str, mode: str, batch: int, compiled: bool) -> None:
        torch.manual_seed(0)
        net = create(OURS[name], SHAPE) if name in OURS else PEERS[name][1]()
        own = name in OURS
        layout = torch.channels_last if own or "last" in mode else torch.contiguous_format
        net = net.to(memory_format=layout)
        set_second_derivatives(net, False)
        self.name, self.batch, self.bf16 = f"{name}:{mode}", batch, mode.startswith("bf16")
        self.weights = list(net.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        fused = {} if mode == "default" else {"fused": True}
        self.adam = torch.optim.Adam(self.weights, lr=1e-4, **fused)
        self.net = torch.compile(net) if compiled else net
        self.x = torch.randn(batch, *SHAPE).to(memory_format=layout)
        self.label = torch.linspace(-2, 2, batch)

    def forward(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.net(self.x, self.label)

    def infer(self) -> None:
        with torch.no_grad():
            self.forward()

    def train(self) -> None:
        (self.forward().float() - self.x).square().mean().backward()
        self.adam.step()
        self.adam.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1e-3)

    def ms(self, what: str) -> float:
        """Milliseconds of this thread for an image."""
        began = time.thread_time()
        getattr(self, what)()
        return (time.thread_time() - began) * 1e3 / self.batch


class Parts(TorchDispatchMode):
    """Milliseconds of each part of the work done inside."""

    def __init__(self) -> None:
        super().__init__()
        self.ms: dict[str, float] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        began = time.thread_time()
        result = operation(*args, **kwargs or {})
        name = operation.overloadpacket.__name__
        part = next((p for p, names in PARTS.items() if _among(name, names)), "rest")
        self.ms[part] = self.ms.get(part, 0.0) + (time.thread_time() - began) * 1e3
        return result


def _among(name: str, names: Iterable[str]) -> bool:
    """Whether an operation is one of these, or a variant of a longer name."""
    return any(name == one or (len(one) > 12 and name.startswith(one)) for one in names)


def profile(case: Case, rounds: int) -> None:
    """Print where the time goes."""
    for what in ("train", "infer"):
        getattr(case, what)()
        with Parts() as parts:
            for _ in range(rounds):
                getattr(case, what)()
        total = sum(parts.ms.values())
        print(f"\n{case.name}, {what}: {total / rounds / case.batch:.2f} ms per image")
        for part, ms in sorted(parts.ms.items(), key=lambda pair: -pair[1]):
            print(f"  {part:20s}{ms / rounds / case.batch:8.2f}{100 * ms / total:7.1f} %")


def compare(cases: list[Case], rounds: int, against: str) -> None:
    """Time all cases in turns and print a table."""
    for what in ("train", "infer"):
        for case in cases:
            getattr(case, what)()
            getattr(case, what)()
        times: dict[str, list[float]] = {case.name: [] for case in cases}
        for number in range(rounds):
            for case in cases if number % 2 else reversed(cases):
                times[case.name].append(case.ms(what))
        base = times[against]
        print(f"\n{what:28s}{'million':>8s}{'ms/image':>10s}{'quartiles':>16s}{'ratio':>8s}")
        for case in cases:
            found = times[case.name]
            low, middle, high = statistics.quantiles(found, n=4)
            ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
            size = sum(weight.numel() for weight in case.weights) / 1e6
            quartiles = f"{low:.1f} - {high:.1f}"
            row = f"{case.name:28s}{size:8.2f}{middle:10.2f}{quartiles:>16s}{ratio:8.2f}"
            print(row, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", metavar="NETWORK:MODE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread,",
          f"batch {given.batch}, median of {given.rounds} rounds")  # fmt: skip
    if given.profile:
        profile(Case(*given.profile.split(":"), given.batch, given.compile), given.rounds)
        return
    cases = []
    for name in given.only:
        if name in OURS or importlib.util.find_spec(PEERS[name][0]):
            modes = OWN_MODES if name in OURS else MODES
            taken = [mode for mode in modes if mode in given.modes]
            cases += [Case(name, mode, given.batch, given.compile) for mode in taken]
    ours = [case.name for case in cases if case.name in ("unet-80:bf16", "unet-64:bf16")]
    compare(cases, given.rounds, ours[-1] if ours else cases[0].name)


if __name__ == "__main__":
    main()
