#!/usr/bin/env python3
"""Writes tests/data/diffusers: a network that PyTorch exported, and what diffusers makes of it.

    pip install torch==2.11.0 diffusers==0.42.1 onnx==1.23.2
    python tests/scripts/diffusers_unet.py

The network is a UNet2DModel of the diffusers package, small and with random weights, unconditional, on the DDPM process
(a linear table of 1000 betas); exported by torch.onnx with diffusers' own names and times: `sample`, `timestep` (int64),
`out_sample`. It carries no metadata: tests deploy it with spec.json at its side.

Recorded: `eps.npy`, PyTorch's output for z0.npy at timestep 899, and `expected.npy`, where diffusers' own DDPMScheduler
gets from there by the timesteps 899, 699, 499, 299, 99 with noise.npy (the last step, to the data, has none).

CPU only. Where only the libtorch of scripts/fetch-libtorch.sh is at hand, it serves as PyTorch: put it on PYTHONPATH, and
empty libraries in the place of the CUDA ones that it wants (gcc -shared -Wl,-soname,NAME) on LD_LIBRARY_PATH; then set
STUBS=1.
"""
import json
import os
import pathlib
import sys

if os.environ.get("STUBS"):
    sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
import torch
import numpy as np
from diffusers import DDPMScheduler, UNet2DModel

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "diffusers"
TIMESTEPS = [899, 699, 499, 299, 99]


class Epsilon(torch.nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, sample, timestep):
        return self.unet(sample, timestep, return_dict=False)[0]


def save(name, tensor):
    np.save(OUT / f"{name}.npy", tensor.numpy())


torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
    attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
# Larger than PyTorch's initial weights, which give an output that hardly depends on the input.
with torch.no_grad():
    for name, parameter in unet.named_parameters():
        if parameter.dim() > 1:
            parameter.mul_(2)
network = Epsilon(unet).eval()
OUT.mkdir(exist_ok=True)
z0 = torch.randn(2, 3, 8, 8)
with torch.no_grad():
    torch.onnx.export(
        network, (z0, torch.tensor([899, 899])), OUT / "unet.onnx", dynamo=False, opset_version=20,
        input_names=["sample", "timestep"], output_names=["out_sample"],
        dynamic_axes={name: {0: "batch"} for name in ["sample", "timestep", "out_sample"]},
    )
    save("z0", z0)
    save("eps", network(z0, torch.tensor([899, 899])))

    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
    scheduler.set_timesteps(timesteps=TIMESTEPS)
    noise = torch.randn(len(TIMESTEPS) - 1, *z0.shape)
    save("noise", noise)
    # The scheduler draws its noise itself: hand it ours.
    draws = iter([*noise, torch.zeros_like(z0)])
    import diffusers.schedulers.scheduling_ddpm as ddpm
    ddpm.randn_tensor = lambda *_, **__: next(draws)
    z = z0
    for t in scheduler.timesteps:
        z = scheduler.step(network(z, t.repeat(len(z))), t, z).prev_sample
    save("expected", z)

spec = {
    "format": 1,
    "process": {"kind": "ddpm", "beta_min": 1e-4, "beta_max": 0.02, "entries": 1000},
    "data": {"shape": [3, 8, 8], "range": [-1.0, 1.0]},
    "network": {"state_input": "sample", "time_input": "timestep", "output": "out_sample"},
}
(OUT / "spec.json").write_text(json.dumps(spec, indent=1) + "\n")
print(sum(p.numel() for p in unet.parameters()), "parameters; |eps|", network(z0, torch.tensor([899, 899])).std().item(),
      "|x|", z.std().item())
