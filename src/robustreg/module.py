"""The unit that any engine carries: a module whose forward is a whole step of robust training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from robustreg.needs import Held, Needs
from robustreg.objective import Objective
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.streams import Stream, global_seed
from robustreg.terms import CrossEntropy, Term


class ObjectiveModule(nn.Module):
    """Attack, penalties and loss on the bare network, in one forward that returns the loss.

    Wrapped once by DDP, FSDP2 (at its root) or Fabric it gives exactly the single-process gradients; calling a wrapped
    network several times, or differentiating through the wrapper, does not. It is also what ``torch.compile`` takes
    whole: ``compile``.

    Args:
        net: the network, ``[B, ...]`` to logits ``[B, C]``.
        objective: what to minimise.
        seed: of the random streams; without it ``torch.initial_seed()`` decides.
        rank: number of this process, so that processes draw different random points for their shards.

    Attributes:
        values: each term's value at the last step, detached scalars by name.
    """

    def __init__(
        self, net: nn.Module, objective: Objective | Term, seed: int | None = None, rank: int = 0
    ) -> None:
        super().__init__()
        self.net = net
        self.objective = Objective.of(objective) if isinstance(objective, Term) else objective
        self.seed = seed
        self.rank = rank
        self.values: dict[str, Tensor] = {}
        self._steps = 0
        self._held: Held | None = None
        self._compiled: Any = None
        self._tested = False
        self._options: dict[str, Any] = {}

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        index: Tensor | None = None,
        *,
        step: int | None = None,
        progress: float | None = None,
    ) -> Tensor:
        """The scalar loss of a batch.

        Args:
            x: samples ``[B, ...]``.
            y: labels ``[B]``, -1 for unlabelled.
            index: the samples' places ``[B]`` in the data, for terms that remember something of every sample.
            step: number of the step, which names its random stream; counted here if it is not given.
            progress: of training in [0, 1], for scheduled weights.
        """
        if torch.compiler.is_compiling():
            return self._traced(x, y, self.objective.weights_at(progress), {})
        stream = Stream(self._stream_seed(), self._steps if step is None else step)
        self._steps = stream.step + 1
        if self._compiled is not None:
            return self._run_compiled(x, y, stream, progress)
        out = self.objective.detailed(
            self.net, x, y, progress=progress, stream=stream, index=index, held=self._held
        )
        self.values = out.values
        return out.loss

    @contextmanager
    def holding_points(self) -> Iterator[None]:
        """Within, forwards are of one batch and one ``step``, and all look at the points that the first one finds.

        For methods that change the weights and look again: attacks are not repeated. States of terms change once, when
        this ends without an exception, by what the first forward asked for.

        Raises:
            RuntimeError: the step is compiled, so its points are inside the graph.
        """
        if self._compiled is not None:
            raise RuntimeError(
                "cannot look at the same points again: the step is compiled, and its points are inside the graph"
            )
        self._held = held = Held()
        try:
            yield
        finally:
            self._held = None
        for action in held.deferred or ():
            action()

    def compile(self, **options: Any) -> None:
        """Compile the whole step, attack, double backward and loss, as one graph.

        The first batch is used for a self-test: the compiled gradient of the penalties is compared with eager's in
        float64, because some layers lose it silently (max-pooling under torch 2.13's inductor does). A network that
        fails is refused with that reason. Random points are drawn outside the graph, from their own streams; a
        network's own dropout has one stream for the whole step, so its masks are not those of an eager step, and terms
        that need the same masks at two points are refused.

        Args:
            options: of ``torch.compile``, ``backend`` and ``mode`` say.
        """
        torch._dynamo.config.trace_autograd_ops = True
        # torch counts recompilations by function, and stops at 8: without this, of all modules in the process together
        known: Any = torch.compile
        isolated = {"isolate_recompiles": True} if "isolate_recompiles" in signature(known).parameters else {}
        self._compiled = known(self._traced, fullgraph=True, **isolated, **options)
        self._tested = False
        self._options = options

    def _run_compiled(self, x: Tensor, y: Tensor | None, stream: Stream, progress: float | None) -> Tensor:
        self.objective.prepare(x, y)
        needs = self._compilable()
        if not self._tested:
            self._self_test(x, y)
            self._tested = True
        # tensors, so that a schedule does not compile anew at every step
        dtype = torch.promote_types(x.dtype, torch.float32)
        weights = {
            name: torch.as_tensor(weight, dtype=dtype, device=x.device)
            for name, weight in self.objective.weights_at(progress).items()
        }
        noise = {p: p.draw(x, stream.generator(x.device, "draw", p.key)) for p in needs.random}
        with global_seed(x.device, stream.derive("compiled")):
            loss: Tensor = self._compiled(x, y, weights, noise)
        return loss

    def _compilable(self) -> Needs:
        needs = self.objective.needs
        if needs is None:
            raise RuntimeError(
                "cannot compile: a term looks into the network, so what a step asks for is not known"
            )
        if needs.deferred:
            raise RuntimeError("cannot compile: a term updates a state of its own after each step")
        if needs.progress:
            raise RuntimeError("cannot compile: an attack or a target changes with the progress of training")
        if needs.shared_dropout and any(_drops_out(m) for m in self.net.modules()):
            raise RuntimeError(
                "cannot compile: a term needs the same dropout masks at two points, which a compiled step cannot give"
            )
        return needs

    def _traced(
        self, x: Tensor, y: Tensor | None, weights: Mapping[str, float | Tensor], noise: dict[Point, Tensor]
    ) -> Tensor:
        probe = Probe(
            self.net,
            x,
            y,
            stream=Stream(0),
            needs=self.objective.needs,
            noise=noise,
            threat=self.objective.threat,
        )
        out = self.objective.evaluate(probe, weights)
        self.values = out.values
        return out.loss

    def _self_test(self, x: Tensor, y: Tensor | None) -> None:
        penalties = tuple((1.0, t) for w, t in self.objective.entries if w != 0 and not _is_plain_loss(t))
        if not penalties:
            return
        objective = Objective(penalties, self.objective.threat)
        few, labels = x.detach().double()[:8], None if y is None else y[:8]
        gradients = []
        for compiled in (False, True):
            net = copy.deepcopy(self.net).double()
            for dropout in filter(_drops_out, net.modules()):
                dropout.eval()  # its masks differ between the two
            module = ObjectiveModule(net, objective, seed=0)
            if compiled:
                module.compile(**self._options)
                module._tested = True
            module(few, labels, step=0, progress=0.5).backward()
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
            gradients.append(torch.cat([p.flatten() for p in parts]))
        scale, worst = float(gradients[0].abs().max()), float((gradients[0] - gradients[1]).abs().max())
        if not worst <= 1e-6 * scale:  # a NaN is refused too
            raise RuntimeError(
                f"compiling this network changes the penalties' gradient (largest difference {worst:.1e} beside a "
                f"largest entry of {scale:.1e}): train it without compile, or replace max-pooling by strided "
                "convolutions or average pooling"
            )

    def __getstate__(self) -> dict[str, Any]:
        # A compiled step is bound to this very module: a copy must compile its own.
        state = {**self.__dict__, "_compiled": None, "_wants_compiled": self._compiled is not None}
        state.pop("_compiled_call_impl", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        compiled = state.pop("_wants_compiled")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if compiled:
            self.compile(**self._options)

    def _stream_seed(self) -> int:
        seed = torch.initial_seed() if self.seed is None else self.seed
        return seed if self.rank == 0 else seed + (self.rank << 40)


def _drops_out(layer: nn.Module) -> bool:
    return isinstance(layer, _DropoutNd) and layer.training and layer.p > 0


def _is_plain_loss(term: Term) -> bool:
    return isinstance(term, CrossEntropy) and term.at == CLEAN
