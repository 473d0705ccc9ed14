"""The 1-D regression of Fig. 1c: small networks, trained, that may agree where they know nothing.

Normal points (x, y) lie around the curve sin(2x), over two bands of x with a gap between them.
Learners see the same points and differ only in their initial weights. A point off the curve or off
the bands is abnormal. The paper draws the figure and gives no equations; our reading of it, for a
point (x, y), is Eq. (5) and (6) with one pixel:

    L_i = |f_i(x) - y|        Unc = std_i f_i(x)        DSU = std_i(L_i dL_i/dx)

Everything is float64, and random numbers come from NumPy by (seed, learner), so that learner 1 is
the same whether it is trained alone or beside others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from d2ue.errors import InputError
from d2ue.uncertainty import deviation

#: Where normal points are drawn from, evenly.
BANDS = ((-3.0, -1.0), (1.0, 3.0))
#: The x that pictures and the search for blind places cover.
SPAN = (-5.0, 5.0)
#: How far from every band a place counts as off them: next to a band, learners are still right.
MARGIN = 0.25
#: The scores of a point by what they are called in sentences.
SCORES = {"output": "Unc", "dual": "DSU", "slope": "slopes alone", "ensemble": "error alone"}
N_POINTS = 64  # normal points that learners are trained on
WIDTH, STEPS, LEARNING_RATE = 32, 600, 1e-2
_HELD_OUT = 1_000_003  # stream of the held-out normal points; learners are numbered from 0


@dataclass(frozen=True, eq=False)
class Learners:
    """N trained learners, each 1 -> 32 -> 32 -> 1 with tanh between.

    Attributes:
        weights: for each of three layers, weight [N, in, out] and bias [N, 1, out].
        noise: standard deviation of the normal points about the curve.
        seed: of normal points and initial weights.
    """

    weights: tuple[Tensor, ...]
    noise: float
    seed: int

    def __len__(self) -> int:
        return len(self.weights[0])

    def first(self, n: int) -> Learners:
        """The first n learners: exactly what training n gives.

        Raises:
            InputError: unless 1 <= n <= N.
        """
        if not 1 <= n <= len(self):
            raise InputError(f"There are {len(self)} learners; {n} cannot be taken from them.")
        return Learners(tuple(w[:n] for w in self.weights), self.noise, self.seed)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f_i(x) and its derivative f_i'(x), each float64 [N, points], of x [points]."""
        # One copy of x for each learner keeps the learners' derivatives apart.
        copies = torch.tensor(x, dtype=torch.float64).expand(len(self), -1).clone()
        f = _forward(self.weights, copies.requires_grad_())
        (slopes,) = torch.autograd.grad(f.sum(), copies)
        return f.detach().numpy(), slopes.numpy()


def curve(x: np.ndarray) -> np.ndarray:
    """What normal points lie around, and its continuation off the bands."""
    return np.sin(2 * x)


def normal_points(
    n: int, noise: float, seed: int, held_out: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Normal points, x evenly from the bands and y = curve(x) + noise; float64 [n] each.

    `noise` is y's standard deviation about the curve; `held_out` draws other points than those
    learners are trained on.
    """
    rng = np.random.default_rng([seed, _HELD_OUT + held_out])
    low, high = np.array(BANDS)[rng.integers(len(BANDS), size=n)].T
    x = rng.uniform(low, high)
    return x, curve(x) + noise * rng.normal(size=n)


def train_many(seeds: Sequence[int], n_learners: int, noise: float = 0.1) -> list[Learners]:
    """An ensemble of n_learners a seed, all learners side by side in batched products.

    Full batches, mean squared error, Adam; initial weights as PyTorch's Linear draws them. Neither
    the number of learners nor the other seeds change what a learner becomes.

    Raises:
        InputError: if there is no seed, no learner, or negative noise.
    """
    if n_learners < 1 or not noise >= 0 or not len(seeds):
        raise InputError("The toy takes at least one seed and one learner, and noise of 0 or more.")
    drawn = [normal_points(N_POINTS, noise, seed) for seed in seeds for _ in range(n_learners)]
    x, y = (torch.tensor(np.stack(values)) for values in zip(*drawn, strict=True))
    initial = [_initial_weights(seed, i) for seed in seeds for i in range(n_learners)]
    weights = [torch.tensor(np.stack(w)).requires_grad_() for w in zip(*initial, strict=True)]
    optimiser = torch.optim.Adam(weights, lr=LEARNING_RATE, fused=True)
    for _ in range(STEPS):
        optimiser.zero_grad()
        # The sum over learners keeps each one's gradient what it would be alone.
        (_forward(weights, x) - y).square().mean(1).sum().backward()
        optimiser.step()
    parts = zip(*(w.detach().split(n_learners) for w in weights), strict=True)
    return [Learners(part, noise, seed) for seed, part in zip(seeds, parts, strict=True)]


@lru_cache(maxsize=64)
def train(n_learners: int = 2, noise: float = 0.1, seed: int = 0) -> Learners:
    """The ensemble of one seed; kept, so that a slider that comes back need not train again."""
    return train_many([seed], n_learners, noise)[0]


def scores(learners: Learners, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Four scores of points (x, y), each float64 [points], >= 0, higher = more abnormal.

    Returns:
        "output" (Unc, Eq. 5) std_i f_i(x); "dual" (DSU, Eq. 6) std_i(L_i dL_i/dx) with
        L_i = |f_i(x) - y|; and the parts DSU is made of, as controls: "slope" std_i f_i'(x), which
        does not look at y, and "ensemble" |mean_i f_i(x) - y|, which does not look at the learners'
        disagreement.

    Raises:
        InputError: with fewer than two learners.
    """
    f, slopes = map(torch.from_numpy, learners.predict(x))
    error = f - torch.from_numpy(y)
    values = {
        "output": deviation(f),
        "dual": deviation(error * slopes),  # L dL/dx = |error| sign(error) f'
        "slope": deviation(slopes),
        "ensemble": error.mean(0).abs(),
    }
    return {name: value.numpy() for name, value in values.items()}


def alarm_levels(learners: Learners) -> dict[str, float]:
    """Each score's level that 95 % of 1000 held-out normal points stay below.

    A detector that raises an alarm above its level is wrong about 5 % of the normals, whichever the
    score: so scores of different units can be compared, in multiples of their levels.
    """
    normals = normal_points(1000, learners.noise, learners.seed, held_out=True)
    return {name: float(np.quantile(v, 0.95)) for name, v in scores(learners, *normals).items()}


def relative_scores(learners: Learners, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """`scores` divided by their `alarm_levels`: above 1 is an alarm."""
    levels = alarm_levels(learners)
    return {name: values / levels[name] for name, values in scores(learners, x, y).items()}


def places_off_the_normals() -> np.ndarray:
    """Every x of SPAN at least MARGIN away from the bands: the gap, both ends; float64 [places]."""
    x = np.arange(round((SPAN[1] - SPAN[0]) * 100) + 1) * 0.01 + SPAN[0]
    # A hair less than the margin, so that rounding does not decide about its end.
    apart = [(x < low - MARGIN + 1e-9) | (x > high + MARGIN - 1e-9) for low, high in BANDS]
    return x[np.logical_and.reduce(apart)]


def place_of_agreement(learners: Learners) -> float:
    """The x off the normals where output uncertainty is smallest: two learners' crossing."""
    x = places_off_the_normals()
    return float(x[scores(learners, x, curve(x))["output"].argmin()])


def effect(learners: Learners, height: float = 1.0) -> dict[str, float | bool]:
    """Whether the effect of Fig. 1c is there, as a statement that can be false.

    Abnormal points stand `height` above the curve at every place off the normals. A place is
    **blind** if the output uncertainty there raises no alarm: it is not above the level that 95 %
    of held-out normals stay below. The effect *holds* if DSU, at its own level of the same kind,
    raises an alarm at more than half of the blind places. Without a blind place there is nothing
    for DSU to add, and the effect does not hold. A height of 0 puts the points on the curve.

    Returns:
        seed; learners; height; blind, the share of places that are blind to "output"; of these,
        the share where "dual", "slope" and "ensemble" raise an alarm (NaN without any); the median
        there of "output" and "dual" in multiples of their levels (`output_level`, `dual_level`);
        the mirror image: dual_blind, the share of places blind to "dual", and of these the share
        where "output" raises an alarm (`mirror`); and holds.
    """
    x = places_off_the_normals()
    relative = pd.DataFrame(relative_scores(learners, x, curve(x) + height))
    blind, mirror = (relative[relative[name] <= 1] for name in ("output", "dual"))
    caught, level = (blind > 1).mean(), blind.median()  # NaN without any
    return {
        "seed": learners.seed,
        "learners": len(learners),
        "height": height,
        "blind": len(blind) / len(relative),
        **caught[["dual", "slope", "ensemble"]],
        "output_level": level["output"],
        "dual_level": level["dual"],
        "dual_blind": len(mirror) / len(relative),
        "mirror": (mirror["output"] > 1).mean(),
        "holds": bool(caught["dual"] > 0.5),
    }


def effects(ensembles: Sequence[Learners], heights: Sequence[float] = (1.0,)) -> pd.DataFrame:
    """`effect` of every ensemble and height, one row each."""
    return pd.DataFrame([effect(some, height) for height in heights for some in ensembles])


def slider_positions(noise: float = 0.1, seed: int = 0, height: float = 1.0) -> dict[str, View]:
    """Nine views, three positions each of place, noise and number of learners, by title.

    What a row of three does not move stands at the place where two learners agree most.
    """
    learners = train(8, noise, seed)
    place = place_of_agreement(learners.first(2))
    views = {f"place {x:g}": view(learners.first(2), x, height) for x in (-4.5, 0.0, 2.0)}
    for other in (0.05, 0.2, 0.4):
        views[f"noise {other:g}"] = view(train(8, other, seed).first(2), place, height)
    for n in (2, 4, 8):
        views[f"{n} learners"] = view(learners.first(n), place, height)
    return views


def counts(effects: pd.DataFrame) -> pd.DataFrame:
    """In how many seeds what holds: `effects`, a row a number of learners and height.

    Seeds; those with a blind place; the median share of places that are blind; the seeds in which
    DSU (the effect holds), its slopes alone and its error alone raise an alarm at more than half of
    the blind places; and the median share of places where DSU is silent.
    """
    rows = effects.groupby(["learners", "height"], sort=False)

    def above(column: str, level: float) -> pd.Series:
        return rows[column].agg(lambda values: int((values > level).sum()))

    def median(column: str) -> pd.Series:
        return (100 * rows[column].median()).round().astype(int)

    table = {"seeds": rows.size(), "with a blind place": above("blind", 0)}
    table["blind, %"] = median("blind")
    table |= {SCORES[name]: above(name, 0.5) for name in ("dual", "slope", "ensemble")}
    return pd.DataFrame(table | {"DSU blind, %": median("dual_blind")})


class View(NamedTuple):
    """What a picture of the toy shows; scores are in multiples of their alarm levels."""

    normals: tuple[np.ndarray, np.ndarray]  # the points that learners were trained on, x and y
    x: np.ndarray  # [places], over SPAN
    curves: np.ndarray  # f_i(x), [N, places]
    height: float  # of the abnormal points above the curve
    along: dict[str, np.ndarray]  # by score, [places]: of the points (x, curve(x) + height)
    point: tuple[float, float]  # the abnormal point looked at
    tangents: np.ndarray  # f_i and f_i' at the point's x, [N, 2]
    at_point: dict[str, float]  # by score, of the point
    dual_on_curve: float  # DSU of the point on learner 1's curve below


def view(learners: Learners, place: float | None = None, height: float = 1.0) -> View:
    """These learners and one abnormal point, `height` above the curve at x = `place`.

    Without a place it stands at `place_of_agreement`.
    """
    place = place_of_agreement(learners) if place is None else float(place)
    at = np.array([place])
    y = curve(at) + height
    x = np.linspace(*SPAN, 1001)
    along = relative_scores(learners, np.append(x, at), curve(np.append(x, at)) + height)
    f, slopes = learners.predict(at)
    return View(
        normals=normal_points(N_POINTS, learners.noise, learners.seed),
        x=x,
        curves=learners.predict(x)[0],
        height=height,
        along={name: values[:-1] for name, values in along.items()},
        point=(place, float(y[0])),
        tangents=np.hstack([f, slopes]),
        at_point={name: float(values[-1]) for name, values in along.items()},
        dual_on_curve=float(relative_scores(learners, at, f[0])["dual"][0]),
    )


def reading(view: View) -> list[str]:
    """What a picture shows at its abnormal point, in sentences."""
    f, slopes = (", ".join(f"{value:.2f}" for value in values) for values in view.tangents.T)
    levels = ", ".join(f"{name} {view.at_point[key]:.2g}" for key, name in SCORES.items())
    return [
        f"At x = {view.point[0]:.2f} the learners' outputs are {f} and their slopes {slopes}.",
        f"In multiples of their alarm levels: {levels}.",
        f"Were y the output of learner 1 itself, DSU would be at {view.dual_on_curve:.4f}.",
    ]


def _forward(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """f_i(x): [N, points] of x [N, points]."""
    hidden = x.unsqueeze(2)
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        hidden = torch.baddbmm(bias, hidden, weight)
        if weight.shape[2] > 1:
            hidden = hidden.tanh()
    return hidden.squeeze(2)


def _initial_weights(seed: int, learner: int) -> list[np.ndarray]:
    """Uniform in +-1/sqrt(inputs), as PyTorch's Linear; weight and bias of each layer in turn."""
    rng = np.random.default_rng([seed, learner])
    return [
        rng.uniform(-(inputs**-0.5), inputs**-0.5, (rows, outputs))
        for inputs, outputs in ((1, WIDTH), (WIDTH, WIDTH), (WIDTH, 1))
        for rows in (inputs, 1)
    ]
