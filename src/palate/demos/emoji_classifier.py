"""Train the networks with which `palate.world.emoji_measure` sees: `python -m palate.demos.emoji_classifier`.

Both learn the artists' pictures in other sizes, places and saturations, half of them through the autoencoder with
some noise on the latents, so that a sample's small flaws do not hide what it shows. "name" knows the names of the
world. "style" learns all names but a tenth; what it gets right there is printed.
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

from palate.demos.emoji_pretrain import HELD_OUT, as_tensor, vary
from palate.files import atomic_path
from palate.world.emoji_measure import WEIGHTS
from palate.world.emoji_pictures import NAMES, STYLES, load_pictures

BATCH, RATE = 96, 2e-3


@dataclass
class Options:
    """Train the networks that measure emoji."""

    pictures: Path
    """The file of pictures that `python -m palate.demos.emoji_collect` wrote."""
    pipeline: Path
    """The pipeline folder whose autoencoder is used."""
    out: Path = WEIGHTS
    seed: int = 0
    name_steps: int = 1500
    style_steps: int = 2000


class Network(nn.Module):
    """Three convolutions with a stride, a hidden layer, scores; as `emoji_measure.network` computes it."""

    def __init__(self, widths: tuple[int, int, int], hidden: int, classes: int, pooled: bool):
        super().__init__()
        first, second, third = widths
        self.convs = nn.ModuleList(
            [nn.Conv2d(3, first, 4, 4), nn.Conv2d(first, second, 3, 2, 1), nn.Conv2d(second, third, 3, 2, 1)]
        )
        self.hidden = nn.Linear(third if pooled else 16 * third, hidden)
        self.out = nn.Linear(hidden, classes)
        self.pooled = pooled

    def forward(self, image: Tensor, drop: float = 0.0) -> Tensor:
        """Scores [B, classes] of pictures [B, 3, H, W] in [-1, 1]."""
        x = image / 2
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
        x = x.mean(dim=(2, 3)) if self.pooled else x.permute(0, 2, 3, 1).flatten(1)
        x = F.leaky_relu(self.hidden(F.dropout(x, drop, self.training)), 0.1)
        return self.out(F.dropout(x, drop, self.training))


def main(options: Options) -> None:
    torch.set_flush_denormal(True)
    pictures = load_pictures(options.pictures)
    vae = AutoencoderKL.from_pretrained(options.pipeline / "vae", torch_dtype=torch.float32).eval()
    held_out = tuple(pictures.names[::HELD_OUT])
    learned = tuple(name for name in pictures.names if name not in set(held_out))

    own = as_tensor(torch.from_numpy(pictures.of(NAMES)))
    name = make_name_network()
    labels = torch.arange(len(NAMES)).repeat_interleave(len(STYLES))
    fit(name, own, labels, vae, options.name_steps, options.seed, "names")
    print(f"names, top 1, other sizes and places, through the autoencoder: {accuracy(name, own, labels, vae):.3f}")

    style = make_style_network()
    image, unseen = (as_tensor(torch.from_numpy(pictures.of(names))) for names in (learned, held_out))
    fit(style, image, torch.arange(len(STYLES)).repeat(len(learned)), vae, options.style_steps, options.seed, "styles")
    labels = torch.arange(len(STYLES)).repeat(len(held_out))
    plain = (style(unseen).argmax(1) == labels).float().mean()
    varied = accuracy(style, unseen, labels, vae)
    print(f"styles of {len(held_out)} names never seen: {plain:.3f}; through the autoencoder: {varied:.3f}")
    write_weights(options.out, {"name": name, "style": style})


def make_name_network() -> Network:
    return Network((32, 64, 96), 128, len(NAMES), pooled=False)


def make_style_network() -> Network:
    return Network((48, 64, 96), 96, len(STYLES), pooled=True)


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


def fit(network: Network, image: Tensor, label: Tensor, vae: AutoencoderKL, steps: int, seed: int, what: str) -> None:
    """Learn the labels [N] of pictures [N, 3, H, W], half of each batch as they come through the autoencoder."""
    torch.manual_seed(seed)
    both = torch.stack([image, through(vae, image, torch.Generator().manual_seed(seed), most=0.4)])
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    network.train()
    for step in track(range(steps), what):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        row = torch.randint(len(image), (BATCH,), generator=generator)
        version = torch.randint(2, (BATCH,), generator=generator)
        shown = vary(both[version, row], generator, smallest=0.8, shift=0.05)
        loss = F.cross_entropy(network(shown, drop=0.2), label[row], label_smoothing=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: Network, image: Tensor, label: Tensor, vae: AutoencoderKL) -> float:
    """Share of pictures [B, 3, H, W], varied anew and through the autoencoder, whose label the network names."""
    shown = through(vae, image, torch.Generator().manual_seed(1_000_003), most=0.1)
    return (network(shown).argmax(1) == label).float().mean().item()


def write_weights(path: Path, networks: dict[str, Network]) -> None:
    """The arrays that `emoji_measure` reads, fp16: convolutions [k, k, C, D], linear layers [in, out]."""
    arrays = {}
    for which, network in networks.items():
        for i, conv in enumerate(network.convs):
            arrays[f"{which}/conv{i}/weight"] = conv.weight.permute(2, 3, 1, 0)
            arrays[f"{which}/conv{i}/bias"] = conv.bias
        for layer in ("hidden", "out"):
            arrays[f"{which}/{layer}/weight"] = getattr(network, layer).weight.T
            arrays[f"{which}/{layer}/bias"] = getattr(network, layer).bias
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for (
            name,
            array,
        ) in arrays.items():  # by hand: the archive's dates stay fixed, the same weights are the same bytes
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:
                np.lib.format.write_array(file, array.detach().numpy().astype(np.float16))


if __name__ == "__main__":
    main(tyro.cli(Options))
