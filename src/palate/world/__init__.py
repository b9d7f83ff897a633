"""Two small worlds with a known truth, shapes and emoji: their pictures, what these show, simulated voters, and the folders of
their real, shipped diffusion pipelines."""

from pathlib import Path

WORLD, EMOJI = "world", "emoji"  # names of the pipelines that come with palate, and of their worlds' truths and prompts
SHIPPED = {WORLD: Path(__file__).parent / "pipeline", EMOJI: Path(__file__).parent / "emoji_pipeline"}
