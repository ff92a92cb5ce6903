"""Images with their perturbations: cards for one run, a matrix of the same images for a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustreg.report import formatting as fmt
from robustreg.report.aggregate import Group
from robustreg.report.examples import Examples, load_examples
from robustreg.report.png import data_uri, image_pixels, perturbation_pixels
from robustreg.report.reading import Run

_SHOWN_ALONE = 10  # images on the page of one run
_SHOWN_EACH = 8  # images for each run of a comparison: what stands beside each other on a laptop
_SHOWN_APART = 4  # images for each run of a comparison whose runs stored different ones

Tile = dict[str, Any]


class Gallery:
    """The examples of one run with the names of their classes."""

    def __init__(self, name: str, run: Run, examples: Examples) -> None:
        self.name = name
        self.examples = examples
        data = run.info.get("data")
        names = data.get("classes") if isinstance(data, Mapping) else None
        self._classes = names if isinstance(names, list) else []

    def __len__(self) -> int:
        return len(self.examples)

    def class_name(self, index: int) -> str:
        """The name of a class where the data has names, else its number."""
        return str(self._classes[index]) if 0 <= index < len(self._classes) else str(index)

    def label(self, i: int) -> str:
        """The true class of image i."""
        return self.class_name(int(self.examples.label[i]))

    def original(self, i: int, owner: str = "") -> Tile:
        """The image as it is, with the network's prediction unless it stands for several networks."""
        alt = f"Original image {i + 1} of class {self.label(i)}"
        pixels = _visible(self.examples, i)[0]
        if owner:
            return _tile(pixels, f"class {self.label(i)}", alt)
        return self._predicted(pixels, "Original", alt, int(self.examples.prediction[i]), i)

    def steepest(self, i: int, caption: str) -> Tile:
        """The steepest-ascent perturbation."""
        alt = f"Steepest-ascent perturbation of image {i + 1}{self._owner}"
        return _tile(perturbation_pixels(self.examples.gradient[i]), caption, alt)

    def attack(self, i: int, caption: str) -> Tile:
        """The perturbation that the attack found."""
        alt = f"Perturbation that the attack found for image {i + 1}{self._owner}"
        return _tile(perturbation_pixels(self.examples.adversarial[i] - self.examples.clean[i]), caption, alt)

    def adversarial(self, i: int, caption: str) -> Tile:
        """The adversarial image with the network's prediction; without a caption, with both predictions."""
        alt = f"Adversarial image {i + 1} of class {self.label(i)}{self._owner}"
        after = int(self.examples.adversarial_prediction[i])
        tile = self._predicted(_visible(self.examples, i)[1], caption, alt, after, i)
        if not caption:
            before = self.class_name(int(self.examples.prediction[i]))
            tile["prediction"] = f"{before} → {self.class_name(after)}"
        return tile

    @property
    def _owner(self) -> str:
        return f", {self.name}" if self.name else ""

    def _predicted(self, pixels: NDArray[np.uint8], caption: str, alt: str, prediction: int, i: int) -> Tile:
        right = prediction == int(self.examples.label[i])
        words = f"predicted {self.class_name(prediction)}"
        said = f"{alt}, {words}, {'right' if right else 'wrong'}"
        return {**_tile(pixels, caption, said), "prediction": words, "right": right}


def examples(groups: Sequence[Group], compared: bool) -> dict[str, Any]:
    """The images, and the sentences that say how they came about or why they are missing."""
    galleries: list[Gallery] = []
    notes: list[str] = []
    for group in groups:
        for run in group.runs:
            found, problem = load_examples(run.folder)
            if problem:
                notes.append(f"{run.name}: {problem}" if compared else problem)
            if found is not None:
                galleries.append(Gallery(group.name if compared else "", run, found))
                break  # one seed is enough to look at
    page: dict[str, Any] = {
        "cards": [],
        "originals": [],
        "rows": [],
        "about": "",
        "scale": "",
        "notes": notes,
    }
    if not galleries:
        return page
    page["about"] = _about(galleries[0].examples)
    page["scale"] = _scale([gallery.examples for gallery in galleries])
    if not compared:
        page["cards"] = [_cards(galleries[0], _SHOWN_ALONE)]
    elif _same_images(galleries):
        shown = range(min(len(galleries[0]), _SHOWN_EACH))
        page["originals"] = [galleries[0].original(i, owner="all") for i in shown]
        page["rows"] = [_matrix_row(gallery, shown) for gallery in galleries]
    else:
        notes.append("The runs stored different images, so each is shown with its own.")
        page["cards"] = [_cards(gallery, _SHOWN_APART) for gallery in galleries]
    return page


def _cards(gallery: Gallery, most: int) -> dict[str, Any]:
    cards = [
        {
            "label": gallery.label(i),
            "tiles": [
                gallery.original(i),
                gallery.steepest(i, "Steepest ascent"),
                gallery.attack(i, "Attack"),
                gallery.adversarial(i, "Adversarial"),
            ],
        }
        for i in range(min(len(gallery), most))
    ]
    return {"name": gallery.name, "cards": cards}


def _matrix_row(gallery: Gallery, shown: range) -> dict[str, Any]:
    return {
        "name": gallery.name,
        "steepest": [gallery.steepest(i, "") for i in shown],
        "adversarial": [gallery.adversarial(i, "") for i in shown],
    }


def _tile(pixels: NDArray[np.uint8], caption: str, alt: str) -> Tile:
    return {"src": data_uri(pixels), "caption": caption, "alt": alt, "prediction": "", "right": True}


def _visible(found: Examples, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The clean and the adversarial image as pixels; inputs outside 0-1 are scaled by their common range."""
    pair = np.nan_to_num(np.stack([found.clean[i], found.adversarial[i]]))
    low, high = float(pair.min()), float(pair.max())
    if _outside(low, high):
        pair = (pair - low) / max(high - low, 1e-12)
    return image_pixels(pair[0]), image_pixels(pair[1])


def _outside(low: float, high: float) -> bool:
    return low < -1e-3 or high > 1.0 + 1e-3


def _same_images(galleries: Sequence[Gallery]) -> bool:
    first = galleries[0].examples
    others = (gallery.examples for gallery in galleries[1:])
    return all(np.array_equal(e.clean, first.clean) and np.array_equal(e.label, first.label) for e in others)


def _about(found: Examples) -> str:
    words = []
    if selection := found.about.get("selection"):
        words.append(f"The images are {selection}, whatever the network makes of them.")
    if attack := found.about.get("attack"):
        threat = fmt.threat_name(found.about.get("threat"))
        words.append(f"The adversarial images are those of {attack}{f' under {threat}' if threat else ''}.")
    return " ".join(words)


def _scale(found: Sequence[Examples]) -> str:
    words = "Each perturbation is scaled to its own largest change."
    if any(e.clean.shape[1] == 3 for e in found):
        words += " Of the three colour channels the one that changes most is drawn."
    if any(_outside(float(e.clean.min()), float(e.clean.max())) for e in found):
        words += " Inputs outside 0–1 are scaled to their own range."
    return words
