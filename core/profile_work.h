/* profile_work.h: what a call of each operation does, for core/profile.c, in the names of its
 * arguments in operations.def: WORK_x(flops, reals).
 *
 * flops: multiplications and additions of the textbook's form, an exponential or a root counted as
 * one, masked halves of a triangle not counted.  reals: numbers read and written, each array once;
 * an output that is added to is read and written.  What fits a cache moves less than that.
 * WORK_NONE: not part of a step of training; not counted. */
#ifndef CORE_PROFILE_WORK_H
#define CORE_PROFILE_WORK_H

#define WORK_NONE WORK(0, 0)
/* whether an output is wanted, as a factor */
#define IF(pointer) ((pointer) != NULL)

#define WORK_fill WORK(0, n)
#define WORK_axpby WORK(b == 0 ? n : 3 * n, b == 0 ? 2 * n : 3 * n)
#define WORK_accumulate WORK((1 + IF(b) + IF(c)) * M * n, (3 + IF(b) + IF(c)) * M * n)
#define WORK_sum_squares WORK(2 * n, n)
#define WORK_dot WORK(2 * n, 2 * n)
#define WORK_gather_blocks WORK(0, 2 * rows * blocks * n)
#define WORK_scatter_blocks WORK(0, 2 * rows * blocks * n)
#define WORK_transpose WORK(0, 2 * rows * n)
#define WORK_columns WORK(b == 0 ? M * n : 3 * M * n, (b == 0 ? 2 : 3) * M * n)
#define WORK_dropout_mask WORK(0, rows *n)
#define WORK_weight_norm_fwd WORK(3 * rows * n, 2 * rows * n)
#define WORK_weight_norm_vjp WORK(8 * rows * n, 4 * rows * n)
#define WORK_embedding_fwd WORK(IF(mask) * M * D, (2 + IF(mask)) * M * D)
#define WORK_embedding_vjp WORK((1 + IF(mask)) * M * D, (3 + IF(mask)) * M * D)
/* a mask is read once a sequence; an array that is two arguments is read once */
#define NORM_READS_Z(n) (((n).damping != 1 || (n).square != NULL) && (n).z != (n).x)
#define NORM_FLOPS(n, with_out) \
  (4 + (with_out) * (IF((n).x) + IF((n).mask)) + 3 * ((n).damping != 1) + 5 * ((n).square != NULL))
#define WORK_rmsnorm_fwd                                                               \
  WORK(NORM_FLOPS(n, IF(out)) * n.B * n.T * D,                                         \
       (1 + IF(n.x) + IF(out) + IF(out) * IF(n.h) + NORM_READS_Z(n)) * n.B * n.T * D + \
           IF(n.mask) * n.B * D)
#define WORK_rmsnorm_vjp                                                                 \
  WORK((7 * IF(xb) + 3 * IF(wb) + IF(sum) + 2 * IF(xb) * ((beta != 0) + (direct != 0)) + \
        IF(outb) * IF(mask)) *                                                           \
           B * T * D,                                                                    \
       (2 + IF(sum) + (beta == 0 || xb == yb ? 1 : 2) * IF(xb) + IF(outb)) * B * T * D + \
           IF(mask) * B * D)
#define WORK_gated_rmsnorm_fwd WORK(9 * d.rows * d.E, 3 * d.rows * d.E)
#define WORK_gated_rmsnorm_vjp                    \
  WORK((20 * IF(yb) + 9 * IF(wb)) * d.rows * d.E, \
       (3 + (beta == 0 ? 1 : 2) * (IF(yb) + IF(zb))) * d.rows * d.E)
#define WORK_linear_fwd WORK(2 * M * K * N, M * K + K * N + (beta == 0 ? 1 : 2) * M * N)
#define WORK_gated_linear_fwd                                                              \
  WORK((9 + 2 * N) * d.rows * d.E + IF(norm.w) * NORM_FLOPS(norm, 1) * d.rows * N,         \
       (2 + keeps_yn) * d.rows * d.E + d.E * N + keeps_out * d.rows * N +                  \
           IF(norm.w) * ((1 + IF(norm.x) + IF(norm.h) + NORM_READS_Z(norm)) * d.rows * N + \
                         IF(norm.mask) * norm.B * N))
#define WORK_linear_vjp                   \
  WORK(2 * (IF(xb) + IF(Wb)) * M * K * N, \
       M * N + IF(xb) * (K * N + (beta == 0 ? 1 : 2) * M * K) + IF(Wb) * (M * K + 2 * K * N))
/* ynb and a yn that is not given are not counted: they need not be in memory */
#define WORK_gated_linear_vjp                                                           \
  WORK((20 * IF(yb) + 9 * IF(wb) + 2 * (1 + IF(Wb)) * N) * d.rows * d.E,                \
       (2 + IF(Wb) * IF(yn) + (beta == 0 ? 1 : 2) * (IF(yb) + IF(zb))) * d.rows * d.E + \
           (1 + IF(out)) * d.rows * N + (1 + 2 * IF(Wb)) * d.E * N)
#define WORK_conv1d_fwd WORK((2 * d.W + 5) * d.B * d.T * d.C, 2 * d.B * d.T * d.C)
#define WORK_linear_conv_fwd                                               \
  WORK((IF(norm.w) * 4 * K + 2 * K * N + (2 * d.W + 5) * d.C) * d.B * d.T, \
       K * N + ((1 + keeps * IF(norm.w)) * K + (beta == 0 ? 1 : 2) * N + keeps * d.C) * d.B * d.T)
#define WORK_conv1d_vjp                                                                           \
  WORK((2 * d.W * (1 + IF(xb) + IF(wb)) + 9 + IF(xb) * (IF(more) + IF(more2))) * d.B * d.T * d.C, \
       (2 + IF(xb) * ((beta == 0 ? 1 : 2) + IF(more) + IF(more2))) * d.B * d.T * d.C)
#define WORK_conv1d_advance WORK(0, 2 * d.B * d.C * d.W)
#define WORK_softplus_clamp_fwd WORK(4 * M * H, 2 * M * H)
#define WORK_softplus_clamp_vjp WORK(6 * M * H, (beta == 0 ? 3 : 4) * M * H)
/* x, B, C, dt of all tokens */
#define SSD_TOKENS (d.B * d.T)
#define SSD_INPUTS (SSD_TOKENS * (d.H * d.P + 2 * d.G * d.N + d.H))
#define SSD_STATES (d.B * d.H * d.P * d.N)
#define WORK_ssd_fwd                        \
  WORK(SSD_TOKENS *d.H *d.P *(5 * d.N + 2), \
       SSD_INPUTS + SSD_TOKENS * d.H * d.P + (IF(S0) + IF(S1)) * SSD_STATES)
#define WORK_ssd_advance WORK(3 * SSD_TOKENS * d.H * d.P * d.N, SSD_INPUTS + 2 * SSD_STATES)
/* a token meets half a chunk; states enter and leave where there are several, or one is given */
#define SSD_PAIRS (SSD_TOKENS * ssd_chunk_length(d))
#define SSD_KEPT (ssd_chunks(d) - d.from_zero)
#define SSD_PASSES(given) ((given) || ssd_chunks(d) > 1)
#define WORK_ssd_chunked_fwd                                             \
  WORK(SSD_PAIRS *(d.H * d.P + d.G * d.N) + SSD_TOKENS * d.H * d.P * 2 + \
           SSD_PASSES(S0 || S1) * 4 * SSD_TOKENS * d.H * d.P * d.N,      \
       SSD_INPUTS + SSD_TOKENS * d.H * d.P + IF(S) * SSD_KEPT * SSD_STATES)
#define WORK_ssd_chunked_vjp                                                     \
  WORK(SSD_PAIRS *(2 * d.H * d.P + 3 * d.G * d.N) + SSD_TOKENS * d.H * d.P * 4 + \
           SSD_PASSES(S || S1b) * 8 * SSD_TOKENS * d.H * d.P * d.N,              \
       (beta == 0 ? 2 : 3) * SSD_INPUTS + SSD_TOKENS * d.H * d.P + IF(S) * SSD_KEPT * SSD_STATES)
#define WORK_silu_gate_fwd WORK(5 * M * F, 3 * M * F)
#define WORK_silu_gate_vjp WORK(11 * M * F, 7 * M * F)
#define WORK_cross_entropy_fwd WORK((3 + IF(best) + 4 * IF(xb)) * M * V, (1 + IF(xb)) * M * V)
#define WORK_cross_entropy_vjp WORK(4 * M * V, (beta == 0 ? 2 : 3) * M * V)
#define WORK_argmax WORK(M *V, M *V)
#define WORK_sum_losses WORK(2 * M, 2 * M + M * (int64_t)(sizeof(wide) / sizeof(real)))
#define WORK_adamw WORK(14 * n, 7 * n)

#define WORK_weight_norm_jvp WORK_NONE
#define WORK_embedding_jvp WORK_NONE
#define WORK_rmsnorm_jvp WORK_NONE
#define WORK_gated_rmsnorm_jvp WORK_NONE
#define WORK_linear_jvp WORK_NONE
#define WORK_conv1d_jvp WORK_NONE
#define WORK_softplus_clamp_jvp WORK_NONE
#define WORK_ssd_vjp WORK_NONE
#define WORK_ssd_jvp WORK_NONE
#define WORK_ssd_chunked_jvp WORK_NONE
#define WORK_silu_gate_jvp WORK_NONE
#define WORK_cross_entropy_jvp WORK_NONE
#endif
