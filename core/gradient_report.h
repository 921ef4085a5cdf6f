/* gradient_report.h: what a run is told about its gradient and its map on request, beside training:
 * the exact gradient of a step's loss, and the spectral radius of df/dz. */
#ifndef CORE_GRADIENT_REPORT_H
#define CORE_GRADIENT_REPORT_H
#include "core/network.h"
#include "core/weights.h"

#define gradient_report NAME(gradient_report)
#define gradient_report_open NAME(gradient_report_open)
#define gradient_report_close NAME(gradient_report_close)
#define gradient_report_begin NAME(gradient_report_begin)
#define gradient_report_add NAME(gradient_report_add)
#define gradient_report_cosine NAME(gradient_report_cosine)
#define network_spectral_radius NAME(network_spectral_radius)

struct gradient_report {
  struct deq_config deq; /* exact: ift, tight tolerances, nothing added to the loss */
  struct weights exact;  /* set 0: the gradient */
  struct network net;
  DEVICE double *square;      /* (1) */
  int64_t samples, converged; /* of all solves, forward and backward */
  bool gradient;              /* is wanted, beside the solve */
};

/* In memory of its own, so that training is what it would be without.  ERR_MEMORY. */
MUST_USE enum status gradient_report_open(const struct config *c, const struct backend *be,
                                          const struct solver_port *solver,
                                          struct gradient_report *e);
void gradient_report_close(struct gradient_report *e);
/* For each step: begin, add every batch, then ask. */
void gradient_report_begin(struct gradient_report *e, int64_t length, bool gradient);
MUST_USE enum status gradient_report_add(struct gradient_report *e, const struct parameter_set *p,
                                         const struct batch *b);
/* Cosine of g with the exact gradient, which is overwritten, and the exact one's norm.  NaN where
 * either is 0 or not finite. */
MUST_USE enum status gradient_report_cosine(struct gradient_report *e,
                                            const struct parameter_set *g, double *cosine,
                                            double *norm);

/* Mean and largest, over the sequences of the last batch that network_learn solved by ift or shine,
 * of the spectral radius of df_t/dz_t: of one token each, places spread over the sequences.  The
 * sequence's own is the largest of its tokens', as df/dz is block triangular in time.  By at most
 * 64 vectors of Arnoldi's: exact up to d_model 64, an estimate beyond. */
MUST_USE enum status network_spectral_radius(struct network *net, const struct parameter_set *p,
                                             int64_t rows, double *mean, double *largest);
#endif
