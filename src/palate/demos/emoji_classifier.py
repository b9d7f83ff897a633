"""Train the network with which `palate.world.emoji_measure` sees: `python -m palate.demos.emoji_classifier`.

It learns every drawing of the world, a name by an artist, in other sizes, places and saturations, half of them through
the autoencoder with some noise on the latents, so that a sample's small flaws do not hide what it shows.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL
from rich.progress import track
from torch import Tensor, nn

from palate.demos.emoji_pretrain import as_tensor, vary
from palate.files import atomic_path
from palate.world.emoji_measure import WEIGHTS
from palate.world.emoji_pictures import NAMES, STYLES, load_pictures

BATCH, RATE = 96, 2e-3


@dataclass
class Options:
    """Train the network that measures emoji."""

    pictures: Path
    """The file of pictures that `python -m palate.demos.emoji_collect` wrote."""
    pipeline: Path
    """The pipeline folder whose autoencoder is used."""
    out: Path = WEIGHTS
    seed: int = 0
    steps: int = 2000


class Network(nn.Module):
    """Three convolutions with a stride, a hidden layer, scores; as `emoji_measure.network` computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 32, 4, 4), nn.Conv2d(32, 64, 3, 2, 1), nn.Conv2d(64, 96, 3, 2, 1)])
        self.hidden = nn.Linear(16 * 96, 160)
        self.out = nn.Linear(160, len(NAMES) * len(STYLES))

    def forward(self, image: Tensor, drop: float = 0.0) -> Tensor:
        """Scores [B, names * styles] of pictures [B, 3, H, W] in [-1, 1]."""
        x = image / 2
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
        x = x.permute(0, 2, 3, 1).flatten(1)
        x = F.leaky_relu(self.hidden(F.dropout(x, drop, self.training)), 0.1)
        scores: Tensor = self.out(F.dropout(x, drop, self.training))
        return scores


def main(options: Options) -> None:
    torch.set_flush_denormal(True)
    pictures = load_pictures(options.pictures)
    vae = AutoencoderKL.from_pretrained(options.pipeline / "vae", torch_dtype=torch.float32).eval()
    own = as_tensor(torch.from_numpy(pictures.of(NAMES)))
    network = Network()
    fit(network, own, vae, options.steps, options.seed)
    drawing, style = accuracy(network, own, vae)
    print(f"other sizes and places, through the autoencoder: name and style {drawing:.3f}, style {style:.3f}")
    write_weights(options.out, network)


@torch.no_grad()
def through(vae: AutoencoderKL, image: Tensor, generator: torch.Generator, most: float) -> Tensor:
    """Pictures [B, 3, H, W] varied and decoded from their latents, with noise of up to `most` of these' deviation."""
    out = []
    for part in track(vary(image, generator, smallest=0.85, shift=0.0).split(96), "autoencoder"):
        latent = vae.encode(part).latent_dist.mean
        size = most * torch.rand(len(part), 1, 1, 1, generator=generator)
        noise = torch.randn(latent.shape, generator=generator)
        out.append(vae.decode(latent + size * noise).sample.clamp(-1, 1))
    return torch.cat(out)


def fit(network: Network, image: Tensor, vae: AutoencoderKL, steps: int, seed: int) -> None:
    """Learn which of the pictures [N, 3, H, W] one is, half of each batch as they come through the autoencoder."""
    torch.manual_seed(seed)
    both = torch.stack([image, through(vae, image, torch.Generator().manual_seed(seed), most=0.4)])
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    network.train()
    for step in track(range(steps), "drawings"):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        row = torch.randint(len(image), (BATCH,), generator=generator)
        version = torch.randint(2, (BATCH,), generator=generator)
        shown = vary(both[version, row], generator, smallest=0.8, shift=0.05)
        loss = F.cross_entropy(network(shown, drop=0.2), row, label_smoothing=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: Network, image: Tensor, vae: AutoencoderKL) -> tuple[float, float]:
    """Shares of pictures [N, 3, H, W], varied anew and through the autoencoder, that it knows, and whose style it
    knows."""
    shown = through(vae, image, torch.Generator().manual_seed(1_000_003), most=0.1)
    found, truth = network(shown).argmax(1), torch.arange(len(image))
    return (found == truth).float().mean().item(), (found % 4 == truth % 4).float().mean().item()


def write_weights(path: Path, network: Network) -> None:
    """The arrays that `emoji_measure` reads, fp16: convolutions [k, k, C, D], linear layers [in, out]."""
    arrays: dict[str, Tensor] = {}
    for i, conv in enumerate(network.convs):
        weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
        arrays |= {f"conv{i}/weight": weight.permute(2, 3, 1, 0), f"conv{i}/bias": bias}
    for name, layer in (("hidden", network.hidden), ("out", network.out)):
        arrays |= {f"{name}/weight": layer.weight.T, f"{name}/bias": layer.bias}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        # by hand: the archive's dates stay fixed, so the same weights are the same bytes
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:
                np.lib.format.write_array(file, array.detach().numpy().astype(np.float16))


if __name__ == "__main__":
    main(tyro.cli(Options))
