"""Evidence and its verification: every way to tamper with it is caught by its own check."""

from __future__ import annotations

import base64
import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robustreg.attacks import PGD
from robustreg.evaluation import data_sha256, evaluate, model_sha256, verify
from robustreg.evaluation.samples import gather
from robustreg.files import sha256_file
from robustreg.points import FGSM, Gaussian
from robustreg.threat import Threat


@pytest.fixture
def attacks(threat):
    return {
        "weak": FGSM(threat.with_eps(0.05)),
        "pgd": PGD(threat, steps=3),
        "noise": Gaussian(0.3),
        "big": FGSM(threat.with_eps(0.2)),
    }


@pytest.fixture
def folder(linear, data, threat, attacks, tmp_path):
    """A folder as a run has it: evaluation.json with evidence/ below."""
    evidence = tmp_path / "evaluation" / "evidence"
    evaluate(linear, data, attacks, threat, evidence_dir=evidence).save(tmp_path / "evaluation")
    return evidence


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def rewrite(folder, change):
    """Change the points and keep their sha256 in the manifest right, as a careful forger would."""
    tensors = load_file(folder / "points.safetensors")
    change(tensors)
    save_file(tensors, folder / "points.safetensors")
    edit(folder, lambda m: m["points"].update(sha256=sha256_file(folder / "points.safetensors")))


def edit(folder, change):
    values = manifest_of(folder)
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def checks(result):
    return {finding.check for finding in result.findings}


class TestHonest:
    def test_verifies(self, linear, data, folder):
        result = verify(folder, linear, data)
        assert result.ok, str(result)
        assert bool(result)
        stored = sum(row["stored"] for row in manifest_of(folder)["attacks"])
        assert result.points_checked == stored > 50
        assert str(result).startswith(f"verified: {stored} adversarial points")
        assert "upper bound" in str(result)

    def test_manifest_says_what_it_is_about(self, linear, data, folder, threat):
        values = manifest_of(folder)
        assert values["format"] == 1
        assert values["torch"] == torch.__version__
        assert values["model"]["sha256"] == model_sha256(linear)
        assert values["data"]["sha256"] == data_sha256(gather(data))
        assert values["points"]["sha256"] == sha256_file(folder / "points.safetensors")
        assert Threat.from_dict(values["threat"]) == threat
        for row in values["attacks"]:
            fooled = load_file(folder / "points.safetensors")[f"{row['name']}.index"]
            assert row["fooled"] == row["stored"] == len(fooled)
        assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "points.safetensors"]

    def test_any_form_of_the_data_and_another_batch_size(self, linear, data, folder):
        x, y = data
        assert verify(folder, linear, [(x[:50], y[:50]), (x[50:], y[50:])], batch_size=7).ok
        assert verify(folder, linear, (x.double().numpy(), y.int().numpy())).ok

    def test_the_same_evaluation_writes_the_same_bytes(self, linear, data, threat, attacks, folder, tmp_path):
        evaluate(linear, data, attacks, threat, evidence_dir=tmp_path / "again")
        for name in ("manifest.json", "points.safetensors"):
            assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()

    def test_sequential_survivors_and_invalid_attacks(self, linear, data, threat, attacks, tmp_path):
        attacks = {"broken": lambda m, x, y: x + 1, **attacks}
        with pytest.warns(UserWarning, match="not counted"):
            evaluate(
                linear, data, attacks, threat, evidence_dir=tmp_path / "e", sequential=True, survivors=True
            )
        tensors = load_file(tmp_path / "e" / "points.safetensors")
        assert len(tensors["pgd.survivor_index"]) > 0
        assert not [name for name in tensors if name.startswith("broken")]
        result = verify(tmp_path / "e", linear, data)
        assert result.ok, str(result)
        assert "broken was invalid" in str(result)
        rewrite(tmp_path / "e", lambda t: t["pgd.survivor_points"].__setitem__(0, t["pgd.points"][0]))
        assert checks(verify(tmp_path / "e", linear, data)) == {"points"}

    def test_model_is_left_as_found(self, net, images, tmp_path):
        threat = Threat("l2", 0.5)
        evaluate(net, images, [PGD(threat, steps=3)], threat, evidence_dir=tmp_path)
        flags = [m.training for m in net.modules()]
        before = copy.deepcopy(net.state_dict())
        assert verify(tmp_path, net, images).ok
        assert [m.training for m in net.modules()] == flags
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())

    def test_no_attack_code_runs(self, linear, data, folder, monkeypatch):
        monkeypatch.setattr("robustreg.points.Point.__call__", None)
        assert verify(folder, linear, data).ok

    def test_nothing_fooled(self, linear, data, threat, tmp_path):
        evaluate(linear, data, [FGSM(threat.with_eps(0.0))], threat, evidence_dir=tmp_path)
        result = verify(tmp_path, linear, data)
        assert result.ok
        assert result.points_checked == 0


class TestTampered:
    def test_pixel_moved_out_of_the_ball(self, linear, data, folder):
        sample = int(load_file(folder / "points.safetensors")["pgd.index"][3])

        def move(tensors):
            tensors["pgd.points"][3, 2] = (
                data[0][sample, 2] + 0.11 * tensors["pgd.points"][3].sub(data[0][sample]).sign()[2]
            )

        rewrite(folder, move)
        (finding,) = verify(folder, linear, data).findings
        assert (finding.check, finding.attack, finding.sample) == ("points", "pgd", sample)
        assert finding.message == (
            f"pgd: the point of sample {sample} lies at linf distance 0.11 from its input, outside eps = 0.1"
        )

    def test_pixel_moved_without_mending_the_hash(self, linear, data, folder):
        tensors = load_file(folder / "points.safetensors")
        tensors["pgd.points"][0, 0] += 1e-6
        save_file(tensors, folder / "points.safetensors")
        (finding,) = verify(folder, linear, data).findings
        assert finding.check == "files"
        assert "changed after it was written" in finding.message

    def test_pixel_out_of_the_box(self, linear, data, threat, tmp_path):
        threat = Threat("linf", 0.1, bounds=(0.2, 0.8))
        evaluate(linear, data, [FGSM(threat)], threat, evidence_dir=tmp_path)
        x = data[0]
        tensors = load_file(tmp_path / "points.safetensors")
        # The coordinate nearest to the upper side may go over it and stay in the ball.
        row, column = divmod(int(x[tensors["fgsm.index"]].argmax()), 6)
        sample = int(tensors["fgsm.index"][row])
        rewrite(tmp_path, lambda t: t["fgsm.points"][row].__setitem__(column, x[sample, column] + 0.0999))
        messages = [f.message for f in verify(tmp_path, linear, data).findings]
        assert any("leaves the box of allowed values" in m and f"sample {sample} " in m for m in messages)

    def test_nan_point(self, linear, data, folder):
        rewrite(folder, lambda t: t["pgd.points"][1].fill_(float("nan")))
        result = verify(folder, linear, data)
        assert any("has NaN or infinite values" in f.message for f in result.findings)

    @pytest.mark.parametrize("attack", ["pgd", "noise", "big"])
    def test_point_that_is_classified_right(self, linear, data, folder, attack):
        index = load_file(folder / "points.safetensors")[f"{attack}.index"]
        rewrite(folder, lambda t: t[f"{attack}.points"][2].copy_(data[0][index[2]]))
        (finding,) = verify(folder, linear, data).findings
        assert (finding.check, finding.attack, finding.sample) == ("points", attack, int(index[2]))
        assert "the model classifies right" in finding.message

    def test_point_of_another_threat_is_held_to_its_own(self, linear, data, folder):
        def move(tensors):
            x = data[0][tensors["big.index"]]
            tensors["big.points"] = x + 1.2 * (tensors["big.points"] - x)

        rewrite(folder, move)
        assert any(
            f.attack == "big" and "outside eps = 0.2" in f.message
            for f in verify(folder, linear, data).findings
        )

    def test_attack_promoted_to_counted_is_held_to_the_threat(self, linear, data, folder):
        def promote(values):
            values["attacks"][3]["status"] = "counted"
            standing = np.logical_and.reduce([bits(values["attacks"][i]["outcomes"]) for i in (0, 1, 3)])
            set_outcomes(values["worst_case"], standing)

        edit(folder, promote)
        (folder.parent / "evaluation.json").unlink()
        (finding,) = verify(folder, linear, data).findings
        assert (finding.check, finding.attack) == ("points", "big")
        assert "outside eps = 0.1" in finding.message

    @pytest.mark.parametrize("block", ["clean", "worst_case", "attacks"])
    @pytest.mark.parametrize("key", ["accuracy", "low", "high", "correct"])
    def test_accuracy_edited(self, linear, data, folder, block, key):
        def lie(values):
            target = values[block][1] if block == "attacks" else values[block]
            target[key] -= 0.01

        edit(folder, lie)
        (folder.parent / "evaluation.json").unlink()
        (finding,) = verify(folder, linear, data).findings
        assert finding.check == "accuracy"
        assert f"has {key}" in finding.message

    @pytest.mark.parametrize("block", ["clean", "worst_case", "attacks"])
    def test_accuracy_edited_in_the_summary(self, linear, data, folder, block):
        file = folder.parent / "evaluation.json"
        values = json.loads(file.read_text())
        (values[block][1] if block == "attacks" else values[block])["accuracy"] += 0.05
        file.write_text(json.dumps(values))
        (finding,) = verify(folder, linear, data).findings
        assert finding.check == "summary"
        assert f"disagree on: {'pgd' if block == 'attacks' else block}" in finding.message

    def test_attack_dropped_from_the_summary(self, linear, data, folder):
        file = folder.parent / "evaluation.json"
        values = json.loads(file.read_text())
        del values["attacks"][1]
        file.write_text(json.dumps(values))
        (finding,) = verify(folder, linear, data).findings
        assert finding.check == "summary"

    def test_fooled_sample_declared_right(self, linear, data, folder):
        """More robust than it is: the outcome is flipped and all numbers are made to follow."""
        weak = bits(manifest_of(folder)["attacks"][0]["outcomes"])
        sample = next(i for i in load_file(folder / "points.safetensors")["pgd.index"].tolist() if weak[i])
        self.flip(folder, sample, True)
        findings = verify(folder, linear, data).findings
        assert [(f.check, f.sample) for f in findings] == [("points", sample)]
        assert "has a point but is not recorded as fooled" in findings[0].message

    def test_standing_sample_declared_fooled(self, linear, data, folder):
        """Less robust than it is: there is no point for it."""
        sample = int(bits(manifest_of(folder)["worst_case"]["outcomes"]).nonzero()[0][0])
        self.flip(folder, sample, False)
        findings = verify(folder, linear, data).findings
        assert [(f.check, f.sample) for f in findings] == [("points", sample)]
        assert f"sample {sample} is recorded as fooled but has no point" in findings[0].message

    def test_clean_outcome_edited(self, linear, data, folder):
        wrong = int((~bits(manifest_of(folder)["clean"]["outcomes"])[:120]).nonzero()[0][0])

        def lie(values):
            for block in (values["clean"], values["worst_case"], *values["attacks"]):
                outcomes = bits(block["outcomes"])[:120]
                outcomes[wrong] = True
                set_outcomes(block, outcomes)
                if "attacked" in block:
                    attacked = bits(block["attacked"])[:120]
                    attacked[wrong] = True
                    block["attacked"] = packed(attacked)

        edit(folder, lie)
        (folder.parent / "evaluation.json").unlink()
        (finding,) = verify(folder, linear, data).findings
        assert (finding.check, finding.sample) == ("clean", wrong)

    def test_worst_case_outcomes_edited(self, linear, data, folder):
        def lie(values):
            outcomes = bits(values["worst_case"]["outcomes"])[:120]
            outcomes[(~outcomes).nonzero()[0][0]] = True
            set_outcomes(values["worst_case"], outcomes)

        edit(folder, lie)
        (folder.parent / "evaluation.json").unlink()
        assert {"outcomes", "accuracy"} == checks(verify(folder, linear, data))

    def test_point_deleted_duplicated_or_given_to_another_sample(self, linear, data, folder, tmp_path):
        saved = (folder / "points.safetensors").read_bytes()
        sample = int(load_file(folder / "points.safetensors")["pgd.index"][0])

        def cut(tensors):
            for part in ("points", "index", "label"):
                tensors[f"pgd.{part}"] = tensors[f"pgd.{part}"][1:].clone()

        rewrite(folder, cut)
        (finding,) = verify(folder, linear, data).findings
        assert finding.message == f"pgd: sample {sample} is recorded as fooled but has no point"
        for change, words in [
            (lambda t: t["pgd.index"].__setitem__(0, t["pgd.index"][1]), "of one sample twice"),
            (lambda t: t["pgd.index"].__setitem__(0, 999), "do not exist"),
            (lambda t: t["pgd.index"].__setitem__(0, -1), "do not exist"),
            (
                lambda t: t["pgd.label"].__setitem__(0, 1 - t["pgd.label"][0]),
                f"sample {sample} has another label",
            ),
            (lambda t: t.pop("pgd.label"), "no tensor pgd.label"),
            (lambda t: t.update({"pgd.label": t["pgd.label"][1:].clone()}), "do not belong together"),
            (lambda t: t.update({"pgd.points": t["pgd.points"].double()}), "torch.float64"),
            (lambda t: t.update({"pgd.points": t["pgd.points"][:, :5].clone()}), r"its points are"),
        ]:
            (folder / "points.safetensors").write_bytes(saved)
            rewrite(folder, change)
            findings = verify(folder, linear, data).findings
            assert any(words in f.message for f in findings), words

    def test_other_weights_and_other_data(self, linear, data, folder):
        other = copy.deepcopy(linear)
        with torch.no_grad():
            other.w[0] += 1e-6
        (finding,) = verify(folder, other, data).findings
        assert (finding.check, "weights" in finding.message) == ("hashes", True)
        x = data[0].clone()
        x[5, 0] += 1e-6
        (finding,) = verify(folder, linear, (x, data[1])).findings
        assert (finding.check, "data" in finding.message) == ("hashes", True)
        result = verify(folder, linear, (data[0][:100], data[1][:100]))
        assert "about 120 samples, the data have 100" in str(result)

    def test_another_model_altogether_fails_on_the_points(self, linear, data, folder):
        other = copy.deepcopy(linear)
        with torch.no_grad():
            other.w.neg_()
            other.b.neg_()
        assert {"hashes", "clean", "points"} <= checks(verify(folder, other, data))

    @staticmethod
    def flip(folder, sample, right):
        def lie(values):
            for name, block in [
                ("worst_case", values["worst_case"]),
                *((r["name"], r) for r in values["attacks"]),
            ]:
                if name in ("worst_case", "pgd"):
                    outcomes = bits(block["outcomes"])[:120]
                    changed = outcomes[sample] != right
                    outcomes[sample] = right
                    set_outcomes(block, outcomes)
                    if "fooled" in block and changed:
                        block["fooled"] += -1 if right else 1

        edit(folder, lie)
        (folder.parent / "evaluation.json").unlink()


class TestDamagedFiles:
    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    def test_points_cut_short(self, linear, data, folder, keep):
        file = folder / "points.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        result = verify(folder, linear, data)
        assert checks(result) == {"files"}
        assert "damaged or cut short" in str(result)

    def test_points_missing(self, linear, data, folder):
        (folder / "points.safetensors").unlink()
        (finding,) = verify(folder, linear, data).findings
        assert "points.safetensors is missing" in finding.message

    def test_manifest_missing(self, linear, data, folder):
        (folder / "manifest.json").unlink()
        (finding,) = verify(folder, linear, data).findings
        assert "manifest.json is missing" in finding.message
        assert not verify(folder / "nowhere", linear, data).ok

    @pytest.mark.parametrize(
        "damage",
        [
            lambda m: m[: len(m) // 2],
            lambda m: "",
            lambda m: "[]",
            lambda m: m.replace('"seed"', '"sead"').replace('"threat"', '"thread"'),
            lambda m: m.replace('"format": 1', '"format": 2'),
            lambda m: m.replace('"counted"', '"certified"'),
            lambda m: m.replace('"linf"', '"l0"'),
            lambda m: m.replace('"accuracy": 0', '"accuracy": "high", "x": 0'),
            lambda m: m.replace('"n": 120', '"n": 1e999'),
            lambda m: m.replace('"pgd"', '"weak"'),
        ],
    )
    def test_manifest_damaged(self, linear, data, folder, damage):
        file = folder / "manifest.json"
        file.write_text(damage(file.read_text()))
        (finding,) = verify(folder, linear, data).findings
        assert finding.check == "files"
        assert "manifest.json" in finding.message
        assert "\n" not in finding.message

    def test_summary_damaged(self, linear, data, folder):
        (folder.parent / "evaluation.json").write_text("{}")
        (finding,) = verify(folder, linear, data).findings
        assert finding.check == "summary"


class TestFloatNoise:
    def test_a_point_on_the_boundary_is_undecided_not_wrong(self, linear, data, folder):
        """Another machine may round such a point to the other side; it is counted, and fails nothing."""
        x, y = data
        index = load_file(folder / "points.safetensors")["pgd.index"]
        margins = linear.margin(x[index], y[index])
        row = int(margins.argmin())
        sample, w = int(index[row]), linear.w.detach()
        # From the sample straight to the boundary, stopping where the gap is 1e-6 and still right.
        sign = 1 if y[sample] == 1 else -1
        delta = -sign * w.sign() * (margins[row] - 1e-6) / w.abs().sum()
        rewrite(folder, lambda t: t["pgd.points"][row].copy_(x[sample] + delta))
        result = verify(folder, linear, data)
        assert result.ok, str(result)
        assert result.undecided >= 1
        assert "neither confirmed nor refuted" in str(result)
        # A hundred times further inside it is a lie.
        delta = -sign * w.sign() * (margins[row] - 1e-2) / w.abs().sum()
        rewrite(folder, lambda t: t["pgd.points"][row].copy_(x[sample] + delta))
        assert not verify(folder, linear, data).ok

    def test_tiny_logits_hide_nothing(self, linear, data, threat, tmp_path):
        with torch.no_grad():
            linear.w.mul_(1e-6)
            linear.b.mul_(1e-6)
        evaluate(linear, data, [FGSM(threat)], threat, evidence_dir=tmp_path)
        assert verify(tmp_path, linear, data).ok
        rewrite(tmp_path, lambda t: t["fgsm.points"].copy_(data[0][t["fgsm.index"]]))
        assert checks(verify(tmp_path, linear, data)) == {"points"}
        assert verify(tmp_path, linear, data, noise=100.0).ok, "the rule is an option"


class TestHashes:
    def test_canonical(self, linear):
        reference = model_sha256(linear)
        assert model_sha256(copy.deepcopy(linear).eval()) == reference
        shuffled = copy.deepcopy(linear)
        shuffled._parameters = dict(reversed(shuffled._parameters.items()))
        assert model_sha256(shuffled) == reference
        reshaped = copy.deepcopy(linear)
        reshaped.w = torch.nn.Parameter(linear.w.detach().reshape(2, 3))
        assert model_sha256(reshaped) != reference
        assert model_sha256(copy.deepcopy(linear).bfloat16()) != reference

    def test_buffers_and_strides(self, net):
        reference = model_sha256(net)
        turned = copy.deepcopy(net)
        turned.body[0].weight.data = turned.body[0].weight.data.to(memory_format=torch.channels_last)
        assert model_sha256(turned) == reference
        turned.body[1].num_batches_tracked += 1
        assert model_sha256(turned) != reference


def bits(text):
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).astype(bool)[:120]


def packed(mask):
    return base64.b64encode(np.packbits(mask).tobytes()).decode()


def set_outcomes(block, mask):
    from robustreg.evaluation.packing import fractions

    right = int(mask.sum())
    block.update(outcomes=packed(mask), correct=right, **fractions(right, 120))


NAMES = [
    "a",
    "a.survivors",
    "a.points",
    "a.survivor_points",
    "A",
    "a/b",
    "../a",
    "ä",
    "a" * 300,
    "distance a",
]


def test_no_two_attacks_share_anything_whatever_their_names(linear, data, threat, tmp_path):
    attacks = {name: PGD(threat.with_eps(0.01 * (1 + i)), steps=1) for i, name in enumerate(NAMES)}
    found = evaluate(linear, data, attacks, threat, evidence_dir=tmp_path / "e", survivors=True)
    tensors = load_file(tmp_path / "e" / "points.safetensors")
    for name in NAMES:
        assert len(tensors[f"{name}.index"]) == int(found[name].fooled.sum())
        assert len(tensors[f"{name}.survivor_index"]) == found[name].score.correct
    assert len(tensors) == 5 * len(NAMES)
    assert verify(tmp_path / "e", linear, data).ok
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e"]
