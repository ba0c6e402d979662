"""Compare torch's linear layer with the packed one of `embedkit.encoders.torch_encoder`, on the CPU.

    python scripts/bench_linear.py [--rounds 60]

The shapes are those of all-MiniLM-L6-v2. Both sides alternate call by call; times are medians. The last column is
the largest difference of their results over the largest result.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from embedkit.encoders.torch_encoder import _PackedLinear

SHAPES = ((384, 384), (384, 1536), (1536, 384))
TOKENS = (27, 100, 1000)
DTYPES = (torch.float32, torch.bfloat16)


def seconds(call: Callable[[], torch.Tensor]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(linear: torch.nn.Linear, x: torch.Tensor, rounds: int) -> tuple[float, float, float]:
    """Return the median seconds of both sides, and how far their results are apart."""
    packed = _PackedLinear(linear, "none")
    plain, ours = linear(x).float(), packed(x).float()
    took = [(seconds(lambda: linear(x)), seconds(lambda: packed(x))) for _ in range(rounds)]
    apart = float((plain - ours).abs().max() / plain.abs().max())
    return statistics.median(t for t, _ in took), statistics.median(t for _, t in took), apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    torch.manual_seed(0)
    print("| dtype | layer | tokens | torch, us | packed, us | torch takes | difference |")
    print("|---|---|---|---|---|---|---|")
    with torch.inference_mode():
        for dtype in DTYPES:
            for inputs, outputs in SHAPES:
                linear = torch.nn.Linear(inputs, outputs).to(dtype)
                for tokens in TOKENS:
                    plain, ours, apart = compare(linear, torch.randn(tokens, inputs).to(dtype), args.rounds)
                    print(
                        f"| {str(dtype).removeprefix('torch.')} | {inputs} x {outputs} | {tokens:,} | "
                        f"{plain * 1e6:.0f} | {ours * 1e6:.0f} | {plain / ours:.2f} x | {apart:.1e} |"
                    )


if __name__ == "__main__":
    main()
