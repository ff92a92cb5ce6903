"""The command line: what it says, what it refuses, and the whole way from a recipe to a report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from robustreg import cli

ROOT = Path(__file__).resolve().parents[1]
QUICK = [
    "epochs=1",
    "model.width=4",
    "data.train_size=200",
    "validation.attack={attack: pgd, steps: 2}",
    "evaluation.samples=60",
    "evaluation.attacks=[{attack: gaussian, std: 0.1}, fgsm, {attack: pgd, steps: 3}]",
    "evaluation.curve=[0.1]",
]
INTERRUPTING = '''
"""A term that presses Ctrl-C once, at its fifth step, while the file `armed` is there."""
import os, signal
from dataclasses import dataclass
from pathlib import Path
import robustreg as rr

ARMED = Path(__file__).with_name("armed")

@rr.register("term", "interrupting_term")
@dataclass(frozen=True)
class InterruptingTerm(rr.Term):
    def __call__(self, probe):
        if ARMED.exists() and len(probe.x) == 50:
            count = int(ARMED.read_text()) + 1
            ARMED.write_text(str(count))
            if count == 5:
                ARMED.unlink()
                signal.raise_signal(signal.SIGINT)
        return 0.01 * probe.logits(rr.Clean()).square().mean(1)
'''


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # or main() would set it for all tests that follow


def run(*words: str) -> int:
    return cli.main([str(word) for word in words])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was written to stderr: one line that begins with the program's name."""
    error = capsys.readouterr().err.strip()
    assert error.startswith("robustreg: ")
    assert "Traceback" not in error
    return error.removeprefix("robustreg: ")


# Help and start-up


def test_help_loads_neither_torch_nor_any_trainer() -> None:
    code = (
        "import sys; from robustreg.cli import main; code = main(['train', '--help']); "
        "heavy = {'torch', 'numpy', 'lightning_fabric', 'omegaconf', 'sklearn', 'plotly', 'jinja2'}; "
        "print(code, sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    for command in (
        "train",
        "evaluate",
        "compare",
        "report",
        "verify",
        "connections",
        "list",
        "show",
        "demo",
    ):
        assert f" {command} " in out


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "compare", "report", "verify", "connections", "list", "show", "demo"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    assert "Usage: robustreg" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import robustreg

    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"robustreg {robustreg.__version__}"


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "robustreg", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "robustreg")


# What is refused


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "plain", "--run-dirr", "x"], "--run-dir"),
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "plain", "--threads", "many"], "Invalid value for '--threads'"),
        (["train", "plian"], "there is no recipe named 'plian'; did you mean 'plain'?"),
        (
            ["train", "plain", "epoch=3"],
            "override epoch=3: `epoch` is not a key of a recipe; did you mean 'epochs'?",
        ),
        (["train", "plain", "nonsense"], "an override is written key.path=value, not 'nonsense'"),
        (["train", "plain", "--device", "gpu"], "--device should be auto, cpu or cuda, but is 'gpu'"),
        (["train", "plain", "--import", "none.py"], "none.py is not there"),
        (["train", "plain", "--resume"], "there is nothing to resume in runs/plain"),
        (["evaluate", "nowhere"], "nowhere is no run folder: it has no recipe.yaml"),
        (["verify", "nowhere"], "nowhere is no run folder"),
        (["compare"], "nothing to compare"),
        (["compare", "plain", "plain"], "two recipes are named 'plain'"),
        (
            ["compare", "plain", "--methods", "gradientfamily"],
            "names an unknown method 'gradientfamily'; did you mean",
        ),
        (["list", "method"], "there is no list of 'method'; did you mean 'methods'?"),
        (["show", "gradient_famly"], "unknown method 'gradient_famly'; did you mean 'gradient_family'?"),
        (
            ["show", "gradient_family", "form=penalti"],
            "`objective.form` should be 'perturbed' or 'penalty' or 'mixed'",
        ),
    ],
)
def test_usage_errors_are_one_sentence_and_exit_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    error = said(capsys)
    assert sentence in error
    assert "\n" not in error
    assert not Path("runs").exists()


def test_failures_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "nowhere") == 1
    assert said(capsys) == "there is no folder nowhere to report on"


def test_missing_data_exit_1_and_leave_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("train", "plain", "data={name: arrays, path: none.npz}") == 1
    assert "none.npz" in said(capsys)
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="there is no recipe named"):
        run("train", "plian", "--debug")


@pytest.mark.parametrize(
    ("module", "extra"), [("typer", "train"), ("omegaconf", "train"), ("plotly", "report")]
)
def test_a_missing_extra_says_what_to_install(
    module: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what an import of it then meets is ModuleNotFoundError
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    if module == "typer":
        for name in [n for n in sys.modules if n.startswith("robustreg.commands")]:
            monkeypatch.delitem(sys.modules, name)
        assert run("list") == 1
    elif module == "omegaconf":
        assert run("train", "plain") == 1
    else:
        assert cli._explain(error) == 1
    assert said(capsys) == f'{module} is not installed, which this needs: pip install "robustreg[{extra}]"'


def test_a_missing_extra_that_was_explained_is_not_explained_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = 'the report needs plotly, which is not installed: pip install "robustreg[report]"'
    assert cli._explain(ModuleNotFoundError(told, name="plotly")) == 1
    assert said(capsys) == told


def test_an_error_of_ours_is_no_missing_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._explain(ModuleNotFoundError("No module named 'robustreg.x'", name="robustreg.x")) == 1
    assert "pip install" not in said(capsys)


# Lists and cards


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    out = capsys.readouterr().out
    for name in (
        "gradient_l2",
        "gradient_family",
        "gradient_norm",
        "pgd",
        "maxout_mlp",
        "fashion_mnist",
        "onecycle",
    ):
        assert name in out


def test_list_includes_the_user_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "terms", "--import", str(ROOT / "examples" / "my_penalty.py")) == 0
    assert "logit_squeezing" in capsys.readouterr().out


def test_show_has_the_card_and_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "gradient_family", "form=penalty", "threat.norm=l2") == 0
    out = capsys.readouterr().out
    assert "arXiv 1511.06385" in out
    assert "Threat('l2'" in out
    assert "1 double backward" in out


# The whole way


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick run, trained by the command."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run("train", "gradient_l2", *QUICK, "--run-dir", folder, "--seed", "5", "--no-progress") == 0
    return folder


def test_train_leaves_a_whole_run(trained: Path) -> None:
    for name in (
        "recipe.yaml",
        "run.json",
        "plan.json",
        "metrics.csv",
        "validation.csv",
        "examples.safetensors",
    ):
        assert (trained / name).is_file(), name
    record = json.loads((trained / "run.json").read_text())
    assert (record["status"], record["seed"], record["name"]) == ("finished", 5, "gradient_l2")
    evaluation = json.loads((trained / "evaluation" / "evaluation.json").read_text())
    assert evaluation["n"] == 60
    assert [attack["name"] for attack in evaluation["attacks"]] == ["gaussian", "fgsm", "pgd"]
    assert [point["eps"] for point in evaluation["curve"]] == [0.1]


def test_train_says_where_everything_is(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "plain", *QUICK, "--no-progress") == 0
    out = capsys.readouterr().out
    assert "worst case" in out
    for command in ("report", "verify", "evaluate"):
        assert f"robustreg {command} runs/plain" in out
    assert run("train", "plain", *QUICK, "--no-progress") == 0  # a second run takes a folder of its own
    assert Path("runs/plain-2/run.json").is_file()


def test_a_folder_in_use_is_not_overwritten(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "run.json").read_text()
    assert run("train", "plain", *QUICK, "--run-dir", trained) == 2
    assert "is not empty; add --resume" in said(capsys)
    assert (trained / "run.json").read_text() == before


def test_the_recipe_of_a_run_makes_the_same_run(trained: Path, tmp_path: Path) -> None:
    assert run("train", trained / "recipe.yaml", "--run-dir", tmp_path / "again", "--no-progress") == 0
    weights = Path("checkpoints") / "last" / "weights.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (trained / weights).read_bytes()


def test_verify_and_evaluate_and_report(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", trained) == 0
    assert "verified: " in capsys.readouterr().out
    # Another evaluation of the same run, on fewer samples; verify looks at what was evaluated last.
    changed = ["evaluation.attacks=[{attack: pgd, steps: 4, restarts: 2}]", "evaluation.samples=40"]
    assert run("evaluate", trained, *changed, "--no-progress") == 0
    assert "40 samples" in capsys.readouterr().out
    assert run("verify", trained) == 0
    assert "evaluation.samples" not in (trained / "recipe.yaml").read_text()
    assert run("report", trained) == 0
    assert (trained / "report.html").stat().st_size > 10_000


def test_connections(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--samples", "4", "--distances", "2", "--out", tmp_path / "theory"]
    assert run("connections", trained, *options, "--claims", "I1, I2b,B2,A1,I11b") == 0
    out = capsys.readouterr().out
    assert "4 samples of 64 inputs" in out
    assert "0 violated" in out
    result = json.loads((tmp_path / "theory" / "connections.json").read_text())
    assert [claim["key"] for claim in result["claims"]] == ["I1", "I2b", "B2", "A1", "I11b"]
    assert [claim["verdict"] for claim in result["claims"][:4]] == ["holds"] * 4
    assert len(result["distances"]["lower"]) == 2
    assert (tmp_path / "theory" / "connections.html").stat().st_size > 10_000
    assert not (trained / "connections.json").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--claims", "I1,I99"], "there is no claim 'I99'"),
        (["--radius", "0"], "--radius is a length above 0"),
    ],
)
def test_connections_that_cannot_be_checked(
    words: list[str], sentence: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("connections", trained, *words) == 2
    assert sentence in said(capsys)


def test_a_violated_claim_is_an_exit_code(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    from robustreg import connections

    first = connections.CLAIMS[0]
    wrong = dataclasses.replace(first, sides=lambda case: (case.loss + 1, case.loss))
    monkeypatch.setattr(connections, "CLAIMS", (wrong,))
    options = ["--samples", "2", "--distances", "0", "--out", tmp_path / "theory"]
    assert run("connections", trained, *options) == 1
    assert "1 violated" in capsys.readouterr().out


def test_connections_of_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    quick = [*QUICK[:-1], "evaluation.curve=[]"]
    assert run("compare", "plain", "gradient_l2", *quick, "--out", "cmp", "--jobs", "1", "--no-progress") == 0
    capsys.readouterr()
    assert run("connections", "cmp", "--samples", "20") == 0
    out = capsys.readouterr().out
    assert "Rank correlation of each functional" in out
    result = json.loads(Path("cmp/connections.json").read_text())
    assert result["regularisers"] == ["plain", "gradient_l2"]
    assert result["log10_ratios"]["plain"]["jacobian"][0] == 0.0
    assert Path("cmp/connections.html").stat().st_size > 10_000
    kept = Path("cmp/plain-s0/functionals.json")
    before = kept.stat().st_mtime_ns
    assert run("connections", "cmp", "--samples", "20", "--baseline", "gradient_l2") == 0
    assert kept.stat().st_mtime_ns == before  # measured once
    assert run("connections", "cmp", "--baseline", "none") == 2
    assert "has no evaluated run named 'none'; --baseline is one of plain, gradient_l2" in said(capsys)
    assert run("connections", "cmp", "--claims", "I1") == 2
    assert "--claims are checked on one run" in said(capsys)


def test_verify_without_evidence(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "recipe.yaml").write_text((trained / "recipe.yaml").read_text())
    assert run("verify", "bare") == 2
    assert said(capsys) == "bare holds no evidence yet; `robustreg evaluate bare` makes it"


def test_verify_fails_on_evidence_that_was_changed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    points = copy / "evaluation" / "evidence" / "points.safetensors"
    damaged = bytearray(points.read_bytes())
    damaged[-3] ^= 0x40
    points.write_bytes(bytes(damaged))
    assert run("verify", copy) == 1
    assert "NOT verified" in capsys.readouterr().out


def test_ctrl_c_and_resume_give_the_bits_of_an_uninterrupted_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(INTERRUPTING)
    objective = "objective={terms: [cross_entropy, interrupting_term]}"
    words = [
        "train",
        "plain",
        *QUICK,
        objective,
        "batch_size=50",
        "epochs=3",
        "--import",
        "own.py",
        "--no-progress",
    ]
    assert run(*words, "--run-dir", "whole") == 0

    (tmp_path / "armed").write_text("0")
    assert run(*words, "--run-dir", "parts") == 130
    assert "`robustreg train parts --resume`" in capsys.readouterr().out
    assert json.loads(Path("parts/run.json").read_text())["status"] == "interrupted"
    assert not Path("parts/evaluation").exists()
    assert run("train", "parts", "--resume", "--no-progress") == 0
    weights = Path("checkpoints") / "last" / "weights.safetensors"
    assert (Path("whole") / weights).read_bytes() == (Path("parts") / weights).read_bytes()
    whole, parts = (
        json.loads((Path(p) / "evaluation" / "evaluation.json").read_text()) for p in ("whole", "parts")
    )
    assert whole["worst_case"] == parts["worst_case"]


def test_ctrl_c_while_python_clears_up_is_an_exit_code_and_no_traceback() -> None:
    program = (
        "import atexit, signal, sys; from robustreg.cli import main; sys.argv[1:] = ['--version'];"
        "atexit.register(signal.raise_signal, signal.SIGINT); sys.exit(main())"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT  # which a shell shows as 130
    assert ended.stderr == ""


def test_resuming_with_another_recipe_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "plain", *QUICK, "--run-dir", trained, "--resume") == 2
    error = said(capsys)
    assert "cannot resume" in error
    assert "objective" in error


# Comparisons


def test_compare_trains_what_is_missing_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "plain", "gradient_l2", *QUICK, "--out", "cmp", "--no-progress"]
    assert run(*words) == 0
    out = capsys.readouterr().out
    for column in ("clean", "gaussian", "fgsm", "pgd", "worst", "epoch", "passes"):
        assert column in out
    assert "[2/2] " in out  # whichever was ready last
    assert "gradient_l2, seed 0" in out
    listing = json.loads(Path("cmp/compare.json").read_text())
    assert [(r["name"], r["path"], r["seed"]) for r in listing["runs"]] == [
        ("plain", "plain-s0", 0),
        ("gradient_l2", "gradient_l2-s0", 0),
    ]
    assert Path("cmp/report.html").is_file()

    kept = os.stat("cmp/plain-s0/run.json").st_mtime_ns
    assert run(*words, "--seeds", "2") == 0
    out = capsys.readouterr().out
    assert "2 of 4 runs are finished already" in out
    assert "±" in out
    assert os.stat("cmp/plain-s0/run.json").st_mtime_ns == kept

    assert run("compare", "plain", *QUICK, "batch_size=32", "--out", "cmp") == 2
    assert "holds a run of another recipe (batch_size differ)" in said(capsys)


def test_compare_goes_on_with_a_run_that_was_not_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    assert run("compare", "plain", *QUICK, "--out", "cmp", "--no-progress") == 0
    weights = Path("cmp/plain-s0/checkpoints/last/weights.safetensors")
    kept = weights.stat().st_mtime_ns
    shutil.rmtree("cmp/plain-s0/evaluation")
    assert run("compare", "plain", *QUICK, "--out", "cmp", "--no-progress") == 0
    assert Path("cmp/plain-s0/evaluation/evaluation.json").is_file()
    assert weights.stat().st_mtime_ns == kept


def test_compare_refuses_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robustreg.config import load_recipe

    other = load_recipe("gradient_l2", ["threat.eps=0.3"])
    (tmp_path / "other.yaml").write_text(other.to_yaml())
    assert run("compare", "plain", "other.yaml") == 2
    assert "plain and gradient_l2 cannot be compared: `threat.eps` differs (0.15 and 0.3)" in said(capsys)


def test_compare_methods_on_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--data", "digits", "--methods", "gradient_family", "--out", "cmp", "--no-progress"]
    quick = [word for word in QUICK if not word.startswith("data.")]
    assert run(*words, *quick) == 0
    assert "gradient_family" in capsys.readouterr().out
    assert "form: penalty" not in Path("cmp/gradient_family-s0/recipe.yaml").read_text()


def test_naming_the_data_does_not_give_back_hidden_labels() -> None:
    from robustreg.commands.compare import load_all

    loaded = load_all(["pgd_at_few_labels"], ["rst", "trades"], ["data=digits"], [], seeds=1)
    assert [recipe.data.options.get("labelled") for recipe in loaded] == [0.1, 0.1, None]


def test_every_method_is_compared_by_its_recipe_for_the_data_or_as_plain_is_trained() -> None:
    from robustreg.commands.compare import load_all, methods_named
    from robustreg.registry import components

    named = methods_named("all")
    assert named[0] == "plain"
    assert set(named) - {"plain"} == {n for n, made in components("method").items() if hasattr(made, "card")}
    assert methods_named("gat,vat") == ["gat", "vat"]
    gat, family = load_all([], ["gat", "gradient_family"], [], [], seeds=1)
    assert gat.to_dict()["objective"] == {"method": "gat", **GAT_OF_DIGITS}
    assert family.to_dict()["objective"] == {"method": "gradient_family"}


GAT_OF_DIGITS = {"lam": 10.0}


def test_runs_are_made_at_the_same_time_and_one_that_fails_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(
        "import robustreg as rr\n\n\n@rr.register('term')\nclass Breaking(rr.Term):\n"
        "    def __call__(self, probe):\n        if probe.stream.step == 2:\n"
        "            raise RuntimeError('the third step')\n        return probe.loss()\n"
    )
    content = Path(ROOT / "recipes" / "plain.yaml").read_text().replace("name: plain", "name: broken")
    content = content.replace("terms: [cross_entropy]", "terms: [breaking]") + "imports: [broken.py]\n"
    (tmp_path / "broken.yaml").write_text(content)
    words = ["compare", "plain", "broken.yaml", "gradient_l2", *QUICK, "--out", "cmp", "--no-progress"]
    for jobs in ("2", "1"):  # the second time only the broken one is left
        assert run(*words, "--jobs", jobs) == 2
        out, err = capsys.readouterr()
        assert "1 of 3 runs failed: broken-s0: the third step" in err
        assert "plain" in out
        assert all(
            Path(f"cmp/{name}-s0/evaluation/evaluation.json").is_file() for name in ("plain", "gradient_l2")
        )
    assert "2 of 3 runs are finished already" in out


def test_the_leaderboard_is_in_the_order_of_the_worst_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from robustreg.commands import leaderboard

    runs = []
    for name, accuracy in (("low", 0.1), ("high", 0.9), ("middle", 0.5)):
        score = {"accuracy": accuracy, "low": accuracy, "high": accuracy}
        folder = tmp_path / name
        (folder / "evaluation").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"name": name, "seed": 0, "status": "finished"}))
        content = {
            "n": 10,
            "seed": 0,
            "threat": {"norm": "inf", "eps": 0.1, "bounds": [0, 1]},
            "clean": score,
        }
        content |= {"attacks": [], "worst_case": score, "curve": []}
        (folder / "evaluation" / "evaluation.json").write_text(json.dumps(content))
        runs.append({"name": name, "path": name, "seed": 0})
    (tmp_path / "compare.json").write_text(json.dumps({"title": "", "runs": runs}))
    leaderboard.show(tmp_path)
    out = capsys.readouterr().out
    assert out.index("high") < out.index("middle") < out.rindex("low")


def test_a_penalty_from_outside_the_package_works_with_recipes_and_compare(
    capsys: pytest.CaptureFixture[str],
) -> None:
    penalty, recipe = ROOT / "examples" / "my_penalty.py", ROOT / "examples" / "my_recipe.yaml"
    assert len(penalty.read_text().splitlines()) <= 40
    assert run("compare", "plain", recipe, *QUICK, "--out", "cmp", "--no-progress") == 0
    assert "squeezed" in capsys.readouterr().out
    header = Path("cmp/squeezed-s0/metrics.csv").read_text().splitlines()[0]
    assert "logit_squeezing" in header
    assert str(penalty) in Path("cmp/squeezed-s0/recipe.yaml").read_text()
    assert run("verify", "cmp/squeezed-s0") == 0


def test_the_demo_is_a_comparison_of_five_recipes_that_exist() -> None:
    from robustreg.commands.compare import load_all
    from robustreg.commands.demo import RECIPES

    assert len({recipe.name for recipe in load_all(list(RECIPES), [], [], [], seeds=1)}) == 5
