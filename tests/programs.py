"""An oracle for lowered stacks: a program's operations one by one, in torch and float32, as slowly as they are written.

It knows nothing of kernels, layouts or memory; what it gives must be what the modules themselves give.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks import operations as ops
from omniform.blocks.builder import Builder
from omniform.blocks.mlp import ACTIVATIONS
from omniform.core.context import StepContext
from omniform.core.packed import PackedContext
from omniform.transforms import step_inputs
from omniform.transforms.program import laid_out, lowered


class Oracle:
    """Computes one step of a program."""

    def __init__(self, steps: ops.Steps, x: Tensor, ctx: StepContext) -> None:
        self.rows, self.tokens = x.shape[:2]
        self.steps, self.ctx, self.layout = steps, ctx, laid_out(steps)
        wanted = step_inputs.wanted_rows(ctx, self.rows, self.tokens)
        self.wanted = None if wanted is None else torch.from_numpy(wanted)
        count = self.rows * self.tokens
        self.sizes = {"all": count, "wanted": count if wanted is None else len(wanted)}
        self.storages = [torch.full((self.sizes[s.rows] * s.width,), float("nan")) for s in self.layout.storages]
        self.put(ops.Place(0, "all", 0, 1, steps.width, steps.width), x.reshape(count, -1).float())
        self.dtype = x.dtype
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self) -> Tensor:
        for operation, adds in zip(self.layout.operations, self.layout.added, strict=True):
            self.adds = adds
            getattr(self, type(operation).__name__.lower())(operation)
        out = self.get(self.layout.out).flatten(1)
        assert not out.isnan().any()
        return out.view(self.rows, -1, out.shape[-1])

    def get(self, place: ops.Place) -> Tensor:
        """Shape: [N, heads, size]."""
        memory = self.storages[self.layout.storage_of[place.buffer]]
        shape = (self.sizes[place.rows], place.heads, place.size)
        return memory.as_strided(shape, (self.layout.widths[place.buffer], place.stride, 1), place.at)

    def put(self, place: ops.Place, x: Tensor) -> None:
        at = self.get(place)
        at.copy_(x.reshape(at.shape).clone())

    def flat(self, place: ops.Place) -> Tensor:
        return self.get(place).flatten(1)

    def matmul(self, o: ops.Matmul) -> None:
        x = self.flat(o.x)
        made = [F.linear(x, n.weight.float(), None if n.bias is None else n.bias.float()) for n in o.layers]
        self.put(o.out, torch.cat(made, 1) + self.flat(o.out) if self.adds else torch.cat(made, 1))

    def norm(self, o: ops.Norm) -> None:
        x = self.get(o.x)
        if o.centred:
            x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + o.eps)
        self._weighed(o.out, x, o.weight, o.bias)

    def weigh(self, o: ops.Weigh) -> None:
        self._weighed(o.out, self.get(o.x), o.weight, o.bias)

    def _weighed(self, out: ops.Place, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
        for given, does in ((weight, torch.mul), (bias, torch.add)):
            if given is not None:
                given = given.float().flatten()
                x = does(x, given.view(x.shape[1:]) if given.numel() == x[0].numel() else given)
        self.put(out, x)

    def rotate(self, o: ops.Rotate) -> None:
        cos, sin = step_inputs.turns(self.ctx, self.steps.tables[o.table], self.rows, self.tokens)
        x, dim = self.get(o.x).clone(), cos.shape[1]
        places = torch.arange(dim)
        partner = places ^ 1 if o.neighbours else (places + dim // 2) % dim
        x[..., :dim] = x[..., :dim] * cos[:, None] + x[..., partner] * sin[:, None]
        self.put(o.out, x)

    def headmatmul(self, o: ops.HeadMatmul) -> None:
        self.put(o.out, torch.einsum("nhi,hoi->nho", self.get(o.x), o.weight.float()))

    def join(self, o: ops.Join) -> None:
        x, y = self.get(o.x), self.get(o.y)
        self.put(o.out, torch.cat([x, y.expand(-1, x.shape[1], -1)], -1))

    def store(self, o: ops.Store) -> None:
        if o.v is None:
            c = self.get(o.k).clone()
            if self.ctx.state is None:
                c = c.transpose(0, 1)[None]
            else:
                new = c.unflatten(0, (self.rows, self.tokens)).transpose(1, 2)
                c = _end_to_end(self.ctx.state.latent(o.slot).extend(new))
            self.kept[o.slot] = c, c
            return
        k, v = self.get(o.k).clone(), self.get(o.v).clone()
        if self.ctx.state is None:
            self.kept[o.slot] = k.transpose(0, 1)[None], v.transpose(0, 1)[None]  # slots are tokens
            return
        view, shape = self.ctx.state.kv(o.slot), (self.rows, self.tokens)
        k, v = (x.unflatten(0, shape).transpose(1, 2) for x in (k, v))
        self.kept[o.slot] = tuple(_end_to_end(x) for x in view.extend(k, v))

    def attend(self, o: ops.Attend) -> None:
        rule, which = self.steps.rules[o.sees]
        k, v = self.kept[o.how.slot]
        v = v[..., : o.v.size]
        apart = self.tokens if self.ctx.state is None else k.shape[2] // self.rows
        seen = step_inputs.seen(self.ctx, rule, which, self.rows, self.tokens)
        self._attended(o.q, o.out, k, v, seen, apart, o.how.scores, o.how.bias, o.how.sinks)

    def look(self, o: ops.Look) -> None:
        k, v = o.source.keys_values(self.ctx)
        length = k.shape[2]
        seen = step_inputs.seen_across(self.ctx, o.q.rows, self.rows, self.tokens, length)
        self._attended(o.q, o.out, _end_to_end(k), _end_to_end(v), seen, length, o.source.scores, None, None)

    def _attended(self, q_at, out_at, k, v, seen, apart, scores, bias, sinks) -> None:
        q_all, every = self.get(q_at), step_inputs.ranges_apart(self.ctx, seen, apart)
        outs = torch.zeros(len(q_all), out_at.width)
        for start, count, begin, ranges, first in seen.segments.tolist():
            slots = torch.cat([torch.arange(a, b) for a, b in every[begin : begin + ranges].tolist()])
            keys, values = k[0].float()[:, slots], v[0].float()[:, slots]
            each = q_all.shape[1] // keys.shape[0]
            keys, values = keys.repeat_interleave(each, 0), values.repeat_interleave(each, 0)
            index = torch.arange(first, first + len(slots))
            for at in range(start, start + count):
                compared = scores.bounded((keys @ q_all[at][..., None])[..., 0] * scores.scale)
                if isinstance(bias, ops.ByDistance):
                    least, table = bias.distances()
                    compared = compared + table[:, (index - int(seen.query[at]) - least).clamp(0, table.shape[1] - 1)]
                elif isinstance(bias, ops.ByStep):
                    whole = bias.of_step(self.ctx)
                    compared = compared + whole[at // self.tokens % len(whole), :, at % self.tokens, index]
                elif isinstance(bias, ops.ByPlace):
                    place = (index - int(seen.origin[at])).clamp(min=0)
                    compared = compared + bias.places(int(place.max()) + 1)[:, place]
                compared = compared[:, int(seen.low[at]) - first : max(0, int(seen.high[at]) - first)]
                if not compared.shape[1]:
                    continue
                if sinks is not None:
                    compared = torch.cat([compared, sinks.float()[:, None]], 1)
                shares = compared.softmax(-1)[:, : int(seen.high[at]) - int(seen.low[at])]
                some = values[:, int(seen.low[at]) - first : int(seen.high[at]) - first]
                outs[at] = (shares[:, None] @ some).flatten()
        self.put(out_at, outs)

    def act(self, o: ops.Act) -> None:
        does = {"scale": lambda x: x * o.low, "clamp": lambda x: x.clamp(o.low, o.high)}
        self.put(o.out, {**ACTIVATIONS, **does}[o.kind](self.get(o.x)))

    def gate(self, o: ops.Gate) -> None:
        self.put(o.out, gated(o.gating, self.flat(o.gate), self.flat(o.up)))

    def add(self, o: ops.Add) -> None:
        self.put(o.out, self.flat(o.x) + o.factor * self.flat(o.y))

    def spread(self, o: ops.Spread) -> None:
        self.put(o.out, self.flat(o.x) * self.flat(o.factor))

    def pick(self, o: ops.Pick) -> None:
        self.put(o.out, self.get(o.x) if self.wanted is None else self.get(o.x)[self.wanted])

    def route(self, o: ops.Route) -> None:
        r, scores = o.routing, self.flat(o.scores)
        likely = {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid, "chosen": lambda x: x}[r.likely](scores)
        ranked = likely if r.bias is None else likely + r.bias
        if r.groups > 1:
            grouped = ranked.unflatten(-1, (r.groups, -1))
            good = grouped.topk(min(r.best, grouped.shape[-1]), -1).values.sum(-1)
            best = torch.zeros_like(good).scatter(-1, good.topk(r.top_groups, -1).indices, 1.0) > 0
            ranked = grouped.masked_fill(~best[..., None], float("-inf")).flatten(1)
        chosen = ranked.topk(r.top, -1).indices
        shares = likely.gather(1, chosen)
        if r.likely == "chosen":
            shares = shares.softmax(-1)
        if r.normed:
            shares = shares / (shares.sum(-1, keepdim=True) + r.least)
        self.put(o.shares, shares * r.scale)
        self.put(o.chosen, chosen.float())

    def convolve(self, o: ops.Convolve) -> None:
        x, taps = self.flat(o.x), o.taps.float()
        before = taps.shape[1] - 1

        def reads(state, some):
            seen = torch.cat([state, some if self.ctx.state is None else some.to(state_dtype(o, self)).float()])
            out = sum(seen[i : i + len(some)] * taps[:, i] for i in range(before + 1))
            return out if o.bias is None else out + o.bias.float(), seen[len(some) :]

        self._read(o, reads, x)

    def recur(self, o: ops.Recur) -> None:
        q, k, v, g, beta = (self.get(place) for place in (o.q, o.k, o.v, o.g, o.beta))
        each = v.shape[1] // q.shape[1]
        q, k, g, beta = q.repeat_interleave(each, 1), k.repeat_interleave(each, 1), g.flatten(1), beta.flatten(1)

        def reads(s, q, k, v, g, beta):
            outs = []
            for t in range(len(q)):
                s = s * g[t].exp()[:, None, None]
                known = (s * k[t][:, :, None]).sum(1) if o.corrects else 0
                s = s + k[t][:, :, None] * ((v[t] - known) * beta[t][:, None])[:, None]
                outs.append((s * q[t][:, :, None]).sum(1).flatten())
            return torch.stack(outs), s

        self._read(o, reads, q, k, v, g, beta)

    def scan(self, o: ops.Scan) -> None:
        def reads(s, x, b, c, dt):
            outs = []
            for t in range(len(x)):
                s = s * (dt[t][:, None] * o.rates.float()).exp() + (dt[t] * x[t])[:, None] * b[t]
                outs.append(s @ c[t])
            return torch.stack(outs), s

        self._read(o, reads, *(self.flat(place) for place in (o.x, o.b, o.c, o.dt)))

    def _read(self, o, reads, *inputs: Tensor) -> None:
        """What a recurrence makes of the step's tokens, row by row, and of each row's state."""
        out = torch.zeros(len(inputs[0]), o.out.width)
        view = None if self.ctx.state is None else self.ctx.state.fixed(o.slot)
        kept = None if view is None else view.read(slice(None))
        shape, told = o.spec.shapes[0], step_inputs.readings(self.ctx, self.rows, self.tokens)
        if kept is None:
            kept = torch.zeros(1 + max((row for _, _, row, _ in told), default=0), *shape)
        after = kept.clone().float()
        for first, count, row, fresh in told:
            state = after[row] if row >= 0 and not fresh else torch.zeros(shape)
            if count:
                out[first : first + count], state = reads(state, *(x[first : first + count] for x in inputs))
            if row >= 0:
                after[row] = state
        if view is not None:
            view.write(slice(None), after.to(o.spec.stored_as(self.dtype)))
        self.put(o.out, out)

    def experts(self, o: ops.Experts) -> None:
        x, shares, chosen = self.flat(o.x), self.flat(o.shares), self.flat(o.chosen).long()
        out = torch.zeros(len(x), o.out.width)
        for n in range(len(x)):
            for share, e in zip(shares[n], chosen[n].tolist(), strict=True):
                both = F.linear(x[n], o.gate_up.weight[e], None if o.gate_up.bias is None else o.gate_up.bias[e])
                gate, up = (both[0::2], both[1::2]) if o.gating.beside else both.chunk(2)
                h = gated(o.gating, gate, up)
                out[n] += share * F.linear(h, o.down.weight[e], None if o.down.bias is None else o.down.bias[e])
        self.put(o.out, out)


def _end_to_end(x: Tensor) -> Tensor:
    """Rows of state as one: Shape: [B, G, S, D] to [1, G, B * S, D]."""
    return x.transpose(0, 1).flatten(1, 2)[None]


def state_dtype(o, oracle: Oracle) -> torch.dtype:
    """What a state is kept as."""
    return o.spec.stored_as(oracle.dtype)


def gated(how: ops.Gating, gate: Tensor, up: Tensor) -> Tensor:
    """A gate and what it lets through."""
    if how.act == "clamped":
        gate, up = gate.clamp(max=how.limit), up.clamp(-how.limit, how.limit)
        return (up + 1) * gate * torch.sigmoid(gate * how.alpha)
    return ACTIVATIONS[how.act](gate) * up


def told(layers: nn.ModuleList, x: Tensor, ctx: StepContext, norm: nn.Module | None) -> Tensor:
    """What a stack of layers is to give for a step, by its program. Raises CannotLower, NoRanges."""
    steps = lowered(layers, x.shape[-1], norm, memory=ctx.memory is not None)
    return Oracle(steps, x, ctx).run()


__all__ = ["Builder", "Oracle", "PackedContext", "told"]
