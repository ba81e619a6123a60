/* Recurrence of LSTM layers with peepholes: a batch of sequences step by step, and the way back.
 *
 * Each thread takes some rows of the batch, a tile of them at a time, through all steps; on the way
 * back it has sums of its own for the weights, which are added up thread by thread. What is known
 * of several steps at once is computed for a block of steps while it is in the second-level cache:
 * forward what the inputs drive, back the gradients of weights and inputs. Only products with the
 * last step's output stand within a step. Units are padded to whole vectors, whose weights are 0
 * and whose states stay 0. Numbers depend on the batch and on how many threads share it, and on
 * nothing else. Included by kernels.c.
 */

#define TILE_ROWS 48   /* at most */
#define BLOCK_ROWS 96  /* rows times steps of a block, about */
#define SPREAD 16      /* between rows, so that they do not lie in the same few sets of a cache */

enum { ENTERS, FORGETS, NEW, LEAVES, GATES };               /* as the weights' columns stand */
enum { VALUE = GATES, SAVED };                              /* of a step: gates, and the cell */
enum { PEEP_ENTERS, PEEP_FORGETS, PEEP_LEAVES, PEEPHOLES }; /* diagonals */

typedef struct {
    const float *x;                    /* (rows, steps, inputs) */
    const float *xh, *hh, *bias;       /* (inputs, 4 size), (size, 4 size), (4 size,) */
    const float *peephole[PEEPHOLES];  /* (size,) */
    const float *h_0, *c_0;            /* (rows, size), or none for zeros */
    float *out, *cell;                 /* (rows, steps, size); the way back reads `out` */
    float *saved;                      /* (steps, rows, SAVED, padded size), for the way back */
    const float *out_slope, *cell_slope; /* gradients by `out` and `cell`, or none for zeros */
    float *x_slope, *h_0_slope, *c_0_slope; /* those wanted; none of what is not */
    float *xh_slope, *hh_slope, *bias_slope, *peephole_slope[PEEPHOLES];
    void *room; /* of bernoulli_lstm_bytes, aligned */
    int64_t rows, steps, inputs, size;
    int64_t limit; /* no gradient passes steps that are multiples of it; 0 for none */
    int32_t threads, unused;
} Recurrence;

/* The layer's weights as products read them, in panels, and sizes with their padding. */
typedef struct {
    const Recurrence *given;
    size_t size, inputs, width; /* of a padded gate, of padded inputs, of all gates */
    size_t gate_stride, unit_stride, input_stride;
    float *xh, *hh, *bias, *zeros, *peephole[PEEPHOLES]; /* bias: of the way forward */
    float *hh_turned, *xh_turned; /* of the way back */
    int backwards;
} Cells;

/* What a thread holds of a tile; rows of blocks stand step by step. */
typedef struct {
    const Cells *cells;
    size_t first, last;          /* rows of the batch that are the thread's */
    float *state, *value;        /* of a step: the output and the cell, or their gradients */
    float *gates;                /* of a block, or of a step their gradients */
    float *x;                    /* of a block */
    float *first_value;          /* the cell before the first step */
    float *panels, *before;      /* of a block: gradients of the gates, and outputs before */
    float *x_slope;              /* of a block */
    float *row;                  /* inputs and a one, with which the bias is a row of weights */
    float *xh_sum, *hh_sum, *peephole_sum[PEEPHOLES]; /* side by side; the bias is of that one */
    float *end;                                       /* of the sums */
} Share;

/* -- weights in panels -------------------------------------------------------------------------- */

INLINE void pad_vector(float *padded, const float *vector, size_t size, size_t room) {
    memcpy(padded, vector, size * sizeof *padded);
    for (size_t k = size; k < room; k++) padded[k] = 0;
}

/* Put (inner, gates, size) into panels of `inner` rows, each gate padded. */
static void pack_gates(const Cells *cells, float *panels, const float *weight, size_t inner) {
    size_t size = (size_t)cells->given->size;
    for (size_t gate = 0; gate < GATES; gate++)
        for (size_t unit = 0; unit < cells->size; unit += COLUMNS_OF) {
            size_t column = gate * cells->size + unit, some = least(COLUMNS_OF, size - unit);
            float *panel = panels + column / PANEL * PANEL * inner + column % PANEL;
            for (size_t k = 0; k < inner; k++)
                pad_vector(panel + k * PANEL, weight + (k * GATES + gate) * size + unit, some,
                           COLUMNS_OF);
        }
}

/* Put its transpose into panels; there are `columns` columns, those beyond `inner` zeros. */
static void pack_turned(const Cells *cells, float *panels, const float *weight, size_t inner,
                        size_t columns) {
    size_t size = (size_t)cells->given->size;
    memset(panels, 0, columns * cells->width * sizeof *panels);
    for (size_t start = 0; start < inner; start += PANEL)
        for (size_t gate = 0; gate < GATES; gate++)
            for (size_t unit = 0; unit < size; unit += PANEL) { /* a square stays in the cache */
                size_t row = gate * cells->size + unit, some = least(PANEL, size - unit);
                float *to = panels + start * cells->width + row * PANEL;
                for (size_t k = 0; k < least(PANEL, inner - start); k++) {
                    const float *from = weight + ((start + k) * GATES + gate) * size + unit;
                    for (size_t u = 0; u < some; u++) to[u * PANEL + k] = from[u];
                }
            }
}

static void pack(const Cells *cells) {
    const Recurrence *given = cells->given;
    size_t size = (size_t)given->size;
    for (int p = 0; p < PEEPHOLES; p++)
        pad_vector(cells->peephole[p], given->peephole[p], size, cells->size);
    memset(cells->zeros, 0, cells->width * sizeof *cells->zeros);
    if (cells->backwards) {
        pack_turned(cells, cells->hh_turned, given->hh, size, rounded(size));
        if (given->x_slope)
            pack_turned(cells, cells->xh_turned, given->xh, (size_t)given->inputs, cells->inputs);
        return;
    }
    pack_gates(cells, cells->xh, given->xh, (size_t)given->inputs);
    pack_gates(cells, cells->hh, given->hh, size);
    for (size_t gate = 0; gate < GATES; gate++)
        pad_vector(cells->bias + gate * cells->size, given->bias + gate * size, size, cells->size);
}

/* -- a tile's rows and steps -------------------------------------------------------------------- */

/* Which rows and which steps of them are in hand. */
typedef struct {
    size_t row, rows, step, steps;
} Span;

/* Gather or scatter a block's numbers: `block` has a row for each step's each row. */
static void gather_block(float *block, size_t stride, const float *rows, size_t width,
                         const Span *span, size_t steps) {
    for (size_t r = 0; r < span->rows; r++)
        for (size_t s = 0; s < span->steps; s++)
            memcpy(block + (s * span->rows + r) * stride,
                   rows + ((span->row + r) * steps + span->step + s) * width,
                   width * sizeof *block);
}

static void scatter_block(float *rows, size_t width, const float *block, size_t stride,
                          const Span *span, size_t steps) {
    for (size_t r = 0; r < span->rows; r++)
        for (size_t s = 0; s < span->steps; s++)
            memcpy(rows + ((span->row + r) * steps + span->step + s) * width,
                   block + (s * span->rows + r) * stride, width * sizeof *block);
}

/* Begin a state of the tile: the given rows, or zeros. */
static void begin_state(const Share *share, float *state, const float *given, const Span *span) {
    size_t size = (size_t)share->cells->given->size, stride = share->cells->unit_stride;
    memset(state, 0, span->rows * stride * sizeof *state);
    for (size_t r = 0; given && r < span->rows; r++)
        memcpy(state + r * stride, given + (span->row + r) * size, size * sizeof *state);
}

/* Where what a row saved of a step begins. */
INLINE float *saved_row(const Cells *cells, size_t step, size_t row) {
    return cells->given->saved +
           (step * (size_t)cells->given->rows + row) * SAVED * cells->size;
}

/* -- functions ---------------------------------------------------------------------------------- */

INLINE vf bounded(vf x, float low, float high) { /* what is not a number stays so */
#if LANES == 16
    return (vf)_mm512_max_ps(_mm512_set1_ps(low), _mm512_min_ps(_mm512_set1_ps(high), (__m512)x));
#elif LANES == 8
    return (vf)_mm256_max_ps(_mm256_set1_ps(low), _mm256_min_ps(_mm256_set1_ps(high), (__m256)x));
#else
    return clamped(x, low, high);
#endif
}

/* 1 / x, to a unit of the last place, of what is neither tiny nor infinite. */
INLINE vf reciprocal(vf x) {
#if LANES == 16
    vf near = (vf)_mm512_rcp14_ps((__m512)x);
    return near + near * (1.0f - x * near); /* Newton's step */
#else
    return 1.0f / x;
#endif
}

/* e^x - 1 = part * scale + scale - 1, for -87 <= x <= 88; Cody & Waite's reduction as above. */
INLINE vf exponential_part(vf x, vf *scale) {
    vf n = x * 1.44269504f + 12582912.0f; /* the whole number stands in the last bits */
    *scale = (vf)(((vi)n << 23) + 0x3F800000);
    n = n - 12582912.0f;
    vf r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vf p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r;
}

/* The logistic function; what is below 1e-38 may be that. */
INLINE vf gate_of(vf x) {
    vf scale, part = exponential_part(bounded(-x, -87.0f, 88.0f), &scale);
    return reciprocal(part * scale + (scale + 1.0f));
}

/* The hyperbolic tangent, of small numbers too to a few units of their last place. */
INLINE vf squashed(vf x) {
    vf scale, part = exponential_part(bounded(x + x, -20.0f, 20.0f), &scale);
    vf less_one = part * scale + (scale - 1.0f);
    return less_one * reciprocal(less_one + 2.0f);
}

/* -- forward ------------------------------------------------------------------------------------ */

/* One row through a step: `gates` are what they are before they are squashed. The functions stand
 * in two loops, so that a processor finds enough of them that do not wait for each other. */
static void cell_forward(const Cells *cells, const float *gates, float *state, float *value,
                         float *saved) {
    const size_t size = cells->size;
    for (size_t k = 0; k < size; k += LANES) {
        vf before = load(value + k);
        store(saved + ENTERS * size + k,
              gate_of(load(gates + ENTERS * size + k) +
                      before * load(cells->peephole[PEEP_ENTERS] + k)));
        store(saved + FORGETS * size + k,
              gate_of(load(gates + FORGETS * size + k) +
                      before * load(cells->peephole[PEEP_FORGETS] + k)));
        store(saved + NEW * size + k, squashed(load(gates + NEW * size + k)));
    }
    for (size_t k = 0; k < size; k += LANES) {
        vf now = load(saved + FORGETS * size + k) * load(value + k) +
                 load(saved + ENTERS * size + k) * load(saved + NEW * size + k);
        vf leaves = gate_of(load(gates + LEAVES * size + k) +
                            now * load(cells->peephole[PEEP_LEAVES] + k));
        store(saved + LEAVES * size + k, leaves);
        store(saved + VALUE * size + k, now);
        store(value + k, now);
        store(state + k, leaves * squashed(now));
    }
}

static void step_forward(const Share *share, const Span *span, size_t s) {
    const Cells *cells = share->cells;
    const Recurrence *given = cells->given;
    size_t size = (size_t)given->size, stride = cells->unit_stride, steps = (size_t)given->steps;
    float *gates = share->gates + s * span->rows * cells->gate_stride;
    if (span->step + s || given->h_0) {
        Part part = {.a = share->state, .b = cells->hh, .c = gates, .a_stride = stride,
                     .c_stride = cells->gate_stride, .count = size};
        multiply(&part, span->rows, size, cells->width);
    }
    for (size_t r = 0; r < span->rows; r++) {
        size_t row = span->row + r, at = (row * steps + span->step + s) * size;
        float *state = share->state + r * stride, *value = share->value + r * stride;
        cell_forward(cells, gates + r * cells->gate_stride, state, value,
                     saved_row(cells, span->step + s, row));
        memcpy(given->out + at, state, size * sizeof *state);
        memcpy(given->cell + at, value, size * sizeof *value);
    }
}

static void tile_forward(const Share *share, Span span) {
    const Cells *cells = share->cells;
    const Recurrence *given = cells->given;
    size_t steps = (size_t)given->steps, inputs = (size_t)given->inputs;
    size_t most = BLOCK_ROWS / span.rows ? BLOCK_ROWS / span.rows : 1;
    begin_state(share, share->state, given->h_0, &span);
    begin_state(share, share->value, given->c_0, &span);
    for (span.step = 0; span.step < steps; span.step += span.steps) {
        span.steps = least(most, steps - span.step);
        gather_block(share->x, cells->input_stride, given->x, inputs, &span, steps);
        Part part = {.a = share->x, .b = cells->xh, .c = share->gates, .bias = cells->bias,
                     .a_stride = cells->input_stride, .c_stride = cells->gate_stride,
                     .count = inputs};
        multiply(&part, span.rows * span.steps, inputs, cells->width);
        for (size_t s = 0; s < span.steps; s++) step_forward(share, &span, s);
    }
}

/* -- back --------------------------------------------------------------------------------------- */

INLINE void add(float *sum, vf part) { store(sum, load(sum) + part); }

/* Take the gradients of a step's output and cell, of one row, to those of the gates and of the cell
 * before it, which was `before`. Those of the gates go to `gates` and to the block's panels. */
static void cell_back(const Share *share, size_t r, const float *saved, const float *before,
                      float *panels, size_t panel) {
    const Cells *cells = share->cells;
    const size_t size = cells->size;
    float *state = share->state + r * cells->unit_stride;
    float *value = share->value + r * cells->unit_stride;
    float *gates = share->gates + r * cells->gate_stride;
    for (size_t k = 0; k < size; k += LANES) {
        vf enters = load(saved + ENTERS * size + k), forgets = load(saved + FORGETS * size + k);
        vf new = load(saved + NEW * size + k), leaves = load(saved + LEAVES * size + k);
        vf now = load(saved + VALUE * size + k), then = load(before + k);
        vf slope = load(state + k), out = squashed(now), to[GATES];
        to[LEAVES] = slope * out * leaves * (1.0f - leaves);
        vf cell = load(value + k) + to[LEAVES] * load(cells->peephole[PEEP_LEAVES] + k) +
                  slope * leaves * (1.0f - out * out);
        to[ENTERS] = cell * new * enters * (1.0f - enters);
        to[FORGETS] = cell * then * forgets * (1.0f - forgets);
        to[NEW] = cell * enters * (1.0f - new * new);
        store(value + k, cell * forgets + to[ENTERS] * load(cells->peephole[PEEP_ENTERS] + k) +
                             to[FORGETS] * load(cells->peephole[PEEP_FORGETS] + k));
        UNROLLED for (size_t gate = 0; gate < GATES; gate++) {
            size_t column = gate * size + k;
            store(gates + column, to[gate]);
            store(panels + column / PANEL * panel + column % PANEL, to[gate]);
        }
        add(share->peephole_sum[PEEP_ENTERS] + k, to[ENTERS] * then);
        add(share->peephole_sum[PEEP_FORGETS] + k, to[FORGETS] * then);
        add(share->peephole_sum[PEEP_LEAVES] + k, to[LEAVES] * now);
    }
}

/* Add the gradients that a step's outputs got from without. */
static void add_slopes(const Share *share, const Span *span, size_t step, float *to,
                       const float *slope) {
    const Recurrence *given = share->cells->given;
    size_t size = (size_t)given->size, steps = (size_t)given->steps;
    for (size_t r = 0; slope && r < span->rows; r++) {
        const float *restrict from = slope + ((span->row + r) * steps + step) * size;
        float *restrict sum = to + r * share->cells->unit_stride;
        for (size_t k = 0; k < size; k++) sum[k] += from[k];
    }
}

/* The same of all rows of a tile. */
static void cells_back(const Share *share, const Span *span, size_t s) {
    const Cells *cells = share->cells;
    size_t step = span->step + s, panel = span->rows * span->steps * PANEL;
    for (size_t r = 0; r < span->rows; r++) {
        size_t row = span->row + r;
        const float *before = step ? saved_row(cells, step - 1, row) + VALUE * cells->size
                                   : share->first_value + r * cells->unit_stride;
        cell_back(share, r, saved_row(cells, step, row), before,
                  share->panels + (s * span->rows + r) * PANEL, panel);
    }
}

static void step_back(const Share *share, const Span *span, size_t s) {
    const Cells *cells = share->cells;
    const Recurrence *given = cells->given;
    size_t step = span->step + s, stride = cells->unit_stride;
    add_slopes(share, span, step, share->state, given->out_slope);
    add_slopes(share, span, step, share->value, given->cell_slope);
    cells_back(share, span, s);
    if (given->limit && step && step % (size_t)given->limit == 0) {
        memset(share->state, 0, span->rows * stride * sizeof *share->state);
        memset(share->value, 0, span->rows * stride * sizeof *share->value);
        return;
    }
    if (!step && !given->h_0_slope) return;
    Part part = {.a = share->gates, .b = cells->hh_turned, .c = share->state, .bias = cells->zeros,
                 .a_stride = cells->gate_stride, .c_stride = stride, .count = cells->width};
    multiply(&part, span->rows, cells->width, padded((size_t)given->size));
}

/* Lay a row's numbers among the `count` rows of a block so that MOST_ROWS columns stand together. */
static void lay_in_tiles(float *tiles, const float *row, size_t width, size_t at, size_t count) {
    for (size_t k = 0; k < width; k += MOST_ROWS) {
        size_t some = least(MOST_ROWS, width - k);
        for (size_t i = 0; i < some; i++) tiles[k * count + at * some + i] = row[k + i];
    }
}

/* The inputs of a block, and the outputs before each of its steps. */
static void recall_block(const Share *share, const Span *span) {
    const Cells *cells = share->cells;
    const Recurrence *given = cells->given;
    size_t size = (size_t)given->size, inputs = (size_t)given->inputs;
    size_t steps = (size_t)given->steps, count = span->rows * span->steps;
    for (size_t s = 0; s < span->steps; s++)
        for (size_t r = 0; r < span->rows; r++) {
            size_t step = span->step + s, row = span->row + r, at = s * span->rows + r;
            const float *before = cells->zeros;
            if (step) before = given->out + (row * steps + step - 1) * size;
            else if (given->h_0) before = given->h_0 + row * size;
            lay_in_tiles(share->before, before, size, at, count);
            memcpy(share->row, given->x + (row * steps + step) * inputs, inputs * sizeof(float));
            share->row[inputs] = 1;
            lay_in_tiles(share->x, share->row, inputs + 1, at, count);
        }
}

/* c (width, PANEL) += the transpose of tiles (inner, width) times a panel (inner, PANEL). */
static void add_product(float *c, size_t stride, const float *tiles, const float *panel,
                        size_t width, size_t inner) {
    for (size_t k = 0; k < width; k += MOST_ROWS) {
        size_t some = least(MOST_ROWS, width - k);
        Small part = {.a = tiles + k * inner, .b = panel, .c = c + k * stride, .a_row = 1,
                      .a_inner = some, .b_stride = PANEL, .c_stride = stride, .inner = inner,
                      .adds = 1};
        small_product(&part, some, PANEL);
    }
}

/* Add a block's part to the gradients of the weights, and find those of its inputs. */
static void block_back(const Share *share, const Span *span) {
    const Cells *cells = share->cells;
    const Recurrence *given = cells->given;
    size_t inputs = (size_t)given->inputs, rows = span->rows * span->steps;
    recall_block(share, span);
    for (size_t column = 0; column < cells->width; column += PANEL) {
        const float *panel = share->panels + column * rows;
        add_product(share->hh_sum + column, cells->gate_stride, share->before, panel,
                    (size_t)given->size, rows);
        add_product(share->xh_sum + column, cells->gate_stride, share->x, panel, inputs + 1, rows);
        if (!given->x_slope) continue;
        Part back = {.a = panel, .b = cells->xh_turned + column * PANEL, .c = share->x_slope,
                     .bias = column ? NULL : cells->zeros, .a_stride = PANEL,
                     .c_stride = cells->input_stride, .count = PANEL};
        multiply(&back, rows, cells->width, padded(inputs));
    }
    if (given->x_slope)
        scatter_block(given->x_slope, inputs, share->x_slope, cells->input_stride, span,
                      (size_t)given->steps);
}

static void end_state(const Share *share, float *to, const float *state, const Span *span) {
    size_t size = (size_t)share->cells->given->size;
    for (size_t r = 0; to && r < span->rows; r++)
        memcpy(to + (span->row + r) * size, state + r * share->cells->unit_stride,
               size * sizeof *to);
}

static void tile_back(const Share *share, Span span) {
    const Recurrence *given = share->cells->given;
    size_t most = BLOCK_ROWS / span.rows ? BLOCK_ROWS / span.rows : 1;
    begin_state(share, share->state, NULL, &span);
    begin_state(share, share->value, NULL, &span);
    begin_state(share, share->first_value, given->c_0, &span);
    for (size_t left = (size_t)given->steps; left; left -= span.steps) {
        span.steps = least(most, left);
        span.step = left - span.steps;
        for (size_t s = span.steps; s-- > 0;) step_back(share, &span, s);
        block_back(share, &span);
    }
    end_state(share, given->h_0_slope, share->state, &span);
    end_state(share, given->c_0_slope, share->value, &span);
}

/* Add up the threads' sums of (inner, gates, padded size) in their order, without the padding. */
static void sum_gates(const Cells *cells, float *whole, float *const *parts, size_t count,
                      size_t inner, size_t stride) {
    size_t size = (size_t)cells->given->size;
    for (size_t k = 0; k < inner; k++)
        for (size_t gate = 0; gate < GATES; gate++) {
            float *restrict to = whole + (k * GATES + gate) * size;
            size_t from = k * stride + gate * cells->size;
            for (size_t unit = 0; unit < size; unit++) to[unit] = parts[0][from + unit];
            for (size_t t = 1; t < count; t++)
                for (size_t unit = 0; unit < size; unit++) to[unit] += parts[t][from + unit];
        }
}

static void sum_shares(const Cells *cells, const Share *shares, size_t count) {
    const Recurrence *given = cells->given;
    size_t size = (size_t)given->size, stride = cells->gate_stride;
    float *xh[MOST_THREADS], *hh[MOST_THREADS], *bias[MOST_THREADS];
    for (size_t t = 0; t < count; t++) {
        xh[t] = shares[t].xh_sum;
        hh[t] = shares[t].hh_sum;
        bias[t] = shares[t].xh_sum + (size_t)given->inputs * stride;
    }
    sum_gates(cells, given->xh_slope, xh, count, (size_t)given->inputs, stride);
    sum_gates(cells, given->hh_slope, hh, count, size, stride);
    sum_gates(cells, given->bias_slope, bias, count, 1, stride);
    for (int p = 0; p < PEEPHOLES; p++)
        for (size_t k = 0; k < size; k++) {
            float sum = 0;
            for (size_t t = 0; t < count; t++) sum += shares[t].peephole_sum[p][k];
            given->peephole_slope[p][k] = sum;
        }
}

/* -- room and threads --------------------------------------------------------------------------- */

static void lay_cells(const Recurrence *given, Cells *cells, void **at) {
    size_t size = (size_t)given->size, inputs = (size_t)given->inputs;
    cells->given = given;
    cells->size = padded(size);
    cells->inputs = rounded(inputs);
    cells->width = GATES * cells->size;
    cells->gate_stride = cells->width + SPREAD;
    cells->unit_stride = cells->size + SPREAD;
    cells->input_stride = padded(inputs + 1) + SPREAD;
    for (int p = 0; p < PEEPHOLES; p++) cells->peephole[p] = floats(at, cells->size);
    cells->zeros = floats(at, cells->width > cells->inputs ? cells->width : cells->inputs);
    if (cells->backwards) {
        cells->hh_turned = floats(at, cells->width * rounded(size));
        cells->xh_turned = floats(at, given->x_slope ? cells->width * cells->inputs : 0);
    } else {
        cells->xh = floats(at, cells->width * inputs);
        cells->hh = floats(at, cells->width * size);
        cells->bias = floats(at, cells->width);
    }
}

static void lay_share(const Cells *cells, Share *share, void **at) {
    const Recurrence *given = cells->given;
    size_t rows = least((size_t)given->rows, TILE_ROWS);
    size_t block = rows > BLOCK_ROWS ? rows : BLOCK_ROWS, size = (size_t)given->size;
    share->cells = cells;
    share->state = floats(at, rows * cells->unit_stride);
    share->value = floats(at, rows * cells->unit_stride);
    share->gates = floats(at, (cells->backwards ? rows : block) * cells->gate_stride);
    share->x = floats(at, block * cells->input_stride); /* back in tiles, which need less */
    if (!cells->backwards) return;
    share->first_value = floats(at, rows * cells->unit_stride);
    share->panels = floats(at, block * cells->width);
    share->before = floats(at, block * size);
    share->row = floats(at, (size_t)given->inputs + 1);
    share->x_slope = floats(at, given->x_slope ? block * cells->input_stride : 0);
    share->xh_sum = floats(at, ((size_t)given->inputs + 1) * cells->gate_stride);
    share->hh_sum = floats(at, size * cells->gate_stride);
    for (int p = 0; p < PEEPHOLES; p++) share->peephole_sum[p] = floats(at, cells->size);
    share->end = share->peephole_sum[PEEPHOLES - 1] + cells->size;
}

static size_t lay_recurrence(const Recurrence *given, int backwards, Cells *cells, Share *shares,
                             void *room) {
    void *at = room;
    cells->backwards = backwards;
    lay_cells(given, cells, &at);
    size_t threads = (size_t)given->threads, rows = (size_t)given->rows;
    for (size_t t = 0; t < threads; t++) {
        lay_share(cells, shares + t, &at);
        shares[t].first = rows * t / threads;
        shares[t].last = rows * (t + 1) / threads;
    }
    return (size_t)((char *)at - (char *)room);
}

static void *take_share(void *argument) {
    const Share *share = argument;
    const Cells *cells = share->cells;
    size_t rows = share->last - share->first, tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    if (cells->backwards) /* the sums stand one behind the other */
        memset(share->xh_sum, 0, (size_t)((char *)share->end - (char *)share->xh_sum));
    for (size_t tile = 0; tile < tiles; tile++) {
        size_t first = rows * tile / tiles, last = rows * (tile + 1) / tiles;
        Span span = {.row = share->first + first, .rows = last - first};
        if (cells->backwards) tile_back(share, span);
        else tile_forward(share, span);
    }
    return NULL;
}

/* Each share on a thread of its own, or where there is no room for more on this. */
static void run_shares(const Recurrence *given, int backwards) {
    Cells cells;
    Share shares[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    int has_thread[MOST_THREADS] = {0};
    lay_recurrence(given, backwards, &cells, shares, given->room);
    pack(&cells);
    for (int t = 1; t < given->threads; t++)
        has_thread[t] = !pthread_create(threads + t, NULL, take_share, shares + t);
    for (int t = 0; t < given->threads; t++)
        if (!has_thread[t]) take_share(shares + t);
    for (int t = 1; t < given->threads; t++)
        if (has_thread[t]) pthread_join(threads[t], NULL);
    if (backwards) sum_shares(&cells, shares, (size_t)given->threads);
}

/* Bytes of room that either way needs. */
PUBLIC int64_t bernoulli_lstm_bytes(const Recurrence *given, int32_t backwards) {
    Cells cells;
    Share shares[MOST_THREADS];
    return (int64_t)lay_recurrence(given, backwards, &cells, shares, NULL);
}

PUBLIC int64_t bernoulli_lstm_saved(const Recurrence *given) {
    return given->steps * given->rows * SAVED * (int64_t)padded((size_t)given->size);
}

/* Write `out`, `cell` and what the way back needs. */
PUBLIC void bernoulli_lstm_forward(const Recurrence *given) { run_shares(given, 0); }

/* Write the gradients that are wanted, and those of all weights. */
PUBLIC void bernoulli_lstm_back(const Recurrence *given) { run_shares(given, 1); }

PUBLIC int32_t bernoulli_recurrence_layout(void) { return (int32_t)sizeof(Recurrence); }
