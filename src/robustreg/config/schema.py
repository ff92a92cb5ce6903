"""The keys of a recipe, their types and their defaults (pydantic models; an unknown key is an error).

The options of a named component (a model's width, an attack's steps) are not listed here: they are the
parameters of the component itself and are checked against its signature in `components`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Spec = str | dict[str, Any]


class Strict(BaseModel):
    """Unknown keys are errors, nothing is converted silently (the text "3" is not the number 3)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Named(BaseModel):
    """A component by name; every further key is one of its keyword arguments."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The component's keyword arguments as written."""
        return dict(self.model_extra or {})


class ThreatSection(Strict):
    """Which perturbations count: a ball of radius `eps` (pixel scale 0-1) in a norm, inside `bounds`."""

    norm: str | float
    eps: Annotated[float, Field(ge=0)]
    bounds: list[float] | None = [0.0, 1.0]


class ObjectiveSection(BaseModel):
    """What is minimised: a published method by name, or a sum of weighted terms."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    method: str | None = None
    terms: list[str | dict[str, Any]] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The method's keyword arguments as written."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _one_form(self) -> ObjectiveSection:
        if (self.method is None) == (self.terms is None):
            raise ValueError("takes either `method: name` or `terms: [...]`, one of the two")
        if self.terms is not None and not self.terms:
            raise ValueError("names no term")
        return self


class Validation(Strict):
    """Selection on samples cut from the training set; the test set is never used for it.

    `size` is a fraction (0.1), a number of samples (10000), or 0 for no validation.
    """

    size: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = 0.1
    attack: Spec | None = {"attack": "pgd", "steps": 10}
    every: Annotated[int, Field(ge=1)] = 1


class Evaluation(Strict):
    """What is measured on the test set once training has ended.

    `samples` keeps the first so many test samples; `curve` lists the eps at which the strongest attack is
    measured again, on `curve_samples` of them. `distances` lists attacks of minimal norm, which tell on
    `distance_samples` of them how far away the nearest misclassified points are. `checkpoint: best` takes the
    epoch that was best on the validation split, under its attack if it has one. `precision: bf16` runs attacks in
    bfloat16, while every verdict is made in full precision.
    """

    attacks: Annotated[list[Spec], Field(min_length=1)] = [
        {"attack": "gaussian", "std": 0.1},
        "fgsm",
        {"attack": "pgd", "steps": 20, "restarts": 2},
    ]
    curve: list[Annotated[float, Field(ge=0)]] = []
    samples: Annotated[int, Field(ge=1)] | None = None
    curve_samples: Annotated[int, Field(ge=1)] | None = None
    distances: list[Spec] = []
    distance_samples: Annotated[int, Field(ge=1)] | None = None
    checkpoint: Literal["last", "best"] = "last"
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 500
    precision: Literal["full", "bf16"] = "full"


class WeightPerturbation(Strict):
    """Adversarial weight perturbation of relative size `gamma`, from the fraction `start` of the run on."""

    gamma: Annotated[float, Field(gt=0)] = 0.005
    start: Fraction = 0.0


class OverfittingGuard(Strict):
    """What to do when training on single steps collapses, and how often to look at `samples` validation samples."""

    action: Literal["warn", "stop", "roll_back", "switch"] = "roll_back"
    every: Annotated[int, Field(ge=1)] = 20
    rescue: Annotated[int, Field(ge=1)] = 50
    steps: Annotated[int, Field(ge=1)] = 10
    gap: Annotated[float, Field(gt=0, le=1)] = 0.3
    samples: Annotated[int, Field(ge=1)] = 200


class Logging(Strict):
    """How often the terms' values are written, and where besides metrics.csv."""

    every: Annotated[int, Field(ge=1)] = 1
    loggers: list[Literal["tensorboard", "mlflow", "wandb"]] = []


class Recipe(Strict):
    """One training run, whole: written to RUN/recipe.yaml, and enough to make the same run again."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0)] = 0
    imports: list[str] = []  # the user's own Python files or modules; loading the recipe runs them
    threat: ThreatSection
    objective: ObjectiveSection
    data: Named = Named(name="digits")
    model: Named
    start: str | dict[str, Any] | None = (
        None  # trained weights to start from: {recipe: NAME}, or a run's folder
    )
    optimizer: Named
    schedule: Named = Named(name="constant")
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 64
    augment: list[str] = []
    precision: Literal["32", "64", "bf16"] = "32"
    ema: Fraction | None = None  # decay of an exponential average of the weights
    swa: Fraction | None = None  # fraction of the run after which every epoch's weights are averaged
    clip: Annotated[float, Field(gt=0)] | None = None  # largest l2 norm of the gradient
    awp: WeightPerturbation | None = None  # the gradient at weights that were moved against it
    overfitting_guard: OverfittingGuard | None = None  # against catastrophic overfitting
    save_every: Annotated[int, Field(ge=0)] = 0  # steps between saves inside an epoch; 0: between epochs only
    validation: Validation = Validation()
    evaluation: Evaluation = Evaluation()
    logging: Logging = Logging()

    @field_validator("precision", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("start")
    @classmethod
    def _where_to_start(cls, value: Any) -> Any:
        if isinstance(value, dict) and not isinstance(value.get("recipe"), str):
            raise ValueError(f"should be `{{recipe: NAME}}` or the folder of a run, but is {value!r}")
        return value

    @model_validator(mode="after")
    def _one_average(self) -> Recipe:
        if self.ema is not None and self.swa is not None:
            raise ValueError("`ema` and `swa` both average the weights: give one of them")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Every key, defaults included, as plain data."""
        content = self.model_dump(mode="json")
        content["objective"] = {k: v for k, v in content["objective"].items() if v is not None}
        return content

    def to_yaml(self) -> str:
        """The fully resolved recipe as a YAML file, which loads back as an equal recipe."""
        import yaml

        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        return text
