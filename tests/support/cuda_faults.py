"""Faults in the text of the CUDA kernels, each of which the emulation must notice.

A fault is one replacement in one file.
"""

from __future__ import annotations

from support.cuda_emulation import FORMS, Fault

# Precision and whether there are groups of warps.
SOUND = [(precision, True) for precision in FORMS] + [("medium", False)]

FAULTS = {
    # Synchronisation
    "no wait for the exchanged vector": Fault(
        "exchange.cuh", "mbarrier_wait(barriers + (v & 1), ((v - 1) >> 1) & 1);", ""
    ),
    "a wait for the wrong phase": Fault("exchange.cuh", "((v - 1) >> 1) & 1", "(v >> 1) & 1"),
    "an mbarrier that is not made ready again": Fault(
        "exchange.cuh", "if (tiling.cluster && thread_index() == 0) mbarrier", "if (false) mbarrier"
    ),
    "one buffer for the exchange": Fault("exchange.cuh", "(tiling.cluster ? (v & 1) * buffer_words() : 0)", "0"),
    "blocks that begin before the cluster is ready": Fault(
        "exchange.cuh", "      cluster_sync();\n", "      sync_block();\n"
    ),
    "counted bytes that nobody sends": Fault(
        "exchange.cuh",
        "mbarrier_expect(barriers + (v & 1), shape.exchanged_bytes);",
        "mbarrier_expect(barriers + (v & 1), shape.exchanged_bytes + 8);",
    ),
    "no barrier between partial sums and their sum, forward": Fault(
        "forward.cuh", "publish_to_groups();\n      sync_block();", "publish_to_groups();"
    ),
    "no barrier between partial sums and their sum, backward": Fault(
        "backward.cuh",
        "weight_sums.fetched();\n      sync_block();",
        "weight_sums.fetched();",
    ),
    "no barrier after the first vector is filled in": Fault(
        "forward.cuh", "z.B, z.H);\n        sync_block();", "z.B, z.H);"
    ),
    "a counter that stops one block early": Fault(
        "exchange.cuh", "unsigned(v) * unsigned(tiling.blocks)", "unsigned(v) * unsigned(tiling.blocks) - 1"
    ),
    "no barrier before the counter": Fault(
        "exchange.cuh",
        "    sync_block();\n    if (thread_index() == 0) {\n      add_release",
        "    if (thread_index() == 0) {\n      add_release",
    ),
    "no barrier after the counter": Fault(
        "exchange.cuh", "unsigned(tiling.blocks));\n    }\n    sync_block();", "unsigned(tiling.blocks));\n    }"
    ),
    "no barrier after the vector is copied": Fault(
        "exchange.cuh", "load_device(from + e);\n    sync_block();", "load_device(from + e);"
    ),
    "a block that ends while others store to it": Fault(
        "forward.cuh", "if (v > 0) exchange.receive(v);  // no block", "// no block"
    ),
    # Fragments and indices
    "fragments of W_gg with their halves exchanged": Fault(
        "products.cuh", "make_uint2(low[p], high[p])", "make_uint2(high[p], low[p])"
    ),
    "rows of the recurrent fragment exchanged": Fault(
        "recurrent.cuh",
        "make_uint4(a[0][q], a[1][q], a[2][q], a[3][q])",
        "make_uint4(a[0][q], a[2][q], a[1][q], a[3][q])",
    ),
    "a B operand whose k are not permuted as A's": Fault(
        "products.cuh",
        "pack<form>(element(k, n), element(k + 1, n), low);",
        "pack<form>(element(k - (lane & 3), n), element(k - (lane & 3) + 4, n), low);",
    ),
    "a TF32 operand of rows in the place of k": Fault(
        "products.cuh", "a[2 * term + 1][0], a[2 * term][1],", "a[2 * term][1], a[2 * term + 1][0],"
    ),
    "an operand that is not rounded to TF32": Fault("products.cuh", "round_to_tf32(y)", "bits_of_float(y)"),
    "one half of the words not transposed": Fault(
        "products.cuh",
        "high = transpose(pair[0] >> 16 | (pair[1] & 0xffff0000u))",
        "high = pair[0] >> 16 | (pair[1] & 0xffff0000u)",
    ),
    "a transposed fragment in the wrong place": Fault(
        "controller_backward.cuh", "const int transposed = j % 2 * 2 + j / 2;", "const int transposed = j;"
    ),
    "n and s of the wrong row": Fault("forward.cuh", "(q & 1 ? ns[0][2] : ns[0][0])", "(q & 1 ? ns[0][0] : ns[0][2])"),
    "W_hh not transposed in the backward pass": Fault(
        "backward.cuh", "pack_recurrent<form, true>", "pack_recurrent<form, false>"
    ),
    "a product of parts left out": Fault(
        "products.cuh",
        "multiply_term<form>(term, c, a, b, whole);",
        "multiply_term<form>(term == 3 ? 2 : term, c, a, b, whole);",
        precision="highest",
    ),
    "a quad's values in the wrong order": Fault(
        "exchange.cuh", "pack<form>(four[2], four[3], right);", "pack<form>(four[3], four[2], right);"
    ),
    "the partial sums of one k split left out": Fault("recurrent.cuh", "first + part < s.k_splits;", "false;"),
    "weights loaded ahead of another share": Fault(
        "recurrent.cuh", "(tile * s.k_tiles + share.begin)", "(tile * s.k_tiles + share.begin / 2)"
    ),
    "half of a k tile left out": Fault("controller.cuh", "b[side], K::whole(k));", "b[side], false);"),
    "state kept for the other row": Fault(
        "controller.cuh",
        "return packed_g[n / 2][n % 2 * 2 + high][0];",
        "return packed_g[n / 2][n % 2 * 2 + 1 - high][0];",
        precision="medium",
    ),
    "kept state of another row": Fault(
        "kept_state.cuh",
        "const Pair* from = image + lane + row * all_tiles",
        "const Pair* from = image + lane + (row ^ 1) * all_tiles",
        precision="medium",
    ),
    "the images of all sequences in one place": Fault(
        "kept_state.cuh", "return {first_b * quads_of(z.H) + sequences", "return {sequences", "medium"
    ),
    "images that count quads beyond the batch": Fault(
        "kept_state.cuh", "z.B - first_b < t.batch ? z.B - first_b : t.batch", "t.batch", "medium"
    ),
    "copies of the wrong quad": Fault(
        "kept_state.cuh", "uint32_t(rank), lane % 8", "uint32_t(rank), lane / 4", "medium"
    ),
    "A that is not finite where no state comes": Fault("shared_sums.cuh", "s.right[e] = 0;", ";", "medium"),
    "kept state of the next column tile": Fault(
        "kept_state.cuh", "(row * all_tiles + n) * quads * 4", "row * all_tiles * quads * 4"
    ),
    "units of the last column tile that are not spread": Fault(
        "tiling.h", "column / 8 * 8 + column % 8 / 2 : G", "column : column", "medium"
    ),
    # The backward pass's bookkeeping
    "the gradient of the last h at every step": Fault("backward.cuh", "inner && cursor.is_last(p) ?", "inner ?"),
    "a of the next step forgotten": Fault("backward.cuh", "a_next = up.a;", ""),
    "state of the step before": Fault(
        "controller_backward.cuh", "again ? in_segment : segment + 1", "again ? in_segment : segment"
    ),
    "state of the segment's first step": Fault(
        "controller_backward.cuh", "again ? in_segment : segment + 1", "again ? 0 : segment + 1", "highest"
    ),
    "a segment of which one step too few is computed again": Fault(
        "controller_backward.cuh", "p.segment > 1 ? in_segment + 1 : 0", "p.segment > 1 ? in_segment : 0"
    ),
    "du that is not multiplied by 1 - g²": Fault(
        "controller_backward.cuh", "c[j] *= 1.f - g[j] * g[j];", "c[j] *= 1.f;"
    ),
    "a checkpoint one step late": Fault(
        "forward.cuh", "until_kept = p.segment;  //", "until_kept = p.segment + 1;  //"
    ),
    "state of the last batch tile carried on": Fault(
        "own_sums.cuh",
        "if (!working) return;\n    ARU_UNROLL\n    for (int j = 0; j < 2 * tiles",
        "if (!working || steps > 0) return;\n    ARU_UNROLL\n    for (int j = 0; j < 2 * tiles",
    ),
    # Sums that the warps share
    "one buffer for A": Fault(
        "shared_sums.cuh",
        "return right + (v & 1) * right_words + own();",
        "return right + own();",
        precision="medium",
    ),
    "du of the last batch tile carried on": Fault(
        "shared_sums.cuh", "e < 4 * tiles; ++e) du[", "e < (sums[0][0] ? 0 : 4 * tiles); ++e) du[", "medium"
    ),
    "the step's state not waited for": Fault("backward.cuh", "weight_sums.fetched();", "", "medium"),
    "state computed again that other lanes have not stored": Fault(
        "shared_sums.cuh", "sync_warp();  // other lanes may have recomputed it", "", "medium", groups=False
    ),
    "the state that is computed last fetched from memory": Fault(
        "backward.cuh", "!(K::sums_in_groups && cursor.recomputed_last())", "true", "medium"
    ),
    "the state that is computed last in the other buffer": Fault(
        "backward.cuh", "cursor.is_last(p) ? v : v + 1", "cursor.is_last(p) ? v + 1 : v", "medium"
    ),
    "sums taken back that were not left": Fault("backward.cuh", "weight_sums.park(p);", "", "medium"),
    "kept state staged for all of the block's warps in one place": Fault(
        "forward.cuh", "warp_index() * K::tiles * 128", "0", "medium"
    ),
    "kept state that is staged over what is still to be read": Fault(
        "forward.cuh", "if (lane == 0) bulk_stores_read();\n        sync_warp();", "sync_warp();", "medium"
    ),
    "rows beyond the batch that are counted": Fault("rows.cuh", "first_b + r.b < z.B &&", ""),
    # ... without groups of warps
    "no barrier between the shared operands and their product": Fault(
        "shared_sums.cuh", "sync_block();\n    const int lane", "const int lane", "medium", groups=False
    ),
    "A of one buffer": Fault(
        "shared_sums.cuh", "right + (v & 1) * right_words + right_rows", "right + right_rows", "medium", groups=False
    ),
    "rows of V and of A in another order": Fault(
        "shared_sums.cuh", "left_rows = matrix / 2,", "left_rows = matrix % 2,", "medium", groups=False
    ),
    "row tiles left out": Fault(
        "shared_sums.cuh", "tile < 2 * p.shape.pairs;", "tile < p.shape.pairs;", "medium", groups=False
    ),
    "the last column tile loaded from another": Fault(
        "shared_sums.cuh",
        "from_right + (tiles - 1) * 128, pair",
        "from_right + (tiles - 2) * 128, pair",
        precision="medium",
        groups=False,
    ),
    # Groups of warps
    "no wait for the controller's product": Fault(
        "controller.cuh", "group_wait();\n      ARU_UNROLL", "ARU_UNROLL", "medium"
    ),
    "no wait for the shared sums": Fault(
        "shared_sums.cuh", "group_wait();\n      group_pin(sums);", "group_pin(sums);", "medium"
    ),
    "shared operands written while they are multiplied": Fault(
        "backward.cuh", "if constexpr (K::adaptive) weight_sums.finished();", "", "medium"
    ),
    "no barrier of the group between the shared operands and their product": Fault(
        "shared_sums.cuh", "publish_to_groups();\n    sync_group(part);", "publish_to_groups();", "medium"
    ),
    "a product that is not begun": Fault(
        "shared_sums.cuh", "group_pin(sums);\n    group_begin();", "group_pin(sums);", "medium"
    ),
    "weights whose column tiles and k are exchanged": Fault(
        "controller.cuh", "at(w.products, K::tiles * 128, 128)", "at(w.products, 128, K::tiles * 128)", "medium"
    ),
    "V's units and rows exchanged": Fault(
        "shared_sums.cuh",
        "at(left + first, rows_words * 4, 128)",
        "at(left + first, 128, rows_words * 4)",
        "medium",
    ),
    "weights of the second k tile left out": Fault(
        "products.cuh", "b.from(k * 2 * tiles * 128)", "b.from(0)", "medium"
    ),
    "sums of the product before": Fault("products.cuh", "if (k == 0)\n", "if (k < 0)\n", "medium"),
    "rows of another group": Fault(
        "shared_sums.cuh", "first = part * 16 * rows_words", "first = 0 * rows_words", "medium"
    ),
    "row tiles of a group left out": Fault("shared_sums.cuh", "tile < 8; ++tile", "tile < 7; ++tile", "medium"),
    "A of the step before, multiplied by a group": Fault(
        "shared_sums.cuh",
        "right + (v & 1) * right_words + first",
        "right + (v + 1 & 1) * right_words + first",
        precision="medium",
    ),
    # The second form of "high"
    "weights beyond the range of float16": Fault("controller.cuh", "wanted = bias + 14", "wanted = bias + 16", "mixed"),
    "weights that are not scaled": Fault("controller.cuh", "K::scales_weights ? x * s.scale : x", "x", "mixed"),
    "a scale for each lane": Fault("controller.cuh", "shuffle(largest, lane ^ distance)", "largest", "mixed"),
    "the largest weight, not the largest magnitude": Fault(
        "controller.cuh", "matrix[e] < 0 ? -matrix[e] : matrix[e]", "matrix[e]", "mixed"
    ),
    "W_gc scaled as W_gg is": Fault("controller.cuh", "of(w.weight_gc, 2 * G)", "of(w.weight_gg, 2 * G)", "mixed"),
    "W_gg g that keeps its scale": Fault(
        "controller.cuh", "K::scales_weights ? product * unscale_gg : product", "product", "mixed"
    ),
    "n and s whose biases are scaled": Fault(
        "controller.cuh", "K::scales_weights ? 0.f : w.bias_s", "w.bias_s", "mixed"
    ),
    "n and s without their biases": Fault(
        "controller.cuh", "sum * unscale_gc + bias : sum", "sum * unscale_gc : sum", "mixed"
    ),
    "h exchanged in one word": Fault("forward.cuh", "Exchange<K::recurrent_form>", "Exchange<Form::bf16>", "mixed"),
    "no wait for the product of scaled weights": Fault(
        "controller.cuh", "group_wait();\n      ARU_UNROLL", "ARU_UNROLL", "mixed"
    ),
    "no barrier between partial sums and their sum, with groups and TF32": Fault(
        "forward.cuh", "publish_to_groups();\n      sync_block();", "publish_to_groups();", "mixed"
    ),
    "the last state put where the group still reads": Fault(
        "controller_backward.cuh", "if (m == 0 && step == 0) sync_group(group);", "", "medium"
    ),
}
