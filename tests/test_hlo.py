"""What a program costs, read from its text: loops times their trips, against an unrolled program and hand counts."""

import functools

import jax
import jax.numpy as jnp
import pytest

from neuromas_jax.parallel.hlo import program_cost

ROWS, WIDTH, LAYERS = 8, 16, 6
ONE = 2 * ROWS * WIDTH * WIDTH  # operations of one layer


def layers(x, weights, unroll=1):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights, unroll=unroll)[0]


def cost(function, *shapes):
    compiled = jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()
    return program_cost(compiled.as_text()), compiled


def test_a_loops_body_counts_as_often_as_it_runs():
    shapes = (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH)
    for function, wanted in ((layers, LAYERS), (jax.grad(lambda *x: layers(*x).sum(), (0, 1)), 3 * LAYERS)):
        looped, compiled = cost(function, *shapes)
        assert looped.flops == wanted * ONE
        assert compiled.cost_analysis()["flops"] < wanted * ONE, "XLA counts a body once; if it does not, this module can go"
    unrolled, _ = cost(functools.partial(layers, unroll=LAYERS), *shapes)
    assert unrolled.flops == LAYERS * ONE


def test_loops_in_loops_and_loops_that_may_end_early():
    def nested(x, weights):
        return jax.lax.fori_loop(0, 5, lambda _, x: layers(x, weights), x)

    def early(x, weights):
        return jax.lax.while_loop(lambda c: (c[0] < 7) & (c[1].sum() > 0), lambda c: (c[0] + 1, c[1] @ weights[0]), (1, x))[1]

    shapes = (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH)
    assert cost(nested, *shapes)[0].flops == 5 * LAYERS * ONE
    assert cost(early, *shapes)[0].flops == 6 * ONE  # from 1 to 7


def test_bytes_of_a_slice_are_those_that_it_takes():
    """A loop over stacked weights reads each layer once, not the whole stack every time."""
    found, _ = cost(layers, (ROWS, WIDTH), (LAYERS, 64 * WIDTH // 64, WIDTH))
    weights = LAYERS * WIDTH * WIDTH * 4
    assert weights <= found.bytes <= 6 * weights


def test_products_over_a_batch():
    found, _ = cost(lambda x, y: jnp.einsum("nbd,nde->nbe", x, y), (4, ROWS, WIDTH), (4, WIDTH, WIDTH))
    assert found.flops == 4 * ONE


CONVOLUTION = """
ENTRY %main (a: f32[4,8,16], b: f32[4,16,32]) -> f32[4,8,32] {
  %a = f32[4,8,16]{2,1,0} parameter(0)
  %b = f32[4,16,32]{2,1,0} parameter(1)
  ROOT %c = f32[4,8,32]{2,1,0} convolution(%a, %b), window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf
}
"""


def test_a_product_over_a_batch_that_is_written_as_a_convolution():
    """A TPU's compiler lets the axis of the batch be one of space, whose window meets one entry at each place."""
    assert program_cost(CONVOLUTION).flops == 4 * 2 * 8 * 16 * 32


@pytest.mark.parametrize("text, kind, size", [
    ("%r = f32[64]{0} all-gather(%a), dimensions={0}", "all-gather", 256),
    ("%r = (f32[16]{0}, f32[64]{0}) all-gather-start(%a), dimensions={0}", "all-gather", 256),
    ("%r = bf16[64]{0} all-reduce(%a), to_apply=%add", "all-reduce", 128),
])
def test_collectives_are_counted(text, kind, size):
    found = program_cost(f"ENTRY %main (a: f32[16]) -> f32[64] {{\n  %a = f32[16]{{0}} parameter(0)\n  ROOT {text}\n}}\n")
    assert found.sent == {kind: (1, size)}


STEPS = """
%begin (p: f32[16]) -> (f32[16], f32[64]) {
  %p = f32[16]{0} parameter(0)
  %gathered = f32[64]{0} all-gather(%p), dimensions={0}, frontend_attributes={chain_id="1"}
  ROOT %started = (f32[16]{0}, f32[64]{0}) custom-call(%gathered), custom_call_target="AsyncCollectiveStart"
}

%meanwhile (p: f32[16]) -> (f32[16], f32[64]) {
  %p = f32[16]{0} parameter(0)
  %gathered = f32[64]{0} all-gather(%p), dimensions={0}, frontend_attributes={chain_id="1"}
  %work = f32[16]{0} negate(%p)
  ROOT %both = (f32[16]{0}, f32[64]{0}) tuple(%work, %gathered)
}

ENTRY %main (a: f32[16]) -> f32[64] {
  %a = f32[16]{0} parameter(0)
  %one = (f32[16]{0}, f32[64]{0}) fusion(%a), kind=kCustom, calls=%begin
  %two = (f32[16]{0}, f32[64]{0}) fusion(%a), kind=kOutput, calls=%meanwhile
  ROOT %r = f32[64]{0} get-tuple-element(%two), index=1
}
"""


def test_a_collective_that_is_carried_on_in_other_fusions_counts_once():
    assert program_cost(STEPS).sent == {"all-gather": (1, 256)}
