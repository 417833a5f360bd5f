"""How a device shows an eye: exposure, focus, the colours of a sensor, and speckle.

Cameras and scanners differ in these, and a model should not. All draw once for the fields and eyes
that share, take and return bytes, and are for training only.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from grain.transforms import RandomMap

from data_pipelines.errors import InputError
from data_pipelines.images import functional
from data_pipelines.transforms.fields import (
    Change,
    Record,
    augment,
    check_probability,
    check_range,
    check_sources,
    decoded,
    is_volume,
    names,
    sometimes,
)


@dataclasses.dataclass(frozen=True)
class RandomGamma(RandomMap):
    """Raises brightness, as a share of 255, to a random power, with a probability.

    Black and white stay; a power below 1 brightens what is between, as a longer exposure does.

    Attributes:
        probability: the probability of changing the picture.
        gamma: least and greatest power, drawn on a log scale.
        source: a decoded field or several.
        share: one draw for all fields and both eyes.
    """

    probability: float = 0.5
    gamma: tuple[float, float] = (0.7, 1.4)
    source: str | tuple[str, ...] = "image"
    share: bool = True

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_range("random_gamma", "gamma", self.gamma, 0.01, 100)
        check_sources("random_gamma", self.source)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, its pictures brighter, darker or as they were."""

        def draw(_: np.ndarray) -> Change:
            power = math.exp(rng.uniform(*np.log(self.gamma)))
            return lambda part: functional.gamma(part, power)

        return augment(record, self.source, self.share, sometimes(self.probability, rng, draw))


@dataclasses.dataclass(frozen=True)
class GaussianBlur(RandomMap):
    """Blurs with a probability, as a camera out of focus or a cloudy lens does.

    B-scans of a volume are blurred each by itself.

    Attributes:
        probability: the probability of blurring.
        sigma: least and greatest standard deviation in pixels of the decoded picture. SimCLR (Chen
            et al. 2020) has 0.1 to 2 and a probability of 0.5 at 224 pixels; small lesions such as
            microaneurysms do not survive that, hence the lower defaults.
        source: a decoded field or several.
        share: one draw for all fields and both eyes.
    """

    probability: float = 0.2
    sigma: tuple[float, float] = (0.1, 1.5)
    source: str | tuple[str, ...] = "image"
    share: bool = True

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_range("gaussian_blur", "sigma", self.sigma, 0, 1000)
        check_sources("gaussian_blur", self.source)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, its pictures blurred or not."""

        def draw(_: np.ndarray) -> Change:
            sigma = rng.uniform(*self.sigma)

            def blur(image: np.ndarray) -> np.ndarray:
                return functional.blur(image, sigma)

            return lambda part: np.stack([*map(blur, part)]) if is_volume(part) else blur(part)

        return augment(record, self.source, self.share, sometimes(self.probability, rng, draw))


@dataclasses.dataclass(frozen=True)
class ColorCast(RandomMap):
    """Multiplies red, green and blue each by a random gain, with a probability.

    Cameras for the fundus differ by their flash, filter and white balance; black stays black.

    Attributes:
        probability: the probability of changing the picture.
        strength: each gain is drawn from 1 - x .. 1 + x.
        source: a field of decoded photographs or several.
        share: one draw for all fields and both eyes.
    """

    probability: float = 0.5
    strength: float = 0.1
    source: str | tuple[str, ...] = "image"
    share: bool = True

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_sources("color_cast", self.source)
        if not 0 <= self.strength <= 1:
            raise InputError(f"color_cast: 'strength' must lie in 0..1, got {self.strength}.")

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, its pictures with a cast or not."""
        if grey := [name for name in names(self.source) if is_volume(decoded(record, name))]:
            raise InputError(f"color_cast: {grey} is an OCT volume, which is grey; leave it out.")

        def draw(_: np.ndarray) -> Change:
            gains = rng.uniform(1 - self.strength, 1 + self.strength, 3)
            return lambda part: functional.scaled(part, gains)

        return augment(record, self.source, self.share, sometimes(self.probability, rng, draw))


@dataclasses.dataclass(frozen=True)
class SpeckleNoise(RandomMap):
    """Multiplies every pixel by 1 + normal noise, with a probability: speckle, as OCT has it.

    All channels of a pixel have the same noise, so that a grey B-scan stays grey.

    Attributes:
        probability: the probability of adding any.
        strength: least and greatest standard deviation of the factor.
        source: a decoded field or several, which share the strength and not the noise.
    """

    probability: float = 0.5
    strength: tuple[float, float] = (0.0, 0.2)
    source: str | tuple[str, ...] = "oct"

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_range("speckle_noise", "strength", self.strength, 0, 1)
        check_sources("speckle_noise", self.source)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, its fields with speckle or not."""
        arrays = {name: decoded(record, name) for name in names(self.source)}
        if rng.random() >= self.probability:
            return record
        deviation = rng.uniform(*self.strength)

        def noisy(array: np.ndarray) -> np.ndarray:
            noise = rng.standard_normal((*array.shape[:-1], 1), np.float32)
            return functional.scaled(array, 1 + deviation * noise)

        return {**record, **{name: noisy(array) for name, array in arrays.items()}}
