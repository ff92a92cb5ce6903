"""`robustreg adopt`: a network that was trained elsewhere becomes a run, on which all other commands work."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustreg.cli import main
from robustreg.data import load

MODELS = """\
import torch
from torch import nn
from beside import WIDTH


class Net(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.hidden, self.out = nn.Linear(64, width), nn.Linear(width, 10)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x.flatten(1))))


def build():
    return Net()


net = Net()


def given(arguments):
    return Net(arguments.width)


def script():
    raise SystemExit(3)


def reads():
    open("no such file")


class Random(Net):
    def forward(self, x):
        return super().forward(torch.dropout(x, 0.5, True))


def randomised():
    return Random()


def nowhere():
    return Net().to("meta")


def half():
    return Net().bfloat16()


def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def broken():
    net = Net()
    nn.init.constant_(net.out.bias, float("nan"))
    return net
"""
MEAN, STD = 0.3053, 0.3760
FEW = ["--no-progress", "--threads", "1"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network's code and the weights that a few steps of ordinary torch left."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "their_models.py").write_text(MODELS)
    (folder / "beside.py").write_text("WIDTH = 24\n")
    x, y = load("digits").train[:]
    torch.manual_seed(0)
    hidden, out = torch.nn.Linear(64, 24), torch.nn.Linear(24, 10)
    net = torch.nn.Sequential(torch.nn.Flatten(), hidden, torch.nn.ReLU(), out)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net((x - MEAN) / STD), y).backward()
        optimiser.step()
    state = {
        f"{name}.{key}": value
        for name, layer in (("hidden", hidden), ("out", out))
        for key, value in layer.state_dict().items()
    }
    torch.save({"epoch": 60, "state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "w.pt")
    save_file(state, folder / "w.safetensors")
    torch.save({"epoch": 60, "mine": state}, folder / "other_key.pt")
    torch.save(net, folder / "whole.pt")
    average = {key: value / 2 for key, value in state.items()}
    torch.save({"state_dict": state, "ema": average, "optimizer": {}}, folder / "two.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(net, x[:2]).save(folder / "script.pt")
    (folder / "short.pt").write_bytes((folder / "w.pt").read_bytes()[:2000])
    return folder


@pytest.fixture
def adopted(elsewhere: Path, tmp_path: Path) -> Path:
    assert adopt(elsewhere, "w.pt", tmp_path / "theirs") == 0
    return tmp_path / "theirs"


def adopt(home: Path, weights: str, run: Path, *more: str, function: str = "build") -> int:
    words = ["adopt", f"{home / 'their_models.py'}:{function}", "--weights", str(home / weights)]
    words += ["--threat", "linf:1/20", "--run-dir", str(run), "--threads", "1"]
    return main([*words, *([] if "--normalize" in more else ["--normalize", "digits"]), *more])


def test_every_command_works_on_it(adopted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(adopted)
    assert main(["evaluate", run, "evaluation.samples=60", *FEW]) == 0
    table = capsys.readouterr().out
    assert "linf, eps 0.05, 60 samples" in table
    assert main(["verify", run, "--threads", "1"]) == 0
    assert main(["leaderboard", run]) == 0
    assert "theirs (trained elsewhere)" in capsys.readouterr().out
    assert main(["report", run]) == 0
    page = (adopted / "report.html").read_text()
    assert (
        "theirs is a network that was trained elsewhere, the model their_models.py:build, looked at on"
        in page
    )
    assert "w.pt (sha256" in page
    assert "robustreg evaluate ." in page
    assert "robustreg train" not in page
    assert main(["connections", run, "--samples", "2", "--claims", "I1", "--distances", "0"]) == 0
    for file in (adopted / "recipe.yaml", adopted / "evaluation" / "recipe.yaml"):
        written = file.read_text()
        assert written.startswith("# A network that was trained elsewhere")
        assert not [word for word in ("objective", "optimizer", "epochs", "lr:") if word in written]
    assert "optimizer" not in page
    assert json.loads((adopted / "run.json").read_text())["trained"] == "elsewhere"


@pytest.mark.parametrize(
    ("weights", "more", "place"),
    [
        ("w.safetensors", [], None),
        ("other_key.pt", [], "mine"),
        ("two.pt", ["--key", "state_dict"], "state_dict"),
    ],
)
def test_weights_in_other_files_are_the_same(
    elsewhere: Path,
    adopted: Path,
    tmp_path: Path,
    weights: str,
    more: list[str],
    place: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert adopt(elsewhere, weights, tmp_path / "again", *more) == 0
    assert json.loads((tmp_path / "again" / "run.json").read_text())["weights"]["key"] == place
    assert "clean accuracy 9" in capsys.readouterr().out
    one, other = (
        load_file(f / "checkpoints/last/weights.safetensors") for f in (adopted, tmp_path / "again")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_accuracy_is_that_of_ordinary_torch(
    elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(elsewhere, "w.pt", tmp_path / "run") == 0
    x, y = load("digits").test[:]
    state = load_file(elsewhere / "w.safetensors")
    z = torch.relu((x.flatten(1) - MEAN) / STD @ state["hidden.weight"].T + state["hidden.bias"])
    right = (z @ state["out.weight"].T + state["out.bias"]).argmax(1) == y
    assert f"clean accuracy {100 * float(right.double().mean()):.2f} %" in capsys.readouterr().out


def test_training_starts_from_it_but_does_not_make_it_again(
    elsewhere: Path, adopted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    makers = [["train"], ["compare", "plain", "--out", str(tmp_path / "compared")]]
    for command, given in itertools.product(makers, (adopted, adopted / "recipe.yaml")):
        assert main([*command, str(given)]) == 2
        assert f"{adopted} holds a network that was trained elsewhere" in capsys.readouterr().err
    model = [
        "model={name: 'their_models.py:build', normalize: digits}",
        "--import",
        str(elsewhere / "their_models.py"),
    ]
    quick = [
        "epochs=1",
        "validation.size=0",
        "optimizer.lr=1.0e-9",
        "evaluation.samples=60",
        "evaluation.curve=[]",
    ]
    words = ["train", "plain", f"start={adopted}", *model, *quick, "--run-dir", str(tmp_path / "tuned"), *FEW]
    assert main(words) == 0
    one, other = (
        load_file(f / "checkpoints/last/weights.safetensors") for f in (adopted, tmp_path / "tuned")
    )
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)


def test_claims_of_functions_are_not_for_what_is_none_nor_for_no_ball(
    elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(elsewhere, "w.pt", tmp_path / "random", function="randomised") == 0
    few = ["--samples", "2", "--claims", "I1", "--distances", "0"]
    assert main(["connections", str(tmp_path / "random"), *few]) == 2
    assert "differ from run to run: the claims are about functions of one sample" in capsys.readouterr().err
    assert adopt(elsewhere, "w.pt", tmp_path / "zero", "threat.eps=0") == 0
    assert main(["connections", str(tmp_path / "zero"), *few]) == 2
    assert f"but the threat of {tmp_path / 'zero'} has eps 0" in capsys.readouterr().err


def test_an_exported_network_comes_back(
    elsewhere: Path, tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), "--to", str(tmp_path / "zoo")]) == 0
    assert (
        main(["adopt", str(tmp_path / "zoo"), "--threat", "l2:0.5", "--run-dir", str(tmp_path / "run")]) == 0
    )
    one, other = (load_file(f / "checkpoints/last/weights.safetensors") for f in (trained, tmp_path / "run"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("weights", "more", "function", "code", "sentence"),
    [
        ("none.pt", (), "build", 1, "there is no file of weights"),
        (
            "whole.pt",
            (),
            "build",
            1,
            "(torch.nn.modules.activation.ReLU, torch.nn.modules.container.Sequential, ",
        ),
        ("their_models.py", (), "build", 1, "their_models.py is no file that torch.save wrote"),
        (
            "w.pt",
            ("--key", "epoch"),
            "build",
            1,
            "w.pt are not under the key 'epoch'; there are: state_dict",
        ),
        (
            "w.pt",
            ("model.width=8",),
            "Net",
            1,
            "hidden.weight has the shape [24, 64] there and [8, 64] in the network",
        ),
        (
            "w.pt",
            (),
            "few",
            1,
            "2 of the network's 2 tensors are missing there (1.weight, 1.bias) and 4 tensors there are not in the "
            "network (state_dict.module.hidden.weight, state_dict.module.hidden.bias, ",
        ),
        (
            "two.pt",
            (),
            "build",
            1,
            "are there several times, under ema, state_dict: say which with its key (--key)",
        ),
        (
            "script.pt",
            (),
            "build",
            1,
            "script.pt is a TorchScript archive, code and weights: give a function",
        ),
        ("short.pt", (), "build", 1, "short.pt is damaged or cut short: torch.load cannot read it"),
        ("w.pt", (), "nothing", 2, "their_models.py has no function 'nothing'"),
        (
            "w.pt",
            (),
            "net",
            2,
            "their_models.py:net' is a network already: name a function that makes and returns it",
        ),
        (
            "w.pt",
            (),
            "given",
            2,
            "their_models.py:given' needs arguments: set the model's option arguments, or",
        ),
        ("w.pt", (), "script", 2, "their_models.py:script' fails when it is made: SystemExit: 3"),
        (
            "w.pt",
            (),
            "reads",
            2,
            "their_models.py:reads' fails when it is made: FileNotFoundError: [Errno 2]",
        ),
        (
            "w.pt",
            (),
            "half",
            1,
            "float32: its weights are bfloat16; take model.float(), or a forward that casts",
        ),
        ("w.pt", (), "nowhere", 2, "the network is on the device 'meta', where tensors have no values"),
        ("w.pt", ("--threat", "l2:1e400"), "build", 2, "--threat should be NORM:EPS, such as linf:8/255"),
        ("w.pt", ("--threat", "linf"), "build", 2, "--threat should be NORM:EPS, such as linf:8/255"),
        (
            "w.pt",
            ("--data", "digit"),
            "build",
            2,
            "names an unknown data set 'digit'; did you mean 'digits'?",
        ),
    ],
)
def test_what_does_not_fit_is_told_and_leaves_nothing(
    elsewhere: Path,
    tmp_path: Path,
    weights: str,
    more: tuple[str, ...],
    function: str,
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert adopt(elsewhere, weights, tmp_path / "run", *more, function=function) == code
    err = capsys.readouterr().err
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("none.py:build", "there is no file"),
        ("their_models.py", "say which function of"),
        ("script.py:build", "script.py failed: SystemExit: 2"),
    ],
)
def test_what_makes_no_network_is_told(
    elsewhere: Path, tmp_path: Path, code: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "script.py").write_text("raise SystemExit(2)")
    words = ["--threat", "linf:0.1", "--run-dir", str(tmp_path / "run")]
    assert main(["adopt", str(elsewhere / code), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_network_on_0_to_255_and_a_threat_as_wide_as_the_box(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (tmp_path / "bytes.py").write_text(code)
    net = torch.nn.Linear(64, 10)
    torch.save({f"1.{name}": value for name, value in net.state_dict().items()}, tmp_path / "w.pt")
    words = [
        "adopt",
        f"{tmp_path / 'bytes.py'}:build",
        "--weights",
        str(tmp_path / "w.pt"),
        "--threat",
        "linf:8",
    ]
    assert (
        main([*words, "--run-dir", str(tmp_path / "run"), "model.normalize=[[0],[0.00392156862745098]]"]) == 0
    )
    said = capsys.readouterr()
    assert "the threat is as wide as the box" in said.err
    x, y = load("digits").test[:]
    right = (net(255 * x.flatten(1)).argmax(1) == y).double().mean()
    assert f"clean accuracy {100 * float(right):.2f} %" in said.out


def test_a_network_that_brings_its_weights_and_what_it_gives_is_looked_at(
    elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--threat", "linf:0.1", "--run-dir", str(tmp_path / "run")]
    home = elsewhere / "their_models.py"
    assert main(["adopt", f"{home}:few", *words]) == 2
    assert "the network has 3 classes, but the data have 10" in capsys.readouterr().err
    assert main(["adopt", f"{home}:broken", *words]) == 1
    assert "gives NaN logits for the clean sample 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["adopt", f"{home}:build", *words]) == 0
    assert "is no better than guessing: are the inputs scaled and standardised" in capsys.readouterr().err
    assert main(["adopt", f"{home}:build", *words]) == 2
    assert "is there already" in capsys.readouterr().err
