"""Links: from a logit z and a target p to a loss per pair, all [B] and all fp32 or better, whatever the inputs.

A published loss is for hard labels, a function f of the winner's logit. Here it is p*f(z) + (1 - p)*f(-z), which is
f(z_w) for p = 1 and p = 0, linear in the label, and therefore right for every real p: soft, smoothed and debiased
targets. Swapping the images (z -> -z, p -> 1 - p) leaves every link unchanged. `smoothed` is the one that is not linear
in the label; debiased targets must not use it (see LINEAR_IN_LABEL).

With h = sigmoid(z_w), slopes for hard labels, and the fate of a label that the policy contradicts (z_w -> -inf):

    links_pulling.py                                            links_giving_up.py
    sigmoid          -(1 - h)                keeps pulling      dmpo             h(1-h) * (z_w - log((1-a)/a))
    ipo              linear in z_w           pulls harder       alpha-dpo        h(1-h) * (h^(a-1) - 1)/(a-1), a > 0
    hinge            -1 below z_w = 1        keeps pulling      holder           -g(1+g) * h^g * (1-h)^2
    linear           -clip(1/2 - 0.4*z_w,    keeps pulling      squared-sigmoid  -2 * (1-h)^2 * h
                     eta, 1 - eta)                              gce              -h^q * (1-h)
    poly             -(1-h) * (1 + a*h)      keeps pulling      mixture          h - sigmoid(z_w + log(eta/(1-eta)))
    smoothed         -k * sigmoid(-k*z_w)    keeps pulling

dmpo pulls back beyond log((1-a)/a). At z = 0 sigmoid, ipo and linear have the slope 1/2 - p; the others a multiple of
it: hinge 2, dmpo log((1-a)/a)/2, squared-sigmoid 1/2, poly 1 + a/2, gce 2^-q, mixture 2*eta - 1, smoothed its gain.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from palate.errors import PalateError, did_you_mean
from palate.objectives.links_giving_up import alpha_dpo, dmpo, gce, holder, mixture, squared_sigmoid
from palate.objectives.links_pulling import hinge, ipo, linear, poly, sigmoid, smoothed

Link = Callable[[Tensor, Tensor], Tensor]


LINKS: dict[str, Callable[..., Tensor]] = {
    "sigmoid": sigmoid,
    "ipo": ipo,
    "hinge": hinge,
    "dmpo": dmpo,
    "alpha-dpo": alpha_dpo,
    "holder": holder,
    "squared-sigmoid": squared_sigmoid,
    "smoothed": smoothed,
    "linear": linear,
    "poly": poly,
    "gce": gce,
    "mixture": mixture,
}

# Debiasing is exact where the expected gradient depends on the target through its mean alone. alpha-dpo is not here
# because its moving alpha sees the favoured sides; with a fixed alpha it is linear: ask `linear_in_label`.
LINEAR_IN_LABEL = frozenset(LINKS) - {"smoothed", "alpha-dpo"}


class LinkParameter(NamedTuple):
    keyword: str
    default: float | None
    low: float
    high: float
    ends: tuple[bool, bool]  # whether low and high themselves are allowed
    meaning: str

    @property
    def between(self) -> str:
        """The range as it is written, for example (0, inf)."""
        return f"{'(['[self.ends[0]]}{self.low:g}, {self.high:g}{')]'[self.ends[1]]}"

    def holds(self, value: float) -> bool:
        """Whether a value lies in the range."""
        above = value >= self.low if self.ends[0] else value > self.low
        return above and (value <= self.high if self.ends[1] else value < self.high)


OPEN, CLOSED, ABOVE, UP_TO = (False, False), (True, True), (True, False), (False, True)

LINK_PARAMETERS = {
    "ipo": LinkParameter("margin", 2.0, 0, math.inf, OPEN, "the logit at which a hard label is satisfied"),
    "dmpo": LinkParameter(
        "alpha", 0.01, 0, 1, CLOSED, "the smoothing of the label; satisfied at log((1-alpha)/alpha), at most 13.8"
    ),
    "alpha-dpo": LinkParameter(
        "alpha", None, 0, math.inf, ABOVE, "the order of the divergence; left out, it follows the batch"
    ),
    "holder": LinkParameter("gamma", 2.0, 0, math.inf, OPEN, "how fast a contradicted label loses its pull"),
    "smoothed": LinkParameter("gain", 10.0, 0, math.inf, OPEN, "the factor on (2p - 1) times the logit"),
    "linear": LinkParameter(
        "eta", 0.001, 0, 0.5, CLOSED, "the pull that a satisfied label keeps; 0.5 is the same pull everywhere"
    ),
    "poly": LinkParameter("alpha", 8.0, -1, math.inf, ABOVE, "how much harder it pulls where the model is undecided"),
    "gce": LinkParameter("q", 0.5, 0, 1, CLOSED, "how fast a contradicted label loses its pull; 0 is the sigmoid link"),
    "mixture": LinkParameter("eta", 0.9, 0.5, 1, UP_TO, "the probability that a vote is right"),
}


def linear_in_label(name: str, parameter: float | None = None) -> bool:
    """Whether debiasing is exact with this link and parameter: LINEAR_IN_LABEL, and alpha-dpo with a fixed alpha."""
    return name in LINEAR_IN_LABEL or (name == "alpha-dpo" and parameter is not None)


def make_link(name: str, parameter: float | None = None) -> Link:
    """The link of this name with its one parameter bound; None is its default. Raises PalateError for an unknown name,
    a parameter out of range, or a parameter for a link that has none."""
    if name not in LINKS:
        raise PalateError(f"link: {name!r} is not one of {', '.join(LINKS)}{did_you_mean(name, LINKS)}")
    if parameter is None:
        return LINKS[name]
    if name not in LINK_PARAMETERS:
        having = ", ".join(f"{other} ({entry.keyword})" for other, entry in LINK_PARAMETERS.items())
        raise PalateError(
            f"link {name} has no parameter, but {parameter:g} was given. Leave it out; {having} have one."
        )
    entry = LINK_PARAMETERS[name]
    if not entry.holds(parameter):
        use = "Leave it out" if entry.default is None else f"Use for example {entry.default:g}"
        raise PalateError(
            f"link {name}: {entry.keyword} {parameter:g} is outside {entry.between}. {use}. It is {entry.meaning}."
        )
    return partial(LINKS[name], **{entry.keyword: float(parameter)})
