"""Distances to the nearest misclassified points, on a model where they are known in closed form."""

from __future__ import annotations

import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustreg.attacks import FAB, PGD, CarliniWagner, DeepFool
from robustreg.evaluation import Evaluation, EvaluationInterrupted, evaluate, verify
from robustreg.evaluation.distances import Distances, nearest_attacks, together
from robustreg.evaluation.intervals import order_ranks
from robustreg.files import sha256_file
from robustreg.points import FGSM
from robustreg.threat import Threat

OPEN = Threat("l2", 1.0, bounds=None)


def made(values, name="fab", chosen=None, threat=OPEN):
    values = torch.tensor(values, dtype=torch.float64)
    chosen = torch.ones(len(values), dtype=torch.bool) if chosen is None else torch.tensor(chosen)
    return Distances(name, "FAB()", threat, chosen, values, 0.0)


class TestMeasured:
    @pytest.mark.parametrize("norm", ["linf", "l2", "l1.5"])
    def test_is_that_to_the_plane_of_a_linear_model(self, linear, data, norm):
        threat = Threat(norm, 1.0, bounds=None)
        one = evaluate(linear, data, FGSM(threat), threat, distances={"fab": FAB(threat, steps=5)}).distances[
            0
        ]
        exact = (linear.margin(*data) / threat.dual_norm(linear.w.detach()[None])).double()
        exact = torch.where(linear(data[0]).argmax(1) == data[1], exact, 0.0)
        assert torch.allclose(one.values, exact, atol=1e-4)
        assert one.found == one.n == len(data[1])
        assert one.threat.norm == threat.norm

    def test_agrees_with_the_accuracy_under_attack_at_every_radius(self, linear, data):
        threat = Threat("linf", 0.1)
        evaluation = evaluate(
            linear,
            data,
            PGD(threat, steps=20),
            threat,
            curve=[0.02, 0.05, 0.1, 0.2],
            distances=FAB(threat, steps=10),
        )
        for point in evaluation.curve:
            assert evaluation.distances[0].accuracy(point.eps) == pytest.approx(point.accuracy, abs=0.01)
        assert evaluation.distances[0].accuracy(0.0) == evaluation.clean.accuracy

    def test_infinite_where_nothing_is_found(self, linear, data):
        x, y = data
        linear.w.data.zero_()
        linear.b.data.fill_(2.0)
        one = evaluate(linear, (x, torch.ones_like(y)), [], OPEN, distances=DeepFool(OPEN, steps=2))
        assert one.distances[0].found == 0
        assert one.distances[0].median == math.inf
        assert one.distances[0].accuracy(1e6) == 1.0
        assert "[-, -]" in one.table()
        read = Evaluation.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False)))
        assert read.distances[0].values.isinf().all()

    def test_on_some_of_the_samples(self, linear, data):
        evaluation = evaluate(
            linear, data, [], OPEN, distances={"a": FAB(OPEN, steps=3)}, distance_samples=30
        )
        one = evaluation.distances[0]
        assert one.n == int(one.chosen.sum()) == 30
        whole = evaluate(linear, data, [], OPEN, distances={"a": FAB(OPEN, steps=3)}).distances[0]
        assert torch.allclose(one.values, whole.values[one.chosen], atol=1e-6)

    def test_does_not_depend_on_the_batch_size(self, net, images):
        threat = Threat("linf", 0.2)
        many, few = (
            evaluate(
                net, images, [], threat, batch_size=size, distances=FAB(threat, steps=5, restarts=2)
            ).distances[0]
            for size in (100, 7)
        )
        assert torch.allclose(many.values, few.values, atol=1e-4)

    def test_several_norms_and_attacks(self, net, images):
        linf, l2 = Threat("linf", 0.2), Threat("l2", 1.0)
        evaluation = evaluate(
            net,
            images,
            FGSM(linf),
            linf,
            distances={
                "fab": FAB(linf, steps=8),
                "deepfool": DeepFool(linf),
                "cw": CarliniWagner(l2, steps=5, binary_search_steps=2),
            },
        )
        assert [one.name for one in evaluation.distances] == ["fab", "deepfool", "cw"]
        (both,) = together(evaluation.distances)
        assert both.name == "nearest of all, linf"
        assert both.attack == "fab, deepfool"
        assert torch.equal(
            both.values, torch.minimum(evaluation.distances[0].values, evaluation.distances[1].values)
        )
        for name in ("fab", "deepfool", "cw", "nearest of all, linf"):
            assert name in evaluation.table()

    def test_goes_on_where_it_stopped(self, net, images, tmp_path):
        threat = Threat("linf", 0.2)
        options = {"distances": FAB(threat, steps=4, restarts=2), "batch_size": 8}

        def stop(progress):
            if progress.stage == "distance fab" and progress.done >= 16:
                signal.raise_signal(signal.SIGINT)

        whole = evaluate(net, images, [], threat, **options)
        with pytest.raises(EvaluationInterrupted):
            evaluate(net, images, [], threat, evidence_dir=tmp_path, progress=stop, **options)
        told = []
        rest = evaluate(net, images, [], threat, evidence_dir=tmp_path, progress=told.append, **options)
        assert next(p.done for p in told if p.stage == "distance fab") >= 16
        assert torch.equal(rest.distances[0].values, whole.distances[0].values)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"distances": PGD(Threat("linf", 0.1))}, "need attacks of minimal norm.* is PGD"),
            ({"distances": FAB(OPEN), "distance_samples": 0}, "at least 1"),
            ({"distances": FAB(Threat("l2", 1.0, bounds=(5, 6)))}, "5"),
            (
                {"attacks": {"distance fab": FGSM(OPEN)}, "distances": FAB(OPEN)},
                "may not be named 'distance fab'",
            ),
        ],
    )
    def test_refuses(self, linear, data, options, sentence):
        attacks = options.pop("attacks", [])
        with pytest.raises((TypeError, ValueError), match=sentence):
            evaluate(linear, data, attacks, OPEN, **options)

    def test_nothing_asked_nothing_measured(self):
        assert nearest_attacks(None) == {}


class TestDistribution:
    def test_quantiles(self):
        one = made([0.4, 0.1, math.inf, 0.3, 0.2])
        assert one.median == 0.3
        assert one.quantile(0.2) == 0.1
        assert one.quantile(0.21) == 0.2
        assert one.quantile(1.0) == math.inf
        assert one.accuracy(0.3) == 0.4, "the radius itself is inside"
        assert one.found == 4

    @pytest.mark.parametrize("q", [0.0, -1.0, 1.1])
    def test_quantile_out_of_range(self, q):
        with pytest.raises(ValueError, match="share"):
            made([0.1]).quantile(q)

    def test_interval_of_the_median(self):
        assert made(list(range(1, 7))).interval() == (1, 6)  # P(all six on one side) = 2/64 < 5 %
        assert made([0.1, 0.2, 0.3]).interval() == (0.0, math.inf)

    @pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
    def test_interval_holds_the_quantile_as_often_as_it_says(self, q):
        low, high = order_ranks(60, q)
        draws = torch.rand(4000, 60, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
        ends = torch.cat([torch.zeros(4000, 1), draws, torch.ones(4000, 1)], dim=1)
        covered = (ends[:, low] <= q) & (q <= ends[:, high])
        assert 0.94 < covered.float().mean() < 0.995

    def test_ranks_of_few_draws(self):
        assert order_ranks(1) == (0, 2)
        assert order_ranks(6) == (1, 6)
        assert order_ranks(10000) == (4902, 5099)

    @pytest.mark.parametrize(("n", "q"), [(0, 0.5), (5, 0.0), (5, 1.0)])
    def test_ranks_refuse(self, n, q):
        with pytest.raises(ValueError, match=r"at least one|strictly"):
            order_ranks(n, q)

    def test_a_saved_one_is_read_back(self):
        one = made([0.25, math.inf], chosen=[True, False, True])
        read = Distances.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False)), 3)
        assert torch.equal(read.values, one.values)
        assert torch.equal(read.chosen, one.chosen)
        assert read.threat.norm == 2
        assert read.threat.bounds is None

    @pytest.mark.parametrize("values", [[0.1], [0.1, -0.2], [0.1, math.nan], [0.1, 0.2, 0.3]])
    def test_damaged_ones_are_refused(self, values):
        row = made([0.1, 0.2]).to_dict()
        with pytest.raises(ValueError, match="one distance >= 0 for each"):
            Distances.from_dict({**row, "distances": values}, 2)

    def test_together_only_what_belongs_together(self):
        other = made([0.2, 0.3], "b", threat=Threat("linf", 1.0, bounds=None))
        assert together([made([0.1, 0.4], "a"), other]) == []
        (both,) = together([made([0.1, 0.4], "a"), made([0.2, 0.3], "b", threat=OPEN.with_eps(0.5))])
        assert both.values.tolist() == [0.1, 0.3]


class TestEvidence:
    @pytest.fixture
    def folder(self, linear, data, tmp_path):
        threat = Threat("linf", 0.1)
        distances = {"fab": FAB(threat, steps=5)}
        evaluate(
            linear, data, FGSM(threat), threat, distances=distances, evidence_dir=tmp_path / "evidence"
        ).save(tmp_path)
        return tmp_path / "evidence"

    def edit(self, folder, change):
        values = json.loads((folder / "manifest.json").read_text())
        change(values)
        (folder / "manifest.json").write_text(json.dumps(values))

    def rewrite(self, folder, change):
        tensors = load_file(folder / "points.safetensors")
        change(tensors)
        save_file(tensors, folder / "points.safetensors")
        digest = sha256_file(folder / "points.safetensors")
        self.edit(folder, lambda values: values["points"].update(sha256=digest))

    def checks(self, folder, linear, data):
        return {finding.check for finding in verify(folder, linear, data).findings}

    def test_holds(self, folder, linear, data):
        verification = verify(folder, linear, data)
        assert verification.ok, str(verification)
        stored = load_file(folder / "points.safetensors")
        assert verification.points_checked == len(stored["fgsm.index"]) + len(stored["distance fab.index"])

    def test_a_smaller_distance_is_caught(self, folder, linear, data):
        def lower(values):
            row = values["distances"][0]
            row["distances"] = [d and d * 0.99 for d in row["distances"]]
            row.update(Distances.from_dict(row, values["n"]).to_dict())

        self.edit(folder, lower)
        assert "distances" in self.checks(folder, linear, data)

    def test_a_changed_median_is_caught(self, folder, linear, data):
        self.edit(folder, lambda values: values["distances"][0].update(median=0.01))
        assert "distances" in self.checks(folder, linear, data)

    def test_a_point_that_fools_nobody_is_caught(self, folder, linear, data):
        def back(tensors):
            index = tensors["distance fab.index"]
            tensors["distance fab.points"] = data[0][index].clone()

        self.rewrite(folder, back)
        assert "points" in self.checks(folder, linear, data)

    def test_a_missing_point_is_caught(self, folder, linear, data):
        def drop(tensors):
            for part in ("points", "index", "label"):
                tensors[f"distance fab.{part}"] = tensors[f"distance fab.{part}"][1:].clone()

        self.rewrite(folder, drop)
        assert "distances" in self.checks(folder, linear, data)

    def test_another_summary_is_caught(self, folder, linear, data):
        file = folder.parent / "evaluation.json"
        values = json.loads(file.read_text())
        values["distances"][0]["median"] *= 2
        file.write_text(json.dumps(values))
        assert self.checks(folder, linear, data) == {"summary"}

    def test_a_class_that_was_changed_is_caught(self, folder, linear, data):
        file = folder.parent / "evaluation.json"
        values = json.loads(file.read_text())
        values["per_class"][0]["worst_case"]["correct"] += 1
        file.write_text(json.dumps(values))
        assert self.checks(folder, linear, data) == {"summary"}
