"""The emoji world: things in eight groups, each drawn by four artists, with names as captions.

A caption names the thing and, if it likes, the style ("red apple", "red apple, glossy"). A model that learns both draws
"red apple" in any of the four styles, and that is where taste has something to choose. The pictures themselves are not
part of the package: `palate.demos.emoji_collect` makes the file that `load_pictures` reads from three npm packages.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from palate.arrays import Pixels
from palate.errors import PalateError

SIZE = 64  # pixels, width and height

STYLES = ("detailed", "bold", "flat", "glossy")  # the words of captions, one per artist
ARTISTS = ("noto", "twemoji", "fluent-flat", "fluent-3d")  # who drew that style, as the file of pictures calls them

GROUPS = {
    "food": (
        "red apple", "green apple", "banana", "strawberry", "watermelon", "pineapple", "cherries", "grapes", "carrot",
        "tomato", "eggplant", "hamburger", "pizza", "doughnut", "hot dog", "lollipop", "taco", "hot pepper",
        "ear of corn", "tangerine", "lemon", "pear", "peach", "french fries", "cookie", "birthday cake", "avocado",
        "broccoli", "pretzel", "cheese wedge",
    ),
    "animals": (
        "penguin", "owl", "fox", "panda", "frog", "cat face", "dog face", "pig face", "lion", "monkey face",
        "butterfly", "lady beetle", "turtle", "crab", "octopus", "whale", "snail", "honeybee", "baby chick", "koala",
        "dolphin", "rabbit face", "cow face", "tiger face", "bear", "lobster", "flamingo", "elephant", "parrot",
        "unicorn",
    ),
    "nature": (
        "sunflower", "rose", "tulip", "cactus", "palm tree", "evergreen tree", "four leaf clover", "maple leaf",
        "mushroom", "rainbow", "cloud", "sun", "snowman", "fire", "crescent moon", "volcano", "seedling",
        "deciduous tree", "cherry blossom", "hibiscus", "potted plant", "lotus", "bouquet", "snowflake", "droplet",
        "star", "water wave", "ringed planet", "high voltage", "tornado",
    ),
    "vehicles": (
        "rocket", "helicopter", "locomotive", "bus", "ambulance", "fire engine", "police car", "taxi", "automobile",
        "tractor", "sailboat", "bicycle", "motor scooter", "airplane", "flying saucer", "roller skate", "train",
        "tram car", "delivery truck", "ship", "speedboat", "motorcycle", "racing car", "canoe", "skateboard",
        "kick scooter", "pickup truck", "parachute", "ferry", "sled",
    ),
    "places": (
        "house", "castle", "church", "mosque", "hospital", "school", "factory", "classical building",
        "Japanese castle", "Tokyo tower", "shinto shrine", "circus tent", "ferris wheel", "desert island", "tent",
        "mount fuji", "hotel", "bank", "post office", "stadium", "camping", "snow-capped mountain", "fountain", "hut",
        "derelict house", "building construction", "cityscape", "sunrise", "desert", "wedding",
    ),
    "clothes": (
        "backpack", "graduation cap", "top hat", "crown", "glasses", "necktie", "t-shirt", "jeans", "dress",
        "handbag", "running shoe", "high-heeled shoe", "gem stone", "gloves", "socks", "umbrella", "kimono", "purse",
        "ring", "sunglasses", "hiking boot", "safety vest", "billed cap", "scarf", "coat", "shorts", "thong sandal",
        "goggles", "military helmet", "lipstick",
    ),
    "tools": (
        "hammer", "wrench", "scissors", "key", "locked", "bell", "light bulb", "bomb", "television", "camera",
        "telephone", "battery", "pencil", "magnet", "bucket", "alarm clock", "screwdriver", "axe", "laptop", "radio",
        "mobile phone", "microscope", "telescope", "candle", "paintbrush", "toolbox", "broom", "basket", "gear",
        "chair",
    ),
    "play": (
        "guitar", "trumpet", "violin", "drum", "accordion", "balloon", "wrapped gift", "jack-o-lantern",
        "Christmas tree", "teddy bear", "kite", "game die", "trophy", "basketball", "soccer ball", "bullseye",
        "musical notes", "saxophone", "banjo", "maracas", "headphone", "microphone", "party popper", "video game",
        "sports medal", "baseball", "tennis", "bowling", "boxing glove", "artist palette",
    ),
}  # fmt: skip
NAMES = tuple(name for group in GROUPS.values() for name in group)
TAUGHT = 16  # names of each group, the first ones, that the shipped pipeline learned
PROMPTS = tuple(name for group in GROUPS.values() for name in group[:TAUGHT])
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def caption(name: str, style: str | None = None) -> str:
    """What a picture of `name` is called, with the word for its style or without."""
    return name if style is None else f"{name}, {style}"


def parse(prompt: str) -> tuple[str, str | None]:
    """A caption's name and style word (None where it has none); raises PalateError for what is not of the world."""
    name, comma, style = prompt.partition(", ")
    if name not in GROUP_OF or (comma and style not in STYLES):
        raise PalateError(
            f'prompt {prompt!r} is not of the emoji world; it knows {len(NAMES)} names ("{NAMES[0]}", ...), alone or '
            f"followed by a comma and one of {', '.join(STYLES)}."
        )
    return name, style or None


@dataclass(frozen=True)
class Pictures:
    """Every name of a file of pictures, drawn by every artist."""

    names: list[str]
    images: Pixels  # uint8 [N, 4, SIZE, SIZE, 3], artists in the order of STYLES, on white

    def of(self, names: tuple[str, ...]) -> Pixels:
        """Pictures of some names [len(names), 4, SIZE, SIZE, 3]; raises PalateError where a name is missing."""
        index = {name: i for i, name in enumerate(self.names)}
        if missing := [name for name in names if name not in index]:
            raise PalateError(f"the file of pictures lacks {len(missing)} of the names, {missing[0]!r} for one.")
        return self.images[[index[name] for name in names]]


def load_pictures(path: Path) -> Pictures:
    """Read a file of pictures: npz with an array [N, 64, 64, 3] (uint8) per artist and the names [N].

    The names may also stand in `names.json` beside it (a list of objects with "name"). Raises PalateError with what
    is wrong.
    """
    if not path.exists():
        raise PalateError(f"{path}: no file of emoji pictures. `python -m palate.demos.emoji_collect` makes one.")
    with np.load(path, allow_pickle=False) as arrays:
        if lacking := [artist for artist in ARTISTS if artist not in arrays]:
            raise PalateError(f"{path}: has no array {lacking[0]!r}; it needs {', '.join(ARTISTS)}.")
        images = np.stack([arrays[artist] for artist in ARTISTS], axis=1)
        beside = path.parent / "names.json"
        if "names" in arrays:
            names = [str(name) for name in arrays["names"]]
        elif beside.exists():
            names = [row["name"] for row in json.loads(beside.read_text())]
        else:
            raise PalateError(f"{path}: has no array 'names', and no names.json lies beside it.")
    if images.dtype != np.uint8 or images.shape != (len(names), len(ARTISTS), SIZE, SIZE, 3):
        raise PalateError(f"{path}: {len(names)} names, but pictures of {images.dtype} {list(images.shape)}.")
    return Pictures(names, images)
