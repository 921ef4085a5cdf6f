/* weights_in_order_cuda.h: weights as products of warpgroups want them in shared memory, for
 * gated_linear and linear_conv, whose rings copy them there (gated_tiles_cuda.h). */
#ifndef KERNELS_WEIGHTS_IN_ORDER_CUDA_H
#define KERNELS_WEIGHTS_IN_ORDER_CUDA_H
#include "kernels/gated_tiles_cuda.h"

/* Which weight lies in place i, of panels of so many rows one behind the other:
 *
 *   term t + 4 q of step k of a panel  is  channel 16 (k/2) + 4 t + 2 (k%2) + q of its 32
 *   right operand's row 8 n + 2 t + e  is  row 16 (n/2) + 4 t + 2 (n%2) + e of the weights
 *
 * so that a lane has fours of channels, and of outputs, side by side. */
struct weight_in_order {
  int panel, row, term;
  INLINE_DEVICE weight_in_order(int i, int rows)
  {
    int line = i / PANEL, column = i % PANEL;
    panel = line / rows, row = line - panel * rows;
    int n = row / 8, m = row % 8, place = 4 * (column / 4 ^ m) + column % 4, k = place / 8;
    term = 16 * (k / 2) + 4 * (place % 4) + 2 * (k % 2) + place % 8 / 4;
    row = 16 * (n / 2) + 4 * (m / 2) + 2 * (n % 2) + m % 2;
  }
};

/* The first `count` floats, less than 2^31, of w W in order, W (N,K), by `rows` of it at a time;
 * zeros behind the last.  w (K) NULL: ones. */
KERNEL put_weights_in_order(int rows, int K, int N, int64_t count, const float *w, const float *W,
                            float *to)
{
  FOR_EACH (i, count) {
    struct weight_in_order at((int)i, rows);
    int tile = at.panel / (K / PANEL), row = tile * rows + at.row;
    int channel = (at.panel - tile * (K / PANEL)) * PANEL + at.term;
    to[i] = row < N ? rounded<1>((w ? w[channel] : 1) * W[row * K + channel]) : 0;
  }
}
#endif
