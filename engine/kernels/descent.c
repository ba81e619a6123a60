/* Descent of dense networks: the steps of a block of rows, from the draws to the new parameters.
 *
 * Each layer of a network reads one before it. Each thread takes some rows of a batch through all layers and
 * back, then some rows of every weight matrix through its gradient and the optimizer; the threads
 * meet between the two. Small products are our own, large ones those of the BLAS that PyTorch has.
 * The arithmetic of a number does not depend on what else is in the block. Included by kernels.c.
 */
#include <float.h>
#include <sched.h>

#define COLUMNS_OF 16  /* rows of matrices have room for a multiple of it */
#define OWN_PRODUCT 1e6 /* multiplications from which BLAS pays for its preparations */
#define MOST_THREADS 64

typedef void Sgemm(const char *, const char *, const int32_t *, const int32_t *, const int32_t *,
                   const float *, const float *, const int32_t *, const float *, const int32_t *,
                   const float *, float *, const int32_t *);
typedef int SetThreads(int);

enum { DROPOUT_SITE, NOISE_SITE };
enum { SQUARED_ERROR, ABSOLUTE_ERROR, CROSS_ENTROPY, GAUSSIAN };
enum { L1, L2, OUTPUT_L1 };
enum { SGD, NESTEROV, ADAM, ADAMW, RMSPROP, ADAGRAD, ADADELTA };

typedef struct {
    int32_t width, activation; /* of its out */
    int32_t first_site, sites; /* which of them act on its out, in order */
    int32_t source;            /* the layer whose out it reads */
    int32_t adds;              /* whether on the way back another has begun the source's gradient */
    int64_t weight, bias;      /* where they are among the parameters; none of the first layer */
} DenseLayer;

typedef struct {
    int32_t kind;
    uint32_t limit;
    float scale; /* 1 / (1 - rate), or the standard deviation */
    int32_t unused;
    uint64_t key;
    int64_t dropped; /* adds up */
} DrawingSite;

typedef struct {
    int32_t kind, layer;
    double weight; /* of one element's size */
    double total;  /* of the terms, each times the rows of its batch; adds up */
} PenaltyTerm;

typedef struct {
    const DenseLayer *layers;
    DrawingSite *sites;
    PenaltyTerm *penalties;
    float *parameters, *memory[3]; /* all laid out alike */
    const float *x;                /* (all rows, inputs) */
    const void *y;                 /* (all rows, outputs) floats, or (all rows,) 64-bit classes */
    const float *weights;          /* (all rows,) or none */
    const int64_t *order;          /* rows of this block */
    const double *rates;           /* learning rates, one a step */
    Sgemm *sgemm;
    SetThreads *set_threads;
    void *room; /* of bernoulli_descent_bytes, aligned */
    int64_t rows, batch, epoch, position; /* position: of the block's first row in the epoch */
    int64_t steps_before;                 /* that the optimizer has taken */
    double options[4];                    /* of the optimizer */
    double clip, loss_weight, added_variance;
    double loss;     /* of the steps, each times the rows of its batch; adds up */
    double bad_loss; /* out: of a step whose loss was not finite; such a step changes nothing */
    int32_t layer_count, site_count, penalty_count, loss_kind, optimizer, threads;
    int32_t variances, unused; /* the layer whose out they are, of GAUSSIAN */
} Descent;

/* A weight matrix as the kernels hold it: in its place if its rows have no gaps, else in a copy,
 * which is transposed where there are few outputs. */
typedef struct {
    float *value, *memory[3], *gradient;
    size_t rows, columns, stride;
    int is_copy, is_transposed;
    float *bias, *bias_memory[3], *bias_gradient;
} Matrix;

/* What a layer holds of a batch: rows with `stride` numbers each. */
typedef struct {
    float *pre, *activated, *out, *factor, *delta;
    size_t width, stride;
} Activity;

typedef struct {
    const Descent *given;
    Matrix *matrices; /* by layer; the first is not used */
    Activity *activities;
    float **scratch; /* of each thread: a transposed matrix, and a row behind it */
    double *partial; /* of each thread and quantity */
    size_t quantities;
    atomic_int arrived, round;
    atomic_int threads; /* how many there are; 0 until that is known */
} Crew;

INLINE size_t padded(size_t width) { return (width + COLUMNS_OF - 1) / COLUMNS_OF * COLUMNS_OF; }

/* -- small products ----------------------------------------------------------------------------- */

/* c = bias + a b; a's element (row, k) is a[row * a_row + k * a_inner]. */
typedef struct {
    const float *a, *b, *bias;
    float *c;
    size_t a_row, a_inner, b_stride, c_stride, inner;
    int adds; /* whether c begins with what it is, and not with the bias */
} Small;

/* NAME is small or, with A_ROW 1, turned. */
#define SMALL(NAME, A_ROW, ROWS, VECTORS) \
    static void NAME##_##ROWS##_##VECTORS(const Small *part, size_t row, size_t column) { \
        size_t a_row = A_ROW, a_inner = part->a_inner, b_stride = part->b_stride; \
        const float *restrict a = part->a + row * a_row, *restrict b = part->b + column; \
        float *restrict c = part->c + row * part->c_stride + column; \
        vf sum[ROWS][VECTORS]; \
        UNROLLED for (int v = 0; v < VECTORS; v++) { \
            vf begun = part->bias ? load(part->bias + column + v * LANES) : all(0); \
            UNROLLED for (int m = 0; m < ROWS; m++) \
                sum[m][v] = part->adds ? load(c + m * part->c_stride + v * LANES) : begun; \
        } \
        for (size_t k = 0; k < part->inner; k++) { \
            UNROLLED for (int m = 0; m < ROWS; m++) { \
                float x = a[m * a_row + k * a_inner]; \
                UNROLLED for (int v = 0; v < VECTORS; v++) \
                    sum[m][v] += x * load(b + k * b_stride + v * LANES); \
            } \
        } \
        UNROLLED for (int m = 0; m < ROWS; m++) \
            UNROLLED for (int v = 0; v < VECTORS; v++) \
                store(c + m * part->c_stride + v * LANES, sum[m][v]); \
    }

#define SMALLS(ROWS) \
    SMALL(small, part->a_row, ROWS, 1) SMALL(small, part->a_row, ROWS, 2) \
    SMALL(turned, 1, ROWS, 1) SMALL(turned, 1, ROWS, 2)
#if MOST_ROWS >= 12
SMALLS(12)
SMALLS(8)
#endif
#if MOST_ROWS >= 6
SMALLS(6)
#endif
SMALLS(4)
SMALLS(2)
SMALLS(1)

typedef void (*SmallProduct)(const Small *, size_t, size_t);
#define SMALL_ROW(ROWS) \
    {ROWS, {{small_##ROWS##_1, small_##ROWS##_2}, {turned_##ROWS##_1, turned_##ROWS##_2}}}
static const struct { size_t rows; SmallProduct of[2][2]; } SMALL_TABLE[] = {
#if MOST_ROWS >= 12
    SMALL_ROW(12), SMALL_ROW(8),
#endif
#if MOST_ROWS >= 6
    SMALL_ROW(6),
#endif
    SMALL_ROW(4), SMALL_ROW(2), SMALL_ROW(1),
};

/* `width` is a multiple of 16. */
static void small_product(const Small *part, size_t rows, size_t width) {
    for (size_t column = 0; column < width;) {
        int two = width - column >= 2 * LANES;
        size_t row = 0;
        for (size_t kind = 0; row < rows; kind++) {
            SmallProduct product = SMALL_TABLE[kind].of[part->a_row == 1][two];
            for (; rows - row >= SMALL_TABLE[kind].rows; row += SMALL_TABLE[kind].rows)
                product(part, row, column);
        }
        column += two ? 2 * LANES : LANES;
    }
}

static int takes_blas(const Descent *given, size_t rows, size_t inner, size_t width) {
    return given->sgemm && (double)rows * (double)inner * (double)width >= OWN_PRODUCT;
}

/* c (rows, width) = beta c + a b, of matrices in rows; `a_turned`: a is (inner, rows), likewise b. */
static void blas(const Descent *given, const float *a, size_t a_stride, int a_turned,
                 const float *b, size_t b_stride, int b_turned, float *c, size_t c_stride,
                 size_t rows, size_t inner, size_t width, float beta) {
    const float one = 1;
    int32_t m = (int32_t)width, n = (int32_t)rows, k = (int32_t)inner;
    int32_t lda = (int32_t)b_stride, ldb = (int32_t)a_stride, ldc = (int32_t)c_stride;
    given->sgemm(b_turned ? "T" : "N", a_turned ? "T" : "N", &m, &n, &k, &one, b, &lda, a, &ldb,
                 &beta, c, &ldc);
}

/* -- activations -------------------------------------------------------------------------------- */

#define SLOPE(NAME, VALUE) \
    case NAME: \
        for (size_t i = 0; i < width; i += LANES) { \
            vf d = load(delta + i), z = load(pre + i), h = load(out + i); \
            (void)z, (void)h; \
            store(delta + i, VALUE); \
        } \
        break

/* Take a gradient by the activation `out` of `pre` to one by `pre`, in place. */
static void descend_row(float *delta, const float *pre, const float *out, size_t width, int kind) {
    switch (kind) {
        SLOPE(RELU, choose(z > 0.0f, d, all(0)));
        SLOPE(TANH, d * (1.0f - h * h));
        SLOPE(SIGMOID, d * h * (1.0f - h));
        SLOPE(SOFTPLUS, d * logistic(z));
        SLOPE(ELU, choose(z > 0.0f, d, d * (h + 1.0f)));
        SLOPE(RECT_MIN, choose(z <= 1.0f, d, all(0)));
        SLOPE(RECT_MINMAX, choose((z >= 0.0f) & (z <= 1.0f), d, all(0)));
    case SILU:
        for (size_t i = 0; i < width; i += LANES) {
            vf z = load(pre + i), s = logistic(z);
            store(delta + i, load(delta + i) * (s * (1.0f + z * (1.0f - s))));
        }
        break;
    case GELU:
        for (size_t i = 0; i < width; i++) {
            float z = pre[i], below = 0.5f * erfcf(z * -0.707106781f);
            delta[i] *= below + z * 0.398942280f * expf(-0.5f * z * z);
        }
        break;
    default: break; /* linear; softmax is taken care of by the loss */
    }
}

/* -- the way forward ---------------------------------------------------------------------------- */

static uint64_t state_of(const Descent *given, uint64_t key, int64_t position) {
    uint64_t by_epoch = mixed((uint64_t)(given->epoch + 1) * GAMMA + key);
    return mixed(by_epoch + mixed((uint64_t)(position + 1) * ROW));
}

/* Let the sites of a layer act on a row of its out; return how many elements each dropped. */
static void act(const Descent *given, const DenseLayer *layer, const Activity *activity, size_t row,
                int64_t position, float *scratch, double *dropped) {
    size_t width = activity->width, at = row * activity->stride;
    float *out = activity->out + at, *factor = activity->factor ? activity->factor + at : NULL;
    if (activity->out != activity->activated)
        memcpy(out, activity->activated + at, activity->stride * sizeof *out);
    int is_first = 1;
    for (int32_t i = 0; i < layer->sites; i++) {
        const DrawingSite *site = given->sites + layer->first_site + i;
        uint64_t state = state_of(given, site->key, position);
        if (site->kind == NOISE_SITE) {
            for (size_t k = 0; k < width; k++) out[k] += site->scale * normal_number(state, k);
            continue;
        }
        float *drawn = is_first ? factor : scratch;
        drop(drawn, NULL, 0, width, state, site->limit, site->scale);
        size_t kept = 0;
        for (size_t k = 0; k < width; k++) kept += drawn[k] != 0;
        dropped[layer->first_site + i] += (double)(width - kept);
        for (size_t k = 0; k < width; k++) out[k] *= drawn[k];
        if (!is_first)
            for (size_t k = 0; k < width; k++) factor[k] *= drawn[k];
        is_first = 0;
    }
}

static void gather(const Descent *given, const Activity *input, size_t row, int64_t from) {
    float *dst = input->activated + row * input->stride;
    memcpy(dst, given->x + (size_t)from * input->width, input->width * sizeof *dst);
    for (size_t k = input->width; k < input->stride; k++) dst[k] = 0;
}

static void forward_product(const Descent *given, const Matrix *matrix, const Activity *below,
                            const Activity *above, size_t first, size_t rows) {
    const float *a = below->out + first * below->stride;
    float *c = above->pre + first * above->stride;
    size_t inner = below->width, width = above->width;
    if (matrix->is_transposed) {
        for (size_t i = 0; i < rows; i++) {
            float *dst = c + i * above->stride;
            for (size_t n = 0; n < above->stride; n++) dst[n] = 0;
            for (size_t n = 0; n < width; n++) {
                const float *x = a + i * below->stride, *w = matrix->value + n * matrix->stride;
                vf sums[16 / LANES];
                for (int v = 0; v < 16 / LANES; v++) sums[v] = all(0);
                for (size_t k = 0; k < matrix->stride; k += 16)
                    for (int v = 0; v < 16 / LANES; v++)
                        sums[v] += load(x + k + v * LANES) * load(w + k + v * LANES);
                dst[n] = total(sums) + matrix->bias[n];
            }
        }
    } else if (takes_blas(given, rows, inner, width)) {
        for (size_t i = 0; i < rows; i++)
            memcpy(c + i * above->stride, matrix->bias, above->stride * sizeof *c);
        blas(given, a, below->stride, 0, matrix->value, matrix->stride, 0, c, above->stride, rows,
             inner, above->stride, 1);
    } else {
        Small part = {.a = a, .b = matrix->value, .bias = matrix->bias, .c = c,
                      .a_row = below->stride, .a_inner = 1, .b_stride = matrix->stride,
                      .c_stride = above->stride, .inner = inner};
        small_product(&part, rows, above->stride);
    }
}

/* -- the loss ----------------------------------------------------------------------------------- */

/* -log p of a row's targets under normal distributions, whose variances are the sizes of an out
 * and what is added to them. */
static double lose_gaussian(const Descent *given, const Activity *activities, size_t row,
                            int64_t from, double share) {
    const Activity *means = activities + given->layer_count - 1;
    const Activity *variances = activities + given->variances;
    size_t width = means->width, at = row * means->stride;
    const float *mean = means->out + at, *size = variances->out + at;
    const float *target = (const float *)given->y + (size_t)from * width;
    float *mean_delta = means->delta + at, *size_delta = variances->delta + at;
    double loss = 0;
    for (size_t k = width; k < means->stride; k++) mean_delta[k] = size_delta[k] = 0;
    for (size_t k = 0; k < width; k++) {
        float variance = fabsf(size[k]) + (float)given->added_variance, error = mean[k] - target[k];
        double by = 1 / (double)variance, square = (double)error * error * by;
        int sign = (size[k] > 0) - (size[k] < 0);
        loss += 0.5 * (square + log(variance) + 1.8378770664093453); /* log 2 pi */
        mean_delta[k] = (float)(share * error * by);
        size_delta[k] = (float)(share * 0.5 * (1 - square) * by * sign);
    }
    return share * loss;
}

/* Add a row's share of the loss, and begin its gradient. */
static double lose(const Descent *given, const Activity *activities, size_t row, int64_t from,
                   double share) {
    if (given->loss_kind == GAUSSIAN) return lose_gaussian(given, activities, row, from, share);
    const Activity *last = activities + given->layer_count - 1;
    size_t width = last->width, at = row * last->stride;
    float *delta = last->delta + at;
    double loss = 0;
    for (size_t k = width; k < last->stride; k++) delta[k] = 0;
    if (given->loss_kind == CROSS_ENTROPY) {
        const float *pre = last->pre + at, *p = last->activated + at;
        int64_t class = ((const int64_t *)given->y)[from];
        double largest = pre[0], sum = 0;
        for (size_t k = 1; k < width; k++) largest = pre[k] > largest ? pre[k] : largest;
        for (size_t k = 0; k < width; k++) sum += exp(pre[k] - largest);
        for (size_t k = 0; k < width; k++) delta[k] = (float)share * p[k];
        delta[class] -= (float)share;
        return share * (log(sum) + largest - pre[class]);
    }
    const float *out = last->out + at, *target = (const float *)given->y + (size_t)from * width;
    double each = share / (double)width;
    for (size_t k = 0; k < width; k++) {
        float error = out[k] - target[k];
        if (given->loss_kind == SQUARED_ERROR) {
            loss += (double)error * error;
            delta[k] = (float)(2 * each) * error;
        } else {
            loss += fabs(error);
            delta[k] = (float)each * (float)((error > 0) - (error < 0));
        }
    }
    return each * loss;
}

/* A loss as single precision has it: what does not fit is infinite. */
static double single(double loss) {
    if (fabs(loss) > FLT_MAX) return copysign(INFINITY, loss);
    return (float)loss;
}

/* -- one thread's rows of a batch --------------------------------------------------------------- */

static void punish_outputs(const Descent *given, int32_t layer, const Activity *activity,
                           size_t first, size_t rows, size_t batch, double *totals) {
    for (int32_t i = 0; i < given->penalty_count; i++) {
        const PenaltyTerm *term = given->penalties + i;
        if (term->kind != OUTPUT_L1 || term->layer != layer) continue;
        double sum = 0;
        float by = (float)(term->weight / (double)batch);
        for (size_t row = first; row < first + rows; row++) {
            const float *out = activity->out + row * activity->stride;
            float *delta = activity->delta + row * activity->stride;
            for (size_t k = 0; k < activity->width; k++) {
                sum += fabs(out[k]);
                delta[k] += by * (float)((out[k] > 0) - (out[k] < 0));
            }
        }
        totals[i] += sum * term->weight / (double)batch;
    }
}

static void backward_product(const Crew *crew, int thread, const Matrix *matrix,
                             const Activity *above, const Activity *below, size_t first,
                             size_t rows, int adds) {
    const Descent *given = crew->given;
    const float *a = above->delta + first * above->stride;
    float *c = below->delta + first * below->stride;
    if (!matrix->is_transposed && takes_blas(given, rows, above->width, below->width)) {
        blas(given, a, above->stride, 0, matrix->value, matrix->stride, 1, c, below->stride, rows,
             above->width, below->width, (float)adds);
        for (size_t i = 0; i < rows; i++)
            for (size_t k = below->width; k < below->stride; k++) c[i * below->stride + k] = 0;
        return;
    }
    const float *turned = matrix->value;
    size_t stride = matrix->stride;
    if (!matrix->is_transposed) {
        float *to = crew->scratch[thread];
        stride = below->stride;
        for (size_t k = 0; k < below->width; k++)
            for (size_t n = 0; n < above->width; n++)
                to[n * stride + k] = matrix->value[k * matrix->stride + n];
        for (size_t n = 0; n < above->width; n++)
            for (size_t k = below->width; k < stride; k++) to[n * stride + k] = 0;
        turned = to;
    }
    Small part = {.a = a, .b = turned, .c = c, .a_row = above->stride, .a_inner = 1,
                  .b_stride = stride, .c_stride = below->stride, .inner = above->width,
                  .adds = adds};
    small_product(&part, rows, below->stride);
}

INLINE int64_t source_row(const Descent *given, int64_t at) {
    return given->order ? given->order[at] : at;
}

/* Take rows `first` to `first + rows` of a batch through all layers; nothing is drawn without
 * `dropped`, where it adds up how many elements each site dropped. */
static void forward_rows(const Crew *crew, int thread, int64_t start, size_t first, size_t rows,
                         double *dropped) {
    const Descent *given = crew->given;
    float *scratch = crew->scratch[thread];
    for (int32_t l = 0; l < given->layer_count; l++) {
        const Activity *activity = crew->activities + l;
        const DenseLayer *layer = given->layers + l;
        if (l)
            forward_product(given, crew->matrices + l, crew->activities + layer->source, activity,
                            first, rows);
        for (size_t row = first; row < first + rows; row++) {
            int64_t at = start + (int64_t)row;
            size_t from = row * activity->stride;
            if (l == 0) gather(given, activity, row, source_row(given, at));
            else if (activity->activated != activity->pre) {
                activate_row(activity->activated + from, activity->pre + from, activity->width,
                             layer->activation, NULL, NULL, 0);
                for (size_t k = activity->width; k < activity->stride; k++)
                    activity->activated[from + k] = 0;
            }
            if (!layer->sites) continue;
            if (dropped) act(given, layer, activity, row, given->position + at, scratch, dropped);
            else
                memcpy(activity->out + from, activity->activated + from,
                       activity->stride * sizeof *activity->out);
        }
    }
}

/* Take rows of a batch forward and back; `partial` has room for the loss, the terms of penalties
 * and what each site dropped. */
static void pass_rows(const Crew *crew, int thread, int64_t start, size_t batch, size_t first,
                      size_t rows, double mass, double *partial) {
    const Descent *given = crew->given;
    int32_t last = given->layer_count - 1;
    const Activity *activities = crew->activities;
    double *totals = partial + 2;
    forward_rows(crew, thread, start, first, rows, totals + given->penalty_count);
    for (size_t row = first; row < first + rows; row++) {
        int64_t from = given->order[start + (int64_t)row];
        double share = given->weights ? given->weights[from] / mass : 1.0 / (double)batch;
        partial[0] += lose(given, activities, row, from, share * given->loss_weight);
    }
    for (int32_t l = last; l > 0; l--) {
        const Activity *activity = activities + l;
        const DenseLayer *layer = given->layers + l;
        punish_outputs(given, l, activity, first, rows, batch, totals);
        for (size_t row = first; row < first + rows; row++) {
            size_t from = row * activity->stride;
            float *delta = activity->delta + from;
            if (activity->factor)
                for (size_t k = 0; k < activity->width; k++) delta[k] *= activity->factor[from + k];
            descend_row(delta, activity->pre + from, activity->activated + from, activity->width,
                        layer->activation);
            for (size_t k = activity->width; k < activity->stride; k++) delta[k] = 0;
        }
        if (layer->source > 0)
            backward_product(crew, thread, crew->matrices + l, activity, activities + layer->source,
                             first, rows, layer->adds);
    }
    punish_outputs(given, 0, activities, first, rows, batch, totals);
}

/* -- one thread's rows of the matrices ---------------------------------------------------------- */

static void add_penalties(const Descent *given, int32_t layer, const Matrix *matrix, size_t from,
                          size_t to, double *totals) {
    for (int32_t i = 0; i < given->penalty_count; i++) {
        const PenaltyTerm *term = given->penalties + i;
        if (term->kind == OUTPUT_L1 || term->layer != layer) continue;
        double sum = 0;
        float by = (float)term->weight;
        const float *restrict value = matrix->value;
        float *restrict gradient = matrix->gradient;
        for (size_t k = from; k < to; k += 512) { /* the sums of single precision stay short */
            float part = 0;
            size_t end = least(k + 512, to);
            if (term->kind == L2)
                for (size_t j = k; j < end; j++) {
                    part += value[j] * value[j];
                    gradient[j] += 2 * by * value[j];
                }
            else
                for (size_t j = k; j < end; j++) {
                    part += fabsf(value[j]);
                    gradient[j] += by * (float)((value[j] > 0) - (value[j] < 0));
                }
            sum += part;
        }
        totals[i] += sum * term->weight;
    }
}

/* Rows `first` to `last` of a matrix's gradient. */
static void differentiate(const Crew *crew, const Matrix *matrix, const Activity *below,
                          const Activity *above, size_t batch, size_t first, size_t last) {
    const Descent *given = crew->given;
    size_t rows = last - first, stride = matrix->stride;
    float *c = matrix->gradient + first * stride;
    const Activity *of = matrix->is_transposed ? above : below;
    const float *a = (matrix->is_transposed ? above->delta : below->out) + first;
    const float *b = matrix->is_transposed ? below->out : above->delta;
    size_t b_stride = matrix->is_transposed ? below->stride : above->stride;
    if (takes_blas(given, rows, batch, matrix->columns)) {
        blas(given, a, of->stride, 1, b, b_stride, 0, c, stride, rows, batch, stride, 0);
        return;
    }
    Small part = {.a = a, .b = b, .c = c, .a_row = 1, .a_inner = of->stride, .b_stride = b_stride,
                  .c_stride = stride, .inner = batch};
    small_product(&part, rows, stride);
}

static void sum_columns(const Activity *activity, size_t batch, float *sums) {
    for (size_t k = 0; k < activity->stride; k += LANES) {
        vf sum = all(0);
        for (size_t i = 0; i < batch; i++) sum += load(activity->delta + i * activity->stride + k);
        store(sums + k, sum);
    }
}

/* What one step of the optimizer needs beside the numbers themselves. */
typedef struct {
    float rate, a, b, epsilon, decay, root;
    int kind;
    double factor; /* of gradients that are clipped */
} Update;

static Update update_of(const Descent *given, int64_t step) {
    const double *option = given->options;
    double count = (double)(given->steps_before + step + 1), rate = given->rates[step];
    Update update = {.kind = given->optimizer, .rate = (float)rate, .a = (float)option[0],
                     .b = (float)option[1], .epsilon = (float)option[2], .factor = 1};
    if (update.kind == ADAM || update.kind == ADAMW) {
        update.rate = (float)(rate / (1 - pow(option[0], count)));
        update.root = (float)(1 / sqrt(1 - pow(option[1], count)));
        update.decay = (float)(1 - rate * option[3]);
    }
    return update;
}

/* Move `count` numbers. The formulas are PyTorch's; what the memories are called there is told. */
static void move(const Update *update, float *restrict value, const float *restrict gradient,
                 float *const *memory, size_t from, size_t to) {
    const float rate = update->rate, a = update->a, b = update->b, epsilon = update->epsilon;
    float *restrict one = memory[0], *restrict two = memory[1], *restrict three = memory[2];
    switch (update->kind) {
    case SGD:
    case NESTEROV:
        if (!one)
            for (size_t k = from; k < to; k++) value[k] -= rate * gradient[k];
        else if (update->kind == SGD)
            for (size_t k = from; k < to; k++) { /* momentum_buffer */
                one[k] = a * one[k] + gradient[k];
                value[k] -= rate * one[k];
            }
        else
            for (size_t k = from; k < to; k++) {
                one[k] = a * one[k] + gradient[k];
                value[k] -= rate * (gradient[k] + a * one[k]);
            }
        break;
    case ADAM:
    case ADAMW: {
        const float root = update->root, decay = update->kind == ADAMW ? update->decay : 1;
        for (size_t k = from; k < to; k++) { /* exp_avg, exp_avg_sq */
            float g = gradient[k];
            one[k] = one[k] + (1 - a) * (g - one[k]);
            two[k] = b * two[k] + (1 - b) * (g * g);
            value[k] = value[k] * decay - rate * one[k] / (sqrtf(two[k]) * root + epsilon);
        }
        break;
    }
    case RMSPROP:
        for (size_t k = from; k < to; k++) { /* square_avg, momentum_buffer, grad_avg */
            float g = gradient[k], spread;
            one[k] = a * one[k] + (1 - a) * (g * g);
            spread = one[k];
            if (three) {
                three[k] = three[k] + (1 - a) * (g - three[k]);
                spread = spread - three[k] * three[k];
            }
            float moved = g / (sqrtf(spread) + epsilon);
            if (two) moved = two[k] = b * two[k] + moved;
            value[k] -= rate * moved;
        }
        break;
    case ADAGRAD:
        for (size_t k = from; k < to; k++) { /* sum */
            one[k] += gradient[k] * gradient[k];
            value[k] -= rate * (gradient[k] / (sqrtf(one[k]) + epsilon));
        }
        break;
    case ADADELTA:
        for (size_t k = from; k < to; k++) { /* square_avg, acc_delta */
            float g = gradient[k];
            one[k] = a * one[k] + (1 - a) * (g * g);
            float moved = sqrtf(two[k] + epsilon) / sqrtf(one[k] + epsilon) * g;
            two[k] = a * two[k] + (1 - a) * (moved * moved);
            value[k] -= rate * moved;
        }
        break;
    }
}

static double size_of(const float *gradient, size_t from, size_t to) {
    double sum = 0;
    for (size_t k = from; k < to; k += 512) {
        float part = 0;
        for (size_t j = k; j < least(k + 512, to); j++) part += gradient[j] * gradient[j];
        sum += part;
    }
    return sum;
}

static void clip(float *gradient, size_t from, size_t to, float factor) {
    for (size_t k = from; k < to; k++) gradient[k] *= factor;
}

/* Which rows of a matrix a thread takes: all of one that is too small to share. */
static void share_of(size_t rows, int thread, int threads, size_t *first, size_t *last) {
    if (rows < (size_t)threads * 8) {
        *first = 0;
        *last = thread == threads - 1 ? rows : 0;
        return;
    }
    size_t each = (rows + (size_t)threads - 1) / (size_t)threads;
    *first = least(rows, each * (size_t)thread);
    *last = least(rows, *first + each);
}

/* -- the crew ----------------------------------------------------------------------------------- */

static void wait_while(atomic_int *value, int same) {
    for (int spins = 0; atomic_load(value) == same; spins++)
        if (spins > 2000) sched_yield();
}

static void meet(Crew *crew, int threads) {
    if (threads == 1) return;
    int round = atomic_load(&crew->round);
    if (atomic_fetch_add(&crew->arrived, 1) + 1 == threads) {
        atomic_store(&crew->arrived, 0);
        atomic_store(&crew->round, round + 1);
    } else wait_while(&crew->round, round);
}

static double sum_of(const Crew *crew, int threads, size_t quantity) {
    double sum = 0;
    for (int t = 0; t < threads; t++) sum += crew->partial[(size_t)t * crew->quantities + quantity];
    return sum;
}

/* The gradient of a thread's rows of all matrices, or with `update` what becomes of them. */
static void take_matrices(const Crew *crew, int thread, int threads, size_t batch,
                          double *partial, int computes, const Update *update) {
    const Descent *given = crew->given;
    for (int32_t l = given->layer_count - 1; l > 0; l--) {
        const Matrix *matrix = crew->matrices + l;
        const Activity *above = crew->activities + l;
        const Activity *below = crew->activities + given->layers[l].source;
        size_t first, last, width = above->stride;
        share_of(matrix->rows, thread, threads, &first, &last);
        size_t from = first * matrix->stride, to = last * matrix->stride;
        int has_bias = thread == threads - 1;
        if (computes) {
            if (first < last) {
                differentiate(crew, matrix, below, above, batch, first, last);
                add_penalties(given, l, matrix, from, to, partial + 2);
            }
            if (has_bias) sum_columns(above, batch, matrix->bias_gradient);
            if (!update) {
                partial[1] += size_of(matrix->gradient, from, to);
                if (has_bias) partial[1] += size_of(matrix->bias_gradient, 0, width);
            }
        }
        if (!update) continue;
        if (update->factor < 1) {
            clip(matrix->gradient, from, to, (float)update->factor);
            if (has_bias) clip(matrix->bias_gradient, 0, width, (float)update->factor);
        }
        move(update, matrix->value, matrix->gradient, matrix->memory, from, to);
        if (has_bias)
            move(update, matrix->bias, matrix->bias_gradient, matrix->bias_memory, 0, width);
    }
}

typedef struct {
    Crew *crew;
    int thread;
} Member;

static double mass_of(const Descent *given, int64_t start, size_t batch) {
    double mass = 0;
    if (!given->weights) return (double)batch;
    for (size_t i = 0; i < batch; i++) mass += given->weights[source_row(given, start + (int64_t)i)];
    return mass > 1.17549435e-38 ? mass : 1.17549435e-38;
}

static void *descend(void *argument) {
    const Member *member = argument;
    Crew *crew = member->crew;
    Descent *given = (Descent *)crew->given;
    wait_while(&crew->threads, 0);
    int thread = member->thread, threads = atomic_load(&crew->threads);
    int before = given->set_threads ? given->set_threads(1) : 0;
    double *partial = crew->partial + (size_t)thread * crew->quantities;
    int64_t step = 0;
    for (int64_t start = 0; start < given->rows; start += given->batch, step++) {
        size_t batch = least((size_t)given->batch, (size_t)(given->rows - start)), first, last;
        for (size_t i = 0; i < crew->quantities; i++) partial[i] = 0;
        share_of(batch, thread, threads, &first, &last);
        if (first < last)
            pass_rows(crew, thread, start, batch, first, last - first,
                      mass_of(given, start, batch), partial);
        meet(crew, threads);
        double loss = sum_of(crew, threads, 0);
        if (!isfinite(single(loss))) {
            if (thread == 0) given->bad_loss = single(loss);
            break;
        }
        Update update = update_of(given, step);
        if (given->clip > 0) {
            take_matrices(crew, thread, threads, batch, partial, 1, NULL);
            meet(crew, threads);
            double norm = sqrt(sum_of(crew, threads, 1));
            update.factor = norm > given->clip ? given->clip / norm : 1;
            take_matrices(crew, thread, threads, batch, partial, 0, &update);
        } else
            take_matrices(crew, thread, threads, batch, partial, 1, &update);
        meet(crew, threads);
        if (thread == 0) {
            for (int32_t i = 0; i < given->penalty_count; i++) {
                double term = sum_of(crew, threads, 2 + (size_t)i);
                given->penalties[i].total += term * (double)batch;
                loss += term;
            }
            for (int32_t i = 0; i < given->site_count; i++)
                given->sites[i].dropped +=
                    (int64_t)sum_of(crew, threads, 2 + (size_t)(given->penalty_count + i));
            given->loss += loss * (double)batch;
        }
        meet(crew, threads); /* the sums are read before they begin anew */
    }
    if (given->set_threads) given->set_threads(before);
    return NULL;
}

/* -- room --------------------------------------------------------------------------------------- */

static float *floats(void **at, size_t count) { return claimed(at, count * sizeof(float)); }

static void lay_matrix(const Descent *given, int32_t l, Matrix *matrix, void **at) {
    const DenseLayer *layer = given->layers + l;
    size_t inputs = (size_t)given->layers[layer->source].width, outputs = (size_t)layer->width;
    matrix->is_transposed = outputs < 16 && inputs > outputs;
    matrix->rows = matrix->is_transposed ? outputs : inputs;
    matrix->columns = matrix->is_transposed ? inputs : outputs;
    matrix->stride = padded(matrix->columns);
    matrix->is_copy = matrix->is_transposed || outputs % COLUMNS_OF;
    size_t count = matrix->rows * matrix->stride;
    matrix->gradient = floats(at, count);
    matrix->bias_gradient = floats(at, padded(outputs));
    matrix->bias = given->parameters + layer->bias;
    matrix->value = matrix->is_copy ? floats(at, count) : given->parameters + layer->weight;
    for (int k = 0; k < 3; k++) {
        float *memory = given->memory[k];
        matrix->bias_memory[k] = memory ? memory + layer->bias : NULL;
        matrix->memory[k] = !memory ? NULL : matrix->is_copy ? floats(at, count)
                                                             : memory + layer->weight;
    }
}

static void lay_activity(const Descent *given, int32_t l, Activity *activity, void **at) {
    const DenseLayer *layer = given->layers + l;
    activity->width = (size_t)layer->width;
    activity->stride = padded(activity->width);
    size_t count = (size_t)given->batch * activity->stride;
    activity->activated = floats(at, count);
    activity->pre = l && layer->activation != LINEAR ? floats(at, count) : activity->activated;
    activity->out = layer->sites ? floats(at, count) : activity->activated;
    activity->delta = floats(at, count);
    activity->factor = NULL;
    for (int32_t i = 0; i < layer->sites; i++)
        if (given->sites[layer->first_site + i].kind == DROPOUT_SITE && !activity->factor)
            activity->factor = floats(at, count);
}

/* Lay out the crew in the given room, or with none only count its bytes. */
static size_t lay_crew(const Descent *given, Crew *crew, void *room, Matrix *matrices,
                       Activity *activities) {
    void *at = room;
    size_t most = 0, widest = 0, layers = (size_t)given->layer_count;
    crew->given = given;
    crew->matrices = room ? claimed(&at, layers * sizeof *matrices) : matrices;
    crew->activities = room ? claimed(&at, layers * sizeof *activities) : activities;
    if (!room) at = (char *)at + (layers * sizeof *matrices + ALIGN) / ALIGN * ALIGN +
                    (layers * sizeof *activities + ALIGN) / ALIGN * ALIGN;
    for (int32_t l = 0; l < given->layer_count; l++) {
        /* Without room the same places are used for all layers: only their sizes count. */
        Matrix *matrix = crew->matrices + (room ? l : 0);
        Activity *activity = crew->activities + (room ? l : 0);
        lay_activity(given, l, activity, &at);
        widest = activity->stride > widest ? activity->stride : widest;
        if (l == 0) continue;
        lay_matrix(given, l, matrix, &at);
        const DenseLayer *layer = given->layers + l;
        size_t turned = padded((size_t)given->layers[layer->source].width) * (size_t)layer->width;
        most = turned > most ? turned : most;
    }
    crew->quantities = 2 + (size_t)given->penalty_count + (size_t)given->site_count;
    crew->quantities = (crew->quantities + 7) / 8 * 8;
    crew->partial = claimed(&at, (size_t)given->threads * crew->quantities * sizeof(double));
    float **scratch = claimed(&at, (size_t)given->threads * sizeof *scratch);
    if (room) crew->scratch = scratch;
    for (int t = 0; t < given->threads; t++) {
        float *own = floats(&at, most + 2 * widest);
        if (room) crew->scratch[t] = own;
    }
    return (size_t)((char *)at - (char *)room);
}

PUBLIC int64_t bernoulli_descent_bytes(const Descent *given) {
    Crew crew;
    Matrix matrix;
    Activity activity;
    return (int64_t)lay_crew(given, &crew, NULL, &matrix, &activity);
}

/* Copy between a buffer of all parameters and the copies of the matrices that have one. */
static void copy_matrix(const Matrix *matrix, float *copy, float *buffer, int back) {
    for (size_t r = 0; r < matrix->rows; r++) {
        for (size_t c = 0; c < matrix->columns; c++) {
            float *in = copy + r * matrix->stride + c;
            float *out = buffer + (matrix->is_transposed ? c * matrix->rows + r
                                                         : r * matrix->columns + c);
            if (back) *out = *in;
            else *in = *out;
        }
        for (size_t c = matrix->columns; !back && c < matrix->stride; c++)
            copy[r * matrix->stride + c] = 0;
    }
}

static void copy_matrices(const Crew *crew, int back) {
    const Descent *given = crew->given;
    for (int32_t l = 1; l < given->layer_count; l++) {
        const Matrix *matrix = crew->matrices + l;
        int64_t at = given->layers[l].weight;
        if (!matrix->is_copy) continue;
        copy_matrix(matrix, matrix->value, given->parameters + at, back);
        for (int k = 0; k < 3; k++)
            if (matrix->memory[k]) copy_matrix(matrix, matrix->memory[k], given->memory[k] + at, back);
    }
}

/* Take the steps of a block; return whether a loss was not finite. */
PUBLIC int32_t bernoulli_descend(Descent *given) {
    Crew crew;
    Member members[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    memset(&crew, 0, sizeof crew);
    lay_crew(given, &crew, given->room, NULL, NULL);
    copy_matrices(&crew, 0);
    given->bad_loss = 0;
    int begun = 1;
    for (; begun < given->threads; begun++) {
        members[begun] = (Member){.crew = &crew, .thread = begun};
        if (pthread_create(threads + begun, NULL, descend, members + begun)) break;
    }
    atomic_store(&crew.threads, begun); /* where there is no room for more, fewer do it all */
    members[0] = (Member){.crew = &crew, .thread = 0};
    descend(members);
    for (int t = 1; t < begun; t++) pthread_join(threads[t], NULL);
    copy_matrices(&crew, 1);
    return given->bad_loss != 0;
}

typedef struct {
    Descent **given;
    int32_t count;
    atomic_int next; /* the first that nobody has taken */
    int begun;
    pthread_t threads[MOST_THREADS];
} Descents;

static void *descend_in_turn(void *argument) {
    Descents *all = argument;
    int mine;
    while ((mine = atomic_fetch_add(&all->next, 1)) < all->count) bernoulli_descend(all->given[mine]);
    return NULL;
}

PUBLIC int64_t bernoulli_descents_bytes(void) { return (int64_t)sizeof(Descents); }

/* Begin to take the steps of blocks of several networks, each on one of so many threads. */
PUBLIC void bernoulli_begin_descents(Descents *all, Descent **given, int32_t count,
                                     int32_t threads) {
    all->given = given;
    all->count = count;
    all->begun = 0;
    atomic_init(&all->next, 0);
    while (all->begun < threads && all->begun < count && all->begun < MOST_THREADS &&
           !pthread_create(all->threads + all->begun, NULL, descend_in_turn, all))
        all->begun++;
}

/* Wait until all are done, with what no thread has taken done here. */
PUBLIC void bernoulli_end_descents(Descents *all) {
    descend_in_turn(all);
    for (int t = 0; t < all->begun; t++) pthread_join(all->threads[t], NULL);
}

/* Take all rows through the layers as they are, with no order and nothing drawn: write what comes
 * out, (rows, outputs), and the loss. */
PUBLIC void bernoulli_measure(Descent *given, float *outputs) {
    Crew crew;
    memset(&crew, 0, sizeof crew);
    lay_crew(given, &crew, given->room, NULL, NULL);
    copy_matrices(&crew, 0);
    const Activity *last = crew.activities + given->layer_count - 1;
    double mass = mass_of(given, 0, (size_t)given->rows), loss = 0;
    for (int64_t start = 0; start < given->rows; start += given->batch) {
        size_t rows = least((size_t)given->batch, (size_t)(given->rows - start));
        forward_rows(&crew, 0, start, 0, rows, NULL);
        for (size_t row = 0; row < rows; row++) {
            int64_t at = start + (int64_t)row;
            double share = (given->weights ? given->weights[at] : 1.0) / mass;
            loss += lose(given, crew.activities, row, at, share * given->loss_weight);
            memcpy(outputs + (size_t)at * last->width, last->out + row * last->stride,
                   last->width * sizeof *outputs);
        }
    }
    given->loss = single(loss);
}

PUBLIC int64_t bernoulli_descent_layout(void) {
    return (int64_t)(sizeof(DenseLayer) << 48 | sizeof(DrawingSite) << 32 |
                     sizeof(PenaltyTerm) << 16 | sizeof(Descent));
}
