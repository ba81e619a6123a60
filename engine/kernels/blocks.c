/* Block kernels of dense networks: masks, products and activations of a tile of (pass, row) pairs.
 *
 * A network is a list of steps over buffers, each a tile of rows; a tile fits the second-level
 * cache, and no step returns to Python. Every number is a function of its pair alone: a product
 * sums over its inputs in their order, whatever the tile, the threads or the width of a vector
 * register, and leaves out only terms that are zero. The file is compiled once for each kind of
 * processor; it is GNU C with vector extensions, so that no line is written for one of them.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define LANES 16
#define MOST_ROWS 12
#elif defined(__AVX2__)
#define LANES 8
#define MOST_ROWS 6
#else
#define LANES 4
#define MOST_ROWS 4
#endif

#define PANEL 32 /* columns of a panel of weights; buffers have a multiple of it */
#define FEW 4 /* columns of a product that are each summed by themselves, at most */
#define INNER_BLOCK 128 /* inputs at a time: a panel's block of them stays in the first-level cache */
#define ALIGN 64
#define LAYOUT 2 /* raised where fields or kinds of steps come to mean something else */
#define PUBLIC __attribute__((visibility("default")))
#define UNROLLED _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES), may_alias));
typedef float vfu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), may_alias));
typedef uint64_t vw __attribute__((vector_size(4 * LANES), may_alias));
typedef uint64_t vwu __attribute__((vector_size(4 * LANES), aligned(8), may_alias));
typedef uint16_t vh __attribute__((vector_size(4 * LANES), may_alias));
typedef int16_t vs __attribute__((vector_size(4 * LANES), may_alias));
typedef int16_t vs_half __attribute__((vector_size(2 * LANES), may_alias));

INLINE size_t rounded(size_t width) { return (width + PANEL - 1) / PANEL * PANEL; }
INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }
INLINE vf load(const float *at) { return (vf) * (const vfu *)at; }
INLINE void store(float *at, vf value) { *(vfu *)at = (vfu)value; }
INLINE vf all(float value) { return value - (vf){0}; }
INLINE vf choose(vi which, vf yes, vf no) { return (vf)(((vi)yes & which) | ((vi)no & ~which)); }

/* -- random streams (see engine/streams.py, which is their definition) ------------------------- */

#define GAMMA UINT64_C(0x9E3779B97F4A7C15)
#define MIX_1 UINT64_C(0xBF58476D1CE4E5B9)
#define MIX_2 UINT64_C(0x94D049BB133111EB)
#define ROW UINT64_C(0xD1B54A32D192ED03)
#define TIE UINT64_C(0x5851F42D4C957F2D)

#define MIX(z) /* SplitMix64's finaliser, of a word or a vector of them */ \
    do { \
        z = (z ^ (z >> 30)) * MIX_1; \
        z = (z ^ (z >> 27)) * MIX_2; \
        z = z ^ (z >> 31); \
    } while (0)

INLINE uint64_t mixed(uint64_t z) {
    MIX(z);
    return z;
}

/* Whether an element is dropped, by the definition. */
static int is_dropped(uint64_t state, size_t element, uint32_t limit) {
    uint64_t word = mixed(state + (element / 4 + 1) * GAMMA);
    uint32_t bits = (uint32_t)(word >> (16 * (element % 4))) & 0xFFFF;
    if (bits != limit >> 16) return bits < limit >> 16;
    return (mixed((state ^ TIE) + (element + 1) * GAMMA) >> 48) < (limit & 0xFFFF);
}

INLINE int any_set(vs flags) {
#if LANES == 16
    return _mm512_test_epi64_mask((__m512i)flags, (__m512i)flags) != 0;
#elif LANES == 8
    return !_mm256_testz_si256((__m256i)flags, (__m256i)flags);
#else
    uint64_t words[2];
    memcpy(words, &flags, sizeof words);
    return (words[0] | words[1]) != 0;
#endif
}

/* Those numbers of a vector that 16-bit lanes, of which it is one half, do not drop; else 0. */
INLINE vf undropped(vf x, vs dropped, int half) {
#if LANES == 16
    __mmask32 gone = _mm512_movepi16_mask((__m512i)dropped);
    return (vf)_mm512_maskz_mov_ps((__mmask16) ~(gone >> half * LANES), (__m512)x);
#else
    vs_half halves[2];
    memcpy(halves, &dropped, sizeof dropped);
    return (vf)((vi)x & ~__builtin_convertvector(halves[half], vi));
#endif
}

/* The words of elements 0 to 2 LANES - 1 are the mixed counter; the next are LANES / 2 on. */
INLINE vw first_counter(uint64_t state) {
    vw counter = {0};
    for (int lane = 0; lane < LANES / 2; lane++) counter[lane] = (uint64_t)(lane + 1) * GAMMA;
    return counter + state;
}

/* dst = what elements `first` to `first + count` keep: src * scale, or 0; without src it is scale.
 * `first` is a multiple of a panel, dst and src have room for whole vectors. */
INLINE void drop(float *dst, const float *src, size_t first, size_t count, uint64_t state,
                 uint32_t limit, float scale) {
    const vh high = (uint16_t)(limit >> 16) - (vh){0};
    vw counter = first_counter(state + first / 4 * GAMMA);
    vs tied = {0};
    for (size_t i = 0; i < count; i += 2 * LANES) {
        vw word = counter;
        MIX(word);
        counter += LANES / 2 * GAMMA;
        vs dropped = (vs)((vh)word < high);
        tied |= (vs)((vh)word == high);
        for (int half = 0; half < 2; half++) {
            if (half && count - i <= LANES) break;
            vf kept = all(scale);
            if (src) kept = load(src + i + half * LANES) * scale;
            store(dst + i + half * LANES, undropped(kept, dropped, half));
        }
    }
    if ((limit & 0xFFFF) && any_set(tied))
        for (size_t i = 0; i < count; i++)
            if (is_dropped(state, first + i, limit)) dst[i] = 0;
}

/* patterns = which of `width` elements, at most 64, each of so many states drops, as bits. There is
 * room for whole vectors. Words of one number are mixed together, of as many states as lanes. */
static void drop_patterns(uint64_t *patterns, const uint64_t *states, size_t count, size_t width,
                          uint32_t limit) {
    const vh high = (uint16_t)(limit >> 16) - (vh){0};
    const vw places = UINT64_C(0x0008000400020001) - (vw){0};
    const uint64_t inside = ~UINT64_C(0) >> (64 - width);
    for (size_t i = 0; i < count; i += LANES / 2) {
        vw counter = *(const vwu *)(states + i), found = {0};
        vs tied = {0};
        for (size_t word = 0; 4 * word < width; word++) {
            counter += GAMMA;
            vw drawn = counter;
            MIX(drawn);
            tied |= (vs)((vh)drawn == high);
            vw bits = (vw)((vh)drawn < high) & places;
            bits |= bits >> 32;
            bits |= bits >> 16;
            found |= (bits & 15) << 4 * word;
        }
        *(vwu *)(patterns + i) = (vwu)(found & inside);
        if (!(limit & 0xFFFF) || !any_set(tied)) continue;
        for (size_t lane = i; lane < least(i + LANES / 2, count); lane++) {
            patterns[lane] = 0;
            for (size_t k = 0; k < width; k++)
                patterns[lane] |= (uint64_t)is_dropped(states[lane], k, limit) << k;
        }
    }
}

/* The normal number at which its distribution function is p: Wichura 1988, algorithm AS 241. */
static double normal_quantile(double p) {
    double q = p - 0.5;
    if (fabs(q) <= 0.425) {
        double r = 0.180625 - q * q;
        return q *
               (((((((2.5090809287301226727e3 * r + 3.3430575583588128105e4) * r +
                     6.7265770927008700853e4) * r + 4.5921953931549871457e4) * r +
                   1.3731693765509461125e4) * r + 1.9715909503065514427e3) * r +
                 1.3314166789178437745e2) * r + 3.3871328727963666080e0) /
               (((((((5.2264952788528545610e3 * r + 2.8729085735721942674e4) * r +
                     3.9307895800092710610e4) * r + 2.1213794301586595867e4) * r +
                   5.3941960214247511077e3) * r + 6.8718700749205790830e2) * r +
                 4.2313330701600911252e1) * r + 1.0);
    }
    double r = sqrt(-log(q < 0 ? p : 1 - p)), x;
    if (r <= 5) {
        r -= 1.6;
        x = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r +
                  2.41780725177450611770e-1) * r + 1.27045825245236838258e0) * r +
                3.64784832476320460504e0) * r + 5.76949722146069140550e0) * r +
              4.63033784615654529590e0) * r + 1.42343711074968357734e0) /
            (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r +
                  1.51986665636164571966e-2) * r + 1.48103976427480074590e-1) * r +
                6.89767334985100004550e-1) * r + 1.67638483018380384940e0) * r +
              2.05319162663775882187e0) * r + 1.0);
    } else {
        r -= 5;
        x = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r +
                  1.24266094738807843860e-3) * r + 2.65321895265761230930e-2) * r +
                2.96560571828504891230e-1) * r + 1.78482653991729133580e0) * r +
              5.46378491116411436990e0) * r + 6.65790464350110377720e0) /
            (((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r +
                  1.84631831751005468180e-5) * r + 7.86869131145613259100e-4) * r +
                1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r +
              5.99832206555887937690e-1) * r + 1.0);
    }
    return q < 0 ? -x : x;
}

static float normal_number(uint64_t state, size_t element) {
    uint64_t word = mixed(state + (element + 1) * GAMMA);
    return (float)normal_quantile(((double)(word >> 11) + 0.5) * 0x1p-53);
}

/* -- activations -------------------------------------------------------------------------------- */

INLINE vf absolute(vf x) { return (vf)((vi)x & 0x7FFFFFFF); }
INLINE vf clamped(vf x, float low, float high) {
    x = choose(x < low, all(low), x);
    return choose(x > high, all(high), x);
}

INLINE vf exponential(vf x) {
    /* Cody & Waite's reduction, a polynomial of degree 7; the scale in two parts, for subnormals. */
    vi is_nan = x != x;
    vf t = clamped(choose(is_nan, all(0), x), -104.0f, 89.0f);
    vf n = t * 1.44269504f + 12582912.0f;
    n = n - 12582912.0f;
    vf r = t - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vf p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi whole = __builtin_convertvector(n, vi);
    vi half = whole >> 1;
    vf scaled = p * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
    return choose(is_nan, x, scaled);
}

INLINE vf hyperbolic_tangent(vf x) {
    vf size = absolute(x), square = x * x;
    vf p = all(-5.70498872745e-3f);
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    vf near = p * square * x + x;
    vf far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    far = (vf)((vi)far | ((vi)x & (int32_t)0x80000000));
    return choose(size < 0.625f, near, far);
}

INLINE vf logistic(vf x) { return 1.0f / (1.0f + exponential(-x)); }

INLINE vf logarithm_of_one_and(vf u) {
    /* For 0 <= u <= 1; the quotient undoes the rounding of 1 + u (Kahan). */
    vf w = 1.0f + u;
    vi large = w > 1.41421356f;
    vf x = choose(large, w * 0.5f, w) - 1.0f, z = x * x;
    vf p = all(7.0376836292e-2f);
    p = p * x - 1.1514610310e-1f;
    p = p * x + 1.1676998740e-1f;
    p = p * x - 1.2420140846e-1f;
    p = p * x + 1.4249322787e-1f;
    p = p * x - 1.6668057665e-1f;
    p = p * x + 2.0000714765e-1f;
    p = p * x - 2.4999993993e-1f;
    p = p * x + 3.3333331174e-1f;
    vf y = p * x * z - 0.5f * z + x + choose(large, all(0.693147181f), all(0));
    vi is_one = w == 1.0f;
    vf excess = choose(is_one, all(1), w - 1.0f);
    return choose(is_one, u, y * u / excess);
}

INLINE vf softplus(vf x) {
    return choose(x > 0.0f, x, all(0)) + logarithm_of_one_and(exponential(-absolute(x)));
}

INLINE vf elu(vf x) {
    vf t = hyperbolic_tangent(0.5f * x); /* e^x - 1 = 2 t / (1 - t), right for small x */
    return choose(x > 0.0f, x, choose(x < -20.0f, all(-1), 2.0f * t / (1.0f - t)));
}

enum {
    LINEAR, RELU, TANH, SIGMOID, SOFTPLUS, ELU, SILU, RECT_MIN, RECT_MINMAX, /* vectors */
    GELU, SOFTMAX, NORM_MEAN, NORM_MAX, NORM_STD, NORM_Z, PRELU, LGRELU, MAXOUT
};

#define ELEMENTWISE(NAME, VALUE) \
    case NAME: \
        for (size_t i = 0; i < width; i += LANES) { \
            vf x = load(src + i); \
            store(dst + i, VALUE); \
        } \
        break

static double mean_of(const float *x, size_t width) {
    double sum = 0;
    for (size_t i = 0; i < width; i++) sum += x[i];
    return sum / (double)width;
}

static double deviation_of(const float *x, size_t width, double mean) {
    double sum = 0;
    for (size_t i = 0; i < width; i++) sum += (x[i] - mean) * (x[i] - mean);
    return sqrt(sum / (double)width);
}

static void softmax(float *dst, const float *src, size_t width) {
    float largest = src[0];
    for (size_t i = 1; i < width; i++) largest = src[i] > largest ? src[i] : largest;
    double sum = 0;
    for (size_t i = 0; i < width; i += LANES) store(dst + i, exponential(load(src + i) - largest));
    for (size_t i = 0; i < width; i++) sum += dst[i];
    float share = (float)(1 / sum);
    for (size_t i = 0; i < width; i += LANES) store(dst + i, load(dst + i) * share);
}

static void norm(float *dst, const float *src, size_t width, int kind) {
    double mean = 0, by = 1;
    if (kind == NORM_MAX) {
        by = 0;
        for (size_t i = 0; i < width; i++) by = fabs(src[i]) > by ? fabs(src[i]) : by;
    } else {
        mean = mean_of(src, width);
        if (kind != NORM_MEAN) by = deviation_of(src, width, mean);
        if (kind == NORM_STD) mean = 0;
    }
    if (kind != NORM_MEAN) by += 1e-8;
    for (size_t i = 0; i < width; i++) dst[i] = (float)((src[i] - mean) / by);
}

/* One row; `one` and `two` are what was learnt, `pieces` of it for each unit. */
INLINE void activate_row(float *dst, const float *src, size_t width, int kind, const float *one,
                         const float *two, size_t pieces) {
    switch (kind) {
        ELEMENTWISE(LINEAR, x);
        ELEMENTWISE(RELU, choose(x < 0.0f, all(0), x));
        ELEMENTWISE(TANH, hyperbolic_tangent(x));
        ELEMENTWISE(SIGMOID, logistic(x));
        ELEMENTWISE(SOFTPLUS, softplus(x));
        ELEMENTWISE(ELU, elu(x));
        ELEMENTWISE(SILU, x * logistic(x));
        ELEMENTWISE(RECT_MIN, choose(x > 1.0f, all(1), x));
        ELEMENTWISE(RECT_MINMAX, clamped(x, 0.0f, 1.0f));
    case GELU:
        for (size_t i = 0; i < width; i++)
            dst[i] = 0.5f * src[i] * erfcf(src[i] * -0.707106781f);
        break;
    case SOFTMAX: softmax(dst, src, width); break;
    case PRELU:
        for (size_t i = 0; i < width; i++) dst[i] = src[i] > 0 ? src[i] : one[i] * src[i];
        break;
    case LGRELU:
        for (size_t i = 0; i < width; i++) dst[i] = (src[i] > 0 ? one[i] : two[i]) * src[i];
        break;
    case MAXOUT:
        for (size_t i = 0; i < width; i++) {
            float x = src[i], best = x * one[i * pieces] + two[i * pieces];
            for (size_t k = 1; k < pieces; k++) {
                float y = x * one[i * pieces + k] + two[i * pieces + k];
                best = y > best ? y : best;
            }
            dst[i] = best;
        }
        break;
    default: norm(dst, src, width, kind);
    }
}

/* -- products ----------------------------------------------------------------------------------- */

/* A part of a product: c += a b over `count` inputs, those listed or the first. */
typedef struct {
    const float *a, *b;
    float *c;
    size_t a_stride, c_stride, count;
    const uint32_t *inputs;
    const float *bias; /* what c begins with, where it is given */
    int rectify;       /* whether what is below zero becomes zero in the end */
} Part;

/* ROWS rows and COLUMNS vectors of c, which stay in registers. */
#define PRODUCT(ROWS, COLUMNS) \
    static void product_##ROWS##_##COLUMNS(const Part *part, size_t row, size_t column) { \
        const float *restrict a = part->a + row * part->a_stride, *restrict b = part->b; \
        float *restrict c = part->c + row * part->c_stride + column; \
        const uint32_t *restrict inputs = part->inputs; \
        const float *bias = part->bias; \
        size_t a_stride = part->a_stride, c_stride = part->c_stride, count = part->count; \
        vf sum[ROWS][COLUMNS]; \
        UNROLLED for (int v = 0; v < COLUMNS; v++) \
            UNROLLED for (int m = 0; m < ROWS; m++) \
                sum[m][v] = load((bias ? bias + column : c + m * c_stride) + v * LANES); \
        if (inputs) { \
            for (size_t i = 0; i < count; i++) { \
                size_t k = inputs[i]; \
                UNROLLED for (int m = 0; m < ROWS; m++) { \
                    float x = a[m * a_stride + k]; \
                    UNROLLED for (int v = 0; v < COLUMNS; v++) \
                        sum[m][v] += x * load(b + k * PANEL + v * LANES); \
                } \
            } \
        } else { \
            for (size_t k = 0; k < count; k++) \
                UNROLLED for (int m = 0; m < ROWS; m++) { \
                    float x = a[m * a_stride + k]; \
                    UNROLLED for (int v = 0; v < COLUMNS; v++) \
                        sum[m][v] += x * load(b + k * PANEL + v * LANES); \
                } \
        } \
        if (part->rectify) \
            UNROLLED for (int m = 0; m < ROWS; m++) \
                UNROLLED for (int v = 0; v < COLUMNS; v++) \
                    sum[m][v] = choose(sum[m][v] < 0.0f, all(0), sum[m][v]); \
        UNROLLED for (int m = 0; m < ROWS; m++) \
            UNROLLED for (int v = 0; v < COLUMNS; v++) \
                store(c + m * c_stride + v * LANES, sum[m][v]); \
    }

#define PRODUCTS(ROWS) PRODUCT(ROWS, 1) PRODUCT(ROWS, 2)
#if MOST_ROWS >= 12
PRODUCTS(12)
PRODUCTS(8)
#endif
#if MOST_ROWS >= 6
PRODUCTS(6)
#endif
PRODUCTS(4)
PRODUCTS(2)
PRODUCTS(1)

typedef void (*Product)(const Part *, size_t, size_t);
static const struct { size_t rows; Product one, two; } PRODUCT_TABLE[] = {
#if MOST_ROWS >= 12
    {12, product_12_1, product_12_2}, {8, product_8_1, product_8_2},
#endif
#if MOST_ROWS >= 6
    {6, product_6_1, product_6_2},
#endif
    {4, product_4_1, product_4_2}, {2, product_2_1, product_2_2}, {1, product_1_1, product_1_2},
};

/* The product of rows and a matrix of `inner` inputs in panels of 32 of its `width` columns. */
static void multiply(const Part *whole, size_t rows, size_t inner, size_t width) {
    Part part = *whole;
    for (size_t start = 0; start == 0 || start < whole->count; start += INNER_BLOCK) {
        size_t left = whole->count - start, offset = whole->inputs ? 0 : start;
        part.count = least(INNER_BLOCK, left);
        part.inputs = whole->inputs ? whole->inputs + start : NULL;
        part.bias = start ? NULL : whole->bias;
        part.rectify = whole->rectify && left <= INNER_BLOCK;
        part.a = whole->a + offset;
        for (size_t column = 0; column < width;) {
            size_t vectors = width - column > LANES && column % PANEL + LANES < PANEL ? 2 : 1;
            part.b = whole->b + column / PANEL * PANEL * inner + column % PANEL + offset * PANEL;
            size_t row = 0;
            for (size_t kind = 0; row < rows; kind++) {
                Product product = vectors == 2 ? PRODUCT_TABLE[kind].two : PRODUCT_TABLE[kind].one;
                for (; rows - row >= PRODUCT_TABLE[kind].rows; row += PRODUCT_TABLE[kind].rows)
                    product(&part, row, column);
            }
            column += vectors * LANES;
        }
    }
}

/* Some of a row's numbers. */
typedef struct {
    size_t count;
    uint32_t *listed;
    uint16_t *lanes; /* of each 16 numbers, as bits */
} Kept;

/* List those of `width` numbers whose flag is not zero. */
static void keep(Kept *kept, const int32_t *flags, size_t width) {
    kept->count = 0;
    memset(kept->lanes, 0, rounded(width) / 16 * sizeof *kept->lanes);
    for (size_t k = 0; k < width; k++) {
        uint32_t is_kept = flags[k] != 0;
        kept->listed[kept->count] = (uint32_t)k;
        kept->lanes[k / 16] |= (uint16_t)(is_kept << k % 16);
        kept->count += is_kept;
    }
}

/* Find the inputs that are not zero in every row; say whether so few are that they pay. */
static int inputs_in_use(Kept *kept, const float *a, size_t stride, size_t rows, size_t inner,
                         int32_t *used) {
    size_t room = rounded(inner);
    memset(used, 0, room * sizeof *used);
    for (size_t row = 0; row < rows; row++) {
        const int32_t *at = (const int32_t *)(a + row * stride);
        for (size_t k = 0; k < room; k++) used[k] |= at[k] & 0x7FFFFFFF;
        if (row % 8 == 7 || row + 1 == rows) {
            size_t count = 0;
            for (size_t k = 0; k < inner; k++) count += used[k] != 0;
            if (10 * count > 9 * inner) return 0;
        }
    }
    keep(kept, used, inner);
    return 1;
}

/* Put the kept numbers of a row side by side, zeros behind them up to a whole panel. Panels lie
 * as far apart as is said. */
static void compress_row(float *dst, size_t dst_panel, const float *src, size_t src_panel,
                         const Kept *kept, size_t width) {
#if LANES == 16
    float line[PANEL + LANES]; /* filled from the left; a full panel is passed on */
    size_t filled = 0;
    for (size_t n = 0; n < width; n += LANES) {
        __mmask16 mask = kept->lanes[n / LANES];
        __m512 x = _mm512_loadu_ps(src + n / PANEL * src_panel + n % PANEL);
        _mm512_storeu_ps(line + filled, _mm512_maskz_compress_ps(mask, x));
        filled += (size_t)__builtin_popcount(mask);
        if (filled < PANEL) continue;
        memcpy(dst, line, PANEL * sizeof *dst);
        memcpy(line, line + PANEL, LANES * sizeof *dst);
        dst += dst_panel;
        filled -= PANEL;
    }
    if (filled == 0) return;
    for (size_t n = filled; n < PANEL; n++) line[n] = 0;
    memcpy(dst, line, PANEL * sizeof *dst);
#else
    for (size_t column = 0; column < kept->count; column += PANEL, dst += dst_panel) {
        const uint32_t *from = kept->listed + column;
        size_t some = least(PANEL, kept->count - column);
        for (size_t n = 0; n < some; n++)
            dst[n] = src[from[n] / PANEL * src_panel + from[n] % PANEL];
        for (size_t n = some; n < PANEL; n++) dst[n] = 0;
    }
    (void)width;
#endif
}

/* Put numbers back where they were kept, with zeros between. */
static void expand_row(float *dst, const float *src, const Kept *kept, size_t width) {
#if LANES == 16
    for (size_t n = 0; n < width; n += LANES) {
        __mmask16 mask = kept->lanes[n / LANES];
        _mm512_storeu_ps(dst + n, _mm512_maskz_expand_ps(mask, _mm512_loadu_ps(src)));
        src += __builtin_popcount(mask);
    }
#else
    memset(dst, 0, width * sizeof *dst);
    for (size_t k = 0; k < kept->count; k++) dst[kept->listed[k]] = src[k];
#endif
}

/* -- steps -------------------------------------------------------------------------------------- */

enum { LOAD, CONSTANT, AFFINE, DOT, CONNECT, ACTIVATE, DROP, NOISE, ADD, MULTIPLY, COPY, NORM, STORE,
       GROUP, DROP_DOT };

typedef struct {
    int32_t kind, dst, src, other;
    int32_t inner, width;
    int32_t column; /* of dst, for COPY; whether to add to dst, for products */
    int32_t what;   /* the known values, the site, the activation or the output; for AFFINE whether
                       to rectify what it gives */
    int32_t thin;   /* 1 + the step that will drop what a product gives, for all rows of a tile */
    int32_t grouped; /* whether src has a row for each group of pairs, and not for each pair */
    uint32_t limit;
    float scale;
    const float *weight, *bias;
} Step;

typedef struct {
    const Step *steps;
    const int32_t *widths; /* of the buffers */
    const float *const *known; /* rows with room for whole panels */
    float *const *outs;
    const uint64_t *keys; /* (sites, rows) */
    const int64_t *row_ids;
    int64_t rows, first_row, last_row; /* rows there are, and which of them to run */
    int64_t first_pass, passes;
    int32_t count, buffers, shared, tile, threads;
} Work;

typedef struct {
    size_t rows;
    float **buffers; /* (rows, stride) each */
    size_t *strides;
    int64_t *pass, *row; /* of each pair, from 0 */
    uint64_t *state, *mixed_pass, *mixed_row; /* of each pair; what of it all sites share */
    uint32_t *group;           /* of each pair; pairs of a group are alike before the second mask */
    uint32_t *first, *slots;   /* pairs: the first of each group; of a hash table, from 1 */
    uint64_t *pattern;         /* which inputs each pair drops */
    size_t groups, slot_count; /* of pairs in the tile; a power of two, 0 where all stay alone */
    int32_t *used;
    Kept inputs, columns;          /* of a product */
    float *mask, *thin, *thinned; /* of one row; of a thinned product */
} Tile;

static void states_of(const Work *work, Tile *tile, int32_t site) {
    const uint64_t *keys = work->keys + (int64_t)site * work->rows;
    uint64_t *restrict state = tile->state;
    const uint64_t *restrict by_pass = tile->mixed_pass, *restrict by_row = tile->mixed_row;
    for (size_t i = 0; i < tile->rows; i++) state[i] = keys[tile->row[i]];
    for (size_t i = 0; i < tile->rows; i += LANES / 2) { /* there is room for whole vectors */
        vw z = *(const vwu *)(by_pass + i) + *(const vwu *)(state + i);
        MIX(z);
        z += *(const vwu *)(by_row + i);
        MIX(z);
        *(vwu *)(state + i) = (vwu)z;
    }
}

/* How many rows of a buffer a step reads, and which is that of a pair. */
INLINE size_t rows_to_read(const Tile *tile, const Step *step) {
    return step->grouped ? tile->groups : tile->rows;
}
INLINE size_t row_of_pair(const Tile *tile, const Step *step, size_t pair) {
    return step->grouped ? tile->group[pair] : pair;
}

/* A row of what a step reads: of a buffer, or of the known values. */
INLINE const float *read_row(const Work *work, const Tile *tile, const Step *step, size_t i) {
    if (step->src >= 0)
        return tile->buffers[step->src] + row_of_pair(tile, step, i) * tile->strides[step->src];
    return work->known[step->other] + (size_t)tile->row[i] * rounded((size_t)step->width);
}

/* What a mask leaves of numbers, and 0 where it is 0, whatever they are; all without a mask. */
INLINE vf masked(const float *src, const float *mask, size_t at) {
    vf x = load(src + at);
    if (!mask) return x;
    vf kept = load(mask + at);
    return choose(kept == 0.0f, all(0), x * kept);
}

static void drop_tile(const Work *work, Tile *tile, const Step *step) {
    size_t dst_stride = tile->strides[step->dst], width = (size_t)step->width;
    states_of(work, tile, step->what);
    for (size_t i = 0; i < tile->rows; i++) {
        float *dst = tile->buffers[step->dst] + i * dst_stride;
        const float *src = read_row(work, tile, step, i);
        if (!work->shared) {
            drop(dst, src, 0, width, tile->state[i], step->limit, step->scale);
            continue;
        }
        if (i == 0 || tile->state[i] != tile->state[i - 1])
            drop(tile->mask, NULL, 0, width, tile->state[i], step->limit, step->scale);
        for (size_t k = 0; k < width; k += LANES) store(dst + k, masked(src, tile->mask, k));
    }
}

/* Say which group a pair is in: of those of its row that drop the same. A new one gets the next
 * number. */
INLINE uint32_t group_of(Tile *tile, uint32_t pair) {
    uint64_t hash = (tile->pattern[pair] + (uint64_t)tile->row[pair] * ROW) * GAMMA;
    for (size_t slot = hash >> 32;; slot++) {
        uint32_t *found = tile->slots + (slot & (tile->slot_count - 1));
        if (*found == 0) {
            tile->first[tile->groups] = pair;
            return (*found = (uint32_t)++tile->groups) - 1;
        }
        uint32_t other = tile->first[*found - 1];
        if (tile->pattern[other] == tile->pattern[pair] && tile->row[other] == tile->row[pair])
            return *found - 1;
    }
}

/* Drop of known rows; what pairs have alike is computed once, until another mask parts them. */
static void group_tile(const Work *work, Tile *tile, const Step *step) {
    size_t stride = tile->strides[step->dst], width = (size_t)step->width;
    if (!tile->slot_count) {
        for (size_t i = 0; i < tile->rows; i++) tile->group[i] = (uint32_t)i;
        tile->groups = tile->rows;
        drop_tile(work, tile, step);
        return;
    }
    states_of(work, tile, step->what);
    drop_patterns(tile->pattern, tile->state, tile->rows, width, step->limit);
    memset(tile->slots, 0, tile->slot_count * sizeof *tile->slots);
    tile->groups = 0;
    for (size_t i = 0; i < tile->rows; i++) tile->group[i] = group_of(tile, (uint32_t)i);
    for (size_t group = 0; group < tile->groups; group++) {
        size_t pair = tile->first[group];
        const float *src = read_row(work, tile, step, pair);
        float *dst = tile->buffers[step->dst] + group * stride;
        uint64_t pattern = tile->pattern[pair];
        for (size_t k = 0; k < width; k++, pattern >>= 1) {
            float kept[2] = {src[k] * step->scale, 0}; /* no branch that would be guessed wrongly */
            dst[k] = kept[pattern & 1];
        }
    }
}

static void noise_tile(const Work *work, Tile *tile, const Step *step) {
    size_t width = (size_t)step->width;
    states_of(work, tile, step->what);
    for (size_t i = 0; i < tile->rows; i++) {
        float *dst = tile->buffers[step->dst] + i * tile->strides[step->dst];
        const float *src = tile->buffers[step->src] + i * tile->strides[step->src];
        if (i == 0 || tile->state[i] != tile->state[i - 1])
            for (size_t k = 0; k < width; k++)
                tile->mask[k] = step->scale * normal_number(tile->state[i], k);
        for (size_t k = 0; k < width; k++) dst[k] = src[k] + tile->mask[k];
    }
}

/* Whether columns that all rows of a tile lose are worth leaving out. */
static int thins(const Work *work, const Step *step) {
    return work->shared && step->thin && step->width >= 64 && work->last_row - work->first_row >= 16;
}

static void fill(Tile *tile, int32_t buffer, size_t width, const float *values) {
    for (size_t i = 0; i < tile->rows; i++) {
        float *dst = tile->buffers[buffer] + i * tile->strides[buffer];
        if (values) memcpy(dst, values, width * sizeof *dst);
        else memset(dst, 0, width * sizeof *dst);
    }
}

/* Where all rows of a tile lose the same columns, only the others are computed: the weights' kept
 * inputs and columns are put side by side and multiplied, and the result goes where it belongs. */
static int thinned_product(const Work *work, Tile *tile, const Step *step, Part part) {
    /* Where masks are shared there are no groups, so that each row is a pair's. */
    size_t width = (size_t)step->width, inner = (size_t)step->inner;
    const Step *site = work->steps + step->thin - 1;
    states_of(work, tile, site->what);
    for (size_t i = 1; i < tile->rows; i++)
        if (tile->state[i] != tile->state[0]) return 0;
    drop(tile->mask, NULL, 0, rounded(width), tile->state[0], site->limit, 1.0f);
    const Kept *inputs = part.inputs ? &tile->inputs : NULL, *columns = &tile->columns;
    keep(&tile->columns, (const int32_t *)tile->mask, width);
    if (5 * columns->count > 4 * width) return 0;
    size_t room = rounded(columns->count), a_room = rounded(part.count);
    for (size_t k = 0; k < part.count; k++)
        compress_row(tile->thin + k * PANEL, part.count * PANEL,
                     step->weight + (inputs ? inputs->listed[k] : k) * PANEL, inner * PANEL,
                     columns, rounded(width));
    float *a = tile->thinned, *c = a + tile->rows * rounded(inner), *whole = part.c;
    if (inputs) {
        for (size_t i = 0; i < tile->rows; i++)
            compress_row(a + i * a_room, PANEL, part.a + i * part.a_stride, PANEL, inputs,
                         rounded(inner));
        part.a = a;
        part.a_stride = a_room;
        part.inputs = NULL;
    }
    if (part.bias) {
        compress_row(tile->mask, PANEL, part.bias, PANEL, columns, rounded(width));
        part.bias = tile->mask;
    } else
        for (size_t i = 0; i < tile->rows; i++)
            compress_row(c + i * room, PANEL, whole + i * part.c_stride, PANEL, columns,
                         rounded(width));
    size_t stride = part.c_stride;
    part.b = tile->thin;
    part.c = c;
    part.c_stride = room;
    multiply(&part, tile->rows, part.count, room);
    for (size_t i = 0; i < tile->rows; i++)
        expand_row(whole + i * stride, c + i * room, columns, rounded(width));
    return 1;
}

static void affine_tile(const Work *work, Tile *tile, const Step *step) {
    size_t inner = (size_t)step->inner, width = (size_t)step->width;
    Part part = {.a = tile->buffers[step->src], .a_stride = tile->strides[step->src],
                 .b = step->weight, .c = tile->buffers[step->dst],
                 .c_stride = tile->strides[step->dst], .count = inner, .bias = step->bias,
                 .rectify = step->what};
    size_t rows = rows_to_read(tile, step);
    if (inner >= 48 && inputs_in_use(&tile->inputs, part.a, part.a_stride, rows, inner,
                                     tile->used)) {
        part.count = tile->inputs.count;
        part.inputs = tile->inputs.listed;
    }
    if (!step->column && !step->bias) fill(tile, step->dst, rounded(width), NULL);
    if (thins(work, step) && thinned_product(work, tile, step, part)) return;
    multiply(&part, rows, inner, (width + 15) / 16 * 16);
}

/* Numbers `first` and on, zero from `count` on. */
INLINE vf inside(vf x, size_t first, size_t count) {
    if (first + LANES <= count) return x;
    vi place;
    for (int lane = 0; lane < LANES; lane++) place[lane] = lane;
    return choose(place < (int32_t)count - (int32_t)first, x, all(0));
}

/* The sum of 16 numbers: of halves, of these halves, and so on. */
INLINE float total(const vf *sums) {
    typedef float vq __attribute__((vector_size(16)));
#if LANES == 16
    vq a = __builtin_shufflevector(sums[0], sums[0], 0, 1, 2, 3);
    vq b = __builtin_shufflevector(sums[0], sums[0], 4, 5, 6, 7);
    vq c = __builtin_shufflevector(sums[0], sums[0], 8, 9, 10, 11);
    vq d = __builtin_shufflevector(sums[0], sums[0], 12, 13, 14, 15);
#elif LANES == 8
    vq a = __builtin_shufflevector(sums[0], sums[0], 0, 1, 2, 3);
    vq b = __builtin_shufflevector(sums[0], sums[0], 4, 5, 6, 7);
    vq c = __builtin_shufflevector(sums[1], sums[1], 0, 1, 2, 3);
    vq d = __builtin_shufflevector(sums[1], sums[1], 4, 5, 6, 7);
#else
    vq a = sums[0], b = sums[1], c = sums[2], d = sums[3];
#endif
    a = (a + c) + (b + d);
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* A product of one row with few columns: weight is (width, inner rounded up) with zeros behind the
 * last input, and 16 sums run side by side. What stands behind the inputs is not read: it may be
 * anything. With a mask, it is of what that leaves of the row. */
INLINE void dot_row(const Step *step, float *dst, const float *src, const float *mask) {
    size_t inner = (size_t)step->inner, room = rounded(inner), width = (size_t)step->width;
    size_t whole = inner / 16 * 16;
    for (size_t n = 0; n < width; n++) {
        const float *weight = step->weight + n * room;
        vf sums[16 / LANES];
        for (int v = 0; v < 16 / LANES; v++) sums[v] = all(0);
        for (size_t k = 0; k < whole; k += 16)
            for (int v = 0; v < 16 / LANES; v++)
                sums[v] += masked(src, mask, k + (size_t)v * LANES) * load(weight + k + v * LANES);
        if (whole < inner)
            for (int v = 0; v < 16 / LANES; v++) {
                size_t k = whole + (size_t)v * LANES;
                sums[v] += inside(masked(src, mask, k), k, inner) * load(weight + k);
            }
        float begun = step->column ? dst[n] : step->bias ? step->bias[n] : 0;
        dst[n] = total(sums) + begun;
    }
}

static void dot_tile(Tile *tile, const Step *step) {
    for (size_t i = 0; i < tile->rows; i++)
        dot_row(step, tile->buffers[step->dst] + i * tile->strides[step->dst],
                tile->buffers[step->src] + i * tile->strides[step->src], NULL);
}

/* Drop, and the product with few columns of what is kept, which is not stored between; the numbers
 * are those of the two steps. Return 0 where bits behind the first 16 of a draw decide. */
INLINE int drop_dot_row(const Step *step, float *dst, const float *src, uint64_t state,
                        size_t width) {
    size_t inner = (size_t)step->inner, room = rounded(inner);
    const vh high = (uint16_t)(step->limit >> 16) - (vh){0};
    vw counter = first_counter(state);
    vs tied = {0};
    vf sums[FEW][16 / LANES];
    for (size_t n = 0; n < width; n++)
        for (int v = 0; v < 16 / LANES; v++) sums[n][v] = all(0);
    for (size_t k = 0; k < inner; k += 2 * LANES) {
        vw word = counter;
        MIX(word);
        counter += LANES / 2 * GAMMA;
        vs dropped = (vs)((vh)word < high);
        tied |= (vs)((vh)word == high);
        UNROLLED for (int half = 0; half < 2; half++) {
            size_t at = k + (size_t)half * LANES;
            if (at >= (inner + 15) / 16 * 16) break;
            vf x = undropped(inside(load(src + at) * step->scale, at, inner), dropped, half);
            UNROLLED for (size_t n = 0; n < width; n++)
                sums[n][at % 16 / LANES] += x * load(step->weight + n * room + at);
        }
    }
    if ((step->limit & 0xFFFF) && any_set(tied)) return 0;
    for (size_t n = 0; n < width; n++) {
        float begun = step->column ? dst[n] : step->bias ? step->bias[n] : 0;
        dst[n] = total(sums[n]) + begun;
    }
    return 1;
}

INLINE void drop_dot_rows(const Work *work, Tile *tile, const Step *step, size_t width) {
    size_t inner = (size_t)step->inner;
    for (size_t i = 0; i < tile->rows; i++) {
        float *dst = tile->buffers[step->dst] + i * tile->strides[step->dst];
        const float *src = read_row(work, tile, step, i);
        uint64_t state = tile->state[i];
        if (!work->shared && drop_dot_row(step, dst, src, state, width)) continue;
        if (!work->shared || i == 0 || state != tile->state[i - 1])
            drop(tile->mask, NULL, 0, inner, state, step->limit, step->scale);
        dot_row(step, dst, src, tile->mask);
    }
}

static void drop_dot_tile(const Work *work, Tile *tile, const Step *step) {
    states_of(work, tile, step->what);
    switch (step->width) {
    case 1: drop_dot_rows(work, tile, step, 1); break;
    case 2: drop_dot_rows(work, tile, step, 2); break;
    case 3: drop_dot_rows(work, tile, step, 3); break;
    case FEW: drop_dot_rows(work, tile, step, FEW); break;
    }
}

/* A product whose weights are dropped for each pair: weight is (inner, width) as it is named. */
static void connect_tile(const Work *work, Tile *tile, const Step *step) {
    size_t inner = (size_t)step->inner, width = (size_t)step->width;
    if (!step->column) fill(tile, step->dst, rounded(width), step->bias);
    states_of(work, tile, step->what);
    for (size_t i = 0; i < tile->rows; i++) {
        const float *src = tile->buffers[step->src] + i * tile->strides[step->src];
        float *dst = tile->buffers[step->dst] + i * tile->strides[step->dst];
        for (size_t k = 0; k < inner; k++) {
            size_t first = k * width / PANEL * PANEL, shift = k * width - first;
            if (src[k] == 0) continue;
            drop(tile->mask, NULL, first, rounded(width + shift), tile->state[i], step->limit,
                 step->scale);
            const float *weight = step->weight + k * width;
            for (size_t n = 0; n < width; n++)
                dst[n] += src[k] * (weight[n] * tile->mask[shift + n]);
        }
    }
}

static void combine_tile(Tile *tile, const Step *step) {
    size_t width = rounded((size_t)step->width);
    for (size_t i = 0; i < tile->rows; i++) {
        float *dst = tile->buffers[step->dst] + i * tile->strides[step->dst];
        const float *one = tile->buffers[step->src] + i * tile->strides[step->src];
        const float *two = tile->buffers[step->other] + i * tile->strides[step->other];
        for (size_t k = 0; k < width; k += LANES) {
            vf x = load(one + k), y = load(two + k);
            store(dst + k, step->kind == ADD ? x + y : x * y);
        }
    }
}

static void norm_tile(Tile *tile, const Step *step) {
    size_t width = (size_t)step->width;
    for (size_t i = 0; i < tile->rows; i++) {
        float *dst = tile->buffers[step->dst] + i * tile->strides[step->dst];
        const float *src = tile->buffers[step->src] + i * tile->strides[step->src];
        double mean = mean_of(src, width), deviation = deviation_of(src, width, mean);
        double by = 1 / sqrt(deviation * deviation + step->scale);
        for (size_t k = 0; k < width; k++)
            dst[k] = (float)((src[k] - mean) * by * step->weight[k] + step->bias[k]);
    }
}

INLINE void copy(float *dst, const float *src, size_t width) {
    if (width >= 64) memcpy(dst, src, width * sizeof *dst);
    else for (size_t k = 0; k < width; k++) dst[k] = src[k];
}

static void load_tile(const Work *work, Tile *tile, const Step *step) {
    size_t width = rounded((size_t)step->width);
    for (size_t i = 0; i < tile->rows; i++) {
        const float *src = work->known[step->what] + (size_t)tile->row[i] * width;
        float *dst = tile->buffers[step->dst] + i * tile->strides[step->dst];
        for (size_t k = 0; k < width; k += LANES) store(dst + k, load(src + k));
    }
}

static void store_tile(const Work *work, Tile *tile, const Step *step) {
    for (size_t i = 0; i < tile->rows; i++) {
        int64_t at = tile->pass[i] * work->rows + tile->row[i];
        copy(work->outs[step->what] + at * step->width,
             tile->buffers[step->src] + i * tile->strides[step->src], (size_t)step->width);
    }
}

static void copy_tile(Tile *tile, const Step *step) {
    for (size_t i = 0; i < tile->rows; i++)
        copy(tile->buffers[step->dst] + i * tile->strides[step->dst] + step->column,
             tile->buffers[step->src] + i * tile->strides[step->src], (size_t)step->width);
}

static void activate_tile(Tile *tile, const Step *step) {
    for (size_t i = 0, rows = rows_to_read(tile, step); i < rows; i++)
        activate_row(tile->buffers[step->dst] + i * tile->strides[step->dst],
                     tile->buffers[step->src] + i * tile->strides[step->src], (size_t)step->width,
                     step->what, step->weight, step->bias, (size_t)step->other);
}

static void run_tile(const Work *work, Tile *tile) {
    for (int32_t i = 0; i < work->count; i++) {
        const Step *step = work->steps + i;
        switch (step->kind) {
        case AFFINE: affine_tile(work, tile, step); break;
        case DOT: dot_tile(tile, step); break;
        case CONNECT: connect_tile(work, tile, step); break;
        case ACTIVATE: activate_tile(tile, step); break;
        case DROP: drop_tile(work, tile, step); break;
        case GROUP: group_tile(work, tile, step); break;
        case DROP_DOT: drop_dot_tile(work, tile, step); break;
        case NOISE: noise_tile(work, tile, step); break;
        case ADD:
        case MULTIPLY: combine_tile(tile, step); break;
        case NORM: norm_tile(tile, step); break;
        case CONSTANT: fill(tile, step->dst, (size_t)step->width, step->weight); break;
        case LOAD: load_tile(work, tile, step); break;
        case STORE: store_tile(work, tile, step); break;
        case COPY: copy_tile(tile, step); break;
        }
    }
}

/* -- tiles and threads -------------------------------------------------------------------------- */

typedef struct {
    const Work *work;
    atomic_int_fast64_t next;
    int64_t tile_passes, tile_rows, by_pass, by_row;
    size_t slots; /* of a tile's table of groups */
    atomic_int failed;
} Turns;

static void *claimed(void **from, size_t bytes) {
    char *at = *from;
    *from = at + (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

/* Lay out what a tile needs; with `from` NULL, only count its bytes. */
static size_t laid_out(const Work *work, size_t pairs, Tile *tile, void *from) {
    size_t widest = PANEL, thin = 0, thinned = 0;
    void *at = from;
    for (int32_t i = 0; i < work->count; i++) {
        const Step *step = work->steps + i;
        size_t inner = rounded((size_t)step->inner), width = rounded((size_t)step->width);
        widest = widest > inner ? widest : inner;
        widest = widest > width ? widest : width;
        if (!thins(work, step)) continue;
        thin = thin > inner * width ? thin : inner * width;
        thinned = thinned > inner + width ? thinned : inner + width;
    }
    tile->buffers = claimed(&at, (size_t)work->buffers * sizeof *tile->buffers);
    tile->strides = claimed(&at, (size_t)work->buffers * sizeof *tile->strides);
    tile->pass = claimed(&at, pairs * sizeof *tile->pass);
    tile->row = claimed(&at, pairs * sizeof *tile->row);
    tile->state = claimed(&at, (pairs + LANES) * sizeof *tile->state);
    tile->mixed_pass = claimed(&at, (pairs + LANES) * sizeof *tile->mixed_pass);
    tile->mixed_row = claimed(&at, (pairs + LANES) * sizeof *tile->mixed_row);
    for (int k = 0; k < 2; k++) {
        Kept *kept = k ? &tile->columns : &tile->inputs;
        kept->listed = claimed(&at, widest * sizeof *kept->listed);
        kept->lanes = claimed(&at, widest / 16 * sizeof *kept->lanes);
    }
    tile->group = claimed(&at, pairs * sizeof *tile->group);
    tile->first = claimed(&at, pairs * sizeof *tile->first);
    tile->pattern = claimed(&at, (pairs + LANES) * sizeof *tile->pattern);
    tile->slots = claimed(&at, tile->slot_count * sizeof *tile->slots);
    tile->used = claimed(&at, widest * sizeof *tile->used);
    tile->mask = claimed(&at, (widest + 2 * PANEL) * sizeof *tile->mask);
    tile->thin = claimed(&at, thin * sizeof *tile->thin);
    tile->thinned = claimed(&at, pairs * thinned * sizeof *tile->thinned);
    for (int32_t i = 0; i < work->buffers; i++) {
        size_t stride = rounded((size_t)work->widths[i]);
        float *buffer = claimed(&at, pairs * stride * sizeof *buffer);
        if (from) {
            tile->strides[i] = stride;
            tile->buffers[i] = buffer;
        }
    }
    return (size_t)((char *)at - (char *)from);
}

/* Side by side what shares most: a row's passes, or the rows of a shared mask. */
static void lay_pairs(const Work *work, Tile *tile, int64_t pass, int64_t passes, int64_t row,
                      int64_t rows) {
    int64_t outer = work->shared ? passes : rows, inner = work->shared ? rows : passes;
    for (int64_t i = 0, k = 0; i < outer; i++)
        for (int64_t j = 0; j < inner; j++, k++) {
            tile->pass[k] = pass + (work->shared ? i : j);
            tile->row[k] = row + (work->shared ? j : i);
        }
    uint64_t known = 0, mixed_row = 0;
    for (int64_t k = 0; k < passes * rows; k++) {
        uint64_t id = work->shared ? 1 : (uint64_t)work->row_ids[tile->row[k]] + 1;
        if (k == 0 || id != known) mixed_row = mixed((known = id) * ROW);
        tile->mixed_row[k] = mixed_row;
        tile->mixed_pass[k] = (uint64_t)(work->first_pass + tile->pass[k] + 1) * GAMMA;
    }
}

static void *take_turns(void *argument) {
    Turns *turns = argument;
    const Work *work = turns->work;
    Tile tile = {.slot_count = turns->slots};
    size_t pairs = (size_t)(turns->tile_passes * turns->tile_rows);
    size_t bytes = laid_out(work, pairs, &tile, NULL);
    void *room = aligned_alloc(ALIGN, bytes);
    if (!room) {
        atomic_store(&turns->failed, 1);
        return NULL;
    }
    laid_out(work, pairs, &tile, room);
    for (;;) {
        int64_t turn = atomic_fetch_add(&turns->next, 1);
        if (turn >= turns->by_pass * turns->by_row || atomic_load(&turns->failed)) break;
        int64_t pass = turn / turns->by_row * turns->tile_passes;
        int64_t row = work->first_row + turn % turns->by_row * turns->tile_rows;
        int64_t passes = (int64_t)least((size_t)turns->tile_passes, (size_t)(work->passes - pass));
        int64_t rows = (int64_t)least((size_t)turns->tile_rows, (size_t)(work->last_row - row));
        tile.rows = (size_t)(passes * rows);
        lay_pairs(work, &tile, pass, passes, row, rows);
        run_tile(work, &tile);
    }
    free(room);
    return NULL;
}

/* How many of so many passes go in each of the fewest parts of at most `most`. */
static int64_t evenly(int64_t passes, int64_t most) {
    if (passes <= most) return passes;
    int64_t parts = (passes + most - 1) / most, each = (passes + parts - 1) / parts;
    int64_t whole = (each + MOST_ROWS - 1) / MOST_ROWS * MOST_ROWS;
    return whole < most ? whole : most;
}

/* How many different sets of `width` elements so many passes drop, on average. */
static double different_masks(size_t width, double rate, double passes) {
    double sets = 1, found = 0;
    for (size_t k = 0; k <= width; k++) {
        double chance = pow(rate, (double)k) * pow(1 - rate, (double)(width - k));
        found += sets * -expm1(passes * log1p(-chance));
        sets = sets * (double)(width - k) / (double)(k + 1);
    }
    return found;
}

/* The room for a tile's table of groups, or 0 where so few pairs are alike that it does not pay. */
static size_t slots_for(const Work *work, int64_t passes, int64_t rows) {
    for (int32_t i = 0; i < work->count && !work->shared; i++) {
        const Step *step = work->steps + i;
        if (step->kind != GROUP) continue;
        double different = different_masks((size_t)step->width, step->limit * 0x1p-32, (double)passes);
        if (different > 0.7 * (double)passes) return 0;
        size_t slots = 64;
        while (slots < 2 * (size_t)(passes * rows)) slots *= 2;
        return slots;
    }
    return 0;
}

/* Run all passes of all rows; return 0, or 1 where memory ran out. */
PUBLIC int32_t bernoulli_run(const Work *work) {
    Turns turns = {.work = work};
    int64_t span = work->last_row - work->first_row;
    if (span < 1 || work->passes < 1) return 0;
    int64_t tile = work->tile > 1 ? work->tile : 1;
    int thin = 0;
    for (int32_t i = 0; i < work->count; i++) thin |= thins(work, work->steps + i);
    if (work->shared) {
        turns.tile_rows = (int64_t)least((size_t)span, (size_t)tile);
        turns.tile_passes = thin ? 1 : tile / turns.tile_rows;
    } else {
        turns.tile_passes = evenly(work->passes, tile);
        turns.tile_rows = tile / turns.tile_passes;
    }
    turns.tile_passes = (int64_t)least((size_t)work->passes, (size_t)turns.tile_passes);
    turns.tile_rows = (int64_t)least((size_t)span, (size_t)turns.tile_rows);
    turns.slots = slots_for(work, turns.tile_passes, turns.tile_rows);
    turns.by_pass = (work->passes + turns.tile_passes - 1) / turns.tile_passes;
    turns.by_row = (span + turns.tile_rows - 1) / turns.tile_rows;
    atomic_init(&turns.next, 0);
    atomic_init(&turns.failed, 0);
    int64_t others = (int64_t)least((size_t)work->threads, (size_t)(turns.by_pass * turns.by_row)) - 1;
    pthread_t threads[64];
    int64_t started = 0;
    for (; started < others && started < 64; started++)
        if (pthread_create(&threads[started], NULL, take_turns, &turns)) break;
    take_turns(&turns);
    for (int64_t i = 0; i < started; i++) pthread_join(threads[i], NULL);
    return atomic_load(&turns.failed);
}

/* -- draws by themselves, for networks that run on the general path ----------------------------- */

/* out (rows, width) = 0 where dropped, else scale. */
PUBLIC void bernoulli_masks(const uint64_t *states, int64_t rows, int64_t width, uint32_t limit,
                            float scale, float *out) {
    enum { SOME = 1024 };
    float part[SOME];
    for (int64_t row = 0; row < rows; row++)
        for (int64_t first = 0; first < width; first += SOME) {
            size_t some = least(SOME, (size_t)(width - first));
            drop(part, NULL, (size_t)first, rounded(some), states[row], limit, scale);
            memcpy(out + row * width + first, part, some * sizeof *part);
        }
}

/* out (rows, width) = standard normal numbers times scale. */
PUBLIC void bernoulli_normals(const uint64_t *states, int64_t rows, int64_t width, float scale,
                              float *out) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < width; i++)
            out[row * width + i] = scale * normal_number(states[row], (size_t)i);
}

PUBLIC int32_t bernoulli_lanes(void) { return LANES; }

/* Tells a build of another source from this. */
PUBLIC int32_t bernoulli_layout(void) {
    return (int32_t)(LAYOUT << 24 | sizeof(Step) << 12 | sizeof(Work));
}
