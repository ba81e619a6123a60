/* Moments of passes: blocks of 64 reduced, and merged; engine/statistics.py is their definition.
 *
 * Every column is added up in the order of its passes and blocks, and each product is rounded
 * before it is added, so that the bits are those of NumPy, whatever columns stand beside it.
 * Included by kernels.c.
 */

#define BLOCK_PASSES 64
#define CHAINS 8 /* sums of narrow blocks that run side by side */

typedef double vd __attribute__((vector_size(4 * LANES), may_alias));
typedef float vf_half __attribute__((vector_size(2 * LANES), aligned(4), may_alias));
typedef double vdu __attribute__((vector_size(4 * LANES), aligned(8), may_alias));

/* A value that is rounded here: no later sum fuses with the product that it came from. */
#if defined(__AVX512F__)
#define ROUNDED(value) __asm__("" : "+v"(value))
#elif defined(__x86_64__)
#define ROUNDED(value) __asm__("" : "+x"(value))
#elif defined(__aarch64__)
#define ROUNDED(value) __asm__("" : "+w"(value))
#else
#define ROUNDED(value) __asm__("" : "+m"(value))
#endif

INLINE double product(double a, double b) {
    double value = a * b;
    ROUNDED(value);
    return value;
}

INLINE vd widened(const float *at) {
    return __builtin_convertvector(*(const vf_half *)at, vd);
}

/* A vector of columns of one block. */
INLINE void reduce_vector(const float *from, size_t passes, size_t width, double *mean,
                          double *squares) {
    vd sum = widened(from);
    for (size_t pass = 1; pass < passes; pass++) sum += widened(from + pass * width);
    sum /= (double)passes - (vd){0};
    *(vdu *)mean = (vdu)sum;
    if (!squares) return;
    vd total = {0};
    for (size_t pass = 0; pass < passes; pass++) {
        vd away = widened(from + pass * width) - sum;
        vd square = away * away;
        ROUNDED(square);
        total += square;
    }
    *(vdu *)squares = (vdu)total;
}

/* The same column of some blocks, which stand `apart` numbers from each other. */
INLINE void reduce_chains(const float *from, size_t chains, size_t passes, size_t width,
                          size_t apart, double *mean, double *squares) {
    double sum[CHAINS];
    for (size_t c = 0; c < chains; c++) sum[c] = from[c * apart];
    for (size_t pass = 1; pass < passes; pass++)
        for (size_t c = 0; c < chains; c++) sum[c] += from[c * apart + pass * width];
    for (size_t c = 0; c < chains; c++) mean[c * width] = sum[c] /= (double)passes;
    if (!squares) return;
    double total[CHAINS] = {0};
    for (size_t pass = 0; pass < passes; pass++)
        for (size_t c = 0; c < chains; c++) {
            double away = from[c * apart + pass * width] - sum[c];
            total[c] += product(away, away);
        }
    for (size_t c = 0; c < chains; c++) squares[c * width] = total[c];
}

/* means, squares (blocks, width) of samples (passes, width); squares may be none. */
PUBLIC void bernoulli_reduce(const float *samples, int64_t passes, int64_t width, double *means,
                             double *squares) {
    size_t columns = (size_t)width, vectors = columns / (LANES / 2) * (LANES / 2);
    size_t apart = BLOCK_PASSES * columns, full = (size_t)passes / BLOCK_PASSES;
    size_t blocks = ((size_t)passes + BLOCK_PASSES - 1) / BLOCK_PASSES;
    for (size_t block = 0; block < blocks; block++) {
        size_t many = least(BLOCK_PASSES, (size_t)passes - block * BLOCK_PASSES);
        for (size_t column = 0; column < vectors; column += LANES / 2) {
            size_t at = block * columns + column;
            reduce_vector(samples + block * apart + column, many, columns, means + at,
                          squares ? squares + at : NULL);
        }
    }
    for (size_t column = vectors; column < columns; column++) {
        size_t block = 0;
        for (; block + CHAINS <= full; block += CHAINS) {
            size_t at = block * columns + column;
            reduce_chains(samples + block * apart + column, CHAINS, BLOCK_PASSES, columns, apart,
                          means + at, squares ? squares + at : NULL);
        }
        for (; block < blocks; block++) {
            size_t many = least(BLOCK_PASSES, (size_t)passes - block * BLOCK_PASSES);
            size_t at = block * columns + column;
            reduce_chains(samples + block * apart + column, 1, many, columns, apart, means + at,
                          squares ? squares + at : NULL);
        }
    }
}

/* Merge blocks (blocks, width) of so many passes into first, sum and total, (3, width), of those
 * `done` before. */
PUBLIC void bernoulli_merge(const double *means, const double *squares, int64_t passes,
                            int64_t width, int64_t done, double *moments) {
    size_t columns = (size_t)width;
    double *first = moments, *sum = first + columns, *total = sum + columns;
    for (int64_t begin = 0; begin < passes; begin += BLOCK_PASSES, means += columns) {
        double size = (double)least(BLOCK_PASSES, (size_t)(passes - begin));
        double before = (double)(done + begin), weight = before * size / (before + size);
        double divisor = before < 1 ? 1 : before;
        if (before == 0) memcpy(first, means, columns * sizeof *first);
        for (size_t column = 0; column < columns; column++) {
            double away = means[column] - first[column];
            if (squares) {
                double apart = away - sum[column] / divisor;
                double between = product(product(apart, apart), weight);
                total[column] += between + squares[column];
            }
            sum[column] += product(away, size);
        }
        if (squares) squares += columns;
    }
}
