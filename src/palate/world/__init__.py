"""The ground truth of two small worlds, shapes and emoji: pictures, what is measured in them, and simulated voters,
numpy alone; beside them lie the worlds' diffusion pipelines."""

from pathlib import Path

WORLD, EMOJI = "world", "emoji"  # names of the pipelines that come with palate, and of their worlds' truths and prompts
SHIPPED = {WORLD: Path(__file__).parent / "pipeline", EMOJI: Path(__file__).parent / "emoji_pipeline"}
